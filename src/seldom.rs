//! A line in the log now and then, for what callers can make happen again and again.

use std::time::Duration;

use tokio::time::Instant;

/// How often it is logged.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is logged seldom, however often it happens.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    logged: Option<Instant>,
    since: usize,
}

impl Seldom {
    /// It has happened so many times. If it is to be logged now: how many times, since it was logged last.
    pub(crate) fn now(&mut self, times: usize) -> Option<usize> {
        self.since += times;
        let now = Instant::now();
        if self.since == 0 || self.logged.is_some_and(|logged| now - logged < INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_again_and_again_is_logged_now_and_then_with_how_often() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.now(0), None);
        assert_eq!(seldom.now(1), Some(1));
        assert!((0..99).all(|_| seldom.now(1).is_none()));
        advance(INTERVAL).await;
        assert_eq!(seldom.now(1), Some(100));
    }
}
