//! The form of a session in a file: its record, and its folder as in the archive.
//!
//! A line that says what it is, then the record as JSON, what is in the folder, and the folder's chunks, each with its length
//! before it, and last the SHA-256 of all that. Credentials are not in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The first line. The number is to change with the form.
const FIRST: &[u8] = b"copilot-grpc session 1\n";

/// What the first line begins with in every version.
const WHAT: &[u8] = b"copilot-grpc session ";

const SUM: usize = 32;

/// A session in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exported {
    pub(super) record: Record,
    /// What is in its folder.
    pub(super) manifest: Vec<u8>,
    /// None, if it has no folder.
    pub(super) chunks: Vec<Vec<u8>>,
}

/// A session's record. The texts are the store's.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// The id by which the CLI knows it, which its folder names.
    pub(super) cli_id: String,
    pub(super) owner: String,
    pub(super) profile: String,
    pub(super) model: String,
    pub(super) reasoning_effort: String,
    pub(super) title: String,
    pub(super) working_directory: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) settings: String,
    pub(super) usage: String,
    pub(super) has_message: bool,
    pub(super) create_time: String,
    pub(super) update_time: String,
}

/// Why a file has no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFile {
    #[error("this is no session that copilot-grpc has exported")]
    Other,
    #[error("a newer copilot-grpc has exported this session")]
    Newer,
    #[error("the file is cut or damaged")]
    Damaged,
    #[error("the session's record cannot be read: {0}")]
    Record(String),
}

impl Exported {
    pub(super) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let record = serde_json::to_vec(&self.record)?;
        let mut out = FIRST.to_vec();
        for part in [&record, &self.manifest].into_iter().chain(&self.chunks) {
            out.extend((part.len() as u64).to_le_bytes());
            out.extend(part);
        }
        let sum = Sha256::digest(&out);
        out.extend(sum);
        Ok(out)
    }

    pub(super) fn read(file: &[u8]) -> Result<Self, BadFile> {
        if !file.starts_with(FIRST) {
            return Err(if file.starts_with(WHAT) { BadFile::Newer } else { BadFile::Other });
        }
        let (all, sum) = file.split_last_chunk::<SUM>().ok_or(BadFile::Damaged)?;
        if <[u8; SUM]>::from(Sha256::digest(all)) != *sum {
            return Err(BadFile::Damaged);
        }
        let mut rest = all.get(FIRST.len()..).ok_or(BadFile::Damaged)?;
        let record = take(&mut rest)?;
        let record = serde_json::from_slice(record).map_err(|error| BadFile::Record(error.to_string()))?;
        let manifest = take(&mut rest)?.to_vec();
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            chunks.push(take(&mut rest)?.to_vec());
        }
        Ok(Self { record, manifest, chunks })
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadFile> {
    let (len, after) = rest.split_first_chunk().ok_or(BadFile::Damaged)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| BadFile::Damaged)?;
    let (part, after) = after.split_at_checked(len).ok_or(BadFile::Damaged)?;
    *rest = after;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_as_it_was_written_and_a_damaged_file_is_none() {
        let record = Record { id: "x".into(), title: "A title".into(), ..Record::default() };
        let exported = Exported { record, manifest: b"m".into(), chunks: vec![b"one".into(), b"".into()] };
        let file = exported.write().unwrap();
        assert_eq!(Exported::read(&file), Ok(exported));
        for at in FIRST.len()..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert_eq!(Exported::read(&flipped), Err(BadFile::Damaged), "{at}");
            assert_eq!(Exported::read(&file[..at]), Err(BadFile::Damaged), "{at}");
        }
        assert_eq!(Exported::read(b"PK"), Err(BadFile::Other));
        assert_eq!(Exported::read(b"copilot-grpc session 2\n"), Err(BadFile::Newer));
    }
}
