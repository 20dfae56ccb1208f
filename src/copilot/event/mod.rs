//! Session events: `session.event {sessionId, event: {id, type, timestamp, data, agentId?, ephemeral?}}`.
//!
//! Most events of a turn interest nobody, and they are the large ones (the system prompt, snapshots of the whole
//! conversation). So an event is first [`peek`]ed at, and only parsed if somebody wants it.

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
use lenient::{Fields, Lenient};
#[cfg(test)]
pub(super) use tests::oddities::samples;

/// An event of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// When it happened; RFC 3339.
    pub timestamp: String,
    /// The sub-agent that it happened in; `None` is the main agent.
    pub agent_id: Option<String>,
    /// Whether it is only sent, and not stored.
    pub ephemeral: bool,
    /// The CLI's name for the kind of event.
    pub kind: Cow<'static, str>,
    /// What it carries.
    pub payload: Payload,
    /// The length of its JSON in bytes: what it weighs in a queue.
    pub weight: usize,
}

/// What an event carries, for the kinds that the facade knows.
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
    /// Everything else, and a known kind that does not say what it is about.
    Other(Json),
}

macro_rules! payloads {
    ($($kind:literal => $variant:ident,)*) => {
        /// Whether events of this kind have a [`Payload`] of their own.
        pub fn is_known(kind: &str) -> bool {
            matches!(kind, $($kind)|*)
        }

        /// Reads an event of a known kind in one go, if all of it is as it should be.
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
                    payload.says_of_what().then_some(($kind, payload))
                })*
                _ => None,
            }
        }

        /// The kinds, each with the fields of its data.
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

/// The kinds that are known for the callers' sake alone.
const ONLY_TOLD: [&str; 10] = [
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
    is_known(kind) && !ONLY_TOLD.contains(&kind)
}

impl Payload {
    /// Whether it says which message, call or request it is about, where it means nothing without.
    fn says_of_what(&self) -> bool {
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

    /// The id of the request that it makes, if it is one; it is empty where that cannot be read.
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

/// What an event is about, read without building anything.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Peek<'a> {
    /// The session.
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

/// Looks at the parameters of a `session.event` notification; `None` if they are not what they should be. Where they begin as
/// the CLI writes them, only this beginning is looked at.
pub fn peek(params: &[u8]) -> Option<Peek<'_>> {
    skim(params).map(|(peek, _)| peek).or_else(|| serde_json::from_slice(params).ok())
}

/// Session and kind, where they come first, as the CLI has it (observed); and where the event begins.
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

/// Whether a `session.lifecycle` surely tells of no session's end: most tell that one was updated.
pub fn is_of_no_end(params: &[u8]) -> bool {
    let kind = params.strip_prefix(br#"{"type":""#).and_then(plain_text);
    kind.is_some_and(|(kind, _)| kind != "session.deleted")
}

/// Finds session and kind in the first bytes of a `session.event` that is too large to be read whole. A guess: the CLI
/// writes them first (observed), and a wrong one costs the link, not an event.
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
    /// Reads an event that is not all as it should be. Without a kind it is none.
    fn lenient(event: &'a str) -> Option<Self> {
        let mut fields: Fields<'_> = serde_json::from_str(event).ok()?;
        let data = fields.remove("data");
        Some(Self {
            id: lenient::field(&fields, "id"),
            kind: String::lenient(fields.get("type")?)?,
            timestamp: lenient::field(&fields, "timestamp"),
            // Whatever it is, it is not the main agent.
            agent_id: fields
                .get("agentId")
                .filter(|id| id.get() != "null")
                .map(|id| String::lenient(id).unwrap_or_else(|| id.get().to_owned())),
            ephemeral: lenient::field(&fields, "ephemeral"),
            data,
        })
    }
}

/// An event whose kind is known, and so what its data are.
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

/// Reads the parameters of a `session.event` notification; `None` if they are not what they should be.
pub fn parse(params: &[u8]) -> Option<Event> {
    parse_skimmed(params).or_else(|| {
        let Envelope { event } = serde_json::from_slice(params).ok()?;
        parse_stored(event.get())
    })
}

/// The same for one of a known kind, where it begins as the CLI writes it and nothing follows it.
fn parse_skimmed(params: &[u8]) -> Option<Event> {
    // All of it at once: that is faster than text by text.
    let params = std::str::from_utf8(params).ok()?;
    let (peek, start) = skim(params.as_bytes())?;
    let event = params[start..].strip_suffix('}')?;
    delta(event).or_else(|| parse_known(peek.kind(), event))
}

/// Reads a delta, if that is what it is, and its fields come as the CLI writes them (observed). Faster than by field names, and
/// most events that are read are deltas.
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

/// Reads an event by itself, as of a stored history; `None` if it is not what it should be.
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
    event.payload.says_of_what().then_some(event)
}

/// The kind that tells that the CLI has closed a session.
pub const SHUTDOWN: &str = "session.shutdown";

/// The kind that tells of each message between the agent and the model, with its text. Few want it, and it may be large.
pub const MODEL_MESSAGE: &str = "model.message";

/// What the model said, if the event is a [`MODEL_MESSAGE`] that tells it: all of it, also where it was cut and no
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

/// `session.lifecycle`, as far as it matters: it goes to every connection, for every session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// `session.created`, `session.updated`, `session.deleted` and more.
    #[serde(rename = "type")]
    pub kind: String,
    /// The session.
    pub session_id: String,
}
