//! Turns that nobody waits for: known to every server, also when the one that had them is dead.

use std::{process::Stdio, time::Duration};

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, DeliveryState, ErrorReason, GetTurnRequest, ListTurnsRequest, Prompt,
    SubmitTurnRequest, Turn, TurnFailure, TurnState, turn::Outcome,
};
use prost::Message as _;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};
use tonic::{Code, Status};

use super::cluster::Cluster;
use crate::{
    store::installation::{Client, create, history, script, send_named},
    support::{
        check, fields_of,
        programs::{python, root},
        soon, until,
    },
};

async fn submit(client: &mut Client, id: &str, request_id: &str, text: &str) -> Result<Turn, Status> {
    let prompt = Some(Prompt { text: text.into(), request_id: request_id.into(), ..Default::default() });
    let request = SubmitTurnRequest { session_id: id.into(), prompt };
    Ok(soon("a submission", client.submit_turn(request)).await?.into_inner().turn.unwrap())
}

async fn turn(client: &mut Client, id: &str, request_id: &str, wait: u64) -> Result<Turn, Status> {
    let request = GetTurnRequest {
        session_id: id.into(),
        request_id: request_id.into(),
        wait: Some(Duration::from_secs(wait).try_into().unwrap()),
        ..Default::default()
    };
    Ok(soon("a turn", client.get_turn(request)).await?.into_inner().turn.unwrap())
}

fn content(turn: &Turn) -> &str {
    match &turn.outcome {
        Some(Outcome::Result(result)) => &result.content,
        other => panic!("it has not succeeded: {other:?}"),
    }
}

/// Why a turn has failed, and what became of its prompt.
fn failure(turn: &Turn) -> (ErrorReason, DeliveryState) {
    assert_eq!(turn.state(), TurnState::Failed);
    let Some(Outcome::Failure(failure)) = &turn.outcome else { panic!("{turn:?}") };
    let detail = failure.details.iter().find(|detail| detail.type_url.ends_with("TurnFailure")).unwrap();
    (failure.reason(), TurnFailure::decode(detail.value.as_slice()).unwrap().delivery())
}

#[tokio::test]
async fn a_submitted_turn_is_known_to_every_server_while_it_waits_runs_and_after() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let first = submit(&mut clients[1], "s", "one", "slow").await.unwrap();
    assert!(matches!(first.state(), TurnState::Queued | TurnState::Running), "{first:?}");
    submit(&mut clients[0], "s", "two", "quick").await.unwrap();
    assert_eq!(turn(&mut clients[0], "s", "two", 0).await.unwrap().state(), TurnState::Queued);
    let ended = turn(&mut clients[0], "s", "one", 20).await.unwrap();
    assert_eq!(content(&ended), "prompts: slow");
    for client in &mut clients {
        let two = turn(client, "s", "two", 20).await.unwrap();
        assert_eq!((content(&two), two.state()), ("prompts: slow, quick", TurnState::Succeeded));
        assert!(!two.message_id.is_empty());
        let by_message = GetTurnRequest {
            session_id: "s".into(),
            message_id: two.message_id.clone(),
            ..Default::default()
        };
        assert_eq!(client.get_turn(by_message).await.unwrap().into_inner().turn.unwrap(), two);
        // The same turn by another call, and its result.
        assert_eq!(send_named(client, "s", "two", "quick").await.unwrap().content, "prompts: slow, quick");
    }
    // Once more is the same turn.
    let again = submit(&mut clients[1], "s", "one", "slow").await.unwrap();
    assert_eq!(content(&again), "prompts: slow");
    assert_eq!(cluster.model.calls().len(), 2);
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTurnsRequest { session_id: "s".into(), page_size: 1, page_token };
        let page = clients[1].list_turns(request).await.unwrap().into_inner();
        listed.extend(page.turns);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let ids: Vec<_> = listed.iter().map(|turn| (turn.request_id.as_str(), turn.state())).collect();
    assert_eq!(ids, [("two", TurnState::Succeeded), ("one", TurnState::Succeeded)]);
    assert_eq!(content(&listed[0]), "");
}

#[tokio::test]
async fn a_turn_that_runs_or_waits_is_stopped_by_its_request_id() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    submit(&mut clients[0], "s", "runs", "hang").await.unwrap();
    submit(&mut clients[0], "s", "waits", "never said").await.unwrap();
    until("the prompt is with the model", || cluster.model.calls().len() == 1).await;
    for request_id in ["waits", "runs"] {
        let abort =
            AbortTurnRequest { session_id: "s".into(), request_id: request_id.into(), ..Default::default() };
        let aborted = clients[1].abort_turn(abort.clone()).await.unwrap().into_inner();
        assert!(aborted.message_id.is_some(), "{request_id}");
        let ended = turn(&mut clients[1], "s", request_id, 20).await.unwrap();
        let delivery =
            if request_id == "runs" { DeliveryState::Delivered } else { DeliveryState::NotDelivered };
        assert_eq!(failure(&ended), (ErrorReason::TurnAborted, delivery));
        // It has ended.
        assert_eq!(clients[1].abort_turn(abort).await.unwrap().into_inner().message_id, None);
    }
    assert_eq!(cluster.model.calls().len(), 1);
}

