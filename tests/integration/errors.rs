//! Each published error reason is produced here, and keeps what `error_reason.proto` promises of it.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use copilot_grpc::{
    grpc::{
        DOMAIN,
        pb::{
            CreateSessionRequest, ErrorReason, GetSessionRequest, GetTurnRequest, ListEventsRequest,
            ListModelsRequest, PermissionDecision, PermissionEffect, Prompt, Provider, SendAndWaitRequest,
            TurnResult,
        },
    },
    store::{Facts, Time},
};
use serde_json::json;
use test_postgres::{Options as PostgresOptions, Postgres};
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_types::pb as rpc;

use crate::support::{
    check, detail,
    facade::{Setup, Streamed, TestFacade, abort, decide, on_everything, prompt, wait, wait_with, watching},
    failure_of,
    fake_cli::{FakeCli, Options},
    reason_of, soon,
    state::State,
    until,
};

/// Each reason, and what produces it.
fn producers() -> Vec<(ErrorReason, Produced)> {
    vec![
        (ErrorReason::InvalidField, Box::pin(an_empty_prompt())),
        (ErrorReason::SessionNotFound, Box::pin(a_session_that_never_was())),
        (ErrorReason::SessionExists, Box::pin(the_same_id_twice())),
        (ErrorReason::PolicyDenied, Box::pin(a_model_that_the_profile_does_not_allow())),
        (ErrorReason::Overloaded, Box::pin(more_turns_than_may_wait())),
        (ErrorReason::QuotaExceeded, Box::pin(more_sessions_than_allowed())),
        (ErrorReason::MessageTooLarge, Box::pin(a_prompt_over_the_limit())),
        (ErrorReason::StreamLagged, Box::pin(a_reader_that_stalls())),
        (ErrorReason::TurnAborted, Box::pin(an_aborted_turn())),
        (ErrorReason::TurnTimeout, Box::pin(a_turn_that_takes_too_long())),
        (ErrorReason::TurnInactive, Box::pin(an_agent_without_a_sign_of_life())),
        (ErrorReason::BackendUnavailable, Box::pin(a_cli_that_is_not_there())),
        (ErrorReason::Draining, Box::pin(a_server_that_stops())),
        (ErrorReason::TurnInterrupted, Box::pin(a_cli_that_is_lost_in_mid_turn())),
        (ErrorReason::ProviderAuth, Box::pin(agent_error("authentication"))),
        (ErrorReason::ProviderQuota, Box::pin(agent_error("quota"))),
        (ErrorReason::ProviderRateLimit, Box::pin(agent_error("rate_limit"))),
        (ErrorReason::ContextLimit, Box::pin(agent_error("context_limit"))),
        (ErrorReason::ProviderUnavailable, Box::pin(provider_error("503 overloaded", 503))),
        (
            ErrorReason::ContentFiltered,
            Box::pin(provider_error("400 see our content management policy", 400)),
        ),
        (ErrorReason::BackendStorage, Box::pin(agent_error("persistence"))),
        (ErrorReason::StoreUnavailable, Box::pin(a_database_that_is_down())),
        (ErrorReason::StoreCorrupt, Box::pin(a_record_that_makes_no_sense())),
        (ErrorReason::AgentError, Box::pin(agent_error("query"))),
        (ErrorReason::CliProtocol, Box::pin(an_answer_that_makes_no_sense())),
        (ErrorReason::CliMethodMissing, Box::pin(a_cli_without_the_method())),
        (ErrorReason::CliVersion, Box::pin(a_cli_of_another_protocol())),
        (ErrorReason::SessionNotLoaded, Box::pin(a_session_of_another_time())),
        (ErrorReason::CursorExpired, Box::pin(a_place_that_is_gone())),
        (ErrorReason::AskNotFound, Box::pin(an_answer_to_nothing())),
        (ErrorReason::TurnNotFound, Box::pin(a_turn_that_nobody_has_sent())),
        (ErrorReason::Unauthenticated, Box::pin(a_call_of_nobody())),
        (ErrorReason::AskSettled, Box::pin(an_answer_that_is_too_late())),
        (ErrorReason::ResponseMismatch, Box::pin(an_answer_of_another_form())),
        (ErrorReason::MethodUnknown, Box::pin(call_raw("/copilot_grpc.v1.CopilotService/Fly", b"", None))),
        (ErrorReason::MethodUnknown, Box::pin(call_raw("/copilot_grpc.v9.Other/SendAndWait", b"", None))),
        (ErrorReason::MalformedRequest, Box::pin(call_raw(GET_SESSION, b"\xff\xff\xff", None))),
        (ErrorReason::MalformedRequest, Box::pin(call_raw(GET_SESSION, b"\x0a\x02\xff\xff", None))),
        (ErrorReason::MalformedRequest, Box::pin(call_raw(GET_SESSION, b"", Some("snappy")))),
    ]
}

