//! Each caller gets the answer to its own prompt, and a turn that ends before its end says why; on the real CLI.

use std::{sync::Arc, time::Duration};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        DeleteSessionRequest, DeliveryState, ErrorReason, OnDisconnect, Prompt, SendAndStreamRequest,
        send_and_stream_response::Payload, session_event::Payload as Event,
    },
};
use scripted_model::{Call, CallState, Reply, Request};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Streamed, TestFacade, abort, prompt, stream, stream_with, wait, wait_with, within},
    failure_of,
    real_cli::{self, RealCli},
    soon,
};

/// Echoes, and is slow or fails where the prompt says so.
fn script(request: &Request) -> Reply {
    let prompt = request.prompt();
    match prompt.split_once(' ').unwrap_or((prompt, "")) {
        ("slow", _) => Reply::chunks((0..1_000).map(|n| format!("{n} "))).every(Duration::from_millis(20)),
        ("pages", count) => Reply::chunks((0..count.parse().unwrap()).map(page)),
        ("words", count) => Reply::chunks((0..count.parse().unwrap()).map(|n| format!("{n} "))),
        ("status", code) => Reply::status(code.parse().unwrap(), "no, says the model"),
        ("hang", _) => Reply::hang(),
        ("close", _) => Reply::close(),
        _ => Reply::text(format!("You said: {prompt}")),
    }
}

/// A large piece of a large answer.
fn page(n: usize) -> String {
    format!("{n}: {}\n", "lorem ipsum ".repeat(100))
}

async fn start() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    (cli, facade)
}

/// Waits until a model call was dropped before its end, which is how an agent that was stopped shows.
async fn agent_stopped(cli: &RealCli) {
    let dropped = |calls: &[Call]| calls.iter().any(|call| call.state == CallState::Dropped);
    soon("the agent dropped its model call", cli.model.wait_for(dropped)).await;
}

/// Waits until the model is being asked this.
async fn model_is_asked(cli: &RealCli, prompt: &str) {
    let asked = |calls: &[Call]| calls.iter().any(|call| call.request.prompt() == prompt);
    soon("the model was asked", cli.model.wait_for(asked)).await;
}

fn seconds(seconds: f64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_secs_f64(seconds)).ok()
}

/// The beginning of the slow answer, however far it came.
fn is_beginning_of_slow_answer(text: &str) -> bool {
    let whole: String = (0..1_000).map(|n| format!("{n} ")).collect();
    !text.is_empty() && whole.starts_with(text)
}

#[tokio::test]
async fn concurrent_callers_of_one_session_each_get_the_answer_to_their_own_prompt_in_order() {
    let (cli, facade) = start().await;
    facade.create("shared").await;
    let facade = Arc::new(facade);
    let prompts = ["one", "two", "three", "four", "five"];
    // On one connection, so that they arrive in this order.
    let sends = prompts.map(|prompt| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send("shared", prompt).await.unwrap() })
    });
    for (send, prompt) in sends.into_iter().zip(prompts) {
        let result = soon("an answer", send).await.unwrap();
        assert_eq!(result.content, format!("You said: {prompt}"));
    }
    let asked: Vec<_> = cli.model.calls().iter().map(|call| call.request.prompt().to_owned()).collect();
    assert_eq!(asked, prompts);
}

