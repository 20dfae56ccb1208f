//! Slows those who bring wrong credentials again and again, each peer by itself. Pure: the time is handed in.
//!
//! Ten failures in a minute make a peer wait a second, and each failure after a wait twice as long as before, up to a minute. One
//! failure is forgotten every six seconds. Nobody sleeps for that: what comes during a wait is refused. A peer that
//! is quiet for a minute begins anew.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

/// How many failures make a peer wait.
const LIMIT: u32 = 10;
/// After which time one is forgotten: ten in a minute.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many peers are remembered, in two halves: when the younger one is full, the older one is dropped. So no call looks for
/// the oldest peer among ten thousand, and who fails most is remembered longest.
const HALF: usize = 5_000;

/// Whom failures are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// An address of IPv4.
    V4([u8; 4]),
    /// The first 64 bits of an address of IPv6: who has one has all that begin with them.
    V6([u8; 8]),
    /// A user of this machine.
    User(u32),
}

impl Peer {
    /// The peer at an address, or of a user; `None` if neither is known.
    pub(super) fn of(from: Option<IpAddr>, uid: Option<u32>) -> Option<Self> {
        match from.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => Some(Self::V4(ip.octets())),
            Some(IpAddr::V6(ip)) => ip.octets().first_chunk().copied().map(Self::V6),
            None => uid.map(Self::User),
        }
    }
}

/// The failures of all peers.
#[derive(Debug, Default)]
pub(super) struct Failures {
    young: HashMap<Peer, Count>,
    old: HashMap<Peer, Count>,
}

/// What is remembered of a peer.
#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    waits: u32,
    /// The end of its last wait, or its last failure. From then on failures are forgotten.
    since: Instant,
}

impl Failures {
    /// How long the peer still has to wait; `None`: it has not.
    pub(super) fn wait(&self, peer: Peer, now: Instant) -> Option<Duration> {
        let count = self.young.get(&peer).or_else(|| self.old.get(&peer))?;
        count.since.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// The peer has brought something wrong.
    pub(super) fn add(&mut self, peer: Peer, now: Instant) {
        let known = self.young.get(&peer).or_else(|| self.old.get(&peer)).copied();
        let mut count = known.unwrap_or(Count { failures: 0, waits: 0, since: now });
        let forgotten = now.saturating_duration_since(count.since).as_secs() / FORGOTTEN_AFTER.as_secs();
        count.failures = count.failures.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        if count.failures == 0 {
            count.waits = 0;
        }
        count.failures = (count.failures + 1).min(LIMIT);
        // Calls that were looked at before the wait began do not make it longer.
        count.since = count.since.max(now);
        if count.failures == LIMIT && count.since == now {
            let wait = FIRST_WAIT.saturating_mul(1 << count.waits.min(6)).min(LONGEST_WAIT);
            count.waits += 1;
            count.since = now + wait;
        }
        if self.young.len() >= HALF && !self.young.contains_key(&peer) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&peer);
        self.young.insert(peer, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Peer = Peer::V4([10, 0, 0, 1]);
    const BOB: Peer = Peer::V4([10, 0, 0, 2]);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_make_a_peer_wait_and_waits_grow_to_a_minute() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        for _ in 0..9 {
            failures.add(ANN, now);
            assert_eq!(failures.wait(ANN, now), None);
        }
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            failures.add(ANN, now);
            assert_eq!(failures.wait(ANN, now), Some(seconds(expected)));
            assert_eq!(failures.wait(BOB, now), None, "another one does not wait");
            now += seconds(expected);
            assert_eq!(failures.wait(ANN, now), None);
        }
        now += seconds(60);
        for _ in 0..9 {
            failures.add(ANN, now);
            assert_eq!(failures.wait(ANN, now), None, "a quiet minute, and all is forgotten");
        }
        failures.add(ANN, now);
        assert_eq!(failures.wait(ANN, now), Some(seconds(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_in_six_seconds_makes_nobody_wait() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..100 {
            failures.add(ANN, now + seconds(6 * n));
            assert_eq!(failures.wait(ANN, now + seconds(6 * n)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_fail_at_once_make_one_wait_not_many() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        (0..500).for_each(|_| failures.add(ANN, now));
        assert_eq!(failures.wait(ANN, now), Some(seconds(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_peers_are_remembered_and_those_that_go_on_are_not_forgotten_for_others() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        (0..10).for_each(|_| failures.add(ANN, now));
        for n in 0..100_000_u32 {
            failures.add(Peer::User(n), now);
            if n % 1000 == 0 {
                failures.add(ANN, now);
            }
            assert!(failures.young.len() + failures.old.len() <= 2 * HALF);
        }
        assert_eq!(failures.wait(ANN, now), Some(seconds(1)));
    }

    #[test]
    fn addresses_that_are_one_peers_count_together() {
        let peer = |text: &str| Peer::of(Some(text.parse().unwrap()), None);
        assert_eq!(peer("::ffff:10.0.0.1"), Some(ANN));
        assert_eq!(peer("2001:db8:1:2::1"), peer("2001:db8:1:2:ffff::"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!(Peer::of(None, Some(1)), Some(Peer::User(1)));
        assert_eq!(Peer::of(None, None), None);
    }
}
