//! Each client streams an answer, answers the agent's asks, and ends with a word that a person understands.

use copilot_grpc::grpc::pb::ListSessionsRequest;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply};
use tokio::{io::AsyncReadExt as _, process::Child};

use super::{Client, Ended, PATIENCE, clients, ended, program, run, serving, tell};
use crate::support::{facade::Setup, proxy::Proxy, server::Server};

/// A port on which nobody listens.
const NOBODY: &str = "127.0.0.1:9";

async fn demo() -> (ModelServer, Server) {
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = serving(&model).await;
    (model, server)
}

/// Runs each client with these arguments, all at once, and says how each ended.
async fn run_each(arguments: &[&str]) -> Vec<(Client, Ended)> {
    run_each_in(arguments, None).await
}

async fn run_each_in(arguments: &[&str], session: Option<&str>) -> Vec<(Client, Ended)> {
    join_all(clients().await.into_iter().map(|client| async move {
        let mut command = program(client.name);
        command.args(arguments);
        if let Some(session) = session {
            command.env("COPILOT_SESSION", session);
        }
        (client, run(command).await)
    }))
    .await
}

/// Runs each client, which has to fail and to say all of this.
async fn fails(case: &str, arguments: &[&str], session: Option<&str>, expected: &[&str]) {
    for (client, ended) in run_each_in(arguments, session).await {
        is_understood(case, client, &ended);
        for words in expected {
            assert!(ended.error.contains(words), "{case}, {}: no {words:?} in {ended:#?}", client.name);
        }
    }
}

/// It has ended with status 1 and an error, and without a trace of where in its code that was.
#[track_caller]
fn is_understood(case: &str, client: Client, ended: &Ended) {
    let name = client.name;
    assert_eq!(ended.status, Some(1), "{case}, {name}: {ended:#?}");
    for trace in ["Traceback", "\tat ", "    at ", "goroutine", "panicked", "terminate called", ":in `"] {
        assert!(!ended.error.contains(trace), "{case}, {name}: {ended:#?}");
    }
    let first = ended.error.lines().next().unwrap_or_default();
    assert!(
        first
            .split_once(": ")
            .is_some_and(|(code, _)| code.chars().all(|c| c.is_ascii_uppercase() || c == '_')),
        "{case}, {name}: {ended:#?}"
    );
    tell(&format!("{case}: {name}: {}", ended.error.trim().replace('\n', " | ")));
}

async fn sessions(server: &Server) -> usize {
    let all = server.client().await.list_sessions(ListSessionsRequest::default()).await.unwrap();
    all.into_inner().sessions.len()
}

#[tokio::test]
async fn each_client_streams_an_answer_and_answers_what_the_agent_asks() {
    let (_model, server) = demo().await;
    for (prompt, expected) in [
        ("hello", &["You said: hello. I am a demo model"][..]),
        ("tool", &["[tool clock {\"zone\":\"UTC\"}]", "The tool said: ", "UTC"]),
        ("run echo hello", &["[permission shell: echo hello] allowed", "The tool said: hello"]),
    ] {
        for (client, ended) in run_each(&[server.address(), prompt]).await {
            let name = client.name;
            assert_eq!(ended.status, Some(0), "{name}, {prompt}: {ended:#?}");
            let usual = ["health: SERVING\n", "session: ", " tokens in, ", "\ndeleted\n"];
            for words in usual.iter().chain(expected) {
                assert!(ended.out.contains(words), "{name}, {prompt}: no {words:?} in {ended:#?}");
            }
            assert_eq!(ended.error, "", "{name}, {prompt}");
            tell(&format!("{prompt}: {name}: {}", ended.out.trim().replace('\n', " | ")));
        }
    }
    assert_eq!(sessions(&server).await, 0);
}

