//! Sessions that are created unless they exist.

use std::{sync::Arc, time::Duration};

use crate::session::{
    blueprint::Blueprint,
    error::Error,
    id::{SessionId, SessionKey, Tenant},
    idempotency::RequestId,
    sessions::Sessions,
    summary::Summary,
    turn::{Deadline, TurnError},
};

/// How long to wait for a session that another call is creating or about to delete, before looking again.
const MAKING_PAUSE: Duration = Duration::from_millis(50);

impl Sessions {
    /// Creates a session, or loads the one that there is, with these credentials. Says whether there was one.
    ///
    /// # Cancel safety
    /// As of [`Self::create`] and [`Self::resume`].
    pub async fn create_or_resume(
        &self,
        tenant: Tenant,
        id: SessionId,
        blueprint: Blueprint,
        request: Option<RequestId>,
        deadline: Deadline,
    ) -> Result<(Summary, bool), Error> {
        let key = SessionKey::new(tenant, id.clone());
        loop {
            match self.create(tenant, Some(id.clone()), blueprint.clone(), request.clone()).await {
                Err(Error::Exists(_)) => {}
                created => return created.map(|summary| (summary, false)),
            }
            let waited = self.wait_until_made(&key, deadline).await?;
            match self.resume(tenant, &id, blueprint.credentials(), deadline).await {
                // Whoever was about to create it did not manage, or it was deleted.
                Err(Error::NotFound(_)) if waited => {}
                // Another client of the CLI has made it.
                Err(Error::NotFound(_)) => return Err(Error::Exists(id)),
                resumed => return resumed.map(|summary| (summary, true)),
            }
        }
    }

    /// Waits while another call is creating the session, or it may be about to be cleared up. Says whether that was so.
    async fn wait_until_made(&self, key: &SessionKey, deadline: Deadline) -> Result<bool, Error> {
        let mut waited = false;
        let registry = &self.inner.registry;
        while registry.is_making(key) || registry.is_held(key) {
            waited = true;
            tokio::select! {
                () = tokio::time::sleep(MAKING_PAUSE) => {}
                cause = deadline.passed() => {
                    return Err(Error::Turn(Arc::new(TurnError::not_delivered(cause))));
                }
            }
        }
        Ok(waited)
    }
}
