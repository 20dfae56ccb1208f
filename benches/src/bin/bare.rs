//! The ceiling: a tonic server with nothing behind it, which streams the messages of a turn from memory. Prints its port.
//!
//! It takes the calls of `load` and plays what the prompt says, as the stand-in does: so many times the same message, as the service
//! would send it. Where they are paced, each tells the time.

use std::{convert::Infallible, io::Write as _, pin::Pin, task::Poll, time::Duration};

use copilot_grpc::grpc::pb::{
    AssistantMessageDelta, SendAndStreamRequest, SendAndStreamResponse, SessionEvent, TurnResult,
    send_and_stream_response::Payload, session_event,
};
use copilot_grpc_bench::clock;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{net::TcpListener, time::sleep};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(Bare).serve_with_incoming(incoming).await?;
    Ok(())
}

#[derive(Clone)]
struct Bare;

impl NamedService for Bare {
    const NAME: &'static str = "copilot_grpc.v1.CopilotService";
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let codec = ProstCodec::<SendAndStreamResponse, SendAndStreamRequest>::default();
            Ok(Grpc::new(codec).server_streaming(SendAndStream, request).await)
        })
    }
}

struct SendAndStream;

impl ServerStreamingService<SendAndStreamRequest> for SendAndStream {
    type Response = SendAndStreamResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<SendAndStreamResponse, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<SendAndStreamRequest>) -> Self::Future {
        let prompt = request.into_inner().prompt.unwrap_or_default().text;
        let number = |name: &str, usual| {
            let mut words = prompt.split_ascii_whitespace();
            let number = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
            number.unwrap_or(usual)
        };
        let (deltas, size, pace) = (number("deltas", 5), number("size", 24), number("pace", 0));
        let message = move |text| SendAndStreamResponse { payload: Some(Payload::Event(delta(text))) };
        let result = |content| {
            let result = TurnResult { content, ..Default::default() };
            Ok(SendAndStreamResponse { payload: Some(Payload::Result(result)) })
        };
        let messages: Self::ResponseStream = if pace == 0 {
            let delta = message("0".repeat(size));
            Box::pin(stream::iter((0..deltas).map(move |_| Ok(delta.clone())).chain([result("0 0".into())])))
        } else {
            let received = clock::now();
            let paced = stream::iter(0..deltas).then(move |_| async move {
                sleep(Duration::from_micros(pace as u64)).await;
                Ok(message(format!("{:<size$}", clock::now())))
            });
            let end = stream::once(async move { result(format!("{received} {}", clock::now())) });
            Box::pin(paced.chain(end))
        };
        Box::pin(async { Ok(Response::new(messages)) })
    }
}

/// A delta with all that the service tells of one.
fn delta(text: String) -> SessionEvent {
    let message_id = "daeb65ab-2804-41d6-bbd2-000000000001".into();
    let delta = AssistantMessageDelta { message_id, text };
    SessionEvent {
        event_id: "d9695f66-0d1a-4dd4-9b38-000000000001".into(),
        event_time: Some(prost_types::Timestamp { seconds: 1_795_798_504, nanos: 400_000_000 }),
        ephemeral: true,
        cursor: "MSBiZW5jaC0wIDE4ODc0YzA1Ni0zOGY4LTQ2MTgtOGRkMi0wMDAwMDAwMDAwMDE".into(),
        payload: Some(session_event::Payload::AssistantMessageDelta(delta)),
        ..Default::default()
    }
}
