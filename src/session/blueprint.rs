//! What a session is made of, and the part of it that is stored with the session in the CLI. Pure.
//!
//! The CLI keeps a client's own notes with a session (`session.metadata.updateClientMetadata`). The facade notes there all
//! that it needs to load the session again after a restart, except for credentials: those are kept in memory only, and
//! where the session has some of its own, its owner has to bring them again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    policy::{Policy, Rule},
    profile::Profile,
};
use crate::copilot::{Provider, Secret, Settings, SystemMessage};

/// What a session is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blueprint {
    /// What the CLI is told.
    pub settings: Settings,
    /// What its tools may do.
    pub policy: Policy,
    /// Its owner's notes.
    pub labels: BTreeMap<String, String>,
    /// Whether the provider in `settings` is the operator's default, and not the caller's own.
    pub operators_provider: bool,
    /// Whose it is, as its creator said.
    pub owner: String,
    /// The operator's profile that it is under.
    pub profile: Option<Arc<Profile>>,
}

/// The part of a session that is never stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// A provider, with its key.
    pub provider: Option<Provider>,
    /// A GitHub token.
    pub github_token: Option<Secret>,
}

/// What has to be brought again before a stored session can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Its provider.
    #[error("provider")]
    Provider,
    /// Its GitHub token.
    #[error("github_token")]
    GitHubToken,
    /// Both.
    #[error("provider and github_token")]
    Both,
    /// One of them: nothing is stored with the session that says which.
    #[error("provider or github_token")]
    Either,
}

impl Blueprint {
    /// The same with other credentials, where there are some.
    pub(super) fn with(&self, credentials: Credentials) -> Self {
        let mut changed = self.clone();
        if let Some(provider) = credentials.provider {
            changed.settings.provider = Some(provider);
            changed.operators_provider = false;
        }
        if let Some(token) = credentials.github_token {
            changed.settings.github_token = Some(token);
        }
        changed
    }
}

/// What is stored with a session in the CLI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) model: Option<String>,
    reasoning_effort: Option<String>,
    system_message: SystemMessage,
    available_tools: Vec<String>,
    excluded_tools: Vec<String>,
    allow: Vec<(String, bool)>,
    working_directory: Option<String>,
    provider: ProviderOf,
    github_token: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) owner: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) profile: String,
}

/// Whose provider a session has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ProviderOf {
    #[default]
    GitHub,
    Operator,
    Profile,
    Caller,
}

impl Record {
    /// The names under which its pieces are stored. Another form of it gets other names.
    pub(super) const KEYS: [&str; 4] =
        ["copilot-grpc.v1", "copilot-grpc.v1.2", "copilot-grpc.v1.3", "copilot-grpc.v1.4"];

    /// The longest piece: the CLI stores 16 KiB under one name, and 64 KiB in all (observed).
    const PIECE: usize = 15 * 1024;

    pub(super) fn of(blueprint: &Blueprint) -> Self {
        let Blueprint { settings, policy, labels, operators_provider, owner, profile } = blueprint;
        let of_profile = |has: fn(&Profile) -> bool| profile.as_deref().is_some_and(has);
        Self {
            labels: labels.clone(),
            model: settings.model.clone(),
            reasoning_effort: settings.reasoning_effort.clone(),
            system_message: settings.system_message.clone(),
            available_tools: settings.available_tools.clone(),
            excluded_tools: settings.excluded_tools.clone(),
            allow: policy.rules().iter().map(|rule| (rule.kind.clone(), rule.allow)).collect(),
            working_directory: settings.working_directory.clone(),
            provider: match settings.provider {
                None => ProviderOf::GitHub,
                Some(_) if *operators_provider && of_profile(|profile| profile.provider.is_some()) => {
                    ProviderOf::Profile
                }
                Some(_) if *operators_provider => ProviderOf::Operator,
                Some(_) => ProviderOf::Caller,
            },
            github_token: settings.github_token.is_some()
                && !of_profile(|profile| profile.github_token.is_some()),
            owner: owner.clone(),
            profile: profile.as_ref().map(|profile| profile.name.clone()).unwrap_or_default(),
        }
    }

