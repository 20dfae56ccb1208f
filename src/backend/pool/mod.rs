//! All the CLIs of a server as they come and go, and which of them a session belongs to.
//!
//! It knows where a session belongs, not where it is: a session stays where it was made when CLIs come and go.
//!
//! Fixed CLIs are there from start to end. The others are what a DNS name leads to, a [`Group`]: a new address joins, and
//! one that has gone *leaves*. A CLI that leaves gets no new sessions, and is dropped when no turn runs or waits on it any
//! more.
//!
//! Tests: `tests/integration/pool.rs`, `tests/integration/standing.rs`.

pub mod addresses;
mod drain_file;
pub mod placement;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::{
    StreamExt as _,
    future::{join_all, select_all},
};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::info;

use super::{
    backend::{Backend, BackendId},
    config::Config,
    error::Error,
    health::Standing,
    names::Target,
    recycling,
    sink::Sink,
    state::State,
};
use crate::lock::lock;

use addresses::Addresses;
use placement::Placement;

/// The configuration of a pool.
#[derive(Debug)]
pub struct Setup {
    /// The CLIs that stay from start to end.
    pub fixed: Vec<Config>,
    /// The CLIs that come and go.
    pub groups: Vec<Group>,
    /// When embedded CLIs are replaced.
    pub recycling: recycling::Rules,
    /// The file with the operator's list of CLIs that get no new sessions.
    pub drain_file: Option<PathBuf>,
}

/// The CLIs that one DNS name leads to.
pub struct Group {
    /// The name, in logs.
    pub name: String,
    /// What the name leads to, as it changes.
    pub addresses: Addresses,
    /// The configuration of each CLI, apart from its name and address. Its source is external; its home has
    /// [`CLI_NAME`](super::CLI_NAME) in it.
    pub backend: Config,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All the CLIs of a server. Cheap to clone; [`stop`](Self::stop) ends them.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    /// Stops all tasks and CLIs when the last handle is dropped.
    _used: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    members: watch::Sender<Arc<Members>>,
    /// The names and addresses in the drain file.
    drained: Mutex<BTreeSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The CLIs at one moment, and how sessions are placed on them.
#[derive(Debug, Default)]
struct Members {
    backends: Vec<Backend>,
    placement: Placement,
}

impl Members {
    fn new(backends: Vec<Backend>) -> Arc<Self> {
        let placement = Placement::new(backends.iter().map(Backend::place));
        Arc::new(Self { backends, placement })
    }

    /// The first CLI that `will_do`, in the session's order of placement.
    fn first(&self, session: &str, will_do: impl Fn(&Backend) -> bool) -> Option<Backend> {
        let first = self.placement.first(session, |number| will_do(&self.backends[number]))?;
        Some(self.backends[first].clone())
    }

