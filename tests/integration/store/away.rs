//! PostgreSQL goes away and comes back: what can go on goes on, and what cannot be promised is not.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, GetServerInfoRequest, Prompt, Store, StoreEngine,
};
use rustix::process::Signal;
use scripted_model::{Call, CallState};
use tonic::{Code, Status};

use super::installation::{
    Client, Engine, Installation, create, create_with, get, history, script, send, send_named, send_with,
};
use crate::support::{check, failure_of, reason_of, soon};

/// What the server says of its store.
async fn store_of(client: &mut Client) -> Store {
    client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().store.unwrap()
}

#[tokio::test]
async fn loaded_sessions_go_on_while_the_store_is_away_and_what_is_owed_is_written_later() {
    let installation =
        Installation::with_own_store(Engine::Postgres, script).await.flag("--archive=after_answer");
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    installation.stop_store().await;
    soon("not well", async { while server.is_serving().await {} }).await;
    let store = store_of(&mut client).await;
    assert_eq!((store.available, store.engine()), (false, StoreEngine::Postgresql));
    assert!(!store.problem.is_empty());
    assert_eq!(send(&mut client, "s", "two").await.unwrap().content, "prompts: one, two");
    let request = CreateSessionRequest { session_id: "other".into(), ..Default::default() };
    let refused = create_with(&mut client, request).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let refused = get(&mut client, "unknown").await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    installation.start_store().await;
    soon("well again", async { while !server.is_serving().await {} }).await;
    let store = store_of(&mut client).await;
    assert_eq!((store.available, store.problem.as_str()), (true, ""));
    create(&mut client, "other").await;
    assert_eq!(send(&mut client, "s", "three").await.unwrap().content, "prompts: one, two, three");
    // Its end is the time by which all is written that is owed.
    server.stop(Signal::TERM).await;
    installation.wipe();
    let server = installation.start().await;
    let mut client = server.client().await;
    let told = history(&mut client, "s").await.unwrap();
    assert_eq!(
        told.iter().filter(|line| line.starts_with("> ")).collect::<Vec<_>>(),
        ["> one", "> two", "> three"]
    );
}

#[tokio::test]
async fn an_answer_waits_for_the_archive() {
    let installation =
        Installation::with_own_store(Engine::Postgres, script).await.flag("--store-timeout=1s");
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    let mut sender = client.clone();
    let slow = tokio::spawn(async move { send_named(&mut sender, "s", "r", "slow").await });
    soon("the turn", installation.model.wait_for(|calls| calls.len() == 2)).await;
    installation.stop_store().await;
    let is_answered = |calls: &[Call]| calls.last().is_some_and(|call| call.state == CallState::Completed);
    soon("the model's answer", installation.model.wait_for(is_answered)).await;
    soon("not well", async { while server.is_serving().await {} }).await;
    assert!(!slow.is_finished());
    installation.start_store().await;
    let answer = slow.await.unwrap().unwrap();
    installation.lose_disk_of(server).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    assert_eq!(send_named(&mut client, "s", "r", "slow").await.unwrap(), answer);
    assert_eq!(send(&mut client, "s", "two").await.unwrap().content, "prompts: one, slow, two");
}

#[tokio::test]
async fn an_answer_that_cannot_be_archived_in_time_is_not_given_until_it_is() {
    let installation =
        Installation::with_own_store(Engine::Postgres, script).await.flag("--store-timeout=1s");
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    let prompt = Prompt {
        text: "slow".into(),
        request_id: "r".into(),
        // The model is through in a fraction of it, also on a busy machine.
        timeout: Some(Duration::from_secs(10).try_into().unwrap()),
        ..Default::default()
    };
    let (mut sender, first) = (client.clone(), prompt.clone());
    let slow = tokio::spawn(async move { send_with(&mut sender, "s", first).await });
    soon("the turn", installation.model.wait_for(|calls| calls.len() == 2)).await;
    installation.stop_store().await;
    let is_unsure = |status: &Status| {
        let reason = reason_of(status);
        ["STORE_UNAVAILABLE", "TURN_TIMEOUT"].contains(&reason.as_str())
    };
    let unsure = slow.await.unwrap().unwrap_err();
    check(&unsure, Code::Unavailable, ErrorReason::StoreUnavailable);
    assert_eq!(failure_of(&unsure).partial_content, "prompts: one, slow");
    installation.start_store().await;
    let answer = soon("the answer", async {
        loop {
            match send_with(&mut client, "s", prompt.clone()).await {
                Ok(answer) => return answer,
                Err(status) => assert!(is_unsure(&status), "{status:?}"),
            }
        }
    })
    .await;
    assert_eq!((answer.content.as_str(), installation.model.calls().len()), ("prompts: one, slow", 2));
}

#[tokio::test]
async fn a_server_that_starts_before_its_store_says_what_is_wrong() {
    let installation = Installation::with_own_store(Engine::Postgres, script).await;
    installation.stop_store().await;
    let (status, said) = installation.fail_to_start().await;
    assert!(!status.success());
    assert!(said.contains("the store cannot be reached"), "{said}");
    installation.start_store().await;
    let server = installation.start().await;
    create(&mut server.client().await, "s").await;
    check(
        &get(&mut server.client().await, "unknown").await.unwrap_err(),
        Code::NotFound,
        ErrorReason::SessionNotFound,
    );
}
