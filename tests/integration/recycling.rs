//! CLIs that are started anew while they are used: nobody notices. On the real CLI.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use copilot_grpc::{
    backend::placement::Placement,
    grpc::pb::{
        self, BackendStanding, BackendState, CreateSessionRequest, GetServerInfoRequest, GetSessionRequest,
        ListSessionsRequest, TurnResult, WatchSessionRequest, copilot_service_client::CopilotServiceClient,
        session_event::Payload,
    },
};
use futures_util::future::join_all;
use scripted_model::{ModelServer, Reply, Request};
use tonic::{Status, transport::Channel};

use crate::support::{
    facade::wait,
    server::{Server, said, value_in},
    soon, until,
};

/// Says how much of the conversation it sees; `slowly` takes three seconds.
fn script(request: &Request) -> Reply {
    let users = request.messages.iter().filter(|message| message.role == "user").count();
    match request.prompt() {
        "slowly" => Reply::chunks((0..15).map(|n| format!("{n} "))).every(Duration::from_millis(200)),
        prompt => Reply::text(format!("{users}: {prompt}")),
    }
}

fn slowly() -> String {
    (0..15).map(|n| format!("{n} ")).collect()
}

type Client = CopilotServiceClient<Channel>;

async fn create(client: &mut Client, id: &str) -> Result<(), Status> {
    let request = CreateSessionRequest { session_id: id.into(), ..Default::default() };
    client.create_session(request).await.map(|_| ())
}

async fn send(client: &mut Client, id: &str, prompt: &str) -> Result<TurnResult, Status> {
    Ok(client.send_and_wait(wait(id, prompt)).await?.into_inner().result.unwrap())
}

async fn backends(client: &mut Client) -> Vec<pb::Backend> {
    client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().backends
}

