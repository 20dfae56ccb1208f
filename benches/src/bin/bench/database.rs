//! A PostgreSQL of the bench's own, that writes to its disk as one in use does.

use crate::Result;

/// A PostgreSQL that runs for as long as this.
pub(crate) struct Database;

impl Database {
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self)
    }

    /// The URL of an empty database.
    pub(crate) async fn fresh(&self) -> Result<String> {
        Err("no PostgreSQL yet".into())
    }
}
