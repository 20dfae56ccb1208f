//! Which server a call is for: the one that owns its session, or for a new one, one that has room.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    session::{callers::Caller, error::Error, id::SessionKey, others::Peer, sessions::Sessions},
    store::{Incarnation, Load, NodeRecord, Owner, Role},
};

/// Where a call is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Here.
    Here,
    /// By another server.
    At(Peer),
}

/// The pause before it is looked once more whether a server lives.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// By how many sessions, and by which part, a server may exceed its share before it gives some away.
const SLACK: u32 = 8;

impl Sessions {
    /// Where the calls for a session are to be served.
    ///
    /// # Errors
    /// If the store is away, and the session is not known here.
    pub async fn locate(&self, key: &SessionKey) -> Result<Whereabouts, Error> {
        let id = key.id();
        if !self.store().is_shared() {
            return Ok(Whereabouts::Here);
        }
        if let Some(session) = self.inner.registry.find(key) {
            let is_to_go = self.is_leaving() && self.another().is_some();
            if !is_to_go || !self.hand_over(&session, true).await? {
                return Ok(Whereabouts::Here);
            }
        } else if self.inner.registry.is_making(key) {
            return Ok(Whereabouts::Here);
        }
        if let Some(owner) = self.inner.owners.find(key) {
            return Ok(Whereabouts::At(owner));
        }
        Ok(match self.store().owner_of(key.tenant().as_str(), id.as_str()).await? {
            Owner::Us | Owner::Gone => Whereabouts::Here,
            Owner::Node(node) => {
                let owner = Peer::from(&*node);
                self.inner.owners.remember(key.clone(), owner.clone());
                Whereabouts::At(owner)
            }
            Owner::Nobody => self.place(),
        })
    }

    /// The server to which the session was [located](Self::locate) has not served it: the store is to be asked again.
    pub fn mislocated(&self, key: &SessionKey) {
        self.inner.owners.forget(key);
    }

    /// Where a session that nobody has is to be served, or a new one.
    pub fn place(&self) -> Whereabouts {
        let own = self.own_load();
        let must = own.role != Role::Serving || own.room == 0 || self.excess(own.sessions) > 0;
        match self.another().filter(|_| must) {
            Some(other) if own.role != Role::Serving || other.load.room > own.room => {
                Whereabouts::At(Peer::from(&other))
            }
            _ => Whereabouts::Here,
        }
    }

    /// Resolves when another server does not live any more, by the store's clock. While the store is away nobody dies.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn until_dead(&self, process: &Incarnation) {
        let mut neighbours = self.store().neighbours();
        loop {
            let lease = neighbours.borrow_and_update().lease_of(process);
            let end = lease.unwrap_or_else(Instant::now).max(Instant::now() + LOOK_AGAIN / 4);
            tokio::select! {
                () = sleep_until(end) => {}
                changed = neighbours.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => sleep_until(end).await,
                },
            }
            // It may have renewed its lease since it was last looked at, or have come only then.
            match self.store().nodes().await {
                Ok(nodes) if !nodes.iter().any(|it| it.incarnation == *process && !it.lease.is_zero()) => {
                    return;
                }
                _ => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// What is to be waited for before this server may go, although it is none of its own turns. Held as long as that goes on.
    pub fn busy(&self) -> TaskTrackerToken {
        self.inner.means.tasks.token()
    }

    /// The caller of a call that another server forwards. Ids of calls are used once.
    pub fn caller(&self, call_id: String) -> Arc<Caller> {
        self.inner.callers.enter(call_id)
    }

    /// The caller of a forwarded call has left. One that is not known has nothing here.
    pub fn caller_left(&self, call_id: &str) {
        self.inner.callers.leave(call_id);
    }

    /// Whether what still runs has to end.
    pub fn is_shutting_down(&self) -> bool {
        self.inner.shutdown.is_cancelled()
    }

    /// Another server that takes sessions: of those that have room, the one with fewest.
    pub(super) fn another(&self) -> Option<NodeRecord> {
        let nodes = self.store().neighbours().borrow().nodes.clone();
        let own = self.store().incarnation();
        let others = nodes.iter().filter(|node| node.incarnation.node != own.node && takes_sessions(node));
        others.min_by_key(|node| (node.load.room == 0, node.load.sessions)).cloned()
    }

    /// How many sessions this server has beyond its share, if it is more than a little.
    pub(super) fn excess(&self, own: u32) -> u32 {
        let nodes: Arc<[NodeRecord]> = self.store().neighbours().borrow().nodes.clone();
        let (this, others): (Vec<_>, Vec<_>) = nodes
            .iter()
            .filter(|node| takes_sessions(node))
            .partition(|node| node.incarnation.node == self.store().incarnation().node);
        let others: Vec<_> = others.iter().map(|node| node.load.sessions).collect();
        excess(own, &others, !this.is_empty())
    }

    /// What this server has to do.
    pub(super) fn own_load(&self) -> Load {
        let load = self.load();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let ready = self.pool().all().into_iter().filter(|backend| backend.is_ready());
        let room = ready.map(|backend| backend.admission().room()).sum();
        Load {
            role: if self.is_leaving() { Role::Draining } else { Role::Serving },
            sessions: number(load.known),
            turns: number(load.turns),
            room: number(room),
        }
    }

    /// Waits until it is known which other servers there are.
    pub(super) async fn knows_others(&self) {
        if self.store().is_shared() {
            // It fails when the store is closed, and then nothing is done any more.
            let _ = self.store().neighbours().wait_for(|seen| !seen.nodes.is_empty()).await;
        }
    }

    /// Whether this server is the one that clears up for all: the one that has lived longest.
    pub(super) fn is_elected(&self) -> bool {
        if !self.store().is_shared() {
            return true;
        }
        let nodes: Arc<[NodeRecord]> = self.store().neighbours().borrow().nodes.clone();
        let alive = nodes.iter().filter(|node| takes_sessions(node));
        let first = alive.min_by_key(|node| (node.start_time, &node.incarnation.node));
        first.is_some_and(|first| first.incarnation == *self.store().incarnation())
    }
}

/// How many sessions a server with so many has beyond its share, beside others with so many. One that takes none has no share.
fn excess(own: u32, others: &[u32], takes_some: bool) -> u32 {
    if others.is_empty() {
        return 0;
    }
    let count = u32::try_from(others.len()).unwrap_or(u32::MAX).saturating_add(u32::from(takes_some));
    let all = others.iter().copied().fold(own, u32::saturating_add);
    let share = all.div_ceil(count);
    let most = share.saturating_add(share / SLACK).saturating_add(SLACK);
    if own > most { own - share } else { 0 }
}

fn takes_sessions(node: &NodeRecord) -> bool {
    node.load.role == Role::Serving && !node.lease.is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_gives_away_what_it_has_beyond_its_share_if_that_is_more_than_a_little() {
        assert_eq!(excess(1000, &[], true), 0);
        assert_eq!(excess(10, &[0], true), 0);
        assert_eq!(excess(15, &[0], true), 0);
        assert_eq!(excess(30, &[0], true), 15);
        assert_eq!(excess(100, &[100, 100], true), 0);
        assert_eq!(excess(120, &[90, 90], true), 0);
        assert_eq!(excess(200, &[50, 50], true), 100);
    }
}
