//! What the CLI has to do for a session, and how it is stopped: all of what is ours, and nothing else.
//!
//! A turn's prompt waits in the CLI's queue until the agent takes it up. While it waits it is withdrawn; then it never runs. From
//! then on the agent is stopped by `session.abort`, which stops whatever runs in the session, whoever sent it (cli-protocol.md,
//! section 15): so it is called where our turn is what runs, or where a caller asks for just that.

use std::time::Duration;

use tracing::{debug, warn};

use super::session::Session;
use crate::{
    backend::{self, Backend, Link},
    copilot::{
        Rejection,
        method::{Abort, Detach, IsProcessing, Processing},
        withdraw::{AbortCompaction, Aborted, Item, Pending, PendingItems, RemoveQueued, Removed},
    },
    session::error::Error,
};

/// How long small calls to the CLI may take; it answers them within milliseconds.
pub(in crate::session) const SMALL_CALL: Duration = Duration::from_secs(10);

/// How long an agent, or a compaction, may take to stop. It takes 50 ms; one that reads a file which never ends does not stop at all (observed).
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Whether an agent has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Stopped {
    /// The CLI says so, or could not be asked.
    Answered,
    /// The CLI does not answer to that, although it answers to other things.
    Stuck,
}

impl Session {
    /// Whether the CLI has something to do for the turn that has the session: its prompt waits, or the session is busy. The queue
    /// is asked first, because a prompt goes from there to work and not back.
    pub(in crate::session) async fn is_at_work(&self, link: &Link) -> Result<bool, backend::Error> {
        if let Some(message) = self.queued_message()
            && self.queue_item(link, &message).await?.is_some()
        {
            return Ok(true);
        }
        let question = IsProcessing { session_id: self.cli_id() };
        let Processing { processing } = self.call_within(SMALL_CALL, link, &question).await?;
        Ok(processing)
    }

    /// Takes the prompt of the turn that has the session back from the CLI's queue. True: it will never run. False: it does not
    /// wait there, or not any more.
    ///
    /// # Cancel safety
    /// Dropping it may leave the prompt in the queue or not.
    pub(in crate::session) async fn withdraw(&self, link: &Link) -> Result<bool, backend::Error> {
        let Some(message) = self.queued_message() else { return Ok(false) };
        let Some(Item { id, .. }) = self.queue_item(link, &message).await? else { return Ok(false) };
        let remove = RemoveQueued { session_id: self.cli_id(), id: &id };
        let Removed { removed } = self.call_within(SMALL_CALL, link, &remove).await?;
        Ok(removed)
    }