    /// Whether most CLIs are ejected. Then the cause is probably not theirs, and the rest would only be overrun.
    fn panics(&self) -> bool {
        let count = |what: fn(&Backend) -> bool| self.backends.iter().filter(|backend| what(backend)).count();
        count(|backend| backend.standing() == Standing::Ejected) * 2 > count(may_have_new)
    }
}

/// Whether new sessions may be made in this CLI, if no other will do.
fn may_have_new(backend: &Backend) -> bool {
    match backend.standing() {
        Standing::Open | Standing::Ejected => true,
        Standing::Leaving | Standing::Draining => false,
    }
}

impl Pool {
    /// Starts the supervisors. Each backend gets a sink of its own.
    pub fn spawn(setup: Setup, sink: impl Fn(BackendId) -> Arc<dyn Sink> + Send + Sync + 'static) -> Self {
        let stop = CancellationToken::new();
        let fixed: Vec<_> = setup.fixed.into_iter().map(|config| Backend::spawn(config, &sink)).collect();
        let inner = Arc::new(Inner {
            members: watch::Sender::new(Members::new(fixed.clone())),
            drained: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let sink: Arc<SinkOf> = Arc::new(sink);
        for group in setup.groups {
            let (inner, sink) = (inner.clone(), sink.clone());
            inner.clone().run(async move { inner.follow(group, &*sink).await });
        }
        if let Some(file) = setup.drain_file {
            let list = inner.clone();
            inner.run(async move { drain_file::follow(&file, |names| list.drain(names)).await });
        }
        if fixed.iter().any(|backend| backend.form().is_some()) {
            inner.run(async move { recycling::keep_fresh(&fixed, setup.recycling).await });
        }
        Self { inner, _used: Arc::new(stop.drop_guard()) }
    }

    /// All CLIs.
    pub fn all(&self) -> Vec<Backend> {
        self.members().backends.clone()
    }

    /// Whether this backend is still in the pool.
    pub fn has(&self, backend: &Backend) -> bool {
        self.members().backends.iter().any(|other| other.id() == backend.id())
    }

    /// All CLIs in the session's order of placement.
    pub fn in_order(&self, session: &str) -> Vec<Backend> {
        let members = self.members();
        let order = members.placement.order(session);
        order.into_iter().map(|number| members.backends[number].clone()).collect()
    }

    /// Whether a name is in the drain file, be it that of a CLI or of a server.
    pub fn is_listed(&self, name: &str) -> bool {
        lock(&self.inner.drained).contains(name)
    }

    /// The CLI of this place: see [`Backend::place`].
    pub fn at(&self, place: &str) -> Option<Backend> {
        self.members().backends.iter().find(|backend| backend.place() == place).cloned()
    }

    /// The first CLI in the session's order of placement that is ready, gets new sessions, and `will_do`.
    pub fn ready_for(&self, session: &str, will_do: impl Fn(&Backend) -> bool) -> Option<Backend> {
        self.members().first(session, |backend| {
            backend.standing() == Standing::Open && backend.is_ready() && will_do(backend)
        })
    }

    /// The CLI that a session belongs to, ready or not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no CLI may get new sessions.
    pub fn home(&self, session: &str) -> Result<Backend, Error> {
        self.members().first(session, may_have_new).ok_or_else(nobody)
    }

    /// The CLI for a new session: the first in its order of placement that is ready and not ejected.
    ///
    /// # Errors
    /// Those of [`home`](Self::home).
    pub fn for_new(&self, session: &str) -> Result<Backend, Error> {
        let members = self.members();
        let panics = members.panics();
        let is_open = |backend: &Backend| match backend.standing() {
            Standing::Open => backend.is_ready(),
            Standing::Ejected => panics && backend.is_ready(),
            Standing::Leaving | Standing::Draining => false,
        };
        members
            .first(session, is_open)
            .or_else(|| members.first(session, |backend| may_have_new(backend) && backend.is_ready()))
            .map_or_else(|| self.home(session), Ok)
    }

    /// A CLI that is ready, or else any.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is none.
    pub fn any(&self) -> Result<Backend, Error> {
        let backends = self.all();
        let ready = backends.iter().find(|backend| backend.is_ready());
        ready.or(backends.first()).cloned().ok_or_else(nobody)
    }

    /// Whether any CLI is ready, now and as it changes.
    pub fn readiness(&self) -> Readiness {
        Readiness { members: self.inner.members.subscribe(), states: Vec::new() }
    }

    /// Closes all links; embedded CLIs are ended, with all their children, before this returns.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the ending.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        join_all(self.all().iter().map(Backend::stop)).await;
    }

    fn members(&self) -> Arc<Members> {
        self.inner.members.borrow().clone()
    }
}

fn nobody() -> Error {
    Error::Unavailable { problem: "none is known that takes new sessions".into() }
}

type SinkOf = dyn Fn(BackendId) -> Arc<dyn Sink> + Send + Sync;

impl Inner {
    /// Runs a task until it ends or the pool stops.
    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Lets CLIs join and leave as their addresses do.
    async fn follow(&self, mut group: Group, sink: &SinkOf) {
        let mut joined = HashMap::<Target, Backend>::new();
        while let Some(found) = group.addresses.next().await {
            for (address, backend) in &joined {
                backend.inner.shared.eligibility.leave(!found.contains(address));
            }
            joined.retain(|address, backend| {
                let stays = found.contains(address) || !backend.admission().is_idle();
                if !stays {
                    self.drop_out(backend);
                }
                stays
            });
            for address in found {
                // It may be in the pool under another name.
                if self.members.borrow().backends.iter().all(|other| other.place() != address.to_string()) {
                    let backend = Backend::spawn(group.backend.at(&address), sink);
                    info!(backend = backend.name(), name = group.name, "a CLI has joined");
                    joined.insert(address, backend.clone());
                    self.join(backend);
                }
            }
        }
    }