    /// What to store, one piece for each of [`Self::KEYS`]; `None` if it is too long.
    pub(super) fn write(&self) -> Option<BTreeMap<&'static str, String>> {
        let text = serde_json::to_string(self).ok()?;
        let mut rest = text.as_str();
        let pieces = Self::KEYS.into_iter().map(|key| {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(Self::PIECE));
            rest = after;
            (key, piece.to_owned())
        });
        let pieces = pieces.collect();
        rest.is_empty().then_some(pieces)
    }

    /// Reads what was stored; `None` if it is no record.
    pub(super) fn read(pieces: &BTreeMap<String, String>) -> Option<Self> {
        let text: String = Self::KEYS.iter().filter_map(|key| pieces.get(*key)).map(String::as_str).collect();
        serde_json::from_str(&text).ok()
    }

    /// Whether its provider is that of its profile.
    pub(super) fn has_profiles_provider(&self) -> bool {
        self.provider == ProviderOf::Profile
    }

    /// The session that was stored, with these credentials and else the operator's provider where that is what it had. Its
    /// profile is the caller's business.
    pub(super) fn blueprint(
        self,
        credentials: Credentials,
        operator: Option<&Provider>,
    ) -> Result<Blueprint, Missing> {
        let operators_provider = credentials.provider.is_none()
            && matches!(self.provider, ProviderOf::Operator | ProviderOf::Profile);
        let provider = credentials.provider.or_else(|| operator.filter(|_| operators_provider).cloned());
        let no_provider = provider.is_none() && self.provider != ProviderOf::GitHub;
        let no_token = credentials.github_token.is_none() && self.github_token;
        match (no_provider, no_token) {
            (false, false) => {}
            (true, false) => return Err(Missing::Provider),
            (false, true) => return Err(Missing::GitHubToken),
            (true, true) => return Err(Missing::Both),
        }
        let policy = Policy::new(self.allow.into_iter().map(|(kind, allow)| Rule { kind, allow }).collect());
        let settings = Settings {
            model: self.model,
            provider,
            github_token: credentials.github_token,
            reasoning_effort: self.reasoning_effort,
            system_message: self.system_message,
            available_tools: self.available_tools,
            excluded_tools: self.excluded_tools,
            ask_permission: !policy.denies_all(),
            working_directory: self.working_directory,
        };
        Ok(Blueprint {
            settings,
            policy,
            labels: self.labels,
            operators_provider,
            owner: self.owner,
            profile: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(key: &str) -> Provider {
        Provider {
            base_url: "http://127.0.0.1:1".into(),
            api_key: Some(Secret::new(key)),
            ..Provider::default()
        }
    }

    fn blueprint(provider: Option<Provider>, operators_provider: bool, token: Option<&str>) -> Blueprint {
        Blueprint {
            settings: Settings {
                model: Some("m".into()),
                provider,
                github_token: token.map(Secret::new),
                reasoning_effort: Some("low".into()),
                system_message: SystemMessage::Replace { content: "be brief".into() },
                available_tools: vec!["builtin:*".into()],
                excluded_tools: vec!["bash".into()],
                ask_permission: true,
                working_directory: Some("/work".into()),
            },
            policy: Policy::allowing(&["shell".into()]),
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            operators_provider,
            owner: "ann".into(),
            profile: None,
        }
    }

    fn read(pieces: &BTreeMap<&'static str, String>) -> Option<Record> {
        Record::read(&pieces.iter().map(|(key, piece)| ((*key).to_owned(), piece.clone())).collect())
    }

    fn stored(blueprint: &Blueprint) -> Record {
        read(&Record::of(blueprint).write().unwrap()).unwrap()
    }

    #[test]
    fn a_session_is_as_it_was_once_its_credentials_are_there_again() {
        let check = |before: Blueprint, credentials: Credentials| {
            let operator = provider("operator");
            assert_eq!(stored(&before).blueprint(credentials, Some(&operator)), Ok(before));
        };
        check(blueprint(None, false, None), Credentials::default());
        check(blueprint(Some(provider("operator")), true, None), Credentials::default());
        let own = Credentials { provider: Some(provider("own")), github_token: Some(Secret::new("t")) };
        check(blueprint(Some(provider("own")), false, Some("t")), own);
    }

    #[test]
    fn what_is_missing_is_named_and_another_provider_is_never_taken_instead() {
        let check = |before: Blueprint, operator: Option<&Provider>, missing| {
            assert_eq!(stored(&before).blueprint(Credentials::default(), operator), Err(missing));
        };
        let operator = provider("operator");
        check(blueprint(Some(provider("own")), false, None), Some(&operator), Missing::Provider);
        check(blueprint(Some(provider("own")), false, Some("t")), Some(&operator), Missing::Both);
        check(blueprint(None, false, Some("t")), Some(&operator), Missing::GitHubToken);
        check(blueprint(Some(provider("operator")), true, None), None, Missing::Provider);
    }

    #[test]
    fn no_credential_is_ever_stored() {
        let record = Record::of(&blueprint(Some(provider("sk-secret")), false, Some("ghu_secret")));
        let text = format!("{:?}", record.write().unwrap());
        assert!(!text.contains("secret") && !text.contains("127.0.0.1"), "{text}");
    }

    #[test]
    fn a_long_record_is_stored_in_pieces_that_the_cli_takes() {
        let mut large = blueprint(None, false, None);
        large.settings.system_message = SystemMessage::Replace { content: "é".repeat(25_000) };
        let pieces = Record::of(&large).write().unwrap();
        assert!(pieces.values().all(|piece| piece.len() <= 16 * 1024));
        assert_eq!(read(&pieces), Some(Record::of(&large)));
        // A shorter one takes the place of all pieces of a longer one.
        assert_eq!(Record::of(&Blueprint::default()).write().unwrap().len(), pieces.len());
    }

    #[test]
    fn a_record_that_is_too_long_is_not_written_and_nonsense_is_not_read() {
        let mut large = blueprint(None, false, None);
        large.labels.insert("note".into(), "x".repeat(60 * 1024));
        assert_eq!(Record::of(&large).write(), None);
        let check =
            |text: &str, expected| assert_eq!(read(&[(Record::KEYS[0], text.to_owned())].into()), expected);
        check("nonsense", None);
        check("{}", Some(Record::default()));
        assert_eq!(read(&BTreeMap::new()), None);
    }
}
