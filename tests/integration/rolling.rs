//! A rolling restart of two servers costs their callers no call and no turn; on the real CLI.
//!
//! Each server gets a SIGTERM, one after the other, and callers in Python know nothing of it, with the service configuration that is
//! published in `examples`.

use std::{process::Stdio, time::Duration};

use scripted_model::Reply;
use tokio::{io::AsyncReadExt as _, process::Command};

use crate::support::{
    programs::{python, root},
    real_cli::LastingCli,
    service::Service,
    soon,
};

const FLAGS: &[&str] = &["--drain-delay=1s", "--grace-period=20s"];

#[tokio::test]
async fn a_rolling_restart_of_two_servers_costs_their_callers_no_turn_and_no_call() {
    let python = python().await;
    let cli = LastingCli::start(|request| {
        let (marker, words) = request.prompt().split_once(' ').unwrap();
        let words = 0..words.parse().unwrap();
        Reply::chunks(words.map(|n: u32| format!("{marker}.{n} "))).every(Duration::from_millis(30))
    })
    .await;
    let mut servers = [Service::beside(&cli, FLAGS).await, Service::beside(&cli, FLAGS).await];
    for server in &servers {
        server.runs(0).await;
    }
    let addresses = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port));
    let mut callers = Command::new(python)
        .arg(root().join("tests/integration/rolling.py"))
        .arg(root().join("examples/service-config.json"))
        .args(addresses)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..2 {
        for server in &mut servers {
            server.runs(2).await;
            server.restart(&cli).await;
            // Only when callers have found it again is it the other's turn, as in any rolling update.
            server.runs(2).await;
        }
    }
    drop(callers.stdin.take());
    let mut turns = String::new();
    soon("the callers' end", callers.stdout.take().unwrap().read_to_string(&mut turns)).await.unwrap();
    assert!(callers.wait().await.unwrap().success(), "see above: a call has failed");
    let turns: Vec<u32> = turns.split_whitespace().map(|turns| turns.parse().unwrap()).collect();
    assert!(turns.iter().all(|turns| *turns > 3), "turns of each caller: {turns:?}");
}
