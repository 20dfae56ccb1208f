//! What a session is made of. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    credentials::{Credentials, Unfit},
    policy::Policy,
    profile::Profile,
};
use crate::copilot::{NamedProvider, Settings};

/// What a session is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Blueprint {
    /// What the CLI is told.
    pub settings: Settings,
    /// What its tools may do.
    pub policy: Policy,
    /// Its owner's notes.
    pub labels: BTreeMap<String, String>,
    /// Who it belongs to, in the caller's own terms.
    pub owner: String,
    /// Whether the provider in `settings` is the operator's default, and not the caller's own.
    pub operators_provider: bool,
    /// How long its requests wait for an answer; `None` is [`DEFAULT_ASK_TIMEOUT`].
    pub ask_timeout: Option<Duration>,
    /// The operator's profile that it is under.
    pub profile: Option<Arc<Profile>>,
}

/// How long requests of a session wait for an answer that was stored without such a time.
pub(in crate::session) const DEFAULT_ASK_TIMEOUT: Duration = Duration::from_secs(5 * 60);

impl Blueprint {
    /// The part of it that is never stored, and servers that are, as they may have changed: as far as it is the caller's own.
    pub(in crate::session) fn credentials(&self) -> Credentials {
        let settings = &self.settings;
        Credentials {
            provider: settings.provider.clone().filter(|_| !self.operators_provider),
            github_token: settings.github_token.clone().filter(|_| !self.has_profiles_token()),
            providers: settings.providers.clone(),
            mcp_servers: settings.mcp_servers.clone(),
        }
    }

    /// Whether it has models of several providers of its own.
    fn has_models(&self) -> bool {
        self.settings.options.as_ref().is_some_and(|options| !options.models.is_empty())
    }

    /// Whether its GitHub token is that of its profile: where that has one, a session can have no other.
    pub(super) fn has_profiles_token(&self) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.github_token.is_some())
    }

    /// The same with other credentials, where there are some.
    pub(in crate::session) fn with(&self, credentials: Credentials) -> Result<Self, Unfit> {
        credentials.fit(self.has_models())?;
        let mut changed = self.clone();
        if let Some(provider) = credentials.provider {
            changed.settings.provider = Some(provider);
            changed.operators_provider = false;
        }
        if let Some(token) = credentials.github_token {
            changed.settings.github_token = Some(token);
        }
        let brought = |named: &NamedProvider| credentials.providers.iter().any(|new| new.name == named.name);
        changed.settings.providers.retain(|named| !brought(named));
        changed.settings.providers.extend(credentials.providers);
        changed.settings.mcp_servers.extend(credentials.mcp_servers);
        one_payer(&changed.settings, self.settings.github_token.is_some())?;
        Ok(changed)
    }
}

/// A session is paid for by a provider or by a GitHub token: the CLI refuses both together (observed). `token_is_old`: it is
/// not the token that was brought.
pub(super) fn one_payer(settings: &Settings, token_is_old: bool) -> Result<(), Unfit> {
    match (&settings.provider, &settings.github_token) {
        (Some(_), Some(_)) if token_is_old => {
            Err(Unfit { field: "provider", problem: "this session has a GitHub token, and cannot have both" })
        }
        (Some(_), Some(_)) => {
            Err(Unfit { field: "github_token", problem: "this session has a provider, and cannot have both" })
        }
        _ => Ok(()),
    }
}
