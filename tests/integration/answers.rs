//! An answer that comes in parts is given whole, and one that was cut says so; on the real CLI.

use std::sync::Arc;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, FinishReason, Prompt, Provider, TurnResult, session_event::Payload,
};
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Streamed, TestFacade, abort, prompt, wait_with, watching},
    failure_of,
    fake_cli::FakeCli,
    real_cli::{MODEL, RealCli},
    soon,
};

/// Answers the first prompt of the session, as far as it has come.
fn script(request: &Request) -> Reply {
    let prompt = request.messages.iter().find(|message| message.role == "user").unwrap().content.as_str();
    let prompt = prompt.rsplit('\n').next().unwrap();
    let said = request.messages.iter().filter(|message| message.role == "assistant").count();
    let looking = |text: &str| Reply::text(text).calling("look", json!({}));
    match (prompt, said) {
        ("parts" | "tool" | "cut-tool" | "fails" | "hangs", 0) => Reply::text("PART-ONE. ").finish("length"),
        ("parts", 1) => Reply::text("PART-TWO. ").finish("length"),
        ("tool", 1) => looking("PART-TWO. "),
        ("cut-tool", 1) => looking("PART-TWO. ").finish("length"),
        ("fails", _) => Reply::status(400, "no more"),
        ("hangs", _) => Reply::hang(),
        ("endless", _) => Reply::text("more ").finish("length"),
        ("closing" | "blank", 0) => looking("the text"),
        ("closing", _) => Reply::text(""),
        ("blank", _) => Reply::text(" \n"),
        ("remark", 0) => looking("I am looking. "),
        ("remark", _) => Reply::text("Found."),
        ("filter", _) => Reply::text("half").finish("content_filter"),
        ("filtered", _) => Reply::text("").finish("content_filter"),
        ("refuse", _) => Reply::text("I").finish("refusal"),
        ("think", _) => Reply::reasoning("hm"),
        ("json", 0) => Reply::text(r#"{"n": "#).finish("length"),
        ("json", _) => Reply::text("3}"),
        ("half-json", _) => Reply::text(r#"{"n": ["#).finish("length"),
        _ => Reply::text("PART-THREE."),
    }
}

/// Sends a prompt to a session of its own, which is named after it.
async fn ask(facade: &TestFacade, prompt: &str) -> Result<TurnResult, Status> {
    facade.create(prompt).await;
    soon(prompt, facade.send(prompt, prompt)).await
}

const WHOLE: &str = "PART-ONE. PART-TWO. PART-THREE.";

#[tokio::test]
async fn an_answer_that_the_model_wrote_in_parts_has_all_of_them() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for prompt in ["parts", "tool", "cut-tool"] {
        let answer = ask(&facade, prompt).await.unwrap();
        assert_eq!((&*answer.content, answer.finish_reason()), (WHOLE, FinishReason::Stop), "{prompt}");
    }
    let endless = ask(&facade, "endless").await.unwrap();
    assert_eq!((&*endless.content, endless.finish_reason()), ("more more more ", FinishReason::Length));
}

#[tokio::test]
async fn who_streams_reads_all_parts_and_how_each_ended() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let stream = Streamed::read(facade.stream("s", "parts").await.unwrap());
    let streamed = soon("the turn", stream).await;
    assert_eq!((streamed.text().as_str(), streamed.end.as_ref().unwrap().content.as_str()), (WHOLE, WHOLE));
    let ends = streamed.events.iter().filter_map(|event| match &event.payload {
        Some(Payload::AssistantUsage(usage)) => Some(usage.finish_reason()),
        _ => None,
    });
    use FinishReason::{Length, Stop};
    assert_eq!(ends.collect::<Vec<_>>(), [Length, Length, Stop]);
}

#[tokio::test]
async fn an_answer_in_parts_is_whole_with_anthropics_models_too() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let base_url = cli.model.base_url().trim_end_matches("/v1").to_owned();
    let provider =
        Provider { r#type: "anthropic".into(), base_url, api_key: "own-key".into(), ..Default::default() };
    let ask = async |prompt: &str| {
        let request = CreateSessionRequest {
            session_id: prompt.into(),
            model: MODEL.into(),
            provider: Some(provider.clone()),
            ..Default::default()
        };
        facade.client().create_session(request).await.unwrap();
        let answer = soon(prompt, facade.send(prompt, prompt)).await.unwrap();
        (answer.content.clone(), answer.finish_reason())
    };
    assert_eq!(ask("parts").await, (WHOLE.to_owned(), FinishReason::Stop));
    // As the CLI tells of a refusal.
    assert_eq!(ask("refuse").await, ("I".to_owned(), FinishReason::ContentFilter));
}

