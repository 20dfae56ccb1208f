//! What is to be stopped is stopped, and nothing else is.
//!
//! A prompt that waits in the CLI is withdrawn, another client's turn is left alone, a compaction that is given up ends, and nothing is
//! sent to a session that has been deleted. On a FakeCli, and on the real one. What becomes of the server's own turns is in
//! `faults::stopping`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, BackendStanding, CloseSessionRequest, CompactSessionRequest, CreateSessionRequest,
    DeliveryState, ErrorReason, GetServerInfoRequest, InfiniteSession, Prompt, SendAndWaitRequest,
    SessionState, TurnResult,
};
use scripted_model::{Call, CallState, Reply, Request};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{TestFacade, prompt, wait_with, within},
    failure_of,
    fake_cli::FakeCli,
    real_cli::{RealCli, asks_for_a_summary},
    soon,
};

async fn fake() -> (FakeCli, TestFacade) {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.create("s").await;
    (cli, facade)
}

/// Sends a prompt with a time limit, from a connection of its own.
fn send(facade: &TestFacade, prompt: &str, timeout: Duration) -> JoinHandle<Result<TurnResult, Status>> {
    let (mut client, request) = (facade.client(), limited(prompt, timeout));
    tokio::spawn(async move { Ok(client.send_and_wait(request).await?.into_inner().result.unwrap()) })
}

fn limited(text: &str, timeout: Duration) -> SendAndWaitRequest {
    wait_with("s", Prompt { timeout: Some(timeout.try_into().unwrap()), ..prompt(text) })
}

async fn ended<T>(task: JoinHandle<T>) -> T {
    soon("the end of a call", task).await.unwrap()
}

/// Stops what runs in the session; the message that it was, if anything ran.
async fn abort(facade: &TestFacade) -> Option<String> {
    let request = AbortTurnRequest { session_id: "s".into(), ..Default::default() };
    soon("an abort", facade.client().abort_turn(request)).await.unwrap().into_inner().message_id
}

const LONG: Duration = Duration::from_secs(60);

/// Another client's prompt is what the agent is at work on.
async fn another_runs(cli: &FakeCli) {
    cli.event("s", "user.message", json!({"content": "theirs", "messageId": "theirs"})).await;
}

/// Takes a prompt as the CLI does that has other things to do.
async fn takes_into_queue(cli: &FakeCli, message: &str) {
    let call = cli.next("session.send").await;
    cli.queue("s", message);
    call.answer(json!({"messageId": message})).await;
}

#[tokio::test]
async fn a_prompt_that_waits_in_the_cli_is_not_over_because_the_session_is_not_busy() {
    let (cli, facade) = fake().await;
    let sending = send(&facade, "p", LONG);
    // Behind a compaction, of which the CLI says nothing.
    takes_into_queue(&cli, "m1").await;
    cli.busy("s", false);
    // Two looks after silence, and the turn goes on.
    cli.called("session.queue.pendingItems", 2).await;
    assert!(!sending.is_finished());
    cli.event("s", "user.message", json!({"content": "p", "messageId": "m1"})).await;
    let answer = json!({"messageId": "a", "content": "late", "originatingMessageId": "m1"});
    cli.event("s", "assistant.message", answer).await;
    cli.event("s", "session.idle", json!({})).ephemeral().await;
    assert_eq!(ended(sending).await.unwrap().content, "late");
}

#[tokio::test]
async fn a_prompt_that_somebody_took_out_of_the_clis_queue_was_stopped() {
    let (cli, facade) = fake().await;
    let sending = send(&facade, "p", LONG);
    let call = cli.next("session.send").await;
    call.answer(json!({"messageId": "m1"})).await;
    cli.busy("s", false);
    check(&ended(sending).await.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);
}

#[tokio::test]
async fn a_prompt_that_waits_behind_another_clients_turn_is_withdrawn_at_its_deadline_and_that_turn_is_left_alone()
 {
    let (cli, facade) = fake().await;
    another_runs(&cli).await;
    let sending = send(&facade, "p", Duration::from_secs(1));
    takes_into_queue(&cli, "m1").await;
    let status = ended(sending).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert_eq!(failure_of(&status).delivery(), DeliveryState::NotDelivered);
    facade.at_rest().await;
    assert_eq!((cli.count("session.queue.removeAt"), cli.count("session.abort")), (1, 0));
}

