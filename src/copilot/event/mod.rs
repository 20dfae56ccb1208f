//! Session events: `session.event {sessionId, event: {id, type, timestamp, data, agentId?, ephemeral?}}`.
//!
//! Nobody needs most events of a turn, and those are the large ones (the system prompt, snapshots of the whole conversation).
//! So [`peek`] reads the kind of an event, and the event is only parsed if somebody wants it.
//!
//! Tests: `event/tests/`, `tests/integration/oddities.rs`, `tests/integration/newer.rs`.

mod data;
mod lenient;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

use super::json::Json;

pub use data::*;
#[cfg(test)]
pub(super) use tests::oddities::samples;

use lenient::{Fields, Lenient};

/// An event of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's id.
    pub id: String,
    /// When it happened; RFC 3339.
    pub timestamp: String,
    /// The sub-agent that it happened in; `None`: the main agent.
    pub agent_id: Option<String>,
    /// Whether it is only sent, and not stored.
    pub ephemeral: bool,
    /// The CLI's name for the kind of event.
    pub kind: Cow<'static, str>,
    /// Its data.
    pub payload: Payload,
    /// The length of its JSON in bytes, which is its weight in a queue.
    pub weight: usize,
}

/// The data of an event, for the kinds that the facade knows.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "the variants are the CLI's event types, whose fields the types below describe"
)]
pub enum Payload {
    UserMessage(UserMessage),
    AssistantMessage(AssistantMessage),
    AssistantMessageDelta(AssistantMessageDelta),
    AssistantReasoning(AssistantReasoning),
    AssistantReasoningDelta(AssistantReasoningDelta),
    AssistantTurnStart(Round),
    AssistantTurnEnd(Round),
    AssistantTurnRetry(Round),
    AssistantUsage(Usage),
    AssistantToolCallDelta(ToolCallDelta),
    AssistantIntent(Intent),
    ToolExecutionStart(ToolStart),
    ToolExecutionPartialResult(ToolPartialResult),
    ToolExecutionProgress(ToolProgress),
    ToolExecutionComplete(ToolComplete),
    PermissionRequested(PermissionRequested),
    PermissionCompleted(PermissionCompleted),
    ExternalToolRequested(ExternalToolRequested),
    ExternalToolCompleted(RequestCompleted),
    UserInputRequested(UserInputRequested),
    UserInputCompleted(RequestCompleted),
    ElicitationRequested(ElicitationRequested),
    ElicitationCompleted(RequestCompleted),
    ExitPlanModeRequested(ExitPlanModeRequested),
    ExitPlanModeCompleted(RequestCompleted),
    SamplingRequested(Json),
    SessionLimitsExhaustedRequested(Json),
    AutoModeSwitchRequested(Json),
    McpOauthRequired(Json),
    McpHeadersRefreshRequired(Json),
    CommandExecute(Json),
    SessionMcpServerStatusChanged(McpServerStatus),
    SessionStart(Json),
    SessionResume(Json),
    SessionTitleChanged(TitleChanged),
    SessionModeChanged(Json),
    SessionModelChange(ModelChange),
    SessionTaskComplete(Json),
    SessionAutopilotStopped(Json),
    SessionCompactionStart(CompactionStart),
    SessionCompactionComplete(CompactionComplete),
    SessionUsageInfo(ContextUsage),
    SessionTruncation(Truncation),
    SessionTodosChanged(Nothing),
    SessionPlanChanged(PlanChanged),
    SessionBackgroundTasksChanged(Nothing),
    SessionSnapshotRewind(Rewound),
    SubagentStarted(SubAgentStarted),
    SubagentCompleted(SubAgentCompleted),
    SubagentFailed(SubAgentFailed),
    SessionWarning(Warning),
    SessionError(SessionError),
    SessionShutdown(Json),
    SessionIdle(Idle),
    Abort(Abort),
    /// Any other kind, and a known kind whose data lack what they mean nothing without.
    Other(Json),
}

macro_rules! payloads {
    ($($kind:literal => $variant:ident,)*) => {
        /// Whether events of this kind have a [`Payload`] of their own.
        pub fn is_known(kind: &str) -> bool {
            matches!(kind, $($kind)|*)
        }

        /// Reads an event of a known kind in one pass, if all of it is as expected.
        fn parse_known(kind: &str, event: &str) -> Option<Event> {
            match kind {
                $($kind => whole(event, $kind, Payload::$variant),)*
                _ => None,
            }
        }

        fn known_payload(kind: &str, data: &RawValue) -> Option<(&'static str, Payload)> {
            match kind {
                $($kind => {
                    let data = lenient::exact(data).or_else(|| Lenient::lenient(data)).unwrap_or_default();
                    let payload = Payload::$variant(data);
                    payload.names_its_subject().then_some(($kind, payload))
                })*
                _ => None,
            }
        }

        /// The known kinds, each with the fields of its data.
        #[cfg(test)]
        fn known_fields() -> Vec<(&'static str, &'static [&'static str])> {
            fn fields<T: Lenient>(_: fn(T) -> Payload) -> &'static [&'static str] {
                T::FIELDS
            }
            vec![$(($kind, fields(Payload::$variant))),*]
        }
    };
}

