//! How every call of the store is run: in time, to its end, and with its failures noted.

use std::{
    fs::File,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    connection::{Failure, Target},
    error::Error,
    neighbours::{Load, Neighbours, Node, Role},
    pool::{Pool, Work},
    record::Incarnation,
    statement::{Row, Statement},
    term::Term,
};
use crate::lock::lock;

/// What a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file of this server's own.
    Sqlite,
    /// A database that several servers may share.
    Postgres,
}

/// Whether the store answers.
#[derive(Debug, Clone)]
pub enum Availability {
    /// It does.
    Here,
    /// It does not: calls fail at once until it does.
    Away {
        /// Since when.
        since: Instant,
        /// Why.
        problem: String,
    },
}

impl Availability {
    /// Whether it answers.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }
}

/// How fast large data is expected to go, at the least, in bytes a second: a call with much of it gets more time.
const SLOWEST: usize = 8 * 1024 * 1024;

/// How many connections to PostgreSQL there are at most. Its calls take about a millisecond, and all of a store's servers
/// together have often no more than a hundred.
const CONNECTIONS: u32 = 8;

/// How many connections read an SQLite file at once. One writes.
const READERS: u32 = 4;

/// What runs calls of the store.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) engine: Engine,
    pub(super) node: Node,
    pub(super) incarnation: Incarnation,
    pub(super) lease: Term,
    /// What the other nodes are told that this one has to do.
    pub(super) load: Mutex<Load>,
    /// The living nodes, when they were last looked at.
    pub(super) neighbours: watch::Sender<Neighbours>,
    pub(super) time_limit: Duration,
    pub(super) availability: watch::Sender<Availability>,
    /// Notified when the store seems to be away, so that it is looked at.
    pub(super) troubled: Notify,
    readers: Arc<Pool>,
    writers: Arc<Pool>,
    /// Held as long as this server uses the file.
    file_lock: Mutex<Option<File>>,
}

impl Runner {
    pub(super) fn new(
        writer: Target,
        reader: Option<Target>,
        node: Node,
        incarnation: Incarnation,
        began: Instant,
        time_limit: Duration,
        file_lock: Option<File>,
    ) -> Self {
        let engine = match writer {
            Target::Sqlite(_) => Engine::Sqlite,
            Target::Postgres(_) => Engine::Postgres,
        };
        let (readers, writers) = match reader {
            Some(reader) => (Arc::new(Pool::new(reader, READERS)), Arc::new(Pool::new(writer, 1))),
            None => {
                let all = Arc::new(Pool::new(writer, CONNECTIONS));
                (all.clone(), all)
            }
        };
        let lease = Term::new(node.lease, engine == Engine::Postgres);
        lease.granted(began);
        let role = if node.is_command { Role::Command } else { Role::Serving };
        Self {
            engine,
            node,
            incarnation,
            lease,
            load: Mutex::new(Load { role, sessions: 0, turns: 0, room: 0 }),
            neighbours: watch::Sender::new(Neighbours::none()),
            time_limit,
            availability: watch::Sender::new(Availability::Here),
            troubled: Notify::new(),
            readers,
            writers,
            file_lock: Mutex::new(file_lock),
        }
    }

    /// Runs a statement that only reads. On a connection that turns out to be broken, it is done again on a new one.
    pub(super) async fn read(self: &Arc<Self>, statement: Statement) -> Result<Vec<Row>, Error> {
        self.read_much(statement, 0).await
    }

    /// Runs a statement that only reads, so many bytes.
    pub(super) async fn read_much(
        self: &Arc<Self>,
        statement: Statement,
        bytes: usize,
    ) -> Result<Vec<Row>, Error> {
        self.refuse_if_away()?;
        let runner = self.clone();
        self.run(bytes, async move {
            let mut work = runner.readers.take().await?;
            match work.rows(&statement).await {
                Err(Failure::Away(_)) => {
                    drop(work);
                    runner.readers.renew();
                    runner.readers.take().await?.rows(&statement).await
                }
                result => result,
            }
        })
        .await
    }

