//! What can go wrong between the facade and its CLI, and on the callers' side: each time the caller is told the truth,
//! and nothing is left behind.
//!
//! The CLI is a [`FakeCli`], because the real one does not misbehave on demand.

use std::{sync::Arc, time::Duration};

use copilot_grpc::{
    backend,
    grpc::pb::{
        BackendState, CloseSessionRequest, CompactSessionRequest, CreateSessionRequest,
        CreateSessionResponse, DeleteSessionRequest, DeliveryState, ErrorReason, GetServerInfoRequest,
        GetSessionRequest, ListSessionsRequest, OnDisconnect, PermissionEffect, PermissionPolicy,
        PermissionRule, Prompt, Provider, SendAndStreamRequest, SendAndWaitRequest, SendAndWaitResponse,
        SessionState, TurnResult, send_and_stream_response, session_event::Payload,
    },
    session::Load,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, codegen::http::uri::PathAndQuery};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::pb as rpc;

use crate::support::{
    check, detail,
    facade::{Streamed, TestFacade, abort, prompt, stream, wait, wait_with, within},
    failure_of,
    fake_cli::{FakeCli, Options, frame},
    soon, until,
};

/// A CLI, a facade in front of it, and a session `s`.
async fn start() -> (FakeCli, TestFacade) {
    start_with(&[]).await
}

async fn start_with(flags: &[&str]) -> (FakeCli, TestFacade) {
    let cli = FakeCli::start().await;
    let facade = flags.iter().fold(cli.setup(), |setup, flag| setup.flag(*flag)).start().await;
    facade.create("s").await;
    (cli, facade)
}

type Sending = JoinHandle<Result<TurnResult, Status>>;

/// Sends on a task of its own, which is aborted for a caller that leaves.
fn send(facade: &TestFacade, prompt: &str) -> Sending {
    send_request(facade, wait("s", prompt))
}

fn send_request(facade: &TestFacade, request: impl tonic::IntoRequest<SendAndWaitRequest>) -> Sending {
    let (mut client, request) = (facade.client(), request.into_request());
    tokio::spawn(async move { Ok(client.send_and_wait(request).await?.into_inner().result.unwrap()) })
}

async fn end(sending: Sending) -> Result<TurnResult, Status> {
    soon("the turn's end", sending).await.unwrap()
}

async fn answer(sending: Sending) -> String {
    end(sending).await.unwrap().content
}

async fn failure(sending: Sending) -> Status {
    end(sending).await.unwrap_err()
}

/// Checks what is told of a turn that failed.
#[track_caller]
fn check_turn(status: &Status, code: Code, reason: ErrorReason, delivery: DeliveryState) {
    check(status, code, reason);
    assert_eq!(failure_of(status).delivery(), delivery, "{status:?}");
}

#[track_caller]
fn check_interrupted(status: &Status, delivery: DeliveryState) {
    check_turn(status, Code::Unavailable, ErrorReason::TurnInterrupted, delivery);
    assert!(retry_info(status).is_some(), "{status:?}");
}

fn retry_info(status: &Status) -> Option<rpc::RetryInfo> {
    detail(status, "google.rpc.RetryInfo")
}

fn link(facade: &TestFacade) -> Result<Arc<backend::Link>, backend::Error> {
    facade.facade.sessions().pool().any().and_then(|cli| cli.link())
}

/// Waits until the facade has made its connection again.
async fn reconnected(cli: &FakeCli, facade: &TestFacade, connection: u64) {
    cli.connected(connection).await;
    // The one before was taken off the board before this one was made.
    until("a link", || link(facade).is_ok()).await;
}

/// Waits until a turn has a place in the queue.
async fn queued(facade: &TestFacade, turns: usize) {
    until("a place in the queue", || facade.facade.sessions().load().turns == turns).await;
}

/// Nothing runs, waits or is pending any more. Returns what there is at rest.
async fn at_rest(facade: &TestFacade) -> Load {
    facade.at_rest().await;
    until("no call in flight", || link(facade).is_ok_and(|link| link.in_flight() == 0)).await;
    let load = facade.facade.sessions().load();
    assert_eq!((load.turns, load.running), (0, 0), "{load:?}");
    load
}

/// At rest, and session `s` goes on as if nothing had been.
async fn goes_on(cli: &FakeCli, facade: &TestFacade) {
    assert_eq!(at_rest(facade).await.known, 1);
    let next = send(facade, "next");
    assert_eq!(cli.turn(&["go", "es on"]).await, "next");
    assert_eq!(answer(next).await, "goes on");
    assert_eq!(at_rest(facade).await, Load { known: 1, loaded: 1, ..Load::default() });
}

/// Lets time pass at once. What was to happen meanwhile happens now.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Has the facade do a little of everything, so that timers which have fired have had their effect.
async fn settle(facade: &TestFacade) {
    for _ in 0..3 {
        facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap();
    }
}

/// The data of the events of a kind that has no field of its own.
fn others<'a>(streamed: &'a Streamed, kind: &str) -> Vec<&'a str> {
    let others = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::Other(other) if other.r#type == kind => Some(other.data_json.as_str()),
        _ => None,
    });
    others.collect()
}

const SECOND: Duration = Duration::from_secs(1);

// Frames.

#[tokio::test]
async fn a_connection_that_ends_inside_a_frame_is_lost() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.delta("so f").await;
    turn.delta("ar").await;
    cli.raw(b"Content-Length: 100\r\n\r\n{\"jsonrpc\"").await;
    cli.disconnect().await;
    let status = failure(sending).await;
    check_interrupted(&status, DeliveryState::Delivered);
    assert!(status.message().contains("inside a frame"), "{status:?}");
    let failure = failure_of(&status);
    assert_eq!((failure.message_id, failure.partial_content), (turn.id, "so far".into()));
    assert_eq!(failure.last_event_type, "assistant.message_delta");
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
}

