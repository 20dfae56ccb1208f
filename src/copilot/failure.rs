//! What the CLI's errors mean.
//!
//! JSON-RPC errors are nearly all code -32603 with the reason in words, and the words differ from method to method, so
//! they are matched loosely (cli-protocol.md, section 11). Failures of a turn come as `session.error` events instead.

use super::event::SessionError;

/// Why the CLI refused a request: each variant is a different thing to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such session, or it is not loaded.
    #[error("the CLI does not have this session loaded")]
    SessionNotFound,
    /// A parameter is wrong; the text says which.
    #[error("{0}")]
    InvalidParameter(String),
    /// GitHub refused the session's token, or there is none.
    #[error("{0}")]
    Unauthenticated(String),
    /// This CLI does not have the method.
    #[error("the CLI does not know this method")]
    MethodMissing,
    /// The connection token is missing, wrong, or not expected: the operator's to mend.
    #[error("{0}")]
    Connection(String),
    /// The history is too short to be summarized.
    #[error("there is nothing to compact")]
    NothingToCompact,
    /// The compaction was ended by somebody.
    #[error("the compaction was cancelled")]
    CompactionCancelled,
    /// Another connection has the session's tools already.
    #[error("another connection to the CLI has the session's tools")]
    ToolsTaken,
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl Rejection {
    /// Makes sense of a JSON-RPC error.
    pub fn new(code: i64, message: &str) -> Self {
        // "Request session.create failed with message: <reason>"
        let reason = message.split_once("failed with message: ").map_or(message, |(_, reason)| reason);
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        match code {
            -32601 => Self::MethodMissing,
            -32602 => Self::InvalidParameter(reason.to_owned()),
            -32003..=-32001 => Self::Connection(format!("{reason} ({code})")),
            _ if says(&["Unhandled method"]) => Self::MethodMissing,
            _ if says(NOT_FOUND) => Self::SessionNotFound,
            _ if says(&["Nothing to compact"]) => Self::NothingToCompact,
            _ if says(&["Compaction Cancelled"]) => Self::CompactionCancelled,
            _ if says(&["already registered by another connection"]) => Self::ToolsTaken,
            _ if says(&["Not authenticated", "token validation failed"]) => {
                Self::Unauthenticated(reason.to_owned())
            }
            _ if says(INVALID) => Self::InvalidParameter(reason.to_owned()),
            _ => Self::Internal(reason.to_owned()),
        }
    }

    /// The same with another text, where it has one.
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::InvalidParameter(text) => Self::InvalidParameter(change(text)),
            Self::Unauthenticated(text) => Self::Unauthenticated(change(text)),
            Self::Connection(text) => Self::Connection(change(text)),
            Self::Internal(text) => Self::Internal(change(text)),
            Self::SessionNotFound
            | Self::MethodMissing
            | Self::NothingToCompact
            | Self::CompactionCancelled
            | Self::ToolsTaken => self,
        }
    }
}

/// The last two are said by `session.resume` of a session that is being deleted (observed).
const NOT_FOUND: &[&str] = &[
    "Session not found",
    "Session file not found",
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
    "ENAMETOOLONG",
    "not a directory",
    "ENOENT",
];

/// How a turn failed in the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFailure {
    /// What to do about it.
    pub cause: AgentCause,
    /// What the agent says.
    pub message: String,
    /// The CLI's word for it, such as `rate_limit`.
    pub error_type: String,
    /// The provider's HTTP status.
    pub status_code: Option<i32>,
}

/// Who has to do something about a failed turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentCause {
    /// The credentials were refused.
    Auth,
    /// The account has nothing left.
    Quota,
    /// Too many requests; later.
    RateLimit,
    /// The conversation is too long for the model.
    ContextLimit,
    /// Anything else.
    Other,
}

impl AgentFailure {
    /// A failure that no event told of.
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            cause: AgentCause::Other,
            message: message.into(),
            error_type: String::new(),
            status_code: None,
        }
    }
}

