//! Credentials outlive the server if they are sealed with the operator's key, and only then.

use copilot_grpc::grpc::pb::{CreateSessionRequest, ErrorReason, Provider, ResumeSessionRequest};
use rustix::process::Signal;
use scripted_model::ModelServer;
use tonic::Code;

use super::installation::{Installation, create_with, on_both, script, send};
use crate::support::check;

/// Two keys, as `openssl rand -base64 32` makes them.
const KEYS: [&str; 2] =
    ["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="];

/// What must be on no disk.
const SECRET: &str = "sk-of-the-callers-own";

fn own(model: &ModelServer) -> Option<Provider> {
    Some(Provider { base_url: model.base_url(), api_key: SECRET.into(), ..Default::default() })
}

fn used_keys(model: &ModelServer) -> Vec<String> {
    model.calls().iter().map(|call| call.request.headers["authorization"].clone()).collect()
}

/// With this in its key file from now on.
fn with_keys(installation: &Installation, keys: &[&str]) {
    installation.file("keys", &keys.join("\n"));
}

#[tokio::test]
async fn sealed_credentials_outlive_the_server_and_a_change_of_the_key_and_are_on_no_disk() {
    on_both(script, async |installation| {
        let path = installation.file("keys", KEYS[0]);
        let installation = installation.flag(format!("--seal-key-file={}", path.display()));
        let own_model = ModelServer::start(script).await.unwrap();
        let server = installation.start().await;
        let mut client = server.client().await;
        let request = CreateSessionRequest {
            session_id: "s".into(),
            model: "m".into(),
            provider: own(&own_model),
            ..Default::default()
        };
        create_with(&mut client, request).await.unwrap();
        send(&mut client, "s", "one").await.unwrap();
        let (mut server, mut said) = (server, vec!["one"]);
        // The key stays, a new one comes before it, and then the old one goes.
        for (keys, text) in [(&KEYS[..1], "two"), (&[KEYS[1], KEYS[0]], "three"), (&KEYS[1..], "four")] {
            server.stop(Signal::KILL).await;
            with_keys(&installation, keys);
            server = installation.start().await;
            said.push(text);
            let answer = send(&mut server.client().await, "s", text).await.unwrap();
            assert_eq!(answer.content, format!("prompts: {}", said.join(", ")));
        }
        assert_eq!(used_keys(&own_model), vec![format!("Bearer {SECRET}"); 4]);
        assert_eq!(installation.files_with(SECRET), Vec::<std::path::PathBuf>::new());
        assert!(installation.model.calls().is_empty(), "the operator's provider was used");
        server.stop(Signal::KILL).await;
    })
    .await;
}

#[tokio::test]
async fn without_the_key_or_with_another_credentials_have_to_be_sent_again() {
    on_both(script, async |installation| {
        let path = installation.file("keys", KEYS[0]);
        let installation = installation.flag(format!("--seal-key-file={}", path.display()));
        let own_model = ModelServer::start(script).await.unwrap();
        let server = installation.start().await;
        let mut client = server.client().await;
        let request = CreateSessionRequest {
            session_id: "s".into(),
            model: "m".into(),
            provider: own(&own_model),
            ..Default::default()
        };
        create_with(&mut client, request).await.unwrap();
        send(&mut client, "s", "one").await.unwrap();
        server.stop(Signal::KILL).await;
        with_keys(&installation, &KEYS[1..]);
        let server = installation.start().await;
        let mut client = server.client().await;
        let missing = send(&mut client, "s", "two").await.unwrap_err();
        check(&missing, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
        let again =
            ResumeSessionRequest { session_id: "s".into(), provider: own(&own_model), ..Default::default() };
        client.resume_session(again).await.unwrap();
        assert_eq!(send(&mut client, "s", "two").await.unwrap().content, "prompts: one, two");
        // From now on they are sealed with the new key.
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(send(&mut client, "s", "three").await.unwrap().content, "prompts: one, two, three");
    })
    .await;
}

#[tokio::test]
async fn credentials_that_are_not_sealed_are_gone_with_the_server() {
    on_both(script, async |installation| {
        let own_model = ModelServer::start(script).await.unwrap();
        let server = installation.start().await;
        let mut client = server.client().await;
        let request = CreateSessionRequest {
            session_id: "s".into(),
            model: "m".into(),
            provider: own(&own_model),
            ..Default::default()
        };
        create_with(&mut client, request).await.unwrap();
        send(&mut client, "s", "one").await.unwrap();
        server.stop(Signal::KILL).await;
        assert_eq!(installation.files_with(SECRET), Vec::<std::path::PathBuf>::new());
        let server = installation.start().await;
        let mut client = server.client().await;
        let missing = send(&mut client, "s", "two").await.unwrap_err();
        check(&missing, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
        assert!(missing.message().contains("ResumeSession with provider"), "{missing:?}");
    })
    .await;
}