type Produced = Pin<Box<dyn Future<Output = Status>>>;

#[tokio::test]
async fn every_reason_is_produced_and_keeps_the_promises_of_its_comment() {
    let mut missing: Vec<_> = (1..1000).filter_map(|number| ErrorReason::try_from(number).ok()).collect();
    for (reason, produced) in producers() {
        let status = soon(reason.as_str_name(), produced).await;
        check_promises(&status, reason);
        missing.retain(|other| *other != reason);
    }
    assert_eq!(missing, [], "without a producer");
}

fn check_promises(status: &Status, reason: ErrorReason) {
    let comment = comment_of(reason);
    let codes = promised_codes(&comment);
    assert!(codes.contains(&status.code()), "not one of {codes:?}: {status:?}");
    check(status, status.code(), reason);
    let info: rpc::ErrorInfo = detail(status, "google.rpc.ErrorInfo").unwrap();
    assert_eq!((info.domain.as_str(), DOMAIN), ("copilot-grpc", "copilot-grpc"));
    assert!(!status.message().is_empty(), "{reason:?}");
    let promises = |name: &str| comment.contains(&format!("`{name}"));
    let details = String::from_utf8_lossy(status.details());
    let has = |name: &str| details.contains(&format!("type.googleapis.com/{name}"));
    for name in ["BadRequest", "ResourceInfo", "RetryInfo", "QuotaFailure"] {
        let name = format!("google.rpc.{name}");
        assert!(!promises(&name) || has(&name), "{reason:?} without {name}: {status:?}");
    }
    if promises("TurnFailure") {
        failure_of(status);
    }
}

/// What the contract says of a reason.
fn comment_of(reason: ErrorReason) -> String {
    const CONTRACT: &str = include_str!("../../proto/copilot_grpc/v1/error_reason.proto");
    let lines: Vec<_> = CONTRACT.lines().map(str::trim).collect();
    let value = format!("{} = {};", reason.as_str_name(), reason as i32);
    let at = lines.iter().position(|line| *line == value).unwrap();
    let comment = lines[..at].iter().rev().map_while(|line| line.strip_prefix("// "));
    comment.collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" ")
}

/// The codes in a comment's first sentence: mostly one, and nothing else.
fn promised_codes(comment: &str) -> Vec<Code> {
    let words = comment.split('.').next().unwrap().split([' ', ',']);
    let codes = words.filter(|word| word.len() > 1 && !word.contains(|c: char| c.is_lowercase()));
    codes.map(code).collect()
}

fn code(name: &str) -> Code {
    match name {
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "NOT_FOUND" => Code::NotFound,
        "UNAUTHENTICATED" => Code::Unauthenticated,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "UNAVAILABLE" => Code::Unavailable,
        "UNIMPLEMENTED" => Code::Unimplemented,
        "INTERNAL" => Code::Internal,
        other => panic!("no code: {other:?}"),
    }
}

// The producers.

async fn a_turn_that_nobody_has_sent() -> Status {
    let (_cli, facade) = start(&[]).await;
    let request = GetTurnRequest { session_id: "s".into(), request_id: "none".into(), ..Default::default() };
    facade.client().get_turn(request).await.unwrap_err()
}

