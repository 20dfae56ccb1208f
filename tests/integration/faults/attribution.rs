//! Each event counts for the turn that it belongs to, and for no other, whenever it comes.
//!
//! On the FakeCli, which sends events early, late, twice, or not at all.

use std::time::Duration;

use copilot_grpc::grpc::pb::{DeliveryState, ErrorReason};
use serde_json::json;
use tonic::Code;

use super::{
    answer, at_rest, check_turn, failure, goes_on, pass, play, queued, send, send_request, settle, start,
};
use crate::support::{
    facade::{Streamed, wait},
    fake_cli::{FakeCli, Options, frame},
    soon,
};

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
    play(&cli, "second", "m2", "of the second").await;
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
    play(&cli, "second", "m2", "of the second").await;
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
