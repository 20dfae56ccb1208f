//! Paths within a session's folder, and the names in it that mean something.

use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path},
};

/// The longest path, in bytes: as long as one that Linux takes.
const MAX_LEN: usize = 4096;

/// The most names in a path.
const MAX_DEPTH: usize = 32;

/// The longest name, in bytes: as long as one that file systems take.
const MAX_NAME: usize = 255;

/// What has been said and done in the session, an event a line. Without it there is no session.
pub const EVENTS: &str = "events.jsonl";

/// A path within a session's folder that stays in it: relative, without `.`, `..` or empty names. Bytes, for a name need not
/// be text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Box<[u8]>);

/// The path is none within a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no path within a session's folder")]
pub struct BadPath;

impl RelativePath {
    /// Checks a path.
    ///
    /// # Errors
    /// If it is absolute, empty, too long or too deep, or has a name that leads elsewhere.
    pub fn parse(path: &[u8]) -> Result<Self, BadPath> {
        let is_name = |name: &[u8]| {
            !name.is_empty() && name.len() <= MAX_NAME && name != b"." && name != b".." && !name.contains(&0)
        };
        let mut names = path.split(|&byte| byte == b'/');
        let is_fine = path.len() <= MAX_LEN && names.by_ref().take(MAX_DEPTH).all(is_name);
        if is_fine && names.next().is_none() { Ok(Self(path.into())) } else { Err(BadPath) }
    }

    /// The path of a name in this folder, or in the topmost.
    pub(super) fn below(folder: Option<&Self>, name: &OsStr) -> Result<Self, BadPath> {
        match folder {
            Some(Self(folder)) => Self::parse(&[folder, b"/".as_slice(), name.as_bytes()].concat()),
            None => Self::parse(name.as_bytes()),
        }
    }

    /// The folders that lead there and this itself, as paths in bytes.
    pub(super) fn way(&self) -> impl Iterator<Item = &[u8]> {
        memchr::memchr_iter(b'/', &self.0).chain([self.0.len()]).map(|end| &self.0[..end])
    }

    /// The path as bytes, without a `/` at its beginning or end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the file system.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The folders that lead there, and the last name.
    pub(super) fn split(&self) -> (Vec<&OsStr>, &OsStr) {
        let mut names: Vec<_> = self
            .as_path()
            .components()
            .filter_map(|name| if let Component::Normal(name) = name { Some(name) } else { None })
            .collect();
        // A path has at least one name.
        let last = names.pop().unwrap_or_default();
        (names, last)
    }

    /// Whether this is the file of the session's events.
    pub(super) fn is_events(&self) -> bool {
        *self.0 == *EVENTS.as_bytes()
    }

    /// Whether the CLI appends to this file line by line. Below the top such a file may be the agent's own work.
    pub(super) fn is_log(&self) -> bool {
        !self.0.contains(&b'/') && self.0.ends_with(b".jsonl")
    }
}

/// Whether a name in the topmost folder belongs to the process that has the session loaded. Another process would take it for
/// a sign that the session is in use.
pub(super) fn is_of_the_process(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_lock = name.ends_with(b".lock");
    (name.starts_with(b"inuse.") && (is_lock || name.ends_with(b".hold")))
        || (name.starts_with(b".") && is_lock)
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).escape_debug().fmt(f)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_path_goes_by_its_folders() {
        let path = RelativePath::parse(b"a/bc/d").unwrap();
        assert!(path.way().eq([&b"a"[..], b"a/bc", b"a/bc/d"]));
    }

    #[test]
    fn a_path_stays_in_its_folder() {
        for good in ["a", "a/b", "...", "a b", "a\nb", ".hidden", "files/..x"] {
            assert!(RelativePath::parse(good.as_bytes()).is_ok(), "{good:?}");
        }
        assert!(RelativePath::parse(b"\xff\xfe").is_ok());
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b"] {
            assert_eq!(RelativePath::parse(bad.as_bytes()), Err(BadPath), "{bad:?}");
        }
        let deep = |names| vec!["a"; names].join("/");
        assert!(RelativePath::parse(deep(MAX_DEPTH).as_bytes()).is_ok());
        assert!(RelativePath::parse(deep(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(RelativePath::parse("a".repeat(MAX_NAME + 1).as_bytes()).is_err());
        assert!(RelativePath::parse(vec!["a".repeat(MAX_NAME); 17].join("/").as_bytes()).is_err());
    }

    #[test]
    fn files_of_the_process_are_known_by_their_names() {
        for its in ["inuse.4711.lock", "inuse.4711.hold", ".session.lock", ".lock"] {
            assert!(is_of_the_process(OsStr::new(its)), "{its}");
        }
        for other in ["events.jsonl", "inuse.txt", "yarn.lock", ".lock.txt", "hold"] {
            assert!(!is_of_the_process(OsStr::new(other)), "{other}");
        }
    }
}
