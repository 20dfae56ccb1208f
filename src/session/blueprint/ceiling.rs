//! What a profile lets requests have: whatever they bring is within it, or refused.

use std::sync::Arc;

use wildmatch::WildMatch;

use super::{
    blueprint::Blueprint,
    credentials::Credentials,
    policy::Policy,
    profile::{Excess, Profile},
};
use crate::copilot::SystemMessage;

impl Profile {
    /// The session under this profile, or what of it goes beyond. It has been given the profile's defaults.
    ///
    /// # Errors
    /// All that goes beyond.
    pub fn tighten(self: &Arc<Self>, mut blueprint: Blueprint) -> Result<Blueprint, Vec<Excess>> {
        let credentials = blueprint.credentials();
        let settings = &mut blueprint.settings;
        let mut excesses = self.admit(&credentials).err().unwrap_or_default();
        excesses.extend(match &settings.model {
            Some(model) => self.admit_model(model).err(),
            None if self.models.is_empty() && self.provider.is_none() => None,
            None => Some(Excess::new("model", format!("name a model: {}", self.models()))),
        });
        let agents = settings.options.iter().flat_map(|options| &options.custom_agents);
        for (n, agent) in agents.enumerate() {
            let excess = agent.model.as_ref().and_then(|model| self.admit_model(model).err());
            excesses.extend(excess.map(|excess| excess.within(&format!("custom_agents[{n}]"))));
        }
        excesses.extend(self.tools_beyond(&settings.available_tools));
        if settings.skills.is_some() && !self.covers("builtin:skill") {
            excesses.push(Excess::new("skills", "must be unset: the profile does not have the tool `skill`"));
        }
        if settings.github_token.is_none() {
            settings.github_token.clone_from(&self.github_token);
        }
        let more = self.excluded_tools.iter().filter(|tool| !settings.excluded_tools.contains(tool));
        let more: Vec<_> = more.cloned().collect();
        settings.excluded_tools.extend(more);
        if let Some(own) = &self.system_message {
            match joined(own, &settings.system_message) {
                Some(message) => settings.system_message = message,
                None => excesses
                    .push(Excess::new("system_message.mode", "may only be SYSTEM_MESSAGE_MODE_APPEND here")),
            }
        }
        let denies_all = |policy: Option<&Policy>| policy.is_some_and(Policy::denies_all);
        settings.ask_permission &= !denies_all(self.policy.as_ref());
        blueprint.profile = Some(self.clone());
        if excesses.is_empty() { Ok(blueprint) } else { Err(excesses) }
    }

    /// Whether a session may have these credentials of its own.
    pub(in crate::session) fn admit(&self, credentials: &Credentials) -> Result<(), Vec<Excess>> {
        let Credentials { provider, github_token, providers, mcp_servers } = credentials;
        let excess = |field, beyond: bool, why: &str| {
            beyond.then(|| Excess::new(field, format!("must be unset: the profile {why}")))
        };
        const OWN: &str = "has its own";
        let excesses = [
            excess("provider", provider.is_some() && self.provider.is_some(), OWN),
            excess(
                "provider",
                provider.is_some() && self.provider.is_none() && self.github_token.is_some(),
                "has a GitHub token of its own",
            ),
            excess("github_token", github_token.is_some() && self.github_token.is_some(), OWN),
            excess(
                "github_token",
                github_token.is_some() && self.github_token.is_none() && self.provider.is_some(),
                "has a provider of its own",
            ),
            excess(
                "providers",
                !providers.is_empty() && self.provider.is_some(),
                "has a provider of its own",
            ),
            excess(
                "mcp_servers",
                !mcp_servers.is_empty() && !self.covers("mcp:*"),
                "does not have the tools `mcp:*`",
            ),
        ];
        let excesses: Vec<_> = excesses.into_iter().flatten().collect();
        if excesses.is_empty() { Ok(()) } else { Err(excesses) }
    }

    /// Whether a session may have this model.
    pub(in crate::session) fn admit_model(&self, model: &str) -> Result<(), Excess> {
        let allowed = self.models.is_empty()
            || self.models.iter().any(|pattern| WildMatch::new(pattern).matches(model));
        if allowed { Ok(()) } else { Err(Excess::new("model", format!("may be {}", self.models()))) }
    }

