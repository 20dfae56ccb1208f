//! Certificates, keys and CAs that change while the server runs: the new ones count for new connections, bad ones never, and what is
//! open goes on.

use std::fs;

use copilot_grpc::grpc::pb::{CreateSessionRequest, copilot_service_client::CopilotServiceClient};

use super::{call, logged, server};
use crate::support::{
    facade::{Streamed, stream},
    fake_cli::FakeCli,
    soon,
    tls::{Authority, Client, Files, When},
};

const LOADED: &str = "the certificates were loaded again: new connections have the new ones";
const NOT_LOADED: &str = "the certificates are not loaded again: the old ones stay";

#[tokio::test]
async fn a_new_certificate_counts_for_new_connections_and_a_stream_goes_on() {
    let ca = Authority::new();
    let (old, new) = (ca.server(), ca.server());
    let files = Files::of(&old);
    let cli = FakeCli::start().await;
    let server = server(&cli, &files.flags()).await;
    let client = Client::new(&ca, None);
    let mut caller = CopilotServiceClient::new(client.channel(server.address()).await.unwrap());
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    caller.create_session(request).await.unwrap();
    let streamed = caller.send_and_stream(stream("s", "hello")).await.unwrap().into_inner();
    let turn = cli.begin().await;
    turn.delta("before ").await;
    assert_eq!(client.shown_at(server.address()).await, old.der());
    // A deployment replaces one file after the other; in between they do not fit, which may be told.
    files.put(&new);
    logged(&server, LOADED, 1).await;
    assert_eq!(client.shown_at(server.address()).await, new.der());
    turn.finish(&["and after"]).await;
    let streamed = soon("the turn", Streamed::read(streamed)).await;
    assert!(streamed.end.unwrap().content.ends_with("and after"));
}

#[tokio::test]
async fn of_files_that_are_bad_the_old_ones_stay_and_the_log_says_which_and_why() {
    let ca = Authority::new();
    let old = ca.server();
    let files = Files::of(&old);
    let cli = FakeCli::start().await;
    let server = server(&cli, &files.mutual(&ca)).await;
    let own = ca.issue(&["a.client"], When::Now);
    let client = Client::new(&ca, Some(&own));
    let cut = &old.cert[..old.cert.len() / 2];
    let damaged = old.cert.replacen("MII", "MIJ", 1);
    let expired = ca.issue(&["localhost"], When::Before);
    let future = ca.issue(&["localhost"], When::Later);
    let other = ca.server();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old_ca = Authority::of(When::Before).pem;
    let rows = [
        ("ca.pem", Some(""), "the file is empty"),
        ("ca.pem", Some("-----BEGIN CERTIFICATE-----\n"), "certificate 1 in the file is cut or damaged"),
        ("ca.pem", Some(old.key.as_str()), "there is no certificate in the file"),
        ("ca.pem", Some(&old_ca), "has expired at"),
        ("cert.pem", None, "the file cannot be read"),
        ("cert.pem", Some(cut), "certificate 1 in the file is cut or damaged"),
        ("cert.pem", Some(&damaged), "certificate 1 in the file is cut or damaged"),
        ("cert.pem", Some(&expired.cert), "has expired at"),
        ("cert.pem", Some(&future.cert), "is not valid before"),
        // A foreign one: its key is elsewhere.
        ("cert.pem", Some(&other.cert), "the key does not fit the certificate in"),
        ("key.pem", Some(&other.key), "the key does not fit the certificate in"),
        ("key.pem", Some(&old.key[..60]), "the private key in the file is cut or damaged"),
        ("key.pem", Some(&old.cert), "there is no private key in the file"),
        ("key.pem", Some(encrypted), "the key in the file is encrypted"),
    ];
    for (number, (file, content, reason)) in rows.into_iter().enumerate() {
        let good = fs::read_to_string(files.path(file)).unwrap();
        match content {
            Some(content) => drop(files.write(file, content)),
            None => fs::remove_file(files.path(file)).unwrap(),
        }
        let told = logged(&server, NOT_LOADED, number + 1).await;
        assert_eq!(told["level"], "WARN");
        let told = (told["file"].as_str().unwrap().to_owned(), told["reason"].as_str().unwrap().to_owned());
        let blamed = if reason.starts_with("the key does not fit") { "key.pem" } else { file };
        assert!(told.0.ends_with(blamed) && told.1.contains(reason), "{file}, {reason}: {told:?}");
        assert!(!told.1.contains("PRIVATE KEY-----\n"), "{told:?}");
        assert_eq!(client.shown_at(server.address()).await, old.der(), "{file}, {reason}");
        call(&server, &client).await.unwrap();
        files.write(file, &good);
        logged(&server, LOADED, number + 1).await;
    }
    // Each was told once.
    assert_eq!(server.times(NOT_LOADED), 14);
}

#[tokio::test]
async fn a_ca_that_is_taken_away_is_out_for_new_connections_at_once() {
    let (ca, next) = (Authority::new(), Authority::new());
    let files = Files::of(&ca.server());
    let cli = FakeCli::start().await;
    let server = server(&cli, &files.mutual(&ca)).await;
    let old = Client::new(&ca, Some(&ca.issue(&["a.client"], When::Now)));
    let new = Client::new(&ca, Some(&next.issue(&["a.client"], When::Now)));
    // It has been here, and keeps what a client keeps of a session of TLS.
    call(&server, &old).await.unwrap();
    let open = old.channel(server.address()).await.unwrap();
    files.write("ca.pem", &format!("{}{}", ca.pem, next.pem));
    logged(&server, LOADED, 1).await;
    call(&server, &old).await.unwrap();
    call(&server, &new).await.unwrap();
    files.write("ca.pem", &next.pem);
    logged(&server, LOADED, 2).await;
    let told = call(&server, &old).await.unwrap_err();
    assert!(told.contains("UnknownCA") || told.contains("Certificate"), "{told}");
    call(&server, &new).await.unwrap();
    // A connection that is open goes on until its age.
    let request = copilot_grpc::grpc::pb::GetServerInfoRequest {};
    CopilotServiceClient::new(open).get_server_info(request).await.unwrap();
}

#[tokio::test]
async fn certificates_that_expire_soon_or_have_expired_are_warned_of() {
    const SOON: &str = "a certificate expires soon";
    let ca = Authority::new();
    let files = Files::of(&ca.issue(&["localhost"], When::NotForLong));
    let flags = files.mutual(&ca);
    // One of two CAs that has expired is no mistake.
    files.write("ca.pem", &format!("{}{}", ca.pem, Authority::of(When::Before).pem));
    let cli = FakeCli::start().await;
    let server = server(&cli, &flags).await;
    assert!(logged(&server, SOON, 1).await["file"].as_str().unwrap().ends_with("cert.pem"));
    assert!(
        logged(&server, "a certificate has expired", 1).await["file"].as_str().unwrap().ends_with("ca.pem")
    );
    call(&server, &Client::new(&ca, Some(&ca.issue(&["a"], When::Now)))).await.unwrap();
    files.put(&ca.issue(&["localhost"], When::NotForLong));
    logged(&server, LOADED, 1).await;
    logged(&server, SOON, 2).await;
}
