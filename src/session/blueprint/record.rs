//! The part of a blueprint that is stored as it is. Pure.
//!
//! It is all that it takes to load the session again after a restart, except for credentials: those are kept in memory, and sealed in
//! the store where the operator has given a key. Otherwise their owner has to bring them again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    blueprint::{Blueprint, one_payer},
    credentials::{Credentials, Missing, Unfit},
    policy::Policy,
};
use crate::{
    copilot::{McpServer, Options, Provider, ProviderModel, Settings, Skills, SystemMessage, Tool},
    store::Facts,
};

/// What is stored of what a session is made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::session) struct Record {
    /// This and the next four have columns of their own.
    #[serde(skip)]
    pub(in crate::session) labels: BTreeMap<String, String>,
    #[serde(skip)]
    pub(in crate::session) owner: String,
    #[serde(skip)]
    pub(in crate::session) profile: String,
    #[serde(skip)]
    pub(in crate::session) model: Option<String>,
    #[serde(skip)]
    pub(in crate::session) reasoning_effort: Option<String>,
    system_message: SystemMessage,
    available_tools: Vec<String>,
    excluded_tools: Vec<String>,
    policy: Policy,
    working_directory: Option<String>,
    user_input: bool,
    elicitation: bool,
    exit_plan: bool,
    ask_timeout: Option<Duration>,
    provider: ProviderOf,
    github_token: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool>,
    /// The MCP servers that hold no secret.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mcp_servers: BTreeMap<String, McpServer>,
    /// The names of those that do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secret_mcp_servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skills: Option<Skills>,
    /// It names the providers that have to be brought again: those of its models.
    #[serde(flatten)]
    options: Options,
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
    /// The longest one, in bytes.
    pub(in crate::session) const MAX: usize = 1024 * 1024;

    pub(in crate::session) fn of(blueprint: &Blueprint) -> Self {
        let Blueprint { settings, policy, labels, owner, operators_provider, ask_timeout, profile } =
            blueprint;
        let profiles_provider = profile.as_ref().is_some_and(|profile| profile.provider.is_some());
        let (secret, open): (BTreeMap<_, _>, BTreeMap<_, _>) =
            settings.mcp_servers.clone().into_iter().partition(|(_, server)| server.has_secrets());
        Self {
            labels: labels.clone(),
            owner: owner.clone(),
            profile: profile.as_ref().map(|profile| profile.name.clone()).unwrap_or_default(),
            model: settings.model.clone(),
            reasoning_effort: settings.reasoning_effort.clone(),
            system_message: settings.system_message.clone(),
            available_tools: settings.available_tools.clone(),
            excluded_tools: settings.excluded_tools.clone(),
            policy: policy.clone(),
            working_directory: settings.working_directory.clone(),
            user_input: settings.user_input,
            elicitation: settings.elicitation,
            exit_plan: settings.exit_plan,
            ask_timeout: *ask_timeout,
            provider: match settings.provider {
                None => ProviderOf::GitHub,
                Some(_) if *operators_provider && profiles_provider => ProviderOf::Profile,
                Some(_) if *operators_provider => ProviderOf::Operator,
                Some(_) => ProviderOf::Caller,
            },
            github_token: settings.github_token.is_some() && !blueprint.has_profiles_token(),
            tools: settings.tools.clone(),
            mcp_servers: open,
            secret_mcp_servers: secret.into_keys().collect(),
            skills: settings.skills.clone(),
            options: settings.options.as_deref().cloned().unwrap_or_default(),
        }
    }

    /// The facts that are stored of it; the others stay as they are. `None` if it is longer than [`Self::MAX`].
    pub(in crate::session) fn write(self, facts: &mut Facts) -> Option<()> {
        let settings = serde_json::to_string(&self).ok()?;
        let length =
            settings.len() + self.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if length > Self::MAX {
            return None;
        }
        facts.settings = settings;
        facts.labels = self.labels;
        facts.owner = self.owner;
        facts.profile = self.profile;
        facts.model = self.model.unwrap_or_default();
        facts.reasoning_effort = self.reasoning_effort.unwrap_or_default();
        Some(())
    }

    /// Whether what a session would be made of is not too much to store.
    pub(in crate::session) fn fits(blueprint: &Blueprint) -> bool {
        Self::of(blueprint).write(&mut Facts::default()).is_some()
    }

    /// Reads what was stored; `None` if it is no record.
    pub(in crate::session) fn read(facts: &Facts) -> Option<Self> {
        let chosen = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let record: Self = serde_json::from_str(&facts.settings).ok()?;
        Some(Self {
            labels: facts.labels.clone(),
            owner: facts.owner.clone(),
            profile: facts.profile.clone(),
            model: chosen(&facts.model),
            reasoning_effort: chosen(&facts.reasoning_effort),
            ..record
        })
    }

    /// Whether its provider is that of its profile.
    pub(in crate::session) fn has_profiles_provider(&self) -> bool {
        self.provider == ProviderOf::Profile
    }

    /// The session that was stored, with these credentials and else the operator's provider where that is what it had. Its
    /// profile is the caller's business.
    pub(in crate::session) fn blueprint(
        self,
        credentials: Credentials,
        operator: Option<&Arc<Provider>>,
    ) -> Result<Blueprint, Unusable> {
        credentials.fit(!self.options.models.is_empty())?;
        let missing = self.missing(&credentials, operator);
        if !missing.is_empty() {
            return Err(Unusable::Missing(Missing::Fields(missing)));
        }
        let operators_provider = credentials.provider.is_none()
            && matches!(self.provider, ProviderOf::Operator | ProviderOf::Profile);
        let policy = self.policy;
        let mut mcp_servers = self.mcp_servers;
        mcp_servers.extend(credentials.mcp_servers);
        let settings = Settings {
            model: self.model,
            provider: credentials.provider.or_else(|| operator.filter(|_| operators_provider).cloned()),
            github_token: credentials.github_token,
            reasoning_effort: self.reasoning_effort,
            system_message: self.system_message,
            available_tools: self.available_tools,
            excluded_tools: self.excluded_tools,
            ask_permission: !policy.denies_all(),
            user_input: self.user_input,
            elicitation: self.elicitation,
            exit_plan: self.exit_plan,
            working_directory: self.working_directory,
            providers: credentials.providers,
            tools: self.tools,
            mcp_servers,
            skills: self.skills,
            options: self.options.boxed(),
        };
        one_payer(&settings, self.github_token)?;
        let ask_timeout = self.ask_timeout;
        let (labels, owner) = (self.labels, self.owner);
        Ok(Blueprint { settings, policy, labels, owner, operators_provider, ask_timeout, profile: None })
    }

    /// The fields that have to be brought again, and are not there.
    fn missing(&self, credentials: &Credentials, operator: Option<&Arc<Provider>>) -> Vec<&'static str> {
        let provider = match self.provider {
            ProviderOf::GitHub => true,
            ProviderOf::Operator | ProviderOf::Profile => {
                credentials.provider.is_some() || operator.is_some()
            }
            ProviderOf::Caller => credentials.provider.is_some(),
        };
        let has_provider_of = |model: &ProviderModel| {
            credentials.providers.iter().any(|provider| provider.name == model.provider)
        };
        let there = [
            ("provider", provider),
            ("github_token", !self.github_token || credentials.github_token.is_some()),
            ("providers", self.options.models.iter().all(has_provider_of)),
            (
                "mcp_servers",
                self.secret_mcp_servers.iter().all(|name| credentials.mcp_servers.contains_key(name)),
            ),
        ];
        there.into_iter().filter(|(_, there)| !there).map(|(field, _)| field).collect()
    }
}

