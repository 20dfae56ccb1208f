//! Errors as their callers see them: a canonical code, a message that says what to do, and details that a program can act on.
//! `proto/copilot_grpc/v1/error_reason.proto` is the list of reasons.
//!
//! Each error type has one exhaustive match, so that a new error does not compile until somebody has chosen its code.
//!
//! Tests: `status/tests.rs`, `tests/integration/errors.rs`.

use std::{collections::HashMap, time::Duration};

use prost::{Message, Name};
use prost_types::Any;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::pb as rpc;

use super::{
    convert,
    pb::{self, ErrorReason},
    violation::{MAX_NAME, Violation, cut},
};
use crate::{
    backend,
    copilot::{AgentFailure, Rejection, failure::AgentCause},
    identity::Refused,
    session::{
        Cursor, Delivery, Error, Excess, Remains, SessionId, SessionKey, Sessions, Settlement, TurnCause,
        TurnError,
    },
    store,
};

/// `google.rpc.ErrorInfo.domain` of all errors of this service.
pub const DOMAIN: &str = "copilot-grpc";

/// The longest message in bytes. A status travels in HTTP headers, of which many clients take 8 KiB in all, and a message that
/// is not ASCII takes three times its length.
const MAX_MESSAGE: usize = 350;

/// How many wrong fields an error lists.
const MAX_VIOLATIONS: usize = 12;

/// The longest description of a wrong field, in bytes.
const MAX_DESCRIPTION: usize = 160;

/// The trailer that tells a client's own retry policy how long to wait, in milliseconds, or, if negative, not to retry (gRFC
/// A6).
const PUSH_BACK: &str = "grpc-retry-pushback-ms";

/// The trailer that tells a server that forwards a call, and not its caller, that it may go better at once: nothing was done, and the
/// session is on its way to another server.
pub(super) const PASSING: &str = "copilot-grpc-passing";

/// The trailer that tells it the place after which a stream is to go on that has ended because its session has moved.
pub(super) const CURSOR: &str = "copilot-grpc-cursor";

/// When to try again where something has to recover.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// When to try again after the agent's own retries, which last a minute, were not enough.
const RETRY_LATER: Duration = Duration::from_secs(60);

/// An error that is being made into a status.
struct Problem {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    details: Vec<Any>,
    /// After how long a client may repeat the call by itself; `None`: not at all, because it would fail again or be done twice.
    push_back: Option<Duration>,
    /// Whether this or another server may do better at once: the session is on its way to one.
    is_passing: bool,
}

impl Problem {
    fn new(code: Code, reason: ErrorReason, message: impl ToString) -> Self {
        let message = message.to_string();
        Self {
            code,
            reason,
            message,
            metadata: HashMap::new(),
            details: Vec::new(),
            push_back: None,
            is_passing: false,
        }
    }

