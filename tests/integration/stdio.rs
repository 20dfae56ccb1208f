//! The server alone speaks with its own CLIs, over their standard input and output; on the real CLI.
//!
//! A CLI that is frozen goes on or is started anew, and one that writes something else is refused or replaced.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    BackendState, CreateSessionRequest, DeliveryState, ErrorReason, GetServerInfoRequest, PermissionEffect,
    Provider, copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload,
};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    check,
    facade::{Streamed, on_everything, stream, wait},
    failure_of, real_cli,
    server::{Server, said, value_in},
    soon, until, words,
};

fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(result),
        ("words", None) => Reply::text(words(200)).every(Duration::from_millis(20)),
        (command, None) if command.starts_with("run ") => Reply::tool_call(
            "bash",
            json!({"command": command.trim_start_matches("run "), "description": "look"}),
        ),
        (prompt, None) => Reply::text(prompt),
    }
}

/// Creates a session that may run commands.
async fn session(client: &mut CopilotServiceClient<Channel>, model: &ModelServer) {
    // As many tokens as the longest prompt has.
    let provider =
        Provider { base_url: model.base_url(), max_prompt_tokens: 10_000_000, ..Default::default() };
    let request = CreateSessionRequest {
        session_id: "s".into(),
        model: real_cli::MODEL.into(),
        provider: Some(provider),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: on_everything(PermissionEffect::Allow),
        ..Default::default()
    };
    client.create_session(request).await.unwrap();
}

async fn say(client: &mut CopilotServiceClient<Channel>, prompt: &str) -> Result<String, Status> {
    let answer = timeout(Duration::from_secs(300), client.send_and_wait(wait("s", prompt))).await;
    Ok(answer.expect("an answer")?.into_inner().result.unwrap().content)
}

/// Asks for all the words and freezes the CLI when some have come, for a time or for good. Returns all of the stream.
async fn frozen_in_mid_answer(server: &Server, thawed_after: Option<Duration>) -> Streamed {
    let mut client = server.client().await;
    let mut stream = client.send_and_stream(stream("s", "words")).await.unwrap().into_inner();
    let mut first = Vec::new();
    while !first.iter().any(|message: &copilot_grpc::grpc::pb::SendAndStreamResponse| {
        matches!(&message.payload, Some(Payload::Event(event)) if is_delta(event))
    }) {
        first.push(soon("an event", stream.message()).await.unwrap().unwrap());
    }
    kill_process(server.cli(), Signal::STOP).unwrap();
    if let Some(time) = thawed_after {
        sleep(time).await;
        kill_process(server.cli(), Signal::CONT).unwrap();
    }
    let mut rest =
        timeout(Duration::from_secs(60), Streamed::read(stream)).await.expect("the end of the turn");
    rest.prepend(first);
    rest
}

fn is_delta(event: &copilot_grpc::grpc::pb::SessionEvent) -> bool {
    use copilot_grpc::grpc::pb::session_event::Payload;
    matches!(event.payload, Some(Payload::AssistantMessageDelta(_)))
}

/// The sockets that a process has.
fn sockets(pid: Pid) -> HashSet<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets =
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned));
    targets.filter(|target| target.starts_with("socket:")).collect()
}

#[tokio::test]
async fn a_cli_of_ones_own_listens_nowhere_and_has_no_address() {
    let model = ModelServer::start(script).await.unwrap();
    let mut server = Server::start(&model).await;
    let mut client = server.client().await;
    session(&mut client, &model).await;
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    let own = sockets(server.cli());
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_listening = fields[3] == "0A";
            assert!(!is_listening || !own.contains(&format!("socket:[{}]", fields[9])), "{line}");
        }
    }
    assert!(value_in(&mut server.logs, "the CLI has started", "port").await.is_null());
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.backends[0].state(), info.backends[0].address.as_str()), (BackendState::Ready, ""));
}

#[tokio::test]
async fn a_tool_of_the_agent_gets_neither_the_streams_of_its_cli_nor_a_token() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start(&model).await;
    let mut client = server.client().await;
    session(&mut client, &model).await;
    // Of the shell, and of what it runs.
    let look = "run readlink /proc/$$/fd/* /proc/self/fd/*; env | grep -c CONNECTION_TOKEN; echo looked";
    let seen = say(&mut client, look).await.unwrap();
    assert!(seen.contains("pipe:") && seen.contains("\n0\nlooked"), "{seen}");
    for descriptor in [0, 1] {
        let stream = fs::read_link(format!("/proc/{}/fd/{descriptor}", server.cli())).unwrap();
        assert!(!seen.contains(stream.to_str().unwrap()), "{stream:?} is in {seen}");
    }
}

