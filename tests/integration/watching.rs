//! Who watches a session gets its history, then what happens, nothing left out and nothing twice; on the real CLI.

use std::collections::HashSet;

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CreateSessionRequest, DeleteSessionRequest, ErrorReason, ListEventsRequest,
    SessionEvent, WatchSessionRequest, session_event::Payload,
};
use scripted_model::{Reply, Request};
use tonic::Code;

use crate::support::{
    check,
    facade::{TestFacade, Watcher, watching},
    fields_of,
    proxy::Proxy,
    real_cli::RealCli,
    soon,
};

fn script(request: &Request) -> Reply {
    Reply::text(format!("You said: {}", request.prompt()))
}

fn after(id: &str, cursor: &str) -> WatchSessionRequest {
    WatchSessionRequest { cursor: cursor.into(), ..watching(id) }
}

/// Reads up to and with the end of the agent's round after it said so.
async fn until_said(watcher: &mut Watcher, text: &str) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    let mut said = false;
    loop {
        let event = watcher.event().await.unwrap();
        let payload = event.payload.clone().unwrap();
        events.push(event);
        match payload {
            Payload::AssistantMessage(message) => said |= message.content.contains(text),
            Payload::AssistantTurnEnd(_) if said => return events,
            _ => {}
        }
    }
}

/// The ids of those that are stored.
fn stored(events: &[SessionEvent]) -> Vec<String> {
    let stored = events.iter().filter(|event| !event.ephemeral);
    stored.map(|event| event.event_id.clone()).collect()
}

/// The ids of the useful events that are stored of a session.
async fn history(facade: &TestFacade, id: &str) -> Vec<String> {
    let request = ListEventsRequest { session_id: id.into(), page_size: 1000, ..Default::default() };
    let page = facade.client().list_events(request).await.unwrap().into_inner();
    page.events.into_iter().map(|event| event.event_id).collect()
}

async fn close(facade: &TestFacade, id: &str) {
    facade.client().close_session(CloseSessionRequest { session_id: id.into() }).await.unwrap();
}

#[tokio::test]
async fn a_watcher_hears_of_all_turns_with_their_deltas_and_cursors() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let mut another = facade.watch(watching("s")).await.unwrap();
    for prompt in ["one two three", "four five"] {
        let result = soon("a turn", facade.send("s", prompt)).await.unwrap();
        let events = until_said(&mut watcher, prompt).await;
        let deltas = events.iter().filter_map(|event| match event.payload.as_ref().unwrap() {
            Payload::AssistantMessageDelta(delta) => Some(delta.text.as_str()),
            _ => None,
        });
        assert_eq!(deltas.collect::<String>(), result.content);
        assert!(events.iter().all(|event| !event.cursor.is_empty()));
        assert_eq!(events.last().unwrap().cursor, result.cursor);
        assert_eq!(until_said(&mut another, prompt).await, events);
    }
}

#[tokio::test]
async fn a_watcher_from_the_beginning_gets_the_history_and_then_what_happens() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let all = WatchSessionRequest { from_beginning: true, ..watching("s") };
    let mut watcher = facade.watch(all).await.unwrap();
    let mut events = until_said(&mut watcher, "one").await;
    soon("a turn", facade.send("s", "two")).await.unwrap();
    events.extend(until_said(&mut watcher, "two").await);
    close(&facade, "s").await;
    assert_eq!(stored(&events), history(&facade, "s").await);
}

#[tokio::test]
async fn a_watcher_goes_on_from_its_cursor_behind_another_facade_with_nothing_lost_or_twice() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let mut events = until_said(&mut watcher, "one").await;
    // What is not read any more by this watcher is the next one's.
    soon("a turn", facade.send("s", "two")).await.unwrap();
    let cursor = events.last().unwrap().cursor.clone();
    drop(watcher);
    facade.stop().await;
    let facade = cli.facade().await;
    let mut watcher = facade.watch(after("s", &cursor)).await.unwrap();
    events.extend(until_said(&mut watcher, "two").await);
    let answer = soon("a turn", facade.send("s", "three")).await.unwrap();
    assert_eq!(answer.content, "You said: three");
    events.extend(until_said(&mut watcher, "three").await);
    close(&facade, "s").await;
    let all = history(&facade, "s").await;
    let first = all.iter().position(|id| *id == stored(&events)[0]).unwrap();
    assert_eq!(stored(&events), all[first..]);
    let unique: HashSet<_> = stored(&events).into_iter().collect();
    assert_eq!(unique.len(), stored(&events).len());
}

