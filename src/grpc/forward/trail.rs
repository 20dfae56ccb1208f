//! Where a reader is in the history of a session, as far back as may matter.
//!
//! The next server has the history as it was archived. The last events that were told may not be in there: then the reader goes on
//! from the latest one that is, and is not told again of those that it knows.

use std::collections::VecDeque;

use super::answering::Light;

/// How many stored events are remembered: more than a turn has between two archivings.
const LENGTH: usize = 1_000;

/// The stored events that a reader was told of last.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// Their ids, and the places after them.
    told: VecDeque<(String, String)>,
    /// How many of them the next server is taken not to have.
    back: usize,
    /// Whether events may come again.
    may_repeat: bool,
}

impl Trail {
    /// Notes a message, and says whether it is news.
    pub(super) fn note(&mut self, light: &Light) -> bool {
        self.back = 0;
        let (Some(event_id), Some(cursor), false) = (&light.event_id, &light.cursor, light.is_ephemeral)
        else {
            return true;
        };
        if self.may_repeat && self.told.iter().any(|(told, _)| told == event_id) {
            return false;
        }
        if self.told.len() == LENGTH {
            self.told.pop_front();
        }
        self.told.push_back((event_id.clone(), cursor.clone()));
        true
    }

    /// The place to go on from; `None`: nothing was told.
    pub(super) fn cursor(&self) -> Option<&str> {
        let at = self.told.len().checked_sub(1 + self.back)?;
        self.told.get(at).map(|(_, cursor)| cursor.as_str())
    }

    /// The reader is here, says its server.
    pub(super) fn go_to(&mut self, cursor: &str) {
        if self.cursor() != Some(cursor) {
            self.told.push_back((String::new(), cursor.to_owned()));
        }
    }

    /// The next server does not know the place: an earlier one is tried. False: there is none.
    pub(super) fn step_back(&mut self) -> bool {
        let further = (self.back * 2).max(1);
        if further >= self.told.len() {
            return false;
        }
        self.back = further;
        self.may_repeat = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> Light {
        Light { event_id: Some(id.into()), cursor: Some(format!("after {id}")), ..Light::default() }
    }

    #[test]
    fn a_reader_goes_on_from_the_latest_event_that_the_next_server_has_and_hears_nothing_twice() {
        let mut trail = Trail::default();
        assert_eq!(trail.cursor(), None);
        assert!(!trail.step_back());
        for id in ["a", "b", "c", "d", "e"] {
            assert!(trail.note(&event(id)));
        }
        // A delta has no place of its own.
        assert!(trail.note(&Light { is_ephemeral: true, ..event("e") }));
        assert_eq!(trail.cursor(), Some("after e"));
        let mut tried = Vec::new();
        while trail.step_back() {
            tried.push(trail.cursor().unwrap().to_owned());
        }
        assert_eq!(tried, ["after d", "after c", "after a"]);
        assert!(!trail.note(&event("b")));
        assert!(trail.note(&event("new")));
        assert_eq!(trail.cursor(), Some("after new"));
    }

    #[test]
    fn no_more_is_remembered_than_may_matter() {
        let mut trail = Trail::default();
        for n in 0..3 * LENGTH {
            trail.note(&event(&n.to_string()));
        }
        assert_eq!(trail.told.len(), LENGTH);
    }
}
