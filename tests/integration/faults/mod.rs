//! Whatever goes wrong between server, CLI and callers, each caller is told the truth and nothing is left behind.
//!
//! The CLI is a [`FakeCli`], because the real one does not misbehave on demand. Where the real one can be made to, top-level modules
//! show it: `delivery`, `deletions`, `stopping`, `freezes`, `links` and others.
//!
//! | module | what goes wrong in it |
//! |---|---|
//! | `wire` | the CLI writes no frames, too large ones, or what the server does not know |
//! | `attribution` | events come early, late, not at all, or from somebody else's turn |
//! | `delivery` | a prompt may or may not have arrived when the connection, the CLI or the caller is lost |
//! | `resuming` | the CLI has unloaded a session, or has lost its connection to it |
//! | `creation` | a session cannot be created, or its creator leaves |
//! | `deletion` | a session is deleted while it is used, or its deletion fails |
//! | `handshake` | the CLI has the wrong token, version, protocol or methods |
//! | `permissions` | what is to be permitted is told in an odd form, or while no turn runs |
//! | `stopping` | callers leave, deadlines pass, the agent is silent or does not stop |
//! | `draining` | the server is told to end |
//! | `reading` | callers read slowly, and errors are large |
//! | `secrets` | the CLI or a provider repeats keys and tokens |

mod attribution;
mod creation;
mod deletion;
mod delivery;
mod draining;
mod handshake;
mod permissions;
mod reading;
mod resuming;
mod secrets;
mod stopping;
mod wire;

use std::{sync::Arc, time::Duration};

use copilot_grpc::{
    backend,
    grpc::pb::{
        CreateSessionRequest, DeliveryState, ErrorReason, GetServerInfoRequest, PermissionEffect,
        PermissionPolicy, PermissionRule, Provider, SendAndWaitRequest, TurnResult,
    },
    session::Load,
};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::pb as rpc;

use crate::support::{
    check, detail,
    facade::{TestFacade, wait},
    failure_of,
    fake_cli::FakeCli,
    soon, until,
};

/// A CLI, a facade in front of it, and a session `s`.
async fn start() -> (FakeCli, TestFacade) {
    start_with(&[]).await
}

async fn start_with(flags: &[&str]) -> (FakeCli, TestFacade) {
    let cli = FakeCli::start().await;
    let facade = flags.iter().fold(cli.setup(), |setup, flag| setup.flag(*flag)).start().await;
    facade.create("s").await;
    (cli, facade)
}

/// [`start`], and the session has had a turn: `first`.
async fn start_after_a_turn() -> (FakeCli, TestFacade) {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.turn(&["one"]).await;
    assert_eq!(answer(first).await, "one");
    (cli, facade)
}

type Sending = JoinHandle<Result<TurnResult, Status>>;

/// Sends on a task of its own, which is aborted for a caller that leaves.
fn send(facade: &TestFacade, prompt: &str) -> Sending {
    send_request(facade, wait("s", prompt))
}

fn send_request(facade: &TestFacade, request: impl tonic::IntoRequest<SendAndWaitRequest>) -> Sending {
    let (mut client, request) = (facade.client(), request.into_request());
    tokio::spawn(async move { Ok(client.send_and_wait(request).await?.into_inner().result.unwrap()) })
}

async fn end(sending: Sending) -> Result<TurnResult, Status> {
    soon("the turn's end", sending).await.unwrap()
}

async fn answer(sending: Sending) -> String {
    end(sending).await.unwrap().content
}

async fn failure(sending: Sending) -> Status {
    end(sending).await.unwrap_err()
}

/// Checks what is told of a turn that failed.
#[track_caller]
fn check_turn(status: &Status, code: Code, reason: ErrorReason, delivery: DeliveryState) {
    check(status, code, reason);
    assert_eq!(failure_of(status).delivery(), delivery, "{status:?}");
}

#[track_caller]
fn check_interrupted(status: &Status, delivery: DeliveryState) {
    check_turn(status, Code::Unavailable, ErrorReason::TurnInterrupted, delivery);
    assert!(retry_info(status).is_some(), "{status:?}");
}

fn retry_info(status: &Status) -> Option<rpc::RetryInfo> {
    detail(status, "google.rpc.RetryInfo")
}

fn link(facade: &TestFacade) -> Result<Arc<backend::Link>, backend::Error> {
    facade.facade.sessions().pool().any().and_then(|cli| cli.link())
}

/// Waits until the facade has made its connection again.
async fn reconnected(cli: &FakeCli, facade: &TestFacade, connection: u64) {
    cli.connected(connection).await;
    // The one before was taken off the board before this one was made.
    until("a link", || link(facade).is_ok()).await;
}

/// Waits until a turn has a place in the queue.
async fn queued(facade: &TestFacade, turns: usize) {
    until("a place in the queue", || facade.facade.sessions().load().turns == turns).await;
}

/// Nothing runs, waits or is pending any more. Returns what there is at rest.
async fn at_rest(facade: &TestFacade) -> Load {
    facade.at_rest().await;
    until("no call in flight", || link(facade).is_ok_and(|link| link.in_flight() == 0)).await;
    let load = facade.facade.sessions().load();
    assert_eq!((load.turns, load.running), (0, 0), "{load:?}");
    load
}

/// At rest, and session `s` goes on as if nothing had been.
async fn goes_on(cli: &FakeCli, facade: &TestFacade) {
    assert_eq!(at_rest(facade).await.known, 1);
    let next = send(facade, "next");
    assert_eq!(cli.turn(&["go", "es on"]).await, "next");
    assert_eq!(answer(next).await, "goes on");
    assert_eq!(at_rest(facade).await, Load { known: 1, loaded: 1, ..Load::default() });
}

/// Plays the turn of a prompt that the test acknowledged by hand, because of what it had to send before.
async fn play(cli: &FakeCli, prompt: &str, message_id: &str, answer: &str) {
    cli.event("s", "user.message", json!({"content": prompt, "messageId": message_id})).await;
    let message = json!({"messageId": "a", "content": answer, "originatingMessageId": message_id});
    cli.event("s", "assistant.message", message).await;
    cli.event("s", "session.idle", json!({})).await;
}

/// Lets time pass at once. What was to happen meanwhile happens now.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Has the facade do a little of everything, so that timers which have fired have had their effect.
async fn settle(facade: &TestFacade) {
    for _ in 0..3 {
        facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap();
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// A provider of the caller's own, and tools that may ask.
fn with_key(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        model: "m".into(),
        provider: Some(Provider {
            base_url: "http://127.0.0.1:9/v1".into(),
            api_key: KEY.into(),
            ..Default::default()
        }),
        available_tools: vec!["bash".into()],
        permission_policy: Some(allow("shell")),
        ..Default::default()
    }
}

const KEY: &str = "sk-very-secret-4711";

fn allow(kind: &str) -> PermissionPolicy {
    let effect = PermissionEffect::Allow.into();
    PermissionPolicy { rules: vec![PermissionRule { kind: kind.into(), effect, ..Default::default() }] }
}

/// All that a status says.
fn shown(status: &Status) -> String {
    format!("{} {}", status.message(), String::from_utf8_lossy(status.details()))
}
