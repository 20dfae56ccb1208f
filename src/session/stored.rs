//! Sessions that the CLI has stored: found, read, and taken up.

use std::{collections::HashMap, sync::Arc};

use tracing::warn;

use super::{
    Sessions,
    blueprint::{Credentials, Missing, Record, Unusable},
    error::Error,
    key::{SessionId, SessionKey, Tenant},
    list::{SessionState, Summary},
    live::{self, Session},
};
use crate::{
    backend,
    copilot::{
        Event, Rejection, Settings, event,
        method::{Entry, GetClientMetadata, GetMetadata, ReadPersistedEvents},
        settings::CLIENT_NAME,
    },
};

/// How many records are read at once: as many as the CLI takes (cli-protocol.md, section 14).
const MAX_RECORDS: usize = 1000;

impl Sessions {
    /// A page of a session's stored history, oldest first, and where the next one begins; without loading the session.
    pub async fn history(
        &self,
        tenant: Tenant,
        id: &SessionId,
        after: Option<&str>,
        max: usize,
    ) -> Result<(Vec<Event>, Option<String>), Error> {
        let key = SessionKey::new(tenant, id.clone());
        let known = self.inner.registry.find(&key);
        if known.is_none() && self.stored(&key).await?.is_none() {
            return Err(Error::NotFound(id.clone()));
        }
        let question = ReadPersistedEvents { session_id: key.cli_id(), cursor: after, max };
        let page = match self.inner.backend.connected().await?.call(&question).await {
            // Before the first message there is no history.
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => return Ok((Vec::new(), None)),
            page => page?,
        };
        if page.cursor_status == "expired" {
            return Err(Error::CursorExpired);
        }
        let settings = match known {
            Some(session) => session.blueprint().settings.clone(),
            None => Settings { provider: self.inner.operator.clone(), ..Settings::default() },
        };
        let events = page.events.iter().filter_map(|raw| readable(raw.get(), &settings)).collect();
        Ok((events, page.has_more.then_some(page.cursor)))
    }

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
            Some(record) => record.blueprint(credentials, self.inner.operator.as_ref()),
            // All that is known is that it is ours; to guess who is to pay for it would be wrong.
            None if credentials == Credentials::default() => Err(Unusable::Missing(Missing::Unknown)),
            None => Record::default().blueprint(credentials, None),
        };
        let blueprint = blueprint.map_err(|unusable| match unusable {
            Unusable::Missing(missing) => Error::NotLoaded { session: key.id().clone(), missing },
            Unusable::Unfit(unfit) => Error::Unfit(unfit),
        })?;
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

/// Whether a session was made by this service: other programs may use the same CLI.
pub(super) fn is_ours(entry: &Entry) -> bool {
    entry.client_name.as_deref() == Some(CLIENT_NAME)
}

/// An event of a stored history, without the secrets that a provider may have quoted.
pub(super) fn readable(raw: &str, settings: &Settings) -> Option<Event> {
    let Some(event) = event::parse_stored(raw) else {
        warn!("the CLI has stored an event that makes no sense");
        return None;
    };
    if live::may_quote_a_secret(&event.kind) {
        event::parse_stored(&settings.redact(raw))
    } else {
        Some(event)
    }
}

/// What is told of a stored session.
pub(super) fn stored_summary(key: &SessionKey, entry: Entry, record: Option<Record>) -> Summary {
    let record = record.unwrap_or_default();
    Summary {
        id: key.id().clone(),
        model: record.model.unwrap_or_default(),
        labels: record.labels,
        owner: record.owner,
        state: SessionState::Unloaded,
        title: entry.summary.unwrap_or_default(),
        create_time: entry.start_time,
        update_time: entry.modified_time,
        working_directory: entry.context.and_then(|context| context.cwd).unwrap_or_default(),
    }
}
