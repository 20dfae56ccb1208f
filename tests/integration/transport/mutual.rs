//! Certificates of clients: who has a good one comes in, nobody else does, and the others are served all the same.

use copilot_grpc::grpc::pb::{GetServerInfoRequest, copilot_service_client::CopilotServiceClient};

use super::{call, logged, server};
use crate::support::{
    fake_cli::FakeCli,
    tls::{Authority, Client, Files, Issued, When},
};

const FAILED: &str = "TLS handshakes with clients have failed";

#[tokio::test]
async fn only_clients_with_a_good_certificate_come_in() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let files = Files::of(&ca.server());
    let cli = FakeCli::start().await;
    let server = server(&cli, &files.mutual(&ca)).await;
    let good = Client::new(&ca, Some(&ca.issue(&["a.client"], When::Now)));
    let rows: [(&str, Option<Issued>, &str); 4] = [
        ("none", None, "CertificateRequired"),
        ("of another CA", Some(foreign.issue(&["a.client"], When::Now)), "UnknownCA"),
        ("expired", Some(ca.issue(&["a.client"], When::Before)), "CertificateExpired"),
        ("not yet valid", Some(ca.issue(&["a.client"], When::Later)), "CertificateExpired"),
    ];
    for (what, shown, alert) in rows {
        let told = call(&server, &Client::new(&ca, shown.as_ref())).await.unwrap_err();
        // The client is told by an alert, which says no more than its kind.
        assert!(told.contains(alert) || told.contains("BadCertificate"), "{what}: {told}");
        call(&server, &good).await.unwrap();
    }
    // The operator is told, now and then.
    let told = logged(&server, FAILED, 1).await;
    assert_eq!(told["level"], "WARN");
    assert!(told["reason"].as_str().unwrap().contains("no certificates"), "{told}");
    assert!(server.times(FAILED) < 4);
}

#[tokio::test]
async fn a_certificate_needs_one_of_the_allowed_names() {
    let ca = Authority::new();
    let files = Files::of(&ca.server());
    let mut flags = files.mutual(&ca);
    flags.push("--tls-allowed-names=*.clients.org,spiffe://example.org/ns/*".into());
    let cli = FakeCli::start().await;
    let server = server(&cli, &flags).await;
    for (names, is_allowed) in [
        (&["a.clients.org"][..], true),
        (&["other.org", "b.clients.org"], true),
        (&["spiffe://example.org/ns/prod/sa/web"], true),
        (&["clients.org"], false),
        (&["a.b.clients.org"], false),
        (&["spiffe://example.com/ns/prod"], false),
        (&["spiffe://example.org/other"], false),
        (&["127.0.0.1"], false),
    ] {
        let called = call(&server, &Client::new(&ca, Some(&ca.issue(names, When::Now)))).await;
        match called {
            Ok(()) => assert!(is_allowed, "{names:?}"),
            Err(told) => assert!(!is_allowed && told.contains("AccessDenied"), "{names:?}: {told}"),
        }
    }
    logged(&server, "a client's certificate has no allowed name (tls_allowed_names)", 5).await;
}

#[tokio::test]
async fn where_certificates_are_optional_none_is_needed_and_a_bad_one_is_refused() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let files = Files::of(&ca.server());
    let mut flags = files.mutual(&ca);
    flags.push("--tls-client-auth=optional".into());
    let cli = FakeCli::start().await;
    let server = server(&cli, &flags).await;
    call(&server, &Client::new(&ca, None)).await.unwrap();
    call(&server, &Client::new(&ca, Some(&ca.issue(&["a"], When::Now)))).await.unwrap();
    let bad = foreign.issue(&["a"], When::Now);
    assert!(call(&server, &Client::new(&ca, Some(&bad))).await.is_err());
}

#[tokio::test]
async fn handshakes_count_as_connections() {
    let ca = Authority::new();
    let files = Files::of(&ca.server());
    let mut flags = files.flags();
    flags.push("--max-connections=2".into());
    let cli = FakeCli::start().await;
    let server = server(&cli, &flags).await;
    let silent = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let channel = Client::new(&ca, None).channel(server.address()).await.unwrap();
    assert!(call(&server, &Client::new(&ca, None)).await.is_err());
    logged(&server, "clients were refused: there are as many as there may be (max_connections)", 1).await;
    drop(silent);
    // Who is in goes on.
    CopilotServiceClient::new(channel).get_server_info(GetServerInfoRequest {}).await.unwrap();
}