payloads! {
    "user.message" => UserMessage,
    "assistant.message" => AssistantMessage,
    "assistant.message_delta" => AssistantMessageDelta,
    "assistant.reasoning" => AssistantReasoning,
    "assistant.reasoning_delta" => AssistantReasoningDelta,
    "assistant.turn_start" => AssistantTurnStart,
    "assistant.turn_end" => AssistantTurnEnd,
    "assistant.turn_retry" => AssistantTurnRetry,
    "assistant.usage" => AssistantUsage,
    "assistant.tool_call_delta" => AssistantToolCallDelta,
    "assistant.intent" => AssistantIntent,
    "tool.execution_start" => ToolExecutionStart,
    "tool.execution_partial_result" => ToolExecutionPartialResult,
    "tool.execution_progress" => ToolExecutionProgress,
    "tool.execution_complete" => ToolExecutionComplete,
    "permission.requested" => PermissionRequested,
    "permission.completed" => PermissionCompleted,
    "external_tool.requested" => ExternalToolRequested,
    "external_tool.completed" => ExternalToolCompleted,
    "user_input.requested" => UserInputRequested,
    "user_input.completed" => UserInputCompleted,
    "elicitation.requested" => ElicitationRequested,
    "elicitation.completed" => ElicitationCompleted,
    "exit_plan_mode.requested" => ExitPlanModeRequested,
    "exit_plan_mode.completed" => ExitPlanModeCompleted,
    "sampling.requested" => SamplingRequested,
    "session_limits_exhausted.requested" => SessionLimitsExhaustedRequested,
    "auto_mode_switch.requested" => AutoModeSwitchRequested,
    "mcp.oauth_required" => McpOauthRequired,
    "mcp.headers_refresh_required" => McpHeadersRefreshRequired,
    "command.execute" => CommandExecute,
    "session.mcp_server_status_changed" => SessionMcpServerStatusChanged,
    "session.start" => SessionStart,
    "session.resume" => SessionResume,
    "session.title_changed" => SessionTitleChanged,
    "session.mode_changed" => SessionModeChanged,
    "session.model_change" => SessionModelChange,
    "session.task_complete" => SessionTaskComplete,
    "session.autopilot_stopped" => SessionAutopilotStopped,
    "session.compaction_start" => SessionCompactionStart,
    "session.compaction_complete" => SessionCompactionComplete,
    "session.usage_info" => SessionUsageInfo,
    "session.truncation" => SessionTruncation,
    "session.todos_changed" => SessionTodosChanged,
    "session.plan_changed" => SessionPlanChanged,
    "session.background_tasks_changed" => SessionBackgroundTasksChanged,
    "session.snapshot_rewind" => SessionSnapshotRewind,
    "subagent.started" => SubagentStarted,
    "subagent.completed" => SubagentCompleted,
    "subagent.failed" => SubagentFailed,
    "session.warning" => SessionWarning,
    "session.error" => SessionError,
    "session.shutdown" => SessionShutdown,
    "session.idle" => SessionIdle,
    "abort" => Abort,
}

/// The kinds that are known only for the callers' sake.
const ONLY_FOR_CALLERS: [&str; 10] = [
    "assistant.tool_call_delta",
    "assistant.intent",
    "session.usage_info",
    "session.truncation",
    "session.todos_changed",
    "session.plan_changed",
    "session.background_tasks_changed",
    "subagent.started",
    "subagent.completed",
    "subagent.failed",
];

/// Whether the facade itself has to see events of this kind, whoever else wants them.
pub fn is_needed(kind: &str) -> bool {
    is_known(kind) && !ONLY_FOR_CALLERS.contains(&kind)
}

impl Payload {
    /// Whether it says which message, call or request it is about, where it means nothing without that.
    fn names_its_subject(&self) -> bool {
        let id = match self {
            Self::AssistantMessageDelta(delta) => &delta.message_id,
            Self::AssistantReasoningDelta(delta) => &delta.reasoning_id,
            Self::AssistantToolCallDelta(delta) => &delta.tool_call_id,
            Self::ToolExecutionStart(tool) => &tool.tool_call_id,
            Self::ToolExecutionPartialResult(tool) => &tool.tool_call_id,
            Self::ToolExecutionProgress(tool) => &tool.tool_call_id,
            Self::ToolExecutionComplete(tool) => &tool.tool_call_id,
            Self::PermissionCompleted(completed) => &completed.request_id,
            Self::ExternalToolCompleted(completed)
            | Self::UserInputCompleted(completed)
            | Self::ElicitationCompleted(completed)
            | Self::ExitPlanModeCompleted(completed) => &completed.request_id,
            request => return request.request_id().is_none_or(|id| !id.is_empty()),
        };
        !id.is_empty()
    }

