//! An old connection is replaced, and the server's end announced, without a call that fails.

use std::{error::Error as _, sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    ErrorReason, GetSessionRequest, copilot_service_client::CopilotServiceClient, session_event::Payload,
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    check,
    facade::{Streamed, TestFacade, event, stream, watching},
    fake_cli::FakeCli,
    proxy::Proxy,
    soon, until,
};

#[tokio::test]
async fn an_old_connection_is_replaced_without_a_failed_call_and_what_is_open_on_it_goes_on() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().flag("--max-connection-age=500ms").start().await;
    facade.create("s").await;
    let proxy = Proxy::start(facade.facade.address().port()).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = CopilotServiceClient::new(channel);
    let watch = watching("s");
    let mut watch = client.watch_session(watch).await.unwrap().into_inner();
    let stream = client.send_and_stream(stream("s", "p")).await.unwrap().into_inner();
    let turn = cli.begin().await;
    let (mut calls, mut unsent) = (0, 0);
    while proxy.taken() < 4 {
        let request = GetSessionRequest { session_id: "s".into() };
        match soon("a call", client.get_session(request)).await {
            Ok(_) => calls += 1,
            // tonic's client does not repeat by itself what it was about to send when it was told to go.
            Err(status) if status.code() == Code::Cancelled && status.source().is_some() => unsent += 1,
            Err(status) => panic!("{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(calls > 20 && unsent < proxy.taken(), "{calls} calls, {unsent} unsent");
    turn.finish(&["one ", "two"]).await;
    let streamed = soon("the turn", Streamed::read(stream)).await;
    assert_eq!((streamed.text(), streamed.end.unwrap().content), ("one two".into(), "one two".into()));
    let message = async {
        loop {
            let event = event(&mut watch).await.unwrap();
            if let Some(Payload::AssistantMessage(message)) = event.payload {
                return message.content;
            }
        }
    };
    assert_eq!(soon("the message", message).await, "one two");
    drop(watch);
    until("the old connections are closed", || proxy.connections() <= 1).await;
}

fn stopping(facade: &Arc<TestFacade>) -> tokio::task::JoinHandle<Duration> {
    let facade = facade.clone();
    tokio::spawn(async move {
        let began = Instant::now();
        facade.facade.stop(Duration::from_secs(60)).await;
        began.elapsed()
    })
}

#[tokio::test]
async fn calls_are_still_taken_for_a_while_after_health_says_no_unless_a_second_signal_comes() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().flag("--drain-delay=50s").start().await);
    facade.create("s").await;
    let stopped = stopping(&facade);
    facade.health_becomes("", ServingStatus::NotServing).await;
    let mut late = facade.connect().await;
    let stream = soon("the call", late.send_and_stream(stream("s", "p"))).await.unwrap().into_inner();
    cli.turn(&["in time"]).await;
    assert_eq!(soon("the turn", Streamed::read(stream)).await.end.unwrap().content, "in time");
    assert!(!stopped.is_finished());
    facade.facade.hurry();
    soon("the end", stopped).await.unwrap();
}

#[tokio::test]
async fn a_watcher_of_health_is_told_why_it_ends_when_the_server_goes() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    let request = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(facade.channel());
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(soon("the first", watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    let stopped = stopping(&facade);
    let end = async {
        loop {
            if let Err(status) = watch.message().await.map(|message| message.expect("no end without a word"))
            {
                return status;
            }
        }
    };
    check(&soon("the end of the stream", end).await, Code::Unavailable, ErrorReason::Draining);
    // And so nothing is left that has to be cut.
    assert!(soon("the end", stopped).await.unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn after_the_delay_what_comes_is_refused() {
    const DELAY: Duration = Duration::from_millis(500);
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().flag("--drain-delay=500ms").start().await);
    facade.create("s").await;
    let watch = watching("s");
    let mut watcher = facade.watch(watch).await.unwrap();
    let began = Instant::now();
    let stopped = stopping(&facade);
    let end = async {
        loop {
            if let Err(status) = watcher.event().await {
                return status;
            }
        }
    };
    check(&soon("the end of the stream", end).await, Code::Unavailable, ErrorReason::Draining);
    assert!(began.elapsed() >= DELAY);
    assert!(facade.send("s", "too late").await.is_err());
    assert!(soon("the end", stopped).await.unwrap() >= DELAY);
}
