//! Several CLIs behind one server are as one: sessions are spread over them and found again, and the loss of one CLI leaves the others alone.

use std::{collections::BTreeSet, net::TcpListener, sync::Arc, time::Duration};

use copilot_grpc::{
    backend::pool::placement::Placement,
    grpc::pb::{
        self, BackendState, CreateSessionRequest, DeleteSessionRequest, ErrorReason, GetServerInfoRequest,
        ListSessionsRequest, ListSessionsResponse, SessionState,
    },
};
use futures_util::{StreamExt as _, stream};
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Child;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    check,
    facade::{Setup, TestFacade},
    fake_cli::FakeCli,
    real_cli, soon,
    state::State,
    until, words,
};

/// Some CLIs that the test plays, and what the servers in front of them have, one after the other.
pub(crate) struct Clis(pub(crate) Vec<FakeCli>, Arc<State>);

impl Clis {
    pub(crate) async fn start(count: usize) -> Self {
        Self(stream::iter(0..count).then(|_| FakeCli::start()).collect().await, Arc::default())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|cli| cli.address()).collect()
    }

    pub(crate) fn setup(&self) -> Setup {
        let setup = Setup { cli_url: self.addresses().join(","), state: self.1.clone(), ..Setup::default() };
        setup.flag("--keeper-link=false")
    }

    /// A server in front of them, to which all are ready.
    pub(crate) async fn facade(&self, setup: Setup) -> TestFacade {
        let facade = setup.start().await;
        states_become(&facade, &vec![BackendState::Ready; self.0.len()]).await;
        facade
    }

    /// Where a session belongs, first to last.
    pub(crate) fn order(&self, session: &str) -> Vec<usize> {
        placement(&self.addresses()).order(session)
    }

    /// An id that belongs to these, in this order.
    pub(crate) fn id(&self, order: &[usize]) -> String {
        let ids = (0..).map(|n| format!("session-{n}"));
        ids.into_iter().find(|id| self.order(id).starts_with(order)).unwrap()
    }

    /// One of them goes away, for good.
    pub(crate) async fn lose(&self, cli: usize, facade: &TestFacade) {
        self.0[cli].stop_listening();
        self.0[cli].disconnect().await;
        let is_down = async || states(facade).await[cli] == BackendState::Down;
        soon("a CLI is down", async { while !is_down().await {} }).await;
    }

    /// Which of them have been asked to create a session.
    pub(crate) fn created(&self, session: &str) -> Vec<usize> {
        let creates = |cli: &FakeCli| {
            let calls = cli.calls().into_iter().filter(|call| call.method == "session.create");
            calls.into_iter().any(|call| call.params["sessionId"] == session)
        };
        (0..self.0.len()).filter(|number| creates(&self.0[*number])).collect()
    }
}

pub(crate) fn placement(addresses: &[String]) -> Placement {
    Placement::new(addresses.iter().map(String::as_str))
}

pub(crate) async fn backends(facade: &TestFacade) -> Vec<pb::Backend> {
    facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().backends
}

async fn states(facade: &TestFacade) -> Vec<BackendState> {
    backends(facade).await.iter().map(pb::Backend::state).collect()
}

pub(crate) async fn states_become(facade: &TestFacade, expected: &[BackendState]) {
    soon("the CLIs' states", async { while states(facade).await != expected {} }).await;
}

pub(crate) async fn create(facade: &TestFacade, id: &str) -> Result<String, Status> {
    let request = CreateSessionRequest { session_id: id.into(), ..Default::default() };
    let created = soon("a session", async { facade.client().create_session(request).await }).await?;
    Ok(created.into_inner().session.unwrap().session_id)
}

async fn delete(facade: &TestFacade, id: &str) -> Result<(), Status> {
    let request = DeleteSessionRequest { session_id: id.into(), allow_missing: true };
    facade.client().delete_session(request).await.map(|_| ())
}

