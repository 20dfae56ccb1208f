//! `store check`: looks for what does not fit together.

use std::{collections::BTreeSet, io::Write as _};

use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::homes::Homes;
use crate::{
    app::outcome::Result,
    store::{
        self, FolderHead, Order, Query, Sealer, SessionRecord, Store, Uid, archive,
        folder::{self, Manifest},
    },
};

/// How many records are read at once.
const PAGE: usize = 500;

/// What was found.
#[derive(Debug, Default)]
struct Found {
    sessions: u64,
    in_archive: u64,
    on_disk: u64,
    bytes: u64,
    problems: u64,
}

impl Found {
    fn tell(&mut self, session: &str, problem: &str) -> std::io::Result<()> {
        self.problems += 1;
        writeln!(std::io::stdout(), "session {session}: {problem}")
    }
}

/// Goes over all sessions, and fails if anything is wrong.
pub(super) async fn check(store: &Store, homes: &Homes, sealer: Option<&Sealer>) -> Result {
    // Before the records: a session that comes meanwhile is none without a record.
    let on_disk = homes.all()?;
    let (mut found, mut ids) = (Found::default(), BTreeSet::new());
    for tenant in store.tenants().await? {
        let mut query = Query { tenant, order: Order::Oldest, limit: PAGE, ..Query::default() };
        loop {
            let page = store.list(&query).await?;
            let Some(last) = page.last() else { break };
            query.after = Some((last.create_time, last.id.clone()));
            for record in page {
                for problem in session(store, homes, sealer, &record, &mut found).await? {
                    found.tell(&record.id, &problem)?;
                }
                ids.insert(record.facts.cli_id);
            }
        }
    }
    for (home, id) in on_disk {
        if !ids.contains(&id) {
            found.tell(&id, &format!("it has a folder in {home}, and is not in the store"))?;
        }
    }
    let Found { sessions, in_archive, on_disk, bytes, problems } = found;
    writeln!(
        std::io::stdout(),
        "{sessions} sessions, {on_disk} of them on this disk, {in_archive} in the archive with {bytes} bytes"
    )?;
    if problems == 0 { Ok(()) } else { Err(format!("problems: {problems}").into()) }
}

/// What is wrong with a session.
async fn session(
    store: &Store,
    homes: &Homes,
    sealer: Option<&Sealer>,
    record: &SessionRecord,
    found: &mut Found,
) -> std::result::Result<Vec<String>, store::Error> {
    found.sessions += 1;
    let mut problems = Vec::new();
    if serde_json::from_str::<&RawValue>(&record.facts.settings).is_err() {
        problems.push("its settings cannot be read".to_owned());
    }
    if !record.facts.usage.is_empty() && serde_json::from_str::<&RawValue>(&record.facts.usage).is_err() {
        problems.push("its usage cannot be read".to_owned());
    }
    let archived = archived(store, record.ownership.uid).await?;
    let is_archived = archived.is_some();
    if let Some((head, chunks)) = archived {
        found.in_archive += 1;
        found.bytes += u64::try_from(head.bytes).unwrap_or(0);
        problems.extend(wrong_with_archive(head, chunks).await);
    }
    if let Some(folder) = homes.folder(record) {
        match spawn_blocking(move || folder::size(&folder)).await {
            Ok(Ok(_)) => found.on_disk += 1,
            // It is made anew from the archive, or has nothing that would be in a folder.
            Ok(Err(folder::Error::Missing { .. })) if is_archived || !record.facts.has_message => {}
            Ok(Err(error)) => problems.push(error.to_string()),
            Err(error) => problems.push(error.to_string()),
        }
    } else if record.facts.has_message && record.facts.home.is_empty() && !is_archived {
        problems.push("it has messages, but no folder".into());
    }
    if let Some(sealer) = sealer
        && let Some(sealed) = store.credentials(record.ownership.uid).await?
        && let Err(error) = sealer.open(&store::context(&record.tenant, &record.id), &sealed)
    {
        problems.push(format!("its credentials cannot be opened: {error}"));
    }
    Ok(problems)
}

async fn wrong_with_archive(head: FolderHead, chunks: Vec<Vec<u8>>) -> Option<String> {
    let checked = spawn_blocking(move || {
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        if (i64::try_from(chunks.len()), i64::try_from(bytes)) != (Ok(head.chunks), Ok(head.bytes)) {
            return Some("parts of its archive are missing".to_owned());
        }
        let manifest = match Manifest::decode(&head.manifest) {
            Ok(manifest) => manifest,
            Err(error) => return Some(format!("its archive has {error}")),
        };
        archive::verify(&chunks, Some(&manifest)).err().map(|error| error.to_string())
    });
    checked.await.unwrap_or_else(|error| Some(error.to_string()))
}

/// What the archive has of a session, of one time: a server may write to it meanwhile.
pub(super) async fn archived(
    store: &Store,
    uid: Uid,
) -> std::result::Result<Option<(FolderHead, Vec<Vec<u8>>)>, store::Error> {
    /// A session is written once a turn.
    const ATTEMPTS: usize = 5;
    let mut head = store.folder_head(uid).await?;
    for _ in 0..ATTEMPTS {
        let Some(before) = head else { return Ok(None) };
        let chunks = store.folder(uid).await?;
        head = store.folder_head(uid).await?;
        if head.as_ref() == Some(&before) {
            return Ok(Some((before, chunks)));
        }
    }
    Err(store::Error::Conflict)
}