    /// The id of the request that this event makes, if it makes one; empty if the id cannot be read.
    pub fn request_id(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::PermissionRequested(request) => (&request.request_id).into(),
            Self::ExternalToolRequested(request) => (&request.request_id).into(),
            Self::UserInputRequested(request) => (&request.request_id).into(),
            Self::ElicitationRequested(request) => (&request.request_id).into(),
            Self::ExitPlanModeRequested(request) => (&request.request_id).into(),
            Self::SamplingRequested(request)
            | Self::SessionLimitsExhaustedRequested(request)
            | Self::AutoModeSwitchRequested(request)
            | Self::McpOauthRequired(request)
            | Self::McpHeadersRefreshRequired(request)
            | Self::CommandExecute(request) => request.text("requestId"),
            _ => return None,
        })
    }
}

/// The session and kind of an event, read without building anything else.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Peek<'a> {
    /// The session's id.
    #[serde(borrow, rename = "sessionId")]
    pub session_id: Cow<'a, str>,
    /// The event's type.
    #[serde(borrow)]
    event: PeekKind<'a>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct PeekKind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

impl Peek<'_> {
    /// The kind of event.
    pub fn kind(&self) -> &str {
        &self.event.kind
    }
}

/// Reads session and kind from the parameters of a `session.event` notification; `None` if they are not as expected. If they
/// begin as the CLI writes them, only the beginning is read.
pub fn peek(params: &[u8]) -> Option<Peek<'_>> {
    skim(params).map(|(peek, _)| peek).or_else(|| serde_json::from_slice(params).ok())
}

