//! A session looked at, loaded, changed, copied, closed and deleted.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::sleep;
use tracing::debug;

use super::known::HELD_PAUSE;
use crate::{
    backend::{self, Link},
    copilot::method::{Delete, Fork, Forked, GetMetadata, Method},
    session::{
        blueprint::{Blueprint, Credentials, Record},
        error::Error,
        id::{SessionId, SessionKey},
        live::{Session, runs_for_others},
        roots,
        sessions::Sessions,
        summary::{SessionState, Summary},
        turn::{Deadline, TurnCause},
    },
};

/// What is to change in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its model.
    pub model: Option<String>,
    /// How much its model thinks.
    pub reasoning_effort: Option<String>,
    /// Its title.
    pub title: Option<String>,
}

impl Sessions {
    /// What there is to know of a session.
    pub async fn get(&self, key: &SessionKey) -> Result<Summary, Error> {
        let id = key.id();
        let gone = || Error::NotFound(id.clone());
        let (mut summary, backend, cli_id) = match self.inner.registry.find(key) {
            Some(session) => {
                session.check_others().await;
                (session.summary(), Some(session.backend()), session.shared_cli_id())
            }
            None => {
                let record = self.record_here(key).await?.ok_or_else(gone)?;
                let (backend, cli_id) =
                    (self.pool().at(&record.facts.home), record.facts.cli_id.as_str().into());
                (Summary::of(record).ok_or_else(gone)?, backend, cli_id)
            }
        };
        // What is not loaded for us may be for another client of the CLI.
        if summary.state == SessionState::Unloaded
            && let Some(backend) = backend
            && runs_for_others(&backend, &cli_id).await
        {
            summary.state = SessionState::Running;
        }
        Ok(summary)
    }

