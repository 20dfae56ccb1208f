//! The meaning of the CLI's errors.
//!
//! JSON-RPC errors are nearly all code -32603 with the reason in words, and the words differ from method to method, so they are
//! matched loosely (cli-protocol.md, section 11). Failures of a turn come as `session.error` events instead.
//!
//! Tests: `failure/tests.rs`, `tests/integration/providers.rs`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::SessionError;

/// Why the CLI refused a request. Each variant calls for another action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no such session, or it is not loaded.
    #[error("the CLI does not have this session loaded")]
    SessionNotFound,
    /// A parameter is wrong; the text says which.
    #[error("{0}")]
    InvalidParameter(String),
    /// GitHub refused the session's token, or there is none.
    #[error("{0}")]
    Unauthenticated(String),
    /// The model's provider refused or failed in a call that needs the model.
    #[error("{}", .0.message)]
    Agent(AgentFailure),
    /// The CLI could not write to its disk.
    #[error("{0}")]
    Storage(String),
    /// This CLI does not have the method.
    #[error("this version of the Copilot CLI does not have {0}")]
    MethodMissing(&'static str),
    /// The connection token is missing, wrong, or not expected. The operator has to mend that.
    #[error("{0}")]
    Connection(String),
    /// The history has no such event, or one that the call cannot be about.
    #[error("the session's history has no such event, or no prompt has it")]
    NoSuchEvent,
    /// The history is too short to be summarized.
    #[error("there is nothing to compact")]
    NothingToCompact,
    /// Somebody cancelled the compaction.
    #[error("the compaction was cancelled")]
    CompactionCancelled,
    /// Another process on the same home has the session loaded (observed: a CLI that was replaced and is busy with a prompt of
    /// megabytes, when the session is deleted in its successor).
    #[error("another process still has the session, such as a Copilot CLI that is being replaced: try again")]
    InUse,
    /// Another connection has the session's tools already.
    #[error("another connection to the CLI has the session's tools")]
    ToolsTaken,
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl Rejection {
    /// Interprets a JSON-RPC error that a call of `method` got.
    pub fn new(method: &'static str, code: i64, message: &str) -> Self {
        // "Request session.create failed with message: <reason>"
        let reason = message.split_once("failed with message: ").map_or(message, |(_, reason)| reason);
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        match code {
            -32601 => Self::MethodMissing(method),
            -32602 => Self::InvalidParameter(reason.to_owned()),
            -32003..=-32001 => Self::Connection(format!("{reason} ({code})")),
            _ if says(&["Unhandled method"]) => Self::MethodMissing(method),
            _ if says(&["is not a current root user turn"]) => Self::NoSuchEvent,
            _ if reason.starts_with("Event ") && says(&["not found in session"]) => Self::NoSuchEvent,
            _ if says(NOT_FOUND) => Self::SessionNotFound,
            _ if says(&["Nothing to compact"]) => Self::NothingToCompact,
            _ if says(&["Compaction Cancelled"]) => Self::CompactionCancelled,
            _ if says(&["in use by another process"]) => Self::InUse,
            _ if says(&["already registered by another connection"]) => Self::ToolsTaken,
            _ if says(&["Not authenticated", "token validation failed"]) => {
                Self::Unauthenticated(reason.to_owned())
            }
            _ if is_about_storage(reason) => Self::Storage(reason.to_owned()),
            _ => match AgentFailure::of_provider(reason) {
                Some(failure) => Self::Agent(failure),
                None if says(INVALID) => Self::InvalidParameter(reason.to_owned()),
                None => Self::Internal(reason.to_owned()),
            },
        }
    }

    /// Whether a deletion stopped halfway because something was just written to the session, or somebody else deletes it
    /// (observed on 1.0.85).
    pub fn is_half_deleted(&self) -> bool {
        matches!(self, Self::Internal(reason) if reason.contains("Directory not empty"))
    }

    /// Changes the text, if there is one.
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::InvalidParameter(text) => Self::InvalidParameter(change(text)),
            Self::Unauthenticated(text) => Self::Unauthenticated(change(text)),
            Self::Connection(text) => Self::Connection(change(text)),
            Self::Internal(text) => Self::Internal(change(text)),
            Self::Agent(failure) => Self::Agent(AgentFailure { message: change(failure.message), ..failure }),
            Self::Storage(text) => Self::Storage(change(text)),
            Self::SessionNotFound
            | Self::MethodMissing(_)
            | Self::NoSuchEvent
            | Self::NothingToCompact
            | Self::CompactionCancelled
            | Self::InUse
            | Self::ToolsTaken => self,
        }
    }
}

