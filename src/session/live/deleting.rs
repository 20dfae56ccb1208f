//! How a session is deleted: from the CLI that has it, or from the home of one that is down.

use std::time::Duration;

use tokio::time::sleep;

use super::{home::OWN_CLI_WAIT, session::Session};
use crate::{
    backend::{self, Link},
    copilot::{Method as _, Rejection, method::Delete},
    session::error::Error,
};

impl Session {
    /// Deletes it from the CLI that has it, or from its home while that CLI is down. Not while a link is attached to it: the CLI
    /// 1.0.102 then answers neither, and never (observed). What another server attaches at that moment cannot be known; then
    /// this ends with the limit.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session deleted or not.
    pub(in crate::session) async fn delete(&self) -> Result<(), Error> {
        let _loading = self.loading.lock().await;
        // Where it is loaded, be that a CLI that is replaced: it would write it once more.
        match self.reachable() {
            Some(link) => delete_from_cli(&link, self.cli_id()).await?,
            None => self.delete_unloaded().await?,
        }
        // While nobody can load it: what waits to do so would make it anew.
        self.gone().cancel();
        Ok(())
    }

    async fn delete_unloaded(&self) -> Result<(), Error> {
        let backend = if self.is_astray() { self.home().await? } else { self.backend() };
        match backend.connected_within(OWN_CLI_WAIT).await {
            Ok(link) => Ok(delete_from_cli(&link, self.cli_id()).await?),
            // What nothing is stored of, or not here, is nowhere else.
            Err(_) if self.has_nothing_in(&backend) => Ok(()),
            Err(_) if self.folder().is_some() => self.remove_folder().await,
            Err(_) => Ok(delete_from_cli(&*backend.connected().await?, self.cli_id()).await?),
        }
    }
}

/// Deletes a session, or gives up: when a deletion meets a `session.resume` of another connection, the CLI 1.0.102 answers
/// neither, nor anything else about the session that changes it, until it is restarted (observed). Otherwise it takes 50 ms.
async fn delete_from_cli(link: &Link, session_id: &str) -> Result<(), backend::Error> {
    let mut tries = 0..DELETE_TRIES;
    let deleted = loop {
        tries.next();
        match link.call_within(DELETE_LIMIT, &Delete { session_id }).await {
            Err(backend::Error::Rejected(rejection)) if rejection.is_half_deleted() && !tries.is_empty() => {
                sleep(DELETE_PAUSE).await;
            }
            deleted => break deleted?,
        }
    };
    if deleted.success {
        return Ok(());
    }
    // A failure inside a success. That there was nothing to delete is as good as a deletion.
    match Rejection::new(Delete::NAME, 0, &deleted.error.unwrap_or_default()) {
        Rejection::SessionNotFound => Ok(()),
        failure => Err(backend::Error::Rejected(failure)),
    }
}

/// How often the rest of a session is deleted that was written to meanwhile, and the pause between.
const DELETE_TRIES: u32 = 3;

/// See [`DELETE_TRIES`].
const DELETE_PAUSE: Duration = Duration::from_millis(100);

/// See [`delete_from_cli`].
const DELETE_LIMIT: Duration = Duration::from_secs(10);