/// Bytes that no CLI writes: the connection is given up, and a new one made.
async fn check_broken(bytes: &[u8]) {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    cli.raw(bytes).await;
    check_interrupted(&failure(sending).await, DeliveryState::Delivered);
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_frame_that_is_no_message_ends_the_connection() {
    for body in ["not json", "{\"jsonrpc\":\"2.0\",", "[]", "7", "{}", "{\"id\":true,\"method\":\"m\"}", ""] {
        check_broken(&frame(body)).await;
    }
}

#[tokio::test]
async fn a_length_that_cannot_be_ends_the_connection() {
    let body = r#"{"jsonrpc":"2.0","method":"host.event","params":{}}"#;
    for header in [
        "Content-Length: -5".into(),
        "Content-Length: five".into(),
        "Content-Length: 99999999999999999999999".into(),
        "Content-Type: application/json".into(),
        "Content-Length".into(),
        format!("Content-Length: {}\r\nContent-Length: 5", body.len()),
        // What is over is no header.
        format!("Content-Length: {}", body.len() - 5),
    ] {
        check_broken(format!("{header}\r\n\r\n{body}\r\n\r\n").as_bytes()).await;
    }
}

#[tokio::test]
async fn a_length_that_is_too_long_ends_the_connection_with_the_frame_it_swallows() {
    let body = r#"{"jsonrpc":"2.0","method":"host.event","params":{}}"#;
    let frame = format!("Content-Length: {}\r\n\r\n{body}", body.len() + 5);
    check_broken(&[frame.as_bytes(), frame.as_bytes()].concat()).await;
}

#[tokio::test]
async fn an_endless_header_ends_the_connection() {
    check_broken(&[b'x'; 10_000]).await;
}

#[tokio::test]
async fn an_answer_to_nobody_is_ignored() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    cli.raw(&frame(r#"{"jsonrpc":"2.0","id":4711,"result":{}}"#)).await;
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn an_unwanted_event_over_the_frame_limit_is_skipped() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.event("system.message", json!({"content": "x".repeat(2 << 20)})).await;
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn a_stream_that_asked_for_an_event_over_the_frame_limit_is_told_that_it_is_missing() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    let request = SendAndStreamRequest { event_types: vec!["*".into()], ..stream("s", "p") };
    let stream = facade.send_and_stream(request).await.unwrap();
    let turn = cli.begin().await;
    turn.event("system.message", json!({"content": "x".repeat(2 << 20)})).await;
    let streamed = soon("the end of the stream", Streamed::read(stream)).await;
    check(&streamed.end.unwrap_err(), Code::ResourceExhausted, ErrorReason::StreamLagged);
    turn.finish(&["fine"]).await;
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
    assert_eq!(cli.count("session.abort"), 0, "the turn itself goes on");
}

#[tokio::test]
async fn an_answer_over_the_frame_limit_fails_only_its_call() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    cli.manual("session.list");
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    let mut client = facade.client();
    let list = tokio::spawn(async move { client.list_sessions(ListSessionsRequest::default()).await });
    cli.next("session.list").await.answer(json!({"sessions": [], "more": "x".repeat(2 << 20)})).await;
    check(
        &soon("the list", list).await.unwrap().unwrap_err(),
        Code::ResourceExhausted,
        ErrorReason::MessageTooLarge,
    );
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn an_answer_to_a_prompt_over_the_frame_limit_leaves_delivery_unknown() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    let sending = send(&facade, "p");
    cli.next("session.send").await.answer(json!({"messageId": "x".repeat(2 << 20)})).await;
    let status = failure(sending).await;
    check_turn(&status, Code::ResourceExhausted, ErrorReason::MessageTooLarge, DeliveryState::Unknown);
    at_rest(&facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn a_wanted_event_over_the_frame_limit_ends_the_connection() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.message(&"x".repeat(2 << 20)).await;
    check_interrupted(&failure(sending).await, DeliveryState::Delivered);
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_request_of_the_cli_over_the_frame_limit_is_refused() {
    let (cli, facade) = start_with(&["--max-frame-size=1MiB"]).await;
    cli.request(json!(5), "sessionFs.writeFile", json!({"content": "x".repeat(2 << 20)})).await;
    assert_eq!(cli.answer_to(json!(5)).await["error"]["code"], -32600);
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn half_an_emoji_becomes_a_replacement_character() {
    let (cli, facade) = start().await;
    let stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    let (m, o) = (format!("a-{}", turn.id), &turn.id);
    let kind = "assistant.message_delta";
    cli.raw_event("s", kind, &format!(r#"{{"messageId":"{m}","deltaContent":"a\ud83d"}}"#)).await;
    cli.raw_event("s", kind, &format!(r#"{{"messageId":"{m}","deltaContent":"\ude00b \\ud83d"}}"#)).await;
    let message = format!(
        r#"{{"messageId":"{m}","content":"a\ud83d\ude00b \ud83d","originatingMessageId":"{o}","toolRequests":[]}}"#
    );
    cli.raw_event("s", "assistant.message", &message).await;
    turn.idle().await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    assert_eq!(streamed.text(), "a\u{fffd}\u{fffd}b \\ud83d");
    assert_eq!(streamed.end.unwrap().content, "a\u{1f600}b \u{fffd}");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

// What the facade does not know.

#[tokio::test]
async fn an_unknown_event_comes_to_who_asks_for_all_and_to_nobody_else() {
    let (cli, facade) = start().await;
    for (types, expected) in [(vec!["*"], 1), (vec!["session.fr*"], 1), (vec![], 0), (vec!["abort"], 0)] {
        let request = SendAndStreamRequest {
            event_types: types.iter().map(|kind| (*kind).to_owned()).collect(),
            ..stream("s", "p")
        };
        let stream = facade.send_and_stream(request).await.unwrap();
        let turn = cli.begin().await;
        turn.event("session.fresh", json!({"new": [1, "x"]})).agent("sub").ephemeral().await;
        turn.finish(&["fine"]).await;
        let streamed = soon("the end", Streamed::read(stream)).await;
        assert_eq!(others(&streamed, "session.fresh").len(), expected, "{types:?}");
        let of_sub_agent = streamed.events.iter().filter(|event| event.agent_id == "sub");
        assert_eq!(of_sub_agent.filter(|event| event.ephemeral).count(), expected, "{types:?}");
        assert_eq!(streamed.end.unwrap().content, "fine");
    }
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_known_event_that_does_not_say_of_what_it_tells_is_passed_on_as_it_is() {
    let (cli, facade) = start().await;
    let request = SendAndStreamRequest { event_types: vec!["*".into()], ..stream("s", "p") };
    let stream = facade.send_and_stream(request).await.unwrap();
    let turn = cli.begin().await;
    turn.event("assistant.message_delta", json!({"messageId": 7})).await;
    turn.event("tool.execution_start", json!([])).await;
    turn.event("permission.completed", json!(null)).await;
    turn.finish(&["fine"]).await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    for kind in ["assistant.message_delta", "tool.execution_start", "permission.completed"] {
        assert_eq!(others(&streamed, kind).len(), 1, "{kind}");
    }
    assert_eq!(streamed.end.unwrap().content, "fine");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn an_unknown_request_is_answered_that_its_method_is_unknown() {
    let (cli, facade) = start().await;
    // Ids of its own: the first are the same as ours.
    for id in [json!(1), json!(2), json!("three")] {
        cli.request(id.clone(), "userInput.request", json!({"sessionId": "s", "question": "?"})).await;
        assert_eq!(cli.answer_to(id).await["error"]["code"], -32601);
    }
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn an_unknown_notification_is_ignored() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    cli.notify("host.event", json!({"scope": {"type": "session", "sessionId": "s"}, "kind": "task"})).await;
    cli.notify("session.event", json!({"sessionId": 7})).await;
    cli.notify("session.event", json!({"sessionId": "s", "event": {}})).await;
    cli.notify("session.lifecycle", json!({"type": "session.deleted"})).await;
    cli.event("strange", "session.idle", json!({})).await;
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

// Whose event is whose.

#[tokio::test]
async fn events_ahead_of_the_answer_to_the_prompt_count() {
    let (cli, facade) = start().await;
    let stream = facade.stream("s", "p").await.unwrap();
    let call = cli.next("session.send").await;
    cli.event("s", "user.message", json!({"content": "p", "messageId": "m"})).await;
    let message = json!({"messageId": "a", "content": "early", "originatingMessageId": "m"});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).await;
    call.answer(json!({"messageId": "m"})).await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    assert_eq!(streamed.events.len(), 3);
    let result = streamed.end.unwrap();
    assert_eq!((result.message_id.as_str(), result.content.as_str()), ("m", "early"));
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_sub_agents_messages_are_not_the_answer() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.message("mine").await;
    turn.message("of a sub-agent").agent("a1").await;
    turn.event("session.idle", json!({})).agent("a1").await;
    turn.event("session.error", json!({"errorType": "query", "message": "no"})).agent("a1").await;
    turn.idle().await;
    assert_eq!(answer(sending).await, "mine");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_late_idle_of_an_aborted_turn_is_not_taken_for_the_next_turns() {
    let (cli, facade) = start().await;
    cli.manual("session.abort");
    cli.manual("session.metadata.isProcessing");
    let first = send(&facade, "first");
    cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    first.abort();
    cli.next("session.abort").await.answer(json!({"success": true})).await;
    // Its idle does not come, so the CLI is asked, and says that it is over.
    cli.next("session.metadata.isProcessing").await.answer(json!({"processing": false})).await;
    let call = cli.next("session.send").await;
    cli.event("s", "session.idle", json!({"aborted": true})).await;
    call.answer(json!({"messageId": "m2"})).await;
    cli.event("s", "session.idle", json!({"aborted": true})).await;
    cli.event("s", "user.message", json!({"content": "second", "messageId": "m2"})).await;
    let message = json!({"messageId": "a", "content": "of the second", "originatingMessageId": "m2"});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).await;
    assert_eq!(answer(second).await, "of the second");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_late_idle_of_a_failed_turn_is_not_taken_for_the_next_turns() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    turn.error("query", "no").await;
    let status = failure(first).await;
    check_turn(&status, Code::Internal, ErrorReason::AgentError, DeliveryState::Delivered);
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    assert_eq!(cli.prompts(), ["first"], "the idle of the first is waited for");
    turn.idle().await;
    let call = cli.next("session.send").await;
    cli.event("s", "session.idle", json!({})).await;
    call.answer(json!({"messageId": "m2"})).await;
    cli.event("s", "session.idle", json!({})).await;
    cli.event("s", "user.message", json!({"content": "second", "messageId": "m2"})).await;
    let message = json!({"messageId": "a", "content": "of the second", "originatingMessageId": "m2"});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).await;
    assert_eq!(answer(second).await, "of the second");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_lost_idle_costs_seconds_and_not_the_deadline() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.message("answered").await;
    settle(&facade).await;
    cli.manual("session.metadata.isProcessing");
    pass(Duration::from_secs(5)).await;
    cli.next("session.metadata.isProcessing").await.answer(json!({"processing": true})).await;
    settle(&facade).await;
    assert!(!sending.is_finished(), "it is busy");
    pass(Duration::from_secs(5)).await;
    cli.next("session.metadata.isProcessing").await.answer(json!({"processing": false})).await;
    assert_eq!(answer(sending).await, "answered");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_cli_that_does_not_say_which_prompt_it_answers_still_answers_each_caller() {
    let cli = FakeCli::start_as(Options { message_ids: false, ..Options::default() }).await;
    let facade = cli.setup().start().await;
    facade.create("s").await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    turn.finish(&["to the ", "first"]).await;
    assert_eq!(cli.turn(&["to the ", "second"]).await, "second");
    assert_eq!(answer(first).await, "to the first");
    assert_eq!(answer(second).await, "to the second");
    goes_on(&cli, &facade).await;
}

// Prompts that may or may not have arrived.

#[tokio::test]
async fn a_connection_lost_before_the_prompt_is_acknowledged_leaves_its_delivery_unknown() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let _unanswered = cli.next("session.send").await;
    cli.disconnect().await;
    let status = failure(sending).await;
    check_interrupted(&status, DeliveryState::Unknown);
    assert_eq!(failure_of(&status).message_id, "");
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["p", "next"], "what may have arrived is not repeated");
}

#[tokio::test]
async fn a_connection_lost_after_the_prompt_is_acknowledged_interrupts_a_turn_that_was_delivered() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.delta("half of").await;
    let tool = json!({"toolCallId": "t1", "toolName": "shell", "arguments": {"command": "secret"}});
    turn.event("tool.execution_start", tool).await;
    cli.disconnect().await;
    let status = failure(sending).await;
    check_interrupted(&status, DeliveryState::Delivered);
    let failure = failure_of(&status);
    assert_eq!((failure.message_id, failure.partial_content), (turn.id, "half of".into()));
    assert_eq!(failure.last_event_type, "tool.execution_start");
    assert_eq!(failure.running_tools[0].name, "shell");
    assert_eq!(failure.running_tools[0].arguments_json, "");
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
}

/// One worker, so that the runtime's order of tasks is the one that servers have: the last one woken runs first.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_lost_right_behind_the_acknowledgement_interrupts_the_turn_too() {
    let (cli, facade) = start().await;
    let cli = Arc::new(cli);
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    tokio::spawn({
        let cli = cli.clone();
        // Without a pause, so that both are read at once.
        async move {
            call.answer(json!({"messageId": "m"})).await;
            cli.disconnect().await;
        }
    });
    check_interrupted(&failure(sending).await, DeliveryState::Delivered);
    reconnected(&cli, &facade, 2).await;
    at_rest(&facade).await;
}

#[tokio::test]
async fn a_connection_lost_while_the_session_is_resumed_costs_the_turn_nothing() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.disconnect().await;
    reconnected(&cli, &facade, 2).await;
    cli.manual("session.resume");
    let second = send(&facade, "second");
    let _unanswered = cli.next("session.resume").await;
    cli.automatic("session.resume");
    cli.disconnect().await;
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    assert_eq!(cli.prompts(), ["first", "second"]);
}

#[tokio::test]
async fn a_connection_lost_whenever_the_session_is_resumed_delivers_nothing() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.disconnect().await;
    cli.manual("session.resume");
    let mut second = send(&facade, "second");
    let status = loop {
        tokio::select! {
            status = &mut second => break status.unwrap().unwrap_err(),
            _unanswered = cli.next("session.resume") => cli.disconnect().await,
        }
    };
    assert_eq!(
        (status.code(), failure_of(&status).delivery()),
        (Code::Unavailable, DeliveryState::NotDelivered)
    );
    cli.automatic("session.resume");
    let connections = cli.connections();
    reconnected(&cli, &facade, connections).await;
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["first", "next"]);
}

#[tokio::test]
async fn a_session_whose_first_turn_the_cli_did_not_come_to_store_is_made_anew() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await;
    cli.forget("s");
    cli.disconnect().await;
    check_interrupted(&failure(first).await, DeliveryState::Delivered);
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.create"), 2);
}

#[tokio::test]
async fn an_agent_whose_turn_was_cut_is_stopped_before_the_next_one_because_the_cli_may_have_noticed_nothing()
{
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await;
    cli.disconnect().await;
    check_interrupted(&failure(first).await, DeliveryState::Delivered);
    reconnected(&cli, &facade, 2).await;
    goes_on(&cli, &facade).await;
    let methods: Vec<_> = cli.calls().into_iter().map(|call| call.method).collect();
    let at = |method| methods.iter().rposition(|other| other == method).unwrap();
    assert!(at("session.resume") < at("session.abort") && at("session.abort") < at("session.send"));
    assert_eq!(cli.count("session.abort"), 1);
    // The agent was left alone where it had finished.
    cli.disconnect().await;
    reconnected(&cli, &facade, 3).await;
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.abort"), 1);
}

#[tokio::test]
async fn what_an_earlier_turn_said_is_not_said_again_in_a_later_one() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let data = |text| json!({"messageId": format!("a-{}", turn.id), "deltaContent": text});
    let [once, late] =
        ["o", "ne"].map(|text| turn.event("assistant.message_delta", data(text)).ephemeral().frame());
    cli.raw(&once).await;
    turn.finish(&["ne"]).await;
    assert_eq!(answer(first).await, "ne");

    let second = facade.stream("s", "second").await.unwrap();
    let turn = cli.begin().await;
    turn.delta("t").await;
    // One of them was told before, the other is only known by its message.
    cli.raw(&once).await;
    cli.raw(&late).await;
    turn.finish(&["wo"]).await;
    let streamed = soon("the end", Streamed::read(second)).await;
    assert_eq!(streamed.text(), "two");
}

#[tokio::test]
async fn what_the_agent_says_before_it_has_taken_the_prompt_up_is_not_part_of_the_turn() {
    let (cli, facade) = start().await;
    let stream = facade.stream("s", "p").await.unwrap();
    let call = cli.next("session.send").await;
    // Another server's turn comes to its end.
    let delta = json!({"messageId": "b", "deltaContent": "theirs"});
    cli.event("s", "assistant.message_delta", delta.clone()).ephemeral().await;
    call.answer(json!({"messageId": "m"})).await;
    cli.event("s", "assistant.message_delta", delta).ephemeral().await;
    let usage = json!({"model": "fake", "inputTokens": 1000});
    cli.event("s", "assistant.usage", usage).ephemeral().await;
    cli.event("s", "assistant.message", json!({"messageId": "b", "content": "theirstheirs"})).await;
    cli.event("s", "session.idle", json!({})).ephemeral().await;
    cli.event("s", "user.message", json!({"content": "p", "messageId": "m"})).await;
    let delta = json!({"messageId": "a", "deltaContent": "ours"});
    cli.event("s", "assistant.message_delta", delta).ephemeral().await;
    let message = json!({"messageId": "a", "content": "ours", "originatingMessageId": "m"});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).ephemeral().await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    assert_eq!(streamed.text(), "ours");
    let result = streamed.end.unwrap();
    assert_eq!((&*result.content, result.usage.unwrap_or_default().input_tokens), ("ours", 0));
}

#[tokio::test]
async fn turns_that_wait_when_the_cli_is_lost_are_not_delivered() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await;
    cli.stop_listening();
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    cli.disconnect().await;
    check_interrupted(&failure(first).await, DeliveryState::Delivered);
    let status = failure(second).await;
    check_turn(&status, Code::Unavailable, ErrorReason::BackendUnavailable, DeliveryState::NotDelivered);
    facade.at_rest().await;
    assert_eq!(cli.prompts(), ["first"]);
}