#[tokio::test]
async fn of_a_server_that_dies_the_delivered_turn_is_cut_and_the_waiting_one_is_run_by_another() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    submit(&mut clients[0], "s", "delivered", "hang").await.unwrap();
    until("the prompt is with the model", || cluster.model.calls().len() == 1).await;
    submit(&mut clients[0], "s", "waiting", "waited").await.unwrap();
    submit(&mut clients[0], "s", "last", "last").await.unwrap();
    assert_eq!(cluster.owner_of("s").await, 0);
    cluster.stop(0, Signal::KILL).await;
    let other = &mut clients[1];
    // Nobody asks for them: the other server sees to it by itself.
    let ended = turn(other, "s", "last", 20).await.unwrap();
    assert!(content(&ended).ends_with("waited, last"), "{ended:?}");
    let cut = turn(other, "s", "delivered", 0).await.unwrap();
    let (reason, delivery) = failure(&cut);
    assert_eq!(reason, ErrorReason::TurnInterrupted);
    assert_ne!(delivery, DeliveryState::NotDelivered);
    assert!(content(&turn(other, "s", "waiting", 0).await.unwrap()).ends_with("waited"));
    let history = history(other, "s").await.unwrap();
    let prompts: Vec<_> = history.iter().filter(|line| line.starts_with("> ")).collect();
    assert!(prompts.ends_with(&[&"> waited".to_owned(), &"> last".to_owned()]), "{prompts:?}");
    assert_eq!(prompts.iter().filter(|line| line.ends_with("waited")).count(), 1);
}

#[tokio::test]
async fn a_caller_in_python_is_told_the_truth_by_another_server() {
    let mut cluster = Cluster::start(2, script).await;
    let mut caller = Command::new(python().await);
    caller.arg(root().join("tests/integration/submitted.py"));
    caller.args([cluster.server(0).address(), cluster.server(1).address()]);
    let caller = caller.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut caller = caller.spawn().unwrap();
    let mut said = BufReader::new(caller.stdout.take().unwrap()).lines();
    let mut next = async || soon("what the caller says", said.next_line()).await.unwrap().unwrap_or_default();
    assert_eq!(next().await, "submitted");
    until("the prompt is with the model", || cluster.model.calls().len() == 1).await;
    assert_eq!(cluster.owner_of("s").await, 0);
    cluster.stop(0, Signal::KILL).await;
    caller.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    let waiting = next().await;
    assert!(waiting.starts_with("waiting TURN_STATE_SUCCEEDED prompts: "), "{waiting}");
    assert!(waiting.ends_with("later"), "{waiting}");
    assert_eq!(
        next().await,
        "delivered TURN_STATE_FAILED ERROR_REASON_TURN_INTERRUPTED DELIVERY_STATE_UNKNOWN"
    );
    assert!(soon("the caller's end", caller.wait()).await.unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_submitted_is_refused_with_its_field() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    for client in &mut clients {
        let refused = submit(client, "s", "", "hello").await.unwrap_err();
        assert_eq!(fields_of(&refused), ["prompt.request_id"]);
        let refused = submit(client, "s", "r", " ").await.unwrap_err();
        assert_eq!(fields_of(&refused), ["prompt.text"]);
        let request = GetTurnRequest { session_id: "s".into(), ..Default::default() };
        assert_eq!(fields_of(&client.get_turn(request).await.unwrap_err()), ["request_id"]);
        let request = GetTurnRequest {
            session_id: "s".into(),
            request_id: "r".into(),
            message_id: "m".into(),
            wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        };
        assert_eq!(fields_of(&client.get_turn(request).await.unwrap_err()), ["message_id", "wait"]);
        check(&turn(client, "s", "none", 0).await.unwrap_err(), Code::NotFound, ErrorReason::TurnNotFound);
        check(&turn(client, "no", "r", 0).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
        let request = ListTurnsRequest { session_id: "s".into(), page_token: "?".into(), page_size: -1 };
        assert_eq!(fields_of(&client.list_turns(request).await.unwrap_err()), ["page_size", "page_token"]);
        let both =
            AbortTurnRequest { session_id: "s".into(), message_id: "m".into(), request_id: "r".into() };
        assert_eq!(fields_of(&client.abort_turn(both).await.unwrap_err()), ["request_id"]);
    }
}
