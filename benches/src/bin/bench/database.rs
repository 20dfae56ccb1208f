//! A PostgreSQL of the bench's own, which writes to its disk as one in use does.

use test_postgres::{Options, Postgres};
use tokio::task::spawn_blocking;

use crate::Result;

/// A PostgreSQL that runs for as long as this.
pub(crate) struct Database(Postgres);

impl Database {
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self(spawn_blocking(|| Postgres::start(Options::Durable)).await?))
    }

    /// The URL of an empty database.
    pub(crate) async fn fresh(&self) -> String {
        self.0.database().await
    }
}
