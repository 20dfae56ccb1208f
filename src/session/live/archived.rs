//! What of a session's folder is in the archive, and what is new in it.

use std::{collections::BTreeSet, path::PathBuf};

use crate::store::{
    FolderHead, FolderLimits, FolderWrite,
    archive::{encode, wants_snapshot},
    folder::{self, Changes, LeftOut, Manifest, Tracker},
};

/// What of a session's folder is in the archive.
#[derive(Debug)]
pub(super) struct Archived {
    pub(super) tracker: Tracker,
    /// The number of the last chunk; `None`: there is none yet.
    seq: Option<i64>,
    chunks: i64,
    bytes: i64,
    /// The files that are left out, of which it was told.
    left_out: BTreeSet<String>,
}

/// What is new in a session's folder.
#[derive(Debug)]
pub(super) struct News {
    pub(super) write: FolderWrite,
    /// The size of the folder.
    pub(super) bytes: i64,
    pub(super) changes: Changes,
}

impl Archived {
    /// What is known of a folder by what the archive says of it.
    pub(super) fn new(folder: PathBuf, head: Option<FolderHead>) -> Self {
        let (seq, chunks, bytes) =
            head.as_ref().map_or((None, 0, 0), |head| (Some(head.seq), head.chunks, head.bytes));
        // What cannot be read is written anew.
        let manifest = head.and_then(|head| Manifest::decode(&head.manifest).ok());
        let chunks = if manifest.is_some() { chunks } else { i64::MAX };
        Self { tracker: Tracker::new(folder, manifest), seq, chunks, bytes, left_out: BTreeSet::new() }
    }

    /// What is new. Blocks.
    pub(super) fn look(&self, limits: &FolderLimits) -> Result<Option<News>, folder::Error> {
        let mut changes = self.tracker.changes(limits)?;
        if changes.is_empty() && self.seq.is_some() {
            return Ok(None);
        }
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        let is_snapshot =
            self.seq.is_none() || wants_snapshot(number(self.chunks), number(self.bytes), changes.bytes);
        if is_snapshot && self.seq.is_some() {
            changes = self.tracker.snapshot(limits)?;
        }
        let write = FolderWrite {
            after: self.seq,
            data: encode(&changes.ops),
            manifest: changes.manifest.encode(),
            is_snapshot,
        };
        let bytes = i64::try_from(changes.bytes).unwrap_or(i64::MAX);
        Ok(Some(News { write, bytes, changes }))
    }

    /// The archive has it now.
    pub(super) fn took(&mut self, news: News) {
        let News { write, changes, .. } = news;
        let length = i64::try_from(write.data.len()).unwrap_or(i64::MAX);
        (self.chunks, self.bytes) = match write.is_snapshot {
            true => (1, length),
            false => (self.chunks + 1, self.bytes.saturating_add(length)),
        };
        self.seq = Some(self.seq.unwrap_or_default() + 1);
        self.tracker.commit(changes);
    }

    /// Those of the files that are left out of which it was not told yet.
    pub(super) fn news_of(&mut self, left_out: &[LeftOut]) -> Vec<LeftOut> {
        let news = left_out.iter().filter(|file| !self.left_out.contains(&file.path)).cloned();
        let news: Vec<_> = news.take(MAX_TOLD).collect();
        self.left_out.extend(news.iter().map(|file| file.path.clone()));
        news
    }
}

/// Of how many files that are left out it is told at once.
const MAX_TOLD: usize = 10;
