//! Who uses a session that is deleted hears so at once, and a deletion is told to have worked only if it has.
//!
//! On the FakeCli, which tells of deletions by others, and fails at its own. The top-level `deletions` shows the real CLI.

use std::time::Duration;

use copilot_grpc::{
    grpc::pb::{
        CloseSessionRequest, CreateSessionRequest, DeleteSessionRequest, DeliveryState, ErrorReason,
        GetServerInfoRequest, SessionState,
    },
    session::Load,
};
use serde_json::json;
use tonic::{Code, Status};

use super::{
    answer, at_rest, check_turn, failure, goes_on, queued, reconnected, send, settle, start,
    start_after_a_turn,
};
use crate::support::{
    check,
    facade::TestFacade,
    failure_of,
    fake_cli::{Call, FakeCli},
    soon,
};

#[tokio::test]
async fn a_session_deleted_by_another_client_ends_its_turns() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    cli.forget("s");
    cli.lifecycle("session.deleted", "s").await;
    let status = failure(first).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Delivered);
    let status = failure(second).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::NotDelivered);
    let status = facade.send("s", "third").await.unwrap_err();
    check(&status, Code::NotFound, ErrorReason::SessionNotFound);
    assert_eq!(at_rest(&facade).await, Load::default());
    assert_eq!(cli.prompts(), ["first"]);
}

#[tokio::test]
async fn a_session_deleted_by_another_client_while_it_was_unloaded_is_told_to_be_lost_until_it_is_deleted() {
    let (cli, facade) = start_after_a_turn().await;
    cli.disconnect().await;
    reconnected(&cli, &facade, 2).await;
    cli.forget("s");
    cli.lifecycle("session.deleted", "s").await;
    for _ in 0..2 {
        let status = facade.send("s", "second").await.unwrap_err();
        check(&status, Code::NotFound, ErrorReason::SessionNotFound);
        assert!(status.message().contains("any more"), "{status:?}");
        assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Unloaded);
    }
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    let status = facade.client().create_session(request).await.unwrap_err();
    check(&status, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!(at_rest(&facade).await.turns, 0);
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    check(&facade.get("s").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    assert_eq!(at_rest(&facade).await, Load::default());
    facade.create("s").await;
}

#[tokio::test]
async fn a_session_deleted_by_another_client_while_it_is_loaded_is_told_to_be_deleted() {
    let (cli, facade) = start_after_a_turn().await;
    cli.disconnect().await;
    reconnected(&cli, &facade, 2).await;
    for method in ["session.resume", "session.getMetadata"] {
        cli.manual(method);
    }
    let sending = send(&facade, "second");
    // As the native runtime says it (observed).
    let reason = "subagent telemetry projection state is not initialized";
    cli.next("session.resume").await.refuse(-32603, reason).await;
    // The deletion is not done yet.
    cli.next("session.getMetadata").await.answer_as_usual().await;
    cli.forget("s");
    cli.next("session.getMetadata").await.answer_as_usual().await;
    let status = failure(sending).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::NotDelivered);
    assert_eq!(at_rest(&facade).await.turns, 0);
}

#[tokio::test]
async fn stale_news_of_a_deletion_changes_nothing() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let turn = cli.begin().await;
    let asked = cli.count("session.metadata.isProcessing");
    cli.lifecycle("session.deleted", "s").await;
    cli.lifecycle("session.deleted", "somebody-elses").await;
    cli.called("session.metadata.isProcessing", asked + 1).await;
    turn.finish(&["fine"]).await;
    assert_eq!(answer(sending).await, "fine");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn deleting_a_session_ends_its_running_and_waiting_turns() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    turn.delta("so far").await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    let status = failure(first).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    let status = failure(second).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::NotDelivered);
    assert_eq!(at_rest(&facade).await, Load::default());
    assert_eq!(cli.prompts(), ["first"]);
    // Its id is free again, and what comes of the old one is not taken for the new one's.
    facade.create("s").await;
    cli.event("s", "session.idle", json!({"aborted": true})).await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_deleted_sessions_turn_leaves_its_place_also_if_the_link_is_lost_right_then() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    cli.disconnect().await;
    failure(sending).await;
    let turns_that_run = async {
        while let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner()
            && info.backends[0].running_turns > 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the end of the deleted session's turn", turns_that_run).await;
}

#[tokio::test]
async fn deleting_a_session_ends_a_turn_whose_prompt_is_on_its_way() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    let call = cli.next("session.send").await;
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    let status = failure(sending).await;
    check_turn(&status, Code::Aborted, ErrorReason::TurnAborted, DeliveryState::Unknown);
    call.refuse(-32603, "Session not found for sessionId: s").await;
    assert_eq!(at_rest(&facade).await, Load::default());
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

/// Deletes the session, and gives why that was refused.
async fn refused_deletion(cli: &FakeCli, facade: &TestFacade, refuse: impl AsyncFnOnce(Call)) -> Status {
    cli.manual("session.delete");
    let mut client = facade.client();
    let delete = tokio::spawn(async move {
        let request = DeleteSessionRequest { session_id: "s".into(), allow_missing: true };
        client.delete_session(request).await.unwrap_err()
    });
    refuse(cli.next("session.delete").await).await;
    soon("the refusal", delete).await.unwrap()
}

#[tokio::test]
async fn a_deletion_that_failed_is_not_said_to_have_worked() {
    let (cli, facade) = start().await;
    let failed = json!({"success": false, "error": "EACCES: permission denied"});
    let refused = refused_deletion(&cli, &facade, async |call| call.answer(failed).await).await;
    check(&refused, Code::Internal, ErrorReason::CliProtocol);
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_deletion_that_meets_another_process_with_the_session_may_be_tried_again() {
    let (cli, facade) = start().await;
    let refusal = "Cannot delete session s: it is currently in use by another process.";
    let refused = refused_deletion(&cli, &facade, async |call| call.refuse(-32603, refusal).await).await;
    check(&refused, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert!(refused.metadata().get("grpc-retry-pushback-ms").is_some_and(|time| time != "-1"), "{refused:?}");
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_deletion_that_was_written_into_is_done_again() {
    let (cli, facade) = start().await;
    cli.manual("session.delete");
    let mut client = facade.client();
    let delete = tokio::spawn(async move {
        let request = DeleteSessionRequest { session_id: "s".into(), ..Default::default() };
        client.delete_session(request).await.map(drop)
    });
    cli.next("session.delete").await.refuse(-32603, "Directory not empty (os error 39)").await;
    cli.next("session.delete").await.answer(json!({"success": true})).await;
    soon("the deletion", delete).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_waits_for_a_session_hears_of_its_deletion() {
    let (cli, facade) = start().await;
    let sending = send(&facade, "p");
    cli.begin().await;
    let mut client = facade.client();
    let close = tokio::spawn(async move {
        client.close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap_err()
    });
    queued(&facade, 2).await;
    let request = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(request).await.unwrap();
    check(&soon("the news", close).await.unwrap(), Code::NotFound, ErrorReason::SessionNotFound);
    check(&failure(sending).await, Code::Aborted, ErrorReason::TurnAborted);
    assert_eq!(at_rest(&facade).await, Load::default());
}
