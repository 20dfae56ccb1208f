//! A rolling update: servers of two versions share a store, and each serves what the other has.

use std::env;

use rustix::process::Signal;

use super::cluster::{Cluster, nodes_of};
use crate::store::installation::{create, history, script, send, send_named};

/// The program of another version, which `make test-update` builds.
const OTHER: &str = "OTHER_BUILD";

#[tokio::test]
#[ignore = "needs a second build: make test-update"]
async fn servers_of_two_versions_work_together() {
    let other = env::var(OTHER).expect("make test-update sets it");
    let mut cluster = Cluster::new(2, script).await;
    cluster.program_of(1, &other);
    cluster.start_all().await;
    let mut clients = cluster.clients().await;
    let versions: Vec<_> = nodes_of(&mut clients[0]).await.into_iter().map(|node| node.version).collect();
    assert_eq!(versions[0], env!("CARGO_PKG_VERSION"));
    assert_ne!(versions[1], versions[0]);
    let mut said = Vec::new();
    for (owner, id) in [(0, "of-this"), (1, "of-the-other")] {
        create(&mut clients[owner], id).await;
        said.clear();
        for client in &mut clients {
            said.push(said.len().to_string());
            let answer = send(client, id, said.last().unwrap()).await.unwrap().content;
            assert_eq!(answer, format!("prompts: {}", said.join(", ")));
        }
    }
    // Each takes over from the other, whichever is updated first.
    for (dies, lives, id) in [(0, 1, "of-this"), (1, 0, "of-the-other")] {
        cluster.stop(dies, Signal::KILL).await;
        let mut client = cluster.client(lives).await;
        let answer = send_named(&mut client, id, "r", "taken over").await.unwrap().content;
        assert_eq!(answer, "prompts: 0, 1, taken over");
        assert_eq!(history(&mut client, id).await.unwrap().len(), 6);
        cluster.start_one(dies).await;
    }
}
