//! Why a call of the session room fails: each variant is a different thing for the caller to do.

use std::sync::Arc;

use super::{
    blueprint::{Excess, Missing, Unfit},
    id::SessionId,
    turn::{TurnError, lost},
};
use crate::{
    backend::{self, admission::Full},
    copilot::RequestKind,
    store,
};

/// Why a call has failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such session, or it is somebody else's.
    #[error("there is no session {0}")]
    NotFound(SessionId),
    /// The session is another server's.
    #[error("session {0} is not this server's any more")]
    Moved(SessionId),
    /// The CLI that had the session has lost it.
    #[error("{}", lost(.session, .cli))]
    Lost {
        /// The session.
        session: SessionId,
        /// The CLI.
        cli: String,
    },
    /// What is stored of the session cannot be read.
    #[error("what is stored of session {0} cannot be read: run `copilot-grpc store check`")]
    Unreadable(SessionId),
    /// The id is taken.
    #[error("there is a session {0} already: choose another id, or leave it empty")]
    Exists(SessionId),
    /// The session is stored, but its credentials are not known.
    #[error(
        "session {session} is stored, but this server does not hold its credentials: call ResumeSession with {missing}"
    )]
    NotLoaded {
        /// The session.
        session: SessionId,
        /// What has to be brought.
        missing: Missing,
    },
    /// The session cannot have these credentials.
    #[error("{}: {}", .0.field, .0.problem)]
    Unfit(Unfit),
    /// The session is stored, but the operator's profile that it is under is not there any more.
    #[error(
        "session {session} is stored, but its profile {profile:?} is not configured on this server any more: the operator \
         has to bring it back"
    )]
    ProfileGone {
        /// The session.
        session: SessionId,
        /// The profile.
        profile: String,
    },
    /// The request goes beyond what the operator allows, in its profile or for all.
    #[error("the operator does not allow this: {}", describe(.0))]
    Denied(Vec<Excess>),
    /// The place in the history is not there any more.
    #[error("this place in the history is not there any more: start from the beginning, or from now on")]
    CursorExpired,
    /// The session's labels and settings are too long to be stored with it.
    #[error(
        "system message, labels, tools, agents, servers and permissions take more than 1 MiB together, more than is stored"
    )]
    TooMuchToStore,
    /// There never was such an ask, or it was long ago.
    #[error("session {session} has no open ask {ask}")]
    NoSuchAsk {
        /// The session.
        session: SessionId,
        /// The ask.
        ask: String,
    },
    /// Somebody else was faster.
    #[error("ask {ask} is settled: {}", match .settlement {
        Settlement::Answered => "it was answered by another caller",
        Settlement::TimedOut => "nobody had answered it in time",
        Settlement::Withdrawn => "the agent does not wait for it any more",
    })]
    AskSettled {
        /// The ask.
        ask: String,
        /// What came of it.
        settlement: Settlement,
    },
    /// The answer is of another kind than the ask.
    #[error("ask {ask} needs another answer: {}", match .kind {
        RequestKind::Permission => "`permission`",
        RequestKind::ToolCall => "`tool_result`",
        RequestKind::UserInput => "`user_input`",
        RequestKind::Elicitation => "`elicitation`",
        RequestKind::ExitPlan => "`exit_plan`",
    })]
    WrongAnswer {
        /// The ask.
        ask: String,
        /// What it is.
        kind: RequestKind,
    },
    /// The answer is not what is asked for.
    #[error("the answer to ask {ask} is not what is asked for: {problem}")]
    BadAnswer {
        /// The ask.
        ask: String,
        /// What is wrong.
        problem: String,
    },
    /// The session has no such turn, or it is longer ago than turns are known.
    #[error("session {0} has no turn of this id, or it ended more than a day ago")]
    NoSuchTurn(SessionId),
    /// A request id was used for something else.
    #[error("the request id was used before, for another request: use a new one for each")]
    RequestIdTaken {
        /// The field that has it.
        field: &'static str,
    },
    /// The session's queue is full.
    #[error("session {session} has {waiting} turns waiting, as many as it may")]
    QueueFull {
        /// The session.
        session: SessionId,
        /// How many wait.
        waiting: usize,
    },
    /// The session has as many watchers as it may.
    #[error("session {session} has {limit} watchers, as many as it may (max_watchers)")]
    TooManyWatchers {
        /// The session.
        session: SessionId,
        /// The limit.
        limit: usize,
    },
    /// The CLI has as many turns as it may.
    #[error("the Copilot CLI runs {} turns, and {} wait, as many as may", .0.running, .0.waiting)]
    Overloaded(Full),
    /// There are as many sessions as there may be.
    #[error("the server has {limit} sessions, as many as it may: delete some")]
    TooManySessions {
        /// The limit.
        limit: usize,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The CLI could not be asked, or refused.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The turn has failed.
    #[error("{}", .0.cause)]
    Turn(Arc<TurnError>),
}

fn describe(excesses: &[Excess]) -> String {
    let each = excesses.iter().map(|Excess { field, allowed }| format!("{field}: {allowed}"));
    each.collect::<Vec<_>>().join("; ")
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// A caller has answered it.
    Answered,
    /// Nobody had answered it in time.
    TimedOut,
    /// The agent does not wait for it any more.
    Withdrawn,
}
