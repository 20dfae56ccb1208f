//! A call that is repeated with its `request_id` is done once, and each repetition gets its answer; on the real CLI.

use std::time::Duration;

use copilot_grpc::{
    grpc::pb::{
        CreateSessionRequest, CreateSessionResponse, DeleteSessionRequest, ErrorReason, OnDisconnect, Prompt,
        SendAndWaitRequest,
    },
    session::{SessionId, SessionKey, Tenant},
};
use scripted_model::{CallState, Reply, Request};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Streamed, TestFacade, prompt, stream_with, wait_with, within},
    fake_cli::FakeCli,
    fields_of,
    real_cli::RealCli,
    soon,
};

fn script(request: &Request) -> Reply {
    match request.prompt() {
        "slow" => Reply::text("one two three").every(Duration::from_millis(300)),
        "refuse" => Reply::status(400, "no"),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

async fn started() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    (cli, facade)
}

fn named_prompt(id: &str, text: &str) -> Prompt {
    Prompt { request_id: id.into(), ..prompt(text) }
}

fn named(id: &str, text: &str) -> SendAndWaitRequest {
    wait_with("s", named_prompt(id, text))
}

#[tokio::test]
async fn a_request_that_is_repeated_during_and_after_its_turn_asks_the_model_once() {
    let (cli, facade) = started().await;
    let (first, second) = soon("both", async {
        let first = facade.send_and_wait(named("r-1", "slow"));
        let second = async {
            cli.model.wait_for(|calls| calls.len() == 1).await;
            facade.send_and_wait(named("r-1", "slow")).await
        };
        tokio::join!(first, second)
    })
    .await;
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.content, "one two three");
    assert_eq!(second, first);
    assert_eq!(soon("a repetition", facade.send_and_wait(named("r-1", "slow"))).await.unwrap(), first);
    assert_eq!(cli.model.calls().len(), 1);
    // Another id is another request, and so is the same id in another session.
    soon("a turn", facade.send_and_wait(named("r-2", "slow"))).await.unwrap();
    facade.create("other").await;
    let elsewhere = SendAndWaitRequest { session_id: "other".into(), ..named("r-1", "slow") };
    soon("a turn", facade.send_and_wait(elsewhere)).await.unwrap();
    assert_eq!(cli.model.calls().len(), 3);
}

#[tokio::test]
async fn a_stream_joins_too_and_hears_the_rest() {
    let (cli, facade) = started().await;
    let request = stream_with("s", named_prompt("r", "slow"));
    let first = facade.send_and_wait(named("r", "slow"));
    let second = async {
        cli.model.wait_for(|calls| calls.len() == 1).await;
        let stream = facade.send_and_stream(request).await.unwrap();
        Streamed::read(stream).await
    };
    let (first, second) = soon("both", Box::pin(async { tokio::join!(first, second) })).await;
    assert!(second.text().ends_with("three"), "{}", second.text());
    assert_eq!(second.end.unwrap(), first.unwrap());
    assert_eq!(cli.model.calls().len(), 1);
}

#[tokio::test]
async fn an_id_with_another_content_is_refused() {
    let (cli, facade) = started().await;
    soon("a turn", facade.send_and_wait(named("r", "hello"))).await.unwrap();
    let other = soon("a refusal", facade.send_and_wait(named("r", "something else"))).await.unwrap_err();
    check(&other, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&other), ["prompt.request_id"]);
    assert_eq!(cli.model.calls().len(), 1);
}

#[tokio::test]
async fn a_failure_is_repeated_too_unless_nothing_was_delivered_or_the_caller_had_left() {
    let (cli, facade) = started().await;
    let refused = soon("a refusal", facade.send_and_wait(named("r", "refuse"))).await.unwrap_err();
    let again = soon("the same", facade.send_and_wait(named("r", "refuse"))).await.unwrap_err();
    assert_eq!(again.message(), refused.message());
    assert_eq!(cli.model.calls().len(), 1);
    // A caller that leaves has its turn stopped; when it comes again, the turn is run again.
    let left = tokio::time::timeout(Duration::from_millis(500), facade.send_and_wait(named("l", "slow")));
    assert!(left.await.is_err());
    cli.model.wait_for(|calls| calls.last().unwrap().state == CallState::Dropped).await;
    let answer = soon("a turn", facade.send_and_wait(named("l", "slow"))).await.unwrap();
    assert_eq!((answer.content.as_str(), cli.model.calls().len()), ("one two three", 3));
}