#[tokio::test]
async fn a_stream_gives_every_delta_in_order_and_the_result_last() {
    let (_cli, facade) = start().await;
    facade.create("s").await;
    let streamed = Streamed::read(facade.stream("s", "words 50").await.unwrap()).await;
    let result = streamed.end.as_ref().unwrap();
    let whole: String = (0..50).map(|n| format!("{n} ")).collect();
    assert_eq!((streamed.text(), result.content.clone()), (whole.clone(), whole));
    let kinds: Vec<_> = streamed.events.iter().map(|event| event.payload.as_ref().unwrap()).collect();
    let first = kinds.iter().position(|kind| matches!(kind, Event::UserMessage(_))).unwrap();
    let started = kinds.iter().position(|kind| matches!(kind, Event::AssistantTurnStart(_))).unwrap();
    let message = kinds.iter().position(|kind| matches!(kind, Event::AssistantMessage(_))).unwrap();
    assert!(first < started && started < message, "{kinds:?}");
    assert!(matches!(kinds.last().unwrap(), Event::SessionIdle(_)), "{kinds:?}");
    assert!(
        !kinds.iter().any(|kind| matches!(kind, Event::Other(_))),
        "only the useful events are sent by default"
    );
    let usage = result.usage.as_ref().unwrap();
    assert_eq!((usage.model_calls, usage.input_tokens, usage.output_tokens), (1, 2, 50));
}

#[tokio::test]
async fn a_caller_can_ask_for_other_events_and_only_gets_those() {
    let (_cli, facade) = start().await;
    facade.create("s").await;
    let request = SendAndStreamRequest {
        event_types: vec!["system.*".into(), "session.idle".into()],
        ..stream("s", "hello")
    };
    let stream = facade.send_and_stream(request).await.unwrap();
    let streamed = Streamed::read(stream).await;
    let kinds: Vec<_> = streamed.events.iter().map(|event| event.payload.as_ref().unwrap()).collect();
    match kinds.as_slice() {
        [Event::Other(system), Event::SessionIdle(_)] => {
            assert_eq!(system.r#type, "system.message");
            let data: serde_json::Value = serde_json::from_str(&system.data_json).unwrap();
            assert!(data["content"].is_string(), "{data}");
        }
        other => panic!("{other:?}"),
    }
}

/// How long these turns may take: enough for the first words on a busy machine, and less than the answer.
const LIMIT: Duration = Duration::from_secs(4);

/// A turn that ran into its time limit: in time, with what there was of it, and with the agent stopped.
async fn ended_by_its_time_limit(cli: &RealCli, began: Instant, status: Status) {
    let took = began.elapsed();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert!(took < LIMIT + Duration::from_secs(1), "{took:?}");
    let failure = failure_of(&status);
    assert_eq!(failure.delivery(), DeliveryState::Delivered);
    assert!(is_beginning_of_slow_answer(&failure.partial_content), "{failure:?}");
    assert_eq!(failure.last_event_type, "assistant.message_delta");
    agent_stopped(cli).await;
}

#[tokio::test]
async fn a_timeout_ends_the_turn_in_time_with_its_partial_text_and_stops_the_agent() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let began = Instant::now();
    let request = wait_with("s", Prompt { timeout: seconds(LIMIT.as_secs_f64()), ..prompt("slow answer") });
    let status = facade.send_and_wait(request).await.unwrap_err();
    ended_by_its_time_limit(&cli, began, status).await;
    let next = soon("the next turn", facade.send("s", "and now")).await.unwrap();
    assert_eq!(next.content, "You said: and now");
}

#[tokio::test]
async fn an_answer_with_its_details_reaches_the_caller_before_its_grpc_deadline() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let began = Instant::now();
    let request = within(LIMIT, wait("s", "slow answer"));
    let status = facade.send_and_wait(request).await.unwrap_err();
    ended_by_its_time_limit(&cli, began, status).await;
}

#[tokio::test]
async fn a_stream_keeps_to_its_grpc_deadline_too() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let began = Instant::now();
    let request = stream("s", "slow answer");
    let request = within(LIMIT, request);
    let stream = facade.send_and_stream(request).await.unwrap();
    let streamed = Streamed::read(stream).await;
    assert!(is_beginning_of_slow_answer(&streamed.text()));
    ended_by_its_time_limit(&cli, began, streamed.end.unwrap_err()).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_the_agent() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let client = facade.connect().await;
    let call = tokio::spawn(async move { { client }.send_and_wait(wait("s", "slow answer")).await });
    model_is_asked(&cli, "slow answer").await;
    call.abort();
    agent_stopped(&cli).await;
    facade.at_rest().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_stops_the_agent() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let stream = facade.stream("s", "slow answer").await.unwrap();
    model_is_asked(&cli, "slow answer").await;
    drop(stream);
    agent_stopped(&cli).await;
    facade.at_rest().await;
}

