//! Who may run a session: leases of nodes, and owners of sessions. Pure; `nodes` and `ownership` say the same in SQL.
//!
//! A node's lease runs out by the store's clock, and by the node's own a little earlier, because it counts from when the renewal
//! was asked for. A session's row names the node that owns it, and a number, its fence, that is another one each time that the
//! session changes hands. What a node writes for a session carries the fence that it has, and is refused where the row has
//! another: so a node that wakes up late writes nothing more, whatever it believes.
//!
//! Who takes a session has to be alive itself.
//!
//! | row \ event | taken by `n` | let go, with the row's fence | written to, with the row's fence | with another fence |
//! |---|---|---|---|---|
//! | no owner | owner `n`, next fence | refused | done | refused |
//! | owner `n`, the same process | next fence | no owner, next fence | done | refused |
//! | owner is another, and lives | refused | no owner, next fence | done | refused |
//! | owner is another, and is dead | owner `n`, next fence | no owner, next fence | done | refused |
//!
//! `model.rs` tries all worlds of two or three nodes.

#[cfg(test)]
mod model;
#[cfg(test)]
mod title;

#[cfg(test)]
pub(super) use title::Title;

use std::time::Duration;

/// A moment by a node's own clock: the time since its process began.
pub(super) type Moment = Duration;

/// How a node's lease stands by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    /// For how long a node counts as alive after a renewal.
    term: Duration,
    /// Until when this node may act for its sessions; `None`: not now.
    until: Option<Moment>,
    /// How many times it has been had anew. A session that was asked for in one life is not held in the next: it may have been
    /// another's in between.
    life: u64,
}

impl Lease {
    /// A lease that is yet to be had.
    pub(super) fn of(term: Duration) -> Self {
        Self { term, until: None, life: 0 }
    }

    /// The store has granted what was asked for at a moment. If it was over by now, it is another one.
    pub(super) fn granted(&mut self, asked: Moment, now: Moment) {
        if !self.holds(now) {
            self.life += 1;
        }
        // Its agents take a moment to stop, and its clock may be slow.
        let until = asked + self.term * 9 / 10;
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// The store has refused: a later process has the node's name.
    pub(super) fn refused(&mut self) {
        self.until = None;
    }

    /// Whether the node may act for its sessions.
    pub(super) fn holds(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Which life of it this is; `None`: it is over.
    pub(super) fn life(&self, now: Moment) -> Option<u64> {
        self.holds(now).then_some(self.life)
    }

    /// Until when, unless it is renewed.
    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }
}