/// Words that mean that there is no such session. `session.send` and `session.resume` use the last three for a session that is
/// being deleted (observed). 1.0.85 writes the first in lower case.
const NOT_FOUND: &[&str] = &[
    "Session not found",
    "session not found",
    "Session file not found",
    "Unknown session",
    "event journal is unavailable",
    "unknown variant `destroy`",
];

const INVALID: &[&str] = &[
    "invalid sessionId",
    "unknown field",
    "Invalid provider configuration",
    "Directory does not exist",
    "tool name must be",
    "Minimum session limit",
    "conflicts with a built-in tool",
    "is not registered",
    "Unknown built-in agent",
    "ENAMETOOLONG",
    "not a directory",
    "ENOENT",
];

/// A failure of the agent in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFailure {
    /// The cause, which decides what to do.
    pub cause: AgentCause,
    /// The agent's message.
    pub message: String,
    /// The CLI's name for it, such as `rate_limit`.
    pub error_type: String,
    /// The provider's HTTP status.
    pub status_code: Option<i32>,
}

/// The cause of a failed turn, by who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentCause {
    /// The provider refused the credentials.
    Auth,
    /// The account's quota is used up.
    Quota,
    /// There were too many requests; trying again later helps.
    RateLimit,
    /// The conversation is too long for the model.
    ContextLimit,
    /// The provider's content filter refused the prompt.
    ContentFiltered,
    /// The provider failed or could not be reached; trying again later helps.
    Unavailable,
    /// The CLI could not write to its disk.
    Storage,
    /// Anything else.
    Other,
}

impl AgentFailure {
    /// A failure that no event reported.
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            cause: AgentCause::Other,
            message: message.into(),
            error_type: String::new(),
            status_code: None,
        }
    }

    /// The failure in a provider's answer to a call that needs the model. `None`: the text is not a provider's.
    fn of_provider(reason: &str) -> Option<Self> {
        let message = reason.strip_prefix("host-rethrow: ").unwrap_or(reason);
        let status_code = status_of(message);
        if status_code.is_none() && !GIVEN_UP.iter().any(|words| message.starts_with(words)) {
            return None;
        }
        let cause = cause("", status_code, message);
        Some(Self { cause, message: message.to_owned(), error_type: String::new(), status_code })
    }
}

/// The kind of the events about a model call that failed: one for each try, also for calls outside of turns. No schema has
/// them, but they come (observed).
pub const CALL_FAILED: &str = "model.model_call_failure";

/// The parameters of a `session.event` of the kind [`CALL_FAILED`].
#[derive(Deserialize)]
struct CallFailed {
    event: CallFailedEvent,
}

#[derive(Deserialize)]
struct CallFailedEvent {
    data: CallFailedData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallFailedData {
    model_call: ModelCall,
}

#[derive(Deserialize)]
struct ModelCall {
    #[serde(default)]
    status: Option<i32>,
    /// A text with JSON: what the provider said, often with its own code, or what the CLI makes of it.
    error: String,
}

impl AgentFailure {
    /// The failure of a model call, from the parameters of an event of the kind [`CALL_FAILED`].
    pub fn of_call(params: &[u8]) -> Option<Self> {
        let CallFailed { event } = serde_json::from_slice(params).ok()?;
        let ModelCall { status, error } = event.data.model_call;
        let said: Value = serde_json::from_str(&error).unwrap_or_default();
        let message = said["message"].as_str().or(said.as_str()).unwrap_or(&error);
        // The whole text decides the cause, the code included.
        let cause = match cause("", status, &error) {
            AgentCause::Other if status.is_none() => AgentCause::Unavailable,
            cause => cause,
        };
        let message = message[..message.floor_char_boundary(MAX_MESSAGE)].to_owned();
        Some(Self { cause, message, error_type: String::new(), status_code: status })
    }

