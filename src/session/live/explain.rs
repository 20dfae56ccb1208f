//! What it means that the CLI refuses something about a session: mostly that the session was deleted meanwhile, by whomever.
//!
//! A call may meet a deletion at any moment, and the CLI complains of that in many ways (observed). So it is not its words that
//! decide, but whether the session is still there.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::session::{Session, Stored};
use crate::{
    backend,
    copilot::{AgentFailure, Rejection},
    session::{
        error::Error,
        turn::{TurnCause, UNLOADED},
    },
};

/// How long after the closing of a session its deletion is told, at most. It takes milliseconds.
const NEWS: Duration = Duration::from_millis(500);

/// How often it is looked for in that time.
const LOOKS: u32 = 5;

impl Session {
    /// Why a turn has failed that the CLI refuses: mostly because the session is deleted.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(in crate::session) async fn explain(&self, cause: TurnCause) -> TurnCause {
        let TurnCause::Backend(backend::Error::Rejected(rejection)) = &cause else { return cause };
        // What the CLI has no good words for may be a deletion that has only begun, of a session that was just being loaded.
        let is_odd = matches!(rejection, Rejection::Internal(_));
        if self.is_gone().await
            || (is_odd && self.was_closed_by_a_deletion().await)
            || self.gone().is_cancelled()
        {
            return self.why_gone();
        }
        cause
    }

    /// Why a turn has ended whose session the CLI has closed. A CLI may close what it deletes before it says so (seen on the native
    /// runtime), so that news is waited for for a moment.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(in crate::session) async fn why_closed(&self) -> TurnCause {
        // A deletion of ours comes to its end first.
        drop(self.loading.lock().await);
        match timeout(NEWS, self.gone().cancelled()).await {
            Ok(()) => self.why_gone(),
            Err(_) => TurnCause::Interrupted(UNLOADED.into()),
        }
    }

    /// Whether it is deleted. A deletion that is under way comes to its end first.
    pub(in crate::session) async fn is_gone(&self) -> bool {
        drop(self.loading.lock().await);
        self.gone().is_cancelled() || self.is_gone_from_cli().await
    }

    /// Whether another client has deleted it, where the CLI has closed it and we have not asked for that. The CLI may do so
    /// before it has deleted it, so it is looked for several times. One that was never stored may only have been closed.
    pub(in crate::session) async fn was_closed_by_a_deletion(&self) -> bool {
        for _ in 0..LOOKS {
            if self.lock().stored < Stored::Yes || self.gone().is_cancelled() {
                return false;
            }
            if let Ok(link) = self.backend().link()
                && self.is_gone_from(&link).await
            {
                return true;
            }
            sleep(NEWS / LOOKS).await;
        }
        false
    }

    /// Why the model refused, in the provider's words where the CLI has none. Retries that were of no use it reports without
    /// their reason, where they were not for a turn (observed).
    pub(in crate::session) fn tell(&self, failure: AgentFailure) -> Error {
        let failure = match self.lock().call_failed.take() {
            Some(last) => failure.in_words_of(*last),
            None => failure,
        };
        self.redacted(backend::Error::Rejected(Rejection::Agent(failure))).into()
    }
}
