//! A frozen CLI or a dead wire is noticed within seconds, and costs the turns nothing where it passes; on the real CLI.
//!
//! The CLI is frozen with SIGSTOP.

use std::{ops::Range, time::Duration};

use copilot_grpc::{
    backend::State,
    grpc::pb::{DeliveryState, ErrorReason, SendAndStreamResponse},
};
use scripted_model::{Reply, Request};
use tokio::time::{Instant, sleep};
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    check,
    facade::{Setup, Streamed, TestFacade},
    failure_of,
    proxy::Proxy,
    real_cli::RealCli,
    soon, until, words,
};

/// Within this time what is frozen is noticed: two seconds until the next ping, five until it is given up, and some for a machine
/// that is busy.
const NOTICED: Duration = Duration::from_secs(12);

/// Says two hundred words, in four seconds.
fn script(request: &Request) -> Reply {
    match request.prompt() {
        "words" => Reply::text(words(200)).every(Duration::from_millis(20)),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

/// A facade with a session `s`, to which both links are attached.
async fn with_session(setup: Setup) -> TestFacade {
    let facade = setup.start().await;
    facade.create("s").await;
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    // The keeper link is attached in the background.
    sleep(Duration::from_millis(500)).await;
    facade
}

/// A turn with all the words, of which some have come.
async fn telling(facade: &TestFacade) -> (Streaming<SendAndStreamResponse>, Vec<SendAndStreamResponse>) {
    let mut stream = facade.stream("s", "words").await.unwrap();
    let mut first = Vec::new();
    for _ in 0..30 {
        first.push(soon("an event", stream.message()).await.unwrap().unwrap());
    }
    (stream, first)
}

/// The whole of such a turn.
async fn told((stream, first): (Streaming<SendAndStreamResponse>, Vec<SendAndStreamResponse>)) -> Streamed {
    let mut rest = soon("the end of the turn", Streamed::read(stream)).await;
    rest.prepend(first);
    rest
}

fn is_ready(facade: &TestFacade) -> bool {
    matches!(*facade.facade.sessions().pool().all()[0].watch().borrow(), State::Ready(_))
}

async fn noticed_within(facade: &TestFacade, limit: Range<Duration>) {
    let began = Instant::now();
    facade.health_becomes("", ServingStatus::NotServing).await;
    assert!(limit.contains(&began.elapsed()), "after {:?}", began.elapsed());
}

async fn can_be_used(facade: &TestFacade) {
    let answer = soon("a turn", facade.send("s", "bye")).await.unwrap();
    assert_eq!(answer.content, "You said: bye");
    facade.at_rest().await;
}

#[tokio::test]
async fn a_cli_that_is_frozen_for_a_moment_is_given_the_time() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let setup = Setup { cli_url: format!("127.0.0.1:{}", proxy.port), ..cli.setup() };
    let facade = with_session(setup).await;
    let telling = telling(&facade).await;
    cli.freeze();
    sleep(Duration::from_secs(2)).await;
    cli.thaw();
    let streamed = told(telling).await;
    assert_eq!(streamed.text(), words(200));
    assert_eq!(streamed.end.unwrap().content, words(200));
    assert_eq!(proxy.taken(), 2, "a link was made anew");
    can_be_used(&facade).await;
}

#[tokio::test]
async fn a_cli_that_is_frozen_for_longer_shows_in_health_and_goes_on_with_the_turn_when_it_thaws() {
    let cli = RealCli::start(script).await;
    let facade = with_session(cli.setup()).await;
    let telling = telling(&facade).await;
    cli.freeze();
    noticed_within(&facade, Duration::from_secs(3)..NOTICED).await;
    // Longer than other callers wait for a link.
    sleep(Duration::from_secs(6)).await;
    cli.thaw();
    let streamed = told(telling).await;
    assert_eq!(streamed.text(), words(200));
    assert_eq!(streamed.end.unwrap().content, words(200));
    facade.serving("").await;
    can_be_used(&facade).await;
}

#[tokio::test]
async fn a_cli_that_stays_frozen_ends_the_turn_and_the_session_can_be_used_afterwards() {
    let cli = RealCli::start(script).await;
    let facade = with_session(cli.setup()).await;
    let telling = telling(&facade).await;
    cli.freeze();
    noticed_within(&facade, Duration::from_secs(3)..NOTICED).await;
    // To shake hands anew is tried for ten seconds.
    let streamed = told(telling).await;
    let error = streamed.end.unwrap_err();
    check(&error, Code::Unavailable, ErrorReason::TurnInterrupted);
    let failure = failure_of(&error);
    assert_eq!(failure.delivery(), DeliveryState::Delivered);
    assert!(words(200).starts_with(&failure.partial_content) && !failure.partial_content.is_empty());
    cli.thaw();
    facade.serving("").await;
    can_be_used(&facade).await;
}

#[tokio::test]
async fn a_wire_that_carries_nothing_any_more_is_replaced_and_the_turn_goes_on() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let setup = Setup { cli_url: format!("127.0.0.1:{}", proxy.port), ..cli.setup() };
    let facade = with_session(setup).await;
    let telling = telling(&facade).await;
    let began = Instant::now();
    proxy.silence();
    let streamed = told(telling).await;
    assert!(began.elapsed() < NOTICED, "after {:?}", began.elapsed());
    assert_eq!(streamed.text(), words(200));
    assert_eq!(streamed.end.unwrap().content, words(200));
    until("the backend is ready", || is_ready(&facade)).await;
    can_be_used(&facade).await;
}
