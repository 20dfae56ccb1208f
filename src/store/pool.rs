//! Connections that are ready for the next call, and a bound on how many there are.
//!
//! sqlx has pools, too. This one differs in what matters when a store is in trouble: it asks the store nothing when a connection
//! comes back, tries a connection once and not until the time is over, and keeps none that may be in the middle of something.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::{Connection, Failure, Target},
    statement::{Row, Statement},
};
use crate::lock::lock;

/// A pool of connections of one kind.
#[derive(Debug)]
pub(super) struct Pool {
    target: Target,
    permits: Arc<Semaphore>,
    size: u32,
    /// Those that nobody uses, the one used last at the end.
    idle: Mutex<Vec<Idle>>,
    /// Counts the times that all connections were given up.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    generation: u64,
}

impl Pool {
    pub(super) fn new(target: Target, size: u32) -> Self {
        let permits = Arc::new(Semaphore::new(size as usize));
        Self { target, permits, size, idle: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// A connection, once one is free.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place back.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Work, Failure> {
        let closed = |_| Failure::Away("this server is closing it".into());
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let generation = self.generation.load(Ordering::Acquire);
        let idle = lock(&self.idle).pop();
        let connection = match idle {
            Some(idle) if idle.generation == generation => idle.connection,
            _ => self.target.connect().await?,
        };
        let pool = self.clone();
        Ok(Work {
            connection: Some(connection),
            generation,
            is_whole: true,
            in_transaction: false,
            pool,
            _permit: permit,
        })
    }

    /// Gives all connections up, those in use when they come back: they may lead to a store that is there no more.
    pub(super) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        lock(&self.idle).clear();
    }

    /// Waits for those in use, and closes all.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some open.
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(self.size).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *lock(&self.idle));
        for each in idle {
            each.connection.close().await;
        }
    }
}

/// A connection in use. It comes back to its pool when it is dropped, unless it is in the middle of something: then it is
/// closed, and the store undoes what was not committed.
#[derive(Debug)]
pub(super) struct Work {
    connection: Option<Connection>,
    generation: u64,
    /// No statement is half done.
    is_whole: bool,
    in_transaction: bool,
    pool: Arc<Pool>,
    /// After the connection, so that there are never more than there are permits.
    _permit: OwnedSemaphorePermit,
}

impl Work {
    /// Runs a statement, and gives its rows.
    pub(super) async fn rows(&mut self, statement: &Statement) -> Result<Vec<Row>, Failure> {
        let connection = self.start()?;
        let result = connection.rows(statement).await;
        self.note(result)
    }

    /// Runs a statement of at most one row.
    pub(super) async fn row(&mut self, statement: &Statement) -> Result<Option<Row>, Failure> {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// Runs a statement, and tells how many rows it has written.
    pub(super) async fn execute(&mut self, statement: &Statement) -> Result<u64, Failure> {
        let connection = self.start()?;
        let result = connection.execute(statement).await;
        self.note(result)
    }

    /// Begins a transaction. Unless it is committed, nothing of it is done.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        let connection = self.start()?;
        let result = connection.begin().await;
        self.note(result)?;
        self.in_transaction = true;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        let connection = self.start()?;
        let result = connection.raw("COMMIT").await;
        self.note(result)?;
        self.in_transaction = false;
        Ok(())
    }

    /// Undoes the transaction. One that is dropped is undone, too, at the price of its connection.
    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        let connection = self.start()?;
        let result = connection.raw("ROLLBACK").await;
        self.note(result)?;
        self.in_transaction = false;
        Ok(())
    }

    /// A statement begins, and may be dropped before its end.
    fn start(&mut self) -> Result<&mut Connection, Failure> {
        let broken = || Failure::Away("its connection is broken".into());
        if !self.is_whole {
            return Err(broken());
        }
        self.is_whole = false;
        self.connection.as_mut().ok_or_else(broken)
    }

    /// It has ended. A connection is whole after an error that the store itself has told, and after no other.
    fn note<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, Failure> {
        let result =
            result.map_err(|error| (matches!(error, sqlx::Error::Database(_)), Failure::from(error)));
        self.is_whole = match &result {
            Ok(_) => true,
            Err((is_told, failure)) => *is_told && !matches!(failure, Failure::Away(_)),
        };
        result.map_err(|(_, failure)| failure)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let is_current = self.generation == self.pool.generation.load(Ordering::Acquire);
        let Some(connection) = self.connection.take() else { return };
        if self.is_whole && !self.in_transaction && is_current {
            let idle = Idle { connection, generation: self.generation };
            lock(&self.pool.idle).push(idle);
        }
    }
}
