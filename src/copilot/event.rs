//! Session events: `session.event {sessionId, event: {id, type, timestamp, data, agentId?, ephemeral?}}`.
//!
//! Most events of a turn interest nobody, and they are the large ones (the system prompt, snapshots of the whole
//! conversation). So an event is first [`peek`]ed at, and only parsed if somebody wants it.

use std::borrow::Cow;

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, value::RawValue};

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
    SamplingRequested(Value),
    SessionLimitsExhaustedRequested(Value),
    SessionStart(Value),
    SessionResume(Value),
    SessionTitleChanged(TitleChanged),
    SessionModeChanged(Value),
    SessionModelChange(Value),
    SessionTaskComplete(Value),
    SessionAutopilotStopped(Value),
    SessionCompactionStart(CompactionStart),
    SessionCompactionComplete(CompactionComplete),
    SessionWarning(Warning),
    SessionError(SessionError),
    SessionShutdown(Value),
    SessionIdle(Idle),
    Abort(Abort),
    /// Everything else, and a known kind whose data has another shape than we know.
    Other(Value),
}

macro_rules! payloads {
    ($($kind:literal => $variant:ident,)*) => {
        /// Whether the facade itself has to see events of this kind, whoever else wants them: those that have a [`Payload`] of
        /// their own.
        pub fn is_known(kind: &str) -> bool {
            matches!(kind, $($kind)|*)
        }

        /// Reads an event of a known kind in one go.
        fn parse_known(kind: &str, event: &str) -> Option<Event> {
            match kind {
                $($kind => whole(event, $kind, Payload::$variant),)*
                _ => None,
            }
        }

        fn known_payload(kind: &str, data: &RawValue) -> Option<(&'static str, Payload)> {
            match kind {
                $($kind => typed(data).map(|data| ($kind, Payload::$variant(data))),)*
                _ => None,
            }
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
    "session.start" => SessionStart,
    "session.resume" => SessionResume,
    "session.title_changed" => SessionTitleChanged,
    "session.mode_changed" => SessionModeChanged,
    "session.model_change" => SessionModelChange,
    "session.task_complete" => SessionTaskComplete,
    "session.autopilot_stopped" => SessionAutopilotStopped,
    "session.compaction_start" => SessionCompactionStart,
    "session.compaction_complete" => SessionCompactionComplete,
    "session.warning" => SessionWarning,
    "session.error" => SessionError,
    "session.shutdown" => SessionShutdown,
    "session.idle" => SessionIdle,
    "abort" => Abort,
}

fn typed<T: DeserializeOwned>(data: &RawValue) -> Option<T> {
    serde_json::from_str(data.get()).ok()
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
    let RawEvent { id, kind, timestamp, agent_id, ephemeral, data } = serde_json::from_str(event).ok()?;
    let data = data.unwrap_or(RawValue::NULL);
    let (kind, payload) = match known_payload(&kind, data) {
        Some((kind, payload)) => (kind.into(), payload),
        None => (kind.into(), Payload::Other(typed(data)?)),
    };
    Some(Event { id, timestamp, agent_id, ephemeral, kind, payload, weight })
}

fn whole<T: DeserializeOwned>(event: &str, kind: &'static str, payload: fn(T) -> Payload) -> Option<Event> {
    let KnownEvent { id, timestamp, agent_id, ephemeral, data } = serde_json::from_str(event).ok()?;
    let (kind, payload) = (kind.into(), payload(data));
    Some(Event { id, timestamp, agent_id, ephemeral, kind, payload, weight: event.len() })
}

/// A text in what an event carries; empty if there is none.
pub fn text<'a>(data: &'a Value, field: &str) -> &'a str {
    data.get(field).and_then(Value::as_str).unwrap_or_default()
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

macro_rules! data {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
            #[serde(rename_all = "camelCase")]
            #[expect(missing_docs, reason = "the fields are the CLI's, by the names of session-events.schema.json")]
            pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
        )*
    };
}