#[tokio::test]
async fn a_flood_of_events_right_behind_the_acknowledgement_is_part_of_the_turn() {
    const DELTAS: usize = 20_000;
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    let sent = json!({"jsonrpc": "2.0", "id": call.id, "result": {"messageId": "m"}});
    let mut frames = frame(&sent.to_string());
    frames.extend(cli.event("s", "user.message", json!({"content": "p", "messageId": "m"})).frame());
    for _ in 0..DELTAS {
        let data = json!({"messageId": "a", "deltaContent": "."});
        frames.extend(cli.event("s", "assistant.message_delta", data).ephemeral().frame());
    }
    let message = json!({"messageId": "a", "content": "fine", "originatingMessageId": "m"});
    frames.extend(cli.event("s", "assistant.message", message).frame());
    frames.extend(cli.event("s", "session.idle", json!({})).ephemeral().frame());
    cli.raw(&frames).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_prompt_that_is_refused_was_not_delivered() {
    let (cli, facade) = start().await;
    for (code, reason, expected, expected_reason) in [
        (-32603, "the moon is full", Code::Internal, ErrorReason::CliProtocol),
        (-32601, "Unhandled method session.send", Code::Unimplemented, ErrorReason::CliMethodMissing),
        (-32603, "unknown field `prompt`", Code::InvalidArgument, ErrorReason::InvalidField),
        (-32603, "Not authenticated.", Code::FailedPrecondition, ErrorReason::ProviderAuth),
    ] {
        let sending = send(&facade, "p");
        cli.next("session.send").await.refuse(code, reason).await;
        check_turn(&failure(sending).await, expected, expected_reason, DeliveryState::NotDelivered);
    }
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_nonsensical_answer_to_a_prompt_leaves_its_delivery_unknown() {
    let (cli, facade) = start().await;
    for nonsense in [json!(null), json!({}), json!({"messageId": 7}), json!("m")] {
        let sending = send(&facade, "p");
        cli.next("session.send").await.answer(nonsense).await;
        let status = failure(sending).await;
        check_turn(&status, Code::Internal, ErrorReason::CliProtocol, DeliveryState::Unknown);
    }
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn an_agent_that_may_have_a_prompt_which_nobody_waits_for_is_stopped() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.next("session.send").await.answer(json!({"messageId": null})).await;
    failure(sending).await;
    assert_eq!(cli.called("session.abort", 1).await["sessionId"], "s");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_prompt_that_is_not_acknowledged_in_time_may_have_been_delivered() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let _unanswered = cli.next("session.send").await;
    for _ in 0..12 {
        settle(&facade).await;
        pass(Duration::from_secs(5)).await;
    }
    // Not BACKEND_UNAVAILABLE, which promises that nothing was done.
    check_interrupted(&failure(sending).await, DeliveryState::Unknown);
    goes_on(&cli, &facade).await;
    assert_eq!(cli.connections(), 1);
}

#[tokio::test]
async fn a_cli_that_is_not_there_gets_nothing() {
    let (cli, facade) = start().await;
    cli.stop_listening();
    cli.disconnect().await;
    facade.health_becomes("", ServingStatus::NotServing).await;
    let status = facade.send("s", "p").await.unwrap_err();
    check_turn(&status, Code::Unavailable, ErrorReason::BackendUnavailable, DeliveryState::NotDelivered);
    assert!(retry_info(&status).is_some());
    let list = facade.client().list_sessions(ListSessionsRequest::default()).await.unwrap_err();
    check(&list, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert!(retry_info(&list).is_some());
    facade.serving("liveness").await;
    facade.at_rest().await;
    assert_eq!(cli.prompts(), Vec::<String>::new());
    assert_eq!(facade.facade.sessions().load(), Load { known: 1, ..Load::default() });
}

// Sessions that come and go.

/// A provider of the caller's own, and tools that may ask.
fn with_key(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        model: "m".into(),
        provider: Some(Provider {
            base_url: "http://127.0.0.1:9/v1".into(),
            api_key: KEY.into(),
            ..Default::default()
        }),
        available_tools: vec!["bash".into()],
        permission_policy: Some(allow("shell")),
        ..Default::default()
    }
}

const KEY: &str = "sk-very-secret-4711";

fn allow(kind: &str) -> PermissionPolicy {
    let effect = PermissionEffect::Allow.into();
    PermissionPolicy { rules: vec![PermissionRule { kind: kind.into(), effect, ..Default::default() }] }
}

/// What a session is created with, which it also has to be resumed with. All but the model, which the CLI knows better.
fn check_settings(params: &Value) {
    assert_eq!(params["sessionId"], "k");
    assert_eq!(params["provider"], json!({"baseUrl": "http://127.0.0.1:9/v1", "apiKey": KEY}));
    assert_eq!(params["availableTools"], json!(["bash", "builtin:task_complete"]));
    assert_eq!(params["requestPermission"], true);
    assert_eq!(params["streaming"], true);
}

#[tokio::test]
async fn a_session_that_the_cli_unloaded_is_resumed_with_its_settings_and_its_caller_sees_nothing() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    check_settings(&cli.called("session.create", 1).await);
    let first = send_request(&facade, wait("k", "first"));
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.unload("k");
    let second = send_request(&facade, wait("k", "second"));
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    check_settings(&cli.called("session.resume", 1).await);
    assert_eq!(cli.prompts(), ["first", "second", "second"]);
    assert_eq!((cli.count("session.resume"), cli.count("session.options.update")), (1, 2));
    assert_eq!(at_rest(&facade).await, Load { known: 1, loaded: 1, ..Load::default() });
}

#[tokio::test]
async fn a_session_that_is_unloaded_again_and_again_is_not_resumed_for_ever() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    for _ in 0..2 {
        let not_found = "Session not found for sessionId: s";
        cli.next("session.send").await.refuse(-32603, not_found).await;
    }
    let status = failure(sending).await;
    assert_eq!(failure_of(&status).delivery(), DeliveryState::NotDelivered);
    assert_eq!(cli.prompts().len(), 2);
    at_rest(&facade).await;
}

