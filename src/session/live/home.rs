//! The CLI that a session is in: for good, unless that CLI leaves the server's set.
//!
//! Its address may have gone because its pod has got another: then the session is looked for among those that there are, and goes
//! on there with all that is known of it here. Only where nothing of it was stored yet, any CLI will do.

use tracing::info;

use super::session::{Session, Stored};
use crate::{
    backend::{self, Backend, BackendId},
    session::catalogue::find,
};

impl Session {
    /// The CLI that it is in, be it still one of the server's or not.
    pub(in crate::session) fn backend(&self) -> Backend {
        self.home.lock().clone()
    }

    /// Whether it is in this CLI.
    pub(in crate::session) fn is_in(&self, backend: BackendId) -> bool {
        self.home.lock().id() == backend
    }

    /// The CLI that it is in, which is one of the server's.
    ///
    /// # Errors
    /// If its CLI has gone and none of the others that can be asked has it.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(in crate::session) async fn home(&self) -> Result<Backend, backend::Error> {
        let (backend, pool) = (self.backend(), &self.home.pool);
        if pool.has(&backend) {
            return Ok(backend);
        }
        let stored = self.lock().stored;
        let mut found = None;
        if stored > Stored::No {
            found = find(pool, self.key()).await?.map(|found| found.backend);
        }
        if found.is_none() && stored < Stored::Yes {
            found = Some(pool.for_new(self.cli_id())?);
        }
        let found = found.ok_or_else(|| backend::Error::Unavailable {
            problem: format!("{}, which has the session, has left, and no other has it", backend.name()),
        })?;
        let mut home = self.home.lock();
        // Another call may have been faster.
        if home.id() == backend.id() {
            info!(session = %self.id(), from = backend.name(), to = found.name(), "a session has another CLI");
            *home = found;
        }
        Ok(home.clone())
    }
}
