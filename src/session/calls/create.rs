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
        blueprint::{Blueprint, Credentials},
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        idempotency::{Claim, Creation, Key, RequestId},
        live::{Claimed, Session},
        registry::Reservation,
        roots,
        sessions::Sessions,
        summary::Summary,
        turn::{Deadline, TurnError},
    },
    store::{self, Availability, Ended, RequestKey, RequestState, Scope},
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
        key: &SessionKey,
        blueprint: Blueprint,
        request: Option<RequestId>,
        deadline: Deadline,
    ) -> Result<(Summary, bool), Error> {
        loop {
            let (tenant, id) = (key.tenant(), key.id().clone());
            match self.create(tenant, Some(id), blueprint.clone(), request.clone()).await {
                Err(Error::Exists(_)) => {}
                created => return created.map(|summary| (summary, false)),
            }
            let waited = self.wait_until_made(key, deadline).await?;
            match self.resume(key, blueprint.credentials(), deadline).await {
                // Whoever was about to create it did not manage, or it was deleted.
                Err(Error::NotFound(_)) if waited => {}
                // Another client of the CLI has made it.
                Err(Error::NotFound(_)) => return Err(Error::Exists(key.id().clone())),
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
        tenant: &Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
        request: Option<RequestId>,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_settings(&blueprint.settings)).await?;
        let wanted = Wanted { id: id.clone().unwrap_or_else(SessionId::random), is_chosen: id.is_some() };
        match request {
            None => finished(self.begin_creation(tenant, wanted, blueprint, None)).await,
            Some(request) => self.create_once(tenant, wanted, blueprint, request).await,
        }
    }

    /// Creates the session of a request that may be repeated.
    async fn create_once(
        &self,
        tenant: &Tenant,
        mut wanted: Wanted,
        blueprint: Blueprint,
        request: RequestId,
    ) -> Result<Summary, Error> {
        let key = Key::Create(tenant.clone(), request.id.clone());
        // One at a time; the store knows of those that other processes have.
        let turn = self.inner.creations.turn(&key).await;
        if let Some(creation) = self.inner.creations.find(&key, request.fingerprint, is_worth_repeating)? {
            drop(turn);
            // It may have been deleted since.
            let id = finished(creation).await?.id;
            return self.glance(&SessionKey::new(tenant.clone(), id)).await;
        }
        let stored = RequestKey { tenant: tenant.as_str().into(), scope: Scope::Create, id: request.id };
        let claimed = match self.begun(&stored, request.fingerprint, Begin::Creation(&wanted.id)).await? {
            Claim::Ours(claimed, None) => claimed,
            Claim::Ours(claimed, Some(id)) => {
                wanted.id = noted_id(&id, &wanted)?;
                claimed
            }
            Claim::Ended(id) => {
                return self.glance(&SessionKey::new(tenant.clone(), noted_id(&id, &wanted)?)).await;
            }
        };
        let creation = self.begin_creation(tenant, wanted, blueprint, Some(claimed));
        self.inner.creations.insert(key, request.fingerprint, creation.clone());
        drop(turn);
        finished(creation).await
    }

    /// Begins to create a session. With a `request` it is created also if nobody waits for it.
    fn begin_creation(
        &self,
        tenant: &Tenant,
        wanted: Wanted,
        blueprint: Blueprint,
        request: Option<Arc<Claimed>>,
    ) -> Creation {
        let (created, answer) = tokio::sync::watch::channel(None);
        let (this, key) = (self.clone(), SessionKey::new(tenant.clone(), wanted.id));
        // On a task of its own, because a session that was half made when its caller left could not be found again.
        self.inner.means.tasks.spawn(async move {
            let credentials = blueprint.credentials();
            let mut result = this.create_new(key.clone(), wanted.is_chosen, blueprint, request.clone()).await;
            if let (Err(Error::Exists(_)), Some(request)) = (&result, &request) {
                result = this.created_before(&key, credentials, request.key()).await;
            }
            if let Some(request) = &request {
                this.end_creation(request, &result).await;
            }
            let unwanted = result.is_ok() && request.is_none() && created.is_closed();
            created.send_replace(Some(result));
            if unwanted {
                info!(session = %key.id(), "the caller left while the session was created");
                if let Err(error) = this.delete(&key).await {
                    warn!(session = %key.id(), %error, "the unwanted session could not be deleted");
                }
            }
        });
        answer
    }

    /// Creates a session that does not exist.
    async fn create_new(
        &self,
        key: SessionKey,
        is_chosen: bool,
        blueprint: Blueprint,
        request: Option<Arc<Claimed>>,
    ) -> Result<Summary, Error> {
        let backend = self.pool().for_new(&key.new_cli_id())?;
        let session = Arc::new(self.session(key, blueprint, backend));
        let reserved = self.inner.registry.reserve(session.clone())?;
        let request_id = request.as_ref().map_or("", |request| request.key().id.as_str());
        match create_in_cli(&session, is_chosen, request_id).await {
            Ok(()) => {
                reserved.keep();
                self.check_lease(&session)?;
                Ok(session.summary())
            }
            Err(error) => {
                self.undo(session, reserved, request).await;
                Err(error)
            }
        }
    }

    /// Removes what there is of a session that could not be created. While the store is away, it is done later; until then nobody
    /// gets the session, and its request waits.
    async fn undo(&self, session: Arc<Session>, reserved: Reservation, request: Option<Arc<Claimed>>) {
        // What has no record is in no CLI, or not by us. Where the lease is lost, others may have the session.
        let Some(ownership) = session.ownership().filter(|ownership| self.store().holds(*ownership)) else {
            return;
        };
        if let Err(error) = session.delete().await {
            debug!(session = %session.id(), %error, "a session that could not be created may be in its CLI");
        }
        let Err(store::Error::Unavailable { .. }) = session.erase().await else { return };
        let store = self.store().clone();
        self.inner.means.tasks.spawn(async move {
            let mut availability = store.availability();
            while availability.wait_for(Availability::is_here).await.is_ok() && store.holds(ownership) {
                match session.erase().await {
                    Err(store::Error::Unavailable { .. }) => {}
                    erased => {
                        debug!(session = %session.id(), ?erased, "the store was away when a session could not be created");
                        break;
                    }
                }
            }
            drop((reserved, request));
        });
    }

    /// The session that a request has made before, if it has: when its server died over it, or did not hear that the store has it.
    ///
    /// # Errors
    /// If there is a session of this id that another has made.
    async fn created_before(
        &self,
        key: &SessionKey,
        credentials: Credentials,
        request: &RequestKey,
    ) -> Result<Summary, Error> {
        let record = self.record(key).await?.filter(|record| record.facts.request == request.id);
        if record.is_none() {
            return Err(Error::Exists(key.id().clone()));
        }
        match self.known(key, credentials).await {
            Ok(session) => {
                session.save_credentials().await?;
                Ok(session.summary())
            }
            // By a server that was taken for dead.
            Err(Error::Moved(_)) => self.glance(key).await,
            Err(error) => Err(error),
        }
    }

    /// Records what came of a request. One that failed may be tried again.
    async fn end_creation(&self, request: &Claimed, result: &Result<Summary, Error>) {
        let store = self.store();
        let recorded = match result {
            Ok(session) => {
                let (key, result) = (request.key().clone(), Some(session.id.to_string()));
                store.end(&Ended { key, state: RequestState::Succeeded, result, message_id: None }).await
            }
            // The store may have the session, or get it yet: a repetition has to look for it.
            Err(Error::Store(store::Error::Unavailable { .. })) => return,
            Err(_) => store.forget(request.key()).await,
        };
        if let Err(error) = recorded {
            debug!(%error, "what came of a request could not be recorded");
        }
    }
}

/// Makes a session's record, and the session in its CLI.
///
/// # Errors
/// If the CLI or the store has one of this id. Else there may be a half of it, where it has a record.
async fn create_in_cli(session: &Arc<Session>, is_chosen: bool, request_id: &str) -> Result<(), Error> {
    let backend = session.home().await?;
    let link = backend.connected().await?;
    session.is_made_in(&backend);
    // On an id that exists the CLI would silently attach, or glue two histories together.
    if is_chosen && has(&link, session.cli_id()).await? {
        return Err(Error::Exists(session.id().clone()));
    }
    session.enter(request_id).await?;
    session.create(&link).await?;
    Ok(session.validate_tools(&link).await?)
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