#[tokio::test]
async fn a_prompt_that_cannot_be_withdrawn_is_told_to_be_delivered_and_withdrawn_later() {
    let (cli, facade) = fake().await;
    another_runs(&cli).await;
    cli.manual("session.queue.pendingItems");
    let sending = send(&facade, "p", Duration::from_secs(1));
    takes_into_queue(&cli, "m1").await;
    // It is not answered in time.
    let late = cli.next("session.queue.pendingItems").await;
    let status = ended(sending).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert_eq!(failure_of(&status).delivery(), DeliveryState::Delivered);
    late.answer_as_usual().await;
    cli.automatic("session.queue.pendingItems");
    cli.next("session.queue.pendingItems").await.answer_as_usual().await;
    facade.at_rest().await;
    assert_eq!((cli.count("session.queue.removeAt"), cli.count("session.abort")), (1, 0));
}

#[tokio::test]
async fn what_another_client_runs_is_shown_and_can_be_stopped() {
    let (cli, facade) = fake().await;
    assert_eq!((facade.get("s").await.unwrap().state(), abort(&facade).await), (SessionState::Idle, None));
    another_runs(&cli).await;
    cli.busy("s", true);
    soon("it is heard", async { while facade.get("s").await.unwrap().state() != SessionState::Running {} })
        .await;
    assert_eq!(abort(&facade).await.as_deref(), Some("theirs"));
    assert_eq!(cli.count("session.abort"), 1);
    assert_eq!((facade.get("s").await.unwrap().state(), abort(&facade).await), (SessionState::Idle, None));
}

#[tokio::test]
async fn that_another_clients_turn_has_ended_is_found_out_where_it_was_not_heard() {
    let (cli, facade) = fake().await;
    another_runs(&cli).await;
    cli.busy("s", false);
    assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Idle);
}

#[tokio::test]
async fn a_model_that_another_client_has_set_is_shown_and_not_taken_back() {
    let (cli, facade) = fake().await;
    cli.event("s", "session.model_change", json!({"previousModel": "", "newModel": "theirs"})).await;
    // It is stored with the session, where the next server finds it.
    let store = facade.facade.sessions().store();
    let stored = async || store.find("", "s").await.unwrap().unwrap().facts.model;
    soon("the model is stored", async { while stored().await != "theirs" {} }).await;
    assert_eq!(facade.get("s").await.unwrap().model, "theirs");
    cli.turn_of(&facade, "s").await;
    cli.unload("s");
    cli.turn_of(&facade, "s").await;
    assert!(cli.called("session.resume", 1).await.get("model").is_none());
    assert_eq!(facade.get("s").await.unwrap().model, "theirs");
}

#[tokio::test]
async fn a_session_that_another_client_has_deleted_and_made_anew_is_not_touched() {
    let (cli, facade) = fake().await;
    let sending = send(&facade, "p", LONG);
    cli.begin().await;
    cli.manual("session.metadata.snapshot");
    cli.lifecycle("session.deleted", "s").await;
    let look = cli.next("session.metadata.snapshot").await;
    look.answer(json!({"sessionId": "s", "startTime": "2026-11-28T00:00:00.000Z"})).await;
    check(&ended(sending).await.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);
    facade.at_rest().await;
    assert_eq!(cli.count("session.abort"), 0);
}

#[tokio::test]
async fn a_session_whose_agent_does_not_stop_is_closed_and_loaded_anew_and_the_cli_is_not_blamed() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().flag("--max-running-turns=1").flag("--eject-after=1").start().await;
    facade.create("s").await;
    facade.create("other").await;
    cli.turn_of(&facade, "s").await;
    cli.manual("session.abort");
    let sending = send(&facade, "p", Duration::from_secs(1));
    cli.begin().await;
    check(&ended(sending).await.unwrap_err(), Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    cli.next("session.abort").await;
    // Its place among the running turns is free at once.
    cli.turn_of(&facade, "other").await;
    // In the end the session is left.
    cli.called("session.detach", 1).await;
    facade.at_rest().await;
    cli.turn_of(&facade, "s").await;
    assert_eq!(cli.count("session.resume"), 1);
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.backends[0].standing(), BackendStanding::Open);
}

