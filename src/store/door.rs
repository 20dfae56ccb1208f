//! The store's door: what it is opened with, and the handle by which all calls go.
//!
//! Tests: `store/tests`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::info;

use super::{
    error::OpenError,
    neighbours::{Load, Neighbours, Node},
    postgres,
    record::{Incarnation, Ownership},
    runner::{Availability, Engine, Runner},
    sqlite, upkeep,
};
use crate::{copilot::Secret, lock::lock};

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is.
    pub location: Location,
    /// What this process is among those that share the store.
    pub node: Node,
    /// The time limit of each call. One with much data gets more, a second for each 8 MiB.
    pub time_limit: Duration,
    /// Whether no other server may use the store, because this one has sessions on its own disk. With SQLite it is always so.
    pub alone: bool,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite, made if it is not there. Its folder is.
    Sqlite(PathBuf),
    /// A database of PostgreSQL.
    Postgres {
        /// Its URL, which may hold a password.
        url: Secret,
        /// The password, if the URL has none.
        password: Option<Secret>,
    },
}

/// The store. Cheap to clone; [`close`](Self::close) lets go of it, and so does dropping the last handle.
///
/// # Cancel safety
/// A call whose future is dropped goes on to its end, which is not told to anybody.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) runner: Arc<Runner>,
    upkeep: TaskTracker,
    stop: CancellationToken,
    /// Stops the upkeep when the last handle is dropped.
    _used: Arc<DropGuard>,
}

impl Store {
    /// Opens the store, makes its tables if there are none, and begins this node's next incarnation.
    ///
    /// # Errors
    /// What is wrong, and what to do. Nothing was written then, apart from tables.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let Config { location, node, time_limit, alone } = config;
        let name = node.name.clone();
        let (runner, lock) = match &location {
            Location::Sqlite(path) => (sqlite::open(path, node, time_limit).await?, None),
            Location::Postgres { url, password } => {
                let target = postgres::target(url, password.as_ref(), time_limit)?;
                let (runner, lock) = postgres::open(target, node, time_limit, alone).await?;
                (runner, Some(lock))
            }
        };
        let runner = Arc::new(runner);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(upkeep::run(runner.clone(), lock, stop.clone()));
        tracker.spawn(stop.clone().run_until_cancelled_owned(upkeep::watch_lease(runner.clone())));
        tracker.close();
        info!(engine = ?runner.engine, node = name, number = runner.incarnation.number, "the store is open");
        Ok(Self { runner, upkeep: tracker, _used: Arc::new(stop.clone().drop_guard()), stop })
    }

    /// What it is.
    pub fn engine(&self) -> Engine {
        self.runner.engine
    }

    /// This process, among those of all nodes.
    pub fn incarnation(&self) -> &Incarnation {
        &self.runner.incarnation
    }

    /// The life of this process's lease, now and as it changes; `None`: it is over. A session that was taken in another life must not
    /// be acted for any more.
    pub fn lease(&self) -> watch::Receiver<Option<u64>> {
        self.runner.lease.held()
    }

    /// Whether a session is this process's to act for, as far as its own clock tells.
    pub fn holds(&self, ownership: Ownership) -> bool {
        !self.is_shared() || self.runner.lease.life() == Some(ownership.life)
    }

    /// For how long a process counts as alive after a renewal of its lease.
    pub fn lease_term(&self) -> Duration {
        self.runner.node.lease
    }

    /// Whether several servers may share it, so that sessions have owners.
    pub fn is_shared(&self) -> bool {
        self.engine() == Engine::Postgres
    }

    /// The living nodes as they were when this process last renewed its lease, this one included; none in a file.
    pub fn neighbours(&self) -> watch::Receiver<Neighbours> {
        self.runner.neighbours.subscribe()
    }

    /// Tells the other nodes what this one has to do, with the next renewal of its lease, or at once if its role changes.
    pub fn announce(&self, load: Load) {
        let before = std::mem::replace(&mut *lock(&self.runner.load), load);
        if before.role != load.role {
            self.runner.troubled.notify_one();
        }
    }

    /// This process, as the owner of the sessions that it makes; `None`: they have none.
    pub(super) fn owner(&self) -> Option<&Incarnation> {
        (self.is_shared() && !self.runner.node.is_command).then(|| self.incarnation())
    }

    /// Whether it answers, now and as it changes.
    pub fn availability(&self) -> watch::Receiver<Availability> {
        self.runner.availability.subscribe()
    }

    /// Lets go of the store, after the calls that run: other processes see at once that this one is gone. Later calls fail.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the closing.
    pub async fn close(&self) {
        self.stop.cancel();
        self.upkeep.wait().await;
    }
}
