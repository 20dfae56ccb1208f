//! The configuration of one backend.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    admission,
    health::Ejection,
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
        /// The connection token, if the CLI has one.
        token: Option<Secret>,
        /// Whether to open a keeper link too, so that running turns outlive the loss of the main link.
        keeper: bool,
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

    /// Its home, if this server can read and write it.
    pub(super) fn home(&self) -> Option<PathBuf> {
        match &self.source {
            Source::External { .. } => None,
            Source::Embedded(spec) => Some(spec.home.clone()),
        }
    }

    /// A copy of this configuration for another address, which also becomes the name.
    pub(super) fn at(&self, address: SocketAddr) -> Self {
        let (token, keeper) = match &self.source {
            Source::External { token, keeper, .. } => (token.clone(), *keeper),
            Source::Embedded(_) => (None, false),
        };
        let source = Source::External { host: address.ip().to_string(), port: address.port(), token, keeper };
        Self { name: address.to_string(), source, ..self.clone() }
    }
}
