//! The configuration of one backend.

use std::path::{Path, PathBuf};

use super::{
    admission,
    health::Ejection,
    names::{Names, Target},
    process::{Spec, discover::Form},
};
use crate::copilot::Secret;

/// Where a CLI comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Somebody else runs it.
    External {
        /// A host name or address.
        host: String,
        /// The port.
        port: u16,
        /// How the host is looked up; `None`: as the system does.
        names: Option<Names>,
        /// The connection token, if the CLI has one.
        token: Option<Secret>,
        /// Whether to open a keeper link too, so that running turns outlive the loss of the main link.
        keeper: bool,
        /// Its `COPILOT_HOME`, if this process can read and write it.
        home: Option<PathBuf>,
    },
    /// The supervisor runs it. It has one link, the process's standard input and output, which is lost only with the process.
    Embedded(Spec),
}

/// The configuration of one backend.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name in logs.
    pub name: String,
    /// Where the CLI comes from.
    pub source: Source,
    /// The largest message taken from it, in bytes.
    pub max_frame: usize,
    /// How many turns it takes.
    pub turns: admission::Limits,
    /// When it gets no new sessions because too much failed.
    pub ejection: Ejection,
}

impl Config {
    /// Where it listens, if it is external.
    pub(super) fn address(&self) -> Option<String> {
        match &self.source {
            Source::External { host, port, .. } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Source::External { host, port, .. } => Some(format!("{host}:{port}")),
            Source::Embedded(_) => None,
        }
    }

    /// Its form, if it is embedded.
    pub(super) fn form(&self) -> Option<Form> {
        match &self.source {
            Source::External { .. } => None,
            Source::Embedded(spec) => Some(spec.form),
        }
    }

    /// Its `COPILOT_HOME`, if this process can read and write it.
    pub(super) fn home(&self) -> Option<&Path> {
        match &self.source {
            Source::External { home, .. } => home.as_deref(),
            Source::Embedded(spec) => Some(&spec.home),
        }
    }

    /// The folder that its sessions work in, unless they name one, if it is embedded.
    pub(super) fn work_dir(&self) -> Option<&Path> {
        match &self.source {
            Source::External { .. } => None,
            Source::Embedded(spec) => Some(&spec.work_dir),
        }
    }

    /// A copy of this configuration for a CLI that a name leads to, whose address also becomes the name.
    pub(super) fn at(&self, target: &Target) -> Self {
        let (token, keeper, homes) = match &self.source {
            Source::External { token, keeper, home, .. } => (token.clone(), *keeper, home.as_deref()),
            Source::Embedded(_) => (None, false, None),
        };
        let source = Source::External {
            host: target.host.clone(),
            port: target.port,
            names: target.names.clone(),
            token,
            keeper,
            home: homes.map(|homes| target.home(homes)),
        };
        Self { name: target.to_string(), source, ..self.clone() }
    }
}
