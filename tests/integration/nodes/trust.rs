//! Servers that call each other over TLS: they know each other by their certificates, and say what is wrong where they do not.

use copilot_grpc::grpc::pb::ErrorReason;
use tonic::Code;

use super::cluster::Cluster;
use crate::{
    store::installation::{create, script, send},
    support::{
        check,
        tls::{Authority, Client, Files, Issued, When},
    },
};

/// Two servers with these certificates, which trust this CA, with these flags for each; and their files.
async fn cluster(
    ca: &Authority,
    nodes: [&Issued; 2],
    flags: impl Fn(&Files) -> Vec<String>,
) -> (Cluster, [Files; 2]) {
    let mut cluster = Cluster::new(2, script).await;
    let own = ca.issue(&["a.client"], When::Now);
    cluster.tls = Some(Client::new(ca, Some(&own)));
    let files = nodes.map(Files::of);
    for (node, files) in files.iter().enumerate() {
        files.write("cluster-ca.pem", &ca.pem);
        let flags =
            [files.flags(), vec![files.flag("cluster-ca-file", "cluster-ca.pem")], flags(files)].concat();
        flags.into_iter().for_each(|flag| cluster.flag_of(node, flag));
    }
    (cluster, files)
}

/// That a call of the first server's session is served by the second one.
async fn forwards(cluster: &Cluster) {
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    assert_eq!(send(&mut clients[1], "s", "one").await.unwrap().content, "prompts: one");
    assert_eq!(cluster.owner_of("s").await, 0);
}

/// What a caller of the second server is told of a session of the first one.
async fn refusal(cluster: &Cluster) -> String {
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let status = send(&mut clients[1], "s", "one").await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert_eq!(send(&mut clients[0], "s", "two").await.unwrap().content, "prompts: two");
    status.message().to_owned()
}

#[tokio::test]
async fn calls_are_forwarded_over_tls() {
    let ca = Authority::new();
    let (mut cluster, _files) = cluster(&ca, [&ca.server(), &ca.server()], |_| Vec::new()).await;
    cluster.start_all().await;
    forwards(&cluster).await;
}

#[tokio::test]
async fn calls_are_forwarded_over_tls_with_the_certificates_of_both_sides() {
    let ca = Authority::new();
    let node = ca.issue(&["localhost", "127.0.0.1", "spiffe://example.org/node"], When::Now);
    let (mut cluster, _files) = cluster(&ca, [&node, &node], |files| {
        let mut flags = files.mutual(&ca);
        flags.push("--tls-allowed-names=a.client,spiffe://example.org/node".into());
        flags
    })
    .await;
    cluster.start_all().await;
    forwards(&cluster).await;
}

#[tokio::test]
async fn a_server_whose_certificate_is_of_another_ca_is_told_of() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    // It shows one that clients trust, but the other server trusts another CA.
    let (mut cluster, files) = cluster(&ca, [&ca.server(), &ca.server()], |_| Vec::new()).await;
    files[1].write("cluster-ca.pem", &foreign.pem);
    cluster.start_all().await;
    let told = refusal(&cluster).await;
    assert!(
        told.contains("node-0") && told.contains("is not trusted") && told.contains("cluster_ca_file"),
        "{told}"
    );
}

#[tokio::test]
async fn a_server_that_advertises_a_name_that_its_certificate_has_not_is_told_of() {
    let ca = Authority::new();
    let named = ca.issue(&["localhost"], When::Now);
    let (mut cluster, _files) = cluster(&ca, [&named, &ca.server()], |_| Vec::new()).await;
    cluster.start_all().await;
    let told = refusal(&cluster).await;
    assert!(told.contains("is not trusted") && told.contains("advertise"), "{told}");
}

#[tokio::test]
async fn a_server_whose_own_certificate_the_other_refuses_says_so() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let (mut cluster, files) =
        cluster(&ca, [&ca.server(), &foreign.server()], |files| files.mutual(&ca)).await;
    // Both are trusted as servers.
    files[0].write("cluster-ca.pem", &format!("{}{}", ca.pem, foreign.pem));
    cluster.start_one(0).await;
    let own = ca.issue(&["a.client"], When::Now);
    cluster.tls = Some(Client::new(&foreign, Some(&own)));
    cluster.start_one(1).await;
    let mut clients =
        [Client::new(&ca, Some(&own)), Client::new(&foreign, Some(&own))].map(|client| (client, None));
    for (node, (client, connected)) in clients.iter_mut().enumerate() {
        let channel = client.channel(cluster.server(node).address()).await.unwrap();
        *connected = Some(crate::store::installation::Client::new(channel));
    }
    let [mut owner, mut other] = clients.map(|(_, connected)| connected.unwrap());
    create(&mut owner, "s").await;
    let status = send(&mut other, "s", "one").await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    let told = status.message();
    assert!(told.contains("node-0 refuses the certificate of this server"), "{told}");
    assert!(told.contains("tls_client_ca_file") && told.contains("tls_allowed_names"), "{told}");
}
