//! How a turn ends: what is said of it, and why it has failed.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    backend,
    copilot::{
        AgentFailure, Json,
        event::{self, FinishReason},
        method::FileChange,
    },
    session::{cursor::Cursor, id::SessionId},
    store,
};

/// What came of a turn that was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnResult {
    /// The turn's id.
    pub message_id: String,
    /// The answer, all parts of it.
    pub content: String,
    /// Whether the answer is whole, and if not, why. `None`: the CLI does not say.
    pub finish_reason: Option<FinishReason>,
    /// The model that gave it.
    pub model: Option<String>,
    /// What it cost.
    pub usage: Usage,
    /// The tools that the main agent called.
    pub tool_calls: Vec<ToolCall>,
    /// The answer as JSON, if there was a schema for it.
    pub structured: Option<Json>,
    /// What the agent's tools have done to files, as far as the CLI follows that.
    pub files_changed: Vec<FileChange>,
    /// Where a watcher goes on from. The session knows.
    pub cursor: Option<Cursor>,
}

/// What there is of a turn that has no answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Remains {
    /// The turn's id, if it is known.
    pub message_id: Option<String>,
    /// The text of the last message as far as it had come, all parts of it.
    pub partial: String,
    /// The kind of the last event.
    pub last_event: Option<String>,
    /// What it had cost.
    pub usage: Usage,
    /// The tools that were running.
    pub running_tools: Vec<ToolCall>,
    /// The asks that waited for an answer. The session knows.
    pub open_asks: Vec<String>,
    /// Where a watcher goes on from. The session knows.
    pub cursor: Option<Cursor>,
}

/// What the model calls of a turn cost, sub-agents included.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are those of the CLI's assistant.usage, summed")]
pub struct Usage {
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    pub reasoning_tokens: i64,
    /// In billionths of an AI credit.
    pub nano_ai_credits: i64,
    pub model_calls: i32,
    pub model_milliseconds: f64,
}

impl Usage {
    /// The two together.
    pub(in crate::session) fn with(self, other: &Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
            nano_ai_credits: self.nano_ai_credits.saturating_add(other.nano_ai_credits),
            model_calls: self.model_calls.saturating_add(other.model_calls),
            model_milliseconds: self.model_milliseconds + other.model_milliseconds,
        }
    }

    pub(in crate::session) fn add(&mut self, usage: &event::Usage) {
        self.input_tokens = self.input_tokens.saturating_add(usage.input_tokens.unwrap_or_default());
        self.output_tokens = self.output_tokens.saturating_add(usage.output_tokens.unwrap_or_default());
        self.cache_read_tokens =
            self.cache_read_tokens.saturating_add(usage.cache_read_tokens.unwrap_or_default());
        self.cache_write_tokens =
            self.cache_write_tokens.saturating_add(usage.cache_write_tokens.unwrap_or_default());
        self.reasoning_tokens =
            self.reasoning_tokens.saturating_add(usage.reasoning_tokens.unwrap_or_default());
        self.nano_ai_credits = self.nano_ai_credits.saturating_add(usage.nano_ai_credits());
        self.model_calls += 1;
        self.model_milliseconds += usage.duration.unwrap_or_default();
    }
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// What it was called with; `None` where that was too much for one turn: see [`MAX_ARGUMENTS`](super::MAX_ARGUMENTS).
    pub arguments: Option<Json>,
    /// Whether it succeeded; `None` while it runs.
    pub success: Option<bool>,
}

/// A turn that failed, and what there is of it.
#[derive(Debug, Clone)]
pub struct TurnError {
    /// Why.
    pub cause: TurnCause,
    /// Whether the agent got the prompt.
    pub delivery: Delivery,
    /// What there is.
    pub remains: Remains,
}

impl TurnError {
    /// A turn that never got its time.
    pub(in crate::session) fn not_delivered(cause: TurnCause) -> Self {
        Self { cause, delivery: Delivery::NotDelivered, remains: Remains::default() }
    }

    /// Whether a repetition gets the same. Otherwise nothing was sent, the caller had it stopped by leaving, or its answer is only late.
    pub(in crate::session) fn is_final(&self) -> bool {
        self.delivery != Delivery::NotDelivered
            && !matches!(self.cause, TurnCause::Cancelled | TurnCause::Store(_))
    }
}

impl TurnError {
    /// Whether another server is to run the turn: nothing was sent, and this one cannot.
    pub(in crate::session) fn is_anothers(&self) -> bool {
        self.delivery == Delivery::NotDelivered
            && matches!(self.cause, TurnCause::Moved(_) | TurnCause::Draining)
    }
}

/// Whether the agent got a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Surely not: sending it again is safe.
    NotDelivered,
    /// It did.
    Delivered,
    /// It may have.
    Unknown,
}

/// Why a turn has failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TurnCause {
    /// Somebody stopped it.
    #[error("the turn was stopped")]
    Aborted,
    /// Its session was deleted.
    #[error("the session was deleted")]
    Deleted,
    /// Its session is another server's by now.
    #[error("session {0} is not this server's any more")]
    Moved(SessionId),
    /// Its caller went away. Nobody reads this.
    #[error("the caller went away")]
    Cancelled,
    /// It took too long.
    #[error("the turn did not finish within {0:.1?}")]
    Timeout(Duration),
    /// The agent showed no sign of life.
    #[error("the agent showed no sign of life for {0:.1?}")]
    Inactive(Duration),
    /// The CLI was lost, or lost the session, in mid-turn.
    #[error("the turn was cut: {0}")]
    Interrupted(String),
    /// The agent or its model failed.
    #[error("{}", .0.message)]
    Agent(AgentFailure),
    /// The answer is not what its caller wants.
    #[error("the model's answer does not match response_schema: {0}")]
    Mismatch(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The session is gone.
    #[error("there is no session {0}")]
    NotFound(SessionId),
    /// The CLI that had the session has lost it.
    #[error("{}", lost(.session, .cli))]
    Lost {
        /// The session.
        session: SessionId,
        /// The CLI.
        cli: String,
    },
    /// What was promised of it cannot be recorded.
    #[error(transparent)]
    Store(store::Error),
    /// The prompt could not be sent.
    #[error(transparent)]
    Backend(#[from] backend::Error),
}

/// What is said of a session that its CLI has lost.
pub(in crate::session) fn lost(session: &SessionId, cli: &str) -> String {
    format!(
        "the Copilot CLI {cli} does not have session {session} any more: DeleteSession removes what is left of it, and it is there \
         again if the CLI gets its files back"
    )
}

/// How a turn ended.
pub type Outcome = Result<Arc<TurnResult>, Arc<TurnError>>;
