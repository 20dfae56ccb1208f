//! The programs of the CLI's guide, with this service: a chat on the web, a worker at a queue, a clean-up job. And what else is in
//! `examples`.

use std::{collections::BTreeMap, fmt::Write as _, net::TcpListener, process::Stdio, time::Duration};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, GetSessionRequest, ListSessionsRequest, Session, SessionState,
};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use super::{Ended, PATIENCE, ended, is_here, on_loopback, program, run, serving, tell};
use crate::support::{
    programs::{go_tools, python, root},
    server::Server,
    soon,
};

/// Like the demo's, but `long` takes longer than any test, and `fail` fails.
fn script(request: &Request) -> Reply {
    match request.prompt() {
        "long" => Reply::chunks(vec!["a sentence "; 100_000]).every(Duration::from_millis(20)),
        "fail" => Reply::status(400, "no"),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

async fn start() -> (ModelServer, Server) {
    let model = ModelServer::start(script).await.unwrap();
    let server = serving(&model).await;
    (model, server)
}

/// A web server that runs.
struct Web {
    address: String,
    child: Child,
}

impl Web {
    async fn start(name: &str, server: &Server) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = free.to_string();
        let mut command = program(name);
        let child = command.args([&address, server.address()]).stdout(Stdio::null()).spawn().unwrap();
        soon("the web server", async {
            while TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Self { address, child }
    }

    /// Sends a request. HTTP/1.0, so that the answer comes as it is and ends with the connection.
    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> TcpStream {
        let mut connection = TcpStream::connect(&self.address).await.unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.0\r\nhost: {}\r\n", self.address);
        if !body.is_empty() {
            write!(request, "content-type: application/json\r\ncontent-length: {}\r\n", body.len()).unwrap();
        }
        write!(request, "\r\n{body}").unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }

    /// The status, and the body.
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let mut connection = self.send(method, path, body.as_ref()).await;
        let mut answer = String::new();
        soon(path, connection.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// The same, with a body that is JSON.
    async fn json(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, body) = self.call(method, path, body).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }
}

async fn a_web_chat(name: &str, script: &str) {
    if !is_here(script).await {
        return;
    }
    let (_model, server) = start().await;
    let web = Web::start(name, &server).await;

    let (status, chat) = web.json("POST", "/chats", Some(json!({}))).await;
    assert!(status == 200 || status == 201, "{name}: {status} {chat}");
    let id = chat["id"].as_str().unwrap();
    assert_eq!(chat["resumed"], false, "{name}");
    let (_, again) = web.json("POST", "/chats", Some(json!({"id": id}))).await;
    assert_eq!((again["id"].as_str(), &again["resumed"]), (Some(id), &json!(true)), "{name}");

    let (status, answer) =
        web.json("POST", &format!("/chats/{id}/messages"), Some(json!({"text": "hello"}))).await;
    assert_eq!((status, answer["text"].as_str()), (200, Some("You said: hello")), "{name}: {answer}");

    let (status, stream) = web.call("GET", &format!("/chats/{id}/stream?text=good%20day"), None).await;
    assert_eq!(status, 200, "{name}: {stream}");
    let (deltas, end) = stream.split_once("event: done\n").unwrap_or_else(|| panic!("{name}: {stream}"));
    let deltas = deltas.lines().filter_map(|line| line.strip_prefix("data: "));
    let said: String = deltas
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, "You said: good day", "{name}: {stream}");
    assert!(end.contains("input_tokens"), "{name}: {stream}");

    // What goes wrong is said by the status, and in the body or in the stream.
    let unknown = web.json("POST", "/chats/nobody/messages", Some(json!({"text": "hello"}))).await;
    assert_eq!((unknown.0, unknown.1["reason"].as_str()), (404, Some("SESSION_NOT_FOUND")), "{name}");
    let empty = web.json("POST", &format!("/chats/{id}/messages"), Some(json!({"text": ""}))).await;
    assert_eq!((empty.0, empty.1["reason"].as_str()), (400, Some("INVALID_FIELD")), "{name}");
    let (_, failed) = web.call("GET", &format!("/chats/{id}/stream?text=fail"), None).await;
    assert!(failed.contains("event: error\n") && failed.contains("AGENT_ERROR"), "{name}: {failed}");
    let (status, page) = web.call("GET", "/", None).await;
    assert!(status == 200 && page.contains("EventSource"), "{name}: {page}");

    // The browser goes away: the agent is stopped.
    let mut browser = web.send("GET", &format!("/chats/{id}/stream?text=long"), None).await;
    let mut seen = Vec::new();
    soon("a delta", async {
        while !String::from_utf8_lossy(&seen).contains("sentence") {
            assert_ne!(browser.read_buf(&mut seen).await.unwrap(), 0, "{name}");
        }
    })
    .await;
    assert_eq!(session(&server, id).await.state(), SessionState::Running, "{name}");
    drop(browser);
    soon("the agent's stop", async {
        while session(&server, id).await.state() == SessionState::Running {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    let (status, said) = web.call("DELETE", &format!("/chats/{id}"), None).await;
    assert!(matches!(status, 200 | 204), "{name}: {status} {said}");
    assert_eq!(ids(&server).await, [""; 0], "{name}");
    kill(&web.child, Signal::TERM);
    ended(name, PATIENCE, web.child).await;
    tell(&format!("{name}: created, resumed, replied, streamed, stopped when the browser went, deleted"));
}

#[tokio::test]
async fn the_chat_on_the_web_in_go_creates_replies_streams_and_stops_when_the_browser_goes() {
    a_web_chat("web-go", "go").await;
}

#[tokio::test]
async fn the_chat_on_the_web_in_typescript_creates_replies_streams_and_stops_when_the_browser_goes() {
    a_web_chat("web-typescript", "typescript").await;
}

async fn session(server: &Server, id: &str) -> Session {
    let request = GetSessionRequest { session_id: id.into() };
    server.client().await.get_session(request).await.unwrap().into_inner().session.unwrap()
}

async fn ids(server: &Server) -> Vec<String> {
    let all = server.client().await.list_sessions(ListSessionsRequest::default()).await.unwrap();
    all.into_inner().sessions.into_iter().map(|session| session.session_id).collect()
}

fn kill(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Has the worker do these jobs, lines of JSON.
async fn work(server: &Server, jobs: &str) -> (Ended, BTreeMap<String, Value>) {
    let mut worker = program("worker");
    worker.args(["--address", server.address(), "--jobs", "2"]).stdin(Stdio::piped());
    let mut child = worker.spawn().unwrap();
    child.stdin.take().unwrap().write_all(jobs.as_bytes()).await.unwrap();
    let ended = ended("worker", PATIENCE, child).await;
    let results = ended.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let results =
        results.map(|result| (result["id"].as_str().unwrap_or_default().to_owned(), result)).collect();
    (ended, results)
}

#[tokio::test]
async fn the_worker_does_each_job_once_and_says_which_failed() {
    if !is_here("python").await {
        return;
    }
    let (model, server) = start().await;
    let jobs = r#"{"id": "1", "prompt": "one"}
{"id": "2", "prompt": "fail"}
no job
{"id": "3", "prompt": "three"}
"#;
    let (ended, results) = work(&server, jobs).await;
    assert_eq!(ended.status, Some(1), "{ended:#?}");
    assert_eq!(results["1"], json!({"id": "1", "text": "You said: one"}));
    assert_eq!(results["3"], json!({"id": "3", "text": "You said: three"}));
    assert_eq!(results["2"]["error"]["reason"], "AGENT_ERROR", "{results:?}");
    assert_eq!(results["2"]["error"]["delivery"], "DELIVERED", "{results:?}");
    assert_eq!(results[""]["error"]["code"], "INVALID_ARGUMENT", "{results:?}");

    // A queue may deliver a job again: the model is not asked again.
    let asked = || model.calls().iter().filter(|call| call.request.prompt() == "one").count();
    let (ended, results) = work(&server, "{\"id\": \"1\", \"prompt\": \"one\"}\n").await;
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert_eq!(results["1"], json!({"id": "1", "text": "You said: one"}));
    assert_eq!(asked(), 1);
    tell(
        "worker: did two jobs, said of two that they failed, gave the answer to a repeated job without asking again",
    );
}

#[tokio::test]
async fn the_clean_up_job_deletes_what_it_is_to_delete_and_nothing_else() {
    if !is_here("python").await {
        return;
    }
    let (_model, server) = start().await;
    for (id, from) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let labels = [("from".to_owned(), from.to_owned())].into();
        let request = CreateSessionRequest { session_id: id.into(), labels, ..Default::default() };
        server.client().await.create_session(request).await.unwrap();
    }
    let clean_up = |arguments: &'static [&'static str]| {
        let mut command = program("cleanup");
        command.args(["--address", server.address()]).args(arguments);
        run(command)
    };
    let young = clean_up(&[]).await;
    assert_eq!((young.status, young.out.as_str()), (Some(0), "0 deleted, 0 failed\n"), "{young:#?}");
    let dry = clean_up(&["--older-than", "0s", "--label", "from=x", "--dry-run"]).await;
    assert!(dry.status == Some(0) && dry.out.ends_with("2 would be deleted, 0 failed\n"), "{dry:#?}");
    assert_eq!(ids(&server).await.len(), 3);
    let done = clean_up(&["--older-than", "0s", "--label", "from=x"]).await;
    assert!(done.status == Some(0) && done.out.ends_with("2 deleted, 0 failed\n"), "{done:#?}");
    assert_eq!(ids(&server).await, ["c"]);
    let wrong = clean_up(&["--older-than", "soon"]).await;
    assert!(wrong.status != Some(0) && wrong.error.contains("--older-than"), "{wrong:#?}");
    tell("cleanup: said what it would delete, deleted that, left the rest");
}

#[tokio::test]
async fn the_example_of_converse_runs_a_tool() {
    let python = python().await;
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = serving(&model).await;
    let mut command = Command::new(python);
    command.arg(root().join("examples/python/tool.py")).args([server.address(), "tool: what time is it?"]);
    let ended = run(on_loopback(command)).await;
    assert!(ended.status == Some(0) && ended.out.contains("UTC was asked for"), "{ended:#?}");
}

#[tokio::test]
async fn the_example_with_grpcurl_runs_as_it_is() {
    let tools = go_tools().await;
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = serving(&model).await;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(root().join("examples/grpcurl.sh"));
    command.arg(server.address()).env("PATH", path);
    let ended = run(on_loopback(command)).await;
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    let said = format!("{}{}", ended.out, ended.error);
    for expected in [
        "\"content\": \"You said: hello. I am",
        "\"text\": \"You \"",
        "\"content\": \"You said: hello again. I am",
        "\"reason\": \"INVALID_FIELD\"",
        "\"field\": \"prompt.text\"",
        "\"prompts\": \"2\"",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(ids(&server).await, [""; 0]);
}