#[tokio::test]
async fn a_turn_that_goes_on_without_its_caller_is_found_again_by_a_repetition() {
    let (cli, facade) = started().await;
    let request = || {
        let prompt = Prompt { on_disconnect: OnDisconnect::Continue.into(), ..named_prompt("r", "slow") };
        wait_with("s", prompt)
    };
    let missed = facade.send_and_wait(within(Duration::from_millis(500), request())).await.unwrap_err();
    assert_eq!(missed.code(), Code::DeadlineExceeded);
    let answer = soon("a turn", facade.send_and_wait(request())).await.unwrap();
    assert_eq!((answer.content.as_str(), cli.model.calls().len()), ("one two three", 1));
}

#[tokio::test]
async fn a_session_is_created_once() {
    let (_cli, facade) = started().await;
    let create = async |request_id: &str, owner: &str| -> Result<CreateSessionResponse, Status> {
        let request =
            CreateSessionRequest { request_id: request_id.into(), owner: owner.into(), ..Default::default() };
        Ok(facade.client().create_session(request).await?.into_inner())
    };
    let (first, second) = tokio::join!(create("c", ""), create("c", ""));
    let id = |created: Result<CreateSessionResponse, Status>| created.unwrap().session.unwrap().session_id;
    let first = id(first);
    assert_eq!(id(second), first);
    assert_eq!(id(create("c", "").await), first);
    assert_ne!(id(create("d", "").await), first);
    let other = create("c", "somebody").await.unwrap_err();
    check(&other, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&other), ["request_id"]);
}

#[tokio::test]
async fn a_creation_that_was_refused_because_the_id_is_taken_is_refused_again() {
    let (_cli, facade) = started().await;
    let request =
        CreateSessionRequest { session_id: "s".into(), request_id: "c".into(), ..Default::default() };
    for _ in 0..2 {
        let taken = facade.client().create_session(request.clone()).await.unwrap_err();
        check(&taken, Code::AlreadyExists, ErrorReason::SessionExists);
    }
    // It was not done: it is when the id is free.
    facade
        .client()
        .delete_session(DeleteSessionRequest { session_id: "s".into(), ..Default::default() })
        .await
        .unwrap();
    facade.client().create_session(request).await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_refused_or_given_up_before_anything_was_done_can_be_repeated() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().flag("--max-sessions=1").flag("--max-queued-turns=1").start().await;
    facade.create("s").await;
    let create = async || {
        let request = CreateSessionRequest { request_id: "c".into(), ..Default::default() };
        soon("an answer", facade.client().create_session(request)).await
    };
    for _ in 0..2 {
        check(&create().await.unwrap_err(), Code::ResourceExhausted, ErrorReason::QuotaExceeded);
    }
    let _one = facade.stream("s", "one").await.unwrap();
    let running = cli.begin().await;
    let _two = facade.stream("s", "two").await.unwrap();
    for _ in 0..2 {
        let refused = soon("a refusal", facade.send_and_wait(named("r", "three"))).await.unwrap_err();
        check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
    }
    // The caller leaves while its prompt waits for the first.
    running.finish(&["1"]).await;
    let running = cli.begin().await;
    let left = timeout(Duration::from_millis(100), facade.send_and_wait(named("left", "four"))).await;
    assert!(left.is_err());
    running.finish(&["2"]).await;
    facade.at_rest().await;
    for (id, text) in [("r", "three"), ("left", "four")] {
        let (answer, ()) = tokio::join!(soon("an answer", facade.send_and_wait(named(id, text))), async {
            cli.begin().await.finish(&["done"]).await;
        });
        assert_eq!(answer.unwrap().content, "done");
    }
    let key = SessionKey::new(Tenant::ONLY, SessionId::parse("s").unwrap());
    facade.facade.sessions().delete(&key).await.unwrap();
    create().await.unwrap();
}
