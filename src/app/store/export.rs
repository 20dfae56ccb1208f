//! `store export`: a session into a file.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use tokio::task::spawn_blocking;

use super::{
    check::archived,
    file::{Exported, Record},
    homes::Homes,
};
use crate::{
    app::outcome::Result,
    store::{
        SessionRecord, Store, archive,
        folder::{self, Manifest, Tracker},
    },
};

/// A folder as in the archive: what is in it, and its chunks.
type Folder = (Vec<u8>, Vec<Vec<u8>>);

/// Writes a session to a file, or to standard output for `-`.
pub(super) async fn export(store: &Store, homes: &Homes, tenant: &str, session: &str, file: &Path) -> Result {
    let record =
        store.find(tenant, session).await?.ok_or_else(|| format!("there is no session {session}"))?;
    let (manifest, chunks) = match on_disk(homes, &record).await? {
        Some(folder) => folder,
        None => match archived(store, record.ownership.uid).await? {
            Some((head, chunks)) => verified(head.manifest, chunks).await?,
            None if record.facts.has_message => {
                let (home, node) = (&record.facts.home, &record.facts.home_disk);
                let problem = format!(
                    "the folder of session {session} is neither in the archive nor on this disk: it is in {home:?} of node {node:?}"
                );
                return Err(problem.into());
            }
            None => Folder::default(),
        },
    };
    let exported = Exported { record: of_record(record), manifest, chunks }.write()?;
    if file == Path::new("-") {
        let mut out = io::stdout().lock();
        out.write_all(&exported)?;
        return Ok(out.flush()?);
    }
    // A conversation is for its owner only.
    let written = File::options().write(true).create_new(true).mode(0o600).open(file).and_then(|mut file| {
        file.write_all(&exported)?;
        file.sync_all()
    });
    Ok(written.map_err(|error| format!("cannot write {}: {error}", file.display()))?)
}

/// The folder on this disk, which is never older than the archive.
async fn on_disk(
    homes: &Homes,
    record: &SessionRecord,
) -> std::result::Result<Option<Folder>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(folder) = homes.folder(record) else { return Ok(None) };
    let limits = homes.limits;
    let changes = spawn_blocking(move || Tracker::new(folder, None).changes(&limits)).await?;
    let changes = match changes {
        Err(folder::Error::Missing { .. }) => return Ok(None),
        changes => changes?,
    };
    for file in &changes.left_out {
        writeln!(io::stderr(), "left out: {}: {}", file.path, file.why)?;
    }
    Ok(Some((changes.manifest.encode(), vec![archive::encode(&changes.ops)])))
}

async fn verified(
    manifest: Vec<u8>,
    chunks: Vec<Vec<u8>>,
) -> std::result::Result<Folder, Box<dyn std::error::Error + Send + Sync>> {
    let checked = spawn_blocking(move || {
        let known = Manifest::decode(&manifest).ok();
        archive::verify(&chunks, known.as_ref()).map(|made| (made.encode(), chunks))
    });
    Ok(checked.await??)
}

fn of_record(record: SessionRecord) -> Record {
    let facts = record.facts;
    Record {
        id: record.id,
        cli_id: facts.cli_id,
        owner: facts.owner,
        profile: facts.profile,
        model: facts.model,
        reasoning_effort: facts.reasoning_effort,
        title: facts.title,
        working_directory: facts.working_directory,
        labels: facts.labels,
        settings: facts.settings,
        usage: facts.usage,
        has_message: facts.has_message,
        create_time: record.create_time.rfc3339(),
        update_time: record.update_time.rfc3339(),
    }
}