    /// Loads a session, with these credentials where it has some of its own. If it is loaded already, it gets the new ones,
    /// after the turns that were accepted before. If it cannot be loaded with them, nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping it leaves the session with the credentials that it had, loaded or not; the next call loads it where it must.
    pub async fn resume(
        &self,
        key: &SessionKey,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_servers(&credentials.mcp_servers)).await?;
        let was_known = self.inner.registry.find(key).is_some();
        let session = self.known(key, credentials.clone()).await?;
        let resumed = self.resume_known(&session, credentials, deadline).await;
        if resumed.is_err() && !was_known {
            // What it was taken up with may be what is wrong.
            self.inner.registry.release(&session);
        }
        resumed
    }

    async fn resume_known(
        &self,
        session: &Arc<Session>,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        if let Some(profile) = &session.blueprint().profile {
            profile.admit(&credentials).map_err(Error::Denied)?;
        }
        let changed = session.blueprint().with(credentials.clone()).map_err(Error::Unfit)?;
        if session.is_loaded() && changed == *session.blueprint() {
            return Ok(session.summary());
        }
        let place = session.place(deadline).await?;
        let brought = credentials != Credentials::default();
        let changed = session.blueprint().with(credentials).map_err(Error::Unfit)?;
        if changed == *session.blueprint() {
            self.load_within(deadline, session).await?;
            // It may have been taken up with them.
            if brought {
                session.save_credentials().await?;
            }
            drop(place);
            return Ok(session.summary());
        }
        if !Record::fits(&changed) {
            return Err(Error::TooMuchToStore);
        }
        let was_loaded = session.is_loaded();
        // Only while no turn runs: it takes the session off its link.
        let trial = Trial::begin(session, changed);
        match self.load_within(deadline, session).await {
            Ok(_) => {
                trial.keep();
                session.save_credentials().await?;
            }
            Err(error) => {
                drop(trial);
                if was_loaded && let Err(problem) = self.load_within(deadline, session).await {
                    debug!(session = %session.id(), %problem, "a session could not be loaded as it was before");
                }
                return Err(error);
            }
        }
        drop(place);
        Ok(session.summary())
    }

    /// Changes a session, after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session changed or not.
    pub async fn update(
        &self,
        key: &SessionKey,
        change: Change,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let place = session.place(deadline).await?;
        let mut blueprint = Blueprint::clone(&session.blueprint());
        if let Some(labels) = change.labels {
            blueprint.labels = labels;
        }
        if let Some(model) = change.model {
            if let Some(profile) = &blueprint.profile {
                profile
                    .admit_model(&model)
                    .map_err(|excess| Error::Denied(vec![excess.within("session")]))?;
            }
            blueprint.settings.model = Some(model);
        }
        if change.reasoning_effort.is_some() {
            blueprint.settings.reasoning_effort = change.reasoning_effort;
        }
        if !Record::fits(&blueprint) {
            return Err(Error::TooMuchToStore);
        }
        let link = self.load_within(deadline, &session).await?;
        session.update(&link, blueprint).await?;
        if let Some(title) = change.title {
            session.name(&link, &title).await?;
        }
        session.touch();
        // Boxed, because it is large beside what the other calls need.
        Box::pin(session.save(None)).await?;
        drop(place);
        Ok(session.summary())
    }

    /// Copies a session, after the turns that were accepted before; `before` an event of its history, or all of it. The copy
    /// has an id of its own, and the credentials.
    ///
    /// # Cancel safety
    /// Dropping it may leave a copy that is only found by listing.
    pub async fn fork(
        &self,
        key: &SessionKey,
        before: Option<&str>,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        // The CLI copies what is written.
        session.until_written(&link).await.map_err(|cause| session.not_loaded(cause))?;
        let Forked { session_id } =
            link.call(&Fork { session_id: session.cli_id(), to_event_id: before }).await?;
        let protocol =
            |problem: &str| backend::Error::Protocol { method: Fork::NAME, problem: problem.into() };
        let id =
            SessionId::parse(&session_id).map_err(|_| protocol("the copy's id cannot be one of ours"))?;
        let copied = SessionKey::new(key.tenant().clone(), id);
        let metadata = link.call(&GetMetadata { session_id: &session_id }).await?;
        let entry = metadata.session.ok_or_else(|| protocol("the copy is not there"))?;
        let entered = Box::pin(self.enter_copy(session.copy(copied, &session_id, entry))).await;
        if entered.is_err() {
            // The caller would not know of it.
            link.call(&Delete { session_id: &session_id }).await?;
        }
        entered
    }

    /// Makes the record of a copy.
    async fn enter_copy(&self, copy: Session) -> Result<Summary, Error> {
        let copy = Arc::new(copy);
        let reserved = self.inner.registry.reserve(copy.clone())?;
        copy.enter("").await?;
        // With an archive, its folder.
        copy.save(None).await?;
        reserved.keep();
        self.check_lease(&copy)?;
        Ok(copy.summary())
    }

    /// Loads a session whose queue the caller has a place in.
    pub(super) async fn load_within(
        &self,
        deadline: Deadline,
        session: &Arc<Session>,
    ) -> Result<Arc<Link>, Error> {
        let loaded = tokio::select! {
            biased;
            loaded = session.load() => loaded,
            cause = deadline.passed() => Err(cause),
        };
        if let Err(TurnCause::NotFound(_)) = loaded {
            self.inner.registry.forget(session);
        }
        loaded.map_err(|cause| session.not_loaded(cause))
    }

    /// Has the CLI close a session, after the turns that were accepted before; it is loaded again when it is next used.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session closed or not.
    pub async fn close(&self, key: &SessionKey, deadline: Deadline) -> Result<(), Error> {
        let id = key.id();
        match self.inner.registry.find(key) {
            Some(session) => {
                let place = session.place(deadline).await?;
                session.unload().await?;
                drop(place);
                // Another call may use it again already.
                self.hand_over(&session, false).await.map(|_| ())
            }
            None => self.record_here(key).await?.map(|_| ()).ok_or_else(|| Error::NotFound(id.clone())),
        }
    }

    /// Deletes a session, and ends its turns.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session deleted or not.
    pub async fn delete(&self, key: &SessionKey) -> Result<(), Error> {
        loop {
            if let Some(session) = self.inner.registry.find(key) {
                return self.delete_known(&session).await;
            }
            // Nobody can take it up while it is held. If somebody has, it is known; if somebody else deletes it, it is soon gone.
            match self.hold(key).await? {
                Some(held) => return self.delete_known(held.session()).await,
                None => sleep(HELD_PAUSE).await,
            }
        }
    }

    /// Deletes a session, from its CLI and from the store.
    pub(super) async fn delete_known(&self, session: &Arc<Session>) -> Result<(), Error> {
        session.delete().await?;
        session.erase().await?;
        self.inner.registry.forget(session);
        Ok(())
    }
}

/// A session that is tried with other credentials. Dropping it gives the session back those that it had, with which it is
/// loaded when it is next used.
struct Trial<'a> {
    session: &'a Session,
    before: Option<Arc<Blueprint>>,
}

impl<'a> Trial<'a> {
    fn begin(session: &'a Session, changed: Blueprint) -> Self {
        let before = session.blueprint();
        session.rebuild(changed);
        Self { session, before: Some(before) }
    }

    fn keep(mut self) {
        self.before = None;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.session.rebuild(Blueprint::clone(&before));
        }
    }
}
