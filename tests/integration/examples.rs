//! The examples run as they are, against the program in front of the real CLI, with the demo model that `make run` starts.

use std::process::Stdio;

use copilot_grpc::grpc::pb::ListSessionsRequest;
use scripted_model::ModelServer;
use tokio::process::Command;

use crate::support::{
    programs::{go_tools, python, root},
    server::Server,
    soon,
};

/// What a program prints, and whether it says that it went well.
async fn run(program: &mut Command) -> (bool, String) {
    let output = soon("its end", program.stdin(Stdio::null()).kill_on_drop(true).output()).await.unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn the_examples_in_python_run_as_they_are() {
    let python = python().await;
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = Server::start(&model).await;
    for (program, prompt, goes_well, expected) in [
        ("client.py", "hello", true, "You said: hello"),
        // It misses the deadline of the call.
        ("client.py", "long", false, "reason: TURN_TIMEOUT\nprompt: DELIVERY_STATE_DELIVERED"),
        ("tool.py", "tool: what time is it?", true, "UTC was asked for"),
    ] {
        let program = root().join("examples/python").join(program);
        let (went_well, said) =
            run(Command::new(python).arg(&program).args([server.address(), prompt])).await;
        assert_eq!(went_well, goes_well, "{program:?} {prompt}: {said}");
        assert!(said.contains(expected), "{program:?} {prompt}: {said}");
    }
}

#[tokio::test]
async fn the_example_with_grpcurl_runs_as_it_is() {
    let tools = go_tools().await;
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = Server::start(&model).await;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut example = Command::new(root().join("examples/grpcurl.sh"));
    let (went_well, said) = run(example.arg(server.address()).env("PATH", path)).await;
    assert!(went_well, "{said}");
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
    let left = server.client().await.list_sessions(ListSessionsRequest::default()).await.unwrap();
    assert_eq!(left.into_inner().sessions, []);
}
