//! A CLI that cannot be used is not used, and operator and callers are told why and what to do.
//!
//! On the FakeCli, which has whatever version, protocol, token and methods a test gives it. The top-level `newer` and `standing` are about
//! CLIs that are newer, or get no new sessions.

use copilot_grpc::grpc::pb::{
    BackendState, CompactSessionRequest, CreateSessionRequest, ErrorReason, GetServerInfoRequest,
};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{goes_on, shown};
use crate::support::{
    check,
    facade::TestFacade,
    fake_cli::{FakeCli, Options},
    soon,
};

async fn backend_info(facade: &TestFacade) -> copilot_grpc::grpc::pb::Backend {
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    info.backends.into_iter().next().unwrap()
}

/// Waits until the server says this of its CLI. In between it tries again, which it says too.
async fn backend_becomes(facade: &TestFacade, state: BackendState) -> copilot_grpc::grpc::pb::Backend {
    soon(&format!("{state:?}"), async {
        loop {
            let info = backend_info(facade).await;
            if info.state() == state {
                return info;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_wrong_connection_token_is_the_operators_to_mend() {
    let cli = FakeCli::start_as(Options { token: Some("right"), ..Options::default() }).await;
    for token in ["wrong", ""] {
        let facade = cli.setup().variable("COPILOT_CONNECTION_TOKEN", token).start_unready().await;
        let info = backend_becomes(&facade, BackendState::Down).await;
        assert!(info.problem.contains("cli_token_file"), "{info:?}");
        assert!(info.problem.contains("AUTHENTICATION_FAILED"), "{info:?}");
        facade.health_becomes("", ServingStatus::NotServing).await;
        let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
        assert!(!shown(&status).contains("wrong"), "{status:?}");
        facade.stop().await;
    }
    let facade = cli.setup().start().await;
    facade.create("s").await;
}

#[tokio::test]
async fn a_token_that_is_not_wanted_is_the_operators_to_mend() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().variable("COPILOT_CONNECTION_TOKEN", "unwanted").start_unready().await;
    let info = backend_becomes(&facade, BackendState::Down).await;
    assert!(info.problem.contains("AUTHENTICATION_NOT_CONFIGURED"), "{info:?}");
    facade.health_becomes("", ServingStatus::NotServing).await;
}

/// A CLI that is like this is not used, and it is told what it is and what to do.
async fn is_not_used(options: Options, advice: &str) {
    let (version, protocol) = (options.version, i32::try_from(options.protocol).unwrap());
    let cli = FakeCli::start_as(options).await;
    let facade = cli.setup().start_unready().await;
    let info = backend_becomes(&facade, BackendState::Incompatible).await;
    assert_eq!((info.cli_version.as_str(), info.protocol_version), (version, protocol));
    assert!(info.problem.contains(advice), "{info:?}");
    facade.health_becomes("", ServingStatus::NotServing).await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::CliVersion);
    assert!(status.message().contains(advice), "{status:?}");
    assert_eq!(cli.count("session.create"), 0);
}

#[tokio::test]
async fn a_cli_of_another_protocol_is_not_used() {
    let advice = "protocol 2, and 3 is needed: install a newer one";
    is_not_used(Options { protocol: 2, ..Options::default() }, advice).await;
    let advice = "(1.4.0) speaks protocol 4, and this server 3: install a newer copilot-grpc";
    is_not_used(Options { version: "1.4.0", protocol: 4, ..Options::default() }, advice).await;
}

#[tokio::test]
async fn a_cli_below_the_floor_is_not_used() {
    let advice = "1.0.81, and 1.0.85 is needed at least: install a newer one";
    is_not_used(Options { version: "1.0.81", ..Options::default() }, advice).await;
    // Of a time when there was no handshake.
    let advice = "0.0.330, and 1.0.85 is needed";
    is_not_used(Options { version: "0.0.330", lacks: &["connect"], ..Options::default() }, advice).await;
}

#[tokio::test]
async fn what_cannot_be_done_with_a_cli_is_asked_of_it_and_told() {
    let lacks = &["session.history.compact", "session.queue.removeAt"];
    let cli = FakeCli::start_as(Options { lacks, ..Options::default() }).await;
    let facade = cli.setup().start().await;
    let info = backend_becomes(&facade, BackendState::Ready).await;
    let expected = ["session.history.compact: CompactSession", "session.queue.removeAt: withdrawing prompts"];
    assert_eq!(info.missing_features, expected);
    facade.create("s").await;
    goes_on(&cli, &facade).await;
    let compact = CompactSessionRequest { session_id: "s".into() };
    let status = facade.client().compact_session(compact).await.unwrap_err();
    check(&status, Code::Unimplemented, ErrorReason::CliMethodMissing);
}

#[tokio::test]
async fn a_cli_that_is_tried_again_and_again_keeps_its_problem() {
    let cli = FakeCli::start_as(Options { protocol: 2, ..Options::default() }).await;
    cli.manual("connect");
    let facade = cli.setup().start_unready().await;
    let answer = json!({"ok": true, "protocolVersion": 2, "version": "0.0.400"});
    cli.next("connect").await.answer(answer).await;
    // The second attempt is under way, and nobody knows yet that it will be any better.
    let _unanswered = cli.next("connect").await;
    let status = facade.client().create_session(CreateSessionRequest::default()).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::CliVersion);
    assert!(backend_info(&facade).await.problem.contains("0.0.400"));
}
