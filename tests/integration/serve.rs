//! The program does what an operator expects of it: with a CLI of its own, signals, subcommands and logs.

use std::{path::PathBuf, time::Duration};

use copilot_grpc::{
    backend::pool::placement::Placement,
    grpc::pb::{CreateSessionRequest, copilot_service_client::CopilotServiceClient},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use scripted_model::{ModelServer, Reply};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::Instant,
};

use crate::support::{
    facade::wait,
    real_cli,
    server::{KEY, PROGRAM, Server, program, said, text, value_in},
    soon, until,
};

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

async fn echo() -> ModelServer {
    ModelServer::start(|request| match request.prompt().strip_prefix("slowly ") {
        Some(words) => Reply::text(words).every(Duration::from_millis(200)),
        None => Reply::text(format!("You said: {}", request.prompt())),
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn chat_prints_an_answer_that_went_through_the_real_cli() {
    let model = echo().await;
    let server = Server::start(&model).await;
    let chat = server.run(&["chat", "hello", "there"]).await;
    assert!(chat.status.success(), "{}", text(&chat.stderr));
    assert_eq!(text(&chat.stdout), "You said: hello there\n");
    assert_eq!(model.calls().len(), 1);
}

#[tokio::test]
async fn health_says_within_two_seconds_that_the_cli_was_killed_and_then_that_it_is_back() {
    let model = echo().await;
    let mut server = Server::start(&model).await;
    let health = server.run(&["health"]).await;
    assert_eq!((health.status.code(), text(&health.stdout)), (Some(0), "SERVING\n"));
    let first = server.cli();
    kill_process(first, Signal::KILL).unwrap();
    let killed = Instant::now();
    let down = value_in(&mut server.logs, "the CLI is down", "problem").await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{down}");
    let liveness = server.run(&["health", "--service", "liveness"]).await;
    assert!(liveness.status.success());
    until("another CLI", || server.cli() != first).await;
    soon("health", async { while !server.is_serving().await {} }).await;
    assert_eq!(text(&server.run(&["chat", "back?"]).await.stdout), "You said: back?\n");
}

#[tokio::test]
async fn a_cli_that_is_killed_between_turns_costs_its_callers_nothing() {
    let model = ModelServer::start(|request| {
        let users = request.messages.iter().filter(|message| message.role == "user");
        Reply::text(format!("prompts: {}", users.count()))
    })
    .await
    .unwrap();
    let server = Server::start(&model).await;
    let mut client = CopilotServiceClient::connect(server.url.clone()).await.unwrap();
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    client.create_session(request).await.unwrap();
    for turn in 1..=3 {
        let answer = soon("a turn", client.send_and_wait(wait("s", "hello"))).await.unwrap().into_inner();
        assert_eq!(answer.result.unwrap().content, format!("prompts: {turn}"));
        kill_process(server.cli(), Signal::KILL).unwrap();
        // A prompt that is written into a connection which is dying may or may not have arrived, and is not sent again.
        let lost =
            || server.logs.borrow().iter().filter(|line| said(line, "the CLI is down").is_some()).count();
        until("the loss is noticed", || lost() == turn).await;
    }
}

#[tokio::test]
async fn sigterm_lets_the_running_turn_finish_refuses_new_ones_and_leaves_no_process_behind() {
    let model = echo().await;
    let mut server = Server::start(&model).await;
    let cli = server.cli();
    let mut chat = Command::new(PROGRAM);
    chat.args(["chat", "slowly one two three four five", "--server", &server.url]).kill_on_drop(true);
    let chat = tokio::spawn(async move { chat.output().await.unwrap() });
    soon("the turn", model.wait_for(|calls| !calls.is_empty())).await;
    server.signal(Signal::TERM);
    value_in(&mut server.logs, "draining", "signal").await;
    let late = server.run(&["chat", "too late"]).await;
    assert!(!late.status.success(), "{}", text(&late.stdout));
    let chat = soon("the answer", chat).await.unwrap();
    assert!(text(&chat.stdout).contains("one two three four five"), "{chat:?}");
    let status = soon("the end", server.child.wait()).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(!is_alive(cli), "the CLI was left behind");
}

#[tokio::test]
async fn the_death_of_the_server_ends_its_cli() {
    let model = echo().await;
    let mut server = Server::start(&model).await;
    let cli = server.cli();
    server.signal(Signal::KILL);
    soon("the end", server.child.wait()).await.unwrap();
    until("the end of the CLI", || !is_alive(cli)).await;
}

#[tokio::test]
async fn neither_prompts_nor_answers_nor_keys_are_logged() {
    let model = echo().await;
    let mut server = Server::start(&model).await;
    let chat = server.run(&["chat", "a-secret-prompt"]).await;
    assert!(chat.status.success());
    server.signal(Signal::TERM);
    soon("the end", server.child.wait()).await.unwrap();
    let logs = server.logs.borrow().join("\n");
    assert!(logs.contains("the CLI is ready"));
    for secret in ["a-secret-prompt", "You said", KEY] {
        assert!(!logs.contains(secret), "{secret} is in the logs");
    }
    assert_eq!(model.calls()[0].request.headers["authorization"], format!("Bearer {KEY}"));
}

#[tokio::test]
async fn several_clis_of_its_own_have_a_home_each_and_the_death_of_one_is_not_anothers() {
    let model = echo().await;
    let mut server = Server::start_with(&model, &["--embedded-clis=2"]).await;
    let ready =
        || server.logs.borrow().iter().filter(|line| said(line, "the CLI is ready").is_some()).count();
    until("both CLIs", || ready() == 2).await;
    let mut client = CopilotServiceClient::connect(server.url.clone()).await.unwrap();
    let placement = Placement::new(["cli-0", "cli-1"]);
    let ids: Vec<_> = (0..2)
        .map(|cli| (0..).map(|n| format!("s{n}")).find(|id| placement.order(id)[0] == cli).unwrap())
        .collect();
    for (cli, id) in ids.iter().enumerate() {
        let request = CreateSessionRequest { session_id: id.clone(), ..Default::default() };
        client.create_session(request).await.unwrap();
        let answer = soon("a turn", client.send_and_wait(wait(id, "hello"))).await.unwrap().into_inner();
        assert_eq!(answer.result.unwrap().content, "You said: hello");
        let history = format!("cli-{cli}/session-state/{id}");
        assert!(server.state_dir().join(history).exists());
    }
    let slow = tokio::spawn({
        let (mut client, id) = (client.clone(), ids[1].clone());
        async move { client.send_and_wait(wait(&id, "slowly one two three four five")).await }
    });
    soon("the turn", model.wait_for(|calls| calls.len() == 3)).await;
    let first = server.pid_of("cli-0");
    kill_process(first, Signal::KILL).unwrap();
    value_in(&mut server.logs, "the CLI is down", "problem").await;
    assert!(server.is_serving().await);
    let answer = soon("the other's turn", slow).await.unwrap().unwrap().into_inner();
    assert_eq!(answer.result.unwrap().content, "one two three four five");
    let answer = soon("a turn", client.send_and_wait(wait(&ids[0], "back?"))).await.unwrap().into_inner();
    assert_eq!(answer.result.unwrap().content, "You said: back?");
    assert!(server.pid_of("cli-0") != first);
}

#[tokio::test]
async fn a_state_directory_that_others_may_look_into_is_refused_with_the_command_that_mends_it() {
    let model = echo().await;
    let folder = tempfile::tempdir().unwrap();
    for wide in ["", "work", "cli-0"] {
        let path = folder.path().join(wide).components().collect::<PathBuf>();
        std::fs::create_dir_all(&path).unwrap();
        let permissions = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, permissions(0o755)).unwrap();
        let mut server = program(folder.path().to_str().unwrap(), &real_cli::path());
        let server =
            server.args(["--listen=127.0.0.1:0", "--log-format=human"]).envs(real_cli::offline(&model));
        let mut server = server.spawn().unwrap();
        let expected = format!("chmod 700 {}", path.display());
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let told = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(&expected) {
                    return true;
                }
            }
            false
        };
        assert!(soon("the refusal", told).await, "{wide}");
        // Until it has gone, the next one is refused for another reason.
        server.kill().await.unwrap();
        std::fs::set_permissions(&path, permissions(0o700)).unwrap();
    }
}

#[tokio::test]
async fn two_servers_do_not_share_a_state_directory() {
    let model = echo().await;
    let server = Server::start(&model).await;
    let second = program(server.state_dir().to_str().unwrap(), &real_cli::path())
        .args(["--listen=127.0.0.1:0"])
        .envs(real_cli::offline(&model))
        .output();
    let second = soon("the second server", second).await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("--state-dir"), "{}", text(&second.stderr));
}

#[tokio::test]
async fn a_client_says_where_it_looked_for_a_server() {
    let output =
        Command::new(PROGRAM).args(["health", "--server", "http://127.0.0.1:9"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no server at http://127.0.0.1:9"), "{}", text(&output.stderr));
}