async fn a_call_of_nobody() -> Status {
    let cli = FakeCli::start().await;
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.toml");
    let hash = "0".repeat(64);
    let table = format!("[[token]]\nsha256 = \"{hash}\"\ntenant = \"a\"\nsubject = \"b\"\n");
    std::fs::write(&tokens, table).unwrap();
    let facade = cli.setup().flag(format!("--token-file={}", tokens.display())).start().await;
    facade.client().get_session(GetSessionRequest { session_id: "s".into() }).await.unwrap_err()
}

async fn start(flags: &[&str]) -> (FakeCli, TestFacade) {
    let cli = FakeCli::start().await;
    let facade = flags.iter().fold(cli.setup(), |setup, flag| setup.flag(*flag)).start().await;
    facade.create("s").await;
    (cli, facade)
}

fn send(facade: &TestFacade, request: SendAndWaitRequest) -> JoinHandle<Result<TurnResult, Status>> {
    let mut client = facade.client();
    tokio::spawn(async move { Ok(client.send_and_wait(request).await?.into_inner().result.unwrap()) })
}

async fn failure(sending: JoinHandle<Result<TurnResult, Status>>) -> Status {
    sending.await.unwrap().unwrap_err()
}

async fn an_empty_prompt() -> Status {
    let (_cli, facade) = start(&[]).await;
    facade.send("s", " \n").await.unwrap_err()
}

async fn a_session_that_never_was() -> Status {
    let (_cli, facade) = start(&[]).await;
    facade.send("other", "p").await.unwrap_err()
}

async fn the_same_id_twice() -> Status {
    let (_cli, facade) = start(&[]).await;
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    facade.client().create_session(request).await.unwrap_err()
}

async fn a_model_that_the_profile_does_not_allow() -> Status {
    let cli = FakeCli::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[profiles.team]\nmodels = ['gpt-5']").unwrap();
    let facade = cli.setup().flag(format!("--config={}", file.path().display())).start().await;
    let request = CreateSessionRequest { profile: "team".into(), model: "o3".into(), ..Default::default() };
    facade.client().create_session(request).await.unwrap_err()
}

async fn more_turns_than_may_wait() -> Status {
    let (_cli, facade) = start(&["--max-queued-turns=1"]).await;
    let _turns = [send(&facade, wait("s", "runs")), send(&facade, wait("s", "waits"))];
    until("a full queue", || facade.facade.sessions().load().turns == 2).await;
    facade.send("s", "p").await.unwrap_err()
}

async fn more_sessions_than_allowed() -> Status {
    let (_cli, facade) = start(&["--max-sessions=1"]).await;
    facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err()
}

async fn a_prompt_over_the_limit() -> Status {
    let (cli, facade) = start(&["--max-message-size=64KiB"]).await;
    let fits = send(&facade, wait("s", &"x".repeat(60 * 1024)));
    cli.turn(&["fine"]).await;
    fits.await.unwrap().unwrap();
    facade.send("s", &"x".repeat(64 * 1024)).await.unwrap_err()
}

async fn a_reader_that_stalls() -> Status {
    let (cli, facade) = start(&[]).await;
    let stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    // More than HTTP/2's window and the queue's limit of bytes together.
    let output = "x".repeat(1 << 20);
    for _ in 0..40 {
        let data = json!({"toolCallId": "t", "partialOutput": output});
        turn.event("tool.execution_partial_result", data).ephemeral().await;
    }
    turn.finish(&["fine"]).await;
    facade.at_rest().await;
    Streamed::read(stream).await.end.unwrap_err()
}

async fn an_aborted_turn() -> Status {
    let (cli, facade) = start(&[]).await;
    let sending = send(&facade, wait("s", "p"));
    cli.begin().await;
    facade.client().abort_turn(abort("s")).await.unwrap();
    failure(sending).await
}

async fn a_turn_that_takes_too_long() -> Status {
    let (cli, facade) = start(&["--turn-timeout=1s"]).await;
    let sending = send(&facade, wait("s", "p"));
    cli.begin().await;
    failure(sending).await
}

async fn an_agent_without_a_sign_of_life() -> Status {
    let (cli, facade) = start(&[]).await;
    let inactivity_timeout = Some(Duration::from_millis(100).try_into().unwrap());
    let sending = send(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("p") }));
    cli.begin().await;
    failure(sending).await
}

