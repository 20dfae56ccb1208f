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
    postgres,
    record::Incarnation,
    runner::{Availability, Engine, Runner},
    sqlite, upkeep,
};
use crate::copilot::Secret;

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is.
    pub location: Location,
    /// The id of this node.
    pub node: String,
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
        let (runner, lock) = match &config.location {
            Location::Sqlite(path) => (sqlite::open(path, &config.node, config.time_limit).await?, None),
            Location::Postgres { url, password } => {
                let target = postgres::target(url, password.as_ref(), config.time_limit)?;
                let (runner, lock) =
                    postgres::open(target, &config.node, config.time_limit, config.alone).await?;
                (runner, Some(lock))
            }
        };
        let runner = Arc::new(runner);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(upkeep::run(runner.clone(), lock, stop.clone()));
        tracker.close();
        info!(engine = ?runner.engine, node = config.node, number = runner.incarnation.number, "the store is open");
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
