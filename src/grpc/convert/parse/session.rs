//! What a session is made of, and what is to change in it.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    sync::Arc,
};

use http::Uri;

use super::{Checks, non_empty};
use crate::{
    copilot::{Provider, Secret, Section, Settings, SystemMessage},
    grpc::pb,
    session::{Blueprint, Change, Credentials, PERMISSION_KINDS, Policy, Profile, Profiles, Rule},
};

/// What a session gets that its request does not say.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The model.
    pub model: Option<String>,
    /// The provider.
    pub provider: Option<Provider>,
    /// The built-in tools.
    pub available_tools: Vec<String>,
    /// What tools may do.
    pub policy: Policy,
}

impl Defaults {
    /// The same under a profile: what it says itself comes first. Its provider is not given the model of another.
    pub(in crate::grpc) fn under(&self, profile: &Profile) -> Self {
        let own = profile.provider.is_some();
        Self {
            model: profile.default_model().or_else(|| self.model.clone().filter(|_| !own)),
            provider: profile.provider.clone().or_else(|| self.provider.clone()),
            available_tools: profile.available_tools.clone().unwrap_or_else(|| self.available_tools.clone()),
            policy: profile.policy.clone().unwrap_or_else(|| self.policy.clone()),
        }
    }
}

/// How many labels a session may have.
pub(in crate::grpc) const MAX_LABELS: usize = 32;

/// The longest name of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_NAME: usize = 63;

/// The longest value of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_VALUE: usize = 256;

/// The longest title, in characters: what the CLI's schema allows.
pub(in crate::grpc) const MAX_TITLE: usize = 100;

impl Checks {
    /// What a session is to be made of.
    pub(in crate::grpc) fn blueprint(
        &mut self,
        request: pb::CreateSessionRequest,
        defaults: &Defaults,
    ) -> Blueprint {
        let policy = match request.permission_policy {
            Some(policy) => self.policy(policy),
            None => defaults.policy.clone(),
        };
        let own_provider = request.provider.is_some();
        let provider = match request.provider {
            Some(provider) => Some(self.provider(provider)),
            None => defaults.provider.clone(),
        };
        let model = match request.model.trim() {
            "" if own_provider => {
                // Without a name the CLI would ask the provider for one of its own choice (observed).
                self.wrong(
                    "model",
                    "is required with `provider`: the model's name, as the provider knows it",
                );
                None
            }
            "" => defaults.model.clone(),
            model => Some(model.to_owned()),
        };
        let labels = self.labels(request.labels);
        let settings = Settings {
            model,
            provider,
            github_token: self.secret("github_token", request.github_token),
            reasoning_effort: non_empty(request.reasoning_effort),
            system_message: self.system_message(request.system_message),
            available_tools: match request.available_tools {
                tools if tools.is_empty() => defaults.available_tools.clone(),
                tools => self.tools("available_tools", tools),
            },
            excluded_tools: self.tools("excluded_tools", request.excluded_tools),
            ask_permission: !policy.denies_all(),
            working_directory: self.working_directory(request.working_directory),
        };
        let operators_provider = !own_provider && settings.provider.is_some();
        Blueprint { settings, policy, labels, operators_provider, owner: String::new(), profile: None }
    }

    /// The operator's profile of this name; the default one if it is empty.
    pub(in crate::grpc) fn profile(&mut self, name: &str, profiles: &Profiles) -> Option<Arc<Profile>> {
        if name.is_empty() {
            return profiles.unnamed();
        }
        let profile = profiles.named(name);
        if profile.is_none() {
            // The names of the others are none of the caller's business.
            self.wrong("profile", "there is none of this name");
        }
        profile
    }

    /// A GitHub token of the caller's own.
    pub(in crate::grpc) fn github_token(&mut self, token: String) -> Option<Secret> {
        self.secret("github_token", token)
    }

    /// What a session never has stored with it.
    pub(in crate::grpc) fn credentials(
        &mut self,
        provider: Option<pb::Provider>,
        github_token: String,
    ) -> Credentials {
        Credentials {
            provider: provider.map(|provider| self.provider(provider)),
            github_token: self.secret("github_token", github_token),
        }
    }