async fn a_cli_that_is_not_there() -> Status {
    let cli = FakeCli::start().await;
    let setup = cli.setup();
    drop(cli);
    let facade = setup.start_unready().await;
    facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err()
}

async fn a_server_that_stops() -> Status {
    let (cli, facade) = start(&[]).await;
    let sending = send(&facade, wait("s", "p"));
    cli.begin().await;
    facade.facade.stop(Duration::ZERO).await;
    failure(sending).await
}

async fn a_cli_that_is_lost_in_mid_turn() -> Status {
    let (cli, facade) = start(&[]).await;
    let sending = send(&facade, wait("s", "p"));
    cli.begin().await;
    cli.disconnect().await;
    failure(sending).await
}

async fn agent_error(error_type: &'static str) -> Status {
    let (cli, facade) = start(&[]).await;
    let sending = send(&facade, wait("s", "p"));
    let turn = cli.begin().await;
    turn.error(error_type, "no, says the model").await;
    turn.idle().await;
    let status = failure(sending).await;
    assert!(status.message().contains("no, says the model"), "{status:?}");
    status
}

async fn provider_error(message: &'static str, status: i32) -> Status {
    let (cli, facade) = start(&[]).await;
    let sending = send(&facade, wait("s", "p"));
    let turn = cli.begin().await;
    let data = json!({"errorType": "query", "message": message, "statusCode": status, "originatingMessageId": turn.id});
    turn.event("session.error", data).await;
    turn.idle().await;
    failure(sending).await
}

/// Models that the CLI cannot tell.
async fn models(respond: impl AsyncFnOnce(crate::support::fake_cli::Call)) -> Status {
    let (cli, facade) = start(&[]).await;
    cli.manual("models.list");
    let mut client = facade.client();
    let models = tokio::spawn(async move { client.list_models(ListModelsRequest::default()).await });
    respond(cli.next("models.list").await).await;
    models.await.unwrap().unwrap_err()
}

async fn a_database_that_is_down() -> Status {
    let database = spawn_blocking(|| Postgres::start(PostgresOptions::Fast)).await.unwrap();
    let cli = FakeCli::start().await;
    let state = Arc::new(State::without_database());
    let setup = Setup { state, ..cli.setup() }.flag(format!("--store-url={}", database.database().await));
    let facade = setup.flag("--store-timeout=1s").start().await;
    facade.create("s").await;
    let running = send(&facade, wait("s", "runs"));
    let turn = cli.begin().await;
    // It is to be noted before it is sent, so that it is never sent twice.
    let waiting = send(&facade, wait_with("s", Prompt { request_id: "r".into(), ..prompt("waits") }));
    until("two turns", || facade.facade.sessions().load().turns == 2).await;
    let stopped = spawn_blocking(move || {
        database.stop();
        database
    });
    let _database = stopped.await.unwrap();
    turn.finish(&["hi"]).await;
    running.await.unwrap().unwrap();
    failure(waiting).await
}

async fn a_record_that_makes_no_sense() -> Status {
    let (cli, facade) = start(&[]).await;
    let facts = Facts { settings: "{".into(), home: cli.address(), ..Facts::default() };
    facade.facade.sessions().store().create("", "odd", &facts, Time::now()).await.unwrap();
    facade.send("odd", "p").await.unwrap_err()
}

async fn an_answer_that_makes_no_sense() -> Status {
    models(async |call| call.answer(json!({"models": "many"})).await).await
}

async fn a_cli_without_the_method() -> Status {
    models(async |call| call.refuse(-32601, "Unhandled method models.list").await).await
}

async fn a_cli_of_another_protocol() -> Status {
    let cli = FakeCli::start_as(Options { protocol: 4, ..Options::default() }).await;
    let facade = cli.setup().start_unready().await;
    loop {
        let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
        // It is not known before the first answer.
        if status.code() != Code::Unavailable {
            return status;
        }
    }
}

