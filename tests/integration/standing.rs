//! CLIs that leave, drain or fail get no new sessions, while those that they have go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use copilot_grpc::{
    backend::{Target, pool::addresses::Addresses},
    grpc::pb::{
        BackendStanding, BackendState, CreateSessionRequest, DeleteSessionRequest, ErrorReason, SessionState,
        TurnResult, session_event,
    },
};
use futures_util::{StreamExt as _, stream};
use scripted_model::{ModelServer, Reply};
use serde_json::json;
use tokio::{net::TcpSocket, sync::mpsc, task::JoinHandle, time::Instant};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    pool::{Clis, backends, create, placement, states_become},
    support::{
        check,
        facade::{Setup, TestFacade, watching},
        fake_cli::{self, FakeCli},
        server::{Server, said, value_in},
        soon, until,
    },
};

/// Tells where a name leads.
struct Name(mpsc::Sender<BTreeSet<Target>>);

impl Name {
    /// A server in front of a name that leads nowhere yet.
    async fn start(setup: Setup) -> (Self, Arc<TestFacade>) {
        // One at a time: what was told before has been followed when another can be sent.
        let (tell, told) = mpsc::channel(1);
        let told = std::sync::Mutex::new(Some(told));
        let look_up = move |_: &_| -> Addresses {
            let told = told.lock().unwrap().take().expect("one name");
            stream::unfold(told, async |mut told: mpsc::Receiver<_>| Some((told.recv().await?, told))).boxed()
        };
        let setup = Setup { cli_url: "dns:///cli.test:1".into(), ..setup };
        (Self(tell), Arc::new(setup.start_where(look_up).await))
    }

    /// From now on it leads to these.
    async fn leads_to(&self, addresses: &[String]) {
        let address = |address: &String| address.parse::<SocketAddr>().unwrap().into();
        let addresses: BTreeSet<_> = addresses.iter().map(address).collect();
        soon("it is heard", self.0.send(addresses)).await.unwrap();
    }
}

fn alone() -> Setup {
    Setup::default().flag("--keeper-link=false")
}

/// Their standings, by their addresses.
async fn standings(facade: &TestFacade) -> BTreeMap<String, BackendStanding> {
    let backends = backends(facade).await.into_iter();
    backends.map(|backend| (backend.address.clone(), backend.standing())).collect()
}

async fn standings_become(facade: &TestFacade, expected: &[(&str, BackendStanding)]) {
    let expected = expected.iter().map(|(address, standing)| ((*address).to_owned(), *standing)).collect();
    let is_so = async || standings(facade).await == expected;
    soon(&format!("{expected:?}"), async { while !is_so().await {} }).await;
}

fn sent(facade: &Arc<TestFacade>, id: &str) -> JoinHandle<Result<TurnResult, Status>> {
    let (facade, id) = (facade.clone(), id.to_owned());
    tokio::spawn(async move { facade.send(&id, "hello").await })
}

