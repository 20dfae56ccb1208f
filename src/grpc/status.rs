//! Errors as their callers see them: a canonical code, a message that says what to do, and details that a program can
//! act on. `proto/copilot/v1/error_reason.proto` is the list of reasons.
//!
//! One exhaustive match for each error type, so that a new error does not compile until somebody has chosen its code.

use std::{collections::HashMap, time::Duration};

use prost::{Message, Name};
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb as rpc;

use super::{
    convert::{self, MAX_NAME},
    pb,
    pb::ErrorReason,
};
use crate::{
    backend,
    copilot::{AgentFailure, Rejection, failure::AgentCause},
    session::{Error, SessionId, TurnCause, TurnError},
};

/// `google.rpc.ErrorInfo.domain` of all our errors.
pub const DOMAIN: &str = "copilot-grpc";

/// The longest message, in bytes. A status travels in HTTP headers, of which many clients take 8 KiB in all, and a message
/// that is not ASCII takes three times its length.
const MAX_MESSAGE: usize = 350;

/// How many wrong fields are told at once.
const MAX_VIOLATIONS: usize = 12;

/// The longest description of a wrong field, in bytes.
const MAX_DESCRIPTION: usize = 160;

/// When to try again where something has to recover.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// When to try again after the agent's own retries, which last a minute, were not enough.
const RETRY_LATER: Duration = Duration::from_secs(60);

/// A field of a request that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) description: String,
}

/// An error on its way to becoming a status.
struct Problem {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    details: Vec<Any>,
}

impl Problem {
    fn new(code: Code, reason: ErrorReason, message: impl ToString) -> Self {
        Self { code, reason, message: message.to_string(), metadata: HashMap::new(), details: Vec::new() }
    }

    fn metadata(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), cut(&value.to_string(), MAX_NAME).into());
        self
    }

    fn session(self, id: &SessionId) -> Self {
        let message = self.message.clone();
        let resource = rpc::ResourceInfo {
            resource_type: "copilot.v1.Session".into(),
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

    fn detail(mut self, name: &str, message: &impl Message) -> Self {
        self.details
            .push(Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() });
        self
    }

    fn into_status(self) -> Status {
        // Not the message: it may hold what a provider says about a prompt.
        tracing::info!(code = ?self.code, reason = self.reason.as_str_name(), info = ?self.metadata, "a call failed");
        let message = cut(&self.message, MAX_MESSAGE);
        let info = rpc::ErrorInfo {
            reason: self.reason.as_str_name().trim_start_matches("ERROR_REASON_").into(),
            domain: DOMAIN.into(),
            metadata: self.metadata,
        };
        let info =
            Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() };
        let details = [info].into_iter().chain(self.details).collect();
        let status = rpc::Status { code: self.code as i32, message: message.into(), details };
        Status::with_details(self.code, message, status.encode_to_vec().into())
    }
}

/// The beginning of `text`, at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Wrong fields.
pub(super) fn invalid(violations: Vec<Violation>) -> Status {
    let message: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    bad_request(message.join("; "), &violations).into_status()
}

fn bad_request(message: String, violations: &[Violation]) -> Problem {
    let field_violations =
        violations.iter().take(MAX_VIOLATIONS).map(|violation| rpc::bad_request::FieldViolation {
            field: cut(&violation.field, MAX_NAME).into(),
            description: cut(&violation.description, MAX_DESCRIPTION).into(),
            ..Default::default()
        });
    let bad_request = rpc::BadRequest { field_violations: field_violations.collect() };
    Problem::new(Code::InvalidArgument, ErrorReason::InvalidField, message)
        .detail("google.rpc.BadRequest", &bad_request)
}

/// The field that the CLI complains of, as far as its words show.
fn field_of(complaint: &str) -> &'static str {
    const WORDS: &[(&str, &str)] =
        &[("sessionId", "session_id"), ("irectory", "working_directory"), ("provider", "provider")];
    WORDS.iter().find(|(word, _)| complaint.contains(word)).map_or("", |(_, field)| field)
}

/// The reader of a stream was too slow.
pub(super) fn lagged() -> Status {
    let message = "the stream was read too slowly, and too much is waiting; the turn itself goes on";
    Problem::new(Code::ResourceExhausted, ErrorReason::StreamLagged, message).into_status()
}

