//! `store import`: a session from a file.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    file::{Exported, Record},
    homes::{First, Homes},
    renaming::renamed,
};
use crate::{
    app::outcome::Result,
    session::{Archive, SessionId, SessionKey, Tenant},
    store::{
        Changes, Facts, FolderWrite, Ownership, Settling, Store, Time, archive,
        folder::{self, Manifest},
    },
};

/// The largest file, in bytes. The store takes no larger session.
const MAX_FILE: u64 = 2 * archive::MAX_BYTES;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// Makes a session from a file, or from standard input for `-`.
pub(super) async fn import(
    store: &Store,
    homes: &Homes,
    archive: Archive,
    tenant: &Tenant,
    file: &Path,
    id: Option<String>,
    replace: bool,
) -> Result {
    let Exported { record, mut manifest, mut chunks } = read(file)?;
    let id = id.unwrap_or_else(|| record.id.clone());
    let parsed = SessionId::parse(&id).map_err(|error| format!("{id:?} is no session id: {error}"))?;
    let has_folder = !chunks.is_empty();
    // All that can be wrong with the file is found before anything is changed.
    let mut known = Manifest::decode(&manifest).ok();
    if has_folder {
        archive::verify(&chunks, Some(known.as_ref().ok_or("the file is damaged")?))?;
    }
    let there = store.find(tenant.as_str(), &id).await?;
    let cli_id = match &there {
        Some(there) => there.facts.cli_id.clone(),
        None => SessionKey::new(tenant.clone(), parsed).new_cli_id().to_string(),
    };
    if has_folder && cli_id != record.cli_id {
        chunks = renamed(&chunks, &record.cli_id, &cli_id)?;
        let found = archive::verify(&chunks, None)?;
        manifest = found.encode();
        known = Some(found);
    }
    let (mut facts, created, updated) = facts(record)?;
    if there.is_some() && !replace {
        let advice = "replace it (--replace), or import this one as another (--as ID)";
        return Err(format!("session {id} is there already: {advice}").into());
    }
    // What is there already stays until all of the new one is there, under an id of its own.
    let temporary = there.as_ref().map(|_| format!("import-{}", Uuid::new_v4()));
    let made_as = temporary.clone().unwrap_or_else(|| id.clone());
    facts.cli_id = temporary.unwrap_or_else(|| cli_id.clone());
    let place = if has_folder && archive == Archive::Off { Some(homes.first(&facts.cli_id)?) } else { None };
    if let Some(First { folder, .. }) = &place
        && there.is_none()
        && folder.try_exists()?
        && !replace
    {
        let problem = format!("{} is there already, of a session that is not in the store", folder.display());
        return Err(
            format!("{problem}: replace it (--replace), or import this one as another (--as ID)").into()
        );
    }
    let made = store.create(tenant.as_str(), &made_as, &facts, created).await?;
    let filled = async {
        match &place {
            Some(place) => to_disk(store, made, place, chunks, known, updated).await?,
            None => to_archive(store, made, chunks, manifest, updated).await?,
        }
        match &there {
            Some(there) => Ok(store.replace(there.ownership.uid, made.uid).await?),
            None => Ok(()),
        }
    };
    let folder = place.as_ref().map(|place| place.folder.clone());
    if let Err(error) = filled.await {
        undo(store, made, tenant, &made_as, folder).await?;
        return Err(error);
    }
    match there.map(|there| homes.folder(&there)) {
        Some(old) => spawn_blocking(move || put_in_place(old, folder, &cli_id)).await?,
        None => Ok(()),
    }
}

/// Removes half a session. It is looked for by its id: one that has replaced the other after all has that one's.
async fn undo(
    store: &Store,
    ownership: Ownership,
    tenant: &Tenant,
    made_as: &str,
    folder: Option<PathBuf>,
) -> Result {
    if store.find(tenant.as_str(), made_as).await?.is_none() {
        return Ok(());
    }
    store.delete(ownership).await?;
    if let Some(folder) = folder {
        // It is mostly not there, and if it cannot be removed, that is the same trouble again.
        let _ = spawn_blocking(move || folder::remove(&folder)).await;
    }
    Ok(())
}

/// Removes the folder of the session that was replaced, and gives the new one's the id by which the CLI knows it by now.
fn put_in_place(old: Option<PathBuf>, new: Option<PathBuf>, cli_id: &str) -> Result {
    if let Some(old) = old {
        folder::remove(&old)?;
    }
    if let Some(new) = new {
        let own = new.with_file_name(cli_id);
        folder::remove(&own)?;
        fs::rename(new, own)?;
    }
    Ok(())
}

async fn to_disk(
    store: &Store,
    ownership: Ownership,
    place: &First,
    chunks: Vec<Vec<u8>>,
    manifest: Option<Manifest>,
    updated: Time,
) -> Result {
    let folder = place.folder.clone();
    spawn_blocking(move || archive::restore(&chunks, manifest.as_ref(), &folder)).await??;
    let changes = Changes {
        home: Some(place.home.clone()),
        home_disk: Some(place.node.clone()),
        update_time: Some(updated),
        ..Changes::default()
    };
    Ok(store.change(ownership, &changes).await?)
}

async fn to_archive(
    store: &Store,
    ownership: Ownership,
    chunks: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    updated: Time,
) -> Result {
    let bytes = Manifest::decode(&manifest).ok().and_then(|manifest| i64::try_from(manifest.bytes()).ok());
    let mut after = None;
    for data in chunks {
        let write = FolderWrite { after, data, manifest: manifest.clone(), is_snapshot: after.is_none() };
        store.settle(ownership, &Settling { folder: Some(write), ..Settling::default() }).await?;
        after = store.folder_head(ownership.uid).await?.map(|head| head.seq);
    }
    let changes = Changes { bytes, update_time: Some(updated), ..Changes::default() };
    Ok(store.change(ownership, &changes).await?)
}

fn read(file: &Path) -> std::result::Result<Exported, Boxed> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is larger than any session", file.display()).into());
    }
    Ok(Exported::read(&bytes)?)
}

/// What the record says, when it was made, and when it last changed.
fn facts(record: Record) -> std::result::Result<(Facts, Time, Time), Boxed> {
    let time = |text: &str| Time::parse(text).ok_or_else(|| format!("{text:?} is no time"));
    let (created, updated) = (time(&record.create_time)?, time(&record.update_time)?);
    let facts = Facts {
        owner: record.owner,
        profile: record.profile,
        model: record.model,
        reasoning_effort: record.reasoning_effort,
        title: record.title,
        working_directory: record.working_directory,
        labels: record.labels,
        settings: record.settings,
        has_message: record.has_message,
        usage: record.usage,
        ..Facts::default()
    };
    Ok((facts, created, updated))
}
