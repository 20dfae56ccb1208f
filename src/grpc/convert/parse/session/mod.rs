//! Parses what a session is made of, and what is to change in it.

mod options;
mod provider;
mod system_message;
mod tools;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Checks, non_empty};
use crate::{
    copilot::{Options, Provider, Secret, Settings},
    grpc::pb,
    session::{
        Blueprint, Change, Credentials, Effect, PERMISSION_KINDS, Policy, Profile, Profiles, Rule, SessionId,
    },
};

#[cfg(test)]
pub(in crate::grpc) use {
    options::{MAX_FEW, MAX_MANY},
    tools::{MAX_MCP_SERVERS, MAX_TOOLS},
};

/// The settings of sessions whose requests leave them out.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The model.
    pub model: Option<String>,
    /// The provider.
    pub provider: Option<Arc<Provider>>,
    /// The built-in tools.
    pub available_tools: Vec<String>,
    /// The permission policy.
    pub policy: Policy,
    /// How long asks wait for an answer.
    pub ask_timeout: Option<Duration>,
}

impl Defaults {
    /// These defaults under a profile, whose own come first. The default model goes only with the default provider: neither a
    /// profile's provider nor GitHub, where the profile has a token, is given it.
    pub(in crate::grpc) fn under(&self, profile: &Profile) -> Self {
        let ours = self.provider.clone().filter(|_| profile.github_token.is_none());
        let elsewhere = profile.provider.is_some() || ours != self.provider;
        Self {
            model: profile.default_model().or_else(|| self.model.clone().filter(|_| !elsewhere)),
            provider: profile.provider.clone().or(ours),
            available_tools: profile.available_tools.clone().unwrap_or_else(|| self.available_tools.clone()),
            policy: profile.policy.clone().unwrap_or_else(|| self.policy.clone()),
            ask_timeout: self.ask_timeout,
        }
    }
}

/// How many labels a session may have.
pub(in crate::grpc) const MAX_LABELS: usize = 32;

/// The longest name of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_NAME: usize = 63;

/// The longest value of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_VALUE: usize = 256;

/// The longest time that an ask may wait for an answer.
pub(in crate::grpc) const MAX_ASK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The longest pattern of a permission rule, in bytes.
pub(in crate::grpc) const MAX_PATTERN: usize = 1024;

/// The longest title in characters, which is what the CLI's schema allows.
pub(in crate::grpc) const MAX_TITLE: usize = 100;

/// The longest owner, in bytes.
pub(in crate::grpc) const MAX_OWNER: usize = 256;

impl Checks {
    /// Parses what a session is to be made of.
    pub(in crate::grpc) fn blueprint(
        &mut self,
        mut request: pb::CreateSessionRequest,
        defaults: &Defaults,
    ) -> Blueprint {
        let policy = match request.permission_policy.take() {
            Some(policy) => self.policy(policy),
            None => defaults.policy.clone(),
        };
        let options = self.options(&mut request);
        let model = self.model(&request, defaults, &options);
        let providers = self.providers(request.providers);
        let own_provider = request.provider.is_some() || !providers.is_empty();
        if request.provider.is_some() && !providers.is_empty() {
            self.wrong("provider", "cannot be set together with `providers`");
        }
        let provider = match request.provider {
            Some(provider) => Some(self.provider(provider).into()),
            None if own_provider => None,
            None => defaults.provider.clone(),
        };
        let labels = self.labels(request.labels);
        let mcp_servers = self.mcp_servers(request.mcp_servers);
        let settings = Settings {
            model,
            provider,
            github_token: self.secret("github_token", request.github_token),
            reasoning_effort: non_empty(request.reasoning_effort),
            system_message: self.system_message(request.system_message),
            available_tools: match request.available_tools {
                tools if tools.is_empty() => defaults.available_tools.clone(),
                tools => self.tool_names("available_tools", tools),
            },
            excluded_tools: self.tool_names("excluded_tools", request.excluded_tools),
            ask_permission: !policy.denies_all(),
            user_input: request.user_input,
            elicitation: request.elicitation,
            exit_plan: request.exit_plan,
            working_directory: self.directory("working_directory", request.working_directory),
            providers,
            tools: self.tools(request.tools, mcp_servers.keys()),
            mcp_servers,
            skills: request.skills.map(|skills| self.skills(skills)),
            options: options.boxed(),
        };
        // The CLI refuses both together (observed).
        if settings.provider.is_some() && settings.github_token.is_some() {
            let whose =
                if own_provider { "`provider`" } else { "the provider that is this server's default" };
            self.wrong("github_token", format!("cannot be set together with {whose}"));
        }
        let owner = self.owner(request.owner);
        let operators_provider = !own_provider && settings.provider.is_some();
        let ask_timeout = self.ask_timeout(request.ask_timeout).or(defaults.ask_timeout);
        Blueprint { settings, policy, labels, owner, operators_provider, ask_timeout, profile: None }
    }