    fn join(&self, backend: Backend) {
        let drained = lock(&self.drained);
        backend.inner.shared.eligibility.drain(is_on(&drained, &backend));
        drop(drained);
        self.change(|backends| backends.push(backend));
    }

    fn drop_out(&self, backend: &Backend) {
        info!(backend = backend.name(), "a CLI has left");
        self.change(|backends| backends.retain(|other| other.id() != backend.id()));
        let backend = backend.clone();
        self.tasks.spawn(async move { backend.stop().await });
    }

    fn change(&self, act: impl FnOnce(&mut Vec<Backend>)) {
        self.members.send_modify(|members| {
            let mut backends = members.backends.clone();
            act(&mut backends);
            *members = Members::new(backends);
        });
    }

    /// Applies a new list of names from the drain file.
    fn drain(&self, names: BTreeSet<String>) {
        let backends = self.members.borrow().backends.clone();
        for name in &names {
            if !backends.iter().any(|backend| backend.name() == name || backend.address() == Some(name)) {
                info!(
                    name,
                    "in the drain file is the name of no CLI of this server: it may be another server's"
                );
            }
        }
        let mut drained = lock(&self.drained);
        *drained = names;
        for backend in self.members.borrow().backends.iter() {
            backend.inner.shared.eligibility.drain(is_on(&drained, backend));
        }
    }
}

/// Whether a CLI is on the operator's list, by name or address.
fn is_on(drained: &BTreeSet<String>, backend: &Backend) -> bool {
    drained.contains(backend.name()) || backend.address().is_some_and(|address| drained.contains(address))
}

/// Whether any CLI is ready, as it changes.
#[derive(Debug)]
pub struct Readiness {
    members: watch::Receiver<Arc<Members>>,
    states: Vec<watch::Receiver<State>>,
}

impl Readiness {
    /// Whether one is ready now.
    pub fn is_ready(&mut self) -> bool {
        let members = self.members.borrow_and_update().clone();
        self.states = members.backends.iter().map(Backend::watch).collect();
        // All are read, so that their current states do not count as changes.
        let ready =
            |state: &mut watch::Receiver<State>| matches!(*state.borrow_and_update(), State::Ready(_));
        self.states.iter_mut().map(ready).fold(false, |any, ready| any | ready)
    }

    /// Resolves when readiness may have changed since [`is_ready`](Self::is_ready). False: it cannot change any more.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn changed(&mut self) -> bool {
        loop {
            if self.states.is_empty() {
                return self.members.changed().await.is_ok();
            }
            let changes = self.states.iter_mut().map(|state| Box::pin(state.changed()));
            let (changed, number) = tokio::select! {
                members = self.members.changed() => return members.is_ok(),
                (changed, number, _) = select_all(changes) => (changed, number),
            };
            match changed {
                Ok(()) => return true,
                // Its supervisor has ended.
                Err(_) => drop(self.states.swap_remove(number)),
            }
        }
    }
}
