//! What has changed in a folder since the store last took it.
//!
//! After most turns a few kilobytes have come to the end of the events, and one small file was written anew. So a file is only
//! read if the file system says that it has changed, and of the events only what is new: hashing goes on where it ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{
    error::Error,
    limits::{LeftOut, Limits, Why, leave_out},
    manifest::{Entry, Manifest},
    op::Op,
    path::{EVENTS, RelativePath},
    walk::{Stamp, Walk, walk},
};

/// A file that was changed less than this before it was read may change again within the same time stamp, which some file
/// systems write in whole seconds. In seconds.
const UNSETTLED: i64 = 2;

/// How much of the end of a log is compared to know that it was appended to and not written anew, in bytes. It has the last
/// event's id and time.
const TAIL: usize = 4096;

/// What has changed in a folder.
#[derive(Debug)]
pub struct Changes {
    /// The changes. They are to be applied in this order.
    pub ops: Vec<Op>,
    /// What the folder has in it with them.
    pub manifest: Manifest,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
    /// The bytes of all files that are in it.
    pub bytes: u64,
    /// What the tracker will know.
    next: Next,
}

impl Changes {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

#[derive(Debug)]
struct Next {
    files: Vec<(RelativePath, Known)>,
    /// Whether the files are all that there are, and what was known before is not.
    is_whole: bool,
}

/// Tells what has changed in a folder since the store last took it.
///
/// It trusts that the CLI only appends to its logs, or writes them anew: when an old line is changed in place, the next
/// [`snapshot`](Self::snapshot) has it.
#[derive(Debug)]
pub struct Tracker {
    folder: PathBuf,
    files: BTreeMap<RelativePath, Known>,
    folders: BTreeSet<RelativePath>,
}

/// A file as the store has it.
#[derive(Clone, Debug)]
struct Known {
    entry: Entry,
    /// How it was when it was read, if this tracker has read it.
    seen: Option<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    stamp: Stamp,
    /// Whether a change would show in the stamp.
    is_settled: bool,
    /// After the bytes of the entry.
    hasher: Sha256,
    /// The hash of the last bytes of the entry.
    tail: [u8; 32],
}

/// What has changed in a folder that is not tracked.
///
/// # Errors
/// As for [`Tracker::changes`].
pub fn changes(folder: &Path, since: &Manifest, limits: &Limits) -> Result<Changes, Error> {
    Tracker::new(folder, Some(since.clone())).changes(limits)
}

impl Tracker {
    /// Tracks a folder of which the store has this, or nothing yet. Reads nothing.
    pub fn new(folder: impl Into<PathBuf>, stored: Option<Manifest>) -> Self {
        let Manifest { files, folders } = stored.unwrap_or_default();
        let files = files.into_iter().map(|(path, entry)| (path, Known { entry, seen: None })).collect();
        Self { folder: folder.into(), files, folders }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the store has.
    pub fn manifest(&self) -> Manifest {
        let files = self.files.iter().map(|(path, known)| (path.clone(), known.entry)).collect();
        Manifest { files, folders: self.folders.clone() }
    }

    /// What has changed. It will be told again until it is committed.
    ///
    /// # Errors
    /// If the folder or its events are not there or cannot be read: the store then keeps what it has.
    pub fn changes(&self, limits: &Limits) -> Result<Changes, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let (top, Walk { folders, files, mut left_out, mut unreadable, .. }) = walk(&self.folder, limits)?;
        let (mut writes, mut next, mut manifest) = (Vec::new(), Vec::new(), Manifest::default());
        for (path, stamp) in files {
            let known = self.files.get(&path);
            let unchanged = known.filter(|known| {
                known.seen.as_ref().is_some_and(|seen| seen.is_settled && seen.stamp == stamp)
            });
            if let Some(known) = unchanged {
                manifest.files.insert(path, known.entry);
                continue;
            }
            let is_settled = stamp.modified.0 < now.saturating_sub(UNSETTLED);
            match top.file(&path).and_then(|file| read(&file, &path, stamp, is_settled, known)) {
                Ok((known, op)) => {
                    writes.extend(op);
                    manifest.files.insert(path.clone(), known.entry);
                    next.push((path, known));
                }
                Err(error) if path.is_events() => {
                    return Err(Error::io("read", &self.folder.join(EVENTS))(error));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    leave_out(&mut left_out, &path, Why::Unreadable);
                    unreadable.push(path);
                }
            }
        }
        manifest.folders.extend(folders);
        let lost = |path: &RelativePath| path.is_events() && !manifest.files.contains_key(path);
        if self.files.keys().any(lost) {
            // A folder that somebody is wiping is not taken for what the session is now.
            return Err(Error::Missing { path: self.folder.join(EVENTS) });
        }
        // What the store has of it is better than nothing.
        let unreadable: BTreeSet<_> = unreadable.iter().map(RelativePath::as_bytes).collect();
        let is_kept = |path: &RelativePath| path.way().any(|way| unreadable.contains(way));
        let kept = self.files.iter().filter(|(path, _)| is_kept(path));
        manifest.files.extend(kept.map(|(path, known)| (path.clone(), known.entry)));
        manifest.folders.extend(self.folders.iter().filter(|path| is_kept(path)).cloned());
        let mut ops = self.removed(&manifest);
        let made = manifest.folders.difference(&self.folders);
        ops.extend(made.map(|path| Op::Folder { path: path.clone() }));
        ops.append(&mut writes);
        let (bytes, next) = (manifest.bytes(), Next { files: next, is_whole: false });
        Ok(Changes { ops, manifest, left_out, bytes, next })
    }