    /// What is to change in a session.
    pub(in crate::grpc) fn change(&mut self, session: pb::Session, mask: prost_types::FieldMask) -> Change {
        if mask.paths.is_empty() {
            self.wrong("update_mask", "is required: `labels`, `model`, `title`, or several of them");
        }
        let mut change = Change::default();
        for path in &mask.paths {
            match path.as_str() {
                "labels" => change.labels = Some(self.labels(session.labels.clone())),
                "model" => change.model = Some(self.text("session.model", session.model.clone())),
                "title" => change.title = Some(self.title(&session.title)),
                _ => {
                    let advice = format!("{path:?} cannot be changed; `labels`, `model` and `title` can");
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

    pub(super) fn labels(&mut self, labels: HashMap<String, String>) -> BTreeMap<String, String> {
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
            let effect = pb::PermissionEffect::try_from(rule.effect).unwrap_or_default();
            if effect == pb::PermissionEffect::Unspecified {
                let field = format!("permission_policy.rules[{n}].effect");
                self.wrong(field, "must be PERMISSION_EFFECT_ALLOW or PERMISSION_EFFECT_DENY");
            }
            Rule { kind: rule.kind, allow: effect == pb::PermissionEffect::Allow }
        });
        let rules = rules.collect();
        Policy::new(rules)
    }

    fn provider(&mut self, provider: pb::Provider) -> Provider {
        self.base_url(&provider.base_url);
        Provider {
            kind: self.one_of("provider.type", provider.r#type, &["openai", "azure", "anthropic"]),
            wire_api: self.one_of("provider.wire_api", provider.wire_api, &["completions", "responses"]),
            transport: None,
            base_url: provider.base_url,
            api_key: self.secret("provider.api_key", provider.api_key),
            bearer_token: self.secret("provider.bearer_token", provider.bearer_token),
            azure_api_version: non_empty(provider.azure_api_version),
            headers: self.headers("provider.headers", provider.headers),
            model_id: non_empty(provider.model_id),
            wire_model: non_empty(provider.wire_model),
            max_prompt_tokens: (provider.max_prompt_tokens > 0).then_some(provider.max_prompt_tokens.into()),
            max_output_tokens: (provider.max_output_tokens > 0).then_some(provider.max_output_tokens.into()),
        }
    }

    fn base_url(&mut self, url: &str) {
        if url.is_empty() {
            return self.wrong("provider.base_url", "is required, such as `https://api.example.com/v1`");
        }
        let parsed = Uri::from_str(url).ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        match parsed.as_ref().and_then(Uri::authority) {
            None => {
                self.wrong("provider.base_url", "must be a URL with http or https, such as `https://host/v1`")
            }
            Some(authority) if authority.as_str().contains('@') => {
                self.wrong(
                    "provider.base_url",
                    "must not hold a user name or password: use `api_key` or `headers`",
                );
            }
            Some(_) => {}
        }
    }

    fn tools(&mut self, field: &str, tools: Vec<String>) -> Vec<String> {
        for (n, tool) in tools.iter().enumerate() {
            let name = tool.strip_prefix("builtin:").unwrap_or(tool);
            let is_name = !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'));
            if !is_name && tool != "builtin:*" {
                let advice = "write `name`, `builtin:name`, or `builtin:*` for all built-in tools";
                self.wrong(format!("{field}[{n}]"), advice);
            }
        }
        tools
    }

    pub(in crate::grpc) fn system_message(&mut self, message: Option<pb::SystemMessage>) -> SystemMessage {
        let Some(pb::SystemMessage { mode, content, sections }) = message else {
            return SystemMessage::default();
        };
        let mode = pb::SystemMessageMode::try_from(mode).unwrap_or_default();
        if mode != pb::SystemMessageMode::Customize && !sections.is_empty() {
            self.wrong("system_message.sections", "need SYSTEM_MESSAGE_MODE_CUSTOMIZE");
        }
        match mode {
            pb::SystemMessageMode::Unspecified => {
                let advice = "must be SYSTEM_MESSAGE_MODE_APPEND, _REPLACE or _CUSTOMIZE";
                self.wrong("system_message.mode", advice);
                SystemMessage::default()
            }
            pb::SystemMessageMode::Append => {
                let content = Some(self.text("system_message.content", content));
                SystemMessage::Customize { content, sections: BTreeMap::new() }
            }
            pb::SystemMessageMode::Replace => {
                SystemMessage::Replace { content: self.text("system_message.content", content) }
            }
            pb::SystemMessageMode::Customize => {
                let sections = sections.into_iter().map(|(name, section)| {
                    let section = self.section(&name, section);
                    (name, section)
                });
                let sections = sections.collect();
                SystemMessage::Customize { content: non_empty(content), sections }
            }
        }
    }

    fn section(&mut self, name: &str, section: pb::SystemMessageSection) -> Section {
        let field = |part: &str| format!("system_message.sections[{name:?}].{part}");
        let content = section.content;
        match pb::SectionAction::try_from(section.action).unwrap_or_default() {
            pb::SectionAction::Unspecified => {
                self.wrong(field("action"), "must be one of SectionAction");
                Section::Preserve
            }
            pb::SectionAction::Preserve => Section::Preserve,
            pb::SectionAction::Remove => Section::Remove,
            pb::SectionAction::Replace => Section::Replace { content: self.text(&field("content"), content) },
            pb::SectionAction::Append => Section::Append { content: self.text(&field("content"), content) },
            pb::SectionAction::Prepend => Section::Prepend { content: self.text(&field("content"), content) },
        }
    }

    fn working_directory(&mut self, path: String) -> Option<String> {
        if !path.is_empty() && !path.starts_with('/') {
            self.wrong("working_directory", "must be an absolute path on the Copilot CLI's machine");
        }
        non_empty(path)
    }
}