    /// The operator's profile of this name, or the default one if the name is empty.
    pub(in crate::grpc) fn profile(&mut self, name: &str, profiles: &Profiles) -> Option<Arc<Profile>> {
        if name.is_empty() {
            return profiles.unnamed();
        }
        let profile = profiles.named(name);
        if profile.is_none() {
            // The names of other profiles are not told to callers.
            self.wrong("profile", "no profile has this name");
        }
        profile
    }

    /// Parses a GitHub token of the caller's.
    pub(in crate::grpc) fn github_token(&mut self, token: String) -> Option<Secret> {
        self.secret("github_token", token)
    }

    /// Parses how long asks wait for an answer.
    fn ask_timeout(&mut self, timeout: Option<prost_types::Duration>) -> Option<Duration> {
        let timeout = self.duration("ask_timeout", timeout);
        if timeout.is_some_and(|timeout| timeout > MAX_ASK_TIMEOUT) {
            self.wrong("ask_timeout", "may be a day at most");
        }
        timeout
    }

    fn model(
        &mut self,
        request: &pb::CreateSessionRequest,
        defaults: &Defaults,
        options: &Options,
    ) -> Option<String> {
        let model = request.model.trim();
        // Without a name the CLI would ask the provider for a model that the CLI chooses (observed).
        if model.is_empty() && request.provider.is_some() {
            self.wrong("model", "is required with `provider`: the model's name, as the provider knows it");
        } else if model.is_empty() && !request.providers.is_empty() {
            self.wrong("model", "is required with `providers`: one of `models`, such as `provider/id`");
        }
        // A model that is missing would fail only in the first turn, and look like missing credentials (observed).
        let provider = model.split_once('/').map(|(provider, _)| provider);
        let of_ours = request.providers.iter().any(|ours| Some(ours.name.as_str()) == provider);
        if of_ours && options.models.iter().all(|ours| ours.selection() != model) {
            self.wrong("model", format!("{model:?} is not one of `models`"));
        }
        match model {
            "" if request.provider.is_some() || !request.providers.is_empty() => None,
            "" => defaults.model.clone(),
            model => Some(model.to_owned()),
        }
    }

    fn owner(&mut self, owner: String) -> String {
        if owner.len() > MAX_OWNER {
            self.wrong("owner", format!("must have {MAX_OWNER} bytes at most"));
        }
        owner
    }

    /// Parses the id of a new session; `None`: the server makes one.
    pub(in crate::grpc) fn new_session_id(&mut self, id: &str, resume_if_exists: bool) -> Option<SessionId> {
        match (id, resume_if_exists) {
            ("", false) => None,
            ("", true) => {
                self.wrong("session_id", "is required with `resume_if_exists`: which session");
                None
            }
            (id, _) => self.session_id(id),
        }
    }

    /// Parses credentials, which are never stored with a session.
    pub(in crate::grpc) fn credentials(&mut self, request: pb::ResumeSessionRequest) -> Credentials {
        if request.provider.is_some() && !request.github_token.is_empty() {
            self.wrong("github_token", "cannot be set together with `provider`");
        }
        Credentials {
            provider: request.provider.map(|provider| self.provider(provider).into()),
            github_token: self.secret("github_token", request.github_token),
            providers: self.providers(request.providers),
            mcp_servers: self.mcp_servers(request.mcp_servers),
        }
    }