async fn a_session_of_another_time() -> Status {
    let (cli, facade) = start(&[]).await;
    let provider = Provider { base_url: "http://127.0.0.1:1".into(), ..Default::default() };
    let own = CreateSessionRequest {
        session_id: "old".into(),
        model: "m".into(),
        provider: Some(provider),
        ..Default::default()
    };
    facade.client().create_session(own).await.unwrap();
    facade.stop().await;
    cli.setup().start().await.send("old", "p").await.unwrap_err()
}

async fn an_answer_to_nothing() -> Status {
    let (_cli, facade) = start(&[]).await;
    facade.respond("s", "unknown", decide(PermissionDecision::Allow)).await.unwrap_err()
}

async fn an_answer_that_is_too_late() -> Status {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let permission_policy = on_everything(PermissionEffect::Ask);
    let request = CreateSessionRequest { session_id: "s".into(), permission_policy, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let _sending = send(&facade, wait("s", "p"));
    let turn = cli.begin().await;
    let data = json!({"requestId": "r", "permissionRequest": {"kind": "shell", "fullCommandText": "ls"}});
    turn.event("permission.requested", data).await;
    let ask = watcher.ask().await;
    facade.respond("s", &ask, decide(PermissionDecision::Allow)).await.unwrap();
    facade.respond("s", &ask, decide(PermissionDecision::Deny)).await.unwrap_err()
}

async fn an_answer_of_another_form() -> Status {
    let (cli, facade) = start(&[]).await;
    let response_schema_json = json!({"type": "object"}).to_string();
    let sending = send(&facade, wait_with("s", Prompt { response_schema_json, ..prompt("p") }));
    cli.begin().await.finish(&["no JSON"]).await;
    failure(sending).await
}

async fn a_place_that_is_gone() -> Status {
    let (cli, facade) = start(&[]).await;
    cli.manual(HISTORY);
    let page = |events: &[&str], status: &str| {
        let events: Vec<_> =
            events.iter().map(|id| json!({"type": "session.info", "data": {}, "id": id})).collect();
        json!({"events": events, "cursor": "c", "hasMore": !events.is_empty(), "cursorStatus": status})
    };
    let request =
        |page_token: String| ListEventsRequest { session_id: "s".into(), page_token, ..Default::default() };
    let list = |token| {
        let mut client = facade.client();
        tokio::spawn(async move { client.list_events(request(token)).await })
    };
    let first = list(String::new());
    cli.next(HISTORY).await.answer(page(&["e1"], "ok")).await;
    let token = first.await.unwrap().unwrap().into_inner().next_page_token;
    let second = list(token);
    cli.next(HISTORY).await.answer(page(&[], "expired")).await;
    cli.next(HISTORY).await.answer(page(&["e0"], "ok")).await;
    cli.next(HISTORY).await.answer(page(&[], "ok")).await;
    second.await.unwrap().unwrap_err()
}

const HISTORY: &str = "sessions.readPersistedEvents";

const GET_SESSION: &str = "/copilot_grpc.v1.CopilotService/GetSession";

/// A call whose message is these bytes.
async fn call_raw(path: &'static str, message: &'static [u8], encoding: Option<&'static str>) -> Status {
    let (_cli, facade) = start(&[]).await;
    let mut client = tonic::client::Grpc::new(facade.channel());
    client.ready().await.unwrap();
    let mut request = Request::new(Bytes::from_static(message));
    if let Some(encoding) = encoding {
        request.metadata_mut().insert("grpc-encoding", encoding.parse().unwrap());
    }
    client.unary(request, PathAndQuery::from_static(path), Raw).await.unwrap_err()
}

/// Messages that are bytes.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

// More of what the CLI says, and what is made of it.

#[tokio::test]
async fn a_failed_turn_is_told_by_the_agents_kind_of_error_and_the_providers_status() {
    let (cli, facade) = start(&[]).await;
    for (error_type, status_code, code, reason) in [
        ("authentication", None, Code::FailedPrecondition, ErrorReason::ProviderAuth),
        ("authorization", Some(403), Code::FailedPrecondition, ErrorReason::ProviderAuth),
        ("query", Some(401), Code::FailedPrecondition, ErrorReason::ProviderAuth),
        ("quota", None, Code::ResourceExhausted, ErrorReason::ProviderQuota),
        ("query", Some(402), Code::ResourceExhausted, ErrorReason::ProviderQuota),
        ("rate_limit", Some(429), Code::ResourceExhausted, ErrorReason::ProviderRateLimit),
        ("context_limit", None, Code::ResourceExhausted, ErrorReason::ContextLimit),
        ("query", Some(400), Code::Internal, ErrorReason::AgentError),
        ("query", Some(500), Code::Unavailable, ErrorReason::ProviderUnavailable),
        ("query", Some(413), Code::ResourceExhausted, ErrorReason::ContextLimit),
        ("of next year", None, Code::Internal, ErrorReason::AgentError),
    ] {
        let sending = send(&facade, wait("s", "p"));
        let turn = cli.begin().await;
        let mut data = json!({"errorType": error_type, "message": "no", "originatingMessageId": turn.id});
        if let Some(status) = status_code {
            data["statusCode"] = status.into();
        }
        turn.event("session.error", data).await;
        turn.idle().await;
        let status = soon("the failure", failure(sending)).await;
        check(&status, code, reason);
        assert_eq!(failure_of(&status).message_id, turn.id);
        let info: rpc::ErrorInfo = detail(&status, "google.rpc.ErrorInfo").unwrap();
        assert_eq!(info.metadata["error_type"], error_type);
        let told = info.metadata.get("http_status").map(|status| status.parse().unwrap());
        assert_eq!(told, status_code.map(i64::from));
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_created_is_told_by_the_clis_words() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    for (code, reason, expected, expected_reason) in [
        (-32602, "bad params", Code::InvalidArgument, ErrorReason::InvalidField),
        (-32603, "Directory does not exist: /x", Code::InvalidArgument, ErrorReason::InvalidField),
        (-32603, "Invalid provider configuration", Code::InvalidArgument, ErrorReason::InvalidField),
        (-32603, "Not authenticated", Code::FailedPrecondition, ErrorReason::ProviderAuth),
        (-32601, "Unhandled method session.create", Code::Unimplemented, ErrorReason::CliMethodMissing),
        (-32001, "AUTHENTICATION_REQUIRED", Code::Unavailable, ErrorReason::BackendUnavailable),
        (
            -32603,
            "session construction failed: ENOSPC: No space left on device (os error 28)",
            Code::ResourceExhausted,
            ErrorReason::BackendStorage,
        ),
        (
            -32603,
            r#"session construction failed: Unknown built-in agent name in excludedBuiltinAgents: "x"."#,
            Code::InvalidArgument,
            ErrorReason::InvalidField,
        ),
        (-32603, "the moon is full", Code::Internal, ErrorReason::CliProtocol),
        (-1, "", Code::Internal, ErrorReason::CliProtocol),
    ] {
        let mut client = facade.client();
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        let create = tokio::spawn(async move { client.create_session(request).await });
        cli.next("session.create").await.refuse(code, reason).await;
        let status = soon("the refusal", create).await.unwrap().unwrap_err();
        check(&status, expected, expected_reason);
        assert_eq!(facade.facade.sessions().load().known, 0, "{reason}");
    }
}

#[tokio::test]
async fn a_request_without_a_message_is_malformed() {
    let (_cli, facade) = start(&[]).await;
    let mut client = tonic::client::Grpc::new(facade.channel());
    client.ready().await.unwrap();
    let nothing = Request::new(tokio_stream::empty::<GetSessionRequest>());
    let codec = tonic_prost::ProstCodec::<_, copilot_grpc::grpc::pb::GetSessionResponse>::default();
    let path = PathAndQuery::from_static(GET_SESSION);
    let status = client.client_streaming(nothing, path, codec).await.unwrap_err();
    check(&status, Code::InvalidArgument, ErrorReason::MalformedRequest);
}

#[tokio::test]
async fn an_error_of_the_service_is_told_apart_from_one_of_the_services_beside_it() {
    let (_cli, facade) = start(&[]).await;
    let request = tonic_health::pb::HealthCheckRequest { service: "nobody".into() };
    let mut health = tonic_health::pb::health_client::HealthClient::new(facade.channel());
    let status = health.check(request).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, ""));
}
