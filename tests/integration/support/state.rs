//! Where servers keep what they have: in a state directory, and in its store or in a PostgreSQL database.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{sync::OnceCell, task::spawn_blocking};

/// The engine of the store, where a test says nothing of it: `sqlite`, or `postgres` to run the tests on that.
const ENGINE: &str = "TEST_STORE";

/// Where a server keeps what it has: the next one on it has the same sessions.
pub(crate) struct State {
    dir: TempDir,
    database: Arc<Database>,
    /// Whether the sessions are in the database.
    in_database: bool,
}

impl Default for State {
    fn default() -> Self {
        let in_database = match env::var(ENGINE).as_deref() {
            Err(_) | Ok("sqlite") => false,
            Ok("postgres") => true,
            Ok(other) => panic!("{ENGINE}: {other:?} is neither sqlite nor postgres"),
        };
        Self { dir: tempfile::tempdir().unwrap(), database: Arc::default(), in_database }
    }
}

impl State {
    /// That of a server that is told by other flags where its sessions are.
    pub(crate) fn without_database() -> Self {
        Self { in_database: false, ..Self::default() }
    }

    /// That of a server beside others, with which it shares the database of this one.
    pub(crate) fn beside(&self) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), database: self.database.clone(), in_database: true }
    }

    /// A folder that stays when the server's own is removed.
    pub(crate) fn outer(&self) -> &Path {
        self.dir.path()
    }

    /// The state directory, which a server makes itself, for its eyes only.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What a server is told of it.
    pub(crate) async fn flags(&self) -> Vec<OsString> {
        let mut flags = vec!["--state-dir".into(), self.dir().into()];
        if self.in_database {
            flags.push(format!("--store-url={}", self.database.url().await).into());
            // Longer than tests let pass on a clock of their own.
            flags.push("--lease=600s".into());
        }
        flags
    }
}

/// A database, which is made when it is first needed.
#[derive(Default)]
struct Database {
    url: OnceCell<String>,
}

impl Database {
    async fn url(&self) -> &str {
        let made = async { spawn_blocking(test_postgres::shared).await.unwrap().database().await };
        self.url.get_or_init(|| made).await
    }
}
