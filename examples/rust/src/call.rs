//! What other gRPC libraries do by themselves and tonic does not: deadlines that hold on this side, too, and retries.

use std::{error::Error as _, iter, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Response, Status};

/// As in examples/service-config.json.
const MAX_ATTEMPTS: u32 = 5;
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// A call that ends by its deadline. The server is told of it and answers a little earlier, with details; only if nothing
/// comes is the call given up here.
pub async fn by<M: Clone, R>(
    deadline: Instant,
    message: M,
    mut call: impl AsyncFnMut(Request<M>) -> Result<Response<R>, Status>,
) -> Result<R, Status> {
    let mut is_again = false;
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        match timeout_at(deadline, call(request)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Err(_) => return Err(late()),
            // tonic has a timer of its own, and calls its end CANCELLED.
            Ok(Err(status)) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                return Err(late());
            }
            Ok(Err(status)) if !is_again && is_unsent(&status) => is_again = true,
            Ok(Err(status)) => return Err(status),
        }
    }
}

/// Whether a call met a connection that the server had just closed for its age (GOAWAY). The next one goes over another.
fn is_unsent(status: &Status) -> bool {
    let mut causes = iter::successors(status.source(), |&cause| cause.source());
    let is_refused = |error: &h2::Error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    // What the server itself says has no cause.
    status.source().is_some() && status.code() == Code::Cancelled
        || causes.any(|cause| cause.downcast_ref().is_some_and(is_refused))
}

pub fn late() -> Status {
    Status::deadline_exceeded("the server did not answer in time")
}

/// Makes a call again that was refused before it had begun. Of a stream, this is before its headers: with them, `call` has
/// ended, and what fails later is never repeated.
pub async fn retrying<R>(
    deadline: Instant,
    mut call: impl AsyncFnMut() -> Result<R, Status>,
) -> Result<R, Status> {
    let mut backoff = INITIAL_BACKOFF;
    for _ in 1..MAX_ATTEMPTS {
        let refused = match call().await {
            Err(status) => status,
            done => return done,
        };
        match pause(&refused, backoff) {
            Some(pause) if Instant::now() + pause < deadline => sleep(pause).await,
            _ => return Err(refused),
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
    call().await
}

/// How long to wait before the next try. None: there must be no other, or it would not help.
fn pause(refused: &Status, backoff: Duration) -> Option<Duration> {
    if !matches!(refused.code(), Code::Unavailable | Code::ResourceExhausted) {
        return None;
    }
    match refused.metadata().get("grpc-retry-pushback-ms") {
        // -1, or what is no number: not again.
        Some(time) => Some(Duration::from_millis(time.to_str().ok()?.parse().ok()?)),
        None => Some(crate::error::Details::of(refused).retry_after.unwrap_or(backoff)),
    }
}