#[tokio::test]
async fn after_a_reconnect_a_session_is_resumed_with_its_settings_and_an_empty_one_is_created_again() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    facade.create("s").await;
    let first = send_request(&facade, wait("k", "first"));
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.disconnect().await;
    reconnected(&cli, &facade, 2).await;
    let get = GetSessionRequest { session_id: "k".into() };
    let session = facade.client().get_session(get).await.unwrap().into_inner().session.unwrap();
    assert_eq!(session.state(), SessionState::Unloaded);
    assert_eq!(cli.count("session.resume"), 0, "not before it is needed");
    let second = send_request(&facade, wait("k", "second"));
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    check_settings(&cli.called("session.resume", 1).await);
    assert_eq!(cli.count("session.create"), 2);
    let third = send(&facade, "third");
    cli.turn(&["three"]).await;
    assert_eq!(answer(third).await, "three");
    assert_eq!((cli.count("session.create"), cli.count("session.resume")), (3, 2));
    assert_eq!(cli.prompts(), ["first", "second", "third"]);
    assert_eq!(at_rest(&facade).await, Load { known: 2, loaded: 2, ..Load::default() });
}

#[tokio::test]
async fn a_prompt_to_a_session_that_is_gone_without_a_word_is_not_delivered() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.forget("s");
    let status = facade.send("s", "second").await.unwrap_err();
    check_turn(&status, Code::NotFound, ErrorReason::SessionNotFound, DeliveryState::NotDelivered);
    at_rest(&facade).await;
}

#[tokio::test]
async fn a_prompt_whose_deadline_passes_while_its_session_is_resumed_is_not_delivered() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.unload("s");
    cli.manual("session.resume");
    let timeout = Some(Duration::from_millis(200).try_into().unwrap());
    let second = send_request(&facade, wait_with("s", Prompt { timeout, ..prompt("second") }));
    let resume = cli.next("session.resume").await;
    let status = failure(second).await;
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout, DeliveryState::NotDelivered);
    resume.answer_as_usual().await;
    cli.automatic("session.resume");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["first", "second", "next"]);
}

#[tokio::test]
async fn a_session_deleted_by_another_client_ends_its_turns() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    cli.forget("s");
    cli.lifecycle("session.deleted", "s").await;
    let status = failure(first).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Delivered);
    let status = failure(second).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::NotDelivered);
    let status = facade.send("s", "third").await.unwrap_err();
    check(&status, Code::NotFound, ErrorReason::SessionNotFound);
    assert_eq!(at_rest(&facade).await, Load::default());
    assert_eq!(cli.prompts(), ["first"]);
}

#[tokio::test]
async fn a_session_deleted_by_another_client_while_it_was_unloaded_is_gone() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.disconnect().await;
    reconnected(&cli, &facade, 2).await;
    cli.forget("s");
    cli.lifecycle("session.deleted", "s").await;
    let status = facade.send("s", "second").await.unwrap_err();
    check(&status, Code::NotFound, ErrorReason::SessionNotFound);
    let get = facade.client().get_session(GetSessionRequest { session_id: "s".into() }).await;
    check(&get.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    assert_eq!(at_rest(&facade).await, Load::default());
    facade.create("s").await;
}

