//! Requests, parsed at the door: all that is wrong with one is said at once, by field. Nothing behind the door checks them
//! again.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderName, HeaderValue, Uri};

use crate::{
    copilot::{
        Attachment, Message, Provider, Secret, Section, Settings, SystemMessage,
        method::{Position, Range},
    },
    grpc::{pb, status::Violation},
    session::{
        Blueprint, Change, Credentials, PERMISSION_KINDS, PageToken, Policy, Rule, Selection, SessionId,
        SessionState, hub::Filter,
    },
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

/// The longest `page_size`.
pub(in crate::grpc) const MAX_PAGE: usize = 1000;

/// The `page_size` of a request that has none.
pub(in crate::grpc) const DEFAULT_PAGE: usize = 50;

/// The longest duration: longer ones cannot be told from it, and cannot be added to a moment.
pub(in crate::grpc) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How many attachments a prompt may have.
pub(in crate::grpc) const MAX_ATTACHMENTS: usize = 32;

/// How much data they may hold. In base64 it stays below the 5 MB over which GitHub's side refuses a request, this one and
/// all that follow in the session (cli-protocol.md, section 5).
pub(in crate::grpc) const MAX_ATTACHED: usize = 3 * 1024 * 1024;

/// How many labels a session may have.
pub(in crate::grpc) const MAX_LABELS: usize = 32;

/// The longest name of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_NAME: usize = 63;

/// The longest value of a label, in bytes.
pub(in crate::grpc) const MAX_LABEL_VALUE: usize = 256;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Checks(Vec<Violation>);

impl Checks {
    pub(in crate::grpc) fn wrong(&mut self, field: impl Into<String>, description: impl ToString) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// The value, if nothing was wrong.
    pub(in crate::grpc) fn done<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }

    pub(in crate::grpc) fn session_id(&mut self, id: &str) -> Option<SessionId> {
        self.session_id_in("session_id", id)
    }

    pub(in crate::grpc) fn session_id_in(&mut self, field: &str, id: &str) -> Option<SessionId> {
        SessionId::parse(id).map_err(|error| self.wrong(field, error)).ok()
    }

    /// A prompt and what goes with it.
    pub(in crate::grpc) fn message(
        &mut self,
        prompt: String,
        attachments: Vec<pb::Attachment>,
        request_headers: HashMap<String, String>,
    ) -> Message {
        if prompt.trim().is_empty() {
            self.wrong("prompt", "say something: it is empty or only white space");
        }
        Message {
            prompt,
            attachments: self.attachments(attachments),
            request_headers: self.headers("request_headers", request_headers),
        }
    }

    fn attachments(&mut self, attachments: Vec<pb::Attachment>) -> Vec<Attachment> {
        use pb::attachment::Kind;
        if attachments.len() > MAX_ATTACHMENTS {
            self.wrong("attachments", format!("there may be {MAX_ATTACHMENTS} at most"));
        }
        let bytes: usize = attachments.iter().map(weight).sum();
        if bytes > MAX_ATTACHED {
            self.wrong(
                "attachments",
                format!("{bytes} bytes of data are more than the {MAX_ATTACHED} that are taken"),
            );
        }
        let attachments = attachments.into_iter().enumerate().filter_map(|(n, attachment)| {
            let field = |part: &str| format!("attachments[{n}].{part}");
            let Some(kind) = attachment.kind else {
                self.wrong(field("kind"), "is required: blob, file, directory or selection");
                return None;
            };
            Some(match kind {
                Kind::Blob(blob) => {
                    if blob.data.is_empty() {
                        self.wrong(field("blob.data"), "is required");
                    }
                    if !blob.mime_type.contains('/') {
                        self.wrong(
                            field("blob.mime_type"),
                            "is required, such as `image/png` or `text/plain`",
                        );
                    }
                    let (data, display_name) = (STANDARD.encode(&blob.data), non_empty(blob.display_name));
                    Attachment::Blob { data, mime_type: blob.mime_type, display_name }
                }
                Kind::File(file) => {
                    let display_name = self.place(&field("file.path"), &file.path, file.display_name);
                    Attachment::File { path: file.path, display_name }
                }
                Kind::Directory(directory) => {
                    let display_name =
                        self.place(&field("directory.path"), &directory.path, directory.display_name);
                    Attachment::Directory { path: directory.path, display_name }
                }
                Kind::Selection(selection) => self.selected(n, selection),
            })
        });
        attachments.collect()
    }

    fn selected(&mut self, n: usize, selection: pb::attachment::Selection) -> Attachment {
        let field = |part: &str| format!("attachments[{n}].selection.{part}");
        let position = |place: Option<pb::attachment::Position>| {
            let place = place.unwrap_or_default();
            Position { line: place.line, character: place.character }
        };
        let (start, end) = (position(selection.start), position(selection.end));
        if (end.line, end.character) < (start.line, start.character) {
            self.wrong(field("end"), "is before `start`");
        }
        let file_path = self.text(&field("file_path"), selection.file_path);
        let display_name = named(selection.display_name, &file_path);
        let text = self.text(&field("text"), selection.text);
        Attachment::Selection { file_path, display_name, text, selection: Range { start, end } }
    }

    /// Checks a path on the CLI's machine, and returns its name for people.
    fn place(&mut self, field: &str, path: &str, display_name: String) -> String {
        if !path.starts_with('/') {
            self.wrong(field, "must be an absolute path on the Copilot CLI's machine");
        }
        named(display_name, path)
    }

    /// More than nothing; more than a year is taken as a year.
    pub(in crate::grpc) fn duration(
        &mut self,
        field: &str,
        duration: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let checked = duration.and_then(positive);
        if duration.is_some() && checked.is_none() {
            self.wrong(field, "must be more than 0; leave it unset for the default");
        }
        checked
    }

    /// Whether the turn goes on without its caller.
    pub(in crate::grpc) fn on_disconnect(&mut self, choice: i32) -> bool {
        match pb::OnDisconnect::try_from(choice) {
            Ok(pb::OnDisconnect::Continue) => true,
            Ok(pb::OnDisconnect::Unspecified | pb::OnDisconnect::Abort) => false,
            Err(_) => {
                self.wrong("on_disconnect", format!("{choice} is not a value of OnDisconnect"));
                false
            }
        }
    }

    pub(in crate::grpc) fn event_types(&mut self, patterns: Vec<String>) -> Filter {
        for (n, pattern) in patterns.iter().enumerate() {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern.is_empty() || name.contains(['*', ' ']) {
                let advice =
                    "write the name of an event such as `tool.execution_start`, or its beginning and a `*`";
                self.wrong(format!("event_types[{n}]"), advice);
            }
        }
        if patterns.is_empty() { Filter::Kinds(DEFAULT_EVENTS) } else { Filter::Patterns(patterns) }
    }

    /// Where a page of a history begins.
    pub(in crate::grpc) fn history_token(&mut self, id: &str, token: &str) -> Option<String> {
        if token.is_empty() {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let cursor = decoded
            .and_then(|text| Some(text.strip_prefix("1 ")?.strip_prefix(id)?.strip_prefix(' ')?.into()));
        if cursor.is_none() {
            let advice =
                "is not a `next_page_token` of this session's history; leave it empty for the first page";
            self.wrong("page_token", advice);
        }
        cursor
    }

    pub(in crate::grpc) fn page_size(&mut self, size: i32) -> usize {
        match usize::try_from(size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => {
                self.wrong("page_size", "must not be negative; 0 is the default");
                DEFAULT_PAGE
            }
        }
    }

    pub(in crate::grpc) fn page_token(&mut self, token: &str) -> Option<PageToken> {
        if token.is_empty() {
            return None;
        }
        let parsed = PageToken::decode(token);
        if parsed.is_none() {
            self.wrong(
                "page_token",
                "is not a `next_page_token` of this server; leave it empty for the first page",
            );
        }
        parsed
    }

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
        Blueprint { settings, policy, labels, operators_provider }
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
            self.wrong("update_mask", "is required: `labels`, `model`, or both");
        }
        let mut change = Change::default();
        for path in &mask.paths {
            match path.as_str() {
                "labels" => change.labels = Some(self.labels(session.labels.clone())),
                "model" => change.model = Some(self.text("session.model", session.model.clone())),
                _ => {
                    self.wrong("update_mask", format!("{path:?} cannot be changed; `labels` and `model` can"))
                }
            }
        }
        change
    }

    /// Which sessions are to be listed.
    pub(in crate::grpc) fn selection(
        &mut self,
        labels: HashMap<String, String>,
        states: Vec<i32>,
    ) -> Selection {
        let states = states.into_iter().enumerate().filter_map(|(n, state)| {
            let known = match pb::SessionState::try_from(state) {
                Ok(pb::SessionState::Idle) => Some(SessionState::Idle),
                Ok(pb::SessionState::Running) => Some(SessionState::Running),
                Ok(pb::SessionState::Unloaded) => Some(SessionState::Unloaded),
                Ok(pb::SessionState::Unspecified) | Err(_) => None,
            };
            if known.is_none() {
                self.wrong(format!("states[{n}]"), "is not a state that a session can be in");
            }
            known
        });
        let states = states.collect();
        Selection { labels: self.labels(labels), states }
    }

    fn labels(&mut self, labels: HashMap<String, String>) -> BTreeMap<String, String> {
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

    fn one_of(&mut self, field: &str, value: String, allowed: &[&str]) -> Option<String> {
        if !value.is_empty() && !allowed.contains(&value.as_str()) {
            self.wrong(field, format!("must be one of {}, or empty", allowed.join(", ")));
        }
        non_empty(value)
    }

    /// A secret. What is wrong with it is said without it.
    fn secret(&mut self, field: &str, value: String) -> Option<Secret> {
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.wrong(field, "must be visible ASCII without spaces, as it travels in an HTTP header");
        }
        non_empty(value).map(Secret::new)
    }

    fn headers(&mut self, field: &str, headers: HashMap<String, String>) -> BTreeMap<String, Secret> {
        for (name, value) in &headers {
            if HeaderName::from_str(name).is_err() || HeaderValue::from_str(value).is_err() {
                self.wrong(field, format!("{name:?} is not a valid HTTP header, or its value is not"));
            }
        }
        headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
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

    /// A text that there must be.
    fn text(&mut self, field: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.wrong(field, "is required: it is empty or only white space");
        }
        text
    }

    fn working_directory(&mut self, path: String) -> Option<String> {
        if !path.is_empty() && !path.starts_with('/') {
            self.wrong("working_directory", "must be an absolute path on the Copilot CLI's machine");
        }
        non_empty(path)
    }
}

