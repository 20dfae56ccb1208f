//! A failed turn's caller is told whether its prompt was delivered, was not, or may have been; and nothing is sent twice.
//!
//! On the FakeCli, which is lost at a moment of the test's choice. The top-level `delivery` shows the real CLI, which is killed and cut.

use std::{sync::Arc, time::Duration};

use copilot_grpc::{
    grpc::pb::{DeliveryState, ErrorReason, ListModelsRequest, Prompt},
    session::Load,
};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    SECOND, answer, at_rest, check_interrupted, check_turn, failure, goes_on, pass, queued, reconnected,
    retry_info, send, send_request, settle, start, start_after_a_turn, start_with,
};
use crate::support::{
    check,
    facade::{prompt, wait, wait_with, within},
    failure_of,
};

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
    let models = facade.client().list_models(ListModelsRequest::default()).await.unwrap_err();
    check(&models, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert!(retry_info(&models).is_some());
    facade.serving("liveness").await;
    facade.at_rest().await;
    assert_eq!(cli.prompts(), Vec::<String>::new());
    assert_eq!(facade.facade.sessions().load(), Load { known: 1, ..Load::default() });
}

#[tokio::test]
async fn a_prompt_to_a_session_that_is_gone_without_a_word_is_not_delivered() {
    let (cli, facade) = start_after_a_turn().await;
    cli.forget("s");
    let status = facade.send("s", "second").await.unwrap_err();
    check_turn(&status, Code::NotFound, ErrorReason::SessionNotFound, DeliveryState::NotDelivered);
    at_rest(&facade).await;
}

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
