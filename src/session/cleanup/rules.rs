//! When sessions are closed and deleted: by their age, by how long nothing happens in them, and by their number. Pure.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{session::blueprint::Profile, store::Time};

/// When sessions are closed and deleted. Nothing is, where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Sessions in which nothing has happened for so long are closed.
    pub close_idle_after: Option<Duration>,
    /// The same for deleting.
    pub delete_idle_after: Option<Duration>,
    /// Sessions that are so old are deleted.
    pub delete_after_age: Option<Duration>,
    /// Beyond so many stored sessions, those that have been idle longest are deleted.
    pub max_stored: Option<usize>,
    /// How often it is looked.
    pub interval: Duration,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// Sessions closed.
    pub closed: u64,
    /// Sessions deleted.
    pub deleted: u64,
    /// Sessions that could not be.
    pub failed: u64,
    /// When it was last looked.
    pub last_run: Option<SystemTime>,
    /// Whether it is only said what would be done.
    pub dry_run: bool,
}

/// What there is to decide about a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::session) struct Facts {
    pub(in crate::session) age: Duration,
    /// How long nothing has happened in it.
    pub(in crate::session) idle: Duration,
    pub(in crate::session) loaded: bool,
    /// Whether a turn runs or waits.
    pub(in crate::session) busy: bool,
    /// Of its profile.
    pub(in crate::session) max_age: Option<Duration>,
    /// Of its profile.
    pub(in crate::session) max_idle: Option<Duration>,
}

/// What to do with a session, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Act {
    Close,
    Delete(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Why {
    Age,
    Idle,
    Number,
}

/// What to do with which of these sessions, by their places. `count`: how many there are in all, those included to which nothing is to
/// do.
pub(in crate::session) fn decide(rules: &Rules, sessions: &[Facts], count: usize) -> Vec<(usize, Act)> {
    let over = |time: Duration, limits: [Option<Duration>; 2]| {
        limits.into_iter().flatten().any(|limit| time >= limit)
    };
    let single = |facts: &Facts| {
        if facts.busy {
            None
        } else if over(facts.age, [rules.delete_after_age, facts.max_age]) {
            Some(Act::Delete(Why::Age))
        } else if over(facts.idle, [rules.delete_idle_after, facts.max_idle]) {
            Some(Act::Delete(Why::Idle))
        } else {
            (facts.loaded && over(facts.idle, [rules.close_idle_after, None])).then_some(Act::Close)
        }
    };
    let mut acts: Vec<_> = sessions.iter().map(single).collect();
    if let Some(max) = rules.max_stored {
        let stays = |n: &usize| !matches!(acts[*n], Some(Act::Delete(_)));
        let mut stored: Vec<_> = (0..sessions.len()).filter(stays).collect();
        let going = acts.iter().filter(|act| matches!(act, Some(Act::Delete(_)))).count();
        let excess = count.saturating_sub(going).saturating_sub(max);
        stored.retain(|n| !sessions[*n].busy);
        stored.sort_by_key(|n| std::cmp::Reverse(sessions[*n].idle));
        for n in stored.into_iter().take(excess) {
            acts[n] = Some(Act::Delete(Why::Number));
        }
    }
    acts.into_iter().enumerate().filter_map(|(n, act)| Some((n, act?))).collect()
}

/// Whether its sessions are deleted at some age.
pub(in crate::session) fn has_ages(profile: &Profile) -> bool {
    profile.max_session_age.is_some() || profile.max_session_idle.is_some()
}

impl Rules {
    pub(in crate::session) fn delete_anything(&self) -> bool {
        self.delete_idle_after.is_some() || self.delete_after_age.is_some() || self.max_stored.is_some()
    }

    pub(in crate::session) fn say_anything(&self) -> bool {
        self.delete_anything() || self.close_idle_after.is_some()
    }
}

impl Facts {
    /// A session whose times are yet to come is taken for new.
    pub(in crate::session) fn of(created: Time, updated: Time, now: Time, profile: Option<&Profile>) -> Self {
        Self {
            age: now.since(created),
            idle: now.since(updated),
            max_age: profile.and_then(|profile| profile.max_session_age),
            max_idle: profile.and_then(|profile| profile.max_session_idle),
            ..Self::default()
        }
    }
}

/// How a session rests.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Rest {
    pub(in crate::session) loaded: bool,
    pub(in crate::session) busy: bool,
    /// How long nothing was heard of it here.
    pub(in crate::session) silent: Duration,
}

