//! Bytes that are no message end the connection, and messages that are unknown or too large cost no more than they must.
//!
//! Frames and messages are written by hand on a FakeCli's connection.

use copilot_grpc::grpc::pb::{
    DeliveryState, ErrorReason, ListModelsRequest, SendAndStreamRequest, session_event::Payload,
};
use serde_json::json;
use tonic::Code;

use super::{
    answer, at_rest, check_interrupted, check_turn, failure, goes_on, reconnected, send, start, start_with,
};
use crate::support::{
    check,
    facade::{Streamed, stream},
    failure_of,
    fake_cli::frame,
    soon,
};

/// The data of the events of a kind that has no field of its own.
fn others<'a>(streamed: &'a Streamed, kind: &str) -> Vec<&'a str> {
    let others = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::Other(other) if other.r#type == kind => Some(other.data_json.as_str()),
        _ => None,
    });
    others.collect()
}

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
    cli.manual("models.list");
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    let mut client = facade.client();
    let list = tokio::spawn(async move { client.list_models(ListModelsRequest::default()).await });
    cli.next("models.list").await.answer(json!({"models": [], "more": "x".repeat(2 << 20)})).await;
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
