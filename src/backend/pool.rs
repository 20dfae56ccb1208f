//! All the CLIs of a server, and which of them a session belongs to.
//!
//! It knows where a session belongs, not where it is: a session stays where it was made when CLIs come and go.

use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tokio::sync::watch;

use super::{Backend, BackendId, Config, Sink, State, placement::Placement};

/// All the CLIs of a server: at least one. Cheap to clone; [`stop`](Self::stop) ends them.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backends: Vec<Backend>,
    placement: Placement,
}

impl Pool {
    /// Starts their supervisors. What a CLI tells goes to a sink of its own.
    ///
    /// # Panics
    /// If there is not a single one.
    pub fn spawn(configs: Vec<Config>, sink: impl Fn(BackendId) -> Arc<dyn Sink>) -> Self {
        assert!(!configs.is_empty(), "a server has at least one CLI");
        let places: Vec<_> = configs.iter().map(Config::place).collect();
        let placement = Placement::new(places.iter().map(String::as_str));
        let backends = configs.into_iter().enumerate().map(|(number, config)| {
            let id = BackendId(number);
            Backend::spawn(id, config, sink(id))
        });
        Self { inner: Arc::new(Inner { backends: backends.collect(), placement }) }
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> &[Backend] {
        &self.inner.backends
    }

    /// All of them, in the order in which a session belongs to them.
    pub fn in_order(&self, session: &str) -> Vec<Backend> {
        let order = self.inner.placement.order(session);
        order.into_iter().map(|number| self.inner.backends[number].clone()).collect()
    }

    /// The one that a session belongs to, however it is.
    pub fn home(&self, session: &str) -> &Backend {
        self.first(session, |_| true)
    }

    /// The one for a new session: the first that is ready, in the order in which it belongs to them.
    pub fn for_new(&self, session: &str) -> &Backend {
        self.first(session, Backend::is_ready)
    }

    fn first(&self, session: &str, will_do: impl Fn(&Backend) -> bool) -> &Backend {
        let Inner { backends, placement } = &*self.inner;
        let first = placement.first(session, |number| will_do(&backends[number]));
        &backends[first.or_else(|| placement.first(session, |_| true)).unwrap_or_default()]
    }

    /// One that is ready, or else any.
    pub fn any(&self) -> &Backend {
        let backends = &self.inner.backends;
        backends.iter().find(|backend| backend.is_ready()).unwrap_or(&backends[0])
    }

    /// Whether one is ready, now and from now on.
    pub fn readiness(&self) -> Readiness {
        Readiness { states: self.inner.backends.iter().map(Backend::watch).collect() }
    }

    /// Closes all links; embedded CLIs are ended, with all their children, before this returns.
    ///
    /// # Cancel safety
    /// Dropping it stops the waiting, not the ending.
    pub async fn stop(&self) {
        join_all(self.inner.backends.iter().map(Backend::stop)).await;
    }
}

/// Whether any CLI is ready, as it changes.
#[derive(Debug)]
pub struct Readiness {
    states: Vec<watch::Receiver<State>>,
}

impl Readiness {
    /// Whether one is ready now.
    pub fn is_ready(&mut self) -> bool {
        // All are looked at, so that what is known does not count as a change.
        let ready =
            |state: &mut watch::Receiver<State>| matches!(*state.borrow_and_update(), State::Ready(_));
        self.states.iter_mut().map(ready).fold(false, |any, ready| any | ready)
    }

    /// Resolves when something may have changed since it was last asked; false: it will not any more.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn changed(&mut self) -> bool {
        while !self.states.is_empty() {
            let changes = self.states.iter_mut().map(|state| Box::pin(state.changed()));
            let (changed, state) = {
                let (changed, state, _) = select_all(changes).await;
                (changed, state)
            };
            match changed {
                Ok(()) => return true,
                // Its supervisor has ended.
                Err(_) => drop(self.states.swap_remove(state)),
            }
        }
        false
    }
}
