//! Connections on which nothing is said hinder nobody, and those that never say anything are ended.

use std::time::Duration;

use copilot_grpc::grpc::pb::{CreateSessionRequest, copilot_service_client::CopilotServiceClient};
use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use scripted_model::{ModelServer, Reply};
use tokio::{io::AsyncReadExt as _, time::Instant};

use crate::support::{
    facade::wait,
    fake_cli::FakeCli,
    http2::{GOAWAY, PREFACE, Raw, SETTINGS, opening},
    server::Server,
    soon, until,
};

#[tokio::test]
async fn a_thousand_silent_connections_hinder_nobody_and_are_gone_after_ten_seconds() {
    const SILENT: usize = 1000;
    const CALLERS: usize = 20;
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let address = facade.facade.address().to_string();
    let openings: [&[u8]; 4] = [b"", b"P", PREFACE, &opening()[..PREFACE.len() + 5]];
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut raw = Raw::connect(&address).await;
        raw.write(openings[number % openings.len()]).await;
        silent.push(raw);
    }
    let began = Instant::now();
    let caller = async |number: usize| {
        let mut client = facade.connect().await;
        let id = format!("s{number}");
        let request = CreateSessionRequest { session_id: id.clone(), ..Default::default() };
        client.create_session(request).await.unwrap();
        client.send_and_wait(wait(&id, "hello")).await.unwrap();
    };
    let turns = async {
        for _ in 0..CALLERS {
            cli.turn(&["fine"]).await;
        }
    };
    soon("the turns", async { tokio::join!(join_all((0..CALLERS).map(caller)), turns) }).await;
    for raw in &mut silent {
        assert!(soon("the end of a silent connection", raw.closed()).await.is_empty());
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn at_the_limit_of_descriptors_a_killed_cli_is_started_again_and_clients_too_many_are_told_so() {
    let model = ModelServer::start(|_| Reply::text("fine")).await.unwrap();
    let server = Server::start_with_descriptors(256, &model).await;
    let mut taken = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut raw = Raw::open(server.address()).await;
        assert_eq!(soon("a frame", raw.frame()).await.unwrap().0, SETTINGS);
        match soon("a frame", raw.frame()).await {
            Some((GOAWAY, payload)) => {
                refused += 1;
                assert!(payload.ends_with(b"too many connections: max_connections"), "{payload:?}");
            }
            // The acknowledgement of its settings.
            Some((SETTINGS, _)) => taken.push(raw),
            // What it had said was not read: its system threw the rest away.
            None => refused += 1,
            Some(other) => panic!("{other:?}"),
        }
    }
    assert!(taken.len() > 100 && refused > 50, "{} taken, {refused} refused", taken.len());
    for restarts in 1..=2 {
        kill_process(server.cli(), Signal::KILL).unwrap();
        until("another CLI", || server.times("the CLI is ready") == 1 + restarts).await;
    }
    assert_eq!(server.times("clients were refused: there are as many as there may be (max_connections)"), 1);
    drop(taken);
    let called = async {
        loop {
            let Ok(mut client) = CopilotServiceClient::connect(server.url.clone()).await else { continue };
            let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
            if client.create_session(request).await.is_ok() {
                return client.send_and_wait(wait("s", "hello")).await.unwrap().into_inner();
            }
        }
    };
    assert_eq!(soon("a turn", called).await.result.unwrap().content, "fine");
}

#[tokio::test]
async fn a_client_of_http_1_is_told_in_its_own_words_what_is_spoken_here() {
    let facade = FakeCli::start().await.setup().start_unready().await;
    let mut raw = Raw::connect(&facade.facade.address().to_string()).await;
    raw.write(b"POST /copilot_grpc.v1.CopilotService/GetServerInfo HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = String::new();
    soon("the answer", raw.0.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("gRPC, over HTTP/2"), "{answer}");
}
