//! Sessions that are known here, if need be from now on because the store has them.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    session::{
        blueprint::{Blueprint, Credentials, Record, Unusable},
        error::Error,
        id::{SessionId, SessionKey},
        live::{Session, unsealed},
        registry::Reservation,
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
            let record = self.record(key).await?.ok_or_else(|| Error::NotFound(key.id().clone()))?;
            let sealed = unsealed(&self.inner.means, key, record.uid).await?;
            let blueprint = self.blueprint(key.id(), &record, sealed.with(credentials.clone()))?;
            let session = self.session_of(key.clone(), blueprint, &record)?;
            match self.inner.registry.adopt(session)? {
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
            let record = self.record(key).await?.ok_or_else(|| Error::NotFound(key.id().clone()))?;
            let session = Arc::new(self.session_of(key.clone(), Blueprint::default(), &record)?);
            let is_there = session.is_where_it_is_used().await?;
            // Where it has to be moved first, nobody may take it up meanwhile.
            let held = if is_there { None } else { self.inner.registry.hold(session.clone()) };
            if is_there || held.is_some() {
                return Ok(Reading { session, is_known: false, _held: held });
            }
            sleep(HELD_PAUSE).await;
        }
    }

    /// What a session is made of, under the profile of its name as it is now.
    fn blueprint(
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
    _held: Option<Reservation>,
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
