//! All the CLIs of a server as they come and go, and which of them a session belongs to.
//!
//! It knows where a session belongs, not where it is: a session stays where it was made when CLIs come and go.
//!
//! Some CLIs are there from the start to the end. Others are those that a name leads to, a [`Group`]: one that is new there
//! joins, and one that has gone from there *leaves*. It gets no new sessions, and when no turn runs or waits on it any more, it is
//! dropped.

pub mod addresses;
mod drain_file;
pub mod placement;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
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
use tracing::{info, warn};

use super::{
    backend::{Backend, BackendId},
    config::Config,
    error::Error,
    health::Standing,
    recycling,
    sink::Sink,
    state::State,
};
use crate::lock::lock;

use addresses::Addresses;
use placement::Placement;

/// Which CLIs there are, and what happens to them.
#[derive(Debug)]
pub struct Setup {
    /// Those that stay.
    pub fixed: Vec<Config>,
    /// Those that come and go.
    pub groups: Vec<Group>,
    /// When those of our own are started anew.
    pub recycling: recycling::Rules,
    /// The operator's list of those that get no new sessions.
    pub drains: Option<PathBuf>,
}

/// The CLIs that a name leads to.
pub struct Group {
    /// The name, in logs.
    pub name: String,
    /// What it leads to.
    pub addresses: Addresses,
    /// How each of them is set up, but for its name and address. An external one.
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
    /// Without anybody who could use them, they end.
    _used: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    members: watch::Sender<Arc<Members>>,
    /// The names and addresses on the operator's list.
    drains: Mutex<BTreeSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Those that there are at a time.
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

    /// The first that will do, in the order in which a session belongs to them.
    fn first(&self, session: &str, will_do: impl Fn(&Backend) -> bool) -> Option<Backend> {
        let first = self.placement.first(session, |number| will_do(&self.backends[number]))?;
        Some(self.backends[first].clone())
    }

    /// Whether most have failed. Then it is not they who do: those that are left would only be overrun.
    fn panics(&self) -> bool {
        let count = |what: fn(&Backend) -> bool| self.backends.iter().filter(|backend| what(backend)).count();
        count(|backend| backend.standing() == Standing::Ejected) * 2 > count(may_have_new)
    }
}

/// Whether new sessions may be made in it, if need be.
fn may_have_new(backend: &Backend) -> bool {
    match backend.standing() {
        Standing::Open | Standing::Ejected => true,
        Standing::Leaving | Standing::Draining => false,
    }
}

impl Pool {
    /// Starts their supervisors. What a CLI tells goes to a sink of its own.
    pub fn spawn(setup: Setup, sink: impl Fn(BackendId) -> Arc<dyn Sink> + Send + Sync + 'static) -> Self {
        let stop = CancellationToken::new();
        let fixed: Vec<_> = setup.fixed.into_iter().map(|config| Backend::spawn(config, &sink)).collect();
        let inner = Arc::new(Inner {
            members: watch::Sender::new(Members::new(fixed.clone())),
            drains: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let sink: Arc<SinkOf> = Arc::new(sink);
        for group in setup.groups {
            let (inner, sink) = (inner.clone(), sink.clone());
            inner.clone().run(async move { inner.follow(group, &*sink).await });
        }
        if let Some(file) = setup.drains {
            let list = inner.clone();
            inner.run(async move { drain_file::follow(&file, |names| list.drain(names)).await });
        }
        if fixed.iter().any(|backend| backend.form().is_some()) {
            inner.run(async move { recycling::keep_fresh(&fixed, setup.recycling).await });
        }
        Self { inner, _used: Arc::new(stop.drop_guard()) }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Backend> {
        self.members().backends.clone()
    }

    /// Whether this one is still one of them.
    pub fn has(&self, backend: &Backend) -> bool {
        self.members().backends.iter().any(|other| other.id() == backend.id())
    }

    /// All of them, in the order in which a session belongs to them.
    pub fn in_order(&self, session: &str) -> Vec<Backend> {
        let members = self.members();
        let order = members.placement.order(session);
        order.into_iter().map(|number| members.backends[number].clone()).collect()
    }

    /// The one that a session belongs to, however it is.
    ///
    /// # Errors
    /// If there is none that may have new sessions.
    pub fn home(&self, session: &str) -> Result<Backend, Error> {
        self.members().first(session, may_have_new).ok_or_else(nobody)
    }

    /// The one for a new session: the first that is ready and well, in the order in which it belongs to them.
    ///
    /// # Errors
    /// As of [`home`](Self::home).
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

    /// One that is ready, or else any.
    ///
    /// # Errors
    /// If there is none.
    pub fn any(&self) -> Result<Backend, Error> {
        let backends = self.all();
        let ready = backends.iter().find(|backend| backend.is_ready());
        ready.or(backends.first()).cloned().ok_or_else(nobody)
    }

    /// Whether one is ready, now and from now on.
    pub fn readiness(&self) -> Readiness {
        Readiness { members: self.inner.members.subscribe(), states: Vec::new() }
    }

    /// Closes all links; embedded CLIs are ended, with all their children, before this returns.
    ///
    /// # Cancel safety
    /// Dropping it stops the waiting, not the ending.
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
    /// Runs until the pool ends.
    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Has CLIs join and leave as their addresses do.
    async fn follow(&self, mut group: Group, sink: &SinkOf) {
        let mut joined = HashMap::<SocketAddr, Backend>::new();
        while let Some(found) = group.addresses.next().await {
            for (address, backend) in &joined {
                backend.inner.shared.marks.leave(!found.contains(address));
            }
            joined.retain(|address, backend| {
                let stays = found.contains(address) || !backend.admission().is_idle();
                if !stays {
                    self.drop_out(backend);
                }
                stays
            });
            for address in found {
                // It may be there by another name.
                if self.members.borrow().backends.iter().all(|other| other.place() != address.to_string()) {
                    let backend = Backend::spawn(group.backend.at(address), sink);
                    info!(backend = backend.name(), name = group.name, "a CLI has joined");
                    joined.insert(address, backend.clone());
                    self.join(backend);
                }
            }
        }
    }

    fn join(&self, backend: Backend) {
        let drains = lock(&self.drains);
        backend.inner.shared.marks.drain(is_on(&drains, &backend));
        drop(drains);
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

    /// The operator's list has changed.
    fn drain(&self, names: BTreeSet<String>) {
        let backends = self.members.borrow().backends.clone();
        for name in &names {
            if !backends.iter().any(|backend| backend.name() == name || backend.address() == Some(name)) {
                warn!(name, "there is no such CLI that could drain");
            }
        }
        let mut drains = lock(&self.drains);
        *drains = names;
        for backend in self.members.borrow().backends.iter() {
            backend.inner.shared.marks.drain(is_on(&drains, backend));
        }
    }
}

fn is_on(drains: &BTreeSet<String>, backend: &Backend) -> bool {
    drains.contains(backend.name()) || backend.address().is_some_and(|address| drains.contains(address))
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
