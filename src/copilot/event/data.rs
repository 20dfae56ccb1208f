//! What events carry, as far as the facade knows it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::lenient::{self, Lenient};

macro_rules! data {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
            #[serde(rename_all = "camelCase")]
            #[expect(missing_docs, reason = "the fields are the CLI's, by the names of session-events.schema.json")]
            pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

            impl Lenient for $name {
                #[cfg(test)]
                const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

                fn lenient(json: &Value) -> Option<Self> {
                    let names = [$(stringify!($field)),*];
                    let by_itself = Map::from_iter([(lenient::camel_case(names[0]), json.clone())]);
                    let fields = match json {
                        Value::Object(fields) => fields,
                        // What has a single field may come as that alone: a tool's result as a mere text.
                        Value::String(_) if names.len() == 1 => &by_itself,
                        _ => return None,
                    };
                    Some(Self { $($field: lenient::field(fields, stringify!($field)),)* })
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
        finish_reason: Option<FinishReason>,
        content_filter_triggered: Option<bool>,
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

impl Usage {
    /// How the call ended; `None` if it does not say.
    pub fn finish(&self) -> Option<FinishReason> {
        match self.finish_reason {
            Some(FinishReason::Refusal) => Some(FinishReason::Refusal),
            _ if self.content_filter_triggered == Some(true) => Some(FinishReason::ContentFilter),
            reason => reason,
        }
    }
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