#[tokio::test]
async fn every_cursor_leads_to_exactly_what_came_after_it() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let all = || WatchSessionRequest {
        from_beginning: true,
        event_types: vec!["assistant.*".into(), "user.message".into()],
        ..watching("s")
    };
    let mut watcher = facade.watch(all()).await.unwrap();
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let events = until_said(&mut watcher, "one").await;
    soon("a turn", facade.send("s", "two")).await.unwrap();
    let events = [events, until_said(&mut watcher, "two").await].concat();
    for (n, event) in events.iter().enumerate() {
        let request = WatchSessionRequest { cursor: event.cursor.clone(), from_beginning: false, ..all() };
        let mut watcher = facade.watch(request).await.unwrap();
        let expected = stored(&events[n + 1..]);
        for id in expected {
            assert_eq!(watcher.event().await.unwrap().event_id, id, "after {:?}", event.payload);
        }
    }
}

#[tokio::test]
async fn a_watcher_outlives_the_cli_and_the_connection_to_it() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let mut setup = cli.setup();
    setup.cli_url = format!("127.0.0.1:{}", proxy.port);
    let facade = setup.start().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let mut events = Vec::new();
    for prompt in ["one", "two", "three"] {
        soon("a turn", facade.send("s", prompt)).await.unwrap();
        events.extend(until_said(&mut watcher, prompt).await);
        proxy.cut();
    }
    close(&facade, "s").await;
    let all = history(&facade, "s").await;
    let heard: Vec<_> = stored(&events);
    let first = all.iter().position(|id| *id == heard[0]).unwrap();
    assert_eq!(heard, all[first..first + heard.len()]);
}

#[tokio::test]
async fn a_closed_session_is_watched_on_when_it_is_used_again() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    soon("a turn", facade.send("s", "one")).await.unwrap();
    until_said(&mut watcher, "one").await;
    close(&facade, "s").await;
    soon("a turn", facade.send("s", "two")).await.unwrap();
    until_said(&mut watcher, "two").await;
}

#[tokio::test]
async fn watching_ends_with_the_session_and_begins_with_none_that_is_not_there() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let request = DeleteSessionRequest { session_id: "s".into(), ..Default::default() };
    facade.client().delete_session(request).await.unwrap();
    let ended = loop {
        if let Err(status) = watcher.event().await {
            break status;
        }
    };
    check(&ended, Code::NotFound, ErrorReason::SessionNotFound);
    let none = facade.watch(watching("s")).await.err().unwrap();
    check(&none, Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_is_refused_and_one_whose_event_is_gone_has_expired() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for id in ["s", "other"] {
        facade.create(id).await;
        soon("a turn", facade.send(id, "one")).await.unwrap();
    }
    let result = soon("a turn", facade.send("other", "two")).await.unwrap();
    for (request, field) in [
        (after("s", "nonsense"), "cursor"),
        (after("s", &result.cursor), "cursor"),
        (WatchSessionRequest { from_beginning: true, ..after("other", &result.cursor) }, "from_beginning"),
    ] {
        let refused = facade.watch(request).await.err().unwrap();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), [field]);
    }
    let request = DeleteSessionRequest { session_id: "other".into(), ..Default::default() };
    facade.client().delete_session(request).await.unwrap();
    facade.create("other").await;
    let expired = facade.watch(after("other", &result.cursor)).await.err().unwrap();
    check(&expired, Code::FailedPrecondition, ErrorReason::CursorExpired);
}

#[tokio::test]
async fn watchers_hear_that_the_server_is_going() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let stopping = facade.facade.stop(std::time::Duration::ZERO);
    let (ended, ()) = tokio::join!(watcher.event(), stopping);
    check(&ended.unwrap_err(), Code::Unavailable, ErrorReason::Draining);
}
