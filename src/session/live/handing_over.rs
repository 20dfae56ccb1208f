//! How a session leaves this server for another one: handed over at rest, or given up because it is not this server's any more.

use std::sync::Arc;

use tracing::{debug, warn};

use super::session::Session;
use crate::{session::error::Error, store};

impl Session {
    /// Lets the session go, if nothing runs or waits in it, so that any server may take it: the CLI closes it, what is new of it goes
    /// into the store, and who still has it here is told that it has moved. One that somebody reads stays, unless `also_read`.
    /// Says whether it has left.
    ///
    /// # Errors
    /// If the store cannot have it all. Then it stays.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session let go or not.
    pub(in crate::session) async fn hand_over(self: &Arc<Self>, also_read: bool) -> Result<bool, Error> {
        // Nothing begins in it from here on; what waits for its place is told when it has left.
        let Some(_place) = self.try_place() else { return Ok(false) };
        if !also_read && self.is_used_otherwise() {
            return Ok(false);
        }
        let update_time = self.lock().update_time;
        self.unload().await?;
        // That it was closed is no change of it.
        self.lock().update_time = update_time;
        self.save_with_requests().await?;
        let Some(ownership) = self.ownership() else { return Ok(false) };
        match self.means.store.let_go(ownership).await {
            Ok(()) | Err(store::Error::Fenced) => {}
            Err(error) => return Err(error.into()),
        }
        self.has_gone_elsewhere();
        Ok(true)
    }

    /// Whether somebody reads it, is asked something in it, or has something running in it beside us.
    fn is_used_otherwise(&self) -> bool {
        let state = self.lock();
        state.hub.watchers() > 0 || state.asks.is_waiting() || state.runs_for_others()
    }

    /// Stops all that goes on in it, because it may be another server's by now, and has the CLI close it.
    pub(in crate::session) async fn give_up_to_another(self: &Arc<Self>) {
        self.has_gone_elsewhere();
        let Some(link) = self.reachable() else { return };
        if let Err(error) = self.stop_and_close(&link).await {
            warn!(session = %self.id(), %error, "a session that is not this server's any more could not be closed");
        }
        self.unloaded();
        debug!(session = %self.id(), "a session is not this server's any more");
    }
}
