//! The ceiling: a tonic server with nothing behind it, which streams the messages of a turn from memory. Prints its port.
//!
//! It takes the calls of `load` and plays what the prompt says, as the stand-in does (all but the pace): so many times the
//! same message, as the service would send it.

use std::{convert::Infallible, io::Write as _, pin::Pin, task::Poll};

use copilot_grpc::grpc::pb::{
    AssistantMessageDelta, SendAndStreamRequest, SendAndStreamResponse, SessionEvent, TurnResult,
    send_and_stream_response::Payload, session_event,
};
use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let server = Server::builder().tcp_nodelay(true).add_service(Bare);
    server.serve_with_incoming(TcpListenerStream::new(listener)).await?;
    Ok(())
}

#[derive(Clone)]
struct Bare;

impl NamedService for Bare {
    const NAME: &'static str = "copilot.v1.CopilotService";
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
        let prompt = request.into_inner().prompt;
        let number = |name: &str, usual| {
            let mut words = prompt.split_ascii_whitespace();
            let number = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
            number.unwrap_or(usual)
        };
        let (deltas, size) = (number("deltas", 5), number("size", 24));
        let delta = SendAndStreamResponse { payload: Some(Payload::Event(delta("0".repeat(size)))) };
        let result = TurnResult { content: "0 0".into(), ..Default::default() };
        let result = SendAndStreamResponse { payload: Some(Payload::Result(result)) };
        let messages = stream::iter((0..deltas).map(move |_| Ok(delta.clone())).chain([Ok(result)]));
        Box::pin(async { Ok(Response::new(Box::pin(messages) as Self::ResponseStream)) })
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
