//! The state directory: who uses it, which node it makes of this server, and the names in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::warn;
use uuid::Uuid;

use crate::backend::process::private;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state directory {}: {problem}", .path.display())]
pub struct Unusable {
    /// The directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The file with this node's id.
const NODE: &str = "node";

/// The name of a CLI in logs and answers. Of an embedded CLI it is also the name of its home, so it must never change.
pub(super) fn cli_name(number: usize) -> String {
    format!("{CLI}{number}")
}

/// What the names of all CLIs begin with.
pub(super) const CLI: &str = "cli-";

/// Locks the state directory. Two servers on one store would undo each other's work, and two CLIs on one home would fork the
/// histories of its sessions without a word (cli-protocol.md, section 10). One lock is for all: nobody else may use any of it.
///
/// # Errors
/// If another server has it.
pub(super) fn lock(state_dir: &Path) -> Result<File, Unusable> {
    try_lock(state_dir)?.ok_or_else(|| in_use(state_dir))
}

/// [`lock`], for which a server that is just ending is waited for.
pub(super) async fn lock_soon(state_dir: &Path) -> Result<File, Unusable> {
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(file) = try_lock(state_dir)? {
            return Ok(file);
        }
        if Instant::now() >= give_up {
            return Err(in_use(state_dir));
        }
        sleep(LOCK_PAUSE).await;
    }
}

/// How long a server that is just ending may take to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The pause before it is tried once more.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

fn in_use(state_dir: &Path) -> Unusable {
    let problem = "another copilot-grpc uses it; end that one, or choose another with --state-dir";
    Unusable { path: state_dir.into(), problem: problem.into() }
}

/// The lock; `None`: another server has it.
fn try_lock(state_dir: &Path) -> Result<Option<File>, Unusable> {
    let problem = |problem: String| Unusable { path: state_dir.into(), problem };
    let open = || {
        private::create(state_dir)?;
        File::options().create(true).append(true).open(state_dir.join("lock"))
    };
    let file = open().map_err(|error| problem(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            warn!(%error, "the state directory cannot be locked: make sure that nobody else uses it");
            Ok(Some(file))
        }
    }
}

/// The id of this node, made when the state directory is first used.
pub(super) fn node(state_dir: &Path) -> Result<String, Unusable> {
    let failed = |error: io::Error| Unusable { path: state_dir.into(), problem: error.to_string() };
    if let Some(id) = known_node(state_dir).map_err(failed)? {
        return Ok(id);
    }
    let id = Uuid::new_v4().to_string();
    // Whole or not at all: half of an id would be another node's.
    let half = state_dir.join("node.new");
    fs::write(&half, &id).and_then(|()| fs::rename(&half, state_dir.join(NODE))).map_err(failed)?;
    Ok(id)
}

/// The id of this node, if a server has used the state directory.
pub(super) fn known_node(state_dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(state_dir.join(NODE)) {
        Ok(id) => Ok(Some(id.trim().to_owned()).filter(|id| !id.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