#[tokio::test]
async fn stale_news_of_a_deletion_changes_nothing() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    let asked = cli.count("session.metadata.isProcessing");
    cli.lifecycle("session.deleted", "s").await;
    cli.lifecycle("session.deleted", "somebody-elses").await;
    cli.called("session.metadata.isProcessing", asked + 1).await;
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn deleting_a_session_ends_its_running_and_waiting_turns() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    turn.delta("so far").await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    let status = failure(first).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    let status = failure(second).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::NotDelivered);
    assert_eq!(at_rest(&facade).await, Load::default());
    assert_eq!(cli.prompts(), ["first"]);
    // Its id is free again, and what comes of the old one is not taken for the new one's.
    facade.create("s").await;
    cli.event("s", "session.idle", json!({"aborted": true})).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_deleted_sessions_turn_leaves_its_place_also_if_the_link_is_lost_right_then() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    cli.disconnect().await;
    failure(sending).await;
    let turns_that_run = async {
        while let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner()
            && info.backends[0].running_turns > 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the end of the deleted session's turn", turns_that_run).await;
}

#[tokio::test]
async fn deleting_a_session_ends_a_turn_whose_prompt_is_on_its_way() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    let status = failure(sending).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Unknown);
    call.refuse(-32603, "Session not found for sessionId: s").await;
    assert_eq!(at_rest(&facade).await, Load::default());
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn the_session_that_shuts_down_in_mid_turn_interrupts_it() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    settle(&facade).await;
    turn.event("session.shutdown", json!({"shutdownType": "routine"})).await;
    check_interrupted(&failure(sending).await, DeliveryState::Delivered);
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.resume"), 1);
}

// Creating sessions.

async fn check_taken(loaded: bool, stored: bool) {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.has("s", loaded, stored);
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    let status = facade.client().create_session(request).await.unwrap_err();
    check(&status, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!((cli.count("session.create"), cli.count("session.delete")), (0, 0));
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn an_id_that_the_cli_has_stored_or_loaded_is_taken() {
    check_taken(false, true).await;
    check_taken(true, false).await;
}

#[tokio::test]
async fn of_two_that_create_one_id_at_once_one_wins() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let create = || {
        let mut client = facade.client();
        tokio::spawn(async move {
            let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
            client.create_session(request).await
        })
    };
    let (one, other) = (create(), create());
    let call = cli.next("session.create").await;
    settle(&facade).await;
    call.answer_as_usual().await;
    let results = [soon("one", one).await.unwrap(), soon("the other", other).await.unwrap()];
    let [lost] = &results.iter().filter_map(|result| result.as_ref().err()).collect::<Vec<_>>()[..] else {
        panic!("not one of them: {results:?}");
    };
    check(lost, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!((cli.count("session.create"), cli.count("session.delete")), (1, 0));
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_session_of_which_it_is_not_known_whether_it_exists_is_not_created() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.metadata.isProcessing");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await.unwrap_err()
    });
    cli.next("session.metadata.isProcessing").await.refuse(-32603, "boom").await;
    check(&soon("the refusal", create).await.unwrap(), Code::Internal, ErrorReason::CliProtocol);
    assert_eq!(cli.count("session.create"), 0);
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn a_deletion_that_failed_is_not_said_to_have_worked() {
    let (cli, facade) = start().await;
    cli.manual("session.delete");
    let mut client = facade.client();
    let delete = tokio::spawn(async move {
        let request = DeleteSessionRequest { session_id: "s".into(), allow_missing: true };
        client.delete_session(request).await.unwrap_err()
    });
    let failed = json!({"success": false, "error": "EACCES: permission denied"});
    cli.next("session.delete").await.answer(failed).await;
    check(&soon("the refusal", delete).await.unwrap(), Code::Internal, ErrorReason::CliProtocol);
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_deletion_that_was_written_into_is_done_again() {
    let (cli, facade) = start().await;
    cli.manual("session.delete");
    let mut client = facade.client();
    let delete = tokio::spawn(async move {
        let request = DeleteSessionRequest { session_id: "s".into(), ..Default::default() };
        client.delete_session(request).await.map(drop)
    });
    cli.next("session.delete").await.refuse(-32603, "Directory not empty (os error 39)").await;
    cli.next("session.delete").await.answer(json!({"success": true})).await;
    soon("the deletion", delete).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_waits_for_a_session_hears_of_its_deletion() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    let mut client = facade.client();
    let close = tokio::spawn(async move {
        client.close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap_err()
    });
    queued(&facade, 2).await;
    let request = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(request).await.unwrap();
    check(&soon("the news", close).await.unwrap(), Code::NotFound, ErrorReason::SessionNotFound);
    check(&failure(sending).await, Code::Aborted, ErrorReason::TurnAborted);
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn a_session_whose_creator_leaves_is_deleted_again() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await
    });
    let call = cli.next("session.create").await;
    create.abort();
    settle(&facade).await;
    call.answer_as_usual().await;
    assert_eq!(cli.called("session.delete", 1).await["sessionId"], "s");
    until("the id is free", || facade.facade.sessions().load().known == 0).await;
    assert_eq!(at_rest(&facade).await, Load::default());
    cli.automatic("session.create");
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_github_token_reaches_the_cli_and_its_refusal_the_caller_without_the_token() {
    const TOKEN: &str = "ghu_VerySecret4711";
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { github_token: TOKEN.into(), ..Default::default() };
        client.create_session(request).await
    });
    let call = cli.next("session.create").await;
    assert_eq!(call.params["gitHubToken"], TOKEN);
    call.refuse(-32603, &format!("GitHub token validation failed: {TOKEN} is no token")).await;
    let status = soon("the refusal", create).await.unwrap().unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::ProviderAuth);
    assert!(status.message().contains("GitHub token validation failed"), "{status:?}");
    assert!(!shown(&status).contains(TOKEN), "{status:?}");
    assert_eq!(at_rest(&facade).await, Load::default());
}

/// All that a status says.
fn shown(status: &Status) -> String {
    format!("{} {}", status.message(), String::from_utf8_lossy(status.details()))
}

#[tokio::test]
async fn a_session_that_cannot_be_made_safe_is_not_made() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.options.update");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await
    });
    cli.next("session.options.update").await.refuse(-32603, "out of options").await;
    let status = soon("the refusal", create).await.unwrap().unwrap_err();
    check(&status, Code::Internal, ErrorReason::CliProtocol);
    assert_eq!(cli.called("session.delete", 1).await["sessionId"], "s");
    assert_eq!(at_rest(&facade).await, Load::default());
    cli.automatic("session.options.update");
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_session_that_cannot_be_made_safe_again_is_not_sent_to() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    cli.unload("s");
    cli.manual("session.options.update");
    let second = send(&facade, "second");
    cli.next("session.options.update").await.refuse(-32603, "out of options").await;
    let status = failure(second).await;
    check_turn(&status, Code::Internal, ErrorReason::CliProtocol, DeliveryState::NotDelivered);
    cli.automatic("session.options.update");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.options.update"), 3);
}

#[tokio::test]
async fn there_are_no_more_sessions_than_allowed() {
    let (_cli, facade) = start_with(&["--max-sessions=1"]).await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::ResourceExhausted, ErrorReason::QuotaExceeded);
    let quota: rpc::QuotaFailure = detail(&status, "google.rpc.QuotaFailure").unwrap();
    assert!(quota.violations[0].description.contains("max_sessions"), "{quota:?}");
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    facade.create("t").await;
    assert_eq!(at_rest(&facade).await, Load { known: 1, loaded: 1, ..Load::default() });
}

// CLIs that cannot be used.

async fn backend_info(facade: &TestFacade) -> copilot_grpc::grpc::pb::Backend {
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    info.backends.into_iter().next().unwrap()
}

