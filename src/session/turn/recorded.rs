//! How a turn ended, as it is stored. Pure.
//!
//! An answer is stored whole. Of a failure its kind is stored where callers act on it, and else its text.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::outcome::{Delivery, Outcome, Remains, TurnCause, TurnError, TurnResult};
use crate::{
    copilot::AgentFailure,
    store::{Ended, RequestKey, RequestState},
};

/// The longest that is stored of an outcome, in bytes. What is longer is answered once; a repetition that this process does not
/// remember is told that it was.
pub(in crate::session) const MAX_RECORDED: usize = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Recorded {
    Answered(TurnResult),
    Failed { cause: Cause, delivery: Delivery, remains: Remains },
    TooLong { message_id: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Cause {
    Aborted,
    Deleted,
    Timeout(Duration),
    Inactive(Duration),
    Agent(AgentFailure),
    Mismatch(String),
    Other(String),
}

/// Why a turn was cut that a server did not bring to its end.
pub(in crate::session) const LEFT_BEHIND: &str = "the server that ran it has ended";

/// What is stored of an outcome.
pub(in crate::session) fn write(outcome: &Outcome) -> String {
    let recorded = match outcome {
        Ok(result) => Recorded::Answered(TurnResult::clone(result)),
        Err(error) => Recorded::Failed {
            cause: cause(&error.cause),
            delivery: error.delivery,
            remains: error.remains.clone(),
        },
    };
    let text = serde_json::to_string(&recorded).unwrap_or_default();
    if !text.is_empty() && text.len() <= MAX_RECORDED {
        return text;
    }
    let message_id = match outcome {
        Ok(result) => result.message_id.clone(),
        Err(error) => error.remains.message_id.clone().unwrap_or_default(),
    };
    serde_json::to_string(&Recorded::TooLong { message_id }).unwrap_or_default()
}

/// How the request of a turn has ended, as it is stored.
pub(in crate::session) fn ended(key: &RequestKey, outcome: &Outcome) -> Ended {
    let (state, message_id) = match outcome {
        Ok(result) => (RequestState::Succeeded, Some(result.message_id.clone())),
        Err(error) => (RequestState::Failed, error.remains.message_id.clone()),
    };
    Ended { key: key.clone(), state, result: Some(write(outcome)), message_id }
}

/// What was stored; `None`: it cannot be read.
pub(in crate::session) fn read(text: &str) -> Option<Outcome> {
    Some(match serde_json::from_str(text).ok()? {
        Recorded::Answered(result) => Ok(Arc::new(result)),
        Recorded::Failed { cause, delivery, remains } => {
            Err(Arc::new(TurnError { cause: cause.into(), delivery, remains }))
        }
        Recorded::TooLong { message_id } => Err(Arc::new(TurnError {
            cause: TurnCause::Interrupted(format!(
                "it was answered, but its answer is longer than the {MAX_RECORDED} bytes that are kept: read it with ListEvents"
            )),
            delivery: Delivery::Delivered,
            remains: Remains { message_id: Some(message_id), ..Remains::default() },
        })),
    })
}

fn cause(cause: &TurnCause) -> Cause {
    match cause {
        TurnCause::Aborted => Cause::Aborted,
        TurnCause::Deleted => Cause::Deleted,
        TurnCause::Timeout(after) => Cause::Timeout(*after),
        TurnCause::Inactive(after) => Cause::Inactive(*after),
        TurnCause::Agent(failure) => Cause::Agent(failure.clone()),
        TurnCause::Mismatch(problem) => Cause::Mismatch(problem.clone()),
        // Whoever reads it has another server.
        TurnCause::Draining => Cause::Other(LEFT_BEHIND.into()),
        TurnCause::Interrupted(problem) => Cause::Other(problem.clone()),
        TurnCause::Cancelled
        | TurnCause::Moved(_)
        | TurnCause::NotFound(_)
        | TurnCause::Lost { .. }
        | TurnCause::Backend(_)
        | TurnCause::Store(_) => Cause::Other(cause.to_string()),
    }
}

impl From<Cause> for TurnCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Aborted => Self::Aborted,
            Cause::Deleted => Self::Deleted,
            Cause::Timeout(after) => Self::Timeout(after),
            Cause::Inactive(after) => Self::Inactive(after),
            Cause::Agent(failure) => Self::Agent(failure),
            Cause::Mismatch(problem) => Self::Mismatch(problem),
            Cause::Other(problem) => Self::Interrupted(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        copilot::{event::FinishReason, failure::AgentCause},
        session::turn::{ToolCall, Usage},
    };

    fn result(content: &str) -> TurnResult {
        TurnResult {
            message_id: "m".into(),
            content: content.into(),
            finish_reason: Some(FinishReason::ToolOnly),
            model: Some("gpt".into()),
            usage: Usage { input_tokens: 3, model_milliseconds: 1.5, ..Usage::default() },
            tool_calls: vec![ToolCall {
                id: "t".into(),
                name: "bash".into(),
                arguments: None,
                success: Some(true),
            }],
            structured: None,
            files_changed: Vec::new(),
            cursor: None,
        }
    }

    #[test]
    fn an_answer_is_stored_whole() {
        let answer = Arc::new(result("hello ☃"));
        assert_eq!(read(&write(&Ok(answer.clone()))).unwrap().unwrap(), answer);
    }

    #[test]
    fn a_failure_keeps_what_callers_act_on() {
        let agent = AgentFailure {
            cause: AgentCause::RateLimit,
            message: "slow down".into(),
            error_type: "rate_limit".into(),
            status_code: Some(429),
        };
        let causes = [
            TurnCause::Aborted,
            TurnCause::Deleted,
            TurnCause::Timeout(Duration::from_millis(1500)),
            TurnCause::Inactive(Duration::from_secs(2)),
            TurnCause::Agent(agent),
            TurnCause::Mismatch("no".into()),
            TurnCause::Interrupted("it broke".into()),
        ];
        for cause in causes {
            let remains =
                Remains { message_id: Some("m".into()), partial: "half".into(), ..Remains::default() };
            let error = TurnError { cause, delivery: Delivery::Unknown, remains };
            let again = read(&write(&Err(Arc::new(error.clone())))).unwrap().unwrap_err();
            assert_eq!(format!("{again:?}"), format!("{error:?}"));
        }
    }

    #[test]
    fn a_turn_that_its_server_stopped_at_its_own_end_was_cut() {
        let error = TurnError {
            cause: TurnCause::Draining,
            delivery: Delivery::Delivered,
            remains: Remains::default(),
        };
        let again = read(&write(&Err(Arc::new(error)))).unwrap().unwrap_err();
        assert!(
            matches!(&again.cause, TurnCause::Interrupted(problem) if problem == LEFT_BEHIND),
            "{again:?}"
        );
        assert_eq!(again.delivery, Delivery::Delivered);
    }

    #[test]
    fn of_an_answer_that_is_too_long_it_is_kept_that_there_was_one() {
        let outcome = Ok(Arc::new(result(&"x".repeat(MAX_RECORDED))));
        let text = write(&outcome);
        assert!(text.len() < 100, "{text}");
        let error = read(&text).unwrap().unwrap_err();
        assert_eq!((error.delivery, error.remains.message_id.as_deref()), (Delivery::Delivered, Some("m")));
        assert!(error.cause.to_string().contains("ListEvents"));
        assert!(read("nonsense").is_none());
    }
}