/// How much data of the caller's an attachment holds.
pub(in crate::grpc) fn weight(attachment: &pb::Attachment) -> usize {
    match &attachment.kind {
        Some(pb::attachment::Kind::Blob(blob)) => blob.data.len(),
        Some(pb::attachment::Kind::Selection(selection)) => selection.text.len(),
        _ => 0,
    }
}

/// A name for people: the one given, else the last part of the path.
pub(in crate::grpc) fn named(display_name: String, path: &str) -> String {
    let last = || path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    non_empty(display_name).unwrap_or_else(|| last().to_owned())
}

pub(in crate::grpc) fn positive(duration: prost_types::Duration) -> Option<Duration> {
    // The most negative one cannot even be converted.
    let duration = Some(duration).filter(|duration| duration.seconds >= 0)?;
    let duration = Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())?;
    Some(duration.min(LONGEST))
}

pub(in crate::grpc) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The events that a stream has unless its request names some: those that [`pb::SessionEvent`] has a field for.
pub(in crate::grpc) const DEFAULT_EVENTS: &[&str] = &[
    "user.message",
    "assistant.message",
    "assistant.message_delta",
    "assistant.reasoning",
    "assistant.reasoning_delta",
    "assistant.turn_start",
    "assistant.turn_end",
    "assistant.turn_retry",
    "assistant.usage",
    "tool.execution_start",
    "tool.execution_partial_result",
    "tool.execution_progress",
    "tool.execution_complete",
    "permission.requested",
    "permission.completed",
    "session.title_changed",
    "session.compaction_start",
    "session.compaction_complete",
    "session.warning",
    "session.error",
    "session.idle",
    "abort",
];
