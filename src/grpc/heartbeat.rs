//! Heartbeats on streams on which nothing happens, so that no proxy ends them while the agent thinks.
//!
//! Tests: `tests/integration/contract.rs`, `tests/integration/retrying.rs`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

/// A stream that sends `beat` whenever it has sent nothing for an interval.
pub(super) struct Heartbeats<S, M> {
    stream: S,
    beat: fn() -> M,
    pulse: Option<Pulse>,
}

/// The time since a stream has sent something.
pub(super) struct Pulse {
    interval: Duration,
    /// When something was sent last.
    last_sent: Instant,
    /// Resolves some time after the last message. It is reset only when it has resolved.
    sleep: Pin<Box<Sleep>>,
}

impl Pulse {
    pub(super) fn new(interval: Duration) -> Self {
        let last_sent = Instant::now();
        Self { interval, last_sent, sleep: Box::pin(sleep_until(last_sent + interval)) }
    }

    /// Records that something is sent.
    pub(super) fn sent(&mut self) {
        self.last_sent = Instant::now();
    }

    /// Resolves after each interval in which nothing was sent.
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let is_due = Instant::now() >= self.last_sent + self.interval;
            if is_due {
                self.sent();
            }
            self.sleep.as_mut().reset(self.last_sent + self.interval);
            if is_due {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl<S, M> Heartbeats<S, M> {
    /// A stream with heartbeats; without an interval there are none.
    pub(super) fn new(stream: S, interval: Option<Duration>, beat: fn() -> M) -> Self {
        Self { stream, beat, pulse: interval.map(Pulse::new) }
    }
}

impl<S, M> Stream for Heartbeats<S, M>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        if let Poll::Ready(item) = Pin::new(&mut this.stream).poll_next(cx) {
            if let Some(pulse) = &mut this.pulse {
                pulse.sent();
            }
            return Poll::Ready(item);
        }
        match &mut this.pulse {
            Some(pulse) => pulse.poll_silence(cx).map(|()| Some(Ok((this.beat)()))),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use tokio::time::sleep;

    use super::*;

    /// The output of a stream that pauses for so many seconds before each word; a heartbeat is a dot.
    async fn sent(pauses: &'static [u64], interval: Option<u64>) -> String {
        let stream = stream::iter(pauses).then(|pause| async {
            sleep(Duration::from_secs(*pause)).await;
            Ok("word ")
        });
        let interval = interval.map(Duration::from_secs);
        let beats = Heartbeats::new(Box::pin(stream), interval, || ".");
        beats.map(Result::unwrap).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_comes_after_each_interval_of_silence_and_not_before() {
        assert_eq!(sent(&[0, 29, 29, 31, 95, 1], Some(30)).await, "word word word .word ...word word ");
        assert_eq!(sent(&[100], None).await, "word ");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_fails_with_its_stream() {
        let failing = stream::iter([Ok("word"), Err(Status::internal("no"))]);
        let mut beats = Heartbeats::new(failing, Some(Duration::from_secs(1)), || ".");
        assert_eq!(beats.next().await.unwrap().unwrap(), "word");
        assert!(beats.next().await.unwrap().is_err());
        assert!(beats.next().await.is_none());
    }
}
