//! How lists of stored sessions are put together, on a FakeCli: what is asked for, and how often.

use copilot_grpc::grpc::pb::{ListSessionsRequest, Session, SessionState};
use serde_json::{Value, json};

use crate::support::{facade::TestFacade, fake_cli::FakeCli, soon};

const NOTES: &str = "sessions.getClientMetadata";

async fn start(sessions: &[&str]) -> (FakeCli, TestFacade) {
    let cli = FakeCli::start().await;
    for session in sessions {
        cli.has(session, false, true);
    }
    let facade = cli.setup().start().await;
    (cli, facade)
}

async fn list(facade: &TestFacade, request: ListSessionsRequest) -> Vec<Session> {
    facade.client().list_sessions(request).await.unwrap().into_inner().sessions
}

/// Answers a question for notes: each session is owned by whom its id begins with.
async fn tell_notes(cli: &FakeCli) -> usize {
    let call = soon("a question", cli.next(NOTES)).await;
    let asked = call.params["sessionIds"].as_array().unwrap().clone();
    let notes = asked.iter().map(|id| {
        let owner = id.as_str().unwrap().split('-').next().unwrap();
        let record = json!({"owner": owner, "model": "m", "labels": {"of": owner}});
        json!({"sessionId": id, "status": "ok", "metadata": {"copilot-grpc.v1": record.to_string()}})
    });
    call.answer(notes.collect::<Value>()).await;
    asked.len()
}

#[tokio::test]
async fn sessions_are_selected_by_their_owner_and_told_with_it() {
    let (cli, facade) = start(&["ann-1", "ann-2", "bob-1"]).await;
    cli.manual(NOTES);
    let request = ListSessionsRequest { owner: "ann".into(), ..Default::default() };
    let (sessions, asked) = tokio::join!(list(&facade, request), tell_notes(&cli));
    assert_eq!(asked, 3);
    let told: Vec<_> = sessions.iter().map(|s| (s.session_id.as_str(), s.owner.as_str())).collect();
    assert_eq!(told, [("ann-2", "ann"), ("ann-1", "ann")]);
    assert_eq!(sessions[0].labels["of"], "ann");
}

#[tokio::test]
async fn only_the_notes_of_the_page_are_read_where_nothing_else_is_wanted() {
    let (cli, facade) = start(&["a-1", "a-2", "a-3"]).await;
    cli.manual(NOTES);
    let request = ListSessionsRequest { page_size: 1, ..Default::default() };
    let (sessions, asked) = tokio::join!(list(&facade, request.clone()), tell_notes(&cli));
    assert_eq!((sessions[0].session_id.as_str(), sessions[0].model.as_str(), asked), ("a-3", "m", 1));
    // Soon after, nothing is asked for again.
    assert_eq!(list(&facade, request).await, sessions);
    assert_eq!((cli.count("session.list"), cli.count(NOTES)), (1, 1));
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_share_one_answer() {
    let (cli, facade) = start(&["a"]).await;
    cli.manual("session.list");
    let lists = (0..5).map(|_| list(&facade, ListSessionsRequest::default()));
    let answer = async {
        let call = cli.next("session.list").await;
        cli.automatic("session.list");
        call.answer_as_usual().await;
    };
    let (lists, ()) = tokio::join!(futures_util::future::join_all(lists), answer);
    assert!(lists.iter().all(|sessions| sessions.len() == 1));
    assert_eq!(cli.count("session.list"), 1);
}

#[tokio::test]
async fn what_is_loaded_is_listed_without_the_cli() {
    let (cli, facade) = start(&["stored"]).await;
    facade.create("loaded").await;
    let states = vec![SessionState::Idle.into(), SessionState::Running.into()];
    let listed = list(&facade, ListSessionsRequest { states, ..Default::default() }).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(cli.count("session.list"), 0);
}
