//! A gate that lets one through at a time, for each key.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::OwnedMutexGuard;

use crate::lock::lock;

/// A gate that lets one through at a time, for each key.
#[derive(Debug)]
pub(super) struct Turnstile<K> {
    gates: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Turnstile<K> {
    fn default() -> Self {
        Self { gates: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Turnstile<K> {
    /// Waits until nobody else with this key is through, and keeps others out until this is dropped.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(super) async fn pass(&self, key: &K) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = lock(&self.gates);
            match gates.get(key).and_then(Weak::upgrade) {
                Some(gate) => gate,
                None => {
                    gates.retain(|_, gate| gate.strong_count() > 0);
                    let gate = Arc::default();
                    gates.insert(key.clone(), Arc::downgrade(&gate));
                    gate
                }
            }
        };
        gate.lock_owned().await
    }
}