    fn models(&self) -> String {
        match self.models.is_empty() {
            true => "any that the profile's provider has".into(),
            false => self.models.join(", "),
        }
    }

    /// The tools of these that a session may not see.
    fn tools_beyond(&self, tools: &[String]) -> Option<Excess> {
        let ours = self.available_tools.as_ref()?;
        let beyond = tools.iter().position(|tool| !ours.iter().any(|pattern| covers(pattern, tool)))?;
        let allowed = match ours.is_empty() {
            true => "no tool is allowed".to_owned(),
            false => format!("may be {}", ours.join(", ")),
        };
        Some(Excess::new(&format!("available_tools[{beyond}]"), allowed))
    }

    /// Whether a session may see this tool.
    fn covers(&self, tool: &str) -> bool {
        self.available_tools.as_ref().is_none_or(|ours| ours.iter().any(|pattern| covers(pattern, tool)))
    }
}

/// Whether a tool is one of those that a profile names: `bash` and `builtin:bash` are the same tool.
fn covers(pattern: &str, tool: &str) -> bool {
    let full = |name: &str| if name.contains(':') { name.to_owned() } else { format!("builtin:{name}") };
    let (pattern, tool) = (full(pattern), full(tool));
    pattern == tool || pattern.strip_suffix('*').is_some_and(|kind| tool.starts_with(kind))
}