async fn list(facade: &TestFacade) -> ListSessionsResponse {
    let request = ListSessionsRequest { page_size: 1000, ..Default::default() };
    facade.client().list_sessions(request).await.unwrap().into_inner()
}

fn ids(list: &ListSessionsResponse) -> BTreeSet<&str> {
    let ids: BTreeSet<_> = list.sessions.iter().map(|session| session.session_id.as_str()).collect();
    assert_eq!(ids.len(), list.sessions.len(), "a session is listed twice");
    ids
}

#[tokio::test]
async fn a_new_session_goes_to_the_first_cli_that_is_ready() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    for _ in 0..12 {
        let id = create(&facade, "").await.unwrap();
        assert_eq!(clis.created(&id), [clis.order(&id)[0]], "{id}");
    }
    clis.lose(1, &facade).await;
    for _ in 0..12 {
        let id = create(&facade, "").await.unwrap();
        let first = clis.order(&id).into_iter().find(|cli| *cli != 1).unwrap();
        assert_eq!(clis.created(&id), [first], "{id}");
    }
}

#[tokio::test]
async fn a_session_with_a_chosen_id_is_created_in_the_first_cli_that_is_ready_too() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    let (first, there) = (clis.id(&[1, 2]), clis.id(&[1, 0]));
    create(&facade, &first).await.unwrap();
    assert_eq!(clis.created(&first), [1]);
    clis.lose(1, &facade).await;
    create(&facade, &there).await.unwrap();
    assert_eq!(clis.created(&there), [0]);
    // Whichever is down.
    for id in [&first, &there] {
        check(&create(&facade, id).await.unwrap_err(), Code::AlreadyExists, ErrorReason::SessionExists);
    }
}

#[tokio::test]
async fn an_id_is_taken_wherever_its_session_is_and_in_a_cli_whether_it_is_stored_or_loaded() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    for (cli, (loaded, stored)) in [(0, (true, false)), (1, (false, true)), (2, (true, true))] {
        // Of this service, and in another CLI than it would be created in.
        let id = clis.id(&[(cli + 1) % 3, cli]);
        facade.has(&id, &clis.0[cli].address(), "").await;
        check(&create(&facade, &id).await.unwrap_err(), Code::AlreadyExists, ErrorReason::SessionExists);
        assert_eq!(clis.created(&id), [0; 0]);
        // Of somebody else.
        let id = clis.id(&[cli, (cli + 1) % 3]);
        clis.0[cli].has(&id, loaded, stored);
        check(&create(&facade, &id).await.unwrap_err(), Code::AlreadyExists, ErrorReason::SessionExists);
        assert_eq!(clis.created(&id), [0; 0]);
        clis.0[cli].forget(&id);
        create(&facade, &id).await.unwrap();
    }
}

