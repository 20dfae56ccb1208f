//! The requests that this process has in hand: those of its own that the store has, and that are none of these, nobody works on any
//! more, because their caller left before anything was done.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{lock::lock, store::RequestKey};

/// The requests that this process has in hand.
#[derive(Debug, Default)]
pub(in crate::session) struct Claims {
    /// How many hold each: one that is about to be forgotten may be claimed anew already.
    held: Mutex<HashMap<RequestKey, usize>>,
}

/// A request that this process has in hand until this is dropped: when what came of it is in the store.
#[derive(Debug)]
pub(in crate::session) struct Claimed {
    claims: Arc<Claims>,
    key: RequestKey,
    /// Whether nobody waits for it who would send it again.
    is_submitted: bool,
}

impl Claims {
    /// Takes a request in hand.
    pub(in crate::session) fn claim(self: &Arc<Self>, key: &RequestKey, is_submitted: bool) -> Arc<Claimed> {
        *lock(&self.held).entry(key.clone()).or_default() += 1;
        Arc::new(Claimed { claims: self.clone(), key: key.clone(), is_submitted })
    }

    /// Whether a request is in hand.
    pub(in crate::session) fn has(&self, key: &RequestKey) -> bool {
        lock(&self.held).contains_key(key)
    }
}

impl Claimed {
    /// What the store knows it by.
    pub(in crate::session) fn key(&self) -> &RequestKey {
        &self.key
    }

    /// Whether nobody waits for it who would send it again: what it is to send is in the store.
    pub(in crate::session) fn is_submitted(&self) -> bool {
        self.is_submitted
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut held = lock(&self.claims.held);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Scope;

    #[test]
    fn a_request_is_in_hand_until_the_last_who_holds_it_lets_go() {
        let claims = Arc::<Claims>::default();
        let key = |id: &str| RequestKey { tenant: String::new(), scope: Scope::Create, id: id.into() };
        let first = claims.claim(&key("a"), false);
        assert!(claims.has(first.key()) && !claims.has(&key("b")));
        let again = claims.claim(&key("a"), false);
        drop(first);
        assert!(claims.has(&key("a")));
        drop(again);
        assert!(!claims.has(&key("a")));
    }
}
