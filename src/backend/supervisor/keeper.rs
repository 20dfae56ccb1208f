//! The second link to a CLI that somebody else runs.

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

/// How long the CLI may owe a sign of life on the keeper link. Longer than it takes to give the main link up and to shake hands anew, or in vain: as long as the
/// keeper link is there, a CLI that was frozen goes on with its turns.
const KEEPER_PATIENCE: Duration = Duration::from_secs(30);

/// How long what is told on the keeper link may wait: all events come on it too, and are dropped. The CLI has to buffer nothing
/// for it: 17 MB/s, the most that it was seen to write, is less in that time than the kernel takes.
const KEEPER_READ_PAUSE: Duration = Duration::from_millis(10);

/// The pause before the keeper link is tried again: nothing runs on it.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);

impl Connect<'_> {
    /// Keeps a second link. What is told on it is told on the main one.
    pub(super) async fn keep_keeper(&self, address: &Address<'_>) -> Infallible {
        let mut state = self.status.state.subscribe();
        loop {
            // It fails when nobody asks any more; then this is dropped.
            let _ = state.wait_for(|state| matches!(state, State::Ready(_))).await;
            match self.open(address, Arc::new(Deaf), KEEPER_READ_PAUSE).await {
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

/// A keeper link that is up.
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

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
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
