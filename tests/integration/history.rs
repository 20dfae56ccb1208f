//! A stored conversation can be read, copied and compacted, and goes on; on the real CLI.

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CompactSessionRequest, CompactSessionResponse, ErrorReason, ForkSessionRequest,
    ListEventsRequest, ListEventsResponse, session_event::Payload as Event,
};
use scripted_model::Reply;
use tonic::{Code, Status};

use crate::support::{check, facade::TestFacade, fields_of, real_cli::RealCli, soon};

async fn start() -> (RealCli, TestFacade) {
    let cli = RealCli::start(|request| Reply::text(format!("You said: {}", request.prompt()))).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    (cli, facade)
}

async fn list(facade: &TestFacade, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
    Ok(facade.client().list_events(request).await?.into_inner())
}

fn page(page_size: i32, page_token: &str) -> ListEventsRequest {
    ListEventsRequest {
        session_id: "s".into(),
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    }
}

/// What was said, and by whom.
fn said(pages: &[ListEventsResponse]) -> Vec<String> {
    let events = pages.iter().flat_map(|page| &page.events);
    let said = events.filter_map(|event| match event.payload.as_ref()? {
        Event::UserMessage(message) => Some(format!("user: {}", message.content)),
        Event::AssistantMessage(message) => Some(format!("agent: {}", message.content)),
        _ => None,
    });
    said.collect()
}

#[tokio::test]
async fn a_conversation_is_listed_in_pages_and_without_being_loaded() {
    let (_cli, facade) = start().await;
    assert_eq!(list(&facade, page(0, "")).await.unwrap(), ListEventsResponse::default());
    for prompt in ["one", "two"] {
        soon("a turn", facade.send("s", prompt)).await.unwrap();
    }
    let whole = list(&facade, page(0, "")).await.unwrap();
    let expected = ["user: one", "agent: You said: one", "user: two", "agent: You said: two"];
    assert_eq!(said(std::slice::from_ref(&whole)), expected);
    assert!(whole.next_page_token.is_empty() && whole.events.iter().all(|event| !event.ephemeral));
    facade.client().close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap();
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let next = list(&facade, page(3, &token)).await.unwrap();
        token = next.next_page_token.clone();
        pages.push(next);
        if token.is_empty() {
            break;
        }
    }
    assert!(pages.len() > 2 && pages.iter().all(|page| page.events.len() <= 3));
    assert_eq!(said(&pages), expected);
    let events: Vec<_> = pages.into_iter().flat_map(|page| page.events).collect();
    assert_eq!(events, whole.events);
    assert_eq!(facade.facade.sessions().load().loaded, 0);
}

#[tokio::test]
async fn the_events_of_a_history_can_be_chosen() {
    let (_cli, facade) = start().await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let request = ListEventsRequest { event_types: vec!["assistant.message".into()], ..page(0, "") };
    let chosen = list(&facade, request).await.unwrap();
    assert_eq!((chosen.events.len(), said(&[chosen])), (1, vec!["agent: You said: one".into()]));
    let all =
        list(&facade, ListEventsRequest { event_types: vec!["*".into()], ..page(0, "") }).await.unwrap();
    let is_start = |event: &Event| matches!(event, Event::Other(other) if other.r#type == "session.start");
    assert!(all.events.iter().any(|event| is_start(event.payload.as_ref().unwrap())));
}

#[tokio::test]
async fn a_page_of_a_history_that_cannot_be_is_refused() {
    let (_cli, facade) = start().await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let token = list(&facade, page(2, "")).await.unwrap().next_page_token;
    let of_another = ListEventsRequest { session_id: "other".into(), ..page(2, &token) };
    let nonsense = page(2, "nonsense");
    for request in [of_another, nonsense] {
        let refused = list(&facade, request).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["page_token"]);
    }
    // A place whose event is not there.
    let forgotten = "2 s 24a5b008-76d9-4a53-98ab-7185338a81d0 persisted-snapshot:v1:of-another-cli";
    let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, forgotten);
    let refused = list(&facade, page(2, &token)).await.unwrap_err();
    check(&refused, Code::FailedPrecondition, ErrorReason::CursorExpired);
    assert!(refused.message().contains("from the beginning"), "{refused:?}");
    let unknown = ListEventsRequest { session_id: "unknown".into(), ..Default::default() };
    check(&list(&facade, unknown).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
}