#[tokio::test]
async fn each_client_stops_the_agent_when_its_user_presses_ctrl_c() {
    let (_model, server) = demo().await;
    join_all(clients().await.into_iter().map(|client| {
        let address = server.address().to_owned();
        async move {
            let mut child = program(client.name).args([&address, "long"]).spawn().unwrap();
            let seen = read_until(&mut child, "sentence").await;
            interrupt(&child);
            let ended = ended(client.name, PATIENCE, child).await;
            assert_eq!(ended.status, Some(130), "{}: {seen} {ended:#?}", client.name);
            assert!(ended.error.contains("cancelled"), "{}: {ended:#?}", client.name);
            assert!(!ended.out.contains("sentence 40"), "{}: {ended:#?}", client.name);
            tell(&format!("Ctrl-C: {}: {}", client.name, ended.error.trim().replace('\n', " | ")));
        }
    }))
    .await;
    assert_eq!(sessions(&server).await, 0);
}

/// What a child has printed when it has printed this.
async fn read_until(child: &mut Child, words: &str) -> String {
    let out = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(words) {
            assert_ne!(
                out.read_buf(&mut seen).await.unwrap(),
                0,
                "it has ended: {}",
                String::from_utf8_lossy(&seen)
            );
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {words:?} came"));
    String::from_utf8(seen).unwrap()
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[tokio::test]
async fn without_a_server_each_client_says_so() {
    fails("no server", &[NOBODY, "hello"], None, &["UNAVAILABLE: "]).await;
}

#[tokio::test]
async fn in_front_of_a_cli_that_is_down_each_client_says_that_the_service_is_not_ready() {
    let facade = Setup { cli_url: NOBODY.into(), ..Setup::default() }.start_unready().await;
    let address = facade.facade.address().to_string();
    for (client, ended) in run_each(&[&address, "hello"]).await {
        is_understood("the CLI is down", client, &ended);
        // Libraries that look at the health of servers by themselves do not even send the call.
        let words = ["NOT_SERVING: ", "UNAVAILABLE: "];
        assert!(words.iter().any(|words| ended.error.starts_with(words)), "{}: {ended:#?}", client.name);
    }
}

#[tokio::test]
async fn an_unknown_session_is_named_by_each_client() {
    let (_model, server) = demo().await;
    let expected = ["NOT_FOUND: ", "reason: SESSION_NOT_FOUND"];
    fails("an unknown session", &[server.address(), "hello"], Some("nobody"), &expected).await;
}

#[tokio::test]
async fn what_a_provider_refuses_is_said_by_each_client() {
    for (status, expected) in [
        (401, &["FAILED_PRECONDITION: ", "reason: PROVIDER_AUTH", "delivery: DELIVERED"][..]),
        (500, &["UNAVAILABLE: ", "reason: PROVIDER_UNAVAILABLE", "delivery: DELIVERED", "retry after: "]),
    ] {
        let model = ModelServer::start(move |_| Reply::status(status, "no")).await.unwrap();
        let server = serving(&model).await;
        let case = format!("a provider that says {status}");
        fails(&case, &[server.address(), "hello", "100"], None, expected).await;
        assert_eq!(sessions(&server).await, 0);
    }
}

#[tokio::test]
async fn each_client_keeps_its_deadline_and_says_how_far_the_agent_had_come() {
    let (_model, server) = demo().await;
    // Whether the agent has the prompt by then depends on the machine.
    let expected = ["DEADLINE_EXCEEDED: ", "reason: TURN_TIMEOUT", "delivery: ", "hint: "];
    fails("a deadline of 1 s", &[server.address(), "long", "1"], None, &expected).await;
    let waits = [&expected[..], &["delivery: DELIVERED", "waiting for: "]].concat();
    fails("a permission that nobody answers", &[server.address(), "run whoami", "10"], None, &waits).await;
    assert_eq!(sessions(&server).await, 0);
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_ends_each_client() {
    let (_model, server) = demo().await;
    for client in clients().await {
        let port = server.address().rsplit_once(':').unwrap().1.parse().unwrap();
        let proxy = Proxy::start(port).await;
        let mut child =
            program(client.name).args([&format!("127.0.0.1:{}", proxy.port), "long"]).spawn().unwrap();
        read_until(&mut child, "sentence").await;
        let before = sessions(&server).await - 1;
        proxy.cut();
        let ended = ended(client.name, PATIENCE, child).await;
        is_understood("a stream that is cut", client, &ended);
        // A new connection serves for the deletion, unless that meets the cut, too.
        let says_so = ended.out.lines().any(|line| line == "deleted");
        assert!(!says_so || sessions(&server).await == before, "{}: {ended:#?}", client.name);
    }
}
