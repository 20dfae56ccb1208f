//! Where the folders of sessions are on this machine.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    app::config::Config,
    backend::process::private,
    store::{SessionRecord, folder},
};

/// The folder of a CLI's home that has its sessions.
const SESSIONS: &str = "session-state";

/// The homes of CLIs on this machine.
#[derive(Debug)]
pub(super) struct Homes {
    state_dir: PathBuf,
    /// This node, if a server has run here.
    node: Option<String>,
    /// Whether servers start CLIs of their own here.
    are_embedded: bool,
    /// What is taken of a folder.
    pub(super) limits: folder::Limits,
}

impl Homes {
    pub(super) fn new(config: &Config) -> Self {
        let limits = folder::Limits {
            max_file: config.store.max_session_file_size,
            max_bytes: config.store.max_session_size,
            ..folder::Limits::default()
        };
        let node = fs::read_to_string(config.state_dir.join(NODE)).ok();
        let node = node.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
        let are_embedded = config.cli_url.is_empty();
        Self { state_dir: config.state_dir.clone(), node, are_embedded, limits }
    }

    /// The folder of a session, if it is on this machine's disk.
    pub(super) fn folder(&self, record: &SessionRecord) -> Option<PathBuf> {
        let is_here = self.node.as_deref() == Some(&record.facts.home_node) && !record.facts.home.is_empty();
        is_here.then(|| self.place(&record.facts.home, &record.id))
    }

    /// Where a session's folder is in a home.
    fn place(&self, home: &str, id: &str) -> PathBuf {
        self.state_dir.join(home).join(SESSIONS).join(id)
    }

    /// The ids of all folders in the homes of CLIs that servers have started here, with the home's name.
    pub(super) fn all(&self) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for home in names(&self.state_dir)?.into_iter().filter(|name| name.starts_with("cli-")) {
            let ids = names(&self.state_dir.join(&home).join(SESSIONS))?;
            found.extend(ids.into_iter().filter(|id| !id.starts_with('.')).map(|id| (home.clone(), id)));
        }
        found.sort();
        Ok(found)
    }

    /// The home for a session that comes from elsewhere, which no server may use meanwhile.
    pub(super) fn first(&self, id: &str) -> Result<First, Box<dyn std::error::Error + Send + Sync>> {
        if !self.are_embedded {
            let problem = "the sessions of the CLIs at --cli-url are not on this machine: use --store-url and --archive";
            return Err(problem.into());
        }
        let state_dir = &self.state_dir;
        private::create(state_dir)?;
        let lock = File::options().create(true).append(true).open(state_dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("a server uses {}: end it first", state_dir.display()).into());
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let node = match &self.node {
            Some(node) => node.clone(),
            None => new_node(state_dir)?,
        };
        let home = "cli-0".to_owned();
        private::create(&state_dir.join(&home))?;
        Ok(First { folder: self.place(&home, id), home, node, _lock: lock })
    }
}

/// Where to put a session's folder.
#[derive(Debug)]
pub(super) struct First {
    pub(super) folder: PathBuf,
    pub(super) home: String,
    pub(super) node: String,
    /// Held as long as the folder is written.
    _lock: File,
}

/// The file with this node's id.
const NODE: &str = "node";

fn new_node(state_dir: &Path) -> io::Result<String> {
    let id = Uuid::new_v4().to_string();
    // Whole or not at all: half of an id would be another node's.
    let half = state_dir.join("node.new");
    fs::write(&half, &id)?;
    fs::rename(&half, state_dir.join(NODE))?;
    Ok(id)
}

/// The names of the folders in one, none if it is not there. What is no text is no session's.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}