    /// This failure with the words of the last failed try, if the CLI gave up its retries without quoting the last of them.
    pub fn in_words_of(self, last: Self) -> Self {
        if self.status_code.is_some() || self.message.contains(LAST_ERROR) {
            return self;
        }
        let message = format!("{} {LAST_ERROR}{}", self.message, last.message);
        Self { message, ..last }
    }
}

/// The longest part of a provider's message that is kept, in bytes.
const MAX_MESSAGE: usize = 500;

/// The words before the message of the last try.
const LAST_ERROR: &str = "Last error: ";

impl From<&SessionError> for AgentFailure {
    fn from(error: &SessionError) -> Self {
        let SessionError { error_type, message, status_code, .. } = error;
        Self {
            cause: cause(error_type, *status_code, message),
            message: message.clone(),
            error_type: error_type.clone(),
            status_code: *status_code,
        }
    }
}

/// The HTTP status at the beginning of a provider's message: "400 Invalid value", or after the CLI's own words and "Last error:
/// ".
fn status_of(message: &str) -> Option<i32> {
    let words = message.rsplit_once(LAST_ERROR).map_or(message, |(_, words)| words);
    let (status, _) = words.split_once(' ')?;
    let status: i32 = status.parse().ok()?;
    (400..600).contains(&status).then_some(status)
}

/// The cause of a failure. The words decide before the status: providers have many statuses for one thing, and the CLI passes
/// on neither their code nor their type (observed).
fn cause(error_type: &str, status: Option<i32>, message: &str) -> AgentCause {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let given_up = GIVEN_UP.iter().any(|words| message.starts_with(&words.to_lowercase()));
    match (error_type, status) {
        ("persistence", _) => AgentCause::Storage,
        ("authentication" | "authorization", _) | (_, Some(401 | 403)) => AgentCause::Auth,
        ("quota", _) | (_, Some(402)) => AgentCause::Quota,
        ("context_limit", _) | (_, Some(413)) => AgentCause::ContextLimit,
        _ if says(CONTEXT_LIMIT) => AgentCause::ContextLimit,
        _ if says(CONTENT_FILTERED) => AgentCause::ContentFiltered,
        // Some use these words for a rate, and say when to come again.
        _ if says(QUOTA) && !says(&["retry in", "try again in"]) => AgentCause::Quota,
        ("rate_limit", _) | (_, Some(429)) => AgentCause::RateLimit,
        (_, Some(408 | 500..)) => AgentCause::Unavailable,
        _ if given_up => AgentCause::Unavailable,
        _ if status.is_none() && is_about_storage(&message) => AgentCause::Storage,
        // Without provider and GitHub login the CLI accepts the prompt and then reports this (observed).
        _ if says(&["no github oauth token"]) => AgentCause::Auth,
        _ => AgentCause::Other,
    }
}

/// The first words of the CLI's report that its retries did not help. It retries only after 408, 409, 429 and 5xx, a cut or
/// senseless stream, and a connection that fails (observed).
const GIVEN_UP: &[&str] = &[
    "Failed to get response from the AI model",
    "Could not connect to provider",
    "Could not connect to local model provider",
];

/// Words of providers and the CLI for a conversation that is too long. All are in lower case.
const CONTEXT_LIMIT: &[&str] = &[
    // The CLI, before it asks the provider and after (observed).
    "prompt budget",
    "rejected the prompt as too long",
    // OpenAI, Azure and vLLM; Groq, Mistral.
    "context_length_exceeded",
    "maximum context length",
    "reduce the length of the messages",
    "exceeds the context window",
    "input tokens exceed",
    "maximum model length",
    // llama.cpp; Ollama, LM Studio.
    "exceed_context_size",
    "available context size",
    "exceeds the context size",
    "exceeds context length",
    "context length of only",
    // Anthropic; Bedrock.
    "prompt is too long",
    "exceed context limit",
    "input is too long",
    // Gemini; GitHub's own; xAI.
    "exceeds the maximum number of tokens",
    "prompt token count of",
    "maximum prompt length",
];

/// Words for a prompt that a content filter refused.
const CONTENT_FILTERED: &[&str] = &[
    // Azure.
    "content management policy",
    "content_filter",
    "responsibleaipolicy",
    // OpenAI.
    "content_policy",
    "safety system",
    "violating our usage policy",
    // Anthropic; Alibaba; Gemini.
    "content filter",
    "inappropriate content",
    "prohibited_content",
];

/// Words for an account whose quota is used up.
const QUOTA: &[&str] = &[
    "insufficient_quota",
    "exceeded your current quota",
    "billing hard limit",
    "insufficient balance",
    "credit balance is too low",
];

/// Whether the message is about a full disk or a reached quota of it.
fn is_about_storage(message: &str) -> bool {
    let message = message.to_lowercase();
    ["enospc", "no space left on device", "edquot", "quota exceeded (os error"]
        .iter()
        .any(|word| message.contains(word))
}

#[cfg(test)]
mod tests;
