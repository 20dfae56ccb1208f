//! The official SDK and the service get along on one CLI: each gets its own answers.
//!
//! Both have the CLI's token. What the SDK does to a session is heard, and what it may do is not for the service to say.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        CreateSessionRequest, ErrorReason, GetSessionRequest, ListSessionsRequest, PermissionEffect,
        SessionState, session_event::Payload,
    },
};
use scripted_model::{Call, CallState, Reply, Request};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::oneshot,
};
use tonic::Code;

use crate::support::{
    check,
    facade::{TestFacade, on_everything, watching},
    real_cli::{RealCli, TOKEN, pinned},
    soon,
};

/// The official SDK in Node, which comes with the native runtime, attached to a CLI.
struct Sdk {
    input: tokio::sync::Mutex<(u64, ChildStdin)>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
    _node: Child,
}

impl Sdk {
    async fn attach(cli: &RealCli) -> Self {
        let runtime = pinned(Form::Native).path;
        let sdk = runtime.ancestors().nth(3).expect("it is in a package").join("copilot-sdk/index.js");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/beside_sdk.mjs");
        let mut node = Command::new("node")
            .arg(script)
            .arg(sdk)
            .args([&cli.port().to_string(), TOKEN, &cli.model.base_url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>> = Arc::default();
        let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
        let told = waiting.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = serde_json::from_str(&line).unwrap();
                let waits = told.lock().unwrap().remove(&answer["n"].as_u64().unwrap());
                let _ = waits.unwrap().send(answer);
            }
        });
        let input = tokio::sync::Mutex::new((0, node.stdin.take().unwrap()));
        Self { input, waiting, _node: node }
    }

    /// Has it do something, and gives what comes of it.
    async fn act(&self, act: &str, mut what: Value) -> Value {
        let (answer, answered) = oneshot::channel();
        {
            let mut input = self.input.lock().await;
            input.0 += 1;
            self.waiting.lock().unwrap().insert(input.0, answer);
            what["act"] = act.into();
            what["n"] = input.0.into();
            input.1.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        }
        let answer = soon(act, answered).await.unwrap();
        assert!(answer.get("error").is_none(), "{act}: {answer}");
        answer["result"].clone()
    }
}

/// Hangs, runs a command, or repeats what was said.
fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        ("hang", None) => Reply::hang(),
        ("run", None) => {
            Reply::tool_call("bash", json!({"command": "echo done-$((40+2))", "description": "adds"}))
        }
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

async fn both() -> (RealCli, TestFacade, Sdk) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let sdk = Sdk::attach(&cli).await;
    (cli, facade, sdk)
}

#[tokio::test]
async fn each_side_gets_its_own_answers() {
    let (_cli, facade, sdk) = both().await;
    facade.create("ours").await;
    sdk.act("create", json!({"id": "theirs"})).await;
    for n in 0..10 {
        let (ours, theirs) = (format!("ours {n}"), format!("theirs {n}"));
        let (answer, their_answer) = tokio::join!(
            facade.send("ours", &ours),
            sdk.act("ask", json!({"id": "theirs", "prompt": theirs}))
        );
        assert_eq!(answer.unwrap().content, format!("You said: {ours}"));
        assert_eq!(their_answer, format!("You said: {theirs}"));
    }
}

#[tokio::test]
async fn in_a_session_of_both_our_answers_are_ours_and_every_prompt_runs_once() {
    let (cli, facade, sdk) = both().await;
    facade.create("s").await;
    facade.send("s", "first").await.unwrap();
    sdk.act("resume", json!({"id": "s"})).await;
    for n in 0..10 {
        let (ours, theirs) = (format!("ours {n}"), format!("theirs {n}"));
        let (answer, _sent) =
            tokio::join!(facade.send("s", &ours), sdk.act("send", json!({"id": "s", "prompt": theirs})));
        assert_eq!(answer.unwrap().content, format!("You said: {ours}"));
        let runs = |calls: &[Call]| calls.iter().filter(|call| call.request.prompt() == theirs).count();
        soon("their prompt", cli.model.wait_for(|calls| runs(calls) == 1)).await;
        assert_eq!(cli.model.calls().iter().filter(|call| call.request.prompt() == ours).count(), 1);
    }
}

#[tokio::test]
async fn what_the_sdk_does_to_a_session_is_heard() {
    let (cli, facade, sdk) = both().await;
    facade.create("s").await;
    facade.send("s", "first").await.unwrap();
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    sdk.act("resume", json!({"id": "s"})).await;

    sdk.act("name", json!({"id": "s", "name": "Theirs"})).await;
    let title = |event: &Payload| match event {
        Payload::SessionTitleChanged(changed) if changed.title == "Theirs" => Some(()),
        _ => None,
    };
    watcher.find(title).await;

    let runs = |calls: &[Call]| {
        calls.iter().any(|call| call.request.prompt() == "hang" && call.state == CallState::Running)
    };
    let stopping = async {
        soon("the turn", cli.model.wait_for(runs)).await;
        sdk.act("abort", json!({"id": "s"})).await;
    };
    let (hanging, ()) = tokio::join!(facade.send("s", "hang"), stopping);
    check(&hanging.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);

    sdk.act("model", json!({"id": "s", "model": "another"})).await;
    soon("the model", async {
        let request = || GetSessionRequest { session_id: "s".into() };
        while facade.client().get_session(request()).await.unwrap().into_inner().session.unwrap().model
            != "another"
        {
            tokio::task::yield_now().await;
        }
    })
    .await;

    sdk.act("delete", json!({"id": "s"})).await;
    let end = soon("the end of the watch", async {
        loop {
            if let Err(end) = watcher.event().await {
                return end;
            }
        }
    });
    check(&end.await, Code::NotFound, ErrorReason::SessionNotFound);
    check(&facade.send("s", "more").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn what_the_sdk_has_changed_in_a_session_is_known_after_a_restart() {
    let (cli, facade, sdk) = both().await;
    facade.create("s").await;
    facade.send("s", "first").await.unwrap();
    sdk.act("resume", json!({"id": "s"})).await;
    sdk.act("name", json!({"id": "s", "name": "Theirs"})).await;
    sdk.act("model", json!({"id": "s", "model": "another"})).await;
    soon("both are heard", async {
        loop {
            let session = facade.get("s").await.unwrap();
            if (session.title.as_str(), session.model.as_str()) == ("Theirs", "another") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    facade.facade.stop(std::time::Duration::ZERO).await;
    drop(facade);
    let facade = cli.facade().await;
    let listed = facade.client().list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    for session in [facade.get("s").await.unwrap(), listed.sessions[0].clone()] {
        assert_eq!((session.title.as_str(), session.model.as_str()), ("Theirs", "another"));
        assert_eq!(session.state(), SessionState::Unloaded);
    }
}

/// A policy says what this service answers. It is no wall against others who have the CLI's token.
#[tokio::test]
async fn who_has_the_token_answers_permissions_too() {
    let (_cli, facade, sdk) = both().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["bash".into()],
        permission_policy: on_everything(PermissionEffect::Ask),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    facade.send("s", "first").await.unwrap();
    sdk.act("resume", json!({"id": "s"})).await;
    let answer = soon("the turn", facade.send("s", "run")).await.unwrap();
    assert!(answer.content.contains("done-42"), "{}", answer.content);
}
