//! Sessions that the CLI has stored: found, and taken up.

use std::{collections::HashMap, sync::Arc};

use super::{
    Sessions,
    blueprint::{Credentials, Missing, Record, Unusable},
    error::Error,
    key::{SessionId, SessionKey},
    list::{SessionState, Summary},
    live::Session,
};
use crate::{
    backend,
    copilot::{
        Rejection,
        method::{Entry, GetClientMetadata, GetMetadata},
        settings::CLIENT_NAME,
    },
};

/// How many records are read at once: as many as the CLI takes (cli-protocol.md, section 14).
const MAX_RECORDS: usize = 1000;

impl Sessions {
    /// A session that this process knows, if need be from now on because the CLI has stored it.
    pub(super) async fn known(
        &self,
        key: &SessionKey,
        credentials: Credentials,
    ) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.inner.registry.find(key) {
            return Ok(session);
        }
        let entry = self.stored(key).await?.ok_or_else(|| Error::NotFound(key.id().clone()))?;
        let blueprint = match self.records(&[key.cli_id()]).await?.remove(key.cli_id()) {
            Some(record) => return self.take_up(key, entry, record, credentials),
            // All that is known is that it is ours; to guess who is to pay for it would be wrong.
            None if credentials == Credentials::default() => Err(Unusable::Missing(Missing::Unknown)),
            None => Record::default().blueprint(credentials, None),
        };
        let blueprint = blueprint.map_err(|unusable| unusable.of(key.id()))?;
        self.inner.registry.adopt(self.session(key.clone(), blueprint).found(entry))
    }

    /// Takes up a session that was stored with this record, under the profile of its name as it is now.
    fn take_up(
        &self,
        key: &SessionKey,
        entry: Entry,
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
        self.inner.registry.adopt(self.session(key.clone(), blueprint).found(entry))
    }

    /// What is stored with these sessions; nothing for those of which nothing is.
    pub(super) async fn records(&self, cli_ids: &[&str]) -> Result<HashMap<String, Record>, Error> {
        let mut records = HashMap::new();
        for session_ids in cli_ids.chunks(MAX_RECORDS) {
            let question = GetClientMetadata { session_ids, keys: &Record::KEYS };
            match self.inner.backend.connected().await?.call(&question).await {
                Ok(answers) => records.extend(
                    answers
                        .into_iter()
                        .filter_map(|answer| Some((answer.session_id, Record::read(&answer.metadata)?))),
                ),
                // Older CLIs cannot; GetServerInfo says so.
                Err(backend::Error::Rejected(Rejection::MethodMissing)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    /// A session of ours that the CLI has stored.
    pub(super) async fn stored(&self, key: &SessionKey) -> Result<Option<Entry>, Error> {
        let metadata =
            self.inner.backend.connected().await?.call(&GetMetadata { session_id: key.cli_id() }).await?;
        Ok(metadata.session.filter(is_ours))
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

/// Whether a session was made by this service: other programs may use the same CLI.
pub(super) fn is_ours(entry: &Entry) -> bool {
    entry.client_name.as_deref() == Some(CLIENT_NAME)
}

/// What is told of a stored session.
pub(super) fn stored_summary(key: &SessionKey, entry: Entry, record: Option<Record>) -> Summary {
    let record = record.unwrap_or_default();
    Summary {
        id: key.id().clone(),
        model: record.model.unwrap_or_default(),
        labels: record.labels,
        state: SessionState::Unloaded,
        title: entry.summary.unwrap_or_default(),
        create_time: entry.start_time,
        update_time: entry.modified_time,
        working_directory: entry.context.and_then(|context| context.cwd).unwrap_or_default(),
        owner: record.owner,
        profile: record.profile,
    }
}
