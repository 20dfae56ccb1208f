//! This process's lease: [`Lease`] with this machine's clock.

use std::{sync::Mutex, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::lease::{Lease, Moment};
use crate::lock::lock;

/// This process's lease.
#[derive(Debug)]
pub(super) struct Term {
    began: Instant,
    /// `None`: the store is a file, which is this process's as long as it runs.
    lease: Option<Mutex<Lease>>,
    /// The life in which it is held, if it is. In a file there is one, which never ends.
    held: watch::Sender<Option<u64>>,
}

impl Term {
    pub(super) fn new(term: Duration, is_shared: bool) -> Self {
        let lease = is_shared.then(|| Mutex::new(Lease::of(term)));
        Self { began: Instant::now(), held: watch::Sender::new(lease.is_none().then_some(0)), lease }
    }

    /// Whether it is held, now and as it changes.
    pub(super) fn held(&self) -> watch::Receiver<Option<u64>> {
        self.held.subscribe()
    }

    /// The life in which it is held now; `None`: it is over.
    pub(super) fn life(&self) -> Option<u64> {
        match &self.lease {
            None => Some(0),
            Some(lease) => lock(lease).life(self.now()),
        }
    }

    /// The store has granted what was asked for at this moment.
    pub(super) fn granted(&self, asked: Instant) {
        let now = self.now();
        self.change(|lease, began| lease.granted(asked.saturating_duration_since(began), now));
    }

    /// The store has refused.
    pub(super) fn refused(&self) {
        self.change(|lease, _| lease.refused());
    }

    /// When it runs out, unless it is renewed; `None`: it has, or never does.
    pub(super) fn end(&self) -> Option<Instant> {
        let lease = *lock(self.lease.as_ref()?);
        lease.until().filter(|_| lease.holds(self.now())).map(|until| self.began + until)
    }

    /// Tells who asks for it that it has run out, if it has.
    pub(super) fn look(&self) {
        let life = self.life();
        self.held.send_if_modified(|held| std::mem::replace(held, life) != life);
    }

    fn change(&self, act: impl FnOnce(&mut Lease, Instant)) {
        if let Some(lease) = &self.lease {
            act(&mut lock(lease), self.began);
            self.look();
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }
}
