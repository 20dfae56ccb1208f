//! Ejection: a CLI that fails again and again gets no new sessions for a while. Pure: time is handed in.
//!
//! A CLI that answers pings may still be useless: its calls time out, its answers make no sense, its connections break as soon
//! as they are made. After a number of failures in a row, of one method or of the connection, it is *ejected*, for a time that
//! doubles with each ejection. Then it is *probed*, and taken back if it is well. How many CLIs may be ejected at once is
//! decided by the pool, which knows the others.
//!
//! Tests: in this file, and `tests/integration/standing.rs`.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// When a CLI is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// The number of failures in a row that ejects; 0 is never.
    pub after: usize,
    /// The length of the first ejection.
    pub first: Duration,
}

/// How often the length doubles: from 10 s it grows to about 5 minutes.
const DOUBLINGS: u32 = 5;

/// The recent failures of one CLI, and its ejections.
#[derive(Debug)]
pub(super) struct Outlier {
    rules: Ejection,
    /// Failures in a row by method. Each method by itself: a CLI that cannot create a session may well answer that there is
    /// none to delete.
    failures: BTreeMap<&'static str, usize>,
    /// Links in a row that were lost before they had held for long.
    losses: usize,
    /// Number of ejections, each soon after the last.
    times: u32,
    /// End of the ejection, if there is one; then the CLI is probed.
    until: Option<Instant>,
    /// When it was last taken back.
    returned: Option<Instant>,
}

impl Outlier {
    pub(super) fn new(rules: Ejection) -> Self {
        Self { rules, failures: BTreeMap::new(), losses: 0, times: 0, until: None, returned: None }
    }

    /// Records that a call was answered, be it with a refusal.
    pub(super) fn answered(&mut self, method: &'static str) {
        self.failures.remove(method);
    }

    /// Records that a call got no answer in time, or one that makes no sense. Returns the length of the ejection, if this
    /// ejects.
    pub(super) fn failed(&mut self, method: &'static str, now: Instant) -> Option<Duration> {
        let failures = self.failures.entry(method).or_default();
        *failures += 1;
        let in_a_row = *failures;
        self.judge(in_a_row, now)
    }

    /// Records that a link has held for long.
    pub(super) fn held(&mut self) {
        self.losses = 0;
    }

    /// Records that a link was lost before it had held for long. Returns the length of the ejection, if this ejects.
    pub(super) fn flapped(&mut self, now: Instant) -> Option<Duration> {
        self.losses += 1;
        self.judge(self.losses, now)
    }

    /// When the CLI is to be probed. `None`: it is not ejected.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.until
    }

    /// Records the result of a probe. Returns the length of the further ejection, if the CLI is not well.
    pub(super) fn probed(&mut self, well: bool, now: Instant) -> Option<Duration> {
        self.until?;
        if !well {
            return Some(self.eject(now));
        }
        *self = Self { times: self.times, returned: Some(now), ..Self::new(self.rules) };
        None
    }

    fn judge(&mut self, in_a_row: usize, now: Instant) -> Option<Duration> {
        let is_enough = self.rules.after > 0 && in_a_row >= self.rules.after && self.until.is_none();
        is_enough.then(|| {
            // A CLI that was well for as long as it had been ejected starts from zero.
            if self.returned.is_some_and(|returned| now - returned >= self.time()) {
                self.times = 0;
            }
            self.eject(now)
        })
    }

    fn eject(&mut self, now: Instant) -> Duration {
        self.times += 1;
        self.until = Some(now + self.time());
        self.time()
    }

    /// The length of the current or the last ejection.
    fn time(&self) -> Duration {
        self.rules.first * 2_u32.pow(self.times.saturating_sub(1).min(DOUBLINGS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Ejection = Ejection { after: 3, first: Duration::from_secs(10) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Fails as often as it takes to eject.
    fn eject(outlier: &mut Outlier, now: Instant) -> Duration {
        assert_eq!((outlier.failed("m", now), outlier.failed("m", now)), (None, None));
        outlier.failed("m", now).unwrap()
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let (mut outlier, now) = (Outlier::new(RULES), Instant::now());
        for _ in 0..5 {
            assert_eq!((outlier.failed("m", now), outlier.failed("m", now)), (None, None));
            outlier.answered("m");
        }
        assert_eq!(eject(&mut outlier, now), seconds(10));
        assert_eq!(outlier.probe_at(), Some(now + seconds(10)));
        // What fails still while it is ejected is no news.
        assert_eq!(outlier.failed("m", now), None);
    }

    #[test]
    fn another_method_that_is_answered_does_not_make_up_for_one_that_fails() {
        let (mut outlier, now) = (Outlier::new(RULES), Instant::now());
        for ejected in [None, None, Some(seconds(10))] {
            outlier.answered("other");
            assert_eq!(outlier.failed("m", now), ejected);
        }
    }

    #[test]
    fn calls_that_are_answered_do_not_make_up_for_links_that_do_not_hold() {
        let (mut outlier, now) = (Outlier::new(RULES), Instant::now());
        for ejected in [None, None, Some(seconds(10))] {
            outlier.answered("m");
            assert_eq!(outlier.flapped(now), ejected);
        }
        let mut outlier = Outlier::new(RULES);
        for _ in 0..5 {
            assert_eq!((outlier.flapped(now), outlier.flapped(now)), (None, None));
            outlier.held();
        }
    }

    #[test]
    fn each_ejection_is_longer_than_the_last_up_to_a_limit() {
        let (mut outlier, now) = (Outlier::new(RULES), Instant::now());
        assert_eq!(eject(&mut outlier, now), seconds(10));
        let times: Vec<_> = (0..6).map(|_| outlier.probed(false, now).unwrap().as_secs()).collect();
        assert_eq!(times, [20, 40, 80, 160, 320, 320]);
        assert_eq!(outlier.probed(true, now), None);
        assert_eq!(outlier.probe_at(), None);
        // Right after its return it is not trusted any more than before.
        assert_eq!(eject(&mut outlier, now), seconds(320));
    }

    #[test]
    fn what_was_well_for_as_long_as_it_had_been_ejected_begins_anew() {
        let (mut outlier, now) = (Outlier::new(RULES), Instant::now());
        eject(&mut outlier, now);
        assert_eq!(outlier.probed(false, now), Some(seconds(20)));
        assert_eq!(outlier.probed(true, now), None);
        assert_eq!(eject(&mut outlier, now + seconds(20)), seconds(10));
    }

    #[test]
    fn without_a_number_nothing_is_ejected() {
        let mut outlier = Outlier::new(Ejection { after: 0, ..RULES });
        assert!((0..100).all(|_| outlier.failed("m", Instant::now()).is_none()));
    }
}