#[tokio::test]
async fn a_turn_that_was_told_to_goes_on_without_its_caller() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let request = wait_with(
        "s",
        Prompt {
            timeout: seconds(0.3),
            on_disconnect: OnDisconnect::Continue.into(),
            ..prompt("words 8000")
        },
    );
    let status = facade.send_and_wait(request).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    // The next turn waits for it, and the agent remembers it. Older CLIs take half a minute for so many words.
    let next =
        timeout(Duration::from_secs(120), facade.send("s", "and now")).await.expect("the next turn").unwrap();
    assert_eq!(next.content, "You said: and now");
    let calls = cli.model.calls();
    assert!(calls.iter().all(|call| call.state == CallState::Completed), "{:?}", calls.len());
    let remembered = &calls.last().unwrap().request.messages;
    assert!(remembered.iter().any(|message| message.content.ends_with("7999 ")));
}

#[tokio::test]
async fn a_turn_can_be_aborted_and_the_next_one_in_the_queue_starts() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let idle = facade.client().abort_turn(abort("s")).await.unwrap();
    assert_eq!(idle.into_inner().message_id, None);
    let facade = Arc::new(facade);
    let [running, queued] = ["slow answer", "queued"].map(|prompt| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send("s", prompt).await })
    });
    model_is_asked(&cli, "slow answer").await;
    let aborted = facade.client().abort_turn(abort("s")).await.unwrap();
    let status = soon("the end of the turn", running).await.unwrap().unwrap_err();
    check(&status, Code::Aborted, ErrorReason::TurnAborted);
    let failure = failure_of(&status);
    assert_eq!(failure.delivery(), DeliveryState::Delivered);
    assert_eq!(aborted.into_inner().message_id, Some(failure.message_id));
    agent_stopped(&cli).await;
    assert_eq!(soon("the queued turn", queued).await.unwrap().unwrap().content, "You said: queued");
}

#[tokio::test]
async fn deleting_a_session_ends_its_turns_at_once() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let facade = Arc::new(facade);
    let [running, queued] = ["slow answer", "queued"].map(|prompt| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send("s", prompt).await })
    });
    model_is_asked(&cli, "slow answer").await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    for (call, delivery) in [(running, DeliveryState::Delivered), (queued, DeliveryState::NotDelivered)] {
        let status = soon("the end of a turn", call).await.unwrap().unwrap_err();
        check(&status, Code::Aborted, ErrorReason::TurnAborted);
        assert_eq!(failure_of(&status).delivery(), delivery);
    }
    agent_stopped(&cli).await;
    check(&facade.send("s", "gone").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn killing_the_cli_ends_its_turns_at_once_and_says_what_was_delivered() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let facade = Arc::new(facade);
    let [running, queued] = ["slow answer", "queued"].map(|prompt| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send("s", prompt).await })
    });
    model_is_asked(&cli, "slow answer").await;
    cli.kill();
    let killed = Instant::now();
    let status = soon("the end of the turn", running).await.unwrap().unwrap_err();
    assert!(killed.elapsed() < Duration::from_secs(1));
    check(&status, Code::Unavailable, ErrorReason::TurnInterrupted);
    assert_eq!(failure_of(&status).delivery(), DeliveryState::Delivered);
    let status = soon("the end of the queued turn", queued).await.unwrap().unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert_eq!(failure_of(&status).delivery(), DeliveryState::NotDelivered);
    facade.at_rest().await;
}