/// The events of a page, by their ids.
fn ids(page: &ListEventsResponse) -> Vec<&str> {
    page.events.iter().map(|event| event.event_id.as_str()).collect()
}

/// All events are asked for, so that every place in the history is the end of a page.
fn everything(page_size: i32, page_token: &str) -> ListEventsRequest {
    ListEventsRequest { event_types: vec!["*".into()], ..page(page_size, page_token) }
}

#[tokio::test]
async fn a_page_token_is_good_over_a_restart_of_the_cli() {
    let (mut cli, facade) = start().await;
    for prompt in ["one", "two"] {
        soon("a turn", facade.send("s", prompt)).await.unwrap();
    }
    facade.client().close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap();
    let whole = list(&facade, everything(0, "")).await.unwrap();
    let whole = ids(&whole);
    let mut tokens = Vec::new();
    for size in 1..whole.len() {
        let first = list(&facade, everything(size.try_into().unwrap(), "")).await.unwrap();
        tokens.push(first.next_page_token);
    }
    facade.stop().await;
    cli.restart().await;
    let facade = cli.facade().await;
    for (at, token) in tokens.iter().enumerate() {
        let rest = list(&facade, everything(3, token)).await.unwrap();
        let (from, to) = (at + 1, (at + 4).min(whole.len()));
        assert_eq!(ids(&rest), whole[from..to], "after {from}");
        // The same token serves again, and what it leads to leads on.
        assert_eq!(ids(&list(&facade, everything(3, token)).await.unwrap()), ids(&rest));
        if to < whole.len() {
            let next = list(&facade, everything(1000, &rest.next_page_token)).await.unwrap();
            assert_eq!((ids(&next), next.next_page_token.as_str()), (whole[to..].to_vec(), ""));
        }
    }
}

#[tokio::test]
async fn a_page_token_is_good_while_many_others_read() {
    let (_cli, facade) = start().await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let whole = list(&facade, everything(0, "")).await.unwrap();
    let first = list(&facade, everything(2, "")).await.unwrap();
    // The CLI keeps hardly ten places.
    for _ in 0..20 {
        list(&facade, everything(2, "")).await.unwrap();
    }
    let second = list(&facade, everything(2, &first.next_page_token)).await.unwrap();
    assert_eq!(ids(&second), ids(&whole)[2..4]);
}

#[tokio::test]
async fn a_copy_goes_its_own_way() {
    let (_cli, facade) = start().await;
    let fork = |id: &str| {
        let (mut client, request) =
            (facade.client(), ForkSessionRequest { session_id: id.into(), ..Default::default() });
        async move { client.fork_session(request).await.map(|copy| copy.into_inner().session.unwrap()) }
    };
    let of_nothing = fork("s").await.unwrap().session_id;
    assert_eq!(soon("a turn", facade.send(&of_nothing, "alone")).await.unwrap().content, "You said: alone");
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let copy = fork("s").await.unwrap();
    soon("a turn", facade.send("s", "of the first")).await.unwrap();
    soon("a turn", facade.send(&copy.session_id, "of the copy")).await.unwrap();
    for (id, last) in [("s", "of the first"), (copy.session_id.as_str(), "of the copy")] {
        let history =
            list(&facade, ListEventsRequest { session_id: id.into(), ..Default::default() }).await.unwrap();
        let expected = [
            "user: one",
            "agent: You said: one",
            &format!("user: {last}"),
            &format!("agent: You said: {last}"),
        ];
        assert_eq!(said(&[history]), expected);
    }
    check(&fork("unknown").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn a_history_is_compacted_and_the_conversation_goes_on() {
    let (cli, facade) = start().await;
    let compact = || {
        let (mut client, request) = (facade.client(), CompactSessionRequest { session_id: "s".into() });
        async move { client.compact_session(request).await.unwrap().into_inner() }
    };
    assert_eq!(soon("compacting nothing", compact()).await, CompactSessionResponse::default());
    for prompt in ["one", "two", "three"] {
        soon("a turn", facade.send("s", prompt)).await.unwrap();
    }
    let before = cli.model.calls().last().unwrap().request.messages.len();
    assert!(soon("compacting", compact()).await.messages_removed > 0);
    soon("a turn", facade.send("s", "four")).await.unwrap();
    let after = cli.model.calls().last().unwrap().request.messages.len();
    assert!(after < before, "{after} messages after {before}");
}
