//! Between the contract's messages and the session room's types.
//!
//! Requests are parsed at the door: all that is wrong with one is said at once, by field. Nothing behind the door checks
//! them again.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use serde_json::Value as Json;

use super::{
    pb,
    status::{Violation, cut},
};
use crate::{
    copilot::{
        Event, Provider, Secret, Settings,
        event::{self, Payload},
    },
    session::{
        Delivery, PERMISSION_KINDS, PageToken, Policy, Remains, Rule, SessionId, SessionState, Summary,
        ToolCall, TurnError, TurnResult, Usage, hub::Filter,
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
const MAX_PAGE: usize = 1000;

/// The `page_size` of a request that has none.
const DEFAULT_PAGE: usize = 50;

/// The longest duration: longer ones cannot be told from it, and cannot be added to a moment.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How deep JSON may be until the rest is given as text: protobuf's readers give up at 100 messages within each other, of
/// which one level of JSON takes up to four.
const MAX_DEPTH: usize = 20;

/// How much of a failed turn's text fits beside the other details into the 8 KiB of headers that many clients take:
/// details are base64, so 3 KiB become 4.
const MAX_PARTIAL: usize = 3 * 1024;

/// How much of a name or id that comes from elsewhere goes into an error.
pub(super) const MAX_NAME: usize = 64;

/// How many running tools a failed turn shows.
const MAX_RUNNING_TOOLS: usize = 8;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Violation>);

impl Checks {
    fn wrong(&mut self, field: impl Into<String>, description: impl ToString) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// The value, if nothing was wrong.
    pub(super) fn done<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }

    pub(super) fn session_id(&mut self, id: &str) -> Option<SessionId> {
        SessionId::parse(id).map_err(|error| self.wrong("session_id", error)).ok()
    }

    /// The prompt, if there is one.
    pub(super) fn prompt(&mut self, prompt: String) -> String {
        if prompt.trim().is_empty() {
            self.wrong("prompt", "say something: it is empty or only white space");
        }
        prompt
    }

    /// More than nothing; more than a year is taken as a year.
    pub(super) fn duration(
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
    pub(super) fn on_disconnect(&mut self, choice: i32) -> bool {
        match pb::OnDisconnect::try_from(choice) {
            Ok(pb::OnDisconnect::Continue) => true,
            Ok(pb::OnDisconnect::Unspecified | pb::OnDisconnect::Abort) => false,
            Err(_) => {
                self.wrong("on_disconnect", format!("{choice} is not a value of OnDisconnect"));
                false
            }
        }
    }

    pub(super) fn event_types(&mut self, patterns: Vec<String>) -> Filter {
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

    pub(super) fn page_size(&mut self, size: i32) -> usize {
        match usize::try_from(size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => {
                self.wrong("page_size", "must not be negative; 0 is the default");
                DEFAULT_PAGE
            }
        }
    }

    pub(super) fn page_token(&mut self, token: &str) -> Option<PageToken> {
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

    /// What a session is to be like.
    pub(super) fn settings(
        &mut self,
        request: pb::CreateSessionRequest,
        defaults: &Defaults,
    ) -> (Settings, Policy) {
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
        let settings = Settings {
            model,
            provider,
            github_token: self.secret("github_token", request.github_token),
            available_tools: self.tools(request.available_tools, defaults),
            ask_permission: !policy.denies_all(),
            working_directory: self.working_directory(request.working_directory),
        };
        (settings, policy)
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
            headers: self.headers(provider.headers),
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

    fn headers(&mut self, headers: std::collections::HashMap<String, String>) -> BTreeMap<String, Secret> {
        for (name, value) in &headers {
            if HeaderName::from_str(name).is_err() || HeaderValue::from_str(value).is_err() {
                self.wrong(
                    "provider.headers",
                    format!("{name:?} is not a valid HTTP header, or its value is not"),
                );
            }
        }
        headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
    }

    fn tools(&mut self, tools: Vec<String>, defaults: &Defaults) -> Vec<String> {
        for (n, tool) in tools.iter().enumerate() {
            let name = tool.strip_prefix("builtin:").unwrap_or(tool);
            let is_name = !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'));
            if !is_name && tool != "builtin:*" {
                let advice = "write `name`, `builtin:name`, or `builtin:*` for all built-in tools";
                self.wrong(format!("available_tools[{n}]"), advice);
            }
        }
        if tools.is_empty() { defaults.available_tools.clone() } else { tools }
    }

    fn working_directory(&mut self, path: String) -> Option<String> {
        if !path.is_empty() && !path.starts_with('/') {
            self.wrong("working_directory", "must be an absolute path on the Copilot CLI's machine");
        }
        non_empty(path)
    }
}

fn positive(duration: prost_types::Duration) -> Option<Duration> {
    // The most negative one cannot even be converted.
    let duration = Some(duration).filter(|duration| duration.seconds >= 0)?;
    let duration = Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())?;
    Some(duration.min(LONGEST))
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A session.
pub(super) fn session(summary: Summary) -> pb::Session {
    let state = match summary.state {
        SessionState::Idle => pb::SessionState::Idle,
        SessionState::Running => pb::SessionState::Running,
        SessionState::Unloaded => pb::SessionState::Unloaded,
    };
    pb::Session {
        session_id: summary.id.to_string(),
        model: summary.model,
        state: state.into(),
        title: summary.title,
        create_time: timestamp(&summary.create_time),
        update_time: timestamp(&summary.update_time),
        working_directory: summary.working_directory,
    }
}

/// What came of a turn that succeeded.
pub(super) fn turn_result(result: &TurnResult) -> pb::TurnResult {
    pb::TurnResult {
        message_id: result.message_id.clone(),
        content: result.content.clone(),
        usage: Some(usage(&result.usage)),
        tool_calls: result.tool_calls.iter().map(tool_call).collect(),
        model: result.model.clone().unwrap_or_default(),
    }
}

/// What there is of a turn that failed.
pub(super) fn turn_failure(error: &TurnError) -> pb::TurnFailure {
    let delivery = match error.delivery {
        Delivery::NotDelivered => pb::DeliveryState::NotDelivered,
        Delivery::Delivered => pb::DeliveryState::Delivered,
        Delivery::Unknown => pb::DeliveryState::Unknown,
    };
    let Remains { message_id, partial, last_event, usage: spent, running_tools } = &error.remains;
    let shown = running_tools.iter().take(MAX_RUNNING_TOOLS).map(|call| pb::ToolCall {
        tool_call_id: cut(&call.id, MAX_NAME).into(),
        name: cut(&call.name, MAX_NAME).into(),
        arguments: None,
        success: None,
    });
    pb::TurnFailure {
        message_id: cut(message_id.as_deref().unwrap_or_default(), MAX_NAME).into(),
        delivery: delivery.into(),
        partial_content: cut(partial, MAX_PARTIAL).into(),
        last_event_type: cut(last_event.as_deref().unwrap_or_default(), MAX_NAME).into(),
        usage: Some(usage(spent)),
        running_tools: shown.collect(),
        partial_content_truncated: partial.len() > MAX_PARTIAL,
    }
}

fn usage(usage: &Usage) -> pb::Usage {
    pb::Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_read_tokens: usage.cache_read_tokens,
        cache_write_tokens: usage.cache_write_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        cost: usage.cost,
        model_calls: usage.model_calls,
        model_time: Some(milliseconds(usage.model_milliseconds)),
    }
}

fn tool_call(call: &ToolCall) -> pb::ToolCall {
    pb::ToolCall {
        tool_call_id: call.id.clone(),
        name: call.name.clone(),
        arguments: Some(object(&call.arguments)),
        success: call.success,
    }
}

/// The events that a stream has unless its request names some: those that [`pb::SessionEvent`] has a field for.
const DEFAULT_EVENTS: &[&str] = &[
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

/// An event.
pub(super) fn session_event(event: &Event) -> pb::SessionEvent {
    pb::SessionEvent {
        event_id: event.id.clone(),
        event_time: timestamp(&event.timestamp),
        agent_id: event.agent_id.clone().unwrap_or_default(),
        ephemeral: event.ephemeral,
        payload: Some(payload(event)),
    }
}

fn payload(event: &Event) -> pb::session_event::Payload {
    use pb::session_event::Payload as Pb;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match &event.payload {
        Payload::AssistantMessageDelta(event) => Pb::AssistantMessageDelta(pb::AssistantMessageDelta {
            message_id: event.message_id.clone(),
            text: event.delta_content.clone(),
        }),
        Payload::AssistantReasoningDelta(event) => Pb::AssistantReasoningDelta(pb::AssistantReasoningDelta {
            reasoning_id: event.reasoning_id.clone(),
            text: event.delta_content.clone(),
        }),
        Payload::ToolExecutionPartialResult(event) => Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
            tool_call_id: event.tool_call_id.clone(),
            partial_output: event.partial_output.clone(),
            message: String::new(),
        }),
        Payload::ToolExecutionProgress(event) => Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
            tool_call_id: event.tool_call_id.clone(),
            partial_output: String::new(),
            message: event.progress_message.clone(),
        }),
        Payload::UserMessage(event) => Pb::UserMessage(pb::UserMessage {
            message_id: text(&event.message_id),
            content: event.content.clone(),
        }),
        Payload::AssistantMessage(event) => Pb::AssistantMessage(pb::AssistantMessage {
            message_id: event.message_id.clone(),
            content: event.content.clone(),
            originating_message_id: text(&event.originating_message_id),
            model: text(&event.model),
            tool_requests: event.tool_requests.iter().map(tool_request).collect(),
        }),
        Payload::AssistantReasoning(event) => Pb::AssistantReasoning(pb::AssistantReasoning {
            reasoning_id: event.reasoning_id.clone(),
            content: event.content.clone(),
        }),
        Payload::AssistantTurnStart(event) => {
            Pb::AssistantTurnStart(pb::AssistantTurnStart { turn_id: event.turn_id.clone() })
        }
        Payload::AssistantTurnEnd(event) => {
            Pb::AssistantTurnEnd(pb::AssistantTurnEnd { turn_id: event.turn_id.clone() })
        }
        Payload::AssistantTurnRetry(event) => Pb::AssistantTurnRetry(pb::AssistantTurnRetry {
            turn_id: event.turn_id.clone(),
            reason: text(&event.reason),
            model: text(&event.model),
        }),
        Payload::AssistantUsage(event) => Pb::AssistantUsage(assistant_usage(event)),
        Payload::ToolExecutionStart(event) => Pb::ToolExecutionStart(pb::ToolExecutionStart {
            tool_call_id: event.tool_call_id.clone(),
            name: event.tool_name.clone(),
            arguments: Some(object(&event.arguments)),
        }),
        Payload::ToolExecutionComplete(event) => Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
            tool_call_id: event.tool_call_id.clone(),
            success: event.success,
            content: event.result.as_ref().map(|result| text(&result.content)).unwrap_or_default(),
            error_message: event.error.as_ref().map(|error| text(&error.message)).unwrap_or_default(),
        }),
        Payload::PermissionRequested(event) => Pb::PermissionRequested(pb::PermissionRequested {
            request_id: event.request_id.clone(),
            kind: event.kind().to_owned(),
            tool_call_id: event.tool_call_id().unwrap_or_default().to_owned(),
            details: Some(object(&event.permission_request)),
        }),
        Payload::PermissionCompleted(event) => Pb::PermissionCompleted(pb::PermissionCompleted {
            request_id: event.request_id.clone(),
            tool_call_id: text(&event.tool_call_id),
            outcome: event.result.kind.clone(),
        }),
        Payload::SessionTitleChanged(event) => {
            Pb::SessionTitleChanged(pb::SessionTitleChanged { title: event.title.clone() })
        }
        Payload::SessionCompactionStart(event) => {
            Pb::SessionCompactionStart(pb::SessionCompactionStart { trigger: text(&event.trigger) })
        }
        Payload::SessionCompactionComplete(event) => {
            Pb::SessionCompactionComplete(pb::SessionCompactionComplete {
                success: event.success,
                error_message: text(&event.error),
                tokens_before: event.pre_compaction_tokens.unwrap_or_default(),
                tokens_after: event.post_compaction_tokens.unwrap_or_default(),
            })
        }
        Payload::SessionWarning(event) => Pb::SessionWarning(pb::SessionWarning {
            r#type: text(&event.warning_type),
            message: event.message.clone(),
        }),
        Payload::SessionError(event) => Pb::SessionError(pb::SessionError {
            r#type: event.error_type.clone(),
            message: event.message.clone(),
            status_code: event.status_code.unwrap_or_default(),
            error_code: text(&event.error_code),
        }),
        Payload::Abort(event) => Pb::Abort(pb::Abort { reason: text(&event.reason) }),
        Payload::SessionIdle(event) => Pb::SessionIdle(pb::SessionIdle { aborted: event.aborted }),
        Payload::SessionStart(data) | Payload::SessionShutdown(data) | Payload::Other(data) => {
            Pb::Other(pb::Other { r#type: event.kind.clone(), data: Some(object(data)) })
        }
    }
}