#[tokio::test]
async fn a_closing_message_without_text_does_not_wipe_the_answer() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for prompt in ["closing", "blank"] {
        let answer = ask(&facade, prompt).await.unwrap();
        assert_eq!((&*answer.content, answer.finish_reason()), ("the text", FinishReason::Stop), "{prompt}");
    }
    assert_eq!(ask(&facade, "remark").await.unwrap().content, "Found.");
}

#[tokio::test]
async fn an_answer_that_was_cut_or_has_no_text_says_so() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for (prompt, content, expected) in [
        ("filter", "half", FinishReason::ContentFilter),
        ("refuse", "I", FinishReason::Refusal),
        ("think", "", FinishReason::Other),
    ] {
        let answer = ask(&facade, prompt).await.unwrap();
        assert_eq!((&*answer.content, answer.finish_reason()), (content, expected), "{prompt}");
    }
    // Here the CLI speaks itself.
    let filtered = ask(&facade, "filtered").await.unwrap();
    assert_eq!(filtered.finish_reason(), FinishReason::ContentFilter);
    assert!(filtered.content.contains("content filtering"), "{}", filtered.content);
}

/// A schema of an object with a number.
fn schema() -> String {
    json!({"type": "object", "properties": {"n": {"type": "integer"}}}).to_string()
}

#[tokio::test]
async fn a_schema_is_that_of_the_whole_answer() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let ask = async |text: &str| {
        facade.create(text).await;
        let request = wait_with(text, Prompt { response_schema_json: schema(), ..prompt(text) });
        soon(text, facade.send_and_wait(request)).await
    };
    let answer = ask("json").await.unwrap();
    assert_eq!(answer.structured_content_json, r#"{"n": 3}"#);
    let half = ask("half-json").await.unwrap_err();
    check(&half, Code::Internal, ErrorReason::ResponseMismatch);
    assert!(half.message().contains("cut by the model's output limit"), "{half:?}");
    assert_eq!(failure_of(&half).partial_content, r#"{"n": [{"n": [{"n": ["#);
}

#[tokio::test]
async fn what_remains_of_a_turn_that_fails_has_all_parts() {
    let cli = RealCli::start(script).await;
    let facade = Arc::new(cli.facade().await);
    let failed = ask(&facade, "fails").await.unwrap_err();
    assert_eq!(failure_of(&failed).partial_content, "PART-ONE. ");
    facade.create("hangs").await;
    let watching = watching("hangs");
    let mut watcher = facade.watch(watching).await.unwrap();
    let hanging = tokio::spawn({
        let facade = facade.clone();
        async move { facade.send("hangs", "hangs").await }
    });
    // The second part has begun.
    let second = |event: &Payload| match event {
        Payload::AssistantTurnStart(round) => (round.turn_id == "1").then_some(()),
        _ => None,
    };
    watcher.find(second).await;
    facade.client().abort_turn(abort("hangs")).await.unwrap();
    let aborted = soon("the end", hanging).await.unwrap().unwrap_err();
    check(&aborted, Code::Aborted, ErrorReason::TurnAborted);
    assert_eq!(failure_of(&aborted).partial_content, "PART-ONE. ");
}

#[tokio::test]
async fn a_part_that_was_cut_is_whole_though_the_cli_repeats_its_pieces() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.create("s").await;
    let reading = async { Streamed::read(facade.stream("s", "p").await.unwrap()).await };
    let playing = async {
        let turn = cli.begin().await;
        // As of a CLI that has fallen behind: an old piece comes again, and a new one after it.
        for (n, text) in [(0, "PART-"), (1, "ONE "), (0, "PART-"), (2, "is long. ")] {
            let data = json!({"messageId": "cut", "deltaContent": text});
            let event = json!({"id": format!("d{n}"), "type": "assistant.message_delta", "ephemeral": true,
                "timestamp": "2026-11-23T14:30:00.000Z", "data": data});
            cli.notify("session.event", json!({"sessionId": "s", "event": event})).await;
        }
        turn.event("assistant.usage", json!({"finishReason": "length"})).ephemeral().await;
        let said = json!({"message": {"role": "assistant", "content": "PART-ONE is long. "}});
        turn.event("model.message", said).ephemeral().await;
        turn.event("assistant.turn_end", json!({"turnId": "0"})).await;
        turn.finish(&["PART-", "TWO."]).await;
    };
    let (streamed, ()) = soon("the turn", async { tokio::join!(reading, playing) }).await;
    let whole = "PART-ONE is long. PART-TWO.";
    assert_eq!((streamed.text().as_str(), streamed.end.as_ref().unwrap().content.as_str()), (whole, whole));
    // What the model is told and says is not for those who did not ask for it.
    assert!(!streamed.events.iter().any(|event| matches!(event.payload, Some(Payload::Other(_)))));
}