/// Session and kind, if they come first, as the CLI writes them (observed), and the position at which the event begins.
fn skim(params: &[u8]) -> Option<(Peek<'_>, usize)> {
    let (session_id, rest) = plain_text(params.strip_prefix(br#"{"sessionId":""#)?)?;
    let event = rest.strip_prefix(br#","event":"#)?;
    let (kind, _) = plain_text(event.strip_prefix(br#"{"type":""#)?)?;
    let peek = Peek { session_id: session_id.into(), event: PeekKind { kind: kind.into() } };
    Some((peek, params.len() - event.len()))
}

/// The rest of a JSON string that has no escapes, and what follows it.
fn plain_text(json: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = json.split_at(memchr::memchr2(b'"', b'\\', json)?);
    Some((std::str::from_utf8(text).ok()?, rest.strip_prefix(b"\"")?))
}

/// Whether a `session.lifecycle` certainly reports no deletion: most report that a session was updated.
pub fn is_no_deletion(params: &[u8]) -> bool {
    let kind = params.strip_prefix(br#"{"type":""#).and_then(plain_text);
    kind.is_some_and(|(kind, _)| kind != "session.deleted")
}

/// Finds session and kind in the first bytes of a `session.event` that is too large to be read whole. A guess: the CLI writes
/// them first (observed), and a wrong guess costs the link, not an event.
pub fn peek_head(head: &[u8]) -> Option<(&str, &str)> {
    let after = |label: &str| {
        let text = head.get(memchr::memmem::find(head, label.as_bytes())? + label.len()..)?;
        std::str::from_utf8(&text[..memchr::memchr(b'"', text)?]).ok()
    };
    Some((after(r#""sessionId":""#)?, after(r#""event":{"type":""#)?))
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEvent<'a> {
    #[serde(default)]
    id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    timestamp: String,
    agent_id: Option<String>,
    #[serde(default)]
    ephemeral: bool,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> RawEvent<'a> {
    /// Reads an event that is not all as expected. Without a kind it is no event.
    fn lenient(event: &'a str) -> Option<Self> {
        let mut fields: Fields<'_> = serde_json::from_str(event).ok()?;
        let data = fields.remove("data");
        Some(Self {
            id: lenient::field(&fields, "id"),
            kind: String::lenient(fields.get("type")?)?,
            timestamp: lenient::field(&fields, "timestamp"),
            // An id that cannot be read is kept as JSON: it is not the main agent's.
            agent_id: fields
                .get("agentId")
                .filter(|id| id.get() != "null")
                .map(|id| String::lenient(id).unwrap_or_else(|| id.get().to_owned())),
            ephemeral: lenient::field(&fields, "ephemeral"),
            data,
        })
    }
}

/// An event of a known kind, and thus with known data.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownEvent<T> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    timestamp: String,
    agent_id: Option<String>,
    #[serde(default)]
    ephemeral: bool,
    data: T,
}

/// Parses the parameters of a `session.event` notification; `None` if they are not as expected.
pub fn parse(params: &[u8]) -> Option<Event> {
    parse_skimmed(params).or_else(|| {
        let Envelope { event } = serde_json::from_slice(params).ok()?;
        parse_stored(event.get())
    })
}

/// Parses an event of a known kind, if it begins as the CLI writes it and nothing follows it.
fn parse_skimmed(params: &[u8]) -> Option<Event> {
    // All of it at once: that is faster than text by text.
    let params = std::str::from_utf8(params).ok()?;
    let (peek, start) = skim(params.as_bytes())?;
    let event = params[start..].strip_suffix('}')?;
    delta(event).or_else(|| parse_known(peek.kind(), event))
}

/// Reads a delta, if the event is one and its fields come as the CLI writes them (observed). This is faster than by field
/// names, and most events that are read are deltas.
fn delta(event: &str) -> Option<Event> {
    const OF_MESSAGE: &str = r#"{"type":"assistant.message_delta","data":{"messageId":"#;
    const OF_REASONING: &str = r#"{"type":"assistant.reasoning_delta","data":{"reasoningId":"#;
    let of_message = event.starts_with(OF_MESSAGE);
    let mut json = event;
    let whole = value(&mut json, if of_message { OF_MESSAGE } else { OF_REASONING })?;
    let delta_content = value(&mut json, r#","deltaContent":"#)?;
    let id = value(&mut json, r#"},"ephemeral":true,"id":"#)?;
    let timestamp = value(&mut json, r#","timestamp":"#)?;
    let _parent: IgnoredAny = value(&mut json, r#","parentId":"#)?;
    if json != "}" {
        return None;
    }
    let (kind, payload) = if of_message {
        let delta = AssistantMessageDelta { message_id: whole, delta_content };
        ("assistant.message_delta", Payload::AssistantMessageDelta(delta))
    } else {
        let delta = AssistantReasoningDelta { reasoning_id: whole, delta_content };
        ("assistant.reasoning_delta", Payload::AssistantReasoningDelta(delta))
    };
    let (kind, weight) = (kind.into(), event.len());
    Some(Event { id, timestamp, agent_id: None, ephemeral: true, kind, payload, weight })
}

/// Takes off a value that comes right after `before`.
fn value<'a, T: Deserialize<'a>>(json: &mut &'a str, before: &str) -> Option<T> {
    let rest = json.strip_prefix(before)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    let value = values.next()?.ok()?;
    *json = &rest[values.byte_offset()..];
    Some(value)
}

/// Parses an event by itself, as in a stored history; `None` if it is not as expected.
pub fn parse_stored(event: &str) -> Option<Event> {
    let weight = event.len();
    let raw = serde_json::from_str(event).ok().or_else(|| RawEvent::lenient(event))?;
    let RawEvent { id, kind, timestamp, agent_id, ephemeral, data } = raw;
    let data = data.unwrap_or(RawValue::NULL);
    let (kind, payload) = match known_payload(&kind, data) {
        Some((kind, payload)) => (kind.into(), payload),
        None => (kind.into(), Payload::Other(data.into())),
    };
    Some(Event { id, timestamp, agent_id, ephemeral, kind, payload, weight })
}

fn whole<T: DeserializeOwned>(event: &str, kind: &'static str, payload: fn(T) -> Payload) -> Option<Event> {
    let KnownEvent { id, timestamp, agent_id, ephemeral, data } = serde_json::from_str(event).ok()?;
    let (kind, payload) = (kind.into(), payload(data));
    let event = Event { id, timestamp, agent_id, ephemeral, kind, payload, weight: event.len() };
    event.payload.names_its_subject().then_some(event)
}

/// The kind of the event by which the CLI reports that it has closed a session.
pub const SHUTDOWN: &str = "session.shutdown";

/// The kind of the events with each message between the agent and the model. Few need them, and they may be large.
pub const MODEL_MESSAGE: &str = "model.message";

/// The model's text, if the event is a [`MODEL_MESSAGE`] of the model's: all of it, also where it was cut off and no
/// `assistant.message` comes (observed).
pub fn model_message(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Data {
        message: ModelMessage,
    }
    #[derive(Deserialize)]
    struct ModelMessage {
        role: String,
        content: String,
    }
    match &event.payload {
        Payload::Other(data) if event.kind == MODEL_MESSAGE => {
            let Data { message } = data.read()?;
            (message.role == "assistant").then_some(message.content)
        }
        _ => None,
    }
}

/// The parameters of `session.lifecycle`, as far as they are used. It goes to every connection, for every session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// The kind: `session.created`, `session.updated`, `session.deleted` and more.
    #[serde(rename = "type")]
    pub kind: String,
    /// The session's id.
    pub session_id: String,
}
