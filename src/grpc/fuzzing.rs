//! What `fuzz/` needs of this room: parsing each request as the service does, and nothing behind that.

use prost::{DecodeError, Message};
use tonic::Status;

use super::{
    convert::{Checks, Defaults},
    pb, status,
};
use crate::session::{Deadline, Profiles, fanout::Filter};

/// Parses the request of a method. The inner error is the status that the caller would get.
///
/// # Errors
/// If the body cannot be decoded, which tonic reports to the caller.
pub fn read(method: &str, body: &[u8]) -> Result<Result<(), Status>, DecodeError> {
    let mut checks = Checks::default();
    let deadline = |timeout: Option<_>| Deadline::after(timeout.unwrap_or_default());
    match method {
        "CreateSession" => {
            let request = pb::CreateSessionRequest::decode(body)?;
            checks.request_id("request_id", &request.request_id, &request);
            checks.new_session_id(&request.session_id, request.resume_if_exists);
            checks.profile(&request.profile, &Profiles::default());
            checks.blueprint(request, &Defaults::default());
        }
        "ResumeSession" => {
            let request = pb::ResumeSessionRequest::decode(body)?;
            checks.session_id(&request.session_id);
            checks.credentials(request);
        }
        "UpdateSession" => {
            let request = pb::UpdateSessionRequest::decode(body)?;
            checks.change(request.session.unwrap_or_default(), request.update_mask.unwrap_or_default());
        }
        "ListSessions" => {
            checks.listing(pb::ListSessionsRequest::decode(body)?);
        }
        "SendAndWait" => {
            checks.prompt(pb::SendAndWaitRequest::decode(body)?.prompt, Filter::NOTHING, deadline);
        }
        "SendAndStream" => {
            let request = pb::SendAndStreamRequest::decode(body)?;
            let filter = checks.filter("event_types", request.event_types, request.exclude_sub_agents);
            checks.heartbeat("heartbeat_interval", request.heartbeat_interval);
            checks.max_event_size("max_event_size", request.max_event_size, usize::MAX);
            checks.prompt(request.prompt, filter, deadline);
        }
        "Converse" => match pb::ConverseRequest::decode(body)?.payload {
            Some(pb::converse_request::Payload::Prompt(prompt)) => {
                checks.prompt(prompt.prompt, Filter::NOTHING, deadline);
            }
            Some(pb::converse_request::Payload::Answer(answer)) => {
                checks.answer(answer.answer);
            }
            Some(pb::converse_request::Payload::Open(open)) => {
                checks.filter("open.event_types", open.event_types, open.exclude_sub_agents);
                checks.heartbeat("open.heartbeat_interval", open.heartbeat_interval);
            }
            Some(pb::converse_request::Payload::Abort(_)) | None => {}
        },
        "Respond" => {
            checks.answer(pb::RespondRequest::decode(body)?.answer);
        }
        "WatchSession" => {
            let request = pb::WatchSessionRequest::decode(body)?;
            let id = checks.session_id(&request.session_id);
            checks.from(id.as_ref(), &request.cursor, request.from_beginning);
            checks.filter("event_types", request.event_types, request.exclude_sub_agents);
        }
        "ListEvents" => {
            let request = pb::ListEventsRequest::decode(body)?;
            checks.page_size(request.page_size);
            checks.history_token(&request.session_id, &request.page_token);
            checks.filter("event_types", request.event_types, false);
        }
        "ListModels" => {
            let request = pb::ListModelsRequest::decode(body)?;
            checks.profile(&request.profile, &Profiles::default());
            checks.github_token(request.github_token);
        }
        // These hold a session's id, or nothing.
        _ => {
            checks.session_id(&pb::GetSessionRequest::decode(body)?.session_id);
        }
    }
    Ok(checks.done(Some(())).map_err(status::invalid))
}