/// Waits until the server says this of its CLI. In between it tries again, which it says too.
async fn backend_becomes(facade: &TestFacade, state: BackendState) -> copilot_grpc::grpc::pb::Backend {
    soon(&format!("{state:?}"), async {
        loop {
            let info = backend_info(facade).await;
            if info.state() == state {
                return info;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_wrong_connection_token_is_the_operators_to_mend() {
    let cli = FakeCli::start_as(Options { token: Some("right"), ..Options::default() }).await;
    for token in ["wrong", ""] {
        let facade = cli.setup().variable("COPILOT_CONNECTION_TOKEN", token).start_unready().await;
        let info = backend_becomes(&facade, BackendState::Down).await;
        assert!(info.problem.contains("cli_token_file"), "{info:?}");
        assert!(info.problem.contains("AUTHENTICATION_FAILED"), "{info:?}");
        facade.health_becomes("", ServingStatus::NotServing).await;
        let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
        assert!(!shown(&status).contains("wrong"), "{status:?}");
    }
    let facade = cli.setup().start().await;
    facade.create("s").await;
}

#[tokio::test]
async fn a_token_that_is_not_wanted_is_the_operators_to_mend() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().variable("COPILOT_CONNECTION_TOKEN", "unwanted").start_unready().await;
    let info = backend_becomes(&facade, BackendState::Down).await;
    assert!(info.problem.contains("AUTHENTICATION_NOT_CONFIGURED"), "{info:?}");
    facade.health_becomes("", ServingStatus::NotServing).await;
}

/// A CLI that is like this is not used, and it is told what it is and what to do.
async fn is_not_used(options: Options, advice: &str) {
    let (version, protocol) = (options.version, i32::try_from(options.protocol).unwrap());
    let cli = FakeCli::start_as(options).await;
    let facade = cli.setup().start_unready().await;
    let info = backend_becomes(&facade, BackendState::Incompatible).await;
    assert_eq!((info.cli_version.as_str(), info.protocol_version), (version, protocol));
    assert!(info.problem.contains(advice), "{info:?}");
    facade.health_becomes("", ServingStatus::NotServing).await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::CliVersion);
    assert!(status.message().contains(advice), "{status:?}");
    assert_eq!(cli.count("session.create"), 0);
}

#[tokio::test]
async fn a_cli_of_another_protocol_is_not_used() {
    let advice = "protocol 2, and 3 is needed: install a newer one";
    is_not_used(Options { protocol: 2, ..Options::default() }, advice).await;
    let advice = "(1.4.0) speaks protocol 4, and this server 3: install a newer copilot-grpc";
    is_not_used(Options { version: "1.4.0", protocol: 4, ..Options::default() }, advice).await;
}

#[tokio::test]
async fn a_cli_below_the_floor_is_not_used() {
    let advice = "1.0.81, and 1.0.85 is needed at least: install a newer one";
    is_not_used(Options { version: "1.0.81", ..Options::default() }, advice).await;
    // Of a time when there was no handshake.
    let advice = "0.0.330, and 1.0.85 is needed";
    is_not_used(Options { version: "0.0.330", lacks: &["connect"], ..Options::default() }, advice).await;
}

#[tokio::test]
async fn what_cannot_be_done_with_a_cli_is_asked_of_it_and_told() {
    let lacks = &["session.history.compact", "session.queue.removeAt"];
    let cli = FakeCli::start_as(Options { lacks, ..Options::default() }).await;
    let facade = cli.setup().start().await;
    let info = backend_becomes(&facade, BackendState::Ready).await;
    let expected = ["session.history.compact: CompactSession", "session.queue.removeAt: withdrawing prompts"];
    assert_eq!(info.missing_features, expected);
    facade.create("s").await;
    goes_on(&cli, &facade).await;
    let compact = CompactSessionRequest { session_id: "s".into() };
    let status = facade.client().compact_session(compact).await.unwrap_err();
    check(&status, Code::Unimplemented, ErrorReason::CliMethodMissing);
}

#[tokio::test]
async fn a_cli_that_is_tried_again_and_again_keeps_its_problem() {
    let cli = FakeCli::start_as(Options { protocol: 2, ..Options::default() }).await;
    cli.manual("connect");
    let facade = cli.setup().start_unready().await;
    let answer = json!({"ok": true, "protocolVersion": 2, "version": "0.0.400"});
    cli.next("connect").await.answer(answer).await;
    // The second attempt is under way, and nobody knows yet that it will be any better.
    let _unanswered = cli.next("connect").await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::CliVersion);
    assert!(backend_info(&facade).await.problem.contains("0.0.400"));
}

#[tokio::test]
async fn a_frozen_cli_costs_a_caller_its_deadline_and_no_more() {
    let (cli, facade) = start().await;
    cli.freeze();
    let began = Instant::now();
    let sending = send_request(&facade, within(SECOND, wait("s", "p")));
    cli.next("session.send").await;
    let status = failure(sending).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout, DeliveryState::Unknown);
    // It owes the answer to a ping for too long.
    for _ in 0..4 {
        pass(Duration::from_secs(5)).await;
        settle(&facade).await;
    }
    until("the link is given up", || link(&facade).is_err()).await;
    facade.at_rest().await;
}

// Permissions.

#[tokio::test]
async fn a_rule_sees_a_command_that_has_half_an_emoji_in_it() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let rule = |pattern: &str, effect: PermissionEffect| PermissionRule {
        kind: "shell".into(),
        pattern: pattern.into(),
        effect: effect.into(),
    };
    let rules = vec![rule("rm *", PermissionEffect::Deny), rule("", PermissionEffect::Allow)];
    let permission_policy = Some(PermissionPolicy { rules });
    let request = CreateSessionRequest { session_id: "s".into(), permission_policy, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    for (nth, (command, decision)) in [("rm it", "reject"), ("ls it", "approve-once")].into_iter().enumerate()
    {
        let request = format!(r#"{{"kind":"shell","fullCommandText":"{command} \ud83d"}}"#);
        let data = format!(r#"{{"requestId":"r{nth}","permissionRequest":{request}}}"#);
        cli.raw_event("s", "permission.requested", &data).await;
        let answer = cli.called("session.permissions.handlePendingPermissionRequest", nth + 1).await;
        assert_eq!(answer["result"]["kind"], decision, "{answer}");
    }
}

#[tokio::test]
async fn permissions_are_answered_by_policy_also_while_no_turn_runs() {
    const ANSWER: &str = "session.permissions.handlePendingPermissionRequest";
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        permission_policy: Some(allow("shell")),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    let ask = async |id: &str, kind: &str, more: Value| {
        let mut data = json!({"requestId": id, "permissionRequest": {"kind": kind, "toolCallId": "t1"}});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cli.event("s", "permission.requested", data).await;
    };
    ask("r1", "shell", json!({})).await;
    let answer1 = cli.called(ANSWER, 1).await;
    assert_eq!(answer1, json!({"sessionId": "s", "requestId": "r1", "result": {"kind": "approve-once"}}));

    let stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    ask("r2", "shell", json!({"resolvedByHook": true})).await;
    ask("r3", "write", json!({})).await;
    let answer2 = cli.called(ANSWER, 2).await;
    assert_eq!((&answer2["requestId"], &answer2["result"]["kind"]), (&json!("r3"), &json!("reject")));
    assert!(answer2["result"]["feedback"].as_str().unwrap().contains("write"), "{answer2}");
    let completed = json!({"requestId": "r3", "toolCallId": "t1", "result": {"kind": "denied-by-rules"}});
    turn.event("permission.completed", completed).await;
    turn.finish(&["fine"]).await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    let asked = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::PermissionAsked(asked) => Some((asked.ask_id.as_str(), asked.kind.as_str())),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [("r2", "shell"), ("r3", "write")]);
    assert_eq!(streamed.end.unwrap().content, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count(ANSWER), 2);
}

// Time, and callers that leave.

#[tokio::test]
async fn a_full_queue_refuses() {
    let (cli, facade) = start_with(&["--max-queued-turns=1"]).await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    let status = facade.send("s", "third").await.unwrap_err();
    check(&status, Code::ResourceExhausted, ErrorReason::Overloaded);
    assert!(retry_info(&status).is_some());
    turn.finish(&["one"]).await;
    cli.turn(&["two"]).await;
    assert_eq!((answer(first).await, answer(second).await), ("one".into(), "two".into()));
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["first", "second", "next"]);
}

#[tokio::test]
async fn a_prompt_whose_deadline_passes_in_the_queue_is_never_sent() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let timeout = Some(Duration::from_millis(100).try_into().unwrap());
    let own_limit = send_request(&facade, wait_with("s", Prompt { timeout, ..prompt("second") }));
    let grpc_deadline = send_request(&facade, within(SECOND, wait("s", "third")));
    for status in [failure(own_limit).await, failure(grpc_deadline).await] {
        check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout, DeliveryState::NotDelivered);
    }
    turn.finish(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["first", "next"]);
    assert_eq!(cli.count("session.abort"), 0);
}

#[tokio::test]
async fn a_prompt_whose_caller_leaves_the_queue_is_never_sent() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    let stream = facade.stream("s", "third").await.unwrap();
    queued(&facade, 3).await;
    second.abort();
    drop(stream);
    queued(&facade, 1).await;
    turn.finish(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.prompts(), ["first", "next"]);
    assert_eq!(cli.count("session.abort"), 0);
}

