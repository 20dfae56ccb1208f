//! Servers that do not fit together: each says what is wrong, nobody owns a session twice, and no answer is lost.

use std::time::Duration;

use copilot_grpc::grpc::pb::ErrorReason;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use super::cluster::Cluster;
use crate::{
    store::installation::{create, script, send},
    support::{check, soon},
};

/// Two servers, of which the first advertises this.
async fn advertising(address: &str) -> Cluster {
    let mut cluster = Cluster::new(2, script).await;
    cluster.flag_of(0, format!("--advertise={address}"));
    cluster.start_all().await;
    cluster
}

/// What a caller of the second server is told of a session of the first one.
async fn refusal(cluster: &Cluster) -> Status {
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    let status = send(&mut clients[1], "s", "two").await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    // Who has the right server is served.
    assert_eq!(send(&mut clients[0], "s", "three").await.unwrap().content, "prompts: one, three");
    assert_eq!(cluster.owner_of("s").await, 0);
    status
}

#[tokio::test]
async fn an_address_that_leads_to_another_service_is_told_of() {
    let model = scripted_model::ModelServer::start(|_| scripted_model::Reply::text("")).await.unwrap();
    let address = model.base_url().trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let status = refusal(&advertising(&address).await).await;
    assert!(status.message().contains(&address) || status.message().contains("node-0"), "{status:?}");
}

#[tokio::test]
async fn an_address_that_leads_to_the_caller_itself_is_told_of_and_no_call_goes_round() {
    // The second one's port is known only when it listens; then the first one is started.
    let mut cluster = Cluster::new(2, script).await;
    cluster.start_one(1).await;
    let address = cluster.server(1).address().to_owned();
    cluster.flag_of(0, format!("--advertise={address}"));
    cluster.start_all().await;
    let status = refusal(&cluster).await;
    assert!(status.message().contains("node-0") && status.message().contains("node-1"), "{status:?}");
    assert!(status.message().contains("advertise"), "{status:?}");
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_told_of_when_there_is_no_more_time() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cluster = advertising(&nowhere.to_string()).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let request =
        copilot_grpc::grpc::pb::SendAndWaitRequest { session_id: "s".into(), prompt: Some("two".into()) };
    // It may only be away for a moment, and so it is waited for.
    let mut call = tonic::Request::new(request.clone());
    call.set_timeout(Duration::from_secs(2));
    let status = clients[1].send_and_wait(call).await.unwrap_err();
    check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    let delivery = crate::support::failure_of(&status).delivery();
    assert_eq!(delivery, copilot_grpc::grpc::pb::DeliveryState::NotDelivered);
    let status = soon("a refusal", clients[1].send_and_wait(request)).await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert!(status.message().contains("node-0"), "{status:?}");
    assert_eq!(send(&mut clients[0], "s", "one").await.unwrap().content, "prompts: one");
}

#[tokio::test]
async fn a_server_with_another_cluster_token_is_told_of() {
    let mut cluster = Cluster::new(2, script).await;
    for (node, token) in [(0, "the-first-clusters-token"), (1, "the-second-clusters-token")] {
        let file = cluster.file_of(node, "token", token);
        cluster.flag_of(node, format!("--cluster-token-file={}", file.display()));
    }
    cluster.start_all().await;
    let status = refusal(&cluster).await;
    assert!(status.message().contains("cluster_token_file"), "{status:?}");
    for token in ["the-first-clusters-token", "the-second-clusters-token"] {
        assert!(!format!("{status:?}").contains(token));
    }
}

#[tokio::test]
async fn servers_with_one_token_know_each_other() {
    let mut cluster = Cluster::new(2, script).await;
    for node in [0, 1] {
        let file = cluster.file_of(node, "token", "one-token-for-the-whole-cluster\n");
        cluster.flag_of(node, format!("--cluster-token-file={}", file.display()));
    }
    cluster.start_all().await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    assert_eq!(send(&mut clients[1], "s", "one").await.unwrap().content, "prompts: one");
}

#[tokio::test]
async fn of_two_servers_of_one_name_the_second_does_not_start() {
    let mut cluster = Cluster::new(2, script).await;
    cluster.flag_of(1, "--node-name=node-0");
    cluster.start_one(0).await;
    let (status, said) = cluster.fail_to_start(1).await;
    assert!(!status.success());
    assert!(said.contains("node_name") && said.contains("node-0"), "{said}");
    let mut client = cluster.client(0).await;
    create(&mut client, "s").await;
    assert_eq!(send(&mut client, "s", "one").await.unwrap().content, "prompts: one");
    // When the first one is dead it is the second one's.
    cluster.stop(0, Signal::KILL).await;
    cluster.start_one(1).await;
    let mut client = cluster.client(1).await;
    assert_eq!(send(&mut client, "s", "two").await.unwrap().content, "prompts: one, two");
}

#[tokio::test]
async fn what_a_server_is_told_of_the_others_has_to_make_sense() {
    let cluster = Cluster::new(1, script).await;
    let long = format!("--node-name={}", "n".repeat(65));
    for (flags, said) in [
        (&["--advertise=0.0.0.0:1"][..], "advertise"),
        (&["--advertise=nowhere"], "advertise"),
        (&["--advertise=host:0"], "advertise"),
        (&["--advertise=10.0.0.7:50051"], "cluster_token_file"),
        (&["--node-name=a b"], "node_name"),
        (&[&long], "node_name"),
        (&["--lease=0s"], "lease"),
        (&["--lease=1h"], "lease"),
        (&["--cluster-token-file=/nowhere/at-all"], "cluster_token_file"),
    ] {
        let output = cluster.refusal(flags).await;
        assert!(output.replace('-', "_").contains(said), "{flags:?}: {output}");
    }
}