#[tokio::test]
async fn a_prompt_and_an_answer_larger_than_a_socket_takes_at_once_go_through_whole() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start(&model).await;
    let mut client = server.client().await;
    session(&mut client, &model).await;
    // Twice what it takes; the CLI needs seconds to count the tokens.
    let prompt: String = (0..60_000).map(|n| format!("{n:07} ")).collect();
    let answer = say(&mut client, prompt.trim()).await.unwrap();
    assert!(answer == prompt.trim(), "{} bytes of {}", answer.len(), prompt.len());
}

#[tokio::test]
async fn a_frozen_cli_of_ones_own_that_thaws_in_time_goes_on_with_the_turn() {
    let model = ModelServer::start(script).await.unwrap();
    let server = Server::start(&model).await;
    let cli = server.cli();
    session(&mut server.client().await, &model).await;
    // Longer than it takes to give up the link to a CLI that somebody else runs.
    let streamed = frozen_in_mid_answer(&server, Some(Duration::from_secs(9))).await;
    assert_eq!(streamed.text(), words(200));
    assert_eq!(streamed.end.unwrap().content, words(200));
    assert_eq!(server.cli(), cli);
}

#[tokio::test]
async fn a_cli_of_ones_own_that_stays_frozen_ends_the_turn_and_is_started_anew() {
    let model = ModelServer::start(script).await.unwrap();
    let mut server = Server::start(&model).await;
    let cli = server.cli();
    let mut client = server.client().await;
    session(&mut client, &model).await;
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    let error = frozen_in_mid_answer(&server, None).await.end.unwrap_err();
    check(&error, Code::Unavailable, ErrorReason::TurnInterrupted);
    assert_eq!(failure_of(&error).delivery(), DeliveryState::Delivered);
    let problem = value_in(&mut server.logs, "the CLI is down", "problem").await;
    assert!(problem.as_str().unwrap().contains("did not answer a ping"), "{problem}");
    until("another CLI", || server.cli() != cli).await;
    soon("health", async { while !server.is_serving().await {} }).await;
    assert_eq!(say(&mut client, "bye").await.unwrap(), "bye");
}

/// The real CLI behind a script that first runs `commands`.
fn wrapped(folder: &TempDir, commands: &str) -> PathBuf {
    let wrapper = folder.path().join("cli");
    let cli = real_cli::path();
    fs::write(&wrapper, format!("#!/bin/sh\n{commands}\nexec {} \"$@\"\n", cli.display())).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    wrapper
}

fn times(server: &Server, message: &str) -> usize {
    server.logs.borrow().iter().filter(|line| said(line, message).is_some()).count()
}

#[tokio::test]
async fn a_cli_that_greets_on_standard_output_is_refused_with_what_to_do_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let cli = wrapped(&folder, "echo 'its log' >&2\necho Welcome");
    let model = ModelServer::start(script).await.unwrap();
    let mut server = Server::start_unready(&model, &cli, &[]).await;
    let problem = value_in(&mut server.logs, "the CLI is down", "problem").await;
    let problem = problem.as_str().unwrap();
    assert!(
        problem.contains("standard output is not JSON-RPC") && problem.contains("--cli-path"),
        "{problem}"
    );
    let info = server.client().await.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.backends[0].last_output, ["its log"]);
    assert!(info.backends[0].problem.contains("not JSON-RPC"), "{info:?}");
}

#[tokio::test]
async fn something_else_on_standard_output_costs_the_cli_and_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("trigger");
    let when_told = |trigger: &Path| {
        let trigger = trigger.display();
        format!("(while ! rm {trigger}; do sleep 0.1; done; echo 'a warning') 2>/dev/null &")
    };
    let cli = wrapped(&folder, &when_told(&trigger));
    let model = ModelServer::start(script).await.unwrap();
    let mut server = Server::start_unready(&model, &cli, &[]).await;
    value_in(&mut server.logs, "the CLI is ready", "version").await;
    let mut client = server.client().await;
    session(&mut client, &model).await;
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    fs::write(&trigger, "").unwrap();
    let problem = value_in(&mut server.logs, "the CLI is down", "problem").await;
    assert!(problem.as_str().unwrap().contains("standard output is not JSON-RPC"), "{problem}");
    until("another CLI", || times(&server, "the CLI is ready") == 2).await;
    assert_eq!(say(&mut client, "bye").await.unwrap(), "bye");
}