    /// All of the folder, in place of all that the store has.
    ///
    /// # Errors
    /// As for [`changes`](Self::changes).
    pub fn snapshot(&self, limits: &Limits) -> Result<Changes, Error> {
        let mut changes = Self::new(self.folder.clone(), None).changes(limits)?;
        if self.files.keys().any(RelativePath::is_events)
            && !changes.manifest.files.keys().any(RelativePath::is_events)
        {
            return Err(Error::Missing { path: self.folder.join(EVENTS) });
        }
        changes.next.is_whole = true;
        Ok(changes)
    }

    /// The store has taken these changes, which must be the last that were told.
    pub fn commit(&mut self, changes: Changes) {
        let Changes { manifest, next, .. } = changes;
        if next.is_whole {
            self.files.clear();
        }
        self.files.extend(next.files);
        self.files.retain(|path, _| manifest.files.contains_key(path));
        self.folders = manifest.folders;
    }

    /// What is no longer there, from the inside out.
    fn removed(&self, now: &Manifest) -> Vec<Op> {
        let files = self.files.keys().filter(|path| !now.files.contains_key(*path));
        let mut gone: Vec<_> = files.chain(self.folders.difference(&now.folders)).collect();
        gone.sort_unstable();
        gone.into_iter().rev().map(|path| Op::Remove { path: path.clone() }).collect()
    }
}

/// Reads what is new in a file.
fn read(
    file: &File,
    path: &RelativePath,
    stamp: Stamp,
    is_settled: bool,
    known: Option<&Known>,
) -> io::Result<(Known, Option<Op>)> {
    if path.is_log()
        && let Some(Known { entry, seen: Some(seen) }) = known
        && let Some(appended) = appended(file, stamp, entry, seen)?
    {
        let from = entry.len;
        let mut hasher = seen.hasher.clone();
        hasher.update(&appended.data);
        let entry =
            Entry { len: from + appended.data.len() as u64, sha256: hasher.clone().finalize().into() };
        let seen = Seen { stamp, is_settled, hasher, tail: appended.tail };
        let op = Op::Append { path: path.clone(), from, data: appended.data };
        return Ok((Known { entry, seen: Some(seen) }, (entry.len > from).then_some(op)));
    }
    let mut data = Vec::with_capacity(usize::try_from(stamp.len).unwrap_or(0).min(READ_AHEAD));
    file.take(stamp.len).read_to_end(&mut data)?;
    if path.is_log() {
        data.truncate(whole_lines(&data));
    }
    let data = Bytes::from(data);
    let mut hasher = Sha256::new();
    let before = known.map(|known| known.entry).and_then(|entry| {
        let len = usize::try_from(entry.len).ok()?;
        hasher.update(data.get(..len)?);
        Some((len, <[u8; 32]>::from(hasher.clone().finalize()) == entry.sha256))
    });
    hasher.update(&data[before.map_or(0, |(len, _)| len)..]);
    let entry = Entry { len: data.len() as u64, sha256: hasher.clone().finalize().into() };
    let seen = Seen { stamp, is_settled, hasher, tail: tail(&data) };
    let path = path.clone();
    let op = match before {
        Some((len, true)) if len == data.len() => None,
        // An empty file that was filled is one that is written.
        Some((len, true)) if len > 0 => Some(Op::Append { path, from: len as u64, data: data.slice(len..) }),
        _ => Some(Op::Put { path, data }),
    };
    Ok((Known { entry, seen: Some(seen) }, op))
}

/// How much memory is taken for a file before it is read, in bytes: it may be shorter by then.
const READ_AHEAD: usize = 1 << 20;

struct Appended {
    data: Bytes,
    tail: [u8; 32],
}

/// The lines that have come to the end of a log, if it is the one that was seen.
fn appended(file: &File, stamp: Stamp, entry: &Entry, seen: &Seen) -> io::Result<Option<Appended>> {
    if stamp.inode != seen.stamp.inode || stamp.len < entry.len {
        return Ok(None);
    }
    let old = entry.len.min(TAIL as u64);
    let start = entry.len - old;
    let mut read = vec![0; usize::try_from(stamp.len - start).unwrap_or(0)];
    match file.read_exact_at(&mut read, start) {
        // It has become shorter meanwhile.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let Some((before, data)) = usize::try_from(old).ok().and_then(|old| read.split_at_checked(old)) else {
        return Ok(None);
    };
    if tail(before) != seen.tail {
        return Ok(None);
    }
    let (old, end) = (before.len(), before.len() + whole_lines(data));
    read.truncate(end);
    let tail = tail(&read);
    Ok(Some(Appended { data: Bytes::from(read).slice(old..), tail }))
}

/// The hash of the last bytes.
fn tail(data: &[u8]) -> [u8; 32] {
    let start = data.len().saturating_sub(TAIL);
    Sha256::digest(&data[start..]).into()
}

/// The length of all whole lines.
fn whole_lines(data: &[u8]) -> usize {
    memchr::memrchr(b'\n', data).map_or(0, |at| at + 1)
}
