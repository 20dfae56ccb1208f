//! How much of a folder is taken, and what is left out.

use std::fmt;

/// Bounds of what is copied or archived of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest file, in bytes. The session's events may be larger.
    pub max_file: u64,
    /// The most files and folders.
    pub max_files: usize,
    /// The most bytes in all.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_file: 32 << 20, max_files: 10_000, max_bytes: 256 << 20 }
    }
}

impl Limits {
    /// No bounds but of the number of files, for folders that are measured, or moved on this machine.
    pub const NONE: Self = Self { max_file: u64::MAX, max_files: 1_000_000, max_bytes: u64::MAX };
}

/// A file that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path within the folder, as text: what is no text is replaced.
    pub path: String,
    /// Why.
    pub why: Why,
}

/// Why a file is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It is a symbolic link.
    Link,
    /// It is neither a file nor a folder.
    Special,
    /// It is over the limit of a file.
    TooLarge,
    /// The folder is full with it.
    Full,
    /// The folder has too many files: this one and all that would have been looked at after it.
    TooMany,
    /// Its path is too long.
    TooDeep,
    /// The system does not let it be read.
    Unreadable,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "it is a link",
            Self::Special => "it is neither a file nor a folder",
            Self::TooLarge => "it is too large (max_session_file_size)",
            Self::Full => "the session's folder is too large with it (max_session_size)",
            Self::TooMany => "the session's folder has too many files",
            Self::TooDeep => "its path is too long",
            Self::Unreadable => "it cannot be read",
        })
    }
}

/// The most files that are told of. Whoever has more will not read on.
const MAX_TOLD: usize = 100;

/// Notes a file that is left out, if not too many are told of already.
pub(super) fn leave_out(told: &mut Vec<LeftOut>, path: impl fmt::Display, why: Why) {
    if told.len() < MAX_TOLD {
        told.push(LeftOut { path: path.to_string(), why });
    }
}