/// What the session room says.
pub(super) fn of(error: &Error) -> Status {
    match error {
        Error::NotFound(id) => not_found(error, id),
        Error::Exists(id) => Problem::new(Code::AlreadyExists, ErrorReason::SessionExists, error).session(id),
        Error::NotLoaded(id) => {
            let advice = format!("{error}: create a new session, or delete this one");
            Problem::new(Code::FailedPrecondition, ErrorReason::SessionNotLoaded, advice).session(id)
        }
        Error::QueueFull { session, .. } => {
            let advice = format!("{error}: wait for some of them, or use more sessions");
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, advice)
                .session(session)
                .retry_after(RETRY_SOON)
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

fn not_found(message: impl ToString, id: &SessionId) -> Problem {
    Problem::new(Code::NotFound, ErrorReason::SessionNotFound, message).session(id)
}

fn draining(message: impl ToString) -> Problem {
    Problem::new(Code::Unavailable, ErrorReason::Draining, message).retry_after(RETRY_SOON)
}

/// What came of a turn that failed.
pub(super) fn of_turn(error: &TurnError) -> Status {
    let message = &error.cause;
    let problem = match &error.cause {
        TurnCause::Aborted | TurnCause::Deleted => {
            Problem::new(Code::Aborted, ErrorReason::TurnAborted, message)
        }
        // The caller has gone; this is for the log of whatever stands between us.
        TurnCause::Cancelled => Problem::new(Code::Cancelled, ErrorReason::TurnAborted, message),
        TurnCause::Timeout(_) => Problem::new(Code::DeadlineExceeded, ErrorReason::TurnTimeout, message),
        TurnCause::Inactive(_) => Problem::new(Code::DeadlineExceeded, ErrorReason::TurnInactive, message),
        TurnCause::Interrupted(_) => {
            Problem::new(Code::Unavailable, ErrorReason::TurnInterrupted, message).retry_after(RETRY_SOON)
        }
        TurnCause::Agent(failure) => of_agent(failure),
        TurnCause::Draining => draining(message),
        TurnCause::NotFound(id) => not_found(message, id),
        // Once the prompt may have been sent, a lost CLI is not the same as one that was not there.
        TurnCause::Backend(
            cause @ (backend::Error::Lost { written: true, .. } | backend::Error::Timeout { .. }),
        ) => Problem::new(Code::Unavailable, ErrorReason::TurnInterrupted, cause).retry_after(RETRY_SOON),
        TurnCause::Backend(cause) => of_backend(cause),
    };
    problem.detail(&pb::TurnFailure::full_name(), &convert::turn_failure(error)).into_status()
}

fn of_agent(failure: &AgentFailure) -> Problem {
    let (code, reason, retry) = match failure.cause {
        AgentCause::Auth => (Code::FailedPrecondition, ErrorReason::ProviderAuth, None),
        AgentCause::Quota => (Code::ResourceExhausted, ErrorReason::ProviderQuota, None),
        AgentCause::RateLimit => (Code::ResourceExhausted, ErrorReason::ProviderRateLimit, Some(RETRY_LATER)),
        AgentCause::ContextLimit => (Code::ResourceExhausted, ErrorReason::ContextLimit, None),
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

fn of_backend(error: &backend::Error) -> Problem {
    let unavailable =
        || Problem::new(Code::Unavailable, ErrorReason::BackendUnavailable, error).retry_after(RETRY_SOON);
    match error {
        backend::Error::Unavailable { .. } | backend::Error::Lost { .. } | backend::Error::Timeout { .. } => {
            unavailable()
        }
        backend::Error::Incompatible { .. } => {
            Problem::new(Code::FailedPrecondition, ErrorReason::CliVersion, error)
        }
        backend::Error::Overloaded => {
            Problem::new(Code::ResourceExhausted, ErrorReason::Overloaded, error).retry_after(RETRY_SOON)
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
            Rejection::MethodMissing => {
                Problem::new(Code::Unimplemented, ErrorReason::CliMethodMissing, rejection)
            }
            // The operator's to mend; the log says more.
            Rejection::Connection(_) => unavailable(),
            Rejection::SessionNotFound | Rejection::Internal(_) => Problem::new(
                Code::Internal,
                ErrorReason::CliProtocol,
                format!("the Copilot CLI failed: {rejection}"),
            ),
        },
    }
}

/// What tonic itself says about a call to the service, made as rich as the rest. `None`: it is not one of those.
pub(super) fn of_transport(status: &Status, max_message_size: usize) -> Option<Status> {
    let message = status.message();
    let problem = match status.code() {
        _ if !status.details().is_empty() => return None,
        // tonic says nothing about a method that it does not know.
        Code::Unimplemented if !message.is_empty() => {
            let message = format!("the request cannot be read: {message}");
            Problem::new(Code::Unimplemented, ErrorReason::MalformedRequest, message)
        }
        Code::Unimplemented => {
            let message =
                "there is no such method: the caller's definitions are newer than this server, or of another";
            Problem::new(Code::Unimplemented, ErrorReason::MethodUnknown, message)
        }
        Code::OutOfRange | Code::ResourceExhausted if message.contains("length too large") => {
            let message =
                format!("the request is larger than the {max_message_size} bytes of max_message_size");
            Problem::new(Code::ResourceExhausted, ErrorReason::MessageTooLarge, message)
        }
        Code::Internal | Code::InvalidArgument => {
            let message = format!("the request cannot be read: {message}");
            Problem::new(Code::InvalidArgument, ErrorReason::MalformedRequest, message)
        }
        Code::Cancelled | Code::DeadlineExceeded => {
            Problem::new(Code::DeadlineExceeded, ErrorReason::TurnTimeout, "the call's deadline has passed")
        }
        _ => return None,
    };
    Some(problem.into_status())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use crate::{
        backend::Error as Cli,
        jsonrpc::Cause,
        session::{Delivery, Remains, ToolCall},
    };

    use super::*;

    const BAD_REQUEST: &str = "google.rpc.BadRequest";
    const ERROR_INFO: &str = "google.rpc.ErrorInfo";
    const QUOTA_FAILURE: &str = "google.rpc.QuotaFailure";
    const RESOURCE_INFO: &str = "google.rpc.ResourceInfo";
    const RETRY_INFO: &str = "google.rpc.RetryInfo";
    const TURN_FAILURE: &str = "copilot.v1.TurnFailure";

    /// What many clients take of headers, as HTTP/2 counts them.
    const MAX_HEADERS: usize = 8 * 1024;

    fn details(status: &Status) -> rpc::Status {
        rpc::Status::decode(status.details()).unwrap()
    }

    fn detail<T: Message + Default>(status: &Status, name: &str) -> T {
        let url = format!("type.googleapis.com/{name}");
        let details = details(status).details;
        let found = details.iter().find(|any| any.type_url == url);
        T::decode(&*found.unwrap_or_else(|| panic!("no {name} in {details:?}")).value).unwrap()
    }

    fn id() -> SessionId {
        SessionId::parse("s-1").unwrap()
    }

    fn agent(cause: AgentCause) -> TurnCause {
        TurnCause::Agent(AgentFailure { cause, ..AgentFailure::other("it said no") })
    }

    fn failed(cause: TurnCause) -> TurnError {
        TurnError { cause, delivery: Delivery::Delivered, remains: Remains::default() }
    }

    fn lost(written: bool) -> Cli {
        Cli::Lost { cause: Arc::new(Cause::Eof), written }
    }

    /// An error, and what it has to look like.
    struct Row {
        status: Status,
        code: Code,
        reason: ErrorReason,
        details: &'static [&'static str],
    }

    /// Every error that there is.
    fn rows() -> Vec<Row> {
        use Code::*;
        use ErrorReason::*;
        type Wanted = (Code, ErrorReason, &'static [&'static str]);
        fn row(status: Status, (code, reason, details): Wanted) -> Row {
            Row { status, code, reason, details }
        }
        let error = |error: Error, wanted: Wanted| row(of(&error), wanted);
        let cli = |error: Cli, wanted: Wanted| row(of(&Error::Backend(error)), wanted);
        let turn = |cause: TurnCause, wanted: Wanted| row(of(&Error::Turn(Arc::new(failed(cause)))), wanted);
        let rejected = |rejection: Rejection, wanted: Wanted| cli(Cli::Rejected(rejection), wanted);
        let tonic = |code: Code, message: &str, wanted: Wanted| {
            row(of_transport(&Status::new(code, message), 4).unwrap(), wanted)
        };
        let second = Duration::from_secs(1);
        let method = "session.x";
        let problem = || "boom".to_owned();
        let violation = Violation { field: "prompt".into(), description: "say something".into() };
        vec![
            row(invalid(vec![violation]), (InvalidArgument, InvalidField, &[BAD_REQUEST])),
            row(lagged(), (ResourceExhausted, StreamLagged, &[])),
            // session::Error
            error(Error::NotFound(id()), (NotFound, SessionNotFound, &[RESOURCE_INFO])),
            error(Error::Exists(id()), (AlreadyExists, SessionExists, &[RESOURCE_INFO])),
            error(Error::NotLoaded(id()), (FailedPrecondition, SessionNotLoaded, &[RESOURCE_INFO])),
            error(
                Error::QueueFull { session: id(), waiting: 8 },
                (ResourceExhausted, Overloaded, &[RESOURCE_INFO, RETRY_INFO]),
            ),
            error(Error::TooManySessions { limit: 8 }, (ResourceExhausted, QuotaExceeded, &[QUOTA_FAILURE])),
            error(Error::Draining, (Unavailable, Draining, &[RETRY_INFO])),
            // backend::Error
            cli(Cli::Unavailable { problem: problem() }, (Unavailable, BackendUnavailable, &[RETRY_INFO])),
            cli(Cli::Incompatible { problem: problem() }, (FailedPrecondition, CliVersion, &[])),
            cli(lost(false), (Unavailable, BackendUnavailable, &[RETRY_INFO])),
            cli(lost(true), (Unavailable, BackendUnavailable, &[RETRY_INFO])),
            cli(Cli::Timeout { method, after: second }, (Unavailable, BackendUnavailable, &[RETRY_INFO])),
            cli(Cli::TooLarge { method, size: 9 }, (ResourceExhausted, MessageTooLarge, &[])),
            cli(Cli::Protocol { method, problem: problem() }, (Internal, CliProtocol, &[])),
            cli(Cli::Overloaded, (ResourceExhausted, Overloaded, &[RETRY_INFO])),
            // Rejection
            rejected(Rejection::SessionNotFound, (Internal, CliProtocol, &[])),
            rejected(Rejection::InvalidParameter(problem()), (InvalidArgument, InvalidField, &[BAD_REQUEST])),
            rejected(Rejection::Unauthenticated(problem()), (FailedPrecondition, ProviderAuth, &[])),
            rejected(Rejection::MethodMissing, (Unimplemented, CliMethodMissing, &[])),
            rejected(Rejection::Connection(problem()), (Unavailable, BackendUnavailable, &[RETRY_INFO])),
            rejected(Rejection::Internal(problem()), (Internal, CliProtocol, &[])),
            // TurnCause
            turn(TurnCause::Aborted, (Aborted, TurnAborted, &[TURN_FAILURE])),
            turn(TurnCause::Deleted, (Aborted, TurnAborted, &[TURN_FAILURE])),
            turn(TurnCause::Cancelled, (Cancelled, TurnAborted, &[TURN_FAILURE])),
            turn(TurnCause::Timeout(second), (DeadlineExceeded, TurnTimeout, &[TURN_FAILURE])),
            turn(TurnCause::Inactive(second), (DeadlineExceeded, TurnInactive, &[TURN_FAILURE])),
            turn(
                TurnCause::Interrupted(problem()),
                (Unavailable, TurnInterrupted, &[RETRY_INFO, TURN_FAILURE]),
            ),
            turn(TurnCause::Draining, (Unavailable, Draining, &[RETRY_INFO, TURN_FAILURE])),
            turn(TurnCause::NotFound(id()), (NotFound, SessionNotFound, &[RESOURCE_INFO, TURN_FAILURE])),
            turn(TurnCause::Backend(lost(true)), (Unavailable, TurnInterrupted, &[RETRY_INFO, TURN_FAILURE])),
            turn(
                TurnCause::Backend(lost(false)),
                (Unavailable, BackendUnavailable, &[RETRY_INFO, TURN_FAILURE]),
            ),
            turn(
                TurnCause::Backend(Cli::Rejected(Rejection::MethodMissing)),
                (Unimplemented, CliMethodMissing, &[TURN_FAILURE]),
            ),
            turn(
                TurnCause::Backend(Cli::TooLarge { method, size: 9 }),
                (ResourceExhausted, MessageTooLarge, &[TURN_FAILURE]),
            ),
            // AgentCause
            turn(agent(AgentCause::Auth), (FailedPrecondition, ProviderAuth, &[TURN_FAILURE])),
            turn(agent(AgentCause::Quota), (ResourceExhausted, ProviderQuota, &[TURN_FAILURE])),
            turn(
                agent(AgentCause::RateLimit),
                (ResourceExhausted, ProviderRateLimit, &[RETRY_INFO, TURN_FAILURE]),
            ),
            turn(agent(AgentCause::ContextLimit), (ResourceExhausted, ContextLimit, &[TURN_FAILURE])),
            turn(agent(AgentCause::Other), (Internal, AgentError, &[TURN_FAILURE])),
            // tonic's own
            tonic(Code::Unimplemented, "", (Unimplemented, MethodUnknown, &[])),
            tonic(
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                (ResourceExhausted, MessageTooLarge, &[]),
            ),
            tonic(
                Code::Internal,
                "failed to decode Protobuf message: invalid wire type",
                (InvalidArgument, MalformedRequest, &[]),
            ),
            tonic(Code::InvalidArgument, "bad timeout", (InvalidArgument, MalformedRequest, &[])),
            tonic(Code::Cancelled, "Timeout expired", (DeadlineExceeded, TurnTimeout, &[])),
            tonic(Code::DeadlineExceeded, "Timeout expired", (DeadlineExceeded, TurnTimeout, &[])),
        ]
    }

    #[test]
    fn every_error_has_the_code_the_reason_and_the_details_that_the_contract_promises() {
        for Row { status, code, reason, details: expected } in rows() {
            let decoded = details(&status);
            assert_eq!((status.code(), decoded.code), (code, code as i32), "{status:?}");
            assert!(!status.message().is_empty(), "{reason:?}");
            assert_eq!(decoded.message, status.message());
            let info: rpc::ErrorInfo = detail(&status, ERROR_INFO);
            assert_eq!(format!("ERROR_REASON_{}", info.reason), reason.as_str_name(), "{status:?}");
            assert_eq!(info.domain, DOMAIN);
            let names = decoded.details.iter().map(|any| any.type_url.rsplit('/').next().unwrap());
            let names: Vec<_> = names.collect();
            assert_eq!(names, [&[ERROR_INFO], expected].concat(), "{status:?}");
        }
    }

    #[test]
    fn every_reason_that_the_contract_publishes_is_given_by_some_error() {
        let published: HashSet<_> = (1..1000).filter_map(|n| ErrorReason::try_from(n).ok()).collect();
        let given: HashSet<_> = rows().into_iter().map(|row| row.reason).collect();
        let never: Vec<_> = published.difference(&given).collect();
        assert!(never.is_empty(), "{never:?}");
        assert!(!given.contains(&ErrorReason::Unspecified));
    }

    #[test]
    fn wrong_fields_are_all_named() {
        let violation = |field: &str, description: &str| Violation {
            field: field.into(),
            description: description.into(),
        };
        let status = invalid(vec![violation("prompt", "say something"), violation("timeout", "too short")]);
        assert_eq!(status.message(), "prompt: say something; timeout: too short");
        let bad: rpc::BadRequest = detail(&status, BAD_REQUEST);
        let fields: Vec<_> =
            bad.field_violations.iter().map(|v| (v.field.as_str(), v.description.as_str())).collect();
        assert_eq!(fields, [("prompt", "say something"), ("timeout", "too short")]);
    }

    #[test]
    fn the_resource_is_named() {
        let missing_in_turn = TurnCause::NotFound(id());
        let errors = [
            of(&Error::NotFound(id())),
            of(&Error::Exists(id())),
            of(&Error::NotLoaded(id())),
            of(&Error::QueueFull { session: id(), waiting: 1 }),
            of_turn(&failed(missing_in_turn)),
        ];
        for status in errors {
            let resource: rpc::ResourceInfo = detail(&status, RESOURCE_INFO);
            assert_eq!((&*resource.resource_type, &*resource.resource_name), ("copilot.v1.Session", "s-1"));
            assert!(status.message().contains("s-1"), "{status:?}");
        }
    }

    #[test]
    fn the_time_to_retry_is_told() {
        let check = |status: Status, seconds| {
            let retry: rpc::RetryInfo = detail(&status, RETRY_INFO);
            assert_eq!(retry.retry_delay, Some(prost_types::Duration { seconds, nanos: 0 }), "{status:?}");
        };
        check(of(&Error::QueueFull { session: id(), waiting: 1 }), 1);
        check(of(&Error::Backend(Cli::Overloaded)), 1);
        check(of(&Error::Backend(Cli::Unavailable { problem: String::new() })), 1);
        check(of_turn(&failed(TurnCause::Interrupted(String::new()))), 1);
        check(of_turn(&failed(agent(AgentCause::RateLimit))), 60);
    }

    #[test]
    fn the_quota_is_named() {
        let status = of(&Error::TooManySessions { limit: 1000 });
        let quota: rpc::QuotaFailure = detail(&status, QUOTA_FAILURE);
        let [violation] = &quota.violations[..] else { panic!("{quota:?}") };
        assert!(violation.description.contains("1000") && violation.description.contains("max_sessions"));
    }

    #[test]
    fn what_the_agent_and_its_provider_said_is_passed_on() {
        let check = |status_code, error_type: &str, expected: &[(&str, &str)]| {
            let failure = AgentFailure {
                error_type: error_type.into(),
                status_code,
                ..AgentFailure::other("slow down")
            };
            let status = of_turn(&failed(TurnCause::Agent(failure)));
            assert!(status.message().contains("slow down"), "{status:?}");
            let info: rpc::ErrorInfo = detail(&status, ERROR_INFO);
            let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            assert_eq!(info.metadata, expected.collect());
        };
        check(Some(429), "rate_limit", &[("error_type", "rate_limit"), ("http_status", "429")]);
        check(None, "query", &[("error_type", "query")]);
    }

    #[test]
    fn a_failed_turn_says_what_there_was_of_it() {
        let call = ToolCall {
            id: "c".into(),
            name: "bash".into(),
            arguments: serde_json::json!({"a": 1}),
            success: None,
        };
        let remains = Remains {
            message_id: Some("m".into()),
            partial: "Hel".into(),
            last_event: Some("tool.execution_start".into()),
            running_tools: vec![call],
            ..Remains::default()
        };
        let check = |delivery, expected: pb::DeliveryState| {
            let error = TurnError { cause: TurnCause::Aborted, delivery, remains: remains.clone() };
            let failure: pb::TurnFailure = detail(&of_turn(&error), TURN_FAILURE);
            let tool = pb::ToolCall { tool_call_id: "c".into(), name: "bash".into(), ..Default::default() };
            assert_eq!(failure.delivery(), expected);
            assert_eq!((&*failure.message_id, &*failure.partial_content), ("m", "Hel"));
            assert_eq!(failure.last_event_type, "tool.execution_start");
            assert_eq!(failure.running_tools, [tool]);
            assert!(!failure.partial_content_truncated);
        };
        check(Delivery::NotDelivered, pb::DeliveryState::NotDelivered);
        check(Delivery::Delivered, pb::DeliveryState::Delivered);
        check(Delivery::Unknown, pb::DeliveryState::Unknown);
    }

    #[test]
    fn what_is_already_rich_or_not_tonics_is_left_alone() {
        assert!(of_transport(&lagged(), 4).is_none());
        for code in [Code::Ok, Code::NotFound, Code::Unavailable, Code::Unknown, Code::ResourceExhausted] {
            assert!(of_transport(&Status::new(code, "x"), 4).is_none(), "{code:?}");
        }
        let too_large =
            Status::new(Code::OutOfRange, "Error, decoded message length too large: found 5 bytes");
        assert!(of_transport(&too_large, 4096).unwrap().message().contains("4096"));
    }

    #[test]

    fn an_unknown_compression_is_not_an_unknown_method() {
        let tonic = Status::unimplemented("Content is compressed with `zstd` which isn't supported");
        let reason =
            of_transport(&tonic, 4).map(|status| detail::<rpc::ErrorInfo>(&status, ERROR_INFO).reason);
        assert_ne!(reason.as_deref(), Some("METHOD_UNKNOWN"));
    }

    #[test]

    fn a_parameter_that_the_cli_refuses_is_a_bad_request_too() {
        let reason = "Directory does not exist: /x";
        let status = of(&Error::Backend(Cli::Rejected(Rejection::InvalidParameter(reason.into()))));
        let bad: rpc::BadRequest = detail(&status, BAD_REQUEST);
        assert!(bad.field_violations[0].description.contains(reason));
    }

    #[test]

    fn a_prompt_that_may_have_been_delivered_is_not_said_to_have_done_nothing() {
        let cause = Cli::Timeout { method: "session.send", after: Duration::from_secs(60) };
        assert!(cause.may_have_been_delivered());
        let error = TurnError { delivery: Delivery::Unknown, ..failed(TurnCause::Backend(cause)) };
        let info: rpc::ErrorInfo = detail(&of_turn(&error), ERROR_INFO);
        assert_eq!(info.reason, "TURN_INTERRUPTED");
    }

    /// The size of the headers that carry a status and nothing else, as HTTP/2 counts them.
    fn header_size(status: Status) -> usize {
        let field = |name: &str, value: &[u8]| name.len() + value.len() + 32;
        let response = status.into_http::<()>();
        let ours: usize =
            response.headers().iter().map(|(name, value)| field(name.as_str(), value.as_bytes())).sum();
        ours + field(":status", b"200") + field("date", b"Mon, 23 Nov 2026 14:28:56 GMT")
    }

    /// As much as there can be of a turn. Ids are the CLI's, and of a usual length.
    fn much() -> Remains {
        let call = ToolCall {
            id: "toolu_".repeat(20),
            name: "名".repeat(100),
            arguments: serde_json::json!({"command": "x".repeat(10_000)}),
            success: None,
        };
        Remains {
            message_id: Some("01234567-89ab-cdef-0123-456789abcdef".into()),
            partial: "é漢🙂".repeat(10_000),
            last_event: Some("session.compaction_complete".into()),
            usage: crate::session::Usage {
                input_tokens: 1_000_000_000,
                output_tokens: 1_000_000_000,
                cache_read_tokens: 1_000_000_000,
                cache_write_tokens: 1_000_000_000,
                reasoning_tokens: 1_000_000_000,
                cost: 1234.5,
                model_calls: 100_000,
                model_milliseconds: 1_234_567.8,
            },
            running_tools: vec![call; 20],
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let check = |text: &str, limit, expected: &str| assert_eq!(cut(text, limit), expected);
        check("héé", 10, "héé");
        check("héé", 4, "hé");
        check("héé", 3, "hé");
        check("é", 1, "");
        let failure = AgentFailure::other("é".repeat(1000));
        let status = of_turn(&TurnError { remains: much(), ..failed(TurnCause::Agent(failure)) });
        assert!(status.message().len() <= MAX_MESSAGE && status.message().ends_with('é'));
        let failure: pb::TurnFailure = detail(&status, TURN_FAILURE);
        assert!(failure.partial_content_truncated);
        assert!((3 * 1024 - 4..=3 * 1024).contains(&failure.partial_content.len()));
        assert_eq!(failure.running_tools.len(), 8);
    }

    #[test]

    fn the_worst_failure_of_a_turn_fits_into_the_headers_that_clients_take() {
        let long = |character: &str| character.repeat(2_000);
        let agent_says = |message: String| {
            TurnCause::Agent(AgentFailure {
                cause: AgentCause::RateLimit,
                message,
                error_type: "authorization".into(),
                status_code: Some(429),
            })
        };
        let longest_id = SessionId::parse(&"x".repeat(crate::session::MAX_ID)).unwrap();
        let causes = [
            ("ASCII", agent_says(long("x"))),
            ("spaces, which become three bytes", agent_says(long(" "))),
            ("not ASCII", agent_says(long("é"))),
            ("interrupted", TurnCause::Interrupted(long("漢"))),
            ("rejected", TurnCause::Backend(Cli::Rejected(Rejection::Internal(long("漢"))))),
            ("not found", TurnCause::NotFound(longest_id)),
        ];
        let sizes = causes.map(|(name, cause)| {
            (name, header_size(of_turn(&TurnError { remains: much(), ..failed(cause) })))
        });
        assert!(sizes.iter().all(|(_, size)| *size <= MAX_HEADERS), "{sizes:?}");
    }

    #[test]

    fn any_number_of_wrong_fields_fits_into_the_headers_that_clients_take() {
        let violations = (0..1000).map(|n| Violation {
            field: format!("event_types[{n}]"),
            description: "write the name of an event".into(),
        });
        let size = header_size(invalid(violations.collect()));
        assert!(size <= MAX_HEADERS, "{size}");
    }

    #[test]

    fn long_words_of_the_cli_do_not_break_the_headers() {
        let remains = Remains { last_event: Some("x".repeat(10_000)), ..Remains::default() };
        let size = header_size(of_turn(&TurnError { remains, ..failed(TurnCause::Aborted) }));
        assert!(size <= MAX_HEADERS, "{size}");
        let failure = AgentFailure { error_type: "x".repeat(10_000), ..AgentFailure::other("no") };
        let size = header_size(of_turn(&failed(TurnCause::Agent(failure))));
        assert!(size <= MAX_HEADERS, "{size}");
    }
}
