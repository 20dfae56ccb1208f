//! Where answers are checked with schemas: on threads of their own, a few at a time.
//!
//! A check is bounded, but 100 ms would be long for the tasks that share a thread with it, let alone under a session's lock,
//! and it needs more stack than they have.

use std::thread;

use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use crate::copilot::{Schema, schema::Unfit};

/// How many checks run at once. Others wait, and with a hundred milliseconds each at most not for long.
const AT_ONCE: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Runs a check.
///
/// # Cancel safety
/// Dropping it leaves a check that has begun to end by itself.
pub(in crate::session) async fn run<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, Unfit> + Send + 'static,
) -> Result<T, Unfit> {
    // It is never closed.
    let Ok(place) = PLACES.acquire().await else { return Err(Unfit::TooMuchWork) };
    let (told, checked) = oneshot::channel();
    let thread = thread::Builder::new().name("schema".into()).stack_size(Schema::STACK).spawn(move || {
        // It fails if nobody waits any more.
        let _ = told.send(check());
        drop(place);
    });
    if let Err(error) = thread {
        warn!(%error, "there is no thread to check an answer on");
    }
    checked.await.unwrap_or(Err(Unfit::TooMuchWork))
}
