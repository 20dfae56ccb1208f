//! The other servers that share the store, as this room knows them.

use std::{collections::HashMap, fmt, sync::Mutex, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{
    id::{SessionId, SessionKey, Tenant},
    summary::SessionState,
};
use crate::{
    lock::lock,
    store::{Incarnation, NodeRecord},
};

/// Another server of the same store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The process.
    pub incarnation: Incarnation,
    /// Its address; empty: it tells none.
    pub address: String,
}

impl From<&NodeRecord> for Peer {
    fn from(node: &NodeRecord) -> Self {
        Self { incarnation: node.incarnation.clone(), address: node.address.clone() }
    }
}

/// How other servers are asked.
pub trait Others: fmt::Debug + Send + Sync {
    /// What these sessions of a tenant do, as far as the server owns them; `None`: it does not answer.
    fn states<'a>(
        &'a self,
        peer: &'a Peer,
        tenant: &'a Tenant,
        ids: Vec<SessionId>,
    ) -> BoxFuture<'a, Option<HashMap<SessionId, SessionState>>>;
}

/// For how long an owner is remembered. Where it is not any more, the call comes back, and the store is asked.
const REMEMBERED: Duration = Duration::from_secs(5);

/// How many owners are remembered.
const MAX_OWNERS: usize = 10_000;

/// Which other servers own the sessions that were looked for lately: so that not each call asks the store.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_key: Mutex<HashMap<SessionKey, (Instant, Peer)>>,
}

impl Owners {
    pub(super) fn find(&self, key: &SessionKey) -> Option<Peer> {
        let owners = lock(&self.by_key);
        let (since, peer) = owners.get(key)?;
        (since.elapsed() < REMEMBERED).then(|| peer.clone())
    }

    pub(super) fn remember(&self, key: SessionKey, owner: Peer) {
        let mut owners = lock(&self.by_key);
        if owners.len() >= MAX_OWNERS {
            owners.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        }
        if owners.len() < MAX_OWNERS {
            owners.insert(key, (Instant::now(), owner));
        }
    }

    pub(super) fn forget(&self, key: &SessionKey) {
        lock(&self.by_key).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_owner_is_remembered_for_a_moment_and_not_too_many_are() {
        let owners = Owners::default();
        let key = |n: usize| SessionKey::new(Tenant::ONLY, SessionId::parse(&n.to_string()).unwrap());
        let peer = Peer { incarnation: Incarnation { node: "n".into(), number: 1 }, address: "a:1".into() };
        owners.remember(key(0), peer.clone());
        assert_eq!(owners.find(&key(0)), Some(peer.clone()));
        owners.forget(&key(0));
        assert_eq!(owners.find(&key(0)), None);
        (0..MAX_OWNERS + 5).for_each(|n| owners.remember(key(n), peer.clone()));
        assert_eq!((owners.find(&key(1)), owners.find(&key(MAX_OWNERS))), (Some(peer.clone()), None));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(owners.find(&key(1)), None);
        owners.remember(key(MAX_OWNERS), peer);
        assert_eq!(lock(&owners.by_key).len(), 1);
    }
}
