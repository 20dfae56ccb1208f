//! Folders of sessions on disk: measured, copied, removed, and what has changed in one since it was archived.
//!
//! What is in such a folder is the CLI's own business. This room knows only that `events.jsonl` is appended line by line, and
//! which files belong to the process that has the session loaded ([`path`]). The agent's tools may write there too: links are
//! never followed, only regular files are read, and what is over a limit is left out and told ([`LeftOut`]).
//!
//! All functions block. Async callers run them with `spawn_blocking`. One folder is for one caller at a time to write.

mod directory;
mod error;
mod limits;
mod manifest;
mod op;
pub mod path;
mod place;
mod tracker;
mod walk;

#[cfg(test)]
mod tests;

pub(in crate::store) use directory::Directory;
pub use error::Error;
pub use limits::{LeftOut, Limits, Why};
pub use manifest::{Entry, Manifest, Unreadable};
pub use op::Op;
pub use path::RelativePath;
pub use place::{Copied, Staged, copy, fill, remove, tidy};
pub use tracker::{Changes, Tracker, changes};
pub use walk::size;