#[tokio::test]
async fn an_agent_whose_caller_leaves_before_the_prompt_is_acknowledged_is_stopped_after_it() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    sending.abort();
    settle(&facade).await;
    assert_eq!(cli.count("session.abort"), 0, "there is nothing to stop yet");
    call.answer(json!({"messageId": "m"})).await;
    assert_eq!(cli.called("session.abort", 1).await["sessionId"], "s");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.abort"), 1);
}

#[tokio::test]
async fn an_agent_whose_caller_leaves_or_has_no_time_left_is_stopped() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    sending.abort();
    cli.called("session.abort", 1).await;
    at_rest(&facade).await;

    let stream = facade.stream("s", "p").await.unwrap();
    cli.begin().await;
    drop(stream);
    cli.called("session.abort", 2).await;
    at_rest(&facade).await;

    let timeout = Some(Duration::from_millis(200).try_into().unwrap());
    let sending = send_request(&facade, wait_with("s", Prompt { timeout, ..prompt("p") }));
    cli.begin().await.delta("so far").await;
    let status = failure(sending).await;
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    cli.called("session.abort", 3).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_stopped_turn_ends_at_once_and_the_next_one_starts() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    let aborted = facade.client().abort_turn(abort("s")).await.unwrap().into_inner();
    assert_eq!(aborted.message_id, Some(turn.id));
    let status = failure(first).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Delivered);
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    goes_on(&cli, &facade).await;
    let aborted = facade.client().abort_turn(abort("s")).await.unwrap().into_inner();
    assert_eq!(aborted.message_id, None);
    assert_eq!(cli.count("session.abort"), 1);
}

#[tokio::test]
async fn a_turn_that_is_stopped_while_its_prompt_is_on_its_way_ends_at_once() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    let aborted = facade.client().abort_turn(abort("s")).await.unwrap().into_inner();
    assert!(aborted.message_id.is_some());
    let status = failure(sending).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Unknown);
    call.answer(json!({"messageId": "m"})).await;
    cli.called("session.abort", 1).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn an_agent_that_cannot_be_stopped_does_not_hold_the_next_turn_up_for_ever() {
    let (cli, facade) = start().await;
    cli.manual("session.abort");
    cli.manual("session.metadata.isProcessing");
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    first.abort();
    let began = Instant::now();
    let call = loop {
        tokio::select! {
            call = cli.next("session.abort") => call.answer(json!({"success": true})).await,
            call = cli.next("session.metadata.isProcessing") => {
                call.answer(json!({"processing": true})).await;
                pass(Duration::from_secs(8)).await;
            }
            call = cli.next("session.send") => break call,
        }
    };
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    call.answer(json!({"messageId": "m2"})).await;
    // What the first still does is not the second's.
    turn.finish(&["of the first"]).await;
    cli.event("s", "user.message", json!({"content": "second", "messageId": "m2"})).await;
    let message = json!({"messageId": "a", "content": "of the second", "originatingMessageId": "m2"});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).await;
    assert_eq!(answer(second).await, "of the second");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn turns_of_two_sessions_run_at_the_same_time_and_do_not_mix() {
    let (cli, facade) = start().await;
    facade.create("t").await;
    let one = send(&facade, "to s");
    let turn_one = cli.begin().await;
    let other = send_request(&facade, wait("t", "to t"));
    let turn_other = cli.begin().await;
    turn_one.delta("of ").await;
    turn_other.delta("of ").await;
    turn_other.finish(&["of t"]).await;
    assert_eq!(answer(other).await, "of t");
    assert!(!one.is_finished());
    turn_one.finish(&["of s"]).await;
    assert_eq!(answer(one).await, "of s");
    at_rest(&facade).await;
}

#[tokio::test]
async fn a_frozen_cli_does_not_hold_the_inactivity_timeout_up() {
    let (cli, facade) = start().await;
    let inactivity_timeout = Some(Duration::from_secs(6).try_into().unwrap());
    let sending = send_request(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("p") }));
    cli.begin().await;
    settle(&facade).await;
    cli.freeze();
    pass(Duration::from_secs(5)).await;
    cli.next("session.metadata.isProcessing").await;
    pass(SECOND).await;
    let began = Instant::now();
    let status = failure(sending).await;
    assert!(began.elapsed() < SECOND, "{:?} late", began.elapsed());
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnInactive, DeliveryState::Delivered);
    cli.disconnect().await;
    facade.at_rest().await;
}

#[tokio::test]
async fn a_silent_agent_is_given_up_after_the_inactivity_timeout() {
    let (cli, facade) = start().await;
    let inactivity_timeout = Some(Duration::from_millis(300).try_into().unwrap());
    let sending = send_request(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("p") }));
    cli.begin().await.delta("so far").await;
    let status = failure(sending).await;
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnInactive, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    cli.called("session.abort", 1).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn the_inactivity_timeout_does_not_run_while_a_tool_does() {
    let (cli, facade) = start().await;
    let inactivity_timeout = Some(Duration::from_secs(3).try_into().unwrap());
    let sending = send_request(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("p") }));
    let turn = cli.begin().await;
    turn.event("tool.execution_start", json!({"toolCallId": "t1", "toolName": "shell"})).await;
    settle(&facade).await;
    for _ in 0..5 {
        pass(Duration::from_secs(2)).await;
        settle(&facade).await;
    }
    assert!(!sending.is_finished(), "the tool runs");
    turn.event("tool.execution_complete", json!({"toolCallId": "t1", "success": true})).await;
    settle(&facade).await;
    assert!(!sending.is_finished(), "that was a sign of life");
    pass(Duration::from_secs(3)).await;
    let status = failure(sending).await;
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnInactive, DeliveryState::Delivered);
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn an_answer_does_not_wait_for_ever_for_what_its_tools_have_done_to_files() {
    const FILES: &str = "session.history.previewRewind";
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let available_tools = vec!["builtin:*".into()];
    let request = CreateSessionRequest { session_id: "s".into(), available_tools, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    cli.manual(FILES);
    // Until its deadline, and no more than 5 seconds.
    for (timeout, waits) in [(3, 3), (60, 5)] {
        let timeout = Some(prost_types::Duration { seconds: timeout, nanos: 0 });
        let sending = send_request(&facade, wait_with("s", Prompt { timeout, ..prompt("p") }));
        let turn = cli.begin().await;
        turn.event("tool.execution_start", json!({"toolCallId": "t1", "toolName": "bash"})).await;
        turn.event("tool.execution_complete", json!({"toolCallId": "t1", "success": true})).await;
        turn.finish(&["fine"]).await;
        let unanswered = cli.next(FILES).await;
        assert!(!sending.is_finished());
        pass(Duration::from_secs(waits)).await;
        let result = end(sending).await.unwrap();
        assert_eq!((&*result.content, result.files_changed), ("fine", Vec::new()));
        drop(unanswered);
    }
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_turn_that_goes_on_without_its_caller_is_not_stopped_and_the_next_one_waits_for_it() {
    let (cli, facade) = start().await;
    let on_disconnect = OnDisconnect::Continue.into();
    // The caller leaves.
    let left = send_request(&facade, wait_with("s", Prompt { on_disconnect, ..prompt("first") }));
    let turn = cli.begin().await;
    left.abort();
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    assert_eq!(cli.prompts(), ["first"]);
    turn.finish(&["one"]).await;
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    // The caller's deadline passes.
    let request = wait_with("s", Prompt { on_disconnect, ..prompt("third") });
    let late = send_request(&facade, within(SECOND, request));
    let turn = cli.begin().await;
    turn.delta("so far").await;
    let status = failure(late).await;
    check_turn(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    let fourth = send(&facade, "fourth");
    queued(&facade, 2).await;
    settle(&facade).await;
    assert_eq!(cli.prompts(), ["first", "second", "third"]);
    turn.finish(&["three"]).await;
    cli.turn(&["four"]).await;
    assert_eq!(answer(fourth).await, "four");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.abort"), 0);
}

#[tokio::test]
async fn a_turn_that_goes_on_without_its_caller_is_stopped_after_the_operators_timeout() {
    let (cli, facade) = start_with(&["--turn-timeout=1m"]).await;
    let on_disconnect = OnDisconnect::Continue.into();
    let left = send_request(&facade, wait_with("s", Prompt { on_disconnect, ..prompt("first") }));
    cli.begin().await;
    left.abort();
    settle(&facade).await;
    assert_eq!(cli.count("session.abort"), 0);
    for _ in 0..6 {
        pass(Duration::from_secs(10)).await;
        settle(&facade).await;
    }
    cli.called("session.abort", 1).await;
    goes_on(&cli, &facade).await;
}

// What errors hold.

/// A turn of which everything is large.
async fn check_large_error(error_type: &str, message: &str) {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    turn.delta(&"\u{e4}".repeat(500_000)).await;
    for n in 0..100 {
        let data = json!({"toolCallId": format!("t{n}"), "toolName": "x".repeat(1000), "arguments": {}});
        turn.event("tool.execution_start", data).await;
    }
    turn.error(error_type, message).await;
    turn.idle().await;
    let status = failure(sending).await;
    check_turn(&status, Code::Internal, ErrorReason::AgentError, DeliveryState::Delivered);
    // Percent-encoding makes three bytes of one, base64 four of three; many clients take 8 KiB of headers in all.
    let size = status.message().len() * 3 + status.details().len().div_ceil(3) * 4;
    assert!(size < 8 * 1024, "{size} bytes");
    let failure = failure_of(&status);
    assert!(failure.partial_content_truncated && failure.partial_content.starts_with("\u{e4}\u{e4}"));
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn however_much_there_is_to_tell_of_a_failed_turn_its_caller_is_told() {
    check_large_error("query", &"<html>\u{1f600}\r\n\0".repeat(10_000)).await;
}

#[tokio::test]
async fn however_strange_an_error_is_its_caller_is_told() {
    check_large_error(&"strange".repeat(1000), "no").await;
}

#[tokio::test]
async fn a_key_that_the_provider_repeats_is_in_no_error_and_no_event() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    let stream = facade.stream("k", "p").await.unwrap();
    let turn = cli.begin().await;
    turn.error("authentication", &format!("401 Incorrect API key provided: {KEY}.")).await;
    turn.idle().await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    let status = streamed.end.unwrap_err();
    check_turn(&status, Code::FailedPrecondition, ErrorReason::ProviderAuth, DeliveryState::Delivered);
    assert!(status.message().contains("Incorrect API key provided: [redacted]"), "{status:?}");
    assert!(!shown(&status).contains(KEY), "{status:?}");
    // The key may be the operator's, and then it is not for the caller to see.
    let errors = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::SessionError(error) => Some(error.message.as_str()),
        _ => None,
    });
    assert_eq!(errors.collect::<Vec<_>>(), ["401 Incorrect API key provided: [redacted]."]);
    at_rest(&facade).await;
}

#[tokio::test]
async fn a_key_that_the_cli_repeats_in_a_refusal_is_in_no_error() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    let sending = send_request(&facade, wait("k", "p"));
    cli.next("session.send").await.refuse(-32603, &format!("unknown field {KEY:?}")).await;
    let status = failure(sending).await;
    assert!(!shown(&status).contains(KEY), "{status:?}");
    at_rest(&facade).await;
}