    /// Adds metadata that is useless when cut, and never long.
    fn whole_metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    fn metadata(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), cut(&value.to_string(), MAX_NAME).into());
        self
    }

    fn session(self, id: &SessionId) -> Self {
        let message = self.message.clone();
        let resource = rpc::ResourceInfo {
            resource_type: "copilot_grpc.v1.Session".into(),
            resource_name: id.to_string(),
            owner: String::new(),
            description: cut(&message, MAX_MESSAGE).into(),
        };
        self.detail("google.rpc.ResourceInfo", &resource)
    }

    fn retry_after(self, delay: Duration) -> Self {
        let retry = rpc::RetryInfo { retry_delay: prost_types::Duration::try_from(delay).ok() };
        self.detail("google.rpc.RetryInfo", &retry)
    }

    /// Marks the call as one that a client may repeat by itself: nothing was done, and trying again helps.
    fn repeatable(self, delay: Duration) -> Self {
        self.retry_after(delay).push_back(delay)
    }

    /// Marks the call as one that is to be tried once more, here or by another server, before its caller hears of it.
    fn passing(self) -> Self {
        Self { is_passing: true, ..self }
    }

    fn push_back(self, delay: Duration) -> Self {
        Self { push_back: Some(delay), ..self }
    }

    /// Marks the call as one that a client must not repeat by itself: its effect would happen twice.
    fn not_repeatable(self) -> Self {
        Self { push_back: None, ..self }
    }

    fn detail(mut self, name: &str, message: &impl Message) -> Self {
        self.details
            .push(Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() });
        self
    }

    fn into_status(self) -> Status {
        // The message is not logged: it may hold what a provider says about a prompt.
        tracing::info!(code = ?self.code, reason = self.reason(), info = ?self.metadata, "a call failed");
        self.status()
    }

    fn reason(&self) -> &'static str {
        self.reason.as_str_name().trim_start_matches("ERROR_REASON_")
    }

    fn status(self) -> Status {
        let reason = self.reason();
        let message = cut(&self.message, MAX_MESSAGE);
        let info = rpc::ErrorInfo { reason: reason.into(), domain: DOMAIN.into(), metadata: self.metadata };
        let info =
            Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() };
        let details = [info].into_iter().chain(self.details).collect();
        let status = rpc::Status { code: self.code as i32, message: message.into(), details };
        let mut metadata = MetadataMap::new();
        let push_back = match self.push_back {
            Some(delay) => MetadataValue::from(delay.as_millis() as u64),
            None => MetadataValue::from_static("-1"),
        };
        metadata.insert(PUSH_BACK, push_back);
        if self.is_passing {
            metadata.insert(PASSING, MetadataValue::from_static("1"));
        }
        Status::with_details_and_metadata(self.code, message, status.encode_to_vec().into(), metadata)
    }
}

/// The result of a call about a session, with an error made into a status.
pub(super) async fn about<T>(
    sessions: &Sessions,
    key: &SessionKey,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Status> {
    match call.await {
        Ok(done) => Ok(done),
        Err(error) => Err(of(&sessions.explain(key, error).await)),
    }
}

/// The status of a call whose caller does not show who he is, or shows something wrong.
pub(super) fn unauthenticated(refused: &Refused) -> Status {
    let code = match refused {
        Refused::Unavailable => Code::Unavailable,
        _ => Code::Unauthenticated,
    };
    let problem = Problem::new(code, ErrorReason::Unauthenticated, refused);
    match refused {
        Refused::TooManyFailures { retry_after } => problem.retry_after(*retry_after),
        Refused::Unavailable => problem.repeatable(RETRY_SOON),
        _ => problem,
    }
    .into_status()
}

/// The status for wrong fields.
pub(super) fn invalid(violations: Vec<Violation>) -> Status {
    let message: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    bad_request(message.join("; "), &violations).into_status()
}

fn bad_request(message: String, wrong: &[Violation]) -> Problem {
    Problem::new(Code::InvalidArgument, ErrorReason::InvalidField, message)
        .detail("google.rpc.BadRequest", &violations(wrong))
}

fn violations(violations: &[Violation]) -> rpc::BadRequest {
    let field_violations =
        violations.iter().take(MAX_VIOLATIONS).map(|violation| rpc::bad_request::FieldViolation {
            field: cut(&violation.field, MAX_NAME).into(),
            description: cut(&violation.description, MAX_DESCRIPTION).into(),
            ..Default::default()
        });
    rpc::BadRequest { field_violations: field_violations.collect() }
}

/// The field that the CLI complains of, as far as its text shows.
fn field_of(complaint: &str) -> &'static str {
    const WORDS: &[(&str, &str)] = &[
        ("sessionId", "session_id"),
        ("irectory", "working_directory"),
        ("External tool", "tools"),
        ("Provider model", "session.model"),
        ("provider", "provider"),
        ("excludedBuiltinAgents", "excluded_builtin_agents"),
    ];
    WORDS.iter().find(|(word, _)| complaint.contains(word)).map_or("", |(_, field)| field)
}

/// The status for a stream that could not give every event. It has the cursor of the last event that was given, if known.
pub(super) fn lagged(cursor: Option<&Cursor>) -> Status {
    let message = "an event could not be given: the stream was read too slowly, or the event was larger than \
                   max_frame_size; the turn itself goes on";
    let problem = Problem::new(Code::ResourceExhausted, ErrorReason::StreamLagged, message);
    match cursor {
        Some(cursor) => problem.whole_metadata("cursor", cursor.as_str()),
        None => problem,
    }
    .into_status()
}

