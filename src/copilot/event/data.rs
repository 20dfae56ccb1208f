//! The data of events, as far as the facade uses them.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::lenient::{self, Fields, Lenient};
use crate::copilot::json::Json;

macro_rules! data {
    ($($(#[$meta:meta])* $name:ident $(or $alone:ident)? { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
            #[serde(rename_all = "camelCase")]
            #[expect(missing_docs, reason = "the fields are the CLI's, by the names of session-events.schema.json")]
            pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

            impl Lenient for $name {
                #[cfg(test)]
                const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

                fn lenient(json: &RawValue) -> Option<Self> {
                    let alone: Option<&str> = None;
                    $(let alone = alone.or(Some(stringify!($alone)));)?
                    let fields = match alone {
                        // Some types may come as this field alone: a tool's result as a bare text.
                        Some(name) if json.get().starts_with('"') => Fields::from([(name.to_owned(), json)]),
                        _ => serde_json::from_str(json.get()).ok()?,
                    };
                    Some(Self { $($field: lenient::field(&fields, stringify!($field)),)* })
                }
            }
        )*
    };
}

data! {
    /// The agent has begun to work on a prompt.
    UserMessage { content: String, message_id: Option<String>, }

    /// A whole message. `content` is empty if it only calls tools.
    AssistantMessage {
        message_id: String,
        content: String,
        originating_message_id: Option<String>,
        model: Option<String>,
        #[serde(default)]
        tool_requests: Vec<ToolRequest>,
    }

    /// The model wants to call a tool.
    ToolRequest { tool_call_id: String, name: String, #[serde(default)] arguments: Json, }

    /// A piece of a message.
    AssistantMessageDelta { message_id: String, delta_content: String, }

    /// The whole of the model's reasoning.
    AssistantReasoning { reasoning_id: String, content: String, }

    /// A piece of the model's reasoning.
    AssistantReasoningDelta { reasoning_id: String, delta_content: String, }

    /// A round of the agent: one model call and its tools.
    Round { turn_id: String, reason: Option<String>, model: Option<String>, }

    /// The usage of a model call. `duration` is in milliseconds.
    Usage {
        model: Option<String>,
        input_tokens: Option<i64>,
        output_tokens: Option<i64>,
        cache_read_tokens: Option<i64>,
        cache_write_tokens: Option<i64>,
        reasoning_tokens: Option<i64>,
        copilot_usage: Option<CopilotUsage>,
        duration: Option<f64>,
        finish_reason: Option<FinishReason>,
        content_filter_triggered: Option<bool>,
    }

    /// The cost of a model call at GitHub, in billionths of an AI credit.
    CopilotUsage { total_nano_aiu: Option<f64>, }

    /// A piece of the arguments of a tool call.
    ToolCallDelta { tool_call_id: String, tool_name: Option<String>, input_delta: String, }

    /// What the agent is about to do.
    Intent or intent { intent: String, }

    /// A tool starts.
    ToolStart { tool_call_id: String, tool_name: String, #[serde(default)] arguments: Json, }

    /// A tool's output so far: all of it each time (observed).
    ToolPartialResult { tool_call_id: String, partial_output: String, }

    /// A report of a tool's progress.
    ToolProgress { tool_call_id: String, progress_message: String, }

    /// A tool has ended.
    ToolComplete { tool_call_id: String, success: bool, result: Option<ToolOutput>, error: Option<ToolError>, }

    /// The output of a tool, for the model.
    ToolOutput or content { content: Option<String>, structured_content: Option<Json>, }

    /// Why a tool failed.
    ToolError or message { message: Option<String>, }

    /// A permission is needed. The callers have to answer, unless `resolved_by_hook`.
    PermissionRequested {
        request_id: String,
        permission_request: Json,
        #[serde(default)]
        resolved_by_hook: bool,
    }

    /// A permission was given or refused.
    PermissionCompleted { request_id: String, tool_call_id: Option<String>, result: PermissionOutcome, }

    /// The outcome of a permission request.
    PermissionOutcome or kind { kind: String, }

    /// A tool of the caller's is called.
    ExternalToolRequested {
        request_id: String,
        tool_call_id: String,
        tool_name: String,
        #[serde(default)]
        arguments: Json,
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

    /// An MCP server asks a question, by a form or at a URL.
    ElicitationRequested {
        request_id: String,
        message: String,
        requested_schema: Option<Json>,
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

    /// A request was answered, or is withdrawn.
    RequestCompleted { request_id: String, }

    /// The conversation got a title.
    TitleChanged or title { title: String, }

    /// The session has another model, or another reasoning effort.
    ModelChange {
        new_model: Option<String>,
        previous_model: Option<String>,
        /// `Some(None)`: the model's own default.
        #[serde(default, deserialize_with = "lenient::told")]
        reasoning_effort: Option<Option<String>>,
        previous_reasoning_effort: Option<String>,
    }

    /// The status of an MCP server.
    McpServerStatus { server_name: String, status: String, error: Option<String>, }

    /// A sub-agent has begun.
    SubAgentStarted {
        tool_call_id: String,
        agent_name: String,
        agent_display_name: String,
        agent_description: String,
        model: Option<String>,
    }

    /// A sub-agent has ended its task. `duration_ms` is in milliseconds.
    SubAgentCompleted {
        tool_call_id: String,
        agent_name: String,
        agent_display_name: String,
        model: Option<String>,
        total_tool_calls: Option<i64>,
        total_tokens: Option<i64>,
        duration_ms: Option<f64>,
        cancelled: Option<bool>,
    }

    /// A sub-agent has failed. `duration_ms` is in milliseconds.
    SubAgentFailed {
        tool_call_id: String,
        agent_name: String,
        agent_display_name: String,
        model: Option<String>,
        error: Option<String>,
        duration_ms: Option<f64>,
    }

    /// How full the model's context is, in tokens.
    ContextUsage {
        token_limit: i64,
        current_tokens: i64,
        messages_length: i64,
        system_tokens: Option<i64>,
        conversation_tokens: Option<i64>,
        tool_definitions_tokens: Option<i64>,
    }

    /// The oldest messages were left out of the model's context.
    Truncation {
        token_limit: i64,
        tokens_removed_during_truncation: i64,
        messages_removed_during_truncation: i64,
    }

    /// The agent's plan has changed.
    PlanChanged { operation: String, }

    /// The session was set back to before an event.
    Rewound { up_to_event_id: String, events_removed: i64, }

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

    /// A turn has failed. Without `originating_message_id` (observed where no model could be called) it is the running turn.
    SessionError {
        error_type: String,
        message: String,
        error_code: Option<String>,
        status_code: Option<i32>,
        originating_message_id: Option<String>,
    }

    /// The session has nothing more to do. Never stored, and never repeated if missed.
    Idle { #[serde(default)] aborted: bool, mode: Option<String>, }

    /// The turn is being stopped.
    Abort or reason { reason: Option<String>, }
}

/// The data of an event that says only that it has happened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(data: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(data).map(|_| Self)
    }
}

impl Lenient for Nothing {
    fn lenient(_: &RawValue) -> Option<Self> {
        Some(Self)
    }
}

/// Why the model ended its answer, in the CLI's words. It uses OpenAI's words for all providers, and reports a refusal by a
/// model of Anthropic's as `content_filter` (observed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It had finished its answer.
    #[serde(alias = "end_turn", alias = "stop_sequence")]
    Stop,
    /// It reached its output limit.
    #[serde(alias = "max_tokens")]
    Length,
    /// A content filter cut it off.
    ContentFilter,
    /// It refused.
    Refusal,
    /// It calls tools. Of a turn: there was nothing but tool calls.
    #[serde(rename = "tool_calls", alias = "function_call", alias = "tool_use")]
    ToolOnly,
    /// Another reason. Of a turn: there is no text either.
    #[serde(other)]
    Other,
}

impl Lenient for FinishReason {
    fn lenient(json: &RawValue) -> Option<Self> {
        lenient::exact(json)
    }
}

impl Usage {
    /// Why the call ended; `None` if the event does not say.
    pub fn finish(&self) -> Option<FinishReason> {
        match self.finish_reason {
            Some(FinishReason::Refusal) => Some(FinishReason::Refusal),
            _ if self.content_filter_triggered == Some(true) => Some(FinishReason::ContentFilter),
            reason => reason,
        }
    }

    /// The cost at GitHub, in billionths of an AI credit.
    pub fn nano_ai_credits(&self) -> i64 {
        let cost = self.copilot_usage.as_ref().and_then(|usage| usage.total_nano_aiu);
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        cost.map_or(0, |cost| cost.round() as i64)
    }
}

impl PermissionRequested {
    /// The kind of permission.
    pub fn kind(&self) -> Cow<'_, str> {
        self.permission_request.text("kind")
    }

    /// The command, path, URL or tool that it is for, which a rule's pattern is matched with. Some kinds have none.
    pub fn subject(&self) -> Cow<'_, str> {
        let field = match &*self.kind() {
            "shell" => "fullCommandText",
            "write" => "fileName",
            "read" => "path",
            "url" => "url",
            "mcp" | "custom-tool" => "toolName",
            _ => return Cow::default(),
        };
        self.permission_request.text(field)
    }

    /// The tool call that needs it.
    pub fn tool_call_id(&self) -> Cow<'_, str> {
        self.permission_request.text("toolCallId")
    }
}