data! {
    /// The agent took a prompt up.
    UserMessage { content: String, message_id: Option<String>, }

    /// A message, whole. `content` is empty if it only calls tools.
    AssistantMessage {
        message_id: String,
        content: String,
        originating_message_id: Option<String>,
        model: Option<String>,
        #[serde(default)]
        tool_requests: Vec<ToolRequest>,
    }

    /// The model wants to call a tool.
    ToolRequest { tool_call_id: String, name: String, #[serde(default)] arguments: Value, }

    /// A piece of a message.
    AssistantMessageDelta { message_id: String, delta_content: String, }

    /// The model's reasoning, whole.
    AssistantReasoning { reasoning_id: String, content: String, }

    /// A piece of the model's reasoning.
    AssistantReasoningDelta { reasoning_id: String, delta_content: String, }

    /// A round of the agent: one model call and its tools.
    Round { turn_id: String, reason: Option<String>, model: Option<String>, }

    /// What a model call cost. `duration` is in milliseconds.
    Usage {
        model: Option<String>,
        input_tokens: Option<i64>,
        output_tokens: Option<i64>,
        cache_read_tokens: Option<i64>,
        cache_write_tokens: Option<i64>,
        reasoning_tokens: Option<i64>,
        cost: Option<f64>,
        duration: Option<f64>,
    }

    /// A tool starts.
    ToolStart { tool_call_id: String, tool_name: String, #[serde(default)] arguments: Value, }

    /// A tool's output so far: all of it each time (observed).
    ToolPartialResult { tool_call_id: String, partial_output: String, }

    /// Word of a tool's progress.
    ToolProgress { tool_call_id: String, progress_message: String, }

    /// A tool has ended.
    ToolComplete { tool_call_id: String, success: bool, result: Option<ToolOutput>, error: Option<ToolError>, }

    /// What a tool gave the model.
    ToolOutput { content: Option<String>, }

    /// Why a tool failed.
    ToolError { message: Option<String>, }

    /// A permission is needed. Nobody else answers unless `resolved_by_hook`.
    PermissionRequested {
        request_id: String,
        permission_request: Value,
        #[serde(default)]
        resolved_by_hook: bool,
    }

    /// A permission was given or refused.
    PermissionCompleted { request_id: String, tool_call_id: Option<String>, result: PermissionOutcome, }

    /// What came of a permission request.
    PermissionOutcome { kind: String, }

    /// A tool of the caller's is called.
    ExternalToolRequested {
        request_id: String,
        tool_call_id: String,
        tool_name: String,
        #[serde(default)]
        arguments: Value,
    }

    /// The agent has a question.
    UserInputRequested {
        request_id: String,
        question: String,
        #[serde(default)]
        choices: Vec<String>,
        allow_freeform: Option<bool>,
        tool_call_id: Option<String>,
    }

    /// An MCP server wants to know something, by a form or at a URL.
    ElicitationRequested {
        request_id: String,
        message: String,
        requested_schema: Option<Value>,
        elicitation_source: Option<String>,
        url: Option<String>,
    }

    /// The agent has a plan, and wants to carry it out.
    ExitPlanModeRequested {
        request_id: String,
        summary: String,
        #[serde(default)]
        plan_content: String,
        #[serde(default)]
        actions: Vec<String>,
        recommended_action: Option<String>,
    }

    /// A request was answered, or need not be any more.
    RequestCompleted { request_id: String, }

    /// The conversation got a title.
    TitleChanged { title: String, }

    /// The history is being summarized.
    CompactionStart { trigger: Option<String>, }

    /// The history was summarized.
    CompactionComplete {
        success: bool,
        error: Option<String>,
        pre_compaction_tokens: Option<i64>,
        post_compaction_tokens: Option<i64>,
    }

    /// A warning.
    Warning { warning_type: Option<String>, message: String, }

    /// A turn has failed. Without `originating_message_id` (observed where no model could be called) it is the
    /// running turn that failed.
    SessionError {
        error_type: String,
        message: String,
        error_code: Option<String>,
        status_code: Option<i32>,
        originating_message_id: Option<String>,
    }

    /// Nothing more to do. Never stored, and never repeated if missed.
    Idle { #[serde(default)] aborted: bool, mode: Option<String>, }

    /// The turn is being stopped.
    Abort { reason: Option<String>, }
}

impl PermissionRequested {
    /// What the permission is for.
    pub fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    /// What it is about, for a rule's pattern: the command, path, URL or tool. Some kinds have nothing of the sort.
    pub fn subject(&self) -> &str {
        let field = match self.kind() {
            "shell" => "fullCommandText",
            "write" => "fileName",
            "read" => "path",
            "url" => "url",
            "mcp" | "custom-tool" => "toolName",
            _ => return "",
        };
        self.text(field).unwrap_or_default()
    }

    /// The tool call that needs it.
    pub fn tool_call_id(&self) -> Option<&str> {
        self.text("toolCallId")
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.permission_request.get(field).and_then(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(event: &Value) -> Vec<u8> {
        serde_json::to_vec(&json!({"sessionId": "s", "event": event})).unwrap()
    }

    #[test]
    fn a_peek_sees_session_and_kind() {
        let params =
            params(&json!({"id": "1", "data": {"type": "decoy"}, "type": "assistant.message_delta"}));
        let peek = peek(&params).unwrap();
        assert_eq!((&*peek.session_id, peek.kind()), ("s", "assistant.message_delta"));
        assert_eq!(super::peek(b"{}"), None);
        assert_eq!(super::peek(b"not json"), None);
    }

    #[test]
    fn what_begins_as_the_cli_writes_it_is_not_read_further() {
        let check = |params: &str, expected: Option<(&str, &str)>| {
            let seen = skim(params.as_bytes());
            assert_eq!(seen.as_ref().map(|(peek, _)| (&*peek.session_id, peek.kind())), expected, "{params}");
        };
        check(r#"{"sessionId":"s","event":{"type":"a.b","data":{ not read"#, Some(("s", "a.b")));
        check(r#"{"sessionId":"s","event":{"type":"a.b""#, Some(("s", "a.b")));
        check(r#"{"sessionId":"s","event":{"type":"a.b"#, None);
        check(r#"{"sessionId":"s","event":{"type":"a\"b","data":{}}}"#, None);
        check(r#"{"sessionId":"\u0073","event":{"type":"a.b"}}"#, None);
        check(r#"{"sessionId":"s", "event":{"type":"a.b"}}"#, None);
        check(r#"{"sessionId":"s","event":{"id":"1","type":"a.b"}}"#, None);
    }

    #[test]
    fn an_event_is_read_the_same_whether_its_kind_comes_first_or_not() {
        let data = r#""data":{"messageId":"m","deltaContent":"hi"},"id":"1","timestamp":"t","agentId":"a""#;
        let kind = r#""type":"assistant.message_delta""#;
        let read = |event: &str| parse(format!(r#"{{"sessionId":"s","event":{{{event}}}}}"#).as_bytes());
        let first = read(&format!("{kind},{data}"));
        assert!(matches!(first, Some(Event { payload: Payload::AssistantMessageDelta(_), .. })), "{first:?}");
        assert_eq!(first, read(&format!("{data},{kind}")));
    }

    #[test]
    fn a_delta_is_read_the_same_whether_its_fields_come_as_usual_or_not() {
        for (kind, whole) in
            [("assistant.message_delta", "messageId"), ("assistant.reasoning_delta", "reasoningId")]
        {
            let data =
                format!(r#""type":"{kind}","data":{{"{whole}":"m","deltaContent":"\"\ud83d\ude00 é"}}"#);
            let usual = format!(r#"{{{data},"ephemeral":true,"id":"1","timestamp":"t","parentId":null}}"#);
            let other = format!(r#"{{{data},"id":"1","timestamp":"t","ephemeral":true}}"#);
            assert_eq!(delta(&other), None);
            let read = delta(&usual).map(|event| Event { weight: other.len(), ..event });
            assert_eq!(read, parse_stored(&other));
            assert!(read.is_some());
        }
        assert_eq!(delta(r#"{"type":"assistant.message","data":{"messageId":"m"}}"#), None);
    }

    #[test]
    fn of_a_sessions_life_only_its_end_matters() {
        assert!(is_of_no_end(br#"{"type":"session.updated","sessionId":"s"}"#));
        for news in [&br#"{"type":"session.deleted","sessionId":"s"}"#[..], br#"{"sessionId":"s"}"#, b"{}"] {
            assert!(!is_of_no_end(news));
        }
    }

    #[test]
    fn known_events_are_typed_and_all_others_pass_through() {
        let check = |kind: &str, data: Value, expected: Payload| {
            let event =
                parse(&params(&json!({"id": "1", "type": kind, "timestamp": "t", "data": data}))).unwrap();
            assert_eq!(event.payload, expected);
        };
        check(
            "assistant.message_delta",
            json!({"messageId": "m", "deltaContent": "hi", "new": 1}),
            Payload::AssistantMessageDelta(AssistantMessageDelta {
                message_id: "m".into(),
                delta_content: "hi".into(),
            }),
        );
        check("session.idle", json!({}), Payload::SessionIdle(Idle::default()));
        check("session.fresh", json!({"x": [1]}), Payload::Other(json!({"x": [1]})));
        check("assistant.message_delta", json!({"messageId": 7}), Payload::Other(json!({"messageId": 7})));
    }

    #[test]
    fn an_event_without_data_is_an_event() {
        assert_eq!(
            parse(&params(&json!({"type": "new.kind"}))).unwrap().payload,
            Payload::Other(Value::Null)
        );
        assert_eq!(parse(&params(&json!({"data": {}}))), None);
    }
}