    /// What stands for a message in the CLI's queue.
    async fn queue_item(&self, link: &Link, message_id: &str) -> Result<Option<Item>, backend::Error> {
        match self.call_within(SMALL_CALL, link, &PendingItems { session_id: self.cli_id() }).await {
            Ok(Pending { items }) => {
                Ok(items.into_iter().find(|item| item.message_id.as_deref() == Some(message_id)))
            }
            // An older CLI: what waits in it cannot be told from what runs.
            Err(backend::Error::Rejected(Rejection::MethodMissing(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stops the agent.
    pub(in crate::session) async fn stop_agent(&self, link: &Link) -> Stopped {
        let abort = Abort { session_id: self.cli_id() };
        match self.call_within(STOP_LIMIT, link, &abort).await {
            Ok(_) => Stopped::Answered,
            Err(backend::Error::Timeout { .. }) if self.answers(link).await => Stopped::Stuck,
            Err(error) => {
                debug!(session = %self.id(), %error, "the agent could not be stopped");
                Stopped::Answered
            }
        }
    }

    /// Whether the CLI answers at all: one that is frozen is not to be asked for anything else.
    async fn answers(&self, link: &Link) -> bool {
        self.call_within(STOP_LIMIT, link, &IsProcessing { session_id: self.cli_id() }).await.is_ok()
    }

    /// Ends the compaction that was asked for, if there is one.
    pub(in crate::session) async fn stop_compaction(&self, link: &Link) -> Result<bool, backend::Error> {
        abort_compaction(link, self.cli_id()).await
    }

    /// Stops the agent, and has the CLI close the session, although it is not ours any more.
    pub(super) async fn stop_and_close(&self, link: &Link) -> Result<(), backend::Error> {
        let session_id = self.cli_id();
        stop_whatever_runs(link, session_id).await?;
        link.call_within(SMALL_CALL, &Detach { session_id }).await.map(|_| ())
    }

    /// Closes the session, because something in it does not obey. It is loaded anew when it is next used.
    pub(in crate::session) async fn close_stuck(&self) {
        warn!(session = %self.id(), "the agent does not stop: the session is closed, and loaded anew when it is next used");
        let closed = tokio::time::timeout(SMALL_CALL, self.unload()).await;
        if !matches!(closed, Ok(Ok(()))) {
            warn!(session = %self.id(), "the session could not be closed");
        }
        self.unloaded();
    }

    /// Finds out whether another client of the CLI has something running in the session. A CLI that cannot be asked leaves it as it
    /// was.
    pub(in crate::session) async fn look_at_others(&self) {
        let Some(link) = self.attached() else { return };
        let Ok(busy) = is_busy(&link, self.cli_id()).await else { return };
        let mut state = self.lock();
        if !busy {
            state.at_work_on = None;
        } else if state.link.is_some() {
            state.at_work_on.get_or_insert_default();
        }
    }

    /// The same where another client has something running, as far as was heard: the end of it may have been missed.
    pub(in crate::session) async fn check_others(&self) {
        if self.lock().runs_for_others() {
            self.look_at_others().await;
        }
    }

    /// Stops what another client of the CLI has running in the session: a turn, or a compaction. `None`: nothing runs. The id is
    /// empty if it is not known.
    pub(in crate::session) async fn stop_others(&self) -> Result<Option<String>, Error> {
        let link = self.home().await?.connected().await?;
        let message = self.lock().at_work_on.clone();
        let stopped = stop_whatever_runs(&link, self.cli_id()).await?;
        Ok(stopped.then(|| message.unwrap_or_default().into()))
    }
}

/// Whether another client of the CLI has something running in a session that we have not loaded. In doubt, or if the CLI is not
/// there, it has not.
pub(in crate::session) async fn runs_for_others(backend: &Backend, session_id: &str) -> bool {
    match backend.link() {
        Ok(link) => is_busy(&link, session_id).await.unwrap_or(false),
        Err(_) => false,
    }
}

/// Stops whatever runs in a session, whoever has begun it. Says whether something did.
pub(in crate::session) async fn stop_whatever_runs(
    link: &Link,
    session_id: &str,
) -> Result<bool, backend::Error> {
    match link.call_within(SMALL_CALL, &IsProcessing { session_id }).await {
        Ok(Processing { processing: true }) => {
            link.call_within(SMALL_CALL, &Abort { session_id }).await?;
            Ok(true)
        }
        Ok(Processing { processing: false }) => abort_compaction(link, session_id).await,
        // It is not loaded, and so nothing runs.
        Err(backend::Error::Rejected(Rejection::SessionNotFound)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a session of this id runs or has something waiting, for whichever client of the CLI.
pub(in crate::session) async fn is_busy(link: &Link, session_id: &str) -> Result<bool, backend::Error> {
    match link.call_within(SMALL_CALL, &IsProcessing { session_id }).await {
        Ok(Processing { processing: true }) => return Ok(true),
        Ok(Processing { processing: false }) => {}
        Err(backend::Error::Rejected(Rejection::SessionNotFound)) => return Ok(false),
        Err(error) => return Err(error),
    }
    match link.call_within(SMALL_CALL, &PendingItems { session_id }).await {
        Ok(Pending { items }) => Ok(!items.is_empty()),
        Err(backend::Error::Rejected(Rejection::MethodMissing(_) | Rejection::SessionNotFound)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn abort_compaction(link: &Link, session_id: &str) -> Result<bool, backend::Error> {
    match link.call_within(STOP_LIMIT, &AbortCompaction { session_id }).await {
        Ok(Aborted { aborted }) => Ok(aborted),
        Err(backend::Error::Rejected(Rejection::MethodMissing(_) | Rejection::SessionNotFound)) => Ok(false),
        Err(error) => Err(error),
    }
}
