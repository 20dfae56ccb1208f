//! A session that the CLI has unloaded is resumed as it was before its next prompt is sent, and else the prompt is not sent.
//!
//! On the FakeCli, which forgets, unloads and refuses. The top-level `restarts` shows the real CLI.

use std::time::Duration;

use copilot_grpc::{
    grpc::pb::{DeliveryState, ErrorReason, Prompt, SessionState},
    session::Load,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    KEY, answer, at_rest, check_interrupted, check_turn, failure, goes_on, reconnected, send, send_request,
    settle, start, start_after_a_turn, with_key,
};
use crate::support::{
    facade::{prompt, wait, wait_with},
    failure_of,
    fake_cli::FakeCli,
};

#[tokio::test]
async fn a_connection_lost_while_the_session_is_resumed_costs_the_turn_nothing() {
    let (cli, facade) = start_after_a_turn().await;
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
    let (cli, facade) = start_after_a_turn().await;
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
    let session = facade.get("k").await.unwrap();
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
async fn a_prompt_whose_deadline_passes_while_its_session_is_resumed_is_not_delivered() {
    let (cli, facade) = start_after_a_turn().await;
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

#[tokio::test]
async fn a_session_that_cannot_be_made_safe_again_is_not_sent_to() {
    let (cli, facade) = start_after_a_turn().await;
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
