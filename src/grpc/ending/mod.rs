//! Ends calls that nothing else ends in time: at their callers' deadlines, and when the server stops.
//!
//! This is the one place that does so for all methods of all services. A method that can say more at its caller's deadline, as
//! those of turns do, answers a moment earlier; a call that has no answer by then is dropped here, and answered. tonic's own
//! timeout, which has no details, always comes later: it waits for the whole time in the header, and is polled after this.
//!
//! Tests: `ending/tests.rs`, `tests/integration/deadlines.rs`.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body, server::NamedService as _};
use tower::{Layer, Service};

use super::{deadline::patience, pb::server::copilot_service_server::CopilotServiceServer, service, status};
use crate::session::Delivery;

/// A deadline that is closer than this counts as passed: nothing can be done before it.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The layer that ends calls in time.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// Cancelled when the server stops.
    pub(super) closing: CancellationToken,
}

impl<S> Layer<S> for Ending {
    type Service = Ended<S>;

    fn layer(&self, inner: S) -> Ended<S> {
        Ended { inner, closing: self.closing.clone() }
    }
}

/// A service whose calls end in time.
#[derive(Debug, Clone)]
pub(super) struct Ended<S> {
    inner: S,
    closing: CancellationToken,
}

impl<S> Service<Request<Body>> for Ended<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = Kind::of(request.uri().path());
        let timer = patience(request.headers()).map(|patience| Timer::after(patience.for_any_answer()));
        if let Some(timer) = &timer
            && timer.after < AT_ONCE
        {
            let status = kind.timed_out(timer.after, Delivery::NotDelivered);
            return ready(Ok(status.into_http())).boxed();
        }
        // The contract's own calls end by themselves when the server stops, and some of them later: turns may finish.
        let closing = (kind == Kind::Foreign).then(|| self.closing.clone());
        finish(self.inner.call(request), kind, timer, closing).boxed()
    }
}

/// The response to a call, if it comes in time, or else a timeout. The body of the response ends in time, too.
async fn finish<E>(
    call: impl Future<Output = Result<Response<Body>, E>>,
    kind: Kind,
    mut timer: Option<Timer>,
    closing: Option<CancellationToken>,
) -> Result<Response<Body>, E> {
    let deadline = poll_fn(|cx| match &mut timer {
        Some(timer) => timer.poll(cx),
        None => Poll::Pending,
    });
    let response = tokio::select! {
        // The response first: what is done counts, also at the last moment.
        biased;
        response = call => response?,
        after = deadline => return Ok(kind.timed_out(after, Delivery::Unknown).into_http()),
    };
    if timer.is_none() && closing.is_none() {
        return Ok(response);
    }
    let closing = closing.map(|closing| Box::pin(closing.cancelled_owned()));
    Ok(response.map(|body| Body::new(EndedBody { body: Some(body), kind, timer, closing })))
}

/// The kind of a call, which decides how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A call for one turn: its failure says how far the turn came.
    Turn,
    /// A call of another method of the contract.
    Other,
    /// A call of health or reflection.
    Foreign,
}

impl Kind {
    fn of(path: &str) -> Self {
        let ours = CopilotServiceServer::<service::Service>::NAME;
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((service, "SendAndWait" | "SendAndStream")) if service == ours => Self::Turn,
            Some((service, _)) if service == ours => Self::Other,
            _ => Self::Foreign,
        }
    }

    fn timed_out(self, after: Duration, delivery: Delivery) -> Status {
        match self {
            Self::Turn => status::turn_timed_out(after, delivery),
            Self::Other | Self::Foreign => status::timed_out(after),
        }
    }
}

/// The timer of a caller's deadline.
#[derive(Debug)]
struct Timer {
    after: Duration,
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    fn after(after: Duration) -> Self {
        // More than a year is taken as a year.
        let at = Instant::now() + after.min(Duration::from_secs(365 * 24 * 3600));
        Self { after, at, sleep: Box::pin(sleep_until(at)) }
    }

    /// Resolves at the deadline. It reads the clock, too: timers are a millisecond late, and tonic's, for the same millisecond,
    /// might come first.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let passed = self.sleep.as_mut().poll(cx).is_ready() || Instant::now() >= self.at;
        if passed { Poll::Ready(self.after) } else { Poll::Pending }
    }
}

/// The body of a response, which ends in time.
struct EndedBody {
    /// The inner body, until it has ended.
    body: Option<Body>,
    kind: Kind,
    timer: Option<Timer>,
    /// Resolves when the server stops, for calls that do not end by themselves then.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl EndedBody {
    /// Resolves when the body is to be cut off, with the status for its caller.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(timer) = &mut self.timer
            && let Poll::Ready(after) = timer.poll(cx)
        {
            return Poll::Ready(self.kind.timed_out(after, Delivery::Unknown));
        }
        match &mut self.closing {
            Some(closing) => closing.as_mut().poll(cx).map(|()| status::closing()),
            None => Poll::Pending,
        }
    }
}

impl http_body::Body for EndedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        // What there is comes first.
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.poll_end(cx).map(|status| {
            self.body = None;
            let mut trailers = HeaderMap::new();
            Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }
}

#[cfg(test)]
mod tests;