/// The status for a stream whose session has moved, with the place from which another server goes on.
pub(super) fn moved_from(error: &Error, cursor: Option<&Cursor>) -> Status {
    let mut status = of(error);
    if let Some(cursor) = cursor.and_then(|cursor| MetadataValue::try_from(cursor.as_str()).ok()) {
        status.metadata_mut().insert(CURSOR, cursor);
    }
    status
}

/// The status of a call that only reads, which a client may repeat by itself whatever became of it.
pub(super) fn of_reading(mut status: Status) -> Status {
    if status.code() == Code::Unavailable {
        status.metadata_mut().insert(PUSH_BACK, MetadataValue::from(RETRY_SOON.as_millis() as u64));
    }
    status
}

/// The reason in a status of this service.
pub(super) fn reason(status: &Status) -> ErrorReason {
    let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
    let infos = details.iter().filter(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"));
    let info = infos.filter_map(|detail| rpc::ErrorInfo::decode(detail.value.as_slice()).ok()).next();
    let name = info.map(|info| format!("ERROR_REASON_{}", info.reason));
    name.and_then(|name| ErrorReason::from_str_name(&name)).unwrap_or(ErrorReason::Unspecified)
}

/// Whether nothing was done, because the store was away.
pub(super) fn is_without_store(status: &Status) -> bool {
    let is_repeatable = status.metadata().get(PUSH_BACK).is_some_and(|delay| delay != "-1");
    is_repeatable && reason(status) == ErrorReason::StoreUnavailable
}

/// The status for a call for which there is no room.
pub(super) fn too_many_calls() -> Status {
    let message = "there are as many open calls, or as much that callers have not read, as there may be \
                   (max_reader_memory): try again later";
    Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, message)
        .repeatable(RETRY_SOON)
        .into_status()
}

/// The status for an error of the session room.
pub(super) fn of(error: &Error) -> Status {
    match error {
        Error::NotFound(id) => not_found(error, id),
        Error::Lost { session, .. } => not_found(error, session),
        Error::Moved(id) => moved(error, id).repeatable(RETRY_SOON),
        Error::NoSuchTurn(id) => Problem::new(Code::NotFound, ErrorReason::TurnNotFound, error).session(id),
        Error::Unreadable(id) => Problem::new(Code::Internal, ErrorReason::StoreCorrupt, error).session(id),
        Error::Store(error) => of_store(error),
        Error::Exists(id) => Problem::new(Code::AlreadyExists, ErrorReason::SessionExists, error).session(id),
        Error::NotLoaded { session, .. } => {
            Problem::new(Code::FailedPrecondition, ErrorReason::SessionNotLoaded, error).session(session)
        }
        Error::ProfileGone { session, .. } => {
            Problem::new(Code::FailedPrecondition, ErrorReason::SessionNotLoaded, error).session(session)
        }
        Error::Denied(excesses) => denied(error, excesses),
        Error::Unfit(unfit) => wrong_field(unfit.field, error),
        Error::CursorExpired => Problem::new(Code::FailedPrecondition, ErrorReason::CursorExpired, error),
        Error::NoSuchAsk { session, .. } => {
            Problem::new(Code::NotFound, ErrorReason::AskNotFound, error).session(session)
        }
        Error::AskSettled { settlement, .. } => {
            let settlement = match settlement {
                Settlement::Answered => "answered",
                Settlement::TimedOut => "timed_out",
                Settlement::Withdrawn => "withdrawn",
            };
            Problem::new(Code::FailedPrecondition, ErrorReason::AskSettled, error)
                .metadata("settlement", settlement)
        }
        Error::WrongAnswer { .. } | Error::BadAnswer { .. } => wrong_field("answer", error),
        Error::RequestIdTaken { field } => wrong_field(field, error),
        Error::TooMuchToStore => wrong_field("system_message", error),
        Error::QueueFull { session, .. } => {
            let advice = format!("{error}: wait for some of them, or use more sessions");
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, advice)
                .session(session)
                .repeatable(RETRY_SOON)
        }
        Error::TooManyWatchers { session, .. } => {
            let advice = format!("{error}: end some of them, or try again later");
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, advice)
                .session(session)
                .repeatable(RETRY_SOON)
        }
        Error::Overloaded(_) => {
            let advice = format!("{error}: try again later (max_running_turns, max_waiting_turns)");
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, advice).repeatable(RETRY_SOON)
        }
        Error::TooManySessions { limit } => {
            let violation = rpc::quota_failure::Violation {
                subject: "server".into(),
                description: format!("{limit} sessions at once (max_sessions)"),
                ..Default::default()
            };
            Problem::new(Code::ResourceExhausted, ErrorReason::QuotaExceeded, error)
                .detail("google.rpc.QuotaFailure", &rpc::QuotaFailure { violations: vec![violation] })
        }
        Error::Draining => draining(error),
        Error::Backend(error) => of_backend(error),
        Error::Turn(error) => return of_turn(error),
    }
    .into_status()
}

