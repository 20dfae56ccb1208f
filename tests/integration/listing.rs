//! A list of stored sessions is whole, and asks no more of the CLI than it needs; on a FakeCli, which counts.

use copilot_grpc::grpc::pb::{CreateSessionRequest, ListSessionsRequest, Session, SessionState};
use serde_json::{Value, json};

use crate::{
    pool::Clis,
    support::{facade::TestFacade, fake_cli::FakeCli, soon},
};

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

/// Answers a question for notes: each session is owned by whom its id names.
async fn tell_notes(cli: &FakeCli) -> usize {
    let call = soon("a question", cli.next(NOTES)).await;
    let asked = call.params["sessionIds"].as_array().unwrap().clone();
    let notes = asked.iter().map(|id| {
        let owner = id.as_str().unwrap().trim_matches(|c: char| !c.is_alphabetic());
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

/// Answers all questions for notes while something is done; of how many sessions it has been asked.
async fn telling_notes<T>(cli: &FakeCli, act: impl Future<Output = T>) -> (T, usize) {
    let mut asked = 0;
    let telling = async {
        loop {
            asked += tell_notes(cli).await;
        }
    };
    let done = tokio::select! {
        done = act => done,
        () = telling => unreachable!("it tells for ever"),
    };
    (done, asked)
}

#[tokio::test]
async fn sessions_that_a_label_selects_come_page_by_page_and_for_no_page_are_all_notes_read() {
    let all: Vec<_> = (0..40).map(|n| format!("{n:02}-{}", if n % 4 == 0 { "ann" } else { "bob" })).collect();
    let (cli, facade) = start(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let of = |owner: &str| [("of".to_owned(), owner.to_owned())].into();
    let known =
        CreateSessionRequest { session_id: "22-known".into(), labels: of("ann"), ..Default::default() };
    facade.client().create_session(known).await.unwrap();
    cli.manual(NOTES);
    let first = ListSessionsRequest { page_size: 3, labels: of("bob"), ..Default::default() };
    let (found, asked) = telling_notes(&cli, list(&facade, first)).await;
    assert!(found.len() == 3 && asked < 20, "{asked}: {found:?}");
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListSessionsRequest { page_size: 3, labels: of("ann"), page_token, ..Default::default() };
        let (page, _) = telling_notes(&cli, facade.client().list_sessions(request)).await;
        let page = page.unwrap().into_inner();
        found.extend(page.sessions.into_iter().map(|session| session.session_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = all.into_iter().filter(|id| id.ends_with("ann")).collect();
    expected.push("22-known".into());
    expected.sort_by(|a, b| b.cmp(a));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn of_a_cli_that_is_lost_over_its_notes_no_session_counts() {
    let clis = Clis::start(2).await;
    let facade = clis.facade(clis.setup()).await;
    // It belongs to the one that is lost, and the other has a copy.
    let double = clis.id(&[0, 1]);
    for (n, cli) in clis.0.iter().enumerate() {
        cli.has(&double, false, true);
        cli.has(&format!("{n}-session"), false, true);
        cli.manual(NOTES);
    }
    let request = ListSessionsRequest { owner: "session".into(), ..Default::default() };
    let refusal = async { clis.0[0].next(NOTES).await.refuse(-32603, "out of order").await };
    let mut client = facade.client();
    let asked = async { tokio::join!(client.list_sessions(request), refusal).0 };
    let (page, _) = telling_notes(&clis.0[1], asked).await;
    let page = page.unwrap().into_inner();
    let ids: Vec<_> = page.sessions.iter().map(|session| session.session_id.as_str()).collect();
    assert_eq!(ids, [double.as_str(), "1-session"]);
    assert_eq!(page.unreachable, ["cli-0"]);
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