#[tokio::test]
async fn a_reader_that_stops_does_not_hold_up_its_turn_or_the_next_and_still_gets_the_whole_text() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    // On a connection of its own, whose flow control it will fill.
    let request = stream("s", "pages 2000");
    let mut stalled = facade.connect().await.send_and_stream(request).await.unwrap().into_inner();
    assert!(matches!(stalled.message().await.unwrap().unwrap().payload, Some(Payload::Event(_))));
    model_is_asked(&cli, "pages 2000").await;
    let fast = soon("the fast reader", async {
        Streamed::read(facade.stream("s", "words 200").await.unwrap()).await
    });
    let fast = fast.await;
    assert_eq!(fast.text(), (0..200).map(|n| format!("{n} ")).collect::<String>());
    facade.at_rest().await;
    let slow = soon("the slow reader", Streamed::read(stalled)).await;
    let whole: String = (0..2_000).map(page).collect();
    assert_eq!((slow.text().len(), slow.text() == whole), (whole.len(), true));
    assert_eq!(slow.end.unwrap().content, whole);
    let deltas =
        slow.events.iter().filter(|e| matches!(e.payload, Some(Event::AssistantMessageDelta(_)))).count();
    assert!(deltas < 2_000, "{deltas} of 2000 deltas");
}

#[tokio::test]
async fn a_provider_that_refuses_ends_the_turn_with_the_reason() {
    let (_cli, facade) = start().await;
    facade.create("s").await;
    let status = soon("400", facade.send("s", "status 400")).await.unwrap_err();
    check(&status, Code::Internal, ErrorReason::AgentError);
    assert!(status.message().contains("no, says the model"), "{status:?}");
    let status = soon("401", facade.send("s", "status 401")).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::ProviderAuth);
    let next = soon("the next turn", facade.send("s", "still there")).await.unwrap();
    assert_eq!(next.content, "You said: still there");
}

/// The longest tests, a minute: the CLI tries again and again before it gives up.
#[tokio::test]
async fn a_provider_that_keeps_failing_ends_the_turn_when_the_cli_gives_up() {
    let (_cli, facade) = start().await;
    let facade = Arc::new(facade);
    let cases = [
        ("status 429", Code::ResourceExhausted, ErrorReason::ProviderRateLimit),
        ("status 500", Code::Unavailable, ErrorReason::ProviderUnavailable),
        ("close", Code::Unavailable, ErrorReason::ProviderUnavailable),
    ];
    let turns = cases.map(|(prompt, code, reason)| {
        let facade = facade.clone();
        tokio::spawn(async move {
            let id = prompt.replace(' ', "-");
            facade.create(&id).await;
            let status = facade.send(&id, prompt).await.unwrap_err();
            check(&status, code, reason);
            assert_eq!(failure_of(&status).delivery(), DeliveryState::Delivered);
        })
    });
    for turn in turns {
        turn.await.unwrap();
    }
}

#[tokio::test]
async fn a_provider_that_never_answers_is_given_up_when_the_caller_says() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    let request = wait_with("s", Prompt { inactivity_timeout: seconds(3.0), ..prompt("hang") });
    let status = soon("inactivity", facade.send_and_wait(request)).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnInactive);
    agent_stopped(&cli).await;
}

#[tokio::test]
async fn retries_of_the_model_call_are_seen_on_the_stream_where_the_cli_tells_of_them() {
    let (_cli, facade) = start().await;
    facade.create("s").await;
    let request = stream_with("s", Prompt { timeout: seconds(3.0), ..prompt("status 500") });
    let stream = facade.send_and_stream(request).await.unwrap();
    let streamed = Streamed::read(stream).await;
    let retried =
        |event: &Event| matches!(event, Event::AssistantTurnRetry(retry) if retry.reason == "api_error");
    let seen = streamed.events.iter().any(|event| retried(event.payload.as_ref().unwrap()));
    // The native runtime does not (1.0.89).
    assert_eq!(seen, real_cli::form() == Form::Node, "{:?}", streamed.events);
    check(&streamed.end.unwrap_err(), Code::DeadlineExceeded, ErrorReason::TurnTimeout);
}