#[tokio::test]
async fn a_stored_session_is_found_wherever_it_is_and_no_other_cli_is_asked() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    let id = clis.id(&[2, 0, 1]);
    check(&facade.get(&id).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    for cli in [2, 0, 1] {
        clis.0[cli].has(&id, false, true);
        facade.has(&id, &clis.0[cli].address(), "").await;
        let asked = || clis.0.iter().map(|cli| asked_of(cli, &id)).collect::<Vec<_>>();
        let before = asked();
        assert_eq!(facade.get(&id).await.unwrap().state(), SessionState::Unloaded);
        delete(&facade, &id).await.unwrap();
        assert_eq!(clis.0[cli].count("session.delete"), 1);
        check(&facade.get(&id).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
        let after = asked();
        for other in (0..3).filter(|other| *other != cli) {
            assert_eq!(after[other], before[other], "{other} was asked for what {cli} has");
        }
    }
}

/// How often a CLI was asked for anything of a session.
fn asked_of(cli: &FakeCli, id: &str) -> usize {
    cli.calls().iter().filter(|call| call.params["sessionId"] == id).count()
}

#[tokio::test]
async fn a_session_does_not_look_deleted_because_its_cli_is_down() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    let (there, known) = (clis.id(&[0, 2]), clis.id(&[2]));
    let (lost, empty) = (clis.id(&[1, 0]), clis.id(&[1, 2]));
    clis.0[2].has(&there, false, true);
    facade.has(&there, &clis.0[2].address(), "").await;
    for id in [&known, &lost, &empty] {
        create(&facade, id).await.unwrap();
    }
    clis.0[1].turn_of(&facade, &lost).await;
    clis.lose(1, &facade).await;
    for id in [&there, &known, &lost, &empty] {
        assert_eq!(facade.get(id).await.unwrap().session_id, *id);
    }
    // This server knows it, though it cannot be used.
    assert_eq!(facade.get(&lost).await.unwrap().state(), SessionState::Unloaded);
    let refused = facade.send(&lost, "hello").await.unwrap_err();
    check(&refused, Code::Unavailable, ErrorReason::BackendUnavailable);
    check(&delete(&facade, &lost).await.unwrap_err(), Code::Unavailable, ErrorReason::BackendUnavailable);
    assert_eq!(facade.get(&lost).await.unwrap().session_id, lost);
    // Nothing of one without a message is in its CLI.
    let (sent, _) = tokio::join!(facade.send(&empty, "hello"), clis.0[2].turn(&["hi"]));
    assert_eq!(sent.unwrap().content, "hi");
    // What is in no CLI is certain.
    for refused in [
        facade.get("nobody-knows").await.map(|_| ()).unwrap_err(),
        facade.send("nobody-knows", "hello").await.map(|_| ()).unwrap_err(),
    ] {
        check(&refused, Code::NotFound, ErrorReason::SessionNotFound);
    }
    delete(&facade, "nobody-knows").await.unwrap();
}

#[tokio::test]
async fn a_list_is_of_the_sessions_of_all_clis_be_they_there_or_not() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    for (n, cli) in clis.0.iter().enumerate() {
        facade.has(&format!("stored-{n}"), &cli.address(), "").await;
        cli.has(&format!("stored-{n}"), false, true);
        // Of somebody else.
        cli.has(&format!("theirs-{n}"), false, true);
    }
    let known = clis.id(&[1]);
    create(&facade, &known).await.unwrap();
    for cli in [1, 0, 2] {
        assert_eq!(ids(&list(&facade).await), [&known, "stored-0", "stored-1", "stored-2"].into());
        clis.lose(cli, &facade).await;
    }
    assert_eq!(ids(&list(&facade).await), [&known, "stored-0", "stored-1", "stored-2"].into());
}

#[tokio::test]
async fn pages_of_any_size_hold_every_session_once_in_order_wherever_it_is() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    let mut expected = Vec::new();
    for n in 0..9 {
        let (known, stored) = (format!("known-{n}"), format!("stored-{n}"));
        create(&facade, &known).await.unwrap();
        facade.has(&stored, &clis.0[n % 3].address(), "").await;
        expected.extend([known, stored]);
    }
    // Those that were used last come first.
    expected.reverse();
    for page_size in [1, 2, 5, 17, 18, 19] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        for _ in 0..18_usize.div_ceil(page_size) {
            let request =
                ListSessionsRequest { page_size: page_size as i32, page_token, ..Default::default() };
            let page = facade.client().list_sessions(request).await.unwrap().into_inner();
            page_token = page.next_page_token;
            assert!(page.sessions.len() == page_size || page_token.is_empty(), "{page_size}");
            found.extend(page.sessions.into_iter().map(|session| session.session_id));
        }
        assert_eq!((found, page_token), (expected.clone(), String::new()), "{page_size}");
    }
}