fn wrong_field(field: &str, error: &Error) -> Problem {
    let violation = Violation { field: field.into(), description: error.to_string() };
    bad_request(error.to_string(), &[violation])
}

/// The error for a request that goes beyond its profile.
fn denied(error: &Error, excesses: &[Excess]) -> Problem {
    let violation =
        |Excess { field, allowed }: &Excess| Violation { field: field.clone(), description: allowed.clone() };
    let bad_request = violations(&excesses.iter().map(violation).collect::<Vec<_>>());
    Problem::new(Code::PermissionDenied, ErrorReason::PolicyDenied, error)
        .detail("google.rpc.BadRequest", &bad_request)
}

fn not_found(message: impl ToString, id: &SessionId) -> Problem {
    Problem::new(Code::NotFound, ErrorReason::SessionNotFound, message).session(id)
}

fn draining(message: impl ToString) -> Problem {
    Problem::new(Code::Unavailable, ErrorReason::Draining, message).repeatable(RETRY_SOON).passing()
}

fn moved(message: impl ToString, id: &SessionId) -> Problem {
    Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, message).session(id).passing()
}

/// The status for a call that another server was to serve, and does not. One that may have been done is not to be repeated by a client
/// library.
pub(super) fn not_forwarded(message: impl ToString, delivery: Delivery) -> Status {
    let problem = Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, message);
    match delivery {
        Delivery::NotDelivered => problem.repeatable(RETRY_SOON),
        Delivery::Delivered | Delivery::Unknown => problem.retry_after(RETRY_SOON),
    }
    .into_status()
}

/// The error for a store that does not do what it is asked.
fn of_store(error: &store::Error) -> Problem {
    match error {
        // What has gone or was written by another process is as it is when it is looked at again.
        store::Error::Fenced => Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, error)
            .repeatable(RETRY_SOON)
            .passing(),
        store::Error::Unavailable { .. }
        | store::Error::Exists
        | store::Error::Gone
        | store::Error::Conflict => {
            Problem::new(Code::Unavailable, ErrorReason::StoreUnavailable, error).repeatable(RETRY_SOON)
        }
        store::Error::Corrupt { .. } => Problem::new(Code::Internal, ErrorReason::StoreCorrupt, error),
    }
}

/// The status for a turn that failed.
pub(super) fn of_turn(error: &TurnError) -> Status {
    turn_problem(error).into_status()
}

/// The status that a turn failed with, to be told of in the answer to a call that did not fail.
pub(super) fn told_of_turn(error: &TurnError) -> Status {
    turn_problem(error).status()
}

