//! How far the bench is: a line on standard error as each step begins.

use std::{fmt::Display, time::Duration};

use tokio::time::Instant;

/// So many steps, of which some have begun.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    begun: usize,
    steps: usize,
}

impl Progress {
    pub(crate) fn of(steps: usize) -> Self {
        Self { began: Instant::now(), begun: 0, steps }
    }

    /// Tells that the next step begins.
    pub(crate) fn step(&mut self, what: impl Display) {
        self.begun += 1;
        eprintln!("{} of {}: {what}, after {}", self.begun, self.steps, words(self.began.elapsed()));
    }

    /// Tells that there are no more.
    pub(crate) fn end(self) {
        eprintln!("done after {}", words(self.began.elapsed()));
    }
}

/// A duration as one says it.
fn words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_units_at_most() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (754, "12 min 34 s"), (7384, "2 h 3 min")]
        {
            assert_eq!(words(Duration::from_secs(seconds)), expected);
        }
    }
}