impl Rest {
    pub(in crate::session) fn since(heard: Instant, loaded: bool, busy: bool) -> Self {
        Self { loaded, busy, silent: heard.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        close_idle_after: None,
        delete_idle_after: None,
        delete_after_age: None,
        max_stored: None,
        interval: Duration::from_secs(60),
        dry_run: false,
    };

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    fn session(age: u64, idle: u64) -> Facts {
        Facts { age: hours(age), idle: hours(idle), loaded: true, ..Facts::default() }
    }

    #[test]
    fn sessions_are_closed_and_deleted_when_their_time_has_come() {
        let rules = Rules {
            close_idle_after: Some(hours(1)),
            delete_idle_after: Some(hours(10)),
            delete_after_age: Some(hours(100)),
            ..RULES
        };
        let check = |facts: Facts, expected: Option<Act>| {
            let acts: Vec<_> = decide(&rules, &[facts], 1).into_iter().map(|(_, act)| act).collect();
            assert_eq!(acts, Vec::from_iter(expected), "{facts:?}");
        };
        check(session(0, 0), None);
        check(session(99, 0), None);
        check(session(5, 1), Some(Act::Close));
        check(Facts { loaded: false, ..session(5, 1) }, None);
        check(session(20, 10), Some(Act::Delete(Why::Idle)));
        check(Facts { loaded: false, ..session(20, 10) }, Some(Act::Delete(Why::Idle)));
        check(session(100, 0), Some(Act::Delete(Why::Age)));
        check(Facts { busy: true, ..session(100, 50) }, None);
        // A profile may be stricter, not laxer.
        check(Facts { max_age: Some(hours(2)), ..session(2, 0) }, Some(Act::Delete(Why::Age)));
        check(Facts { max_idle: Some(hours(2)), ..session(5, 2) }, Some(Act::Delete(Why::Idle)));
        check(Facts { max_age: Some(hours(900)), ..session(100, 0) }, Some(Act::Delete(Why::Age)));
    }

    #[test]
    fn without_rules_nothing_is_done() {
        assert_eq!(decide(&RULES, &[session(1_000_000, 1_000_000)], 1), []);
    }

    #[test]
    fn of_too_many_those_go_that_have_been_idle_longest_and_do_nothing() {
        let rules = |max| Rules { max_stored: Some(max), ..RULES };
        let sessions = [session(9, 1), session(9, 5), Facts { busy: true, ..session(9, 9) }, session(9, 3)];
        let check = |max, expected: &[usize]| {
            let acts = decide(&rules(max), &sessions, 4);
            assert!(acts.iter().all(|(_, act)| *act == Act::Delete(Why::Number)));
            assert_eq!(acts.into_iter().map(|(n, _)| n).collect::<Vec<_>>(), expected, "{max}");
        };
        check(4, &[]);
        check(3, &[1]);
        check(2, &[1, 3]);
        check(1, &[0, 1, 3]);
        // What goes for another reason makes room.
        let old = Rules { delete_idle_after: Some(hours(5)), ..rules(3) };
        let acts = decide(&old, &sessions, 4);
        assert_eq!(acts, [(1, Act::Delete(Why::Idle))]);
        // Others there are, to which nothing is to do.
        let acts = decide(&rules(6), &sessions[..2], 7);
        assert_eq!(acts, [(1, Act::Delete(Why::Number))]);
    }

    #[test]
    fn a_session_whose_times_are_yet_to_come_is_taken_for_new() {
        let now = Time::parse("2026-11-23T12:00:00Z").unwrap();
        let check = |time: &str, expected| {
            let time = Time::parse(time).unwrap();
            let facts = Facts::of(time, time, now, None);
            assert_eq!((facts.age, facts.idle), (expected, expected), "{time}");
        };
        check("2026-11-23T11:00:00.000Z", hours(1));
        check("2026-11-24T12:00:00Z", Duration::ZERO);
    }
}
