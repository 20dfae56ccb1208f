//! A server that ends finishes what runs within its grace period, takes nothing new, and tells callers which it was.
//!
//! On the FakeCli, whose turns last for as long as the test likes. The top-level `rolling` shows real CLIs.

use std::time::Duration;

use copilot_grpc::{
    grpc::pb::{
        CreateSessionRequest, CreateSessionResponse, DeliveryState, ErrorReason, SendAndWaitResponse,
    },
    session::Load,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, codegen::http::uri::PathAndQuery};

use super::{answer, check_turn, failure, queued, retry_info, send, settle, start};
use crate::support::{
    check,
    facade::{TestFacade, wait},
    failure_of, soon,
};

/// A call whose headers are sent now and whose message later, so that it is there before the server drains.
struct HalfOpen<T, R> {
    message: mpsc::Sender<T>,
    response: JoinHandle<Result<R, Status>>,
}

impl<T, R> HalfOpen<T, R>
where
    T: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    fn open(facade: &TestFacade, method: &'static str) -> Self {
        let (message, messages) = mpsc::channel(1);
        let mut client = tonic::client::Grpc::new(facade.channel());
        let response = tokio::spawn(async move {
            client.ready().await.unwrap();
            let path = PathAndQuery::try_from(format!("/copilot_grpc.v1.CopilotService/{method}")).unwrap();
            let codec = tonic_prost::ProstCodec::<T, R>::default();
            let messages = tonic::Request::new(ReceiverStream::new(messages));
            Ok(client.client_streaming(messages, path, codec).await?.into_inner())
        });
        Self { message, response }
    }

    async fn send(self, message: T) -> Result<R, Status> {
        self.message.send(message).await.unwrap();
        drop(self.message);
        soon("an answer", self.response).await.unwrap()
    }
}

#[tokio::test]
async fn a_server_that_drains_finishes_what_runs_and_takes_nothing_new() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    let turn = cli.begin().await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    let late_send = HalfOpen::<_, SendAndWaitResponse>::open(&facade, "SendAndWait");
    let late_create = HalfOpen::<_, CreateSessionResponse>::open(&facade, "CreateSession");
    // What is called later on the same connection is answered: so these have arrived.
    settle(&facade).await;

    let stop = facade.facade.stop(Duration::from_secs(10));
    let script = async {
        let status = late_send.send(wait("s", "late")).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::Draining);
        let status = late_create.send(CreateSessionRequest::default()).await.unwrap_err();
        check(&status, Code::Unavailable, ErrorReason::Draining);
        assert!(retry_info(&status).is_some());
        turn.finish(&["one"]).await;
        assert_eq!(answer(first).await, "one");
        // It was accepted before.
        cli.turn(&["two"]).await;
        assert_eq!(answer(second).await, "two");
    };
    // The stop first, so that it has begun when the late calls come.
    soon("the end", async { tokio::join!(biased; stop, script) }).await;
    assert_eq!(cli.prompts(), ["first", "second"]);
    assert_eq!((cli.count("session.abort"), cli.count("session.create")), (0, 1));
    // With a store that others share, the session has been handed over.
    assert_eq!(Load { known: 1, ..facade.facade.sessions().load() }, Load { known: 1, ..Load::default() });
}

#[tokio::test]
async fn turns_that_outlast_the_grace_period_are_stopped() {
    let (cli, facade) = start().await;
    let first = send(&facade, "first");
    cli.begin().await.delta("so far").await;
    let second = send(&facade, "second");
    queued(&facade, 2).await;
    settle(&facade).await;
    soon("the end", facade.facade.stop(Duration::from_millis(10))).await;
    let status = failure(first).await;
    check_turn(&status, Code::Unavailable, ErrorReason::Draining, DeliveryState::Delivered);
    assert_eq!(failure_of(&status).partial_content, "so far");
    let status = failure(second).await;
    check_turn(&status, Code::Unavailable, ErrorReason::Draining, DeliveryState::NotDelivered);
    assert_eq!((cli.count("session.abort"), cli.prompts()), (1, vec!["first".to_owned()]));
    // With a store that others share, the session has been handed over.
    assert_eq!(Load { known: 1, ..facade.facade.sessions().load() }, Load { known: 1, ..Load::default() });
}
