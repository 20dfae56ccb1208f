//! A session's folder, made anew from its archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::chunk::{Corrupt, MAX_BYTES, decode};
use crate::store::folder::{self, Directory, Entry, Manifest, Op, RelativePath, Staged, fill};

/// Why a folder cannot be made from its archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// There is nothing to make it from.
    #[error("the session has no archive")]
    Empty,
    /// A chunk cannot be read.
    #[error("part {chunk} of the session's archive: {problem}")]
    Corrupt {
        /// Which, counted from 0.
        chunk: usize,
        /// What is wrong with it.
        problem: Corrupt,
    },
    /// A chunk does not follow the one before: one is missing.
    #[error("part {chunk} of the session's archive does not follow the one before ({path})")]
    Gap {
        /// Which, counted from 0.
        chunk: usize,
        /// The file that shows it.
        path: RelativePath,
    },
    /// All chunks can be read, but make another folder than the one that was archived.
    #[error("the session's archive is not whole: it makes another folder than the one that was archived")]
    Differs,
    /// The folder cannot be written.
    #[error(transparent)]
    Folder(#[from] folder::Error),
}

/// Makes a folder from its chunks, in their order, in place of what is at `to`. `archived` is what it must have in it then, if
/// that is known. Blocks.
///
/// # Errors
/// If it cannot be made whole. What was at `to` is still there then.
pub fn restore(
    chunks: &[impl AsRef<[u8]>],
    archived: Option<&Manifest>,
    to: &Path,
) -> Result<Manifest, RestoreError> {
    fill(to, |staged| Growing::grow(chunks, archived, Some(staged)))
}

/// Checks that a folder can be made from its chunks, and makes none. Blocks.
///
/// # Errors
/// Those of [`restore`] that are not the disk's.
pub fn verify(chunks: &[impl AsRef<[u8]>], archived: Option<&Manifest>) -> Result<Manifest, RestoreError> {
    Growing::grow(chunks, archived, None)
}

/// A folder as far as it is written, or would be.
struct Growing<'a> {
    staged: Option<&'a Staged>,
    files: BTreeMap<RelativePath, (u64, Sha256)>,
    folders: BTreeSet<RelativePath>,
    /// All that was written, also what was removed again.
    bytes: u64,
}

impl<'a> Growing<'a> {
    fn grow(
        chunks: &[impl AsRef<[u8]>],
        archived: Option<&Manifest>,
        staged: Option<&'a Staged>,
    ) -> Result<Manifest, RestoreError> {
        if chunks.is_empty() {
            return Err(RestoreError::Empty);
        }
        let mut growing = Self { staged, files: BTreeMap::new(), folders: BTreeSet::new(), bytes: 0 };
        for (chunk, bytes) in chunks.iter().enumerate() {
            let corrupt = |problem| RestoreError::Corrupt { chunk, problem };
            for op in decode(bytes.as_ref()).map_err(corrupt)? {
                growing.apply(op, chunk)?;
            }
        }
        let made = growing.into_manifest();
        if archived.is_some_and(|archived| *archived != made) { Err(RestoreError::Differs) } else { Ok(made) }
    }

    fn apply(&mut self, op: Op, chunk: usize) -> Result<(), RestoreError> {
        match op {
            Op::Put { path, data } => {
                self.count(data.len(), chunk)?;
                let is_there = self.files.remove(&path).is_some();
                self.on_disk(&path, |directory| {
                    if is_there {
                        directory.remove_file(&path)?;
                    }
                    directory.create(&path)?.write_all(&data)
                })?;
                self.files.insert(path, (data.len() as u64, Sha256::new().chain_update(&data)));
            }
            Op::Append { path, from, data } => {
                self.count(data.len(), chunk)?;
                let Some((len, hasher)) = self.files.get_mut(&path).filter(|(len, _)| *len == from) else {
                    return Err(RestoreError::Gap { chunk, path });
                };
                *len += data.len() as u64;
                hasher.update(&data);
                self.on_disk(&path, |directory| directory.append(&path)?.write_all(&data))?;
            }
            Op::Folder { path } => {
                self.on_disk(&path, |directory| directory.make_all(&path))?;
                self.folders.insert(path);
            }
            Op::Remove { path } if self.files.remove(&path).is_some() => {
                self.on_disk(&path, |directory| directory.remove_file(&path))?;
            }
            Op::Remove { path } if self.folders.remove(&path) => {
                self.on_disk(&path, |directory| directory.remove_directory(&path))?;
            }
            Op::Remove { path } => return Err(RestoreError::Gap { chunk, path }),
        }
        Ok(())
    }

    fn on_disk(
        &self,
        path: &RelativePath,
        write: impl FnOnce(&Directory) -> io::Result<()>,
    ) -> Result<(), RestoreError> {
        let Some(Staged { directory, path: top }) = self.staged else { return Ok(()) };
        Ok(write(directory).map_err(folder::Error::at("write", top, path))?)
    }

    /// Bounds what is written in all.
    fn count(&mut self, bytes: usize, chunk: usize) -> Result<(), RestoreError> {
        self.bytes += bytes as u64;
        // More than one, for chunks that together replace what is in others.
        if self.bytes > 4 * MAX_BYTES {
            return Err(RestoreError::Corrupt { chunk, problem: Corrupt::TooLarge });
        }
        Ok(())
    }

    fn into_manifest(self) -> Manifest {
        let entry = |(len, hasher): (u64, Sha256)| Entry { len, sha256: hasher.finalize().into() };
        let files = self.files.into_iter().map(|(path, file)| (path, entry(file))).collect();
        Manifest { files, folders: self.folders }
    }
}
