//! The sink: where everything goes that a CLI sends by itself.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tracing::{debug, warn};

use super::link::{Link, LinkId};
use crate::{
    copilot::event,
    jsonrpc::{self, Cause},
};

/// Takes what a CLI sends by itself. The methods are called in wire order, on the task that reads the connection: they must not
/// block.
pub trait Sink: Send + Sync + 'static {
    /// Takes the unchecked parameters of `session.event`. False: they make no sense.
    fn session_event(&self, params: &[u8]) -> bool;
    /// Reports an event larger than the limit that was dropped: nothing but a caller who asked for its kind needs it.
    fn event_dropped(&self, session_id: &str, kind: &str);
    /// Number of sessions attached to links of this CLI.
    fn loaded(&self) -> usize;
    /// Reports that a session was deleted, by whomever.
    fn session_deleted(&self, session_id: &str);
    /// Detaches sessions from a link whose CLI was replaced by another one on the same home, except those in use. Returns
    /// whether all have left; after that this CLI writes nothing to the home.
    fn let_go<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, bool>;
    /// Reports that the link is lost: none of its sessions is attached any more. Comes after its last event.
    fn link_lost(&self, link: LinkId, cause: &Arc<Cause>);
    /// Reports that there is a keeper link to which sessions can be attached.
    fn keeper_up(&self);
    /// Reports that the keeper link is lost.
    fn keeper_lost(&self, link: LinkId);
}

/// The handler of a link: passes on to the sink what the CLI sends.
pub(super) struct Listener {
    pub(super) sink: Arc<dyn Sink>,
}

impl jsonrpc::Handler for Listener {
    fn skimmed(&mut self, method: &[u8], params: &[u8]) -> bool {
        match method {
            b"session.event" => self.sink.session_event(params),
            b"session.lifecycle" => event::is_no_deletion(params),
            _ => false,
        }
    }

    fn notification(&mut self, method: &str, params: Bytes) {
        match method {
            "session.event" if self.sink.session_event(&params) => {}
            "session.event" => warn!("the CLI sent an event that makes no sense"),
            "session.lifecycle" => {
                if let Ok(event::Lifecycle { kind, session_id }) = serde_json::from_slice(&params)
                    && kind == "session.deleted"
                {
                    self.sink.session_deleted(&session_id);
                }
            }
            // Newer CLIs send more, such as `host.event`; nothing depends on it.
            _ => {}
        }
    }

    fn request(&mut self, method: &str, _params: Bytes, reply: jsonrpc::Reply) {
        // None of what the CLI may ask for is switched on in a session, so a refusal is right: the agent is told that nobody
        // could answer, and goes on.
        debug!(method, "the CLI asked for something that is not supported");
        drop(reply);
    }

    fn may_drop_oversized(&mut self, method: &str, head: &[u8]) -> bool {
        if method == "session.event" {
            let Some((session_id, kind)) = event::peek_head(head) else { return false };
            // Without one of these a turn would go wrong, or wait for ever.
            if event::is_needed(kind) || kind.ends_with(".requested") {
                return false;
            }
            self.sink.event_dropped(session_id, kind);
        }
        warn!(method, "dropped a message of the CLI that is larger than max_frame_size");
        true
    }
}