    /// Runs a statement that only reads, of at most one row.
    pub(super) async fn read_one(self: &Arc<Self>, statement: Statement) -> Result<Option<Row>, Error> {
        Ok(self.read(statement).await?.into_iter().next())
    }

    /// Runs what writes, with so many bytes. It goes on when the future is dropped.
    pub(super) async fn write<T, F>(
        self: &Arc<Self>,
        bytes: usize,
        act: impl FnOnce(Work) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.refuse_if_away()?;
        self.write_anyhow(bytes, act).await
    }

    /// Runs what writes, also if the store seems to be away.
    pub(super) async fn write_anyhow<T, F>(
        self: &Arc<Self>,
        bytes: usize,
        act: impl FnOnce(Work) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let writers = self.writers.clone();
        self.run(bytes, async move { act(writers.take().await?).await }).await
    }

    /// Runs a call to its end in a task of its own: a caller that goes away should not leave half a transaction, which would
    /// cost its connection.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        call: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Error> {
        let runner = self.clone();
        let limit = self.time_limit + Duration::from_secs_f64(bytes as f64 / SLOWEST as f64);
        let task = tokio::spawn(async move {
            let result = timeout(limit, call).await;
            let result = result.unwrap_or_else(|_| Err(Failure::Away(late(limit))));
            result.map_err(|failure| {
                if let Failure::Away(problem) = &failure {
                    runner.is_away(problem);
                }
                failure.into_error()
            })
        });
        let ended = |_| Error::Unavailable { problem: "this server is ending".into() };
        task.await.map_err(ended)?
    }

    /// The life of this process's lease, in which alone it may act for what it takes.
    pub(super) fn life(&self) -> Result<u64, Error> {
        if let Some(life) = self.lease.life() {
            return Ok(life);
        }
        self.refuse_if_away()?;
        Err(no_lease())
    }

    fn refuse_if_away(&self) -> Result<(), Error> {
        match &*self.availability.borrow() {
            Availability::Here => Ok(()),
            Availability::Away { problem, .. } => Err(Error::Unavailable { problem: problem.clone() }),
        }
    }

    /// Whether the store answers, as far as is known.
    pub(super) fn is_seen(&self) -> bool {
        self.availability.borrow().is_here()
    }

    /// Notes that the store is away.
    pub(super) fn is_away(&self, problem: &str) {
        let mut is_new = false;
        self.availability.send_if_modified(|availability| {
            is_new = availability.is_here();
            let since = match availability {
                Availability::Here => Instant::now(),
                Availability::Away { problem: known, .. } if known == problem => return false,
                Availability::Away { since, .. } => *since,
            };
            *availability = Availability::Away { since, problem: problem.into() };
            true
        });
        // Not each time that it is looked at, which would be at once again.
        if is_new {
            warn!(problem, "the store is away");
            self.troubled.notify_one();
        }
    }

    /// Notes that the store answers. Connections of before are not used any more.
    pub(super) fn is_here(&self) {
        if self.is_seen() {
            return;
        }
        self.readers.renew();
        self.writers.renew();
        self.availability.send_replace(Availability::Here);
        info!("the store is back");
    }

    /// Waits for the calls that run, and lets go of all connections and of the file.
    pub(super) async fn close(&self) {
        let closed = async {
            self.readers.close().await;
            self.writers.close().await;
        };
        if timeout(self.time_limit, closed).await.is_err() {
            warn!("the store does not close in time");
        }
        drop(lock(&self.file_lock).take());
    }
}

/// Why a process may not act for its sessions.
pub(super) fn no_lease() -> Error {
    Error::Unavailable { problem: "this server could not renew its lease in time".into() }
}

/// The problem of a call without an answer.
pub(super) fn late(limit: Duration) -> String {
    format!("it did not answer within {limit:?}")
}
