//! Calls that end in time, on Tokio's paused clock.

use std::future::pending;

use futures_util::future::poll_fn;
use http_body::Body as _;
use prost::Message as _;
use tonic::Code;
use tonic_types::pb as rpc;
use tower::{ServiceExt as _, service_fn};

use super::*;

const WAIT: &str = "/copilot_grpc.v1.CopilotService/SendAndWait";
const STREAM: &str = "/copilot_grpc.v1.CopilotService/SendAndStream";
const GET: &str = "/copilot_grpc.v1.CopilotService/GetSession";
const WATCH: &str = "/copilot_grpc.v1.CopilotService/WatchSession";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";

fn request(path: &str, timeout: &str) -> Request<Body> {
    let request = Request::builder().uri(format!("http://x{path}"));
    let request = if timeout.is_empty() { request } else { request.header("grpc-timeout", timeout) };
    request.body(Body::empty()).unwrap()
}

/// The answer of a service that never answers by itself, and after how long it comes.
async fn unanswered(path: &str, timeout: &str) -> (Status, Duration) {
    let never = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    let service = Ending { closing: CancellationToken::new() }.layer(never);
    let start = Instant::now();
    let response = service.oneshot(request(path, timeout)).await.unwrap();
    (Status::from_header_map(response.headers()).unwrap(), start.elapsed())
}

fn has(status: &Status, detail: &str) -> bool {
    let details = rpc::Status::decode(status.details()).unwrap().details;
    details.iter().any(|any| any.type_url == format!("type.googleapis.com/{detail}"))
}

/// A body that gives one frame, and then nothing more.
struct Stuck(Option<Bytes>);

impl http_body::Body for Stuck {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

/// The end of a stream that does not end by itself.
async fn end_of_stream(path: &str, timeout: &str, closing: &CancellationToken) -> Option<Status> {
    let stream = service_fn(|_: Request<Body>| {
        ready(Ok::<_, Infallible>(Response::new(Body::new(Stuck(Some(Bytes::from_static(b"x")))))))
    });
    let service = Ending { closing: closing.clone() }.layer(stream);
    let mut body = Box::pin(service.oneshot(request(path, timeout)).await.unwrap().into_body());
    let first = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "x");
    let last = tokio::time::timeout(Duration::from_secs(7200), poll_fn(|cx| body.as_mut().poll_frame(cx)));
    let trailers = last.await.ok()?.unwrap().unwrap().into_trailers().unwrap();
    assert!(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none(), "something came after the end");
    Status::from_header_map(&trailers)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_to_nothing_is_answered_with_details_before_its_deadline() {
    for (path, timeout, deadline) in [
        (WAIT, "151m", 0.15),
        (STREAM, "1010m", 1.0),
        (GET, "9S", 9.0),
        (WATCH, "12100m", 12.0),
        (GET, "111S", 110.0),
        (WAIT, "291S", 290.0),
        (GET, "1810S", 1800.0),
        (HEALTH, "1S", 1.0),
        ("/no.such.Service/Method", "1S", 1.0),
        (GET, "+1S", 1.0),
    ] {
        let (status, after) = unanswered(path, timeout).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{path} {timeout}");
        assert!(has(&status, "google.rpc.ErrorInfo"), "{path} {timeout}: {status:?}");
        assert_eq!(has(&status, "copilot_grpc.v1.TurnFailure"), [WAIT, STREAM].contains(&path), "{path}");
        assert!(after.as_secs_f64() < deadline, "{path} {timeout}: {after:?}");
        assert!(after.as_secs_f64() > deadline * 0.8, "{path} {timeout}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_answered_at_once_and_nothing_is_begun() {
    for timeout in ["0S", "0n", "1n", "0m", "0H", "500u"] {
        let (status, after) = unanswered(WAIT, timeout).await;
        assert_eq!((status.code(), after), (Code::DeadlineExceeded, Duration::ZERO), "{timeout}");
        assert!(
            has(&status, "google.rpc.ErrorInfo") && has(&status, "copilot_grpc.v1.TurnFailure"),
            "{timeout}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_with_details() {
    let closing = CancellationToken::new();
    for path in [WATCH, HEALTH, STREAM] {
        let status = end_of_stream(path, "2S", &closing).await.unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{path}");
        assert!(has(&status, "google.rpc.ErrorInfo"), "{path}");
        assert_eq!(has(&status, "copilot_grpc.v1.TurnFailure"), path == STREAM);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_health_is_told_when_the_server_goes_and_our_own_streams_end_by_themselves() {
    let closing = CancellationToken::new();
    closing.cancel();
    let status = end_of_stream(HEALTH, "", &closing).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(has(&status, "google.rpc.ErrorInfo"), "{status:?}");
    assert!(end_of_stream(WATCH, "", &closing).await.is_none(), "it went on");
}