/// Waits until the only CLI has been recycled so many times, and is there.
async fn recycled(client: &mut Client, times: i64) -> pb::Backend {
    let done = async {
        loop {
            let backend = backends(client).await.remove(0);
            if backend.recycle_count >= times && backend.state() == BackendState::Ready {
                return backend;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.expect("the CLI is recycled")
}

/// How often the server has logged this.
fn times(server: &Server, message: &str) -> usize {
    server.logs.borrow().iter().filter(|line| said(line, message).is_some()).count()
}

#[tokio::test]
async fn a_rolling_recycle_of_three_clis_under_load_fails_no_call_and_ends_no_stream() {
    let model = ModelServer::start(script).await.unwrap();
    let flags = ["--embedded-clis=3", "--recycle-after-age=10s", "--recycle-wait=60s"];
    let server = Server::start_with(&model, &flags).await;
    let mut client = server.client().await;
    let all_ready = async {
        while backends(&mut client).await.iter().any(|backend| backend.state() != BackendState::Ready) {}
    };
    soon("three CLIs", all_ready).await;
    // One on each CLI, whose watchers are there all the time.
    let placement = Placement::new(["cli-0", "cli-1", "cli-2"]);
    let on =
        |cli: usize| (0..).map(|n| format!("watched-{n}")).find(|id| placement.order(id)[0] == cli).unwrap();
    let mut watchers = Vec::new();
    for id in (0..3).map(on) {
        create(&mut client, &id).await.unwrap();
        assert_eq!(send(&mut client, &id, "before").await.unwrap().content, "1: before");
        let request = WatchSessionRequest { session_id: id.clone(), ..Default::default() };
        watchers.push((id, client.watch_session(request).await.unwrap().into_inner()));
    }
    let (done, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let workers = (0..4).map(|worker| {
        let (mut client, done, calls) = (client.clone(), done.clone(), calls.clone());
        tokio::spawn(async move {
            let mut turns = 0;
            let mut id = String::new();
            while !done.load(Ordering::Relaxed) {
                if turns % 5 == 0 {
                    id = format!("worker-{worker}-{turns}");
                    create(&mut client, &id).await.unwrap();
                }
                let answer = send(&mut client, &id, "go on").await.unwrap();
                assert_eq!(answer.content, format!("{}: go on", turns % 5 + 1), "the conversation goes on");
                turns += 1;
                let get = GetSessionRequest { session_id: id.clone() };
                client.get_session(get).await.unwrap();
                let list = client.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
                assert_eq!(list.unreachable, Vec::<String>::new());
                calls.fetch_add(3, Ordering::Relaxed);
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let all_recycled = async {
        loop {
            let backends = backends(&mut client).await;
            let at_work = |backend: &pb::Backend| backend.state() != BackendState::Ready;
            assert!(
                backends.iter().filter(|backend| at_work(backend)).count() <= 1,
                "more than one at a time"
            );
            if backends.iter().all(|backend| backend.recycle_count >= 1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_recycled).await.expect("all are recycled");
    done.store(true, Ordering::Relaxed);
    for worker in join_all(workers).await {
        worker.unwrap();
    }
    println!("{} calls", calls.load(Ordering::Relaxed));
    for (id, mut watcher) in watchers {
        assert_eq!(send(&mut client, &id, "after").await.unwrap().content, "2: after");
        let told = async {
            loop {
                let event = watcher.message().await.unwrap().unwrap().event.unwrap();
                if matches!(event.payload, Some(Payload::AssistantMessage(message)) if message.content == "2: after")
                {
                    return;
                }
            }
        };
        soon("the watcher is told", told).await;
    }
    assert_eq!(times(&server, "the CLI is down"), 0);
    assert_eq!(times(&server, "the link to the CLI was lost"), 0);
    let begun = times(&server, "a CLI is being recycled");
    let ended =
        || times(&server, "the CLI has been recycled") + times(&server, "the CLI could not be recycled");
    assert!((begun - 1..=begun).contains(&ended()), "{begun} have begun, {} ended", ended());
}

#[tokio::test]
async fn a_cli_that_has_run_many_turns_is_started_anew_when_the_last_has_ended() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-after-turns=2", "--recycle-wait=60s"]).await;
    let mut client = server.client().await;
    for id in ["a", "b", "empty"] {
        create(&mut client, id).await.unwrap();
    }
    assert_eq!(send(&mut client, "a", "one").await.unwrap().content, "1: one");
    let before = backends(&mut client).await.remove(0);
    assert_eq!((before.recycle_count, before.standing()), (0, BackendStanding::Open));
    let slow = tokio::spawn({
        let mut client = client.clone();
        async move { send(&mut client, "b", "slowly").await }
    });
    soon("the slow turn", model.wait_for(|calls| calls.len() == 2)).await;
    // The second turn, by which it is due, runs: who comes now waits for the new CLI.
    until("it has begun", || times(&server, "a CLI is being recycled") == 1).await;
    let backend = backends(&mut client).await.remove(0);
    assert_eq!((backend.running_turns, backend.standing()), (1, BackendStanding::Recycling));
    let late = soon("a turn in line", send(&mut client, "a", "two")).await.unwrap();
    assert_eq!(late.content, "2: two");
    assert_eq!(soon("the slow turn", slow).await.unwrap().unwrap().content, slowly());
    let after = recycled(&mut client, 1).await;
    assert!(after.start_time.unwrap().seconds >= before.start_time.unwrap().seconds);
    // One without a message was in the CLI's memory only.
    assert_eq!(send(&mut client, "empty", "hello").await.unwrap().content, "1: hello");
}

#[tokio::test]
async fn a_cli_that_holds_much_memory_is_started_anew() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-at-memory=256MiB"]).await;
    let mut client = server.client().await;
    let grow = async {
        for n in 0.. {
            create(&mut client.clone(), &format!("s{n}")).await.unwrap();
            if backends(&mut client).await[0].recycle_count > 0 {
                return n;
            }
        }
        unreachable!()
    };
    let sessions = tokio::time::timeout(Duration::from_secs(120), grow).await.expect("it grows");
    println!("after {sessions} sessions");
    recycled(&mut client, 1).await;
    assert_eq!(send(&mut client, "s0", "hello").await.unwrap().content, "1: hello");
}

#[tokio::test]
async fn turns_wait_no_longer_than_they_are_to_and_a_long_turn_is_never_cut() {
    let model = ModelServer::start(script).await.unwrap();
    let mut server = Server::start_with(&model, &["--recycle-after-turns=1", "--recycle-wait=300ms"]).await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        create(&mut client, id).await.unwrap();
    }
    let slow = tokio::spawn({
        let mut client = client.clone();
        async move { send(&mut client, "a", "slowly").await }
    });
    let reason = value_in(&mut server.logs, "the CLI could not be recycled", "reason").await;
    assert_eq!(reason, "turns still run");
    assert_eq!(soon("another turn", send(&mut client, "b", "one")).await.unwrap().content, "1: one");
    assert!(!slow.is_finished(), "it was not the end of the slow turn that let the other one in");
    assert_eq!(soon("the slow turn", slow).await.unwrap().unwrap().content, slowly());
    // Now that no turn runs, it need not wait for its time.
    recycled(&mut client, 1).await;
    assert_eq!(send(&mut client, "a", "again").await.unwrap().content, "2: again");
}
