//! Which CLI a session belongs to: rendezvous hashing. Pure.
//!
//! Each CLI has a weight for each session. The session belongs to the CLI with the highest weight; if that one cannot take it,
//! to the one with the next. The weights follow from names alone, so every server computes the same order, after every restart
//! and in whatever order it learns of the CLIs. When a CLI comes or goes, only the sessions move that it gets or had.
//!
//! A name becomes a number by FNV-1a over its bytes, and two numbers become a weight by the finalizer of SplitMix64. Neither
//! may ever change: every session would belong elsewhere, and be looked for in the wrong place first.
//!
//! Tests: in this file, and `tests/integration/placement.rs`.

use crate::fnv;

/// A fixed set of places, by number in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    points: Vec<u64>,
}

impl Placement {
    /// A place for each of these names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        // Mixed, because FNV-1a gives close numbers to names that differ only in their last letters.
        Self { points: names.into_iter().map(|name| mix(fnv::hash(name.as_bytes()))).collect() }
    }

    /// The numbers of all places in the order in which a session belongs to them.
    pub fn order(&self, session: &str) -> Vec<usize> {
        let session = fnv::hash(session.as_bytes());
        let mut order: Vec<_> = (0..self.points.len()).collect();
        order.sort_by_cached_key(|place| std::cmp::Reverse(weight(session, self.points[*place])));
        order
    }

    /// The first place in that order that `will_do`.
    pub fn first(&self, session: &str, will_do: impl Fn(usize) -> bool) -> Option<usize> {
        let session = fnv::hash(session.as_bytes());
        let places = self.points.iter().enumerate().filter(|(place, _)| will_do(*place));
        places.max_by_key(|(_, point)| weight(session, **point)).map(|(place, _)| place)
    }
}

fn weight(session: u64, point: u64) -> u64 {
    mix(session ^ point)
}

/// The finalizer of SplitMix64: each bit of the result depends on all bits of the input.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("cli-{n}.cli:4321")).collect()
    }

    fn placement(names: &[String]) -> Placement {
        Placement::new(names.iter().map(String::as_str))
    }

    /// A change here moves all sessions of all users.
    #[test]
    fn the_weights_never_change() {
        // The first number of SplitMix64 from the seed 0.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
        let placement = Placement::new(["cli-0", "cli-1", "cli-2"]);
        assert_eq!(placement.order("s"), [2, 0, 1]);
        assert_eq!(placement.order("7f0b4a52-0b1f-4a55-9d7c-2f3f6f0c7a10"), [1, 0, 2]);
    }

    #[test]
    fn every_server_comes_to_the_same_in_whatever_order_it_is_told_of_the_clis() {
        let (names, mut reversed) = (names(7), names(7));
        reversed.reverse();
        for session in ["a", "b", "session-1", "session-2"] {
            let order = placement(&names).order(session).into_iter().map(|place| &names[place]);
            let other = placement(&reversed).order(session).into_iter().map(|place| &reversed[place]);
            assert!(order.eq(other), "{session}");
        }
    }

    #[test]
    fn the_first_that_will_do_is_the_first_of_the_order() {
        let placement = placement(&names(5));
        let order = placement.order("s");
        assert_eq!(placement.first("s", |_| true), Some(order[0]));
        assert_eq!(placement.first("s", |place| place != order[0]), Some(order[1]));
        assert_eq!(placement.first("s", |place| place == order[4]), Some(order[4]));
        assert_eq!(placement.first("s", |_| false), None);
    }

    #[test]
    fn a_cli_that_goes_takes_no_session_from_another() {
        let (names, fewer) = (names(6), names(5));
        let (before, after) = (placement(&names), placement(&fewer));
        for session in (0..1000).map(|n| format!("session-{n}")) {
            let rest: Vec<_> = before.order(&session).into_iter().filter(|place| *place != 5).collect();
            assert_eq!(after.order(&session), rest, "{session}");
        }
    }
}
