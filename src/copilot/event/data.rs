//! What events carry, as far as the facade knows it.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
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
                        // It may come as that alone: a tool's result as a mere text.
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
    ToolRequest { tool_call_id: String, name: String, #[serde(default)] arguments: Json, }

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
        copilot_usage: Option<CopilotUsage>,
        duration: Option<f64>,
        finish_reason: Option<FinishReason>,
        content_filter_triggered: Option<bool>,
    }

    /// What a model call cost at GitHub, in billionths of an AI credit.
    CopilotUsage { total_nano_aiu: Option<f64>, }

    /// A piece of the arguments of a tool call.
    ToolCallDelta { tool_call_id: String, tool_name: Option<String>, input_delta: String, }

    /// What the agent is about to do.
    Intent or intent { intent: String, }

    /// A tool starts.
    ToolStart { tool_call_id: String, tool_name: String, #[serde(default)] arguments: Json, }

    /// A tool's output so far: all of it each time (observed).
    ToolPartialResult { tool_call_id: String, partial_output: String, }

    /// Word of a tool's progress.
    ToolProgress { tool_call_id: String, progress_message: String, }

    /// A tool has ended.
    ToolComplete { tool_call_id: String, success: bool, result: Option<ToolOutput>, error: Option<ToolError>, }

    /// What a tool gave the model.
    ToolOutput or content { content: Option<String>, structured_content: Option<Json>, }

    /// Why a tool failed.
    ToolError or message { message: Option<String>, }

    /// A permission is needed. Nobody else answers unless `resolved_by_hook`.
    PermissionRequested {
        request_id: String,
        permission_request: Json,
        #[serde(default)]
        resolved_by_hook: bool,
    }

    /// A permission was given or refused.
    PermissionCompleted { request_id: String, tool_call_id: Option<String>, result: PermissionOutcome, }

    /// What came of a permission request.
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

    /// An MCP server wants to know something, by a form or at a URL.
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

    /// A request was answered, or need not be any more.
    RequestCompleted { request_id: String, }

    /// The conversation got a title.
    TitleChanged or title { title: String, }

    /// The session has another model, or thinks for longer.
    ModelChange {
        new_model: Option<String>,
        previous_model: Option<String>,
        /// `Some(None)`: as the model does by itself.
        #[serde(default, deserialize_with = "lenient::told")]
        reasoning_effort: Option<Option<String>>,
        previous_reasoning_effort: Option<String>,
    }

    /// How an MCP server is.
    McpServerStatus { server_name: String, status: String, error: Option<String>, }

    /// A sub-agent has begun.
    SubAgentStarted {
        tool_call_id: String,
        agent_name: String,
        agent_display_name: String,
        agent_description: String,
        model: Option<String>,
    }

    /// A sub-agent has done its task. `duration_ms` is in milliseconds.
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

    /// The oldest messages were left out of what the model is told.
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
    Abort or reason { reason: Option<String>, }
}

/// Nothing but that it has happened.
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

/// How the model came to its end, in the CLI's words: it uses those of OpenAI whatever the provider, and tells a refusal by a model
/// of Anthropic's as `content_filter` (observed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It had said what it had to say.
    #[serde(alias = "end_turn", alias = "stop_sequence")]
    Stop,
    /// Its output limit cut it.
    #[serde(alias = "max_tokens")]
    Length,
    /// A content filter cut it.
    ContentFilter,
    /// It refused.
    Refusal,
    /// It wants tools to be called. Of a turn: that was all.
    #[serde(rename = "tool_calls", alias = "function_call", alias = "tool_use")]
    ToolOnly,
    /// Something else. Of a turn: there is no text either.
    #[serde(other)]
    Other,
}

impl Lenient for FinishReason {
    fn lenient(json: &RawValue) -> Option<Self> {
        lenient::exact(json)
    }
}

impl Usage {
    /// How the call ended; `None` if it does not say.
    pub fn finish(&self) -> Option<FinishReason> {
        match self.finish_reason {
            Some(FinishReason::Refusal) => Some(FinishReason::Refusal),
            _ if self.content_filter_triggered == Some(true) => Some(FinishReason::ContentFilter),
            reason => reason,
        }
    }

    /// What it cost at GitHub, in billionths of an AI credit.
    pub fn nano_ai_credits(&self) -> i64 {
        let cost = self.copilot_usage.as_ref().and_then(|usage| usage.total_nano_aiu);
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        cost.map_or(0, |cost| cost.round() as i64)
    }
}

impl PermissionRequested {
    /// What the permission is for.
    pub fn kind(&self) -> Cow<'_, str> {
        self.permission_request.text("kind")
    }

    /// What it is about, for a rule's pattern: the command, path, URL or tool. Some kinds have nothing of the sort.
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
