//! Lists of sessions: by owner and label, in pages, and without asking a CLI.

use std::collections::BTreeMap;

use copilot_grpc::grpc::pb::{CreateSessionRequest, ListSessionsRequest, Session, SessionState};

use crate::support::{facade::TestFacade, fake_cli::FakeCli};

async fn list(facade: &TestFacade, request: ListSessionsRequest) -> Vec<Session> {
    facade.client().list_sessions(request).await.unwrap().into_inner().sessions
}

fn ids(sessions: &[Session]) -> Vec<&str> {
    sessions.iter().map(|session| session.session_id.as_str()).collect()
}

#[tokio::test]
async fn sessions_are_selected_by_their_owner_and_told_with_it_in_use_or_not() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    for (id, owner) in [("a-ann", "ann"), ("b-bob", "bob"), ("c-ann", "ann")] {
        facade.has(id, &cli.address(), owner).await;
    }
    let request =
        CreateSessionRequest { session_id: "known".into(), owner: "ann".into(), ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let of = |owner: &str| ListSessionsRequest { owner: owner.into(), ..Default::default() };
    let anns = list(&facade, of("ann")).await;
    assert_eq!(ids(&anns), ["known", "c-ann", "a-ann"]);
    assert!(anns.iter().all(|session| session.owner == "ann"));
    assert_eq!(ids(&list(&facade, of("bob")).await), ["b-bob"]);
    assert_eq!(list(&facade, of("an")).await, []);
}

#[tokio::test]
async fn sessions_that_a_label_selects_come_page_by_page_and_each_once() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    for n in 0..25 {
        let labels = BTreeMap::from([("team".to_owned(), ["blue", "red"][n % 2].to_owned())]);
        let request = CreateSessionRequest { session_id: format!("s-{n:02}"), labels, ..Default::default() };
        facade.client().create_session(request).await.unwrap();
    }
    let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    let mut request = ListSessionsRequest { labels, page_size: 4, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = facade.client().list_sessions(request.clone()).await.unwrap().into_inner();
        found.extend(page.sessions.into_iter().map(|session| session.session_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).rev().step_by(2).map(|n| format!("s-{n:02}")).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn sessions_are_listed_whatever_becomes_of_their_cli_and_it_is_not_asked() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.has("old", "elsewhere:1", "").await;
    facade.create("new").await;
    let before = cli.calls().len();
    let unloaded = ListSessionsRequest { states: vec![SessionState::Unloaded.into()], ..Default::default() };
    assert_eq!(ids(&list(&facade, unloaded.clone()).await), ["old"]);
    let idle = ListSessionsRequest { states: vec![SessionState::Idle.into()], ..Default::default() };
    assert_eq!(ids(&list(&facade, idle).await), ["new"]);
    assert_eq!(ids(&list(&facade, ListSessionsRequest::default()).await), ["new", "old"]);
    let asked: Vec<_> = cli.calls()[before..].iter().map(|call| call.method.clone()).collect();
    assert!(asked.iter().all(|method| method == "ping"), "{asked:?}");
    cli.stop_listening();
    cli.disconnect().await;
    crate::support::until("the loss", || !facade.facade.sessions().pool().all()[0].is_ready()).await;
    assert_eq!(ids(&list(&facade, ListSessionsRequest::default()).await), ["new", "old"]);
    assert_eq!(ids(&list(&facade, unloaded).await), ["new", "old"]);
}