#[tokio::test]
async fn a_sessions_events_count_from_its_own_cli_only() {
    let clis = Clis::start(2).await;
    let facade = Arc::new(clis.facade(clis.setup()).await);
    let id = clis.id(&[0]);
    create(&facade, &id).await.unwrap();
    let turn = tokio::spawn({
        let (facade, id) = (facade.clone(), id.clone());
        async move { facade.send(&id, "hello").await }
    });
    let running = clis.0[0].begin().await;
    let data = json!({"messageId": "a", "content": "not mine", "originatingMessageId": running.id});
    clis.0[1].event(&id, "assistant.message", data).await;
    clis.0[1].event(&id, "session.idle", json!({})).ephemeral().await;
    clis.0[1].lifecycle("session.deleted", &id).await;
    // Its loss is not the loss of the other, whose turn goes on.
    clis.lose(1, &facade).await;
    running.finish(&["mine"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "mine");
}

#[tokio::test]
async fn the_loss_of_a_cli_ends_its_own_turns_only() {
    let clis = Clis::start(2).await;
    let facade = Arc::new(clis.facade(clis.setup()).await);
    let ids = [clis.id(&[0]), clis.id(&[1])];
    let mut turns = Vec::new();
    for id in &ids {
        create(&facade, id).await.unwrap();
        let (facade, id) = (facade.clone(), id.clone());
        turns.push(tokio::spawn(async move { facade.send(&id, "hello").await }));
    }
    let (_, other) = (clis.0[0].begin().await, clis.0[1].begin().await);
    let loads: Vec<_> = backends(&facade).await;
    let numbers = |backend: &pb::Backend| (backend.running_turns, backend.loaded_sessions);
    assert_eq!(loads.iter().map(numbers).collect::<Vec<_>>(), [(1, 1), (1, 1)]);
    clis.lose(0, &facade).await;
    let refused = soon("the lost turn", turns.remove(0)).await.unwrap().unwrap_err();
    check(&refused, Code::Unavailable, ErrorReason::TurnInterrupted);
    assert_eq!(backends(&facade).await.iter().map(numbers).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    other.finish(&["still here"]).await;
    assert_eq!(soon("the turn", turns.remove(0)).await.unwrap().unwrap().content, "still here");
}

#[tokio::test]
async fn the_server_is_well_while_one_cli_is() {
    let clis = Clis::start(2).await;
    let facade = clis.facade(clis.setup()).await;
    let names: Vec<_> = backends(&facade).await.into_iter().map(|backend| backend.name).collect();
    assert_eq!(names, ["cli-0", "cli-1"]);
    clis.lose(0, &facade).await;
    facade.serving("").await;
    create(&facade, "").await.unwrap();
    clis.lose(1, &facade).await;
    facade.health_becomes("", ServingStatus::NotServing).await;
}

#[tokio::test]
async fn each_cli_is_cleared_up_also_when_another_is_down() {
    let clis = Clis::start(3).await;
    let facade = clis.facade(clis.setup()).await;
    for (n, cli) in clis.0.iter().enumerate() {
        cli.has(&format!("old-{n}"), false, true);
        facade.has(&format!("old-{n}"), &cli.address(), "").await;
    }
    facade.stop().await;
    clis.0[1].stop_listening();
    let facade = clis.setup().flag("--delete-after-age=1ms").flag("--cleanup-interval=100ms").start().await;
    for n in [0, 2] {
        let call = soon("a deletion", clis.0[n].called("session.delete", 1)).await;
        assert_eq!(call["sessionId"], format!("old-{n}"));
    }
    until("they are counted", || facade.facade.sessions().cleanup().is_some_and(|done| done.deleted == 2))
        .await;
    // It is tried again when its CLI is back.
    assert_eq!(ids(&list(&facade).await), ["old-1"].into());
    assert_eq!(clis.0[1].count("session.delete"), 0);
}

/// A real CLI on a port that stays, with a token that all share.
struct Cli {
    port: u16,
    home: TempDir,
    child: Child,
}

impl Cli {
    fn start(model: &ModelServer) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let child = real_cli::spawn(port, &home, model);
        Self { port, home, child }
    }

    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    fn restart(&mut self, model: &ModelServer) {
        self.child = real_cli::spawn(self.port, &self.home, model);
    }
}

fn script(request: &Request) -> Reply {
    match request.prompt() {
        "words" => Reply::text(words(100)).every(Duration::from_millis(40)),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

#[tokio::test]
async fn sessions_are_spread_over_real_clis_one_of_which_may_die_and_another_server_finds_them_all() {
    let model = ModelServer::start(script).await.unwrap();
    let mut clis: Vec<_> = (0..3).map(|_| Cli::start(&model)).collect();
    let mut addresses: Vec<_> = clis.iter().map(|cli| format!("127.0.0.1:{}", cli.port)).collect();
    let state = Arc::<State>::default();
    let setup = |addresses: &[String]| {
        let setup = Setup { cli_url: addresses.join(","), state: state.clone(), ..Setup::default() }.beside();
        let offline = real_cli::offline(&model).into_iter();
        let setup = offline.fold(setup, |setup, (name, value)| setup.variable(name, value));
        setup.variable("COPILOT_CONNECTION_TOKEN", real_cli::TOKEN)
    };
    let placement = placement(&addresses);
    let facade = Arc::new(setup(&addresses).start().await);
    states_become(&facade, &[BackendState::Ready; 3]).await;

    let sessions = stream::iter(0..60).map(|_| async {
        let id = create(&facade, "").await.unwrap();
        assert_eq!(facade.send(&id, "hello").await.unwrap().content, "You said: hello");
        id
    });
    let sessions: Vec<_> = sessions.buffer_unordered(6).collect().await;
    let loaded: Vec<_> = backends(&facade).await.iter().map(|backend| backend.loaded_sessions).collect();
    assert_eq!(loaded.iter().sum::<i32>(), 60);
    assert!(loaded.iter().all(|count| *count >= 5), "{loaded:?}");

    // Two turns on each CLI, one of which is killed in their midst.
    let (sessions, placement) = (&sessions, &placement);
    let on = |cli: usize| sessions.iter().filter(move |id| placement.order(id)[0] == cli).take(2).cloned();
    let told = on(0).chain(on(1)).chain(on(2)).map(|id| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send(&id, "words").await })
    });
    let mut told: Vec<_> = told.collect();
    let all_run = async || backends(&facade).await.iter().all(|backend| backend.running_turns == 2);
    soon("six turns", async { while !all_run().await {} }).await;
    let streaming = || model.calls().iter().filter(|call| call.request.prompt() == "words").count() == 6;
    until("six streams", streaming).await;
    clis[0].kill().await;
    for lost in told.drain(..2) {
        let refused = soon("the end", lost).await.unwrap().unwrap_err();
        check(&refused, Code::Unavailable, ErrorReason::TurnInterrupted);
    }
    clis[0].restart(&model);
    // Calls would wait for it, but only for some seconds, and on a busy machine it takes more.
    states_become(&facade, &[BackendState::Ready; 3]).await;
    for id in on(0) {
        let answer = facade.send(&id, "are you there?").await.unwrap();
        assert_eq!(answer.content, "You said: are you there?");
    }
    for untouched in told {
        assert_eq!(soon("all words", untouched).await.unwrap().unwrap().content, words(100));
    }

    addresses.reverse();
    let second = setup(&addresses).start().await;
    states_become(&second, &[BackendState::Ready; 3]).await;
    let all = list(&second).await;
    assert_eq!(ids(&all), sessions.iter().map(String::as_str).collect());
    for id in sessions.iter().step_by(7) {
        assert_eq!(second.send(id, "and you?").await.unwrap().content, "You said: and you?");
    }
    // A third has another CLI, to which some of them would belong by now.
    clis.push(Cli::start(&model));
    addresses.push(format!("127.0.0.1:{}", clis[3].port));
    let third = setup(&addresses).start().await;
    states_become(&third, &[BackendState::Ready; 4]).await;
    for id in sessions {
        assert_eq!(third.get(id).await.unwrap().session_id, *id);
    }
}
