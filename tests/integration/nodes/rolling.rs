//! A rolling restart of three servers costs their callers no call and no turn, whatever they run: callers in Python and in Go, with the
//! service configuration that is published, and nothing else.

use std::{net::TcpListener, process::Stdio};

use rustix::process::Signal;
use scripted_model::{Reply, Request};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::sleep,
};

use super::cluster::{Cluster, nodes_of};
use crate::support::{
    programs::{go_client, python, root},
    soon,
};

const NODES: usize = 3;

/// Says each word of the prompt's marker after a moment.
fn words(request: &Request) -> Reply {
    let (marker, words) = request.prompt().split_once(' ').unwrap();
    let words = 0..words.parse().unwrap();
    Reply::chunks(words.map(|n: u32| format!("{marker}.{n} "))).every(std::time::Duration::from_millis(30))
}

#[tokio::test]
async fn a_rolling_restart_of_three_servers_costs_no_call_of_python() {
    let mut callers = Command::new(python().await);
    callers.arg(root().join("tests/integration/rolling.py")).arg(root().join("examples/service-config.json"));
    rolled(async |addresses| {
        callers.args(addresses);
        callers
    })
    .await;
}

#[tokio::test]
async fn a_rolling_restart_of_three_servers_costs_no_call_of_go() {
    let mut callers = Command::new(go_client().await);
    callers.arg(root().join("examples/service-config.json"));
    rolled(async |addresses| {
        callers.arg(addresses.join(",")).args(["roll", "caller"]);
        callers
    })
    .await;
}

async fn rolled(calling: impl AsyncFnOnce(&[String]) -> Command) {
    let mut cluster = Cluster::new(NODES, words).await.flag("--drain-delay=1s").flag("--grace-period=20s");
    let mut addresses = Vec::new();
    for node in 0..NODES {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        addresses.push(format!("127.0.0.1:{port}"));
        cluster.flag_of(node, format!("--listen=127.0.0.1:{port}"));
    }
    cluster.start_all().await;
    let mut callers = calling(&addresses).await;
    let callers = callers.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut callers = callers.spawn().unwrap();
    for node in 0..NODES {
        turns_run(&cluster, &mut callers).await;
        cluster.stop(node, Signal::TERM).await;
        cluster.start_one(node).await;
    }
    turns_run(&cluster, &mut callers).await;
    drop(callers.stdin.take());
    let mut turns = String::new();
    soon("the callers' end", callers.stdout.take().unwrap().read_to_string(&mut turns)).await.unwrap();
    assert!(callers.wait().await.unwrap().success(), "see above: a call has failed");
    let turns: Vec<u32> = turns.split_whitespace().map(|turns| turns.parse().unwrap()).collect();
    assert!(!turns.is_empty() && turns.iter().all(|turns| *turns > 3), "turns of each caller: {turns:?}");
}

/// Waits until some turn runs on some server, as they tell each other.
async fn turns_run(cluster: &Cluster, callers: &mut Child) {
    let mut client = cluster.clients().await.swap_remove(0);
    soon("turns run", async {
        while nodes_of(&mut client).await.iter().all(|node| node.turns == 0) {
            assert!(callers.try_wait().unwrap().is_none(), "see above: a call has failed");
            sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}