fn turn_problem(error: &TurnError) -> Problem {
    let message = &error.cause;
    let problem = match &error.cause {
        TurnCause::Aborted | TurnCause::Deleted => {
            Problem::new(Code::Aborted, ErrorReason::TurnAborted, message)
        }
        // The caller has gone; the status is for the log of whatever is between it and this server.
        TurnCause::Cancelled => Problem::new(Code::Cancelled, ErrorReason::TurnAborted, message),
        TurnCause::Timeout(_) => Problem::new(Code::DeadlineExceeded, ErrorReason::TurnTimeout, message),
        TurnCause::Inactive(_) => Problem::new(Code::DeadlineExceeded, ErrorReason::TurnInactive, message),
        TurnCause::Interrupted(_) => {
            Problem::new(Code::Unavailable, ErrorReason::TurnInterrupted, message).retry_after(RETRY_SOON)
        }
        TurnCause::Agent(failure) => of_agent(failure),
        TurnCause::Mismatch(_) => Problem::new(Code::Internal, ErrorReason::ResponseMismatch, message),
        TurnCause::Draining => draining(message),
        TurnCause::Moved(id) if error.delivery == Delivery::NotDelivered => moved(message, id),
        TurnCause::Moved(_) => {
            Problem::new(Code::Unavailable, ErrorReason::TurnInterrupted, message).retry_after(RETRY_SOON)
        }
        TurnCause::NotFound(id) => not_found(message, id),
        TurnCause::Lost { session, .. } => not_found(message, session),
        TurnCause::Store(error) => of_store(error),
        // Once the prompt may have been sent, a lost CLI is another error than one that was not there.
        TurnCause::Backend(
            cause @ (backend::Error::Lost { written: true, .. } | backend::Error::Timeout { .. }),
        ) if error.delivery != Delivery::NotDelivered => {
            Problem::new(Code::Unavailable, ErrorReason::TurnInterrupted, cause).retry_after(RETRY_SOON)
        }
        TurnCause::Backend(cause) => of_backend(cause),
    };
    let problem = problem.detail(&pb::TurnFailure::full_name(), &convert::turn_failure(error));
    match error.delivery {
        Delivery::NotDelivered if problem.code == Code::Unavailable => problem.push_back(RETRY_SOON),
        Delivery::NotDelivered => problem,
        Delivery::Delivered | Delivery::Unknown => Problem { is_passing: false, ..problem }.not_repeatable(),
    }
}

/// The status for a turn whose caller's deadline has passed before the turn itself could say more.
pub(super) fn turn_timed_out(after: Duration, delivery: Delivery) -> Status {
    of_turn(&TurnError { cause: TurnCause::Timeout(after), delivery, remains: Remains::default() })
}

/// The status for a turn whose server was lost.
pub(super) fn turn_cut(why: &str, delivery: Delivery) -> Status {
    of_turn(&TurnError { cause: TurnCause::Interrupted(why.into()), delivery, remains: Remains::default() })
}

/// The status for a call about no turn whose deadline has passed.
pub(super) fn timed_out(after: Duration) -> Status {
    let message = format!("the call was given up after {after:.1?}, at its deadline");
    Problem::new(Code::DeadlineExceeded, ErrorReason::TurnTimeout, message).into_status()
}

/// The status for a stream that does not end by itself when the server stops.
pub(super) fn closing() -> Status {
    draining(Error::Draining).into_status()
}

/// The error for a failure of the agent. The caller of this function knows whether the call may be repeated.
fn of_agent(failure: &AgentFailure) -> Problem {
    let (code, reason, retry) = match failure.cause {
        AgentCause::Auth => (Code::FailedPrecondition, ErrorReason::ProviderAuth, None),
        AgentCause::Quota => (Code::ResourceExhausted, ErrorReason::ProviderQuota, None),
        AgentCause::RateLimit => (Code::ResourceExhausted, ErrorReason::ProviderRateLimit, Some(RETRY_LATER)),
        AgentCause::ContextLimit => (Code::ResourceExhausted, ErrorReason::ContextLimit, None),
        AgentCause::ContentFiltered => (Code::FailedPrecondition, ErrorReason::ContentFiltered, None),
        AgentCause::Unavailable => (Code::Unavailable, ErrorReason::ProviderUnavailable, Some(RETRY_LATER)),
        AgentCause::Storage => return storage(&failure.message),
        AgentCause::Other => (Code::Internal, ErrorReason::AgentError, None),
    };
    let problem = Problem::new(code, reason, format!("the agent failed: {}", failure.message));
    let problem = problem.metadata("error_type", &failure.error_type);
    let problem = match failure.status_code {
        Some(status) => problem.metadata("http_status", status),
        None => problem,
    };
    match retry {
        Some(delay) => problem.retry_after(delay),
        None => problem,
    }
}

