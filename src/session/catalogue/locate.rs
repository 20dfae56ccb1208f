//! Sessions that a CLI has stored: found, wherever they are.
//!
//! A session is looked for where its id belongs, and if it is not there, everywhere: it was made elsewhere if that CLI was down,
//! if CLIs have come or gone since, or if it is a copy. While a CLI is down that may have it, nobody is told that it does not
//! exist.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};

use crate::{
    backend::{self, Backend, Pool},
    copilot::{
        Rejection,
        method::{Context, Entry, GetClientMetadata, GetMetadata, GetSnapshot},
        settings::CLIENT_NAME,
    },
    session::{
        blueprint::Record,
        id::SessionKey,
        summary::{SessionState, Summary},
    },
};

/// How many records are read at once: as many as the CLI takes (cli-protocol.md, section 14).
const MAX_RECORDS: usize = 1000;

/// How many CLIs are asked for a session at once. Each answers within a millisecond.
const AT_ONCE: usize = 16;

/// A session that is stored.
pub(in crate::session) struct Stored {
    /// By which CLI.
    pub(in crate::session) backend: Backend,
    pub(in crate::session) entry: Entry,
}

/// A session of ours that one of these CLIs has stored.
///
/// # Errors
/// If none of those that can be asked has it, and another may; and if there are none.
pub(in crate::session) async fn find(
    pool: &Pool,
    key: &SessionKey,
) -> Result<Option<Stored>, backend::Error> {
    let order = pool.in_order(key.cli_id());
    if order.is_empty() {
        pool.any()?;
    }
    let (ready, missing): (Vec<_>, Vec<_>) = order.into_iter().partition(Backend::is_ready);
    let mut unknown = None;
    // Mostly it is with the first, and the others need not be asked.
    let (first, others) = ready.split_at(ready.len().min(1));
    // Last those that are away, of which each is waited for if it was there lately.
    for backends in [first, others, &missing] {
        let questions: Vec<_> =
            backends.iter().cloned().map(|backend| find_in(backend, key.clone())).collect();
        // In order: if there should be two of them, everybody gets the same.
        let mut answers = stream::iter(questions).buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => unknown = unknown.or(Some(error)),
            }
        }
    }
    unknown.map_or(Ok(None), Err)
}

async fn find_in(backend: Backend, key: SessionKey) -> Result<Option<Stored>, backend::Error> {
    Ok(stored_in(&backend, &key).await?.map(|entry| Stored { backend, entry }))
}

/// A session of ours that this CLI has stored, or has loaded for another server and not stored yet.
pub(in crate::session) async fn stored_in(
    backend: &Backend,
    key: &SessionKey,
) -> Result<Option<Entry>, backend::Error> {
    let metadata = backend.connected().await?.call(&GetMetadata { session_id: key.cli_id() }).await?;
    match metadata.session {
        Some(entry) => Ok(Some(entry).filter(|entry| is_ours(entry.client_name.as_deref()))),
        None => loaded_in(backend, key.cli_id()).await,
    }
}

/// A session of ours that has no message, and so is on no disk, but loaded: another server has created it.
async fn loaded_in(backend: &Backend, session_id: &str) -> Result<Option<Entry>, backend::Error> {
    let snapshot = match backend.connected().await?.call(&GetSnapshot { session_id }).await {
        Err(backend::Error::Rejected(Rejection::SessionNotFound | Rejection::MethodMissing(_))) => {
            return Ok(None);
        }
        snapshot => snapshot?,
    };
    // By our record we know it for ours: its client's name is not told.
    Ok(records(backend, &[session_id]).await?.remove(session_id).map(|_| Entry {
        session_id: session_id.to_owned(),
        start_time: snapshot.start_time,
        modified_time: snapshot.modified_time,
        summary: None,
        client_name: Some(CLIENT_NAME.to_owned()),
        context: Some(Context { cwd: snapshot.working_directory }),
        unstored: true,
    }))
}

/// What a CLI has stored with these sessions; nothing for those of which nothing is.
pub(in crate::session) async fn records(
    backend: &Backend,
    cli_ids: &[&str],
) -> Result<HashMap<String, Record>, backend::Error> {
    let mut records = HashMap::new();
    for session_ids in cli_ids.chunks(MAX_RECORDS) {
        let question = GetClientMetadata { session_ids, keys: &Record::KEYS };
        match backend.connected().await?.call(&question).await {
            Ok(answers) => records.extend(
                answers
                    .into_iter()
                    .filter_map(|answer| Some((answer.session_id, Record::read(&answer.metadata)?))),
            ),
            // Older CLIs cannot; GetServerInfo says so.
            Err(backend::Error::Rejected(Rejection::MethodMissing(_))) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

/// Whether a session was made by this service: other programs may use the same CLI.
pub(super) fn is_ours(client_name: Option<&str>) -> bool {
    client_name == Some(CLIENT_NAME)
}

/// What is told of a stored session.
pub(in crate::session) fn stored_summary(key: &SessionKey, entry: Entry, record: Option<Record>) -> Summary {
    let record = record.unwrap_or_default();
    Summary {
        id: key.id().clone(),
        model: record.model.unwrap_or_default(),
        reasoning_effort: record.reasoning_effort.unwrap_or_default(),
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