impl From<&SessionError> for AgentFailure {
    fn from(error: &SessionError) -> Self {
        let cause = match (error.error_type.as_str(), error.status_code) {
            ("authentication" | "authorization", _) | (_, Some(401 | 403)) => AgentCause::Auth,
            ("quota", _) | (_, Some(402)) => AgentCause::Quota,
            ("rate_limit", _) | (_, Some(429)) => AgentCause::RateLimit,
            ("context_limit", _) => AgentCause::ContextLimit,
            // What the CLI itself finds too long it reports as a mere `query` (observed).
            _ if error.message.contains("prompt budget") => AgentCause::ContextLimit,
            // Without provider and GitHub login the CLI takes the prompt and then says this (observed).
            _ if error.message.contains("No GitHub OAuth token") => AgentCause::Auth,
            _ => AgentCause::Other,
        };
        Self {
            cause,
            message: error.message.clone(),
            error_type: error.error_type.clone(),
            status_code: error.status_code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_told_apart_by_their_words() {
        let check =
            |code, message: &str, expected: Rejection| assert_eq!(Rejection::new(code, message), expected);
        let failed = |reason: &str| format!("Request session.x failed with message: {reason}");
        check(-32601, "Unhandled method session.x", Rejection::MethodMissing);
        check(-32603, "Unhandled method session.x", Rejection::MethodMissing);
        for reason in
            ["Session not found: s", "Session not found for sessionId: s", "Session file not found for s"]
        {
            check(-32603, &failed(reason), Rejection::SessionNotFound);
        }
        for reason in [
            "Failed to load session events: Session not found: s",
            "Session file is corrupted (line 9: unknown variant `destroy`, expected `routine` or `error`)",
        ] {
            check(-32603, &failed(reason), Rejection::SessionNotFound);
        }
        for reason in [
            "Rejected session.create request with invalid sessionId: a b",
            "Invalid provider configuration: missing field `baseUrl`",
            "Directory does not exist: /x",
            "External tool \"bash\" conflicts with a built-in tool of the same name.",
            "Provider model 'a/b' is not registered",
        ] {
            check(-32603, &failed(reason), Rejection::InvalidParameter(reason.into()));
        }
        let reason = "External tool name clash: t already registered by another connection";
        check(-32603, &failed(reason), Rejection::ToolsTaken);
        let reason = "GitHub token validation failed: 401";
        check(-32603, &failed(reason), Rejection::Unauthenticated(reason.into()));
        check(
            -32002,
            "AUTHENTICATION_FAILED",
            Rejection::Connection("AUTHENTICATION_FAILED (-32002)".into()),
        );
        check(-32603, &failed("Nothing to compact."), Rejection::NothingToCompact);
        check(-32603, "boom", Rejection::Internal("boom".into()));
    }

    #[test]
    fn failures_of_a_turn_are_told_apart_by_type_and_status() {
        let check = |error_type: &str, status_code, message: &str, expected| {
            let error = SessionError {
                error_type: error_type.into(),
                message: message.into(),
                status_code,
                ..SessionError::default()
            };
            assert_eq!(AgentFailure::from(&error).cause, expected);
        };
        check("authentication", Some(401), "", AgentCause::Auth);
        check("query", Some(403), "", AgentCause::Auth);
        check("quota", None, "", AgentCause::Quota);
        check("query", Some(402), "", AgentCause::Quota);
        check("rate_limit", Some(429), "", AgentCause::RateLimit);
        check("context_limit", None, "", AgentCause::ContextLimit);
        let budget = "Request exceeds the model's prompt budget after reserving output (3334692 tokens; limit 128000).";
        check("query", None, budget, AgentCause::ContextLimit);
        check("query", Some(400), "400 boom", AgentCause::Other);
        check("query", None, "No GitHub OAuth token or Copilot HMAC key provided", AgentCause::Auth);
    }
}