/// The error for a CLI whose disk is full.
fn storage(words: &str) -> Problem {
    let message =
        format!("the Copilot CLI cannot write to its disk, and the operator has to make room: {words}");
    Problem::new(Code::ResourceExhausted, ErrorReason::BackendStorage, message)
}

fn of_backend(error: &backend::Error) -> Problem {
    let unavailable = || {
        let problem = Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, error);
        if error.may_have_been_delivered() {
            problem.retry_after(RETRY_SOON)
        } else {
            problem.repeatable(RETRY_SOON)
        }
    };
    match error {
        backend::Error::Unavailable { .. } | backend::Error::Lost { .. } | backend::Error::Timeout { .. } => {
            unavailable()
        }
        backend::Error::Incompatible { .. } => {
            Problem::new(Code::FailedPrecondition, ErrorReason::CliVersion, error)
        }
        backend::Error::Overloaded => {
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, error).repeatable(RETRY_SOON)
        }
        backend::Error::TooLarge { .. } => {
            Problem::new(Code::ResourceExhausted, ErrorReason::MessageTooLarge, error)
        }
        backend::Error::Protocol { .. } => Problem::new(Code::Internal, ErrorReason::CliProtocol, error),
        backend::Error::Rejected(rejection) => match rejection {
            Rejection::InvalidParameter(reason) => {
                let violation = Violation { field: field_of(reason).into(), description: reason.clone() };
                bad_request(format!("the Copilot CLI refused the request: {reason}"), &[violation])
            }
            Rejection::Unauthenticated(reason) => {
                let message = format!("GitHub refused the session's token, or there is none: {reason}");
                Problem::new(Code::FailedPrecondition, ErrorReason::ProviderAuth, message)
            }
            Rejection::Agent(failure) => of_agent(failure),
            Rejection::Storage(words) => storage(words),
            Rejection::MethodMissing(method) => {
                Problem::new(Code::Unimplemented, ErrorReason::CliMethodMissing, rejection)
                    .metadata("method", method)
            }
            // The operator has to act; the log says more.
            Rejection::Connection(_) => unavailable(),
            Rejection::InUse => Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, rejection)
                .repeatable(RETRY_SOON),
            // Another client of the CLI cancelled it.
            Rejection::CompactionCancelled => {
                Problem::new(Code::Aborted, ErrorReason::TurnAborted, rejection)
            }
            Rejection::NoSuchEvent => {
                let violation = Violation { field: "event_id".into(), description: rejection.to_string() };
                bad_request(rejection.to_string(), &[violation])
            }
            Rejection::SessionNotFound
            | Rejection::NothingToCompact
            | Rejection::ToolsTaken
            | Rejection::Internal(_) => Problem::new(
                Code::Internal,
                ErrorReason::CliProtocol,
                format!("the Copilot CLI failed: {rejection}"),
            ),
        },
    }
}

/// The status that replaces one of tonic's own, with details. `None`: it is not one of those.
pub(super) fn of_transport(status: &Status, max_message_size: usize) -> Option<Status> {
    let message = status.message();
    let problem = match status.code() {
        _ if !status.details().is_empty() => return None,
        // tonic gives no message for a method that it does not know.
        Code::Unimplemented if !message.is_empty() => {
            let message = format!("the request cannot be read: {message}");
            Problem::new(Code::Unimplemented, ErrorReason::MalformedRequest, message)
        }
        Code::Unimplemented => {
            let message =
                "there is no such method: the caller's definitions are newer than this server, or of another";
            Problem::new(Code::Unimplemented, ErrorReason::MethodUnknown, message)
        }
        Code::OutOfRange | Code::ResourceExhausted
            if message.contains("length too large") || message.contains("decompressing: size limit") =>
        {
            let message =
                format!("the request is larger than the {max_message_size} bytes of max_message_size");
            Problem::new(Code::ResourceExhausted, ErrorReason::MessageTooLarge, message)
        }
        Code::Internal | Code::InvalidArgument => {
            let message = format!("the request cannot be read: {message}");
            Problem::new(Code::InvalidArgument, ErrorReason::MalformedRequest, message)
        }
        _ => return None,
    };
    Some(problem.into_status())
}

#[cfg(test)]
mod tests;
