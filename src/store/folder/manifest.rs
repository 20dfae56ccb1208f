//! What a folder had in it when it was archived. Small: no content, only lengths and hashes.

use std::collections::{BTreeMap, BTreeSet};

use super::path::RelativePath;

/// What a folder had in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its files.
    pub files: BTreeMap<RelativePath, Entry>,
    /// Its folders.
    pub folders: BTreeSet<RelativePath>,
}

/// What a file had in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How many bytes.
    pub len: u64,
    /// The SHA-256 of these bytes.
    pub sha256: [u8; 32],
}

/// These bytes are no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no list of a folder's files that this version can read")]
pub struct Unreadable;

/// The first byte, which is to change with the form.
const VERSION: u8 = 1;

impl Manifest {
    /// The bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.len).sum()
    }

    /// The manifest as bytes, for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend((self.files.len() as u64).to_le_bytes());
        out.extend((self.folders.len() as u64).to_le_bytes());
        let put_path = |out: &mut Vec<u8>, path: &RelativePath| {
            // A path is at most 4096 bytes long.
            let len = u16::try_from(path.as_bytes().len()).unwrap_or(u16::MAX);
            out.extend(len.to_le_bytes());
            out.extend(path.as_bytes());
        };
        for (path, entry) in &self.files {
            put_path(&mut out, path);
            out.extend(entry.len.to_le_bytes());
            out.extend(entry.sha256);
        }
        for path in &self.folders {
            put_path(&mut out, path);
        }
        out
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// If the bytes are cut, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut manifest = Self::default();
        let Some((&VERSION, mut rest)) = bytes.split_first() else { return Err(Unreadable) };
        let (files, folders) = (take_number(&mut rest)?, take_number(&mut rest)?);
        for _ in 0..files {
            let path = take_path(&mut rest)?;
            let entry = Entry { len: take_number(&mut rest)?, sha256: take(&mut rest)? };
            manifest.files.insert(path, entry);
        }
        for _ in 0..folders {
            manifest.folders.insert(take_path(&mut rest)?);
        }
        if rest.is_empty() { Ok(manifest) } else { Err(Unreadable) }
    }
}

fn take_path(rest: &mut &[u8]) -> Result<RelativePath, Unreadable> {
    let len = u16::from_le_bytes(take(rest)?);
    let (path, after) = rest.split_at_checked(len.into()).ok_or(Unreadable)?;
    *rest = after;
    RelativePath::parse(path).map_err(|_| Unreadable)
}

fn take_number(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    take(rest).map(u64::from_le_bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, after) = rest.split_first_chunk().ok_or(Unreadable)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_a_cut_one_is_none() {
        let path = |text: &[u8]| RelativePath::parse(text).unwrap();
        let manifest = Manifest {
            files: [
                (path(b"events.jsonl"), Entry { len: 7, sha256: [1; 32] }),
                (path(b"files/\xff\n"), Entry { len: 0, sha256: [2; 32] }),
            ]
            .into(),
            folders: [path(b"files")].into(),
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..len]), Err(Unreadable), "{len}");
        }
        assert_eq!(Manifest::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
        assert_eq!(Manifest::decode(&[2]), Err(Unreadable));
    }
}
