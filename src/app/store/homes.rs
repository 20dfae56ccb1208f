//! Where the folders of sessions are on this machine.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    app::{
        config::{CliAddress, Config},
        state_dir,
    },
    backend::{CLI_NAME, process::private},
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
    /// The homes of those that others run, as far as they are seen from here.
    external: Vec<(CliAddress, String)>,
    /// What is taken of a folder.
    pub(super) limits: folder::Limits,
}

impl Homes {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let limits = folder::Limits {
            max_file: config.store.max_session_file_size,
            max_bytes: config.store.max_session_size,
            ..folder::Limits::default()
        };
        let (state_dir, are_embedded) = (config.state_dir.clone(), config.cli_url.is_empty());
        let external = config.cli_url.iter().cloned().zip(config.cli_home.iter().cloned()).collect();
        Ok(Self { node: state_dir::known_node(&state_dir)?, state_dir, are_embedded, external, limits })
    }

    /// The folder of a session, if it is on this machine's disk.
    pub(super) fn folder(&self, record: &SessionRecord) -> Option<PathBuf> {
        let (home, node) = (&record.facts.home, &record.facts.home_disk);
        let home = match node.as_str() {
            _ if home.is_empty() => None,
            "" => self.external(home),
            node => (self.node.as_deref() == Some(node)).then(|| self.state_dir.join(home)),
        };
        home.map(|home| folder_in(&home, &record.facts.cli_id))
    }

    /// The home of the CLI at this address.
    fn external(&self, address: &str) -> Option<PathBuf> {
        let is_it = |(cli, _): &&(CliAddress, String)| cli.to_string() == address;
        if let Some((_, home)) = self.external.iter().find(is_it) {
            return Some(home.into());
        }
        // The addresses that a name leads to are not known; homes tell them apart by their first label.
        let (host, _) = address.rsplit_once(':')?;
        let label = host.split('.').next()?;
        let mut homes = self.external.iter().filter(|(cli, _)| matches!(cli, CliAddress::Targets { .. }));
        homes.next().map(|(_, home)| home.replace(CLI_NAME, label).into())
    }

    /// The ids of all folders in the homes of CLIs that servers have started here, with the home's name.
    pub(super) fn all(&self) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for home in names(&self.state_dir)?.into_iter().filter(|name| name.starts_with(state_dir::CLI)) {
            let ids = names(&self.state_dir.join(&home).join(SESSIONS))?;
            found.extend(ids.into_iter().filter(|id| !id.starts_with('.')).map(|id| (home.clone(), id)));
        }
        found.sort();
        Ok(found)
    }

    /// The home for a session that comes from elsewhere, which no server may use meanwhile.
    pub(super) fn first(&self, id: &str) -> Result<First, Box<dyn std::error::Error + Send + Sync>> {
        let lock = state_dir::lock(&self.state_dir)?;
        if self.are_embedded {
            let (node, home) = (state_dir::node(&self.state_dir)?, state_dir::cli_name(0));
            let path = self.state_dir.join(&home);
            private::create(&path)?;
            return Ok(First { folder: folder_in(&path, id), home, node, _lock: lock });
        }
        let one = self.external.iter().find(|(cli, _)| matches!(cli, CliAddress::One { .. }));
        let Some((cli, home)) = one else {
            let problem =
                "the home of no CLI at --cli-url is known (--cli-home), and there is no archive (--archive)";
            return Err(problem.into());
        };
        let folder = folder_in(Path::new(home), id);
        Ok(First { folder, home: cli.to_string(), node: String::new(), _lock: lock })
    }
}

/// Where a session's folder is in a home.
fn folder_in(home: &Path, id: &str) -> PathBuf {
    home.join(SESSIONS).join(id)
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

/// The names of the folders in one, none if it is not there. What is no text is no session's.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", folder.display()))
        })?,
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