/// The profile's message and what a request adds to it; `None`: it does more than that.
fn joined(own: &SystemMessage, added: &SystemMessage) -> Option<SystemMessage> {
    let SystemMessage::Customize { content: added, sections } = added else { return None };
    if !sections.is_empty() {
        return None;
    }
    let mut message = own.clone();
    if let Some(added) = added {
        match &mut message {
            SystemMessage::Replace { content } | SystemMessage::Customize { content: Some(content), .. } => {
                content.push_str("\n\n");
                content.push_str(added);
            }
            SystemMessage::Customize { content, .. } => *content = Some(added.clone()),
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        copilot::{
            CustomAgent, McpServer, McpTransport, NamedProvider, Options, Provider, Remote, Secret, Section,
            Settings, Skills, Tool,
        },
        session::blueprint::{
            policy::{Effect, Rule},
            profile::Profiles,
        },
    };

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn provider(key: &str) -> Arc<Provider> {
        Provider { api_key: Some(Secret::new(key)), ..Provider::default() }.into()
    }

    fn mcp_server() -> McpServer {
        let remote = Remote { url: "https://x".into(), headers: BTreeMap::new() };
        McpServer { transport: McpTransport::Http(remote), tools: Vec::new(), timeout: None }
    }

    fn blueprint(settings: Settings) -> Blueprint {
        Blueprint { settings, ..Blueprint::default() }
    }

    fn append(text: &str) -> SystemMessage {
        SystemMessage::Customize { content: Some(text.into()), sections: BTreeMap::new() }
    }

    /// What comes of a session under a profile, or the fields that go beyond it.
    fn tighten(profile: Profile, blueprint: Blueprint) -> Result<Settings, Vec<String>> {
        let tightened = Arc::new(profile).tighten(blueprint);
        tightened
            .map(|blueprint| blueprint.settings)
            .map_err(|excesses| excesses.into_iter().map(|excess| excess.field).collect())
    }

    #[test]
    fn a_model_must_be_one_of_the_profiles() {
        let check = |models: &[&str], model: Option<&str>, allowed| {
            let profile = Profile { models: texts(models), ..Profile::default() };
            let settings = Settings { model: model.map(str::to_owned), ..Settings::default() };
            let expected = if allowed { Ok(settings.clone()) } else { Err(texts(&["model"])) };
            assert_eq!(tighten(profile, blueprint(settings)), expected, "{models:?} {model:?}");
        };
        check(&[], None, true);
        check(&[], Some("any"), true);
        check(&["gpt-5"], Some("gpt-5"), true);
        check(&["gpt-5"], Some("gpt-5-mini"), false);
        check(&["gpt-*", "o?"], Some("gpt-5-mini"), true);
        check(&["gpt-*", "o?"], Some("o3"), true);
        check(&["gpt-*", "o?"], Some("o3-mini"), false);
        check(&["gpt-*"], None, false);
    }

    #[test]
    fn the_first_model_that_is_no_pattern_is_the_default() {
        let profile = |models: &[&str]| Profile { models: texts(models), ..Profile::default() };
        assert_eq!(profile(&["gpt-*", "gpt-5", "o3"]).default_model().as_deref(), Some("gpt-5"));
        assert_eq!(profile(&["gpt-*"]).default_model(), None);
    }

    #[test]
    fn credentials_of_the_callers_own_are_refused_where_the_profile_has_some() {
        let own = |provider: Option<Arc<Provider>>, token: Option<&str>| {
            let github_token = token.map(Secret::new);
            blueprint(Settings { model: Some("m".into()), provider, github_token, ..Settings::default() })
        };
        let profile = Profile {
            provider: Some(provider("ours")),
            github_token: Some(Secret::new("ours")),
            ..Profile::default()
        };
        let both = tighten(profile.clone(), own(Some(provider("own")), Some("own")));
        assert_eq!(both, Err(texts(&["provider", "github_token"])));
        let mut given = own(profile.provider.clone(), None);
        given.operators_provider = true;
        let settings = tighten(profile.clone(), given).unwrap();
        assert_eq!((settings.provider, settings.github_token), (profile.provider, profile.github_token));
        assert!(tighten(Profile::default(), own(Some(provider("own")), Some("own"))).is_ok());
        // Without a name the CLI would ask the provider for a model of its own choice.
        let unnamed = Blueprint { operators_provider: true, ..Blueprint::default() };
        let profile = Profile { provider: Some(provider("ours")), ..Profile::default() };
        assert_eq!(tighten(profile, unnamed), Err(texts(&["model"])));
    }

    #[test]
    fn tools_must_be_among_the_profiles_and_what_it_excludes_is_excluded() {
        let check = |ours: Option<&[&str]>, asked: &[&str], beyond: Option<&str>| {
            let profile = Profile { available_tools: ours.map(texts), ..Profile::default() };
            let settings = Settings { available_tools: texts(asked), ..Settings::default() };
            let expected = beyond.map_or(Ok(()), |field| Err(texts(&[field])));
            assert_eq!(tighten(profile, blueprint(settings)).map(|_| ()), expected, "{ours:?} {asked:?}");
        };
        check(None, &["bash"], None);
        check(Some(&[]), &[], None);
        check(Some(&[]), &["bash"], Some("available_tools[0]"));
        check(Some(&["bash", "builtin:view"]), &["builtin:bash", "view"], None);
        check(Some(&["bash"]), &["bash", "view"], Some("available_tools[1]"));
        check(Some(&["bash"]), &["builtin:*"], Some("available_tools[0]"));
        check(Some(&["builtin:*"]), &["builtin:*", "bash", "builtin:view"], None);
        check(Some(&["builtin:*"]), &["mcp:files"], Some("available_tools[0]"));
        let profile = Profile { excluded_tools: texts(&["bash", "view"]), ..Profile::default() };
        let settings = Settings { excluded_tools: texts(&["edit", "view"]), ..Settings::default() };
        let excluded = tighten(profile, blueprint(settings)).unwrap().excluded_tools;
        assert_eq!(excluded, ["edit", "view", "bash"]);
    }

    #[test]
    fn providers_and_servers_and_skills_and_agents_of_the_callers_own_are_within_the_ceiling_too() {
        let providers =
            vec![NamedProvider { name: "own".into(), provider: Arc::unwrap_or_clone(provider("own")) }];
        let mcp_servers = BTreeMap::from([("files".to_owned(), mcp_server())]);
        let agent = |model: &str| CustomAgent { model: Some(model.into()), ..CustomAgent::default() };
        let custom_agents = vec![CustomAgent::default(), agent("m"), agent("large")];
        let own = || {
            blueprint(Settings {
                model: Some("m".into()),
                providers: providers.clone(),
                mcp_servers: mcp_servers.clone(),
                skills: Some(Skills::default()),
                tools: vec![Tool { name: "mine".into(), ..Tool::default() }],
                options: Options { custom_agents: custom_agents.clone(), ..Options::default() }.boxed(),
                ..Settings::default()
            })
        };
        let check = |profile: Profile, beyond: &[&str]| {
            let expected = if beyond.is_empty() { Ok(()) } else { Err(texts(beyond)) };
            assert_eq!(tighten(profile, own()).map(|_| ()), expected);
        };
        let tools = |ours: &[&str]| Profile { available_tools: Some(texts(ours)), ..Profile::default() };
        check(Profile::default(), &[]);
        check(Profile { provider: Some(provider("ours")), ..Profile::default() }, &["providers"]);
        check(Profile { models: texts(&["m"]), ..Profile::default() }, &["custom_agents[2].model"]);
        check(tools(&[]), &["mcp_servers", "skills"]);
        check(tools(&["mcp:*"]), &["skills"]);
        check(tools(&["mcp:files", "skill"]), &["mcp_servers"]);
        check(tools(&["builtin:*", "mcp:*"]), &[]);
    }

    #[test]
    fn the_profiles_own_credentials_are_not_the_callers() {
        let profile = Profile {
            provider: Some(provider("ours")),
            github_token: Some(Secret::new("ours")),
            ..Profile::default()
        };
        let settings =
            Settings { model: Some("m".into()), provider: profile.provider.clone(), ..Settings::default() };
        let given = Blueprint { operators_provider: true, ..blueprint(settings) };
        let tightened = Arc::new(profile).tighten(given).unwrap();
        assert_eq!(tightened.credentials(), Credentials::default());
        let settings = Settings { github_token: Some(Secret::new("own")), ..Settings::default() };
        let own = Arc::new(Profile::default()).tighten(blueprint(settings)).unwrap();
        assert!(own.credentials().github_token.is_some());
    }

    #[test]
    fn a_request_may_only_add_to_the_profiles_system_message() {
        let check = |own: Option<SystemMessage>, asked: SystemMessage, expected: Option<SystemMessage>| {
            let profile = Profile { system_message: own, ..Profile::default() };
            let settings = Settings { system_message: asked, ..Settings::default() };
            let message = tighten(profile, blueprint(settings)).map(|settings| settings.system_message);
            assert_eq!(message, expected.ok_or_else(|| texts(&["system_message.mode"])));
        };
        let replace = |content: &str| SystemMessage::Replace { content: content.into() };
        check(None, replace("x"), Some(replace("x")));
        check(Some(append("ours")), SystemMessage::default(), Some(append("ours")));
        check(Some(append("ours")), append("more"), Some(append("ours\n\nmore")));
        check(Some(replace("ours")), append("more"), Some(replace("ours\n\nmore")));
        check(Some(append("ours")), replace("x"), None);
        let sections = BTreeMap::from([("tone".into(), Section::Remove)]);
        check(Some(append("ours")), SystemMessage::Customize { content: None, sections }, None);
    }

    #[test]
    fn the_cli_need_not_ask_where_the_ceiling_denies_all() {
        let check = |ceiling: Option<Policy>, asks| {
            let profile = Profile { policy: ceiling, ..Profile::default() };
            let settings = Settings { ask_permission: true, ..Settings::default() };
            assert_eq!(tighten(profile, blueprint(settings)).unwrap().ask_permission, asks);
        };
        check(None, true);
        check(
            Some(Policy::new(vec![Rule { kind: "*".into(), pattern: String::new(), effect: Effect::Allow }])),
            true,
        );
        check(Some(Policy::default()), false);
    }

    #[test]
    fn a_profile_is_found_by_its_name_and_the_default_where_none_is_named() {
        let profile = |name: &str| Profile { name: name.into(), ..Profile::default() };
        let profiles = Profiles::new([profile("a"), profile("b")], Some("b"));
        assert_eq!(profiles.named("a").unwrap().name, "a");
        assert_eq!(profiles.named("c"), None);
        assert_eq!(profiles.unnamed().unwrap().name, "b");
        assert_eq!(Profiles::default().unnamed(), None);
    }

    #[test]
    fn the_keys_of_all_profiles_are_taken_out_of_texts() {
        let profile = |name: &str, key: &str| Profile {
            name: name.into(),
            provider: Some(provider(key)),
            github_token: Some(Secret::new("ghu_secret")),
            ..Profile::default()
        };
        let profiles = Profiles::new([profile("a", "first-key"), profile("b", "second-key")], None);
        let text = profiles.redact("first-key second-key ghu_secret");
        assert_eq!(text, "[redacted] [redacted] [redacted]");
    }
}
