//! The secrets of a session that its callers bring, and which of them fit together.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::copilot::{McpServer, NamedProvider, Provider, Secret};

/// The part of a session that is never stored but sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// A provider, with its key.
    pub provider: Option<Arc<Provider>>,
    /// A GitHub token.
    pub github_token: Option<Secret>,
    /// Providers, of several that the session has: each takes the place of the one with its name.
    pub providers: Vec<NamedProvider>,
    /// MCP servers, with what is secret in them: each takes the place of the one with its name, or is added.
    pub mcp_servers: BTreeMap<String, McpServer>,
}

/// What has to be brought again before a stored session can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// These fields of the request.
    Fields(Vec<&'static str>),
    /// Some of them: nothing is stored with the session that says which.
    Unknown,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(fields) => f.write_str(&fields.join(" and ")),
            Self::Unknown => f.write_str("provider or github_token"),
        }
    }
}

/// Credentials that a session cannot have: what they are for it was created without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Unfit {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Credentials {
    /// As they are sealed. It is the only place where they are written.
    pub(in crate::session) fn write(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// What was sealed; `None`: it is nothing of ours.
    pub(in crate::session) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// These, and where there are others of their kind, those.
    pub(in crate::session) fn with(mut self, others: Self) -> Self {
        self.provider = others.provider.or(self.provider);
        self.github_token = others.github_token.or(self.github_token);
        self.providers.retain(|own| others.providers.iter().all(|other| other.name != own.name));
        self.providers.extend(others.providers);
        self.mcp_servers.extend(others.mcp_servers);
        self
    }

    /// The CLI does not mix one provider for all with several for some (observed).
    pub(super) fn fit(&self, several_providers: bool) -> Result<(), Unfit> {
        if several_providers && self.provider.is_some() {
            return Err(Unfit { field: "provider", problem: "this session has several: bring `providers`" });
        }
        if !several_providers && !self.providers.is_empty() {
            return Err(Unfit { field: "providers", problem: "this session was created without `models`" });
        }
        Ok(())
    }
}
