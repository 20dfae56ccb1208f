//! What is tried, and what is checked.

use std::time::Duration;

use super::super::{Lease, Moment};

/// For how many seconds the store grants a lease. A process has nine tenths of them.
pub(super) const TERM: u8 = 10;

/// The time by every process's clock: late enough that nothing that counts was before zero.
const NOW: Moment = Duration::from_secs(1_000);

/// How many seconds ago a renewal was asked for that gives no lease any more.
pub(super) const LONG_AGO: u8 = 200;

/// What is checked of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Property {
    /// At most one node runs a session.
    OneRuns,
    /// Who writes to a session, or lets it go, owns it, and has since before it sent that. Nobody else is heard.
    OwnerWrites,
    /// A write has all that is in the archive.
    ArchiveGrows,
    /// What a caller was told is in the archive.
    ToldIsKept,
    /// Whatever has happened, a process can come to own a session, if one runs and all goes well from then on.
    IsServed,
}

/// How wrong the clocks of processes may be. The store's is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clocks {
    /// Not at all.
    Exact,
    /// They may miss a tick between the asking for a lease and its end.
    Slow,
    /// They may stand still for any time, as when a machine is suspended.
    Pausing,
    /// There is no time: a process has its lease until it likes to see that it is over, and the store takes owners for dead.
    Untrusted,
}

/// What is done otherwise than it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// The store looks at no fence.
    NoFencing,
    /// A lease counts from when its grant arrives.
    CountsFromGrant,
    /// Processes take a lease to be two seconds longer.
    NoMargin,
    /// A lease that was over and is granted again is held as if it had never been over.
    GapIsIgnored,
    /// A session that was asked for before the lease was over is held once there is another.
    TakeOutlivesLease,
    /// A write of which nothing was heard is sent again with the same fence.
    WritesAgain,
    /// So it is, and a write is refused unless it follows what is in the archive, as the number of a chunk tells.
    WritesAgainInOrder,
}

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    /// The node of each process that may run. Two of one node are a mistake of its operator's.
    pub(super) names: &'static [u8],
    /// Whether these are all alike, so that worlds that differ in their order are one.
    pub(super) is_alike: bool,
    /// How long a tick is, in seconds.
    pub(super) tick: u8,
    pub(super) clocks: Clocks,
    /// Whether a process whose lease is over stops its turns before the next tick. They run until then.
    pub(super) is_prompt: bool,
    /// Whether calls that nobody waits for may be served.
    pub(super) has_late_calls: bool,
    /// How many answers there may be that not everybody has. Without any, turns end without an answer.
    pub(super) answers: u8,
    pub(super) mistake: Mistake,
    pub(super) checked: &'static [Property],
}

impl World {
    /// A lease that is held for so many seconds more.
    fn lease(&self, left: u8) -> Lease {
        let term = if self.mistake == Mistake::NoMargin { TERM + 2 } else { TERM };
        Lease { until: Some(NOW + seconds(left)), ..Lease::of(seconds(term)) }
    }

    /// For how long it is held after a tick.
    pub(super) fn later(&self, left: u8) -> u8 {
        left_of(&self.lease(left), NOW + seconds(self.tick))
    }

    /// For how long a lease is held once another is granted that was asked for so long ago.
    pub(super) fn granted(&self, left: u8, age: u8) -> u8 {
        let age = if self.mistake == Mistake::CountsFromGrant { 0 } else { age };
        let mut lease = self.lease(left);
        lease.granted(NOW - seconds(age), NOW);
        left_of(&lease, NOW)
    }

    /// And once it is refused.
    pub(super) fn refused(&self, left: u8) -> u8 {
        let mut lease = self.lease(left);
        lease.refused();
        left_of(&lease, NOW)
    }
}

fn seconds(seconds: u8) -> Duration {
    Duration::from_secs(seconds.into())
}

fn left_of(lease: &Lease, now: Moment) -> u8 {
    let left = lease.until().filter(|_| lease.holds(now)).map_or(0, |until| (until - now).as_secs());
    u8::try_from(left).unwrap()
}
