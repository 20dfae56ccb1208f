//! Two servers in front of the same CLIs, with the same store, agree, and do not harm each other; on the real CLI.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CreateSessionRequest, DeleteSessionRequest, ErrorReason, ListSessionsRequest,
    ResumeSessionRequest, Session, UpdateSessionRequest,
};
use scripted_model::{Reply, Request};
use tonic::{Code, Status};

use crate::support::{check, facade::TestFacade, real_cli::RealCli, reason_of, soon};

/// Says how many prompts it sees.
fn script(request: &Request) -> Reply {
    let prompts = request.messages.iter().filter(|message| message.role == "user").count();
    Reply::text(format!("{prompts}: {}", request.prompt()))
}

/// A server that has its sessions in the same database as the others in front of this CLI.
async fn beside(cli: &RealCli) -> TestFacade {
    cli.setup().beside().start().await
}

async fn delete(facade: &TestFacade, id: &str) -> Result<(), Status> {
    let request = DeleteSessionRequest { session_id: id.into(), allow_missing: true };
    facade.client().delete_session(request).await.map(|_| ())
}

async fn listed(facade: &TestFacade) -> Vec<String> {
    let list = facade.client().list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    list.sessions.into_iter().map(|session| session.session_id).collect()
}

#[tokio::test]
async fn what_one_server_has_made_another_goes_on_with_and_what_one_deletes_is_gone_for_both() {
    let cli = RealCli::start(script).await;
    let (one, other) = (beside(&cli).await, beside(&cli).await);
    let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    let request =
        CreateSessionRequest { session_id: "s".into(), labels: labels.clone(), ..Default::default() };
    one.client().create_session(request).await.unwrap();
    assert_eq!(soon("a turn", one.send("s", "one")).await.unwrap().content, "1: one");
    assert_eq!(other.get("s").await.unwrap().labels, labels);
    let again = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    let refused = other.client().create_session(again).await.unwrap_err();
    check(&refused, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!(soon("a turn", other.send("s", "two")).await.unwrap().content, "2: two");
    assert_eq!(soon("a turn", one.send("s", "three")).await.unwrap().content, "3: three");
    delete(&other, "s").await.unwrap();
    for facade in [&one, &other] {
        // The other one is told by the CLI.
        soon("the news", async { while facade.get("s").await.is_ok() {} }).await;
        let refused = soon("a refusal", facade.send("s", "four")).await.unwrap_err();
        check(&refused, Code::NotFound, ErrorReason::SessionNotFound);
        check(&facade.get("s").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
        assert_eq!(listed(facade).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_session_without_a_message_that_one_deletes_is_not_made_anew_by_the_other() {
    let cli = RealCli::start(script).await;
    let (one, other) = (beside(&cli).await, beside(&cli).await);
    one.create("s").await;
    // The other knows it, and does not hear what becomes of it.
    let resume = ResumeSessionRequest { session_id: "s".into(), ..Default::default() };
    other.client().resume_session(resume).await.unwrap();
    let close = CloseSessionRequest { session_id: "s".into() };
    other.client().close_session(close).await.unwrap();
    delete(&one, "s").await.unwrap();
    let refused = soon("a refusal", other.send("s", "hello")).await.unwrap_err();
    check(&refused, Code::NotFound, ErrorReason::SessionNotFound);
    assert_eq!(listed(&other).await, [""; 0]);
    assert!(cli.model.calls().is_empty());
}

#[tokio::test]
async fn a_session_that_one_deletes_while_another_loads_it_is_gone_or_stuck_and_no_other_is_touched() {
    let cli = RealCli::start(script).await;
    let (one, other) = (beside(&cli).await, Arc::new(beside(&cli).await));
    one.create("bystander").await;
    for n in 0..4 {
        let id = format!("s{n}");
        one.create(&id).await;
        soon("a turn", one.send(&id, "one")).await.unwrap();
        let loaded = tokio::spawn({
            let (other, id) = (other.clone(), id.clone());
            async move { other.send(&id, "two").await }
        });
        tokio::time::sleep(Duration::from_millis(n * 8)).await;
        match soon("the deletion", delete(&one, &id)).await {
            Ok(()) => {
                // Its own loading may be stuck all the same, and that is told after 30 s.
                let sent = tokio::time::timeout(Duration::from_secs(60), loaded).await.unwrap().unwrap();
                let reason = sent.as_ref().err().map(reason_of);
                let may_be =
                    [None, Some("SESSION_NOT_FOUND"), Some("TURN_ABORTED"), Some("BACKEND_UNAVAILABLE")];
                assert!(may_be.contains(&reason.as_deref()), "{sent:?}");
            }
            // The CLI answers neither of them, and never.
            Err(stuck) => {
                check(&stuck, Code::Unavailable, ErrorReason::BackendUnavailable);
                assert!(stuck.message().contains("until it is restarted"), "{stuck:?}");
                loaded.abort();
            }
        }
        for facade in [&one, &*other] {
            soon("a turn of another session", facade.send("bystander", "hello")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_model_that_one_server_sets_is_known_to_the_other_and_stays() {
    let cli = RealCli::start(script).await;
    let (one, other) = (beside(&cli).await, beside(&cli).await);
    one.create("s").await;
    for facade in [&one, &other] {
        soon("a turn", facade.send("s", "hello")).await.unwrap();
    }
    let session = Session { session_id: "s".into(), model: "another".into(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["model".into()] });
    let update = UpdateSessionRequest { session: Some(session), update_mask };
    other.client().update_session(update).await.unwrap();
    soon("the news", async { while one.get("s").await.unwrap().model != "another" {} }).await;
    // Also when it is loaded again, by whichever of them.
    for facade in [&one, &other] {
        let close = CloseSessionRequest { session_id: "s".into() };
        facade.client().close_session(close).await.unwrap();
    }
    soon("a turn", one.send("s", "again")).await.unwrap();
    assert_eq!(one.get("s").await.unwrap().model, "another");
    assert_eq!(cli.model.calls().last().unwrap().request.model, "another");
}
