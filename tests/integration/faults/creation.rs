//! A session is created once and as it was asked for, or not at all, and then its id is free.
//!
//! On the FakeCli, which answers late, refuses, or has the id already. The top-level `sessions` shows the real CLI.

use copilot_grpc::{
    grpc::pb::{CreateSessionRequest, DeleteSessionRequest, ErrorReason},
    session::Load,
};
use tonic::Code;
use tonic_types::pb as rpc;

use super::{at_rest, goes_on, settle, start_with};
use crate::support::{check, detail, fake_cli::FakeCli, soon, until};

async fn check_taken(loaded: bool, stored: bool) {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.has("s", loaded, stored);
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    let status = facade.client().create_session(request).await.unwrap_err();
    check(&status, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!((cli.count("session.create"), cli.count("session.delete")), (0, 0));
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn an_id_that_the_cli_has_stored_or_loaded_is_taken() {
    check_taken(false, true).await;
    check_taken(true, false).await;
}

#[tokio::test]
async fn of_two_that_create_one_id_at_once_one_wins() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let create = || {
        let mut client = facade.client();
        tokio::spawn(async move {
            let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
            client.create_session(request).await
        })
    };
    let (one, other) = (create(), create());
    let call = cli.next("session.create").await;
    settle(&facade).await;
    call.answer_as_usual().await;
    let results = [soon("one", one).await.unwrap(), soon("the other", other).await.unwrap()];
    let [lost] = &results.iter().filter_map(|result| result.as_ref().err()).collect::<Vec<_>>()[..] else {
        panic!("not one of them: {results:?}");
    };
    check(lost, Code::AlreadyExists, ErrorReason::SessionExists);
    assert_eq!((cli.count("session.create"), cli.count("session.delete")), (1, 0));
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_session_of_which_it_is_not_known_whether_it_exists_is_not_created() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.metadata.isProcessing");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await.unwrap_err()
    });
    cli.next("session.metadata.isProcessing").await.refuse(-32603, "boom").await;
    check(&soon("the refusal", create).await.unwrap(), Code::Internal, ErrorReason::CliProtocol);
    assert_eq!(cli.count("session.create"), 0);
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn a_session_whose_creator_leaves_is_deleted_again() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await
    });
    let call = cli.next("session.create").await;
    create.abort();
    settle(&facade).await;
    call.answer_as_usual().await;
    assert_eq!(cli.called("session.delete", 1).await["sessionId"], "s");
    until("the id is free", || facade.facade.sessions().load().known == 0).await;
    assert_eq!(at_rest(&facade).await, Load::default());
    cli.automatic("session.create");
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn a_session_that_cannot_be_made_safe_is_not_made() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.options.update");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
        client.create_session(request).await
    });
    cli.next("session.options.update").await.refuse(-32603, "out of options").await;
    let status = soon("the refusal", create).await.unwrap().unwrap_err();
    check(&status, Code::Internal, ErrorReason::CliProtocol);
    assert_eq!(cli.called("session.delete", 1).await["sessionId"], "s");
    assert_eq!(at_rest(&facade).await, Load::default());
    cli.automatic("session.options.update");
    facade.create("s").await;
    goes_on(&cli, &facade).await;
}

#[tokio::test]
async fn there_are_no_more_sessions_than_allowed() {
    let (_cli, facade) = start_with(&["--max-sessions=1"]).await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::ResourceExhausted, ErrorReason::QuotaExceeded);
    let quota: rpc::QuotaFailure = detail(&status, "google.rpc.QuotaFailure").unwrap();
    assert!(quota.violations[0].description.contains("max_sessions"), "{quota:?}");
    let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
    facade.client().delete_session(delete).await.unwrap();
    facade.create("t").await;
    assert_eq!(at_rest(&facade).await, Load { known: 1, loaded: 1, ..Load::default() });
}
