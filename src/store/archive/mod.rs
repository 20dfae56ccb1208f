//! The archive's form: what changed in a session's folder as chunks of bytes, and a folder made anew from them.
//!
//! A chunk is what one write brought ([`encode`]); the first is a snapshot, and each follows the one before. A chunk that is cut
//! or has a wrong byte is [`Corrupt`], one that is missing is noticed, and a folder that cannot be restored whole is left alone.

mod chunk;
mod restore;

#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub use chunk::forged;
pub use chunk::{Corrupt, MAX_BYTES, decode, encode};
pub use restore::{RestoreError, restore, verify};

/// How many chunks a folder may be in before it is to be written as a snapshot.
const MAX_CHUNKS: u64 = 64;

/// Chunks of less are never too many bytes.
const SMALL: u64 = 64 << 10;

/// Whether a folder's chunks have become so many, or so large, that the next write should replace them by a snapshot.
pub fn wants_snapshot(chunks: u64, bytes_of_chunks: u64, bytes_of_folder: u64) -> bool {
    chunks > MAX_CHUNKS || bytes_of_chunks > bytes_of_folder.saturating_mul(2).max(SMALL)
}