fn tool_request(request: &event::ToolRequest) -> pb::ToolRequest {
    pb::ToolRequest {
        tool_call_id: request.tool_call_id.clone(),
        name: request.name.clone(),
        arguments: Some(object(&request.arguments)),
    }
}

fn assistant_usage(usage: &event::Usage) -> pb::AssistantUsage {
    pb::AssistantUsage {
        model: usage.model.clone().unwrap_or_default(),
        input_tokens: usage.input_tokens.unwrap_or_default(),
        output_tokens: usage.output_tokens.unwrap_or_default(),
        cache_read_tokens: usage.cache_read_tokens.unwrap_or_default(),
        cache_write_tokens: usage.cache_write_tokens.unwrap_or_default(),
        reasoning_tokens: usage.reasoning_tokens.unwrap_or_default(),
        cost: usage.cost.unwrap_or_default(),
        duration: usage.duration.map(milliseconds),
    }
}

fn milliseconds(milliseconds: f64) -> prost_types::Duration {
    let duration = Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default();
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

fn timestamp(text: &str) -> Option<Timestamp> {
    Timestamp::from_str(text).ok()
}

/// JSON as a Struct; what is not an object becomes one with the single field `value`.
fn object(json: &Json) -> Struct {
    let fields = match json {
        Json::Object(fields) => fields.iter().map(|(name, json)| (name.clone(), value(json, 1))).collect(),
        Json::Null => BTreeMap::new(),
        other => BTreeMap::from([("value".to_owned(), value(other, 1))]),
    };
    Struct { fields }
}

fn value(json: &Json, depth: usize) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(_) | Json::Object(_) if depth >= MAX_DEPTH => Kind::StringValue(json.to_string()),
        Json::Array(items) => {
            let values = items.iter().map(|item| value(item, depth + 1)).collect();
            Kind::ListValue(prost_types::ListValue { values })
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, json)| (name.clone(), value(json, depth + 1))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pb::session_event::Payload as Pb;
    use prost::Message;
    use serde_json::json;

    use super::*;

    /// What must not be seen in an error.
    const SECRET: &str = "hunter2";

    fn wire(event: Json) -> Event {
        event::parse(json!({"sessionId": "s", "event": event}).to_string().as_bytes()).unwrap()
    }

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    fn fields<const N: usize>(fields: [(&str, Value); N]) -> Struct {
        Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    fn milliseconds_of(milliseconds: i32) -> prost_types::Duration {
        prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }
    }

    /// The kinds of event that have a field of their own: data as the CLI sends it, and what becomes of it.
    fn events() -> Vec<(&'static str, Json, Pb)> {
        let command = || fields([("command", text("ls"))]);
        vec![
            (
                "user.message",
                json!({"content": "hi", "transformedContent": "<current_datetime>…", "messageId": "m",
                    "attachments": [], "delivery": "idle", "interactionId": "i"}),
                Pb::UserMessage(pb::UserMessage { message_id: "m".into(), content: "hi".into() }),
            ),
            (
                "assistant.message",
                json!({"messageId": "a", "content": "", "originatingMessageId": "m", "model": "gpt",
                    "outputTokens": 7, "interactionId": "i", "turnId": "0", "toolRequests": [
                        {"toolCallId": "c", "name": "bash", "arguments": {"command": "ls"}, "type": "function"}]}),
                Pb::AssistantMessage(pb::AssistantMessage {
                    message_id: "a".into(),
                    content: String::new(),
                    originating_message_id: "m".into(),
                    model: "gpt".into(),
                    tool_requests: vec![pb::ToolRequest {
                        tool_call_id: "c".into(),
                        name: "bash".into(),
                        arguments: Some(command()),
                    }],
                }),
            ),
            (
                "assistant.message_delta",
                json!({"messageId": "a", "deltaContent": "He", "parentToolCallId": "p"}),
                Pb::AssistantMessageDelta(pb::AssistantMessageDelta {
                    message_id: "a".into(),
                    text: "He".into(),
                }),
            ),
            (
                "assistant.reasoning",
                json!({"reasoningId": "r", "content": "hm"}),
                Pb::AssistantReasoning(pb::AssistantReasoning {
                    reasoning_id: "r".into(),
                    content: "hm".into(),
                }),
            ),
            (
                "assistant.reasoning_delta",
                json!({"reasoningId": "r", "deltaContent": "h"}),
                Pb::AssistantReasoningDelta(pb::AssistantReasoningDelta {
                    reasoning_id: "r".into(),
                    text: "h".into(),
                }),
            ),
            (
                "assistant.turn_start",
                json!({"turnId": "0", "interactionId": "i"}),
                Pb::AssistantTurnStart(pb::AssistantTurnStart { turn_id: "0".into() }),
            ),
            (
                "assistant.turn_end",
                json!({"turnId": "0"}),
                Pb::AssistantTurnEnd(pb::AssistantTurnEnd { turn_id: "0".into() }),
            ),
            (
                "assistant.turn_retry",
                json!({"turnId": "0", "reason": "rate_limit", "model": "gpt"}),
                Pb::AssistantTurnRetry(pb::AssistantTurnRetry {
                    turn_id: "0".into(),
                    reason: "rate_limit".into(),
                    model: "gpt".into(),
                }),
            ),
            (
                "assistant.usage",
                json!({"model": "gpt", "inputTokens": 1, "outputTokens": 2, "cacheReadTokens": 3,
                    "cacheWriteTokens": 4, "reasoningTokens": 5, "cost": 0.5, "duration": 250, "initiator": "u"}),
                Pb::AssistantUsage(pb::AssistantUsage {
                    model: "gpt".into(),
                    input_tokens: 1,
                    output_tokens: 2,
                    cache_read_tokens: 3,
                    cache_write_tokens: 4,
                    reasoning_tokens: 5,
                    cost: 0.5,
                    duration: Some(milliseconds_of(250)),
                }),
            ),
            (
                "tool.execution_start",
                json!({"toolCallId": "c", "toolName": "bash", "arguments": {"command": "ls"}}),
                Pb::ToolExecutionStart(pb::ToolExecutionStart {
                    tool_call_id: "c".into(),
                    name: "bash".into(),
                    arguments: Some(command()),
                }),
            ),
            (
                "tool.execution_partial_result",
                json!({"toolCallId": "c", "partialOutput": "a.txt"}),
                Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
                    tool_call_id: "c".into(),
                    partial_output: "a.txt".into(),
                    message: String::new(),
                }),
            ),
            (
                "tool.execution_progress",
                json!({"toolCallId": "c", "progressMessage": "half"}),
                Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
                    tool_call_id: "c".into(),
                    partial_output: String::new(),
                    message: "half".into(),
                }),
            ),
            (
                "tool.execution_complete",
                json!({"toolCallId": "c", "success": true, "toolTelemetry": {},
                    "result": {"content": "a.txt", "detailedContent": "a.txt\n"}}),
                Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
                    tool_call_id: "c".into(),
                    success: true,
                    content: "a.txt".into(),
                    error_message: String::new(),
                }),
            ),
            (
                "permission.requested",
                json!({"requestId": "p", "permissionRequest": {"kind": "shell", "toolCallId": "c"},
                    "promptRequest": {}, "agentMode": "interactive"}),
                Pb::PermissionRequested(pb::PermissionRequested {
                    request_id: "p".into(),
                    kind: "shell".into(),
                    tool_call_id: "c".into(),
                    details: Some(fields([("kind", text("shell")), ("toolCallId", text("c"))])),
                }),
            ),
            (
                "permission.completed",
                json!({"requestId": "p", "toolCallId": "c", "result": {"kind": "approved"}}),
                Pb::PermissionCompleted(pb::PermissionCompleted {
                    request_id: "p".into(),
                    tool_call_id: "c".into(),
                    outcome: "approved".into(),
                }),
            ),
            (
                "session.title_changed",
                json!({"title": "Files"}),
                Pb::SessionTitleChanged(pb::SessionTitleChanged { title: "Files".into() }),
            ),
            (
                "session.compaction_start",
                json!({"trigger": "threshold"}),
                Pb::SessionCompactionStart(pb::SessionCompactionStart { trigger: "threshold".into() }),
            ),
            (
                "session.compaction_complete",
                json!({"success": true, "preCompactionTokens": 90, "postCompactionTokens": 9}),
                Pb::SessionCompactionComplete(pb::SessionCompactionComplete {
                    success: true,
                    error_message: String::new(),
                    tokens_before: 90,
                    tokens_after: 9,
                }),
            ),
            (
                "session.warning",
                json!({"warningType": "subscription", "message": "careful"}),
                Pb::SessionWarning(pb::SessionWarning {
                    r#type: "subscription".into(),
                    message: "careful".into(),
                }),
            ),
            (
                "session.error",
                json!({"errorType": "rate_limit", "message": "slow down", "statusCode": 429,
                    "errorCode": "too_many", "originatingMessageId": "m", "stack": "at x"}),
                Pb::SessionError(pb::SessionError {
                    r#type: "rate_limit".into(),
                    message: "slow down".into(),
                    status_code: 429,
                    error_code: "too_many".into(),
                }),
            ),
            (
                "session.idle",
                json!({"aborted": true, "mode": "interactive"}),
                Pb::SessionIdle(pb::SessionIdle { aborted: true }),
            ),
            (
                "abort",
                json!({"reason": "user_initiated"}),
                Pb::Abort(pb::Abort { reason: "user_initiated".into() }),
            ),
        ]
    }

    #[test]
    fn every_default_event_has_a_field_of_its_own() {
        let events = events();
        for kind in DEFAULT_EVENTS {
            let (_, data, expected) = events
                .iter()
                .find(|(name, ..)| name == kind)
                .unwrap_or_else(|| panic!("{kind} has no row in events()"));
            let event = wire(json!({"type": kind, "id": "e", "data": data}));
            assert_eq!(session_event(&event).payload.as_ref(), Some(expected), "{kind}");
        }
        for (kind, ..) in events {
            assert!(DEFAULT_EVENTS.contains(&kind), "{kind} is not sent by default");
        }
    }

    #[test]
    fn what_an_event_does_not_say_is_empty() {
        let check = |kind: &str, data: Json, expected: Pb| {
            let event = wire(json!({"type": kind, "data": data}));
            assert_eq!(session_event(&event).payload, Some(expected), "{kind}");
        };
        check(
            "user.message",
            json!({"content": "hi"}),
            Pb::UserMessage(pb::UserMessage { content: "hi".into(), ..Default::default() }),
        );
        check(
            "assistant.message",
            json!({"messageId": "a", "content": "hi"}),
            Pb::AssistantMessage(pb::AssistantMessage {
                message_id: "a".into(),
                content: "hi".into(),
                ..Default::default()
            }),
        );
        check("session.idle", json!({}), Pb::SessionIdle(pb::SessionIdle::default()));
        check(
            "tool.execution_complete",
            json!({"toolCallId": "c", "success": false, "error": {"message": "denied", "code": "x"}}),
            Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
                tool_call_id: "c".into(),
                error_message: "denied".into(),
                ..Default::default()
            }),
        );
        check(
            "permission.requested",
            json!({"requestId": "p", "permissionRequest": {}}),
            Pb::PermissionRequested(pb::PermissionRequested {
                request_id: "p".into(),
                details: Some(Struct::default()),
                ..Default::default()
            }),
        );
    }

    #[test]
    fn events_without_a_field_of_their_own_keep_all_of_their_data() {
        let check = |kind: &str, data: Json, expected: Struct| {
            let event = wire(json!({"type": kind, "id": "e", "data": data}));
            let expected = Pb::Other(pb::Other { r#type: kind.into(), data: Some(expected) });
            assert_eq!(session_event(&event).payload, Some(expected), "{kind}");
        };
        check("brand.new", json!({"x": 1, "y": "z"}), fields([("x", number(1.0)), ("y", text("z"))]));
        check("brand.new", json!(null), Struct::default());
        check("session.start", json!({"version": 1}), fields([("version", number(1.0))]));
        check(
            "session.shutdown",
            json!({"shutdownType": "routine"}),
            fields([("shutdownType", text("routine"))]),
        );
        // A kind that we know, in a shape that we do not.
        check("session.idle", json!({"aborted": "yes"}), fields([("aborted", text("yes"))]));
    }

    #[test]
    fn the_envelope_says_when_where_and_whether_it_is_stored() {
        let full = wire(json!({"type": "abort", "id": "e", "timestamp": "2026-11-23T14:28:56.393Z",
            "agentId": "helper", "ephemeral": true, "parentId": null, "data": {"reason": "x"}}));
        let expected = pb::SessionEvent {
            event_id: "e".into(),
            event_time: Some(Timestamp { seconds: 1_795_444_136, nanos: 393_000_000 }),
            agent_id: "helper".into(),
            ephemeral: true,
            payload: Some(Pb::Abort(pb::Abort { reason: "x".into() })),
        };
        assert_eq!(session_event(&full), expected);
        let bare = session_event(&wire(json!({"type": "abort", "timestamp": "yesterday", "data": {}})));
        assert_eq!((bare.event_time, bare.agent_id.as_str(), bare.ephemeral), (None, "", false));
    }

    #[test]
    fn json_becomes_a_struct_with_nothing_lost() {
        let check = |json: Json, expected: Struct| assert_eq!(object(&json), expected, "{json}");
        let null = || Value { kind: Some(Kind::NullValue(0)) };
        let list = |values| Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) };
        let nested = |fields| Value { kind: Some(Kind::StructValue(fields)) };
        let boolean = |value| Value { kind: Some(Kind::BoolValue(value)) };
        check(json!({}), fields([]));
        check(json!(null), fields([]));
        check(
            json!({"a": null, "b": true, "c": "ü"}),
            fields([("a", null()), ("b", boolean(true)), ("c", text("ü"))]),
        );
        check(
            json!({"n": [0, -1, 1.5, 1e300, 9_007_199_254_740_993_u64]}),
            fields([(
                "n",
                list(vec![
                    number(0.0),
                    number(-1.0),
                    number(1.5),
                    number(1e300),
                    number(9_007_199_254_740_992.0),
                ]),
            )]),
        );
        check(
            json!({"a": [[], [null, {"b": [1]}]]}),
            fields([(
                "a",
                list(vec![
                    list(vec![]),
                    list(vec![null(), nested(fields([("b", list(vec![number(1.0)]))]))]),
                ]),
            )]),
        );
        check(json!({"": {"": {}}}), fields([("", nested(fields([("", nested(fields([])))])))]));
        // What is not an object.
        check(json!("ls"), fields([("value", text("ls"))]));
        check(json!([1, "a"]), fields([("value", list(vec![number(1.0), text("a")]))]));
        check(json!(false), fields([("value", boolean(false))]));
    }

    #[test]

    fn deep_json_can_be_read_by_the_clients() {
        let deep = (0..60).fold(json!("x"), |inner, _| json!({"a": inner}));
        let event = session_event(&wire(json!({"type": "brand.new", "data": deep})));
        assert_eq!(pb::SessionEvent::decode(&*event.encode_to_vec()), Ok(event));
    }

    #[test]
    fn a_session_is_told_as_it_is() {
        let summary = |state| Summary {
            id: SessionId::parse("s").unwrap(),
            model: "gpt".into(),
            state,
            title: "Files".into(),
            create_time: "1970-01-01T00:00:01Z".into(),
            update_time: String::new(),
            working_directory: "/w".into(),
        };
        let check = |state, expected: pb::SessionState| {
            let expected = pb::Session {
                session_id: "s".into(),
                model: "gpt".into(),
                state: expected.into(),
                title: "Files".into(),
                create_time: Some(Timestamp { seconds: 1, nanos: 0 }),
                update_time: None,
                working_directory: "/w".into(),
            };
            assert_eq!(session(summary(state)), expected);
        };
        check(SessionState::Idle, pb::SessionState::Idle);
        check(SessionState::Running, pb::SessionState::Running);
        check(SessionState::Unloaded, pb::SessionState::Unloaded);
    }

    #[test]
    fn a_result_is_told_whole() {
        let result = TurnResult {
            message_id: "m".into(),
            content: "x".repeat(100_000),
            model: None,
            usage: Usage {
                input_tokens: 1,
                output_tokens: 2,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                reasoning_tokens: 5,
                cost: 0.5,
                model_calls: 6,
                model_milliseconds: 250.0,
            },
            tool_calls: vec![ToolCall {
                id: "c".into(),
                name: "bash".into(),
                arguments: json!({"command": "ls"}),
                success: Some(false),
            }],
        };
        let expected = pb::TurnResult {
            message_id: "m".into(),
            content: "x".repeat(100_000),
            usage: Some(pb::Usage {
                input_tokens: 1,
                output_tokens: 2,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                reasoning_tokens: 5,
                cost: 0.5,
                model_calls: 6,
                model_time: Some(milliseconds_of(250)),
            }),
            tool_calls: vec![pb::ToolCall {
                tool_call_id: "c".into(),
                name: "bash".into(),
                arguments: Some(fields([("command", text("ls"))])),
                success: Some(false),
            }],
            model: String::new(),
        };
        assert_eq!(turn_result(&result), expected);
    }

    #[test]
    fn milliseconds_that_make_no_sense_are_none() {
        let check = |value: f64, seconds, nanos| {
            assert_eq!(milliseconds(value), prost_types::Duration { seconds, nanos }, "{value}");
        };
        check(0.0, 0, 0);
        check(0.5, 0, 500_000);
        check(61_250.0, 61, 250_000_000);
        for nonsense in [-1.0, f64::NAN, f64::INFINITY, 1e30] {
            check(nonsense, 0, 0);
        }
    }

    fn provider() -> pb::Provider {
        pb::Provider {
            r#type: "azure".into(),
            base_url: "https://api.example.com/v1".into(),
            api_key: SECRET.into(),
            bearer_token: "bearer".into(),
            wire_api: "responses".into(),
            headers: HashMap::from([("X-Team".into(), "a b".into())]),
            azure_api_version: "2026-01-01".into(),
            model_id: "gpt-5".into(),
            wire_model: "deployment".into(),
            max_prompt_tokens: 1000,
            max_output_tokens: 100,
        }
    }

    fn request() -> pb::CreateSessionRequest {
        pb::CreateSessionRequest {
            session_id: String::new(),
            model: "gpt".into(),
            provider: Some(provider()),
            github_token: "ghu_token".into(),
            available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
            permission_policy: Some(pb::PermissionPolicy {
                rules: vec![
                    rule("shell", pb::PermissionEffect::Deny),
                    rule("*", pb::PermissionEffect::Allow),
                ],
            }),
            working_directory: "/work".into(),
        }
    }

    fn rule(kind: &str, effect: pb::PermissionEffect) -> pb::PermissionRule {
        pb::PermissionRule { kind: kind.into(), effect: effect.into() }
    }

    fn parse(
        request: pb::CreateSessionRequest,
        defaults: &Defaults,
    ) -> Result<(Settings, Policy), Vec<Violation>> {
        let mut checks = Checks::default();
        let settings = checks.settings(request, defaults);
        checks.done(Some(settings))
    }

    #[test]
    fn a_good_request_is_passed_on_whole() {
        let (settings, policy) = parse(request(), &Defaults::default()).unwrap();
        let expected = Settings {
            model: Some("gpt".into()),
            provider: Some(Provider {
                kind: Some("azure".into()),
                wire_api: Some("responses".into()),
                transport: None,
                base_url: "https://api.example.com/v1".into(),
                api_key: Some(Secret::new(SECRET)),
                bearer_token: Some(Secret::new("bearer")),
                azure_api_version: Some("2026-01-01".into()),
                headers: BTreeMap::from([("X-Team".into(), Secret::new("a b"))]),
                model_id: Some("gpt-5".into()),
                wire_model: Some("deployment".into()),
                max_prompt_tokens: Some(1000),
                max_output_tokens: Some(100),
            }),
            github_token: Some(Secret::new("ghu_token")),
            available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
            ask_permission: true,
            working_directory: Some("/work".into()),
        };
        assert_eq!(settings, expected);
        let rules = [("shell", false), ("*", true)];
        let rules = rules.map(|(kind, allow)| Rule { kind: kind.into(), allow });
        assert_eq!(policy, Policy::new(rules.into()));
    }

    #[test]
    fn what_a_request_does_not_say_is_left_to_the_cli() {
        let (settings, policy) = parse(pb::CreateSessionRequest::default(), &Defaults::default()).unwrap();
        assert_eq!((settings, policy), (Settings::default(), Policy::default()));
        let bare = pb::Provider { base_url: "http://localhost".into(), ..Default::default() };
        let request =
            pb::CreateSessionRequest { model: " gpt ".into(), provider: Some(bare), ..Default::default() };
        let (settings, _) = parse(request, &Defaults::default()).unwrap();
        let expected = Provider { base_url: "http://localhost".into(), ..Provider::default() };
        assert_eq!((settings.provider, settings.model.as_deref()), (Some(expected), Some("gpt")));
    }

    #[test]
    fn defaults_apply_only_where_the_request_is_silent() {
        let defaults = Defaults {
            model: Some("default-model".into()),
            provider: Some(Provider { base_url: "http://default".into(), ..Provider::default() }),
            available_tools: vec!["default-tool".into()],
            policy: Policy::allowing(&["read".into()]),
        };
        let (settings, policy) = parse(pb::CreateSessionRequest::default(), &defaults).unwrap();
        assert_eq!(settings.model, defaults.model);
        assert_eq!(settings.provider, defaults.provider);
        assert_eq!(settings.available_tools, defaults.available_tools);
        assert_eq!((settings.ask_permission, &policy), (true, &defaults.policy));

        let (settings, policy) = parse(request(), &defaults).unwrap();
        let (own_settings, own_policy) = parse(request(), &Defaults::default()).unwrap();
        assert_eq!((settings, policy), (own_settings, own_policy));

        // A policy without rules is a policy, and denies everything.
        let silent = pb::CreateSessionRequest::default();
        let strict =
            pb::CreateSessionRequest { permission_policy: Some(Default::default()), ..silent.clone() };
        let (settings, policy) = parse(strict, &defaults).unwrap();
        assert_eq!((settings.ask_permission, policy), (false, Policy::default()));

        // The default model goes with the default provider, not with somebody's own.
        let own = pb::CreateSessionRequest { provider: Some(provider()), ..silent.clone() };
        let violations = parse(own, &defaults).unwrap_err();
        assert_eq!(violations[0].field, "model");
        let other_model = pb::CreateSessionRequest { model: "mine".into(), ..silent };
        let (settings, _) = parse(other_model, &defaults).unwrap();
        assert_eq!((settings.model.as_deref(), settings.provider), (Some("mine"), defaults.provider));
    }

    /// Spoils a good request, and expects that the field is named and no secret is told.
    #[track_caller]
    fn refuses(field: &str, spoil: impl Fn(&mut pb::CreateSessionRequest, &mut pb::Provider)) {
        let mut request = request();
        let mut provider = provider();
        spoil(&mut request, &mut provider);
        request.provider = request.provider.map(|_| provider);
        let violations = parse(request, &Defaults::default()).expect_err(field);
        let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(named, [field]);
        assert!(!violations[0].description.is_empty());
        assert!(!format!("{violations:?}").contains(SECRET), "{violations:?}");
    }

    #[test]
    fn each_wrong_field_of_a_new_session_is_named_without_its_secret() {
        for model in ["", " \t"] {
            refuses("model", |request, _| request.model = model.into());
        }
        for token in ["hunter2 ", "hunter2\n", "hunter2\u{0}", " hunter2"] {
            refuses("github_token", |request, _| request.github_token = token.into());
            refuses("provider.api_key", |_, provider| provider.api_key = token.into());
            refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
        }
        for tool in ["", "*", "a b", "builtin:", "builtin:a*", "tool*", "é", "a/b"] {
            refuses("available_tools[1]", |request, _| request.available_tools[1] = tool.into());
        }
        for path in ["work", "./work", "~/work", " /work", "C:\\work"] {
            refuses("working_directory", |request, _| request.working_directory = path.into());
        }
        for kind in ["", "Shell", "shell*", "sh", "hook"] {
            refuses("permission_policy.rules[0].kind", |request, _| {
                let bad = rule(kind, pb::PermissionEffect::Allow);
                request.permission_policy = Some(pb::PermissionPolicy { rules: vec![bad] });
            });
        }
        for effect in [0, 3, -1] {
            refuses("permission_policy.rules[1].effect", |request, _| {
                let bad = pb::PermissionRule { kind: "*".into(), effect };
                let good = rule("read", pb::PermissionEffect::Allow);
                request.permission_policy = Some(pb::PermissionPolicy { rules: vec![good, bad] });
            });
        }
        for kind in ["OpenAI", "gemini", " openai", SECRET] {
            refuses("provider.type", |_, provider| provider.r#type = kind.into());
        }
        for wire_api in ["completion", "Responses", SECRET] {
            refuses("provider.wire_api", |_, provider| provider.wire_api = wire_api.into());
        }
        for url in [
            "",
            "api.example.com/v1",
            "//api.example.com",
            "/v1",
            "ftp://api.example.com",
            "https://",
            "https:///v1",
            "http://:80",
            "https://a b/v1",
            " https://api.example.com",
            "https://user:hunter2@api.example.com/v1",
            "https://hunter2@api.example.com/v1",
        ] {
            refuses("provider.base_url", |_, provider| provider.base_url = url.into());
        }
        for (name, value) in
            [("X Team", SECRET), ("", SECRET), ("é", SECRET), ("X-Team", "hunter2\r\nX-Evil: 1")]
        {
            refuses("provider.headers", |_, provider| {
                provider.headers = HashMap::from([(name.into(), value.into())]);
            });
        }
    }

    #[test]

    fn a_secret_that_is_not_visible_ascii_is_refused() {
        for token in ["hunter2é", "hunter2\t", "\u{feff}hunter2", "hunter2…"] {
            refuses("github_token", |request, _| request.github_token = token.into());
            refuses("provider.api_key", |_, provider| provider.api_key = token.into());
            refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
        }
    }

    #[test]
    fn good_urls_of_providers_are_taken() {
        for url in [
            "http://localhost",
            "http://localhost:8080/",
            "https://api.example.com/v1?api-version=1",
            "HTTPS://API.EXAMPLE.COM",
            "http://127.0.0.1:1234/v1",
            "http://[::1]:1234/v1",
            "https://host/a@b",
        ] {
            let mut request = request();
            request.provider = Some(pb::Provider { base_url: url.into(), ..provider() });
            let (settings, _) = parse(request, &Defaults::default()).expect(url);
            assert_eq!(settings.provider.unwrap().base_url, url);
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_new_session_is_said_at_once() {
        let request = pb::CreateSessionRequest {
            session_id: "a b".into(),
            model: String::new(),
            provider: Some(pb::Provider {
                r#type: "x".into(),
                wire_api: "x".into(),
                api_key: "a b".into(),
                bearer_token: "a b".into(),
                headers: HashMap::from([("a b".into(), String::new())]),
                ..Default::default()
            }),
            github_token: "a b".into(),
            available_tools: vec![String::new(), "fine".into(), "*".into()],
            permission_policy: Some(pb::PermissionPolicy { rules: vec![Default::default()] }),
            working_directory: "x".into(),
        };
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let settings = checks.settings(request, &Defaults::default());
        let violations = checks.done(id.zip(Some(settings))).unwrap_err();
        let mut named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        named.sort();
        let expected = [
            "available_tools[0]",
            "available_tools[2]",
            "github_token",
            "model",
            "permission_policy.rules[0].effect",
            "permission_policy.rules[0].kind",
            "provider.api_key",
            "provider.base_url",
            "provider.bearer_token",
            "provider.headers",
            "provider.type",
            "provider.wire_api",
            "session_id",
            "working_directory",
        ];
        assert_eq!(named, expected);
    }

    /// What one check says: the field that it refuses, or the value.
    fn asked<T>(ask: impl FnOnce(&mut Checks) -> T) -> Result<T, String> {
        let mut checks = Checks::default();
        let value = ask(&mut checks);
        checks.done(Some(value)).map_err(|violations| {
            let named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
            named.join(" ")
        })
    }

    #[test]
    fn all_that_is_wrong_with_a_prompt_is_said_at_once() {
        let named = asked(|checks| {
            checks.event_types(vec![String::new()]);
            checks.session_id("");
            checks.duration("timeout", Some(Default::default()));
            checks.prompt(String::new());
            checks.duration("inactivity_timeout", Some(Default::default()));
            checks.on_disconnect(9);
        });
        let expected = "event_types[0] session_id timeout prompt inactivity_timeout on_disconnect";
        assert_eq!(named, Err(expected.into()));
    }

    #[test]
    fn nothing_comes_of_a_value_that_is_missing_or_wrong() {
        assert_eq!(Checks::default().done::<()>(None), Err(vec![]));
        assert_eq!(Checks::default().done(Some(1)), Ok(1));
        let mut checks = Checks::default();
        checks.wrong("field", "no");
        assert!(checks.done(Some(1)).is_err());
    }

    #[test]
    fn a_prompt_is_not_empty_and_not_changed() {
        let check = |prompt: &str, expected: Result<&str, &str>| {
            let asked = asked(|checks| checks.prompt(prompt.into()));
            assert_eq!(asked, expected.map(String::from).map_err(String::from), "{prompt:?}");
        };
        check("hi", Ok("hi"));
        check("  hi\n", Ok("  hi\n"));
        for empty in ["", " ", "\n\t ", "\u{a0}\u{2003}"] {
            check(empty, Err("prompt"));
        }
    }

    #[test]
    fn a_duration_is_more_than_nothing() {
        let check = |seconds, nanos, expected: Option<Duration>| {
            let duration = prost_types::Duration { seconds, nanos };
            let expected = expected.map(Some).ok_or("timeout".to_owned());
            assert_eq!(asked(|checks| checks.duration("timeout", Some(duration))), expected, "{duration}");
        };
        check(1, 500_000_000, Some(Duration::from_millis(1500)));
        check(0, 1, Some(Duration::from_nanos(1)));
        check(315_576_000_000, 999_999_999, Some(LONGEST));
        // Not as it should be written, and clear nevertheless.
        check(1, -500_000_000, Some(Duration::from_millis(500)));
        check(0, 1_500_000_000, Some(Duration::from_millis(1500)));
        check(0, 0, None);
        check(0, -1, None);
        check(-1, 0, None);
        check(-1, 1_000_000_000, None);
        check(i64::MIN + 1, 0, None);
        assert_eq!(asked(|checks| checks.duration("timeout", None)), Ok(None));
    }

    #[test]

    fn the_most_negative_duration_is_refused_too() {
        for (seconds, nanos) in [(i64::MIN, 0), (i64::MIN, i32::MIN)] {
            let duration = prost_types::Duration { seconds, nanos };
            let asked = asked(|checks| checks.duration("timeout", Some(duration)));
            assert_eq!(asked, Err("timeout".into()));
        }
    }

    #[tokio::test]

    async fn a_huge_duration_can_be_added_to_a_moment() {
        for seconds in [315_576_000_000, i64::MAX] {
            let huge = prost_types::Duration { seconds, nanos: 0 };
            let duration =
                asked(|checks| checks.duration("inactivity_timeout", Some(huge))).unwrap().unwrap();
            assert!(tokio::time::Instant::now().checked_add(duration).is_some(), "{duration:?}");
        }
    }

    #[test]
    fn only_who_says_so_leaves_a_turn_running() {
        let check = |choice: i32, expected: Result<bool, &str>| {
            let asked = asked(|checks| checks.on_disconnect(choice));
            assert_eq!(asked, expected.map_err(String::from), "{choice}");
        };
        check(pb::OnDisconnect::Unspecified.into(), Ok(false));
        check(pb::OnDisconnect::Abort.into(), Ok(false));
        check(pb::OnDisconnect::Continue.into(), Ok(true));
        check(3, Err("on_disconnect"));
        check(-1, Err("on_disconnect"));
    }

    #[test]
    fn a_session_id_is_checked() {
        let check = |id: &str, expected: Result<&str, &str>| {
            let asked = asked(|checks| checks.session_id(id)).map(|id| id.unwrap().to_string());
            assert_eq!(asked, expected.map(String::from).map_err(String::from), "{id:?}");
        };
        check("My_session-1", Ok("My_session-1"));
        for bad in ["", "a b", "../x", &"x".repeat(129)] {
            check(bad, Err("session_id"));
        }
    }

    #[test]
    fn a_page_has_a_size_within_bounds() {
        let check = |size: i32, expected: Result<usize, &str>| {
            assert_eq!(asked(|checks| checks.page_size(size)), expected.map_err(String::from), "{size}");
        };
        check(0, Ok(50));
        check(1, Ok(1));
        check(1000, Ok(1000));
        check(1001, Ok(1000));
        check(i32::MAX, Ok(1000));
        check(-1, Err("page_size"));
        check(i32::MIN, Err("page_size"));
    }

    #[test]
    fn a_page_token_is_one_of_ours_or_empty() {
        assert_eq!(asked(|checks| checks.page_token("")), Ok(None));
        let one = |id: &str| Summary {
            id: SessionId::parse(id).unwrap(),
            model: String::new(),
            state: SessionState::Idle,
            title: String::new(),
            create_time: "2026-11-23T14:28:56.393Z".into(),
            update_time: String::new(),
            working_directory: String::new(),
        };
        let (_, token) = crate::session::page(vec![one("a"), one("b")], 1, None);
        let encoded = token.as_ref().unwrap().encode();
        assert_eq!(asked(|checks| checks.page_token(&encoded)), Ok(token));
        for bad in ["x", "!!!", " ", &encoded[1..]] {
            assert_eq!(asked(|checks| checks.page_token(bad)), Err("page_token".into()), "{bad:?}");
        }
    }

    #[test]
    fn events_are_chosen_by_name_or_by_its_beginning() {
        let check = |patterns: &[&str], expected: Result<Filter, &str>| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            assert_eq!(asked(|checks| checks.event_types(patterns)), expected.map_err(String::from));
        };
        let chosen = |patterns: &[&str]| {
            Ok(Filter::Patterns(patterns.iter().map(|pattern| (*pattern).to_owned()).collect()))
        };
        check(&[], Ok(Filter::Kinds(DEFAULT_EVENTS)));
        check(&["*"], chosen(&["*"]));
        check(&["abort", "tool.*", "brand.new"], chosen(&["abort", "tool.*", "brand.new"]));
        check(&[""], Err("event_types[0]"));
        check(&["abort", "*.message", "a b", "tool.**"], Err("event_types[1] event_types[2] event_types[3]"));
    }
}