#[tokio::test]
async fn before_a_name_leads_anywhere_calls_are_refused_and_then_they_are_not() {
    let clis = Clis::start(1).await;
    let (name, facade) = Name::start(alone()).await;
    facade.health_becomes("", ServingStatus::NotServing).await;
    facade.has("stored", &clis.addresses()[0], "").await;
    for refused in [create(&facade, "").await.map(|_| ()), facade.send("stored", "p").await.map(|_| ())] {
        check(&refused.unwrap_err(), Code::Unavailable, ErrorReason::BackendUnavailable);
    }
    // What the store has is known.
    assert_eq!(facade.get("stored").await.unwrap().state(), SessionState::Unloaded);
    check(&facade.get("some").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    name.leads_to(&clis.addresses()).await;
    facade.serving("").await;
    create(&facade, "").await.unwrap();
}

#[tokio::test]
async fn clis_join_and_leave_with_their_addresses() {
    use BackendStanding::{Leaving, Open};
    let clis = Clis::start(3).await;
    let addresses = clis.addresses();
    let [a, b, c] = [0, 1, 2].map(|cli| addresses[cli].as_str());
    let (name, facade) = Name::start(alone()).await;
    name.leads_to(&addresses[..2]).await;
    states_become(&facade, &[BackendState::Ready; 2]).await;
    let ids = [clis.id(&[2, 0]), clis.id(&[0, 1]), clis.id(&[1])];
    for (id, cli) in ids.iter().zip([0, 0, 1]) {
        create(&facade, id).await.unwrap();
        assert_eq!(clis.created(id), [cli], "of those that there are");
    }
    name.leads_to(&addresses).await;
    states_become(&facade, &[BackendState::Ready; 3]).await;
    let another = (0..).map(|n| format!("another-{n}")).find(|id| clis.order(id)[0] == 2).unwrap();
    create(&facade, &another).await.unwrap();
    assert_eq!(clis.created(&another), [2], "the new one gets what belongs to it");
    // The first leaves: its turn goes on, and nothing new comes to it.
    let turn = sent(&facade, &ids[1]);
    let running = clis.0[0].begin().await;
    name.leads_to(&addresses[1..]).await;
    standings_become(&facade, &[(a, Leaving), (b, Open), (c, Open)]).await;
    for n in 0..12 {
        let id = create(&facade, "").await.unwrap();
        assert!(!clis.created(&id).contains(&0), "{n}: {id}");
        let chosen = format!("chosen-{n}");
        create(&facade, &chosen).await.unwrap();
        let first = clis.order(&chosen).into_iter().find(|cli| *cli != 0).unwrap();
        assert_eq!(clis.created(&chosen), [first]);
    }
    // However often it is said.
    name.leads_to(&addresses[1..]).await;
    name.leads_to(&addresses[1..]).await;
    running.finish(&["to the end"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "to the end");
    facade.at_rest().await;
    name.leads_to(&addresses[1..]).await;
    standings_become(&facade, &[(b, Open), (c, Open)]).await;
    // What belongs to nobody here is not taken for deleted.
    let refused = facade.send(&ids[1], "are you there?").await.unwrap_err();
    check(&refused, Code::Unavailable, ErrorReason::BackendUnavailable);
    // It comes back, and so does its session.
    clis.0[0].has(&ids[1], false, true);
    name.leads_to(&addresses).await;
    states_become(&facade, &[BackendState::Ready; 3]).await;
    let turn = sent(&facade, &ids[1]);
    clis.0[0].turn(&["here again"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "here again");
}

#[tokio::test]
async fn an_address_that_comes_back_in_time_is_as_if_it_had_not_gone() {
    let clis = Clis::start(2).await;
    let addresses = clis.addresses();
    let (name, facade) = Name::start(alone()).await;
    name.leads_to(&addresses).await;
    states_become(&facade, &[BackendState::Ready; 2]).await;
    let id = clis.id(&[0]);
    create(&facade, &id).await.unwrap();
    let turn = sent(&facade, &id);
    let running = clis.0[0].begin().await;
    name.leads_to(&addresses[1..]).await;
    name.leads_to(&addresses).await;
    name.leads_to(&addresses).await;
    assert!(standings(&facade).await.values().all(|standing| *standing == BackendStanding::Open));
    running.finish(&["still here"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "still here");
    assert_eq!(clis.0[0].connections(), 1);
}

#[tokio::test]
async fn a_session_and_its_watcher_follow_their_cli_to_another_address() {
    let clis = Clis::start(3).await;
    let addresses = clis.addresses();
    let (name, facade) = Name::start(alone()).await;
    name.leads_to(&addresses[..1]).await;
    states_become(&facade, &[BackendState::Ready]).await;
    for id in ["moves", "blank"] {
        create(&facade, id).await.unwrap();
    }
    let turn = sent(&facade, "moves");
    clis.0[0].turn(&["before"]).await;
    soon("the turn", turn).await.unwrap().unwrap();
    let request = watching("moves");
    let mut watcher = facade.watch(request).await.unwrap();
    // The pod has another address; a third CLI has nothing to do with it.
    clis.0[1].has("moves", false, true);
    clis.0[0].stop_listening();
    clis.0[0].disconnect().await;
    for _ in 0..2 {
        name.leads_to(&addresses[1..]).await;
    }
    states_become(&facade, &[BackendState::Ready; 2]).await;
    clis.0[1].manual("session.eventLog.read");
    let no_history = async {
        loop {
            let read = clis.0[1].next("session.eventLog.read").await;
            read.answer(json!({"events": [], "cursor": "", "hasMore": false, "cursorStatus": "ok"})).await;
        }
    };
    let turn = sent(&facade, "moves");
    let told = async {
        clis.0[1].turn(&["after"]).await;
        let told = watcher.find(|payload| match payload {
            session_event::Payload::AssistantMessage(message) => Some(message.content.clone()),
            _ => None,
        });
        told.await
    };
    tokio::select! {
        () = no_history => {}
        told = told => assert_eq!(told, "after"),
    }
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "after");
    // One without a message is made anew, wherever there is room.
    let turn = sent(&facade, "blank");
    let first = placement(&addresses[1..]).order("blank")[0] + 1;
    clis.0[first].turn(&["as new"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "as new");
}

#[tokio::test]
async fn a_stored_session_whose_cli_has_another_address_is_found_there_by_the_next_server_too() {
    let clis = Clis::start(3).await;
    let facade = Setup { cli_url: clis.addresses()[0].clone(), ..clis.setup() }.start().await;
    for id in ["goes-on", "goes"] {
        create(&facade, id).await.unwrap();
        clis.0[0].turn_of(&facade, id).await;
        clis.0[2].has(id, false, true);
    }
    facade.stop().await;
    let facade = Setup { cli_url: clis.addresses()[1..].join(","), ..clis.setup() }.start().await;
    states_become(&facade, &[BackendState::Ready; 2]).await;
    let (sent, _) = tokio::join!(facade.send("goes-on", "hello"), clis.0[2].turn(&["hi"]));
    assert_eq!(sent.unwrap().content, "hi");
    let delete = DeleteSessionRequest { session_id: "goes".into(), ..Default::default() };
    facade.client().delete_session(delete).await.unwrap();
    assert_eq!(clis.0[2].called("session.delete", 1).await["sessionId"], "goes");
    assert_eq!(clis.0[1].count("session.delete"), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_by_the_resolver_of_the_system() {
    let clis = Clis::start(1).await;
    let (_, port) =
        clis.addresses()[0].rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let facade = Setup { cli_url: format!("dns:///localhost:{port}"), ..alone() }.start().await;
    standings_become(&facade, &[(&clis.addresses()[0], BackendStanding::Open)]).await;
    create(&facade, "").await.unwrap();
}

#[tokio::test]
async fn a_cli_on_the_operators_list_gets_no_new_sessions_until_it_is_off_again() {
    use BackendStanding::{Draining, Open};
    let clis = Clis::start(2).await;
    let addresses = clis.addresses();
    let [a, b] = [addresses[0].as_str(), addresses[1].as_str()];
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("drain");
    let facade = Arc::new(clis.facade(clis.setup().flag(format!("--drain-file={}", list.display()))).await);
    let there = clis.id(&[0]);
    create(&facade, &there).await.unwrap();
    clis.0[0].turn_of(&facade, &there).await;
    std::fs::write(&list, format!("# new disks\n{a}\n")).unwrap();
    standings_become(&facade, &[(a, Draining), (b, Open)]).await;
    for _ in 0..8 {
        let id = create(&facade, "").await.unwrap();
        assert_eq!(clis.created(&id), [1]);
    }
    // Those with an id of the caller's choice, too.
    let ids: Vec<String> =
        (0..).map(|n| format!("chosen-{n}")).filter(|id| clis.order(id)[0] == 0).take(2).collect();
    for id in &ids {
        create(&facade, id).await.unwrap();
        assert_eq!(clis.created(id), [1]);
    }
    let turn = sent(&facade, &there);
    clis.0[0].turn(&["as ever"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "as ever");
    // By its name; and if all drain, that is what callers are told.
    std::fs::write(&list, format!("{a}\ncli-1")).unwrap();
    standings_become(&facade, &[(a, Draining), (b, Draining)]).await;
    check(&create(&facade, "").await.unwrap_err(), Code::Unavailable, ErrorReason::BackendUnavailable);
    std::fs::remove_file(&list).unwrap();
    standings_become(&facade, &[(a, Open), (b, Open)]).await;
    let id = clis.id(&[0, 1]);
    assert_eq!(clis.created(&id), if id == there { vec![0] } else { vec![] });
    let id = (0..).map(|n| format!("last-{n}")).find(|id| clis.order(id)[0] == 0).unwrap();
    create(&facade, &id).await.unwrap();
    assert_eq!(clis.created(&id), [0]);
}

/// Has a CLI answer nonsense to what creates a session.
async fn talk_nonsense(clis: &Clis, cli: usize) {
    loop {
        clis.0[cli].next("session.create").await.answer(json!("nonsense")).await;
    }
}

/// Creates sessions until so many have failed.
async fn fail(facade: &TestFacade, failures: usize) {
    let mut failed = 0;
    while failed < failures {
        if let Err(refused) = create(facade, "").await {
            check(&refused, Code::Internal, ErrorReason::CliProtocol);
            failed += 1;
        }
    }
}

#[tokio::test]
async fn a_cli_that_fails_in_a_row_gets_no_new_sessions_until_it_is_well_again() {
    use BackendStanding::{Ejected, Open};
    let clis = Clis::start(2).await;
    let addresses = clis.addresses();
    let [a, b] = [addresses[0].as_str(), addresses[1].as_str()];
    let facade = Arc::new(clis.facade(clis.setup().flag("--eject-after=3").flag("--eject-for=1s")).await);
    let there = clis.id(&[0]);
    create(&facade, &there).await.unwrap();
    clis.0[0].manual("session.create");
    tokio::select! {
        () = talk_nonsense(&clis, 0) => {}
        () = fail(&facade, 3) => {}
    }
    standings_become(&facade, &[(a, Ejected), (b, Open)]).await;
    for _ in 0..8 {
        let id = create(&facade, "").await.unwrap();
        assert_eq!(clis.created(&id), [1]);
    }
    // What it has goes on.
    let turn = sent(&facade, &there);
    clis.0[0].turn(&["as ever"]).await;
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "as ever");
    // The first probe fails, the second does not.
    clis.0[0].manual("session.getMetadata");
    clis.0[0].next("session.getMetadata").await.answer(json!("nonsense")).await;
    clis.0[0].automatic("session.getMetadata");
    clis.0[0].automatic("session.create");
    assert_eq!(standings(&facade).await[a], Ejected);
    standings_become(&facade, &[(a, Open), (b, Open)]).await;
    let id = (0..).map(|n| format!("late-{n}")).find(|id| clis.order(id)[0] == 0).unwrap();
    create(&facade, &id).await.unwrap();
    assert_eq!(clis.created(&id), [0]);
}

#[tokio::test]
async fn where_most_fail_all_get_new_sessions_still() {
    let clis = Clis::start(2).await;
    let facade = Arc::new(clis.facade(clis.setup().flag("--eject-after=2").flag("--eject-for=1h")).await);
    for cli in &clis.0 {
        cli.manual("session.create");
    }
    let both = async {
        tokio::join!(talk_nonsense(&clis, 0), talk_nonsense(&clis, 1));
    };
    tokio::select! {
        () = both => {}
        () = fail(&facade, 6) => {}
    }
    assert!(standings(&facade).await.values().all(|standing| *standing == BackendStanding::Ejected));
    for cli in &clis.0 {
        cli.automatic("session.create");
    }
    let mut used = BTreeSet::new();
    for _ in 0..12 {
        used.extend(clis.created(&create(&facade, "").await.unwrap()));
    }
    assert_eq!(used, [0, 1].into());
}

#[tokio::test]
async fn a_cli_whose_connections_do_not_hold_gets_no_new_sessions() {
    let clis = Clis::start(2).await;
    let facade = Arc::new(clis.facade(clis.setup().flag("--eject-after=3").flag("--eject-for=1h")).await);
    for connection in 1..=3 {
        clis.0[0].connected(connection).await;
        clis.0[0].disconnect().await;
    }
    clis.0[0].connected(4).await;
    states_become(&facade, &[BackendState::Ready; 2]).await;
    assert_eq!(standings(&facade).await[&clis.addresses()[0]], BackendStanding::Ejected);
    for _ in 0..8 {
        let id = create(&facade, "").await.unwrap();
        assert_eq!(clis.created(&id), [1]);
    }
}

#[tokio::test]
async fn a_cli_that_was_away_for_long_is_found_soon_after_it_is_asked_for() {
    // Nobody else gets it: it is not listened on, but taken.
    let reserved = TcpSocket::new_v4().unwrap();
    reserved.set_reuseaddr(true).unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = reserved.local_addr().unwrap().port();
    let setup =
        Setup { cli_url: format!("127.0.0.1:{port}"), ..Setup::default() }.flag("--keeper-link=false");
    let facade = setup.start_unready().await;
    let failures = || facade.facade.sessions().pool().all()[0].stats().failures;
    // From the seventh on nobody would look for 6.4 seconds.
    until("the attempts are few and far between", || failures() == 7).await;
    let cli = FakeCli::start_at(port, fake_cli::Options::default()).await;
    let began = Instant::now();
    let refused = facade.client().create_session(CreateSessionRequest::default()).await;
    if let Err(status) = refused {
        check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    }
    cli.connected(1).await;
    facade.serving("").await;
    assert!(began.elapsed() < Duration::from_secs(4), "after {:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_cli_has_printed_is_told_without_the_secrets_that_the_server_knows() {
    let folder = tempfile::tempdir().unwrap();
    let cli = folder.path().join("cli");
    let script = "#!/bin/sh\necho \"key $COPILOT_PROVIDER_API_KEY, token $GH_TOKEN\" >&2\nexit 3\n";
    std::fs::write(&cli, script).unwrap();
    std::fs::set_permissions(&cli, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let model = ModelServer::start(|_| Reply::text("never asked")).await.unwrap();
    let server = Server::start_unready_with(&model, &cli, &[], &[("GH_TOKEN", "ghu_0123456789")]).await;
    let mut logs = server.logs.clone();
    value_in(&mut logs, "the CLI is down", "problem").await;
    let request = copilot_grpc::grpc::pb::GetServerInfoRequest {};
    let backend =
        server.client().await.get_server_info(request).await.unwrap().into_inner().backends.remove(0);
    assert_eq!(backend.last_output, ["key [redacted], token [redacted]"]);
}

#[tokio::test]
async fn a_cli_that_dies_again_and_again_is_given_time_and_its_last_words_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let cli = folder.path().join("cli");
    std::fs::write(&cli, "#!/bin/sh\necho first >&2\necho 'there is no licence' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&cli, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let model = ModelServer::start(|_| Reply::text("never asked")).await.unwrap();
    let server = Server::start_unready(&model, &cli, &[]).await;
    let (mut logs, mut client) = (server.logs.clone(), server.client().await);
    let down = |logs: &Vec<String>| -> Vec<_> {
        logs.iter().filter_map(|line| said(line, "the CLI is down")).collect()
    };
    // Not kept any longer than that: nothing more is logged meanwhile.
    let lines =
        soon("four attempts", logs.wait_for(|logs| down(logs).len() >= 4)).await.map(|logs| down(&logs));
    let lines = lines.unwrap();
    let pauses: Vec<_> =
        lines.iter().take(4).map(|line| line["retry_in"].as_str().unwrap().to_owned()).collect();
    assert_eq!(pauses, ["100ms", "200ms", "400ms", "800ms"]);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["failures"], n + 1);
        assert!(line["problem"].as_str().unwrap().contains("there is no licence"), "{line}");
    }
    assert!(!server.is_serving().await);
    let backend = client.get_server_info(copilot_grpc::grpc::pb::GetServerInfoRequest {}).await.unwrap();
    let backend = backend.into_inner().backends.remove(0);
    assert_eq!(backend.last_output, ["first", "there is no licence"]);
    assert!(backend.failures >= 4 && backend.problem.contains("exit code 3"), "{backend:?}");
    assert_eq!(backend.start_time, None);
    // Callers are not told what the CLI said.
    let request = copilot_grpc::grpc::pb::CreateSessionRequest::default();
    let refused = client.create_session(request).await.unwrap_err();
    check(&refused, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert!(!refused.message().contains("licence"), "{refused:?}");
}
