//! Nobody notices that a CLI is replaced while it is used; on the real CLI.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use copilot_grpc::{
    backend::pool::placement::Placement,
    grpc::pb::{
        self, AskAnswer, BackendStanding, BackendState, CreateSessionRequest, DeleteSessionRequest,
        ErrorReason, GetServerInfoRequest, GetSessionRequest, ListSessionsRequest, RespondRequest,
        TurnResult, UserInput, WatchSessionResponse, ask_answer,
        copilot_service_client::CopilotServiceClient, session_event::Payload,
    },
};
use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    check,
    facade::{abort, event, wait, watching},
    real_cli,
    server::{Server, said, value_in},
    soon,
};

/// Says how much of the conversation it sees; `ask` asks the caller, and `hang` takes for ever.
fn script(request: &Request) -> Reply {
    let users = request.messages.iter().filter(|message| message.role == "user").count();
    match request.prompt() {
        "ask" if request.tool_result().is_some() => Reply::text("answered"),
        "ask" => Reply::tool_call("ask_user", json!({"question": "Which?", "choices": ["a", "b"]})),
        "hang" => Reply::hang(),
        prompt => Reply::text(format!("{users}: {prompt}")),
    }
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
    count(&server.logs.borrow(), message)
}

fn count(lines: &[String], message: &str) -> usize {
    lines.iter().filter(|line| said(line, message).is_some()).count()
}

/// Waits until the server has logged this so many times.
async fn logged(server: &Server, message: &str, times: usize) {
    server.logs.clone().wait_for(|lines| count(lines, message) >= times).await.unwrap();
}

#[tokio::test]
async fn a_rolling_recycle_of_three_clis_under_load_fails_no_call_and_ends_no_stream() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--embedded-clis=3", "--recycle-after-age=10s"]).await;
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
        let request = watching(&id);
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
                client.list_sessions(ListSessionsRequest::default()).await.unwrap();
                calls.fetch_add(3, Ordering::Relaxed);
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let all_recycled = async {
        loop {
            let backends = backends(&mut client).await;
            for backend in &backends {
                assert_eq!(
                    (backend.state(), backend.standing()),
                    (BackendState::Ready, BackendStanding::Open)
                );
            }
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
                let event = event(&mut watcher).await.unwrap();
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

/// Sends, on a task of its own.
fn spawn(client: &Client, id: &'static str, prompt: &'static str) -> JoinHandle<Result<TurnResult, Status>> {
    let mut client = client.clone();
    tokio::spawn(async move { send(&mut client, id, prompt).await })
}

/// A session whose agent may ask its callers.
fn asking(id: &str) -> CreateSessionRequest {
    CreateSessionRequest { session_id: id.into(), user_input: true, ..Default::default() }
}

/// A turn that lasts until its question is answered, with somebody who watches it.
struct Lasting {
    id: &'static str,
    client: Client,
    watcher: Streaming<WatchSessionResponse>,
    ask_id: String,
    turn: JoinHandle<Result<TurnResult, Status>>,
}

impl Lasting {
    async fn begin(client: &Client, id: &'static str) -> Self {
        let mut client = client.clone();
        let watch = watching(id);
        let watcher = client.watch_session(watch).await.unwrap().into_inner();
        let turn = spawn(&client, id, "ask");
        let mut lasting = Self { id, client, watcher, ask_id: String::new(), turn };
        let asked = |payload: &Payload| match payload {
            Payload::UserInputAsked(asked) => Some(asked.ask_id.clone()),
            _ => None,
        };
        lasting.ask_id = lasting.hear("the question", asked).await;
        lasting
    }

    /// Waits until the watcher hears this.
    async fn hear<T>(&mut self, what: &str, look: impl Fn(&Payload) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let event = event(&mut self.watcher).await.unwrap();
                if let Some(found) = event.payload.as_ref().and_then(&look) {
                    return found;
                }
            }
        })
        .await
    }

    /// Answers, upon which the turn ends.
    async fn end(&mut self) {
        assert!(!self.turn.is_finished());
        let answer = ask_answer::Answer::UserInput(UserInput { answer: "a".into(), ..Default::default() });
        let answer = Some(AskAnswer { answer: Some(answer) });
        let ask_id = self.ask_id.clone();
        self.client.respond(RespondRequest { session_id: self.id.into(), ask_id, answer }).await.unwrap();
        let ended = soon("the turn that lasted", &mut self.turn).await.unwrap().unwrap();
        assert_eq!(ended.content, "answered");
    }
}

#[tokio::test]
async fn a_turn_that_lasts_ends_where_it_began_while_all_others_go_on_with_the_new_cli() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-after-turns=2"]).await;
    let mut client = server.client().await;
    client.create_session(asking("lasting")).await.unwrap();
    for id in ["a", "empty", "doomed"] {
        create(&mut client, id).await.unwrap();
    }
    assert_eq!(send(&mut client, "a", "one").await.unwrap().content, "1: one");
    let before = backends(&mut client).await.remove(0);
    assert_eq!((before.recycle_count, before.retiring_clis), (0, 0));
    let old = server.cli();
    // The second turn, by which it is due.
    let mut lasting = Lasting::begin(&client, "lasting").await;
    assert_eq!(recycled(&mut client, 1).await.retiring_clis, 1);
    assert_ne!(server.cli(), old);
    // The conversation goes on, a session without a message is there, and one that the old CLI has can be deleted.
    assert_eq!(send(&mut client, "a", "two").await.unwrap().content, "2: two");
    assert_eq!(send(&mut client, "empty", "hello").await.unwrap().content, "1: hello");
    let doomed = DeleteSessionRequest { session_id: "doomed".into(), allow_missing: false };
    client.delete_session(doomed).await.unwrap();
    // It is due again, but waits for the one before.
    let now = backends(&mut client).await.remove(0);
    assert_eq!((now.recycle_count, now.retiring_clis), (1, 1));
    lasting.end().await;
    assert_eq!(send(&mut client, "lasting", "after").await.unwrap().content, "2: after");
    // Who watched all the time goes on to.
    let after = |payload: &Payload| match payload {
        Payload::AssistantMessage(message) => (message.content == "2: after").then_some(()),
        _ => None,
    };
    lasting.hear("what was said on the new CLI", after).await;
    assert_eq!(times(&server, "a CLI that was being replaced has ended before its turns"), 0);
}

