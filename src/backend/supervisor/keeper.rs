//! The keeper link: the second link to an external CLI.
//!
//! Tests: `tests/integration/links.rs`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tracing::debug;

use super::{Address, Connect, silence};
use crate::{
    backend::{
        link::{Link, LinkId},
        sink::Sink,
        state::State,
    },
    jsonrpc::Cause,
    lock::lock,
};

/// How long the keeper link may be silent. Longer than it takes to give up the main link and to shake hands again, with success
/// or without: as long as the keeper link is there, a CLI that was frozen goes on with its turns.
const KEEPER_PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait between reads. All events come on the keeper link, too, and are dropped. The CLI does not have to buffer
/// them: the most that it was seen to write, 17 MB/s, is less in that time than the kernel takes.
const KEEPER_READ_PAUSE: Duration = Duration::from_millis(10);

/// The pause before the keeper link is tried again: nothing runs on it.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);

impl Connect<'_> {
    /// Keeps the keeper link, which carries nothing that the main link does not carry.
    pub(super) async fn keep_keeper(&self, address: &Address<'_>) -> Infallible {
        let mut state = self.status.state.subscribe();
        loop {
            // It fails when nobody watches the state any more; then this future is dropped.
            let _ = state.wait_for(|state| matches!(state, State::Ready(_))).await;
            match self.open(address, Arc::new(NoSink), KEEPER_READ_PAUSE).await {
                Ok(Some(link)) => {
                    let kept = Kept { connect: self, link: link.clone() };
                    *lock(&self.status.shared.keeper) = Some(link.clone());
                    self.sink.keeper_up();
                    tokio::select! {
                        _ = link.closed() => {}
                        () = silence(&link, KEEPER_PATIENCE) => {}
                    }
                    drop(kept);
                }
                Ok(None) => return std::future::pending().await,
                Err(error) => debug!(backend = self.config.name, %error, "there is no keeper link"),
            }
            sleep(KEEPER_PAUSE).await;
        }
    }
}

/// The keeper link while it is up. Dropping it closes the link and reports the loss.
struct Kept<'a> {
    connect: &'a Connect<'a>,
    link: Arc<Link>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.link.close();
        *lock(&self.connect.status.shared.keeper) = None;
        self.connect.sink.keeper_lost(self.link.id());
    }
}

/// A sink that drops everything.
struct NoSink;

impl Sink for NoSink {
    fn session_event(&self, _: &[u8]) -> bool {
        true
    }
    fn event_dropped(&self, _: &str, _: &str) {}
    fn loaded(&self) -> usize {
        0
    }
    fn session_deleted(&self, _: &str) {}
    fn let_go<'a>(&'a self, _: &'a Link) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
    fn link_lost(&self, _: LinkId, _: &Arc<Cause>) {}
    fn keeper_up(&self) {}
    fn keeper_lost(&self, _: LinkId) {}
}
