//! A caller gets all that its turn has to tell, or hears that it does not, however slowly it reads and however much it is.
//!
//! On the FakeCli, which writes more than a connection holds.

use copilot_grpc::grpc::pb::{DeliveryState, ErrorReason, send_and_stream_response, session_event::Payload};
use serde_json::json;
use tonic::Code;

use super::{answer, check_turn, failure, goes_on, queued, send, settle, start};
use crate::support::{check, facade::Streamed, failure_of, soon};

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
