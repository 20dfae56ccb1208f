//! How one CLI is set up.

use std::net::SocketAddr;

use super::{
    admission,
    health::Ejection,
    process::{Spec, discover::Form},
};
use crate::copilot::Secret;

/// Where a CLI is to be found.
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
        /// Whether there is a second link, so that the loss of one does not end what runs.
        keeper: bool,
    },
    /// The supervisor runs it. There is one link, the process's standard input and output, and it is lost with the process only.
    Embedded(Spec),
}

/// How a backend is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name in logs.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// The largest message taken from it, in bytes.
    pub max_frame: usize,
    /// How many turns it takes.
    pub turns: admission::Limits,
    /// When it is not trusted with new sessions.
    pub ejection: Ejection,
}

impl Config {
    /// Where it listens, if somebody else runs it.
    pub(super) fn address(&self) -> Option<String> {
        match &self.source {
            Source::External { host, port, .. } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Source::External { host, port, .. } => Some(format!("{host}:{port}")),
            Source::Embedded(_) => None,
        }
    }

    /// Its form, if it is our own.
    pub(super) fn form(&self) -> Option<Form> {
        match &self.source {
            Source::External { .. } => None,
            Source::Embedded(spec) => Some(spec.form),
        }
    }

    /// The same for another address, which is then its name.
    pub(super) fn at(&self, address: SocketAddr) -> Self {
        let (token, keeper) = match &self.source {
            Source::External { token, keeper, .. } => (token.clone(), *keeper),
            Source::Embedded(_) => (None, false),
        };
        let source = Source::External { host: address.ip().to_string(), port: address.port(), token, keeper };
        Self { name: address.to_string(), source, ..self.clone() }
    }
}
