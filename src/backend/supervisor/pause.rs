//! The pauses between attempts to start or reach a CLI.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause while somebody waits for the link, where an attempt costs no more than a connection.
const WANTED_PAUSE: Duration = Duration::from_secs(1);

/// Waits before the next attempt. `wanted`, if given, cuts the wait short when somebody asks for the link.
pub(super) async fn rest(pause: Duration, wanted: Option<&Notify>) {
    let began = Instant::now();
    let wanted = async {
        match wanted {
            Some(wanted) => wanted.notified().await,
            None => std::future::pending().await,
        }
        sleep_until(began + WANTED_PAUSE).await;
    };
    tokio::select! {
        () = sleep(pause) => {}
        () = wanted => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks how many seconds the pause takes if a link is wanted after so many.
    async fn check(pause: u64, wanted_after: Option<u64>, expected: u64) {
        let (wanted, began) = (Notify::new(), Instant::now());
        let wants = async {
            if let Some(after) = wanted_after {
                sleep(Duration::from_secs(after)).await;
                wanted.notify_one();
            }
            std::future::pending().await
        };
        tokio::select! {
            // First, so that a link may have been wanted before.
            biased;
            never = wants => never,
            () = rest(Duration::from_secs(pause), Some(&wanted)) => {}
        }
        assert_eq!(began.elapsed().as_secs(), expected, "{pause} {wanted_after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_follows_within_a_second_of_its_being_wanted_and_not_more_often() {
        check(10, None, 10).await;
        check(10, Some(0), 1).await;
        check(10, Some(4), 4).await;
        check(0, Some(0), 0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_costly_to_try_is_not_tried_sooner() {
        let began = Instant::now();
        rest(LONGEST_PAUSE, None).await;
        assert_eq!(began.elapsed().as_secs(), LONGEST_PAUSE.as_secs());
    }
}