/// Compactions hang, and answers echo.
fn script(request: &Request) -> Reply {
    match request.prompt() {
        prompt if asks_for_a_summary(prompt) => Reply::hang(),
        prompt if prompt.ends_with("hang") => Reply::hang(),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

async fn real() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let facade = used(facade).await;
    (cli, facade)
}

/// With a session of two turns.
async fn used(facade: TestFacade) -> TestFacade {
    facade.create("s").await;
    for prompt in ["one", "two"] {
        soon("a turn", facade.send("s", prompt)).await.unwrap();
    }
    facade
}

fn is_compaction(call: &Call) -> bool {
    asks_for_a_summary(call.request.prompt())
}

async fn compaction_runs(cli: &RealCli) {
    let runs =
        |calls: &[Call]| calls.iter().any(|call| is_compaction(call) && call.state == CallState::Running);
    soon("a compaction", cli.model.wait_for(runs)).await;
}

fn compact(facade: &TestFacade, deadline: Duration) -> JoinHandle<Result<(), Status>> {
    let mut client = facade.client();
    let request = within(deadline, CompactSessionRequest { session_id: "s".into() });
    tokio::spawn(async move { client.compact_session(request).await.map(|_| ()) })
}

/// The next prompt is answered soon, and the model is asked for it once.
async fn goes_on(cli: &RealCli, facade: &TestFacade) {
    assert_eq!(soon("the next turn", facade.send("s", "next")).await.unwrap().content, "You said: next");
    let calls = cli.model.calls();
    assert_eq!(calls.iter().filter(|call| call.request.prompt() == "next").count(), 1);
    assert!(calls.iter().filter(|call| is_compaction(call)).all(|call| call.state == CallState::Dropped));
}

#[tokio::test]
async fn a_compaction_ends_at_its_deadline_and_the_next_prompt_runs_once() {
    let (cli, facade) = real().await;
    let status = ended(compact(&facade, Duration::from_secs(2))).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_compaction_ends_with_its_caller() {
    let (cli, facade) = real().await;
    let compacting = compact(&facade, LONG);
    compaction_runs(&cli).await;
    compacting.abort();
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_compaction_can_be_aborted_and_is_shown_to_run() {
    let (cli, facade) = real().await;
    let compacting = compact(&facade, LONG);
    compaction_runs(&cli).await;
    assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Running);
    assert_eq!(abort(&facade).await.as_deref(), Some(""));
    check(&ended(compacting).await.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);
    goes_on(&cli, &facade).await;
    assert_eq!(abort(&facade).await, None);
}

#[tokio::test]
async fn closing_a_session_waits_for_its_compaction_and_no_longer_than_it_may() {
    let (cli, facade) = real().await;
    let compacting = compact(&facade, Duration::from_secs(3));
    compaction_runs(&cli).await;
    let close = || CloseSessionRequest { session_id: "s".into() };
    let early = facade.client().close_session(within(Duration::from_secs(1), close())).await.unwrap_err();
    check(&early, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    soon("the closing", facade.client().close_session(close())).await.unwrap();
    check(&ended(compacting).await.unwrap_err(), Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Unloaded);
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn two_servers_on_one_cli_do_not_stop_each_others_turns_by_a_deadline_and_can_by_an_abort() {
    let cli = RealCli::start(script).await;
    let one = used(cli.setup().beside().start().await).await;
    let other = cli.setup().beside().start().await;
    soon("a turn", other.send("s", "three")).await.unwrap();
    let hanging = send(&one, "first hang", LONG);
    let asked = |calls: &[Call]| calls.iter().any(|call| call.request.prompt() == "first hang");
    soon("the model is asked", cli.model.wait_for(asked)).await;
    // It waits in the CLI, and is withdrawn.
    let status = ended(send(&other, "second", Duration::from_secs(2))).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert_eq!(failure_of(&status).delivery(), DeliveryState::NotDelivered);
    other.at_rest().await;
    assert!(!hanging.is_finished());
    assert_eq!(other.get("s").await.unwrap().state(), SessionState::Running);
    assert!(abort(&other).await.is_some_and(|message| !message.is_empty()));
    check(&ended(hanging).await.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);
    goes_on(&cli, &other).await;
    assert!(cli.model.calls().iter().all(|call| call.request.prompt() != "second"));
}

#[tokio::test]
async fn a_turn_that_hangs_in_a_compaction_ends_at_its_deadline_and_the_session_goes_on() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let cli = RealCli::start(move |request| match request.prompt() {
        prompt if asks_for_a_summary(prompt) && is_mended.load(Ordering::Relaxed) => Reply::text("a summary"),
        _ => script(request),
    });
    let cli = cli.await;
    let facade = cli.facade().await;
    // So little of the model's 128,000 tokens that a few prompts are too many.
    let infinite_session = Some(InfiniteSession {
        background_compaction_threshold: 0.02,
        buffer_exhaustion_threshold: 0.03,
        ..Default::default()
    });
    let request = CreateSessionRequest { session_id: "s".into(), infinite_session, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let long = "a long prompt ".repeat(200);
    let status = soon("a turn that waits for a compaction", async {
        loop {
            if let Err(status) = facade.send_and_wait(limited(&long, Duration::from_secs(3))).await {
                return status;
            }
        }
    });
    let status = status.await;
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert!(cli.model.calls().iter().any(is_compaction));
    facade.at_rest().await;
    mended.store(true, Ordering::Relaxed);
    soon("the next turn", facade.send("s", "next")).await.unwrap();
    assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Idle);
}
