//! A caller does not notice that a link to the CLI is lost in mid-turn, if there is a keeper link; on the real CLI.

use std::{sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CreateSessionRequest, ErrorReason, ListEventsRequest, PermissionEffect,
    send_and_stream_response, session_event::Payload,
};
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::Code;

use crate::support::{
    check,
    facade::{Setup, Streamed, TestFacade, on_everything, watching},
    proxy::Proxy,
    real_cli::RealCli,
    soon, until, words,
};

fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        ("tool", None) => {
            Reply::tool_call("bash", json!({"command": "sleep 1; echo slept", "description": "x"}))
        }
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        ("words", None) => Reply::text(words(100)).every(Duration::from_millis(20)),
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

async fn through(cli: &RealCli, proxy: &Proxy, setup: Setup) -> Arc<TestFacade> {
    let facade = Arc::new(Setup { cli_url: format!("127.0.0.1:{}", proxy.port), ..setup }.start().await);
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: on_everything(PermissionEffect::Allow),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(cli.model.calls().len(), 1);
    facade
}

/// Streams a turn whose main link is cut when so many deltas have come.
async fn streamed_through_a_cut(
    facade: &TestFacade,
    cut: impl FnOnce(),
    prompt: &str,
    after: usize,
) -> Streamed {
    let mut stream = facade.stream("s", prompt).await.unwrap();
    let mut events = Vec::new();
    let mut deltas = 0;
    while deltas < after {
        let message = soon("an event", stream.message()).await.unwrap().unwrap();
        let Some(send_and_stream_response::Payload::Event(event)) = message.payload else {
            panic!("the turn has ended")
        };
        deltas += usize::from(matches!(event.payload, Some(Payload::AssistantMessageDelta(_))));
        events.push(event);
    }
    cut();
    let mut rest = soon("the rest", Streamed::read(stream)).await;
    events.append(&mut rest.events);
    Streamed { events, end: rest.end }
}

#[tokio::test]
async fn a_stream_goes_on_over_the_loss_of_a_connection_with_every_delta_once() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let facade = through(&cli, &proxy, cli.setup()).await;
    // The main link is opened first; made anew, it is younger than the keeper link.
    for (main, after) in [(0, 1), (1, 20), (1, 60)] {
        until("two links", || proxy.connections() >= 2).await;
        // The keeper link is attached in the background.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let streamed = streamed_through_a_cut(&facade, || proxy.cut_one(main), "words", after).await;
        assert_eq!(streamed.text(), words(100));
        assert_eq!(streamed.end.unwrap().content, words(100));
        let mut ids: Vec<_> = streamed.events.iter().map(|event| &event.event_id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "an event came twice");
    }
    let answer = soon("a turn", facade.send("s", "bye")).await.unwrap();
    assert_eq!(answer.content, "You said: bye");
}

#[tokio::test]
async fn a_tool_that_runs_outlives_the_connection_and_watchers_miss_nothing() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let facade = through(&cli, &proxy, cli.setup()).await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    until("two links", || proxy.connections() >= 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let turn = tokio::spawn({
        let facade = facade.clone();
        async move { facade.send("s", "tool").await }
    });
    let started = |event: &Payload| matches!(event, Payload::ToolExecutionStart(_)).then_some(());
    watcher.find(started).await;
    proxy.cut_one(0);
    let answer = soon("the turn", turn).await.unwrap().unwrap();
    assert!(answer.content.contains("slept"), "{}", answer.content);
    let ended = |event: &Payload| matches!(event, Payload::ToolExecutionComplete(_)).then_some(());
    watcher.find(ended).await;
}

#[tokio::test]
async fn without_the_keeper_link_a_lost_connection_cuts_the_turn() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let facade = through(&cli, &proxy, cli.setup().flag("--keeper-link=false")).await;
    let streamed = streamed_through_a_cut(&facade, || proxy.cut(), "words", 5).await;
    check(&streamed.end.unwrap_err(), Code::Unavailable, ErrorReason::TurnInterrupted);
    let answer = soon("a turn", facade.send("s", "bye")).await.unwrap();
    assert_eq!(answer.content, "You said: bye");
}

#[tokio::test]
async fn a_closed_session_is_left_by_both_links() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let facade = through(&cli, &proxy, cli.setup()).await;
    until("two links", || proxy.connections() >= 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let request = CloseSessionRequest { session_id: "s".into() };
    facade.client().close_session(request).await.unwrap();
    // The CLI writes so when it has unloaded a session.
    let event_types = vec!["session.shutdown".into()];
    let request = ListEventsRequest { session_id: "s".into(), event_types, ..Default::default() };
    let unloaded = async || facade.client().list_events(request.clone()).await.unwrap().into_inner();
    soon("the session is unloaded", async { while unloaded().await.events.is_empty() {} }).await;
    let answer = soon("a turn", facade.send("s", "bye")).await.unwrap();
    assert_eq!(answer.content, "You said: bye");
}

#[tokio::test]
async fn a_prompt_that_meets_the_keeper_link_is_run_with_the_systems_message() {
    // The link is attached while the first prompt is on its way, more or less: of those that met, every fourth had none.
    let first_prompt = async || {
        let cli = RealCli::start(|_| Reply::text("yes")).await;
        let facade = cli.facade().await;
        facade.create("s").await;
        soon("a turn", facade.send("s", "hello")).await.unwrap();
        cli.model.calls()[0].request.messages.iter().map(|message| message.role.clone()).collect::<Vec<_>>()
    };
    for _ in 0..4 {
        let (one, two, three) = tokio::join!(first_prompt(), first_prompt(), first_prompt());
        for roles in [one, two, three] {
            assert_eq!(roles, ["system", "user"]);
        }
    }
}