/// Else all sessions that are used at once would wait for the new CLI to load them.
#[tokio::test]
async fn while_two_sessions_move_to_the_new_cli_others_go_on_in_the_old_one() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-after-turns=4"]).await;
    let mut client = server.client().await;
    for id in ["a", "b", "c"] {
        create(&mut client, id).await.unwrap();
        assert_eq!(send(&mut client, id, "one").await.unwrap().content, "1: one");
    }
    client.create_session(asking("lasting")).await.unwrap();
    let mut lasting = Lasting::begin(&client, "lasting").await;
    assert_eq!(recycled(&mut client, 1).await.retiring_clis, 1);
    let new = server.cli();
    // From now on nothing that moves to it gets there.
    kill_process(new, Signal::STOP).unwrap();
    let moving = ["a", "b"].map(|id| spawn(&client, id, "two"));
    soon("both move", logged(&server, "loading the session again", 2)).await;
    assert_eq!(send(&mut client, "c", "two").await.unwrap().content, "2: two");
    assert!(moving.iter().all(|turn| !turn.is_finished()));
    kill_process(new, Signal::CONT).unwrap();
    for turn in moving {
        assert_eq!(soon("a turn that has moved", turn).await.unwrap().unwrap().content, "2: two");
    }
    // With its next turn it moves, too, and when nobody is left the old one is ended.
    assert_eq!(send(&mut client, "c", "three").await.unwrap().content, "3: three");
    assert_eq!(times(&server, "loading the session again"), 3);
    lasting.end().await;
    assert_eq!(send(&mut client, "lasting", "after").await.unwrap().content, "2: after");
    soon("the old one's end", logged(&server, "a CLI that was replaced has ended", 1)).await;
}

#[tokio::test]
async fn a_turn_in_the_old_cli_can_be_stopped() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-after-turns=1"]).await;
    let mut client = server.client().await;
    create(&mut client, "s").await.unwrap();
    let stopped = spawn(&client, "s", "hang");
    soon("the turn", model.wait_for(|calls| calls.len() == 1)).await;
    assert_eq!(recycled(&mut client, 1).await.retiring_clis, 1);
    client.abort_turn(abort("s")).await.unwrap();
    let status = soon("the stopped turn", stopped).await.unwrap().unwrap_err();
    check(&status, Code::Aborted, ErrorReason::TurnAborted);
    assert_eq!(send(&mut client, "s", "after").await.unwrap().content, "2: after");
}

#[tokio::test]
async fn an_old_cli_that_is_killed_takes_its_own_turns_with_it_and_no_others() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start_with(&model, &["--recycle-after-turns=1"]).await;
    let mut client = server.client().await;
    create(&mut client, "old").await.unwrap();
    client.create_session(asking("new")).await.unwrap();
    let old = server.cli();
    let cut = spawn(&client, "old", "hang");
    soon("the turn", model.wait_for(|calls| calls.len() == 1)).await;
    recycled(&mut client, 1).await;
    let mut lasting = Lasting::begin(&client, "new").await;
    kill_process(old, Signal::KILL).unwrap();
    let status = soon("the turn of the old one", cut).await.unwrap().unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::TurnInterrupted);
    lasting.end().await;
    assert_eq!(send(&mut client, "old", "after").await.unwrap().content, "2: after");
}

#[tokio::test]
async fn a_cli_that_cannot_be_replaced_goes_on() {
    let model = ModelServer::start(script).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (program, broken) = (folder.path().join("copilot"), folder.path().join("broken"));
    let text = format!(
        "#!/bin/sh\n[ -e '{}' ] && echo 'no more memory' >&2 && exit 1\nexec '{}' \"$@\"\n",
        broken.display(),
        real_cli::path().display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut server = Server::start_unready(&model, &program, &["--recycle-after-turns=1"]).await;
    value_in(&mut server.logs, "the CLI is ready", "version").await;
    std::fs::write(&broken, "").unwrap();
    let mut client = server.client().await;
    create(&mut client, "a").await.unwrap();
    assert_eq!(send(&mut client, "a", "one").await.unwrap().content, "1: one");
    let reason = value_in(&mut server.logs, "the CLI could not be recycled", "reason").await;
    assert!(reason.as_str().unwrap().contains("no more memory"), "{reason}");
    assert_eq!(send(&mut client, "a", "two").await.unwrap().content, "2: two");
    let backend = backends(&mut client).await.remove(0);
    assert_eq!((backend.state(), backend.recycle_count, backend.failures), (BackendState::Ready, 0, 0));
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
