//! When a turn is given up.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::outcome::TurnCause;
use crate::lock::lock;

/// How much earlier a turn is given up whose prompt still waits in the CLI's queue: to withdraw it takes 50 ms, and its caller
/// is to hear that it never ran. Of a short time it is a quarter.
const WITHDRAW_LEAD: Duration = Duration::from_millis(250);

/// A moment, and how long it was until then.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// The moment that comes after so much time. More than a year is taken as a year.
    pub fn after(after: Duration) -> Self {
        let after = after.min(Duration::from_secs(365 * 24 * 3600));
        Self { at: Instant::now() + after, after }
    }

    /// The earlier of two.
    pub fn earlier(self, other: Self) -> Self {
        if self.at <= other.at { self } else { other }
    }

    /// The later of two.
    pub(in crate::session) fn later(self, other: Self) -> Self {
        if self.at >= other.at { self } else { other }
    }

    /// From when on a prompt that was not taken up is withdrawn: see [`WITHDRAW_LEAD`].
    pub(in crate::session) fn withdraw_at(self) -> Instant {
        self.at - WITHDRAW_LEAD.min(self.after / 4)
    }

    /// The moment.
    pub(in crate::session) fn at(self) -> Instant {
        self.at
    }

    /// Resolves at that moment.
    pub async fn passed(self) -> TurnCause {
        sleep_until(self.at).await;
        self.timeout()
    }

    /// Why a turn has failed that took longer.
    pub(in crate::session) fn timeout(self) -> TurnCause {
        TurnCause::Timeout(self.after)
    }
}

/// A deadline that moves when a caller joins who has more time.
#[derive(Debug)]
pub(in crate::session) struct SharedDeadline(Mutex<Deadline>);

impl SharedDeadline {
    pub(in crate::session) fn new(deadline: Deadline) -> Self {
        Self(Mutex::new(deadline))
    }

    /// Moves it, if this one is later.
    pub(in crate::session) fn extend(&self, deadline: Deadline) {
        let mut current = lock(&self.0);
        *current = current.later(deadline);
    }

    pub(in crate::session) fn get(&self) -> Deadline {
        *lock(&self.0)
    }

    /// Resolves when it has passed.
    pub(in crate::session) async fn passed(&self) -> TurnCause {
        loop {
            let deadline = self.get();
            let cause = deadline.passed().await;
            if self.get().at <= deadline.at {
                return cause;
            }
        }
    }
}