    /// Parses what is to change in a session.
    pub(in crate::grpc) fn change(&mut self, session: pb::Session, mask: prost_types::FieldMask) -> Change {
        if mask.paths.is_empty() {
            self.wrong(
                "update_mask",
                "is required: `labels`, `model`, `reasoning_effort`, `title`, or several of them",
            );
        }
        let mut change = Change::default();
        for path in &mask.paths {
            match path.as_str() {
                "labels" => change.labels = Some(self.labels(session.labels.clone())),
                "model" => change.model = Some(self.text("session.model", session.model.clone())),
                "reasoning_effort" => {
                    let effort = session.reasoning_effort.clone();
                    change.reasoning_effort = Some(self.text("session.reasoning_effort", effort));
                }
                "title" => change.title = Some(self.title(&session.title)),
                _ => {
                    let advice = format!(
                        "{path:?} cannot be changed; `labels`, `model`, `reasoning_effort` and `title` can"
                    );
                    self.wrong("update_mask", advice);
                }
            }
        }
        change
    }

    fn title(&mut self, title: &str) -> String {
        let title = title.trim();
        if title.is_empty() || title.chars().count() > MAX_TITLE || title.contains(char::is_control) {
            let advice = format!("must have 1 to {MAX_TITLE} characters, and no line breaks");
            self.wrong("session.title", advice);
        }
        title.to_owned()
    }

    pub(super) fn labels(&mut self, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if labels.len() > MAX_LABELS {
            self.wrong("labels", format!("there may be {MAX_LABELS} at most"));
        }
        let is_name = |name: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
            (1..=MAX_LABEL_NAME).contains(&name.len()) && name.bytes().all(allowed)
        };
        for (name, value) in &labels {
            if !is_name(name) {
                let advice = format!("{name:?}: a name has 1 to {MAX_LABEL_NAME} of A-Z a-z 0-9 . _ / -");
                self.wrong("labels", advice);
            } else if value.len() > MAX_LABEL_VALUE {
                self.wrong(format!("labels[{name:?}]"), format!("must have {MAX_LABEL_VALUE} bytes at most"));
            }
        }
        labels.into_iter().collect()
    }

    fn policy(&mut self, policy: pb::PermissionPolicy) -> Policy {
        let rules = policy.rules.into_iter().enumerate().map(|(n, rule)| {
            if rule.kind != "*" && !PERMISSION_KINDS.contains(&rule.kind.as_str()) {
                let kinds = PERMISSION_KINDS.join(", ");
                self.wrong(
                    format!("permission_policy.rules[{n}].kind"),
                    format!("must be `*` or one of {kinds}"),
                );
            }
            let effect = match pb::PermissionEffect::try_from(rule.effect).unwrap_or_default() {
                pb::PermissionEffect::Allow => Effect::Allow,
                pb::PermissionEffect::Ask => Effect::Ask,
                pb::PermissionEffect::Deny => Effect::Deny,
                pb::PermissionEffect::Unspecified => {
                    let field = format!("permission_policy.rules[{n}].effect");
                    self.wrong(field, "must be PERMISSION_EFFECT_ALLOW, _DENY or _ASK");
                    Effect::Deny
                }
            };
            if rule.pattern.len() > MAX_PATTERN {
                let field = format!("permission_policy.rules[{n}].pattern");
                self.wrong(field, format!("must have {MAX_PATTERN} bytes at most"));
            }
            Rule { kind: rule.kind, pattern: rule.pattern, effect }
        });
        let rules = rules.collect();
        Policy::new(rules)
    }

    fn directory(&mut self, field: &str, path: String) -> Option<String> {
        if !path.is_empty() && !path.starts_with('/') {
            self.wrong(field, "must be an absolute path on the Copilot CLI's machine");
        }
        non_empty(path)
    }

    fn at_most(&mut self, limit: usize, field: &str, count: usize) {
        if count > limit {
            self.wrong(field, format!("there may be {limit} at most"));
        }
    }
}
