//! Sessions are created, or loaded where they exist already and that is what the caller wants.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tracing::{debug, info, warn};

use crate::{
    backend::{self, Backend},
    copilot::{
        Rejection,
        method::{GetMetadata, IsProcessing},
    },
    session::{
        blueprint::{Blueprint, Record},
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        idempotency::{Creation, Found, Key, RequestId},
        live::Session,
        roots,
        sessions::Sessions,
        summary::Summary,
        turn::{Deadline, TurnError},
    },
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
        Record::of(&blueprint).write().ok_or(Error::TooMuchToStore)?;
        let begin = || self.begin_creation(tenant, id, blueprint, request.is_some());
        let Some(RequestId { id: request, fingerprint }) = &request else { return finished(begin()?).await };
        let key = Key::Create(tenant, request.clone());
        let is_current = |creation: &Creation| !matches!(&*creation.borrow(), Some(Err(_)));
        match self.inner.creations.find_or_insert(key.clone(), *fingerprint, is_current, begin)? {
            Found::First(creation) => finished(creation).await,
            Found::Repeated(creation) => {
                let created = finished(creation).await?;
                // It may have been deleted since.
                self.get(tenant, &created.id).await.inspect_err(|_| self.inner.creations.forget(&key))
            }
        }
    }

    /// Begins to create a session. `wanted`: also if nobody waits for it.
    fn begin_creation(
        &self,
        tenant: Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
        wanted: bool,
    ) -> Result<Creation, Error> {
        let chosen = id.is_some();
        let key = SessionKey::new(tenant, id.unwrap_or_else(SessionId::random));
        // A chosen id is looked for, and so its session is where it is looked for first.
        let pool = self.pool();
        let backend = if chosen { pool.home(key.cli_id()) } else { pool.for_new(key.cli_id()) }?;
        let session = Arc::new(self.session(key, blueprint, &backend));
        let reserved = self.inner.registry.reserve(session.clone())?;
        let (created, answer) = tokio::sync::watch::channel(None);
        let this = self.clone();
        // On a task of its own, because a session that was half made when its caller left could not be found again.
        self.inner.tasks.spawn(async move {
            let result = this.create_in_cli(&session, chosen).await.map(|()| {
                reserved.keep();
                session.summary()
            });
            let unwanted = result.is_ok() && !wanted && created.is_closed();
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
        if chosen {
            self.refuse_if_it_exists(session).await?;
        }
        let link = session.home().await?.connected().await?;
        let mut created = session.create(&link).await;
        if created.is_ok() {
            created = session.validate_tools(&link).await;
        }
        if created.is_err() {
            // Where the second half has failed, the first must not stay.
            let undone = session.delete(&link).await;
            debug!(session = %session.id(), ok = undone.is_ok(), "a session could not be created");
        }
        Ok(created?)
    }

    /// On an id that exists the CLI would silently attach, or glue two histories together. Another CLI may have it: one that
    /// is down is not waited for, as long as the id's own, where sessions of chosen ids are made, says that it has not.
    async fn refuse_if_it_exists(&self, session: &Session) -> Result<(), Error> {
        let order = self.inner.pool.in_order(session.cli_id());
        // Also those before it, which get no new sessions: they may have had it.
        let own = order.iter().position(|backend| session.is_in(backend.id()));
        let must_say = |place: usize| own.is_none_or(|own| place <= own);
        let asked = order.into_iter().enumerate();
        let asked: Vec<_> = asked.filter(|(place, backend)| must_say(*place) || backend.is_ready()).collect();
        let answers = join_all(asked.iter().map(|(_, backend)| has(backend, session.cli_id()))).await;
        if answers.iter().any(|answer| matches!(answer, Ok(true))) {
            return Err(Error::Exists(session.id().clone()));
        }
        for ((place, _), answer) in asked.into_iter().zip(answers) {
            match answer {
                Err(error) if must_say(place) => return Err(error.into()),
                Err(error) => {
                    warn!(session = %session.id(), %error, "a CLI cannot be asked for a session's id")
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether a CLI has a session of this id. A stored one shows in its metadata; a loaded one without a message does not, but
/// answers.
async fn has(backend: &Backend, session_id: &str) -> Result<bool, backend::Error> {
    let link = backend.connected().await?;
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
