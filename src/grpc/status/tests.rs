//! Each error, and the status that it becomes.

use std::{collections::HashSet, sync::Arc};

use super::*;
use crate::{
    backend::{Error as Cli, admission::Full},
    copilot::RequestKind,
    jsonrpc::Cause,
    session::{Cursor, Missing, Remains, ToolCall, Unfit},
};

const BAD_REQUEST: &str = "google.rpc.BadRequest";
const ERROR_INFO: &str = "google.rpc.ErrorInfo";
const QUOTA_FAILURE: &str = "google.rpc.QuotaFailure";
const RESOURCE_INFO: &str = "google.rpc.ResourceInfo";
const RETRY_INFO: &str = "google.rpc.RetryInfo";
const TURN_FAILURE: &str = "copilot_grpc.v1.TurnFailure";

/// The size of headers that many clients take, as HTTP/2 counts it.
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

fn overloaded() -> Error {
    Error::Overloaded(Full { running: 10, waiting: 1000 })
}

fn lost(written: bool) -> Cli {
    Cli::Lost { cause: Arc::new(Cause::Eof), written }
}

/// An error and the status that is expected of it.
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
        row(
            unauthenticated(&Refused::NoCredentials),
            (Code::Unauthenticated, ErrorReason::Unauthenticated, &[]),
        ),
        row(
            unauthenticated(&Refused::TooManyFailures { retry_after: second }),
            (Code::Unauthenticated, ErrorReason::Unauthenticated, &[RETRY_INFO]),
        ),
        row(
            unauthenticated(&Refused::Unavailable),
            (Unavailable, ErrorReason::Unauthenticated, &[RETRY_INFO]),
        ),
        row(too_many_calls(), (ResourceExhausted, Overloaded, &[RETRY_INFO])),
        row(lagged(None), (ResourceExhausted, StreamLagged, &[])),
        // session::Error
        error(Error::NotFound(id()), (NotFound, SessionNotFound, &[RESOURCE_INFO])),
        error(
            Error::Lost { session: id(), cli: "cli-0".into() },
            (NotFound, SessionNotFound, &[RESOURCE_INFO]),
        ),
        error(Error::Unreadable(id()), (Internal, StoreCorrupt, &[RESOURCE_INFO])),
        error(Error::Store(away()), (Unavailable, StoreUnavailable, &[RETRY_INFO])),
        error(Error::Store(store::Error::Gone), (Unavailable, StoreUnavailable, &[RETRY_INFO])),
        error(Error::Store(store::Error::Corrupt { problem: problem() }), (Internal, StoreCorrupt, &[])),
        error(Error::Exists(id()), (AlreadyExists, SessionExists, &[RESOURCE_INFO])),
        error(not_loaded(), (FailedPrecondition, SessionNotLoaded, &[RESOURCE_INFO])),
        error(gone_profile(), (FailedPrecondition, SessionNotLoaded, &[RESOURCE_INFO])),
        error(
            Error::Denied(vec![Excess { field: "model".into(), allowed: "may be a, b".into() }]),
            (PermissionDenied, PolicyDenied, &[BAD_REQUEST]),
        ),
        error(Error::CursorExpired, (FailedPrecondition, CursorExpired, &[])),
        error(Error::Moved(id()), (Unavailable, BackendUnavailable, &[RESOURCE_INFO, RETRY_INFO])),
        error(Error::NoSuchTurn(id()), (NotFound, TurnNotFound, &[RESOURCE_INFO])),
        error(no_such_ask(), (NotFound, AskNotFound, &[RESOURCE_INFO])),
        error(settled(Settlement::Answered), (FailedPrecondition, AskSettled, &[])),
        error(settled(Settlement::TimedOut), (FailedPrecondition, AskSettled, &[])),
        error(settled(Settlement::Withdrawn), (FailedPrecondition, AskSettled, &[])),
        error(wrong_answer(), (InvalidArgument, InvalidField, &[BAD_REQUEST])),
        error(bad_answer(), (InvalidArgument, InvalidField, &[BAD_REQUEST])),
        error(Error::RequestIdTaken { field: "request_id" }, (InvalidArgument, InvalidField, &[BAD_REQUEST])),
        error(
            Error::Unfit(Unfit { field: "provider", problem: "this session has several" }),
            (InvalidArgument, InvalidField, &[BAD_REQUEST]),
        ),
        error(Error::TooMuchToStore, (InvalidArgument, InvalidField, &[BAD_REQUEST])),
        error(
            Error::QueueFull { session: id(), waiting: 8 },
            (ResourceExhausted, Overloaded, &[RESOURCE_INFO, RETRY_INFO]),
        ),
        error(overloaded(), (ResourceExhausted, Overloaded, &[RETRY_INFO])),
        error(
            Error::TooManyWatchers { session: id(), limit: 8 },
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
        rejected(Rejection::MethodMissing("session.x"), (Unimplemented, CliMethodMissing, &[])),
        rejected(
            Rejection::Agent(AgentFailure {
                cause: AgentCause::ContextLimit,
                ..AgentFailure::other("too long")
            }),
            (ResourceExhausted, ContextLimit, &[]),
        ),
        rejected(Rejection::Storage(problem()), (ResourceExhausted, BackendStorage, &[])),
        rejected(Rejection::Connection(problem()), (Unavailable, BackendUnavailable, &[RETRY_INFO])),
        rejected(Rejection::InUse, (Unavailable, BackendUnavailable, &[RETRY_INFO])),
        rejected(Rejection::Internal(problem()), (Internal, CliProtocol, &[])),
        // TurnCause
        turn(TurnCause::Aborted, (Aborted, TurnAborted, &[TURN_FAILURE])),
        turn(TurnCause::Deleted, (Aborted, TurnAborted, &[TURN_FAILURE])),
        turn(TurnCause::Cancelled, (Cancelled, TurnAborted, &[TURN_FAILURE])),
        turn(TurnCause::Timeout(second), (DeadlineExceeded, TurnTimeout, &[TURN_FAILURE])),
        turn(TurnCause::Inactive(second), (DeadlineExceeded, TurnInactive, &[TURN_FAILURE])),
        turn(TurnCause::Interrupted(problem()), (Unavailable, TurnInterrupted, &[RETRY_INFO, TURN_FAILURE])),
        turn(TurnCause::Mismatch(problem()), (Internal, ResponseMismatch, &[TURN_FAILURE])),
        turn(TurnCause::Draining, (Unavailable, Draining, &[RETRY_INFO, TURN_FAILURE])),
        turn(TurnCause::NotFound(id()), (NotFound, SessionNotFound, &[RESOURCE_INFO, TURN_FAILURE])),
        turn(TurnCause::Backend(lost(true)), (Unavailable, TurnInterrupted, &[RETRY_INFO, TURN_FAILURE])),
        turn(TurnCause::Backend(lost(false)), (Unavailable, BackendUnavailable, &[RETRY_INFO, TURN_FAILURE])),
        turn(
            TurnCause::Backend(Cli::Rejected(Rejection::MethodMissing("session.x"))),
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
        turn(agent(AgentCause::ContentFiltered), (FailedPrecondition, ContentFiltered, &[TURN_FAILURE])),
        turn(agent(AgentCause::Unavailable), (Unavailable, ProviderUnavailable, &[RETRY_INFO, TURN_FAILURE])),
        turn(agent(AgentCause::Storage), (ResourceExhausted, BackendStorage, &[TURN_FAILURE])),
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
        row(timed_out(Duration::from_secs(1)), (DeadlineExceeded, TurnTimeout, &[])),
        row(
            turn_timed_out(Duration::from_secs(1), Delivery::Unknown),
            (DeadlineExceeded, TurnTimeout, &[TURN_FAILURE]),
        ),
        row(closing(), (Unavailable, Draining, &[RETRY_INFO])),
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
    let violation =
        |field: &str, description: &str| Violation { field: field.into(), description: description.into() };
    let status = invalid(vec![violation("prompt", "say something"), violation("timeout", "too short")]);
    assert_eq!(status.message(), "prompt: say something; timeout: too short");
    let bad: rpc::BadRequest = detail(&status, BAD_REQUEST);
    let fields: Vec<_> =
        bad.field_violations.iter().map(|v| (v.field.as_str(), v.description.as_str())).collect();
    assert_eq!(fields, [("prompt", "say something"), ("timeout", "too short")]);
}

fn not_loaded() -> Error {
    Error::NotLoaded { session: id(), missing: Missing::Fields(vec!["provider", "github_token"]) }
}

fn no_such_ask() -> Error {
    Error::NoSuchAsk { session: id(), ask: "r-1".into() }
}

fn settled(settlement: Settlement) -> Error {
    Error::AskSettled { ask: "r-1".into(), settlement }
}

fn wrong_answer() -> Error {
    Error::WrongAnswer { ask: "r-1".into(), kind: RequestKind::Elicitation }
}

fn bad_answer() -> Error {
    Error::BadAnswer { ask: "r-1".into(), problem: "\"n\" is a required property".into() }
}

#[test]
fn an_answer_that_comes_too_late_is_told_what_came_of_the_request() {
    let check = |settlement, expected: &str, said: &str| {
        let status = of(&settled(settlement));
        let info: rpc::ErrorInfo = detail(&status, ERROR_INFO);
        assert_eq!(info.metadata, HashMap::from([("settlement".into(), expected.into())]));
        assert!(status.message().contains("r-1") && status.message().contains(said), "{status:?}");
    };
    check(Settlement::Answered, "answered", "by another caller");
    check(Settlement::TimedOut, "timed_out", "in time");
    check(Settlement::Withdrawn, "withdrawn", "does not wait");
}

#[test]
fn what_is_wrong_in_another_request_than_the_parsers_see_is_named_by_field_too() {
    let check = |error: Error, field: &str, said: &str| {
        let bad: rpc::BadRequest = detail(&of(&error), BAD_REQUEST);
        let [violation] = &bad.field_violations[..] else { panic!("{bad:?}") };
        assert_eq!(violation.field, field);
        assert!(violation.description.contains(said), "{violation:?}");
    };
    check(wrong_answer(), "answer", "`elicitation`");
    check(bad_answer(), "answer", "required property");
    check(Error::RequestIdTaken { field: "prompt.request_id" }, "prompt.request_id", "another request");
    check(Error::TooMuchToStore, "system_message", "1 MiB");
}

#[test]
fn each_kind_of_request_says_which_answer_it_needs() {
    let check = |kind, answer: &str| {
        let status = of(&Error::WrongAnswer { ask: "r-1".into(), kind });
        assert!(status.message().ends_with(answer), "{status:?}");
    };
    check(RequestKind::Permission, "`permission`");
    check(RequestKind::ToolCall, "`tool_result`");
    check(RequestKind::UserInput, "`user_input`");
    check(RequestKind::Elicitation, "`elicitation`");
    check(RequestKind::ExitPlan, "`exit_plan`");
}

fn away() -> store::Error {
    store::Error::Unavailable { problem: "it does not answer".into() }
}

fn gone_profile() -> Error {
    Error::ProfileGone { session: id(), profile: "team".into() }
}

#[test]
fn what_is_missing_to_load_a_session_is_named() {
    let status = of(&not_loaded());
    assert!(status.message().ends_with("call ResumeSession with provider and github_token"), "{status:?}");
}

#[test]
fn the_resource_is_named() {
    let missing_in_turn = TurnCause::NotFound(id());
    let errors = [
        of(&Error::NotFound(id())),
        of(&Error::Exists(id())),
        of(&not_loaded()),
        of(&no_such_ask()),
        of(&Error::QueueFull { session: id(), waiting: 1 }),
        of_turn(&failed(missing_in_turn)),
    ];
    for status in errors {
        let resource: rpc::ResourceInfo = detail(&status, RESOURCE_INFO);
        assert_eq!((&*resource.resource_type, &*resource.resource_name), ("copilot_grpc.v1.Session", "s-1"));
        assert!(status.message().contains("s-1"), "{status:?}");
    }
}

#[test]
fn clients_that_repeat_calls_by_themselves_are_told_to_wait_or_that_it_would_be_done_twice() {
    let push_back =
        |status: Status| status.metadata().get(PUSH_BACK).map(|delay| delay.to_str().unwrap().to_owned());
    let overloaded =
        [Error::QueueFull { session: id(), waiting: 1 }, overloaded(), Error::Backend(Cli::Overloaded)];
    for error in overloaded {
        assert_eq!(push_back(of(&error)).as_deref(), Some("1000"), "{error:?}");
    }
    assert_eq!(push_back(of(&Error::Draining)).as_deref(), Some("1000"));
    for (written, expected) in [(false, "1000"), (true, "-1")] {
        let error = Error::Backend(lost(written));
        assert_eq!(push_back(of(&error)).as_deref(), Some(expected), "{error:?}");
        assert_eq!(push_back(of_reading(of(&error))).as_deref(), Some("1000"), "{error:?}");
    }
    for error in [Error::NotFound(id()), Error::CursorExpired, Error::RequestIdTaken { field: "request_id" }]
    {
        assert_eq!(push_back(of_reading(of(&error))).as_deref(), Some("-1"), "{error:?}");
    }
    for delivery in [Delivery::Delivered, Delivery::Unknown] {
        let cut = TurnError { delivery, ..failed(TurnCause::Interrupted(String::new())) };
        assert_eq!(push_back(of_turn(&cut)).as_deref(), Some("-1"), "{delivery:?}");
    }
    let unsent = TurnError { delivery: Delivery::NotDelivered, ..failed(TurnCause::Backend(lost(false))) };
    assert_eq!(push_back(of_turn(&unsent)).as_deref(), Some("1000"));
}

#[test]
fn the_time_to_retry_is_told() {
    let check = |status: Status, seconds| {
        let retry: rpc::RetryInfo = detail(&status, RETRY_INFO);
        assert_eq!(retry.retry_delay, Some(prost_types::Duration { seconds, nanos: 0 }), "{status:?}");
    };
    check(of(&Error::QueueFull { session: id(), waiting: 1 }), 1);
    check(of(&overloaded()), 1);
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
        let failure =
            AgentFailure { error_type: error_type.into(), status_code, ..AgentFailure::other("slow down") };
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
        arguments: Some(serde_json::json!({"a": 1}).into()),
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
    assert!(of_transport(&lagged(None), 4).is_none());
    for code in [Code::Ok, Code::NotFound, Code::Unavailable, Code::Unknown, Code::ResourceExhausted] {
        assert!(of_transport(&Status::new(code, "x"), 4).is_none(), "{code:?}");
    }
    let too_large = Status::new(Code::OutOfRange, "Error, decoded message length too large: found 5 bytes");
    assert!(of_transport(&too_large, 4096).unwrap().message().contains("4096"));
}

#[test]
fn an_unknown_compression_is_not_an_unknown_method() {
    let tonic = Status::unimplemented("Content is compressed with `zstd` which isn't supported");
    let reason = of_transport(&tonic, 4).map(|status| detail::<rpc::ErrorInfo>(&status, ERROR_INFO).reason);
    assert_ne!(reason.as_deref(), Some("METHOD_UNKNOWN"));
}

#[test]
fn a_missing_method_is_named() {
    let status = of(&Error::Backend(Cli::Rejected(Rejection::MethodMissing("session.x"))));
    assert!(status.message().contains("session.x"), "{status:?}");
    assert_eq!(detail::<rpc::ErrorInfo>(&status, ERROR_INFO).metadata["method"], "session.x");
}

#[test]
fn a_built_in_agent_that_is_unknown_is_a_wrong_field() {
    let words = "Unknown built-in agent name in excludedBuiltinAgents: \"nonsense\".";
    let status = of(&Error::Backend(Cli::Rejected(Rejection::InvalidParameter(words.into()))));
    let wrong: rpc::BadRequest = detail(&status, BAD_REQUEST);
    assert_eq!(wrong.field_violations[0].field, "excluded_builtin_agents");
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

#[test]
fn a_prompt_that_was_not_delivered_is_not_said_to_have_begun() {
    // What was not answered is what had to be done before.
    let causes = [Cli::Timeout { method: "session.resume", after: Duration::from_secs(30) }, lost(true)];
    for cause in causes {
        let error = TurnError { delivery: Delivery::NotDelivered, ..failed(TurnCause::Backend(cause)) };
        let info: rpc::ErrorInfo = detail(&of_turn(&error), ERROR_INFO);
        assert_eq!(info.reason, "BACKEND_UNAVAILABLE");
    }
}

/// The size of the headers that carry a status and nothing else, as HTTP/2 counts them.
fn header_size(status: Status) -> usize {
    let field = |name: &str, value: &[u8]| name.len() + value.len() + 32;
    let response = status.into_http::<()>();
    let ours: usize =
        response.headers().iter().map(|(name, value)| field(name.as_str(), value.as_bytes())).sum();
    ours + field(":status", b"200") + field("date", b"Mon, 23 Nov 2026 14:28:56 GMT")
}

fn longest_id() -> SessionId {
    SessionId::parse(&"x".repeat(crate::session::MAX_ID)).unwrap()
}

/// The largest state of a failed turn. Ids are the CLI's, and of a usual length.
fn much() -> Remains {
    let call = ToolCall {
        id: "toolu_".repeat(20),
        name: "名".repeat(100),
        arguments: Some(serde_json::json!({"command": "x".repeat(10_000)}).into()),
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
            nano_ai_credits: i64::MAX,
            model_calls: 100_000,
            model_milliseconds: 1_234_567.8,
        },
        running_tools: vec![call; 20],
        open_asks: (0..20).map(|_| "01234567-89ab-cdef-0123-456789abcdef".into()).collect(),
        cursor: Some(Cursor::after(&longest_id(), "01234567-89ab-cdef-0123-456789abcdef")),
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
    let remains = Remains { open_asks: Vec::new(), cursor: None, ..much() };
    let status = of_turn(&TurnError { remains, ..failed(TurnCause::Agent(failure)) });
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
    let causes = [
        ("ASCII", agent_says(long("x"))),
        ("spaces, which become three bytes", agent_says(long(" "))),
        ("not ASCII", agent_says(long("é"))),
        ("interrupted", TurnCause::Interrupted(long("漢"))),
        ("rejected", TurnCause::Backend(Cli::Rejected(Rejection::Internal(long("漢"))))),
        ("not found", TurnCause::NotFound(longest_id())),
        ("lost", TurnCause::Lost { session: longest_id(), cli: long("c") }),
        ("store", TurnCause::Store(store::Error::Unavailable { problem: long("漢") })),
    ];
    let sizes = causes
        .map(|(name, cause)| (name, header_size(of_turn(&TurnError { remains: much(), ..failed(cause) }))));
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
    let long = || "x".repeat(10_000);
    let remains = Remains { last_event: Some(long()), open_asks: vec![long(); 20], ..Remains::default() };
    let size = header_size(of_turn(&TurnError { remains, ..failed(TurnCause::Aborted) }));
    assert!(size <= MAX_HEADERS, "{size}");
    let failure = AgentFailure { error_type: "x".repeat(10_000), ..AgentFailure::other("no") };
    let size = header_size(of_turn(&failed(TurnCause::Agent(failure))));
    assert!(size <= MAX_HEADERS, "{size}");
}
