//! The two forms of the CLI, the native runtime and the Node CLI, serve alike, and one goes on where the other was.

use std::{fs, os::unix::fs::symlink, path::Path};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{CliForm, CreateSessionRequest, GetServerInfoRequest},
};
use rustix::process::Signal;
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;

use crate::support::{
    facade::wait,
    real_cli::{RealCli, pinned},
    server::{Server, program, text, value_in},
    soon,
};

/// Says how much of the conversation it sees.
fn script(request: &Request) -> Reply {
    let users = request.messages.iter().filter(|message| message.role == "user").count();
    Reply::text(format!("{users}: {}", request.prompt()))
}

async fn say(server: &Server, prompt: &str) -> String {
    let sent = server.client().await.send_and_wait(wait("s", prompt)).await;
    sent.unwrap().into_inner().result.unwrap().content
}

#[tokio::test]
async fn a_session_of_one_form_goes_on_on_the_other_and_back_also_after_kill() {
    let model = ModelServer::start(script).await.unwrap();
    let mut state = std::sync::Arc::default();
    let mut turns = 0;
    for (form, end) in [
        (Form::Native, Signal::TERM),
        (Form::Node, Signal::TERM),
        (Form::Native, Signal::KILL),
        (Form::Node, Signal::KILL),
        (Form::Native, Signal::TERM),
    ] {
        let server = Server::start_on(state, &model, &pinned(form).path).await;
        if turns == 0 {
            let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
            server.client().await.create_session(request).await.unwrap();
        }
        for _ in 0..2 {
            turns += 1;
            assert_eq!(say(&server, "hello").await, format!("{turns}: hello"), "on {form}, before {end:?}");
        }
        if end == Signal::KILL {
            rustix::process::kill_process(server.cli(), end).unwrap();
        }
        state = server.stop(end).await;
    }
}

#[tokio::test]
async fn the_server_says_of_which_form_its_cli_is_and_of_which_version() {
    let model = ModelServer::start(script).await.unwrap();
    for (form, expected) in [(Form::Native, CliForm::Native), (Form::Node, CliForm::Node)] {
        let mut server = Server::start_on(std::sync::Arc::default(), &model, &pinned(form).path).await;
        let info = server.client().await.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
        let backend = &info.backends[0];
        assert_eq!(backend.cli_form(), expected);
        assert!(backend.cli_version.starts_with("1.0."), "{}", backend.cli_version);
        assert_eq!(value_in(&mut server.logs, "running CLIs of our own", "form").await, form.to_string());
        assert_eq!(value_in(&mut server.logs, "the CLI is ready", "version").await, backend.cli_version);
    }
}

/// Calls the tool that the prompt names, with the arguments behind it, and repeats what came of it.
fn call_tools(request: &Request) -> Reply {
    match (request.tool_result(), request.prompt().split_once(' ')) {
        (Some(result), _) => Reply::text(result),
        (None, Some((tool, arguments))) => Reply::tool_call(tool, arguments),
        (None, None) => Reply::text("no tool"),
    }
}

#[tokio::test]
async fn the_built_in_tools_work_on_both_forms() {
    let model = ModelServer::start(call_tools).await.unwrap();
    for form in [Form::Native, Form::Node] {
        let tools = "--available-tools=bash,view,create,grep,glob";
        let flags = [tools, "--allow-permissions=shell,read,write"];
        let mut server = Server::start_unready(&model, &pinned(form).path, &flags).await;
        value_in(&mut server.logs, "the CLI is ready", "version").await;
        let work = server.state_dir().join("work");
        let at = |name: &str| work.join(name).display().to_string();
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        server.client().await.create_session(request).await.unwrap();
        for (tool, arguments, expected) in [
            ("create", json!({"path": at("hay.txt"), "file_text": "hay\nneedle in it\n"}), "hay.txt"),
            ("view", json!({"path": at("hay.txt")}), "needle in it"),
            // These two run programs of the CLI's package.
            ("grep", json!({"pattern": "need.e", "path": at(""), "output_mode": "content"}), "needle in it"),
            ("glob", json!({"pattern": "*.txt", "path": at("")}), "hay.txt"),
            ("bash", json!({"command": "echo from-$((40 + 2))", "description": "say so"}), "from-42"),
        ] {
            let result = say(&server, &format!("{tool} {arguments}")).await;
            assert!(result.contains(expected), "{tool} on {form}: {result}");
        }
    }
}

/// What the program says when it is started with these flags and cannot start.
async fn complaint(state: &Path, flags: &[&str]) -> String {
    let mut command = program(state.to_str().unwrap(), &pinned(Form::Node).path);
    let output = soon("the program's end", command.args(flags).output()).await.unwrap();
    assert!(!output.status.success(), "{flags:?}");
    text(&output.stderr).to_owned()
}

#[tokio::test]
async fn a_form_that_cannot_be_had_is_refused_at_start_with_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let said = complaint(&state, &["--cli=native"]).await;
    assert!(said.contains("node form") && said.contains("--cli"), "{said}");
    let said = complaint(&state, &["--cli=newest"]).await;
    assert!(said.contains("--cli") && said.contains("auto"), "{said}");
    let said = complaint(&state, &["--cli=native", "--cli-url=127.0.0.1:1"]).await;
    assert!(said.contains("exclude each other"), "{said}");

    // All of a package but the library.
    let whole = pinned(Form::Native).path;
    let [package, prebuilds] = [3, 1].map(|up| whole.ancestors().nth(up).unwrap());
    let half = folder.path().join("half");
    let programs = half.join(prebuilds.strip_prefix(package).unwrap());
    fs::create_dir_all(&programs).unwrap();
    for part in ["package.json", "ripgrep", "definitions"] {
        symlink(package.join(part), half.join(part)).unwrap();
    }
    fs::copy(&whole, programs.join("copilot-runtime")).unwrap();
    let given = format!("--cli-path={}", programs.join("copilot-runtime").display());
    let mut command = tokio::process::Command::new(crate::support::server::PROGRAM);
    command.args(["--state-dir", state.to_str().unwrap(), &given]).kill_on_drop(true);
    let output = soon("the program's end", command.output()).await.unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for part in ["half installed", "runtime.node is missing", "npm install @github/copilot-sdk-"] {
        assert!(said.contains(part), "{said}");
    }
}

/// For `make test-versions`, which asks by it which version the tests are run with.
#[tokio::test]
async fn what_the_tests_are_run_with_says_its_version() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    println!("running on {}", info.backends[0].cli_version);
    assert_eq!((info.backends[0].protocol_version, info.backends[0].missing_features.len()), (3, 0));
}
