//! A request that is repeated after its server was killed gets what came of it, or the truth about it.

use copilot_grpc::grpc::pb::{CreateSessionRequest, DeliveryState, ErrorReason, GetServerInfoRequest};
use rustix::process::Signal;
use scripted_model::Call;
use tokio::time::sleep;
use tonic::Code;

use super::installation::{
    Client, Installation, create, create_with, history, listed, on_both, script, send, send_named,
};
use crate::support::{check, failure_of, fields_of, soon};

fn asked(installation: &Installation, prompt: &str) -> usize {
    installation.model.calls().iter().filter(|call| call.request.prompt() == prompt).count()
}

async fn model_is_asked(installation: &Installation, prompt: &str, times: usize) {
    let is_asked =
        |calls: &[Call]| calls.iter().filter(|call| call.request.prompt() == prompt).count() == times;
    soon("the model is asked", installation.model.wait_for(is_asked)).await;
}

/// Waits until so many turns wait for others.
async fn turns_wait(client: &mut Client, count: i32) {
    soon("a waiting turn", async {
        loop {
            let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
            if info.backends.iter().map(|backend| backend.waiting_turns).sum::<i32>() >= count {
                return;
            }
            sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_was_answered_gets_its_answer_again_and_the_model_is_asked_once() {
    on_both(script, async |installation| {
        let request = CreateSessionRequest { request_id: "c".into(), ..Default::default() };
        let server = installation.start().await;
        let mut client = server.client().await;
        let id = create_with(&mut client, request.clone()).await.unwrap().session_id;
        let answer = send_named(&mut client, &id, "r", "one").await.unwrap();
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(create_with(&mut client, request.clone()).await.unwrap().session_id, id);
        assert_eq!(listed(&mut client).await, [id.as_str()]);
        assert_eq!(send_named(&mut client, &id, "r", "one").await.unwrap(), answer);
        assert_eq!(asked(&installation, "one"), 1);
        // The id is still that of this request, and of no other.
        let other = send_named(&mut client, &id, "r", "another").await.unwrap_err();
        check(&other, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&other), ["prompt.request_id"]);
        let other = CreateSessionRequest { owner: "somebody".into(), ..request };
        let other = create_with(&mut client, other).await.unwrap_err();
        assert_eq!(fields_of(&other), ["request_id"]);
        assert_eq!(send(&mut client, &id, "two").await.unwrap().content, "prompts: one, two");
    })
    .await;
}

#[tokio::test]
async fn a_turn_that_was_cut_is_told_to_be_and_is_not_run_again() {
    on_both(script, async |installation| {
        // One that is told to end does not wait for the turn either.
        let installation = installation.flag("--grace-period=10ms");
        let mut server = installation.start().await;
        for (id, signal, asked_at_last) in [("killed", Signal::KILL, 1), ("ended", Signal::TERM, 2)] {
            let mut client = server.client().await;
            create(&mut client, id).await;
            let mut sender = client.clone();
            let cut = tokio::spawn(async move { send_named(&mut sender, id, "r", "hang").await });
            model_is_asked(&installation, "hang", asked_at_last).await;
            server.stop(signal).await;
            cut.await.unwrap().unwrap_err();
            server = installation.start().await;
            let mut client = server.client().await;
            for _ in 0..2 {
                let truth = send_named(&mut client, id, "r", "hang").await.unwrap_err();
                check(&truth, Code::Unavailable, ErrorReason::TurnInterrupted);
                assert_ne!(failure_of(&truth).delivery(), DeliveryState::NotDelivered);
            }
            assert_eq!(asked(&installation, "hang"), asked_at_last);
            assert!(send(&mut client, id, "after").await.unwrap().content.ends_with("after"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_turn_that_was_never_delivered_is_run_when_it_is_repeated() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        let sent = [("first", "hang"), ("second", "queued")].map(|(id, text)| {
            let mut client = client.clone();
            async move { send_named(&mut client, "s", id, text).await }
        });
        let [first, second] = sent;
        let first = tokio::spawn(first);
        model_is_asked(&installation, "hang", 1).await;
        let second = tokio::spawn(second);
        turns_wait(&mut client, 1).await;
        server.stop(Signal::KILL).await;
        for sent in [first, second] {
            sent.await.unwrap().unwrap_err();
        }
        let server = installation.start().await;
        let mut client = server.client().await;
        let answer = send_named(&mut client, "s", "second", "queued").await.unwrap();
        assert_eq!(send_named(&mut client, "s", "second", "queued").await.unwrap(), answer);
        assert_eq!(asked(&installation, "queued"), 1);
        let prompts = history(&mut client, "s").await.unwrap();
        assert_eq!(prompts.iter().filter(|line| *line == "> queued").count(), 1);
    })
    .await;
}