// The end of the server.

/// A call whose headers are sent now and whose message later, so that it is there before the server drains.
struct HalfOpen<T, R> {
    message: mpsc::Sender<T>,
    response: JoinHandle<Result<R, Status>>,
}

impl<T, R> HalfOpen<T, R>
where
    T: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    fn open(facade: &TestFacade, method: &'static str) -> Self {
        let (message, messages) = mpsc::channel(1);
        let mut client = tonic::client::Grpc::new(facade.channel());
        let response = tokio::spawn(async move {
            client.ready().await.unwrap();
            let path = PathAndQuery::try_from(format!("/copilot_grpc.v1.CopilotService/{method}")).unwrap();
            let codec = tonic_prost::ProstCodec::<T, R>::default();
            let messages = tonic::Request::new(ReceiverStream::new(messages));
            Ok(client.client_streaming(messages, path, codec).await?.into_inner())
        });
        Self { message, response }
    }

    async fn send(self, message: T) -> Result<R, Status> {
        self.message.send(message).await.unwrap();
        drop(self.message);
        soon("an answer", self.response).await.unwrap()
    }
}

#[tokio::test]
async fn a_server_that_drains_finishes_what_runs_and_takes_nothing_new() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    let late_send = HalfOpen::<_, SendAndWaitResponse>::open(&facade, "SendAndWait");
    let late_create = HalfOpen::<_, CreateSessionResponse>::open(&facade, "CreateSession");
    // What is called later on the same connection is answered: so these have arrived.
    settle(&facade).await;

    let stop = facade.facade.stop(Duration::from_secs(10));
    let story = async {
        let status = late_send.send(wait("s", "late")).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::Draining);
        let status = late_create.send(CreateSessionRequest::default()).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::Draining);
        assert!(retry_info(&status).is_some());
        turn.finish(&["one"]).await;
        assert_eq!(answer(first).await, "one");
        // It was accepted before.
        cli.turn(&["two"]).await;
        assert_eq!(answer(second).await, "two");
    };
    // The stop first, so that it has begun when the late calls come.
    soon("the end", async { tokio::join!(biased; stop, story) }).await;
    assert_eq!(cli.prompts(), ["first", "second"]);
    assert_eq!((cli.count("session.abort"), cli.count("session.create")), (0, 1));
    assert_eq!(facade.facade.sessions().load(), Load { known: 1, ..Load::default() });
}

#[tokio::test]
async fn turns_that_outlast_the_grace_period_are_stopped() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await.delta("so far").await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    soon("the end", facade.facade.stop(Duration::from_millis(10))).await;
    let status = failure(first).await;
    check_turn(&status, Code::Unavailable, ErrorReason::Draining, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    let status = failure(second).await;
    check_turn(&status, Code::Unavailable, ErrorReason::Draining, DeliveryState::NotDelivered);
    assert_eq!((cli.count("session.abort"), cli.prompts()), (1, vec!["first".to_owned()]));
    assert_eq!(facade.facade.sessions().load(), Load { known: 1, ..Load::default() });
}

// Slow readers.

#[tokio::test]
async fn a_reader_that_stalls_does_not_hold_the_turn_up_and_gets_the_whole_text() {
    const DELTAS: usize = 100_000;
    let (cli, facade) = start().await;
    let stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    let mut frames = Vec::new();
    for n in 0..DELTAS {
        let data = json!({"messageId": "a", "deltaContent": format!("{n}, some more words to fill it up. ")});
        frames.extend(turn.event("assistant.message_delta", data).ephemeral().frame());
    }
    cli.raw(&frames).await;
    turn.message("done").await;
    turn.idle().await;
    facade.at_rest().await;

    let streamed = soon("the end", Streamed::read(stream)).await;
    let text = streamed.text();
    let mut rest = text.as_str();
    for n in 0..DELTAS {
        rest = rest.strip_prefix(&format!("{n}, some more words to fill it up. ")).unwrap();
    }
    assert_eq!(rest, "");
    assert!(streamed.events.len() < DELTAS, "{} events", streamed.events.len());
    assert_eq!(streamed.end.unwrap().content, "done");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_reader_that_stalls_for_good_is_told_so_and_the_turn_goes_on() {
    let (cli, facade) = start().await;
    let mut stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    let mut frames = Vec::new();
    // Of these no two can be joined. The first ones fill HTTP/2's window, the next ones the queue.
    for n in 0..15_000 {
        let progress = json!({"toolCallId": "t", "progressMessage": format!("{n} {}", "x".repeat(500))});
        frames.extend(turn.event("tool.execution_progress", progress).ephemeral().frame());
    }
    cli.raw(&frames).await;
    settle(&facade).await;
    let mut read = 0;
    let status = soon("the end", async {
        loop {
            match stream.message().await {
                Ok(Some(message)) => match message.payload.unwrap() {
                    send_and_stream_response::Payload::Event(event) => {
                        if let Some(Payload::ToolExecutionProgress(progress)) = event.payload {
                            let number = progress.message.split(' ').next().unwrap();
                            assert_eq!(number, read.to_string(), "nothing is skipped");
                            read += 1;
                        }
                    }
                    other => panic!("{other:?}"),
                },
                Ok(None) => panic!("no status"),
                Err(status) => return status,
            }
        }
    })
    .await;
    check(&status, Code::ResourceExhausted, ErrorReason::StreamLagged);
    assert!(read > 8000, "{read}");
    assert_eq!(cli.count("session.abort"), 0);
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    turn.finish(&["one"]).await;
    cli.turn(&["two"]).await;
    assert_eq!(answer(second).await, "two");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count("session.abort"), 0);
}
