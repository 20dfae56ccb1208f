//! Sessions that are known here, if need be from now on because a CLI has stored them.

use std::sync::Arc;

use crate::session::{
    blueprint::{Blueprint, Credentials, Missing, Record, Unusable},
    catalogue::{Stored, find, records},
    error::Error,
    id::{SessionId, SessionKey},
    live::Session,
    sessions::Sessions,
};

impl Sessions {
    /// A session that this process knows, if need be from now on because the CLI has stored it.
    pub(super) async fn known(
        &self,
        key: &SessionKey,
        credentials: Credentials,
    ) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.inner.registry.find(key) {
            session.home().await?;
            return Ok(session);
        }
        let gone = || Error::NotFound(key.id().clone());
        let stored = self.stored(key).await?.ok_or_else(gone)?;
        if let Some(record) = records(&stored.backend, &[key.cli_id()]).await?.remove(key.cli_id()) {
            return self.take_up(key, stored, record, credentials);
        }
        // Another server may have deleted it between the two questions.
        let stored = self.stored(key).await?.ok_or_else(gone)?;
        let blueprint = if credentials == Credentials::default() {
            // All that is known is that it is ours; to guess who is to pay for it would be wrong.
            Err(Unusable::Missing(Missing::Unknown))
        } else {
            Record::default().blueprint(credentials, None)
        };
        let blueprint = blueprint.map_err(|unusable| unusable.of(key.id()))?;
        self.adopt(key, stored, blueprint)
    }

    /// Takes up a session that was stored with this record, under the profile of its name as it is now.
    fn take_up(
        &self,
        key: &SessionKey,
        stored: Stored,
        record: Record,
        mut credentials: Credentials,
    ) -> Result<Arc<Session>, Error> {
        let profile =
            match record.profile.as_str() {
                "" => None,
                name => Some(self.inner.profiles.named(name).ok_or_else(|| Error::ProfileGone {
                    session: key.id().clone(),
                    profile: name.to_owned(),
                })?),
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
        let mut blueprint = blueprint.map_err(|unusable| unusable.of(key.id()))?;
        blueprint.profile = profile;
        self.adopt(key, stored, blueprint)
    }

    fn adopt(&self, key: &SessionKey, stored: Stored, blueprint: Blueprint) -> Result<Arc<Session>, Error> {
        let session = self.session(key.clone(), blueprint, &stored.backend);
        self.inner.registry.adopt(session.found(stored.entry))
    }

    /// A session of ours that a CLI has stored.
    ///
    /// # Errors
    /// If none of those that can be asked has it, and another may.
    pub(super) async fn stored(&self, key: &SessionKey) -> Result<Option<Stored>, Error> {
        Ok(find(&self.inner.pool, key).await?)
    }
}

impl Unusable {
    fn of(self, id: &SessionId) -> Error {
        match self {
            Self::Missing(missing) => Error::NotLoaded { session: id.clone(), missing },
            Self::Unfit(unfit) => Error::Unfit(unfit),
        }
    }
}
