//! HTTP/2 frames as they come, by their heads alone (RFC 9113, section 4.1): their types, and whether a client sends too many
//! that belong to no call.
//!
//! The memory for such frames is bounded by h2, which answers one before it reads the next (a test shows it). They cost CPU, so
//! a client has an allowance of them, which grows with time and with the bytes that the client is sent: clients that measure
//! their connection send a PING for each bit of data that they get.
//!
//! Tests: in this file, and `tests/integration/abuse/floods.rs`.

use std::time::Duration;

use tokio::time::Instant;

/// The length of a frame's head.
pub(super) const HEAD: usize = 9;

/// The number of frames of no call that a client may send at once. A client sends two or three at first, and hardly any later.
const AT_ONCE: usize = 1000;

/// The number of such frames that a client may send each second in addition.
const EACH_SECOND: usize = 100;

/// The number of bytes sent to a client that allow it one more such frame. It is more than the answer to a PING or SETTINGS
/// has, or they would pay for themselves; and less than a delta has, with the answer to a PING beside it.
const BYTES_FOR_ONE: usize = 32;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of bytes that follow.
    pub(super) length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    /// Parses the head that `bytes` begin with; `None` if they are too few.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The first bit is reserved.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(Self { length, kind, flags, stream })
    }

    /// Whether this is a SETTINGS of the connection, and not an acknowledgement.
    pub(super) fn is_settings(self) -> bool {
        self.kind == SETTINGS && self.flags & 1 == 0 && self.stream == 0
    }

    /// Whether this is a frame of a call, which h2 bounds, or one that frees what was bounded.
    fn is_of_calls(self) -> bool {
        matches!(self.kind, DATA | HEADERS | CONTINUATION | RST_STREAM | WINDOW_UPDATE)
    }
}

/// Counts the frames of one direction, however their bytes are cut.
#[derive(Debug, Default)]
struct Frames {
    /// The bytes of the current head that have come.
    head: [u8; HEAD],
    come: usize,
    /// The number of bytes of the current frame that are still to come.
    skip: usize,
}

impl Frames {
    /// The number of frames of no call that begin in these bytes, which follow on those before.
    fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return count;
            }
            let taken = (HEAD - self.come).min(bytes.len());
            self.head[self.come..self.come + taken].copy_from_slice(&bytes[..taken]);
            self.come += taken;
            bytes = &bytes[taken..];
            if self.come == HEAD
                && let Some(head) = Head::read(&self.head)
            {
                self.come = 0;
                self.skip = head.length;
                count += usize::from(!head.is_of_calls());
            }
        }
    }
}

/// The error of a client that sends too many frames of no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sends more PING, SETTINGS and other frames of no call than it may")]
pub(super) struct Flood;

/// The frames of one client, and how many of no call it may still send.
#[derive(Debug)]
pub(super) struct Allowance {
    frames: Frames,
    /// The allowance left, as the number of bytes that the client would have to be sent for it.
    left: usize,
    /// The time up to which the allowance has grown.
    since: Instant,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { frames: Frames::default(), left: AT_ONCE * BYTES_FOR_ONE, since: Instant::now() }
    }

    /// Counts bytes that the client has sent after its preface.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let cost = self.frames.follow(bytes) * BYTES_FOR_ONE;
        if cost > self.left {
            self.count_time();
        }
        self.left = self.left.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }

    /// Adds to the allowance for bytes that the client was sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(AT_ONCE * BYTES_FOR_ONE);
    }

    /// Adds to the allowance for time. It is called only when the allowance runs out, which is rare.
    fn count_time(&mut self) {
        let now = Instant::now();
        let longest = Duration::from_secs((AT_ONCE / EACH_SECOND) as u64);
        let passed = (now - self.since).min(longest);
        self.since = now;
        self.sent((passed.as_secs_f64() * (EACH_SECOND * BYTES_FOR_ONE) as f64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let head = [0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 0];
        [&head[..], &vec![PING; length]].concat()
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let frames = [
            frame(SETTINGS, 6),
            frame(HEADERS, 300),
            frame(PING, 8),
            frame(DATA, 0),
            frame(0xfa, 3),
            frame(WINDOW_UPDATE, 4),
            frame(PING, 8),
        ]
        .concat();
        for size in [1, 2, 8, 9, 10, 100, frames.len()] {
            let mut follower = Frames::default();
            let count: usize = frames.chunks(size).map(|bytes| follower.follow(bytes)).sum();
            assert_eq!(count, 4, "in pieces of {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_found_and_its_own_answers_do_not_pay_for_it() {
        let mut allowance = Allowance::new();
        let (mut sent, ping) = (0, frame(PING, 8));
        while allowance.received(&ping).is_ok() {
            sent += 1;
            allowance.sent(17);
        }
        assert!((AT_ONCE..3 * AT_ONCE).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_what_a_client_is_sent_give_it_more() {
        let mut allowance = Allowance::new();
        let pings = |count| frame(PING, 8).repeat(count);
        allowance.received(&pings(AT_ONCE)).unwrap();
        advance(Duration::from_secs(1)).await;
        allowance.received(&pings(EACH_SECOND)).unwrap();
        allowance.sent(10 * BYTES_FOR_ONE);
        allowance.received(&pings(10)).unwrap();
        assert_eq!(allowance.received(&pings(1)), Err(Flood));
        // A day gives no more than may be sent at once.
        let mut idle = Allowance::new();
        idle.received(&pings(AT_ONCE)).unwrap();
        advance(Duration::from_secs(24 * 60 * 60)).await;
        idle.received(&pings(AT_ONCE)).unwrap();
        assert_eq!(idle.received(&pings(1)), Err(Flood));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_for_each_delta_is_no_flood_nor_are_calls() {
        let mut allowance = Allowance::new();
        for _ in 0..100 * AT_ONCE {
            // The smallest event takes more.
            allowance.sent(HEAD + 30 + 17);
            allowance.received(&frame(PING, 8)).unwrap();
            allowance.received(&[frame(HEADERS, 20), frame(DATA, 30)].concat()).unwrap();
        }
    }
}
