//! Keys and tokens are in no error and no event, also when the CLI or a provider repeats them.
//!
//! On the FakeCli, because the real one does not repeat a key on demand.

use copilot_grpc::{
    grpc::pb::{CreateSessionRequest, DeliveryState, ErrorReason, session_event::Payload},
    session::Load,
};
use serde_json::json;
use tonic::Code;

use super::{KEY, at_rest, check_turn, failure, send_request, shown, with_key};
use crate::support::{
    check,
    facade::{Streamed, wait},
    fake_cli::FakeCli,
    soon,
};

#[tokio::test]
async fn a_github_token_reaches_the_cli_and_its_refusal_the_caller_without_the_token() {
    const TOKEN: &str = "ghu_VerySecret4711";
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.manual("session.create");
    let mut client = facade.client();
    let create = tokio::spawn(async move {
        let request = CreateSessionRequest { github_token: TOKEN.into(), ..Default::default() };
        client.create_session(request).await
    });
    let call = cli.next("session.create").await;
    assert_eq!(call.params["gitHubToken"], TOKEN);
    call.refuse(-32603, &format!("GitHub token validation failed: {TOKEN} is no token")).await;
    let status = soon("the refusal", create).await.unwrap().unwrap_err();
    check(&status, Code::FailedPrecondition, ErrorReason::ProviderAuth);
    assert!(status.message().contains("GitHub token validation failed"), "{status:?}");
    assert!(!shown(&status).contains(TOKEN), "{status:?}");
    assert_eq!(at_rest(&facade).await, Load::default());
}

#[tokio::test]
async fn a_key_that_the_provider_repeats_is_in_no_error_and_no_event() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    let stream = facade.stream("k", "p").await.unwrap();
    let turn = cli.begin().await;
    turn.error("authentication", &format!("401 Incorrect API key provided: {KEY}.")).await;
    turn.idle().await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    let status = streamed.end.unwrap_err();
    check_turn(&status, Code::FailedPrecondition, ErrorReason::ProviderAuth, DeliveryState::Delivered);
    assert!(status.message().contains("Incorrect API key provided: [redacted]"), "{status:?}");
    assert!(!shown(&status).contains(KEY), "{status:?}");
    // The key may be the operator's, and then it is not for the caller to see.
    let errors = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::SessionError(error) => Some(error.message.as_str()),
        _ => None,
    });
    assert_eq!(errors.collect::<Vec<_>>(), ["401 Incorrect API key provided: [redacted]."]);
    at_rest(&facade).await;
}

#[tokio::test]
async fn an_answer_of_the_cli_that_cannot_be_read_is_not_quoted() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    let sending = send_request(&facade, wait("k", "p"));
    cli.next("session.send").await.answer(json!({"messageId": [KEY], "queued": KEY})).await;
    let status = failure(sending).await;
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().contains("not of the form that was expected"), "{status:?}");
    assert!(!shown(&status).contains(KEY), "{status:?}");
}

#[tokio::test]
async fn a_key_that_the_cli_repeats_in_a_refusal_is_in_no_error() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.client().create_session(with_key("k")).await.unwrap();
    let sending = send_request(&facade, wait("k", "p"));
    cli.next("session.send").await.refuse(-32603, &format!("unknown field {KEY:?}")).await;
    let status = failure(sending).await;
    assert!(!shown(&status).contains(KEY), "{status:?}");
    at_rest(&facade).await;
}