/// Why a stored session cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) enum Unusable {
    Missing(Missing),
    Unfit(Unfit),
}

impl From<Unfit> for Unusable {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::copilot::{CustomAgent, InfiniteSession, McpTransport, NamedProvider, Remote, Secret};

    fn provider(key: &str) -> Arc<Provider> {
        let provider = Provider {
            base_url: "http://127.0.0.1:1".into(),
            api_key: Some(Secret::new(key)),
            ..Provider::default()
        };
        provider.into()
    }

    fn mcp_server(headers: &[(&str, &str)]) -> McpServer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
        McpServer {
            transport: McpTransport::Http(Remote { url: "https://x".into(), headers: headers.collect() }),
            tools: vec!["echo".into()],
            timeout: None,
        }
    }

    fn named(name: &str, key: &str) -> NamedProvider {
        NamedProvider { name: name.into(), provider: Arc::unwrap_or_clone(provider(key)) }
    }

    /// A session with two providers of its own, and an MCP server that needs a key.
    fn with_several(key: &str) -> Blueprint {
        let mut blueprint = blueprint(None, false, None);
        let model = |provider: &str| ProviderModel {
            id: "m".into(),
            provider: provider.into(),
            ..Default::default()
        };
        let options = blueprint.settings.options.get_or_insert_default();
        options.models = vec![model("one"), model("two")];
        blueprint.settings.providers = vec![named("one", key), named("two", key)];
        blueprint.settings.mcp_servers.insert("keyed".into(), mcp_server(&[("authorization", key)]));
        blueprint
    }

    fn blueprint(
        provider: Option<Arc<Provider>>,
        operators_provider: bool,
        token: Option<&str>,
    ) -> Blueprint {
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
                user_input: true,
                elicitation: true,
                exit_plan: true,
                working_directory: Some("/work".into()),
                providers: Vec::new(),
                tools: vec![Tool {
                    name: "mine".into(),
                    parameters: Some(json!({"type": "object"}).into()),
                    timeout: Some(Duration::from_secs(5)),
                    ..Tool::default()
                }],
                mcp_servers: BTreeMap::from([("open".into(), mcp_server(&[]))]),
                skills: Some(Skills { directories: vec!["/skills".into()], disabled: Vec::new() }),
                options: Options {
                    custom_agents: vec![CustomAgent { name: "poet".into(), ..CustomAgent::default() }],
                    infinite_sessions: Some(InfiniteSession {
                        background_compaction_threshold: Some(0.5),
                        ..InfiniteSession::default()
                    }),
                    ..Options::default()
                }
                .boxed(),
            },
            policy: Policy::allowing(&["shell".into()]),
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            owner: "alice".into(),
            operators_provider,
            ask_timeout: Some(Duration::from_millis(1500)),
            profile: None,
        }
    }

    fn facts(blueprint: &Blueprint) -> Option<Facts> {
        let mut facts = Facts::default();
        Record::of(blueprint).write(&mut facts).map(|()| facts)
    }

    fn stored(blueprint: &Blueprint) -> Record {
        Record::read(&facts(blueprint).unwrap()).unwrap()
    }

    #[test]
    fn a_session_is_as_it_was_once_its_credentials_are_there_again() {
        let check = |before: Blueprint, credentials: Credentials| {
            let operator = provider("operator");
            assert_eq!(stored(&before).blueprint(credentials, Some(&operator)), Ok(before));
        };
        check(blueprint(None, false, None), Credentials::default());
        check(blueprint(Some(provider("operator")), true, None), Credentials::default());
        let own = Credentials { provider: Some(provider("own")), ..Credentials::default() };
        check(blueprint(Some(provider("own")), false, None), own);
        let token = Credentials { github_token: Some(Secret::new("t")), ..Credentials::default() };
        check(blueprint(None, false, Some("t")), token);
        let several = with_several("key");
        let credentials = Credentials {
            providers: several.settings.providers.clone(),
            mcp_servers: BTreeMap::from([("keyed".into(), mcp_server(&[("authorization", "key")]))]),
            ..Credentials::default()
        };
        check(several, credentials);
    }

    #[test]
    fn what_is_missing_is_named_and_another_provider_is_never_taken_instead() {
        let check = |before: Blueprint, operator: Option<&Arc<Provider>>, fields: &[&'static str]| {
            let refused = stored(&before).blueprint(Credentials::default(), operator);
            assert_eq!(refused, Err(Unusable::Missing(Missing::Fields(fields.to_vec()))));
        };
        let operator = provider("operator");
        check(blueprint(Some(provider("own")), false, None), Some(&operator), &["provider"]);
        check(
            blueprint(Some(provider("own")), false, Some("t")),
            Some(&operator),
            &["provider", "github_token"],
        );
        check(blueprint(None, false, Some("t")), Some(&operator), &["github_token"]);
        check(blueprint(Some(provider("operator")), true, None), None, &["provider"]);
        check(with_several("key"), None, &["providers", "mcp_servers"]);
    }

    #[test]
    fn each_of_several_providers_and_servers_gets_new_credentials_by_its_name() {
        let credentials = Credentials {
            providers: vec![named("two", "new")],
            mcp_servers: BTreeMap::from([("keyed".into(), mcp_server(&[("authorization", "new")]))]),
            ..Credentials::default()
        };
        let changed = with_several("old").with(credentials).unwrap();
        assert_eq!(changed.settings.providers, [named("one", "old"), named("two", "new")]);
        assert_eq!(changed.settings.mcp_servers["keyed"], mcp_server(&[("authorization", "new")]));
        assert_eq!(changed.settings.mcp_servers["open"], mcp_server(&[]));
    }

    #[test]
    fn a_session_has_one_provider_or_several() {
        let one = || Credentials { provider: Some(provider("k")), ..Credentials::default() };
        let several = || Credentials { providers: vec![named("one", "k")], ..Credentials::default() };
        let check = |session: Blueprint, credentials: fn() -> Credentials, field| {
            assert_eq!(session.with(credentials()).unwrap_err().field, field);
            let refused = stored(&session).blueprint(credentials(), None);
            assert!(matches!(refused, Err(Unusable::Unfit(unfit)) if unfit.field == field), "{refused:?}");
        };
        check(with_several("key"), one, "provider");
        check(blueprint(None, false, None), several, "providers");
    }

    #[test]
    fn a_session_has_a_provider_or_a_github_token() {
        let provider = || Credentials { provider: Some(provider("k")), ..Credentials::default() };
        let token = || Credentials { github_token: Some(Secret::new("t")), ..Credentials::default() };
        let both = || Credentials { provider: provider().provider, ..token() };
        let check = |session: Blueprint, brought: Credentials, field| {
            assert_eq!(session.with(brought).unwrap_err().field, field);
        };
        check(blueprint(provider().provider, false, None), token(), "github_token");
        check(blueprint(provider().provider, true, None), token(), "github_token");
        check(blueprint(None, false, Some("t")), provider(), "provider");
        check(blueprint(None, false, None), both(), "github_token");
        let stored = stored(&blueprint(provider().provider, false, None)).blueprint(both(), None);
        assert!(matches!(stored, Err(Unusable::Unfit(unfit)) if unfit.field == "github_token"), "{stored:?}");
    }

    #[test]
    fn no_credential_is_ever_stored() {
        let one = blueprint(Some(provider("sk-hidden")), false, Some("ghu_hidden"));
        for blueprint in [one, with_several("hidden")] {
            let text = format!("{:?}", facts(&blueprint).unwrap());
            assert!(!text.contains("hidden") && !text.contains("127.0.0.1"), "{text}");
        }
    }

    #[test]
    fn a_record_that_is_too_long_is_not_written_and_nonsense_is_not_read() {
        let mut large = blueprint(None, false, None);
        large.settings.system_message = SystemMessage::Replace { content: "é".repeat(25_000) };
        assert_eq!(stored(&large), Record::of(&large));
        large.labels.insert("note".into(), "x".repeat(Record::MAX));
        assert_eq!(facts(&large), None);
        let check = |settings: &str, expected| {
            assert_eq!(Record::read(&Facts { settings: settings.into(), ..Facts::default() }), expected);
        };
        check("nonsense", None);
        check("", None);
        check("{}", Some(Record::default()));
    }
}
