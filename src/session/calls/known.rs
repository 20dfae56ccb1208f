//! Sessions that are known here, if need be from now on because the store has them.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::taking::Held;
use crate::{
    session::{
        blueprint::{Blueprint, Credentials, Record, Unusable},
        error::Error,
        id::{SessionId, SessionKey},
        live::Session,
        sessions::Sessions,
    },
    store::SessionRecord,
};

impl Sessions {
    /// A session that this process knows, if need be from now on because the store has it. It gets these credentials, and else those
    /// that are sealed in the store.
    pub(super) async fn known(
        &self,
        key: &SessionKey,
        credentials: Credentials,
    ) -> Result<Arc<Session>, Error> {
        loop {
            if let Some(session) = self.inner.registry.find(key) {
                session.home().await?;
                return Ok(session);
            }
            // Boxed, because it is large, and rare.
            match Box::pin(self.take_up(key, credentials.clone())).await? {
                Some(session) => return Ok(session),
                None => sleep(HELD_PAUSE).await,
            }
        }
    }

    /// A session whose history is to be read, and that need not be loaded: as it is known here, or as the store has it.
    pub(super) async fn readable(&self, key: &SessionKey) -> Result<Reading, Error> {
        loop {
            if let Some(session) = self.inner.registry.find(key) {
                return Ok(Reading { session, is_known: true, _held: None });
            }
            let record = self.record_here(key).await?.ok_or_else(|| Error::NotFound(key.id().clone()))?;
            let session = Arc::new(self.session_of(key.clone(), Blueprint::default(), &record)?);
            if session.is_where_it_is_used().await? {
                return Ok(Reading { session, is_known: false, _held: None });
            }
            // Where it has to be moved first, nobody may take it up meanwhile.
            if let Some(held) = self.hold(key).await? {
                return Ok(Reading { session: held.session().clone(), is_known: false, _held: Some(held) });
            }
            sleep(HELD_PAUSE).await;
        }
    }

    /// What a session is made of, under the profile of its name as it is now.
    pub(super) fn blueprint(
        &self,
        id: &SessionId,
        record: &SessionRecord,
        mut credentials: Credentials,
    ) -> Result<Blueprint, Error> {
        let record = Record::read(&record.facts).ok_or_else(|| Error::Unreadable(id.clone()))?;
        let profile = match record.profile.as_str() {
            "" => None,
            name => Some(
                self.inner
                    .profiles
                    .named(name)
                    .ok_or_else(|| Error::ProfileGone { session: id.clone(), profile: name.to_owned() })?,
            ),
        };
        let mut operator = self.inner.operator.as_ref();
        if let Some(profile) = &profile {
            profile.admit(&credentials).map_err(Error::Denied)?;
            credentials.github_token = credentials.github_token.or_else(|| profile.github_token.clone());
            if record.has_profiles_provider() {
                operator = profile.provider.as_ref();
            }
        }
        let blueprint = record.blueprint(credentials, operator);
        let mut blueprint = blueprint.map_err(|unusable| unusable.of(id))?;
        blueprint.profile = profile;
        Ok(blueprint)
    }

    /// What the store has of a session that is not known here.
    ///
    /// # Errors
    /// If the store cannot be asked, or the session is another server's, which knows more of it.
    pub(super) async fn record_here(&self, key: &SessionKey) -> Result<Option<SessionRecord>, Error> {
        let record = self.record(key).await?;
        let owner = record.as_ref().and_then(|record| record.node.as_ref());
        let is_anothers = owner.is_some_and(|owner| {
            owner != self.store().incarnation()
                && self.store().neighbours().borrow().lease_of(owner).is_some_and(|end| end > Instant::now())
        });
        if is_anothers { Err(Error::Moved(key.id().clone())) } else { Ok(record) }
    }

    /// What the store has of a session.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub(super) async fn record(&self, key: &SessionKey) -> Result<Option<SessionRecord>, Error> {
        Ok(self.store().find(key.tenant().as_str(), key.id().as_str()).await?)
    }
}

/// A session whose history is read.
pub(super) struct Reading {
    pub(super) session: Arc<Session>,
    /// Whether it is known here.
    pub(super) is_known: bool,
    _held: Option<Held>,
}

/// The pause before a session is looked for again that another call is about to delete or to move.
pub(super) const HELD_PAUSE: Duration = Duration::from_millis(20);

impl Unusable {
    fn of(self, id: &SessionId) -> Error {
        match self {
            Self::Missing(missing) => Error::NotLoaded { session: id.clone(), missing },
            Self::Unfit(unfit) => Error::Unfit(unfit),
        }
    }
}
