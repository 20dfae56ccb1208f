//! Errors of folders on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::path::RelativePath;

/// Why a folder cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such folder, or the file without which it is no session's is gone.
    #[error("{} is not there", .path.display())]
    Missing {
        /// What is not there.
        path: PathBuf,
    },
    /// The session's events alone are more than a folder may have.
    #[error("{} has {bytes} bytes of events, and {limit} are the limit", .path.display())]
    TooLarge {
        /// The folder.
        path: PathBuf,
        /// The length of its events.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system refuses.
    #[error("cannot {doing} {}: {problem}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's kind of error, such as that the disk is full.
        kind: io::ErrorKind,
        /// The system's words.
        problem: String,
    },
}

impl Error {
    /// Wraps the system's error about a file within a folder.
    pub(in crate::store) fn at(
        doing: &'static str,
        folder: &Path,
        path: &RelativePath,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = folder.join(path.as_path());
        move |error| Self::io(doing, &path)(error)
    }

    /// Wraps the system's error.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let path = path.to_owned();
            match error.kind() {
                io::ErrorKind::NotFound => Self::Missing { path },
                kind => Self::Io { doing, path, kind, problem: error.to_string() },
            }
        }
    }
}
