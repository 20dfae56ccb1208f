//! Turns that are kept, as messages of the contract.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use tonic::Status;

use super::{time, turn_result};
use crate::{
    grpc::{pb, status},
    session::{SessionId, Submitted, SubmittedState, TurnPlace},
};

/// A turn, with all that is known of it.
pub(in crate::grpc) fn turn(session: &SessionId, turn: Submitted) -> pb::Turn {
    use pb::turn::Outcome;
    let Submitted { request_id, message_id, state, create_time, update_time } = turn;
    let (state, outcome) = match state {
        SubmittedState::Queued => (pb::TurnState::Queued, None),
        SubmittedState::Running => (pb::TurnState::Running, None),
        SubmittedState::Waiting => (pb::TurnState::Waiting, None),
        SubmittedState::Ended(Ok(result)) => {
            (pb::TurnState::Succeeded, Some(Outcome::Result(turn_result(&result))))
        }
        SubmittedState::Ended(Err(error)) => {
            (pb::TurnState::Failed, Some(Outcome::Failure(turn_status(&status::told_of_turn(&error)))))
        }
    };
    pb::Turn {
        session_id: session.to_string(),
        request_id,
        message_id: message_id.unwrap_or_default(),
        state: state.into(),
        create_time: Some(time(create_time)),
        update_time: Some(time(update_time)),
        outcome,
    }
}

/// A turn without its texts, as lists have it.
pub(in crate::grpc) fn listed_turn(session: &SessionId, submitted: Submitted) -> pb::Turn {
    use pb::turn::Outcome;
    let mut turn = turn(session, submitted);
    match &mut turn.outcome {
        Some(Outcome::Result(result)) => {
            result.content.clear();
            result.structured_content_json.clear();
            result.tool_calls.clear();
            result.files_changed.clear();
        }
        Some(Outcome::Failure(failure)) => failure.details.iter_mut().for_each(shorten),
        None => {}
    }
    turn
}

/// Takes its texts from a detail, if it is one of a turn.
fn shorten(detail: &mut prost_types::Any) {
    if !detail.type_url.ends_with("/copilot_grpc.v1.TurnFailure") {
        return;
    }
    if let Ok(mut failure) = pb::TurnFailure::decode(detail.value.as_slice()) {
        failure.partial_content.clear();
        failure.running_tools.clear();
        detail.value = failure.encode_to_vec();
    }
}

fn turn_status(status: &Status) -> pb::TurnStatus {
    pb::TurnStatus {
        code: status.code().into(),
        message: status.message().into(),
        details: tonic_types::pb::Status::decode(status.details()).unwrap_or_default().details,
        reason: status::reason(status).into(),
    }
}

/// The token for the place where the next page of turns begins; `Checks::turn_token` reads it.
pub(in crate::grpc) fn turn_token(place: Option<TurnPlace>) -> String {
    let token = |TurnPlace { create_time, request_id }| {
        URL_SAFE_NO_PAD.encode(format!("1 {} {request_id}", create_time.0))
    };
    place.map(token).unwrap_or_default()
}
