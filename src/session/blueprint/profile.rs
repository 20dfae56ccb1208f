//! The operator's profiles: named defaults for sessions, and ceilings that a request may only stay below. Pure.
//!
//! A session is stored with its profile's name alone. So keys never leave the operator's hands, and what the operator
//! changes in a profile counts for its sessions from the next start on: credentials, permissions and ages. Model, tools and
//! system message are stored as they were when the session was made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::policy::Policy;
use crate::copilot::{Provider, Secret, Settings, SystemMessage};

/// A profile. What it does not say is as without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The provider of its sessions, which have no other.
    pub provider: Option<Arc<Provider>>,
    /// The GitHub token of its sessions, which have no other.
    pub github_token: Option<Secret>,
    /// The models that its sessions may have; any, if there are none. `*` stands for any text, `?` for any character.
    pub models: Vec<String>,
    /// The tools that its sessions may see; all of them, unless a request names some.
    pub available_tools: Option<Vec<String>>,
    /// The tools that its sessions may not see, in any case.
    pub excluded_tools: Vec<String>,
    /// What tools may do at most.
    pub policy: Option<Policy>,
    /// What the model is told of itself. A request may only add to it.
    pub system_message: Option<SystemMessage>,
    /// After so much time its sessions are deleted.
    pub max_session_age: Option<Duration>,
    /// The same for sessions in which nothing happens.
    pub max_session_idle: Option<Duration>,
}

/// What a request asks for beyond its profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// The field.
    pub field: String,
    /// What is allowed.
    pub allowed: String,
}

impl Excess {
    pub(super) fn new(field: &str, allowed: impl Into<String>) -> Self {
        Self { field: field.into(), allowed: allowed.into() }
    }

    /// The same in a field of this message.
    pub(in crate::session) fn within(self, message: &str) -> Self {
        Self { field: format!("{message}.{}", self.field), ..self }
    }
}

impl Profile {
    /// The model of sessions that name none: the first that is no pattern.
    pub fn default_model(&self) -> Option<String> {
        self.plain_models().first().map(|model| (*model).to_owned())
    }

    /// Its models that are no patterns.
    pub(in crate::session) fn plain_models(&self) -> Vec<&str> {
        let plain = self.models.iter().filter(|model| !model.contains(['*', '?']));
        plain.map(String::as_str).collect()
    }

    /// Replaces every secret of the profile that stands in a text.
    fn redact(&self, text: &str) -> String {
        let (provider, github_token) = (self.provider.clone(), self.github_token.clone());
        Settings { provider, github_token, ..Settings::default() }.redact(text)
    }
}

/// All profiles.
#[derive(Debug, Clone, Default)]
pub struct Profiles {
    named: BTreeMap<String, Arc<Profile>>,
    default: Option<Arc<Profile>>,
}

impl Profiles {
    /// These profiles. `default` is the name of the one for sessions that name none.
    pub fn new(profiles: impl IntoIterator<Item = Profile>, default: Option<&str>) -> Self {
        let named: BTreeMap<_, _> =
            profiles.into_iter().map(|profile| (profile.name.clone(), Arc::new(profile))).collect();
        let default = default.and_then(|name| named.get(name).cloned());
        Self { named, default }
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Profile>> {
        self.named.get(name).cloned()
    }

    /// The one for sessions that name none.
    pub fn unnamed(&self) -> Option<Arc<Profile>> {
        self.default.clone()
    }

    /// All of them.
    pub(in crate::session) fn all(&self) -> impl Iterator<Item = &Profile> {
        self.named.values().map(Arc::as_ref)
    }

    /// What must not be seen of them.
    pub(in crate::session) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let providers = self.all().filter_map(|profile| profile.provider.as_deref());
        providers.flat_map(Provider::secrets).chain(self.all().filter_map(|it| it.github_token.as_ref()))
    }

    /// Replaces every secret of every profile that stands in a text.
    pub(in crate::session) fn redact(&self, text: &str) -> String {
        self.named.values().fold(text.to_owned(), |text, profile| profile.redact(&text))
    }
}
