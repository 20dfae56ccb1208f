//! Sessions are created, or loaded where they exist already and that is what the caller wants.

use std::{sync::Arc, time::Duration};

use tracing::{debug, info, warn};

use super::once::Begin;
use crate::{
    backend::{self, Link},
    copilot::{
        Rejection,
        method::{GetMetadata, IsProcessing},
    },
    session::{
        blueprint::Blueprint,
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        idempotency::{Claim, Creation, Key, RequestId},
        live::{Claimed, Session},
        roots,
        sessions::Sessions,
        summary::Summary,
        turn::{Deadline, TurnError},
    },
    store::{Ended, RequestKey, RequestState, Scope},
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

impl Sessions {
    /// Creates a session. A request with an id that is repeated gets the session of the first one.
    ///
    /// # Cancel safety
    /// It is created or it is not: if nobody waits for it any more when it is there, it is deleted again, unless its request
    /// may be repeated.
    pub async fn create(
        &self,
        tenant: Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
        request: Option<RequestId>,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_settings(&blueprint.settings)).await?;
        let wanted = Wanted { id: id.clone().unwrap_or_else(SessionId::random), is_chosen: id.is_some() };
        match request {
            None => finished(self.begin_creation(tenant, wanted, blueprint, None)?).await,
            Some(request) => self.create_once(tenant, wanted, blueprint, request).await,
        }
    }

    /// Creates the session of a request that may be repeated.
    async fn create_once(
        &self,
        tenant: Tenant,
        wanted: Wanted,
        blueprint: Blueprint,
        request: RequestId,
    ) -> Result<Summary, Error> {
        let key = Key::Create(tenant, request.id.clone());
        // One at a time; the store knows of those that other processes have.
        let turn = self.inner.creations.turn(&key).await;
        if let Some(creation) = self.inner.creations.find(&key, request.fingerprint, is_worth_repeating)? {
            drop(turn);
            // It may have been deleted since.
            return self.glance(tenant, &finished(creation).await?.id).await;
        }
        let stored = RequestKey { tenant: tenant.as_str().into(), scope: Scope::Create, id: request.id };
        let (claimed, noted) =
            match self.begun(&stored, request.fingerprint, Begin::Creation(&wanted.id)).await? {
                Claim::Ours(claimed, noted) => (claimed, noted),
                Claim::Ended(id) => return self.glance(tenant, &noted_id(&id, &wanted)?).await,
            };
        let mut wanted = wanted;
        if let Some(id) = noted {
            wanted.id = noted_id(&id, &wanted)?;
            // Whoever began it may have made the session.
            match self.glance(tenant, &wanted.id).await {
                Err(Error::NotFound(_)) => {}
                found => {
                    self.end_creation(&claimed, &found).await;
                    return found;
                }
            }
        }
        let creation = self.begin_creation(tenant, wanted, blueprint, Some(claimed))?;
        self.inner.creations.insert(key, request.fingerprint, creation.clone());
        drop(turn);
        finished(creation).await
    }

    /// Begins to create a session. With a `request` it is created also if nobody waits for it.
    fn begin_creation(
        &self,
        tenant: Tenant,
        wanted: Wanted,
        blueprint: Blueprint,
        request: Option<Arc<Claimed>>,
    ) -> Result<Creation, Error> {
        let Wanted { id, is_chosen } = wanted;
        let key = SessionKey::new(tenant, id);
        let backend = self.pool().for_new(key.cli_id())?;
        let session = Arc::new(self.session(key, blueprint, backend));
        let reserved = self.inner.registry.reserve(session.clone())?;
        let (created, answer) = tokio::sync::watch::channel(None);
        let this = self.clone();
        // On a task of its own, because a session that was half made when its caller left could not be found again.
        self.inner.means.tasks.spawn(async move {
            let result = this.create_in_cli(&session, is_chosen).await.and_then(|()| {
                reserved.keep();
                this.check_lease(&session)?;
                Ok(session.summary())
            });
            if let Some(request) = &request {
                this.end_creation(request, &result).await;
            }
            let unwanted = result.is_ok() && request.is_none() && created.is_closed();
            created.send_replace(Some(result));
            if unwanted {
                info!(session = %session.id(), "the caller left while the session was created");
                if let Err(error) = this.delete(tenant, session.id()).await {
                    warn!(session = %session.id(), %error, "the unwanted session could not be deleted");
                }
            }
        });
        Ok(answer)
    }

    async fn create_in_cli(&self, session: &Arc<Session>, chosen: bool) -> Result<(), Error> {
        let backend = session.home().await?;
        let link = backend.connected().await?;
        session.is_made_in(&backend);
        // On an id that exists the CLI would silently attach, or glue two histories together.
        if chosen && has(&link, session.cli_id()).await? {
            return Err(Error::Exists(session.id().clone()));
        }
        session.enter().await?;
        let mut created = session.create(&link).await.map_err(Error::from);
        if created.is_ok() {
            created = session.validate_tools(&link).await.map_err(Error::from);
        }
        if created.is_err() {
            // Where the second half has failed, the first must not stay.
            let undone = session.delete().await;
            let erased = session.erase().await;
            let ok = undone.is_ok() && erased.is_ok();
            debug!(session = %session.id(), ok, "a session could not be created");
        }
        created
    }

    /// Records what came of a request. One that failed may be tried again.
    async fn end_creation(&self, request: &Claimed, result: &Result<Summary, Error>) {
        let store = self.store();
        let recorded = match result {
            Ok(session) => {
                let (key, result) = (request.key().clone(), Some(session.id.to_string()));
                store.end(&Ended { key, state: RequestState::Succeeded, result, message_id: None }).await
            }
            Err(_) => store.forget(request.key()).await,
        };
        if let Err(error) = recorded {
            debug!(%error, "what came of a request could not be recorded");
        }
    }
}

/// The id of a session that is to be created.
struct Wanted {
    id: SessionId,
    /// Whether the caller has chosen it.
    is_chosen: bool,
}

/// The id that was noted of a request when it was begun before.
fn noted_id(noted: &str, wanted: &Wanted) -> Result<SessionId, Error> {
    SessionId::parse(noted).map_err(|_| Error::Unreadable(wanted.id.clone()))
}

/// Whether a creation counts for repetitions: one that failed is tried again.
fn is_worth_repeating(creation: &Creation) -> bool {
    !matches!(&*creation.borrow(), Some(Err(_)))
}

/// Whether a CLI has a session of this id. A stored one shows in its metadata; a loaded one without a message does not, but
/// answers.
async fn has(link: &Link, session_id: &str) -> Result<bool, backend::Error> {
    if link.call(&GetMetadata { session_id }).await?.session.is_some() {
        return Ok(true);
    }
    match link.call(&IsProcessing { session_id }).await {
        Err(backend::Error::Rejected(Rejection::SessionNotFound)) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// What has come of a creation.
async fn finished(mut creation: Creation) -> Result<Summary, Error> {
    match creation.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(result)) => result.clone(),
        Ok(None) | Err(_) => Err(Error::Draining),
    }
}
