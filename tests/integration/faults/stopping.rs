//! A turn that is aborted, left by its caller or out of time ends at once, its agent is stopped, and the next turn starts.
//!
//! On the FakeCli, which is silent, frozen or does not stop, in time that the test lets pass. The top-level `stopping` shows the real CLI.

use std::time::Duration;

use copilot_grpc::grpc::pb::{CreateSessionRequest, DeliveryState, ErrorReason, OnDisconnect, Prompt};
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;

use super::{
    SECOND, answer, at_rest, check_turn, end, failure, goes_on, link, pass, play, queued, send, send_request,
    settle, start, start_with,
};
use crate::support::{
    facade::{abort, prompt, wait, wait_with, within},
    failure_of,
    fake_cli::FakeCli,
    until,
};

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
    play(&cli, "second", "m2", "of the second").await;
    assert_eq!(answer(second).await, "of the second");
    goes_on(&cli, &facade).await;
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
