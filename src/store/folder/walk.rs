//! What is in a folder, within limits.

use std::{collections::VecDeque, ffi::OsStr, io, path::Path};

use rustix::fs::{FileType, Stat};

use super::{
    directory::Directory,
    error::Error,
    limits::{LeftOut, Limits, Why, leave_out},
    path::{EVENTS, RelativePath, is_of_the_process},
};

/// What the file system says of a file. If none of it has changed, nor has what is in the file, unless it was changed just
/// before it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) len: u64,
    pub(super) inode: u64,
    /// In seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

#[expect(clippy::unnecessary_cast, clippy::cast_possible_wrap, reason = "the types differ by platform")]
impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            inode: stat.st_ino as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// What is taken of a folder.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Those that lead to others come first.
    pub(super) folders: Vec<RelativePath>,
    pub(super) files: Vec<(RelativePath, Stamp)>,
    pub(super) left_out: Vec<LeftOut>,
    /// What is there and cannot be looked at.
    pub(super) unreadable: Vec<RelativePath>,
    pub(super) bytes: u64,
}

/// The bytes of all files in a folder, but those of the process that has the session.
///
/// # Errors
/// If it is not there or cannot be read.
pub fn size(folder: &Path) -> Result<u64, Error> {
    Ok(walk(folder, &Limits::NONE)?.1.bytes)
}

/// Looks at everything in a folder, from the top down: what the CLI itself keeps is at the top, and comes before what the agent
/// has made.
pub(super) fn walk(folder: &Path, limits: &Limits) -> Result<(Directory, Walk), Error> {
    let top = Directory::open(folder).map_err(Error::io("open", folder))?;
    let mut walk = Walk::default();
    let mut ahead = VecDeque::from([None]);
    while let Some(below) = ahead.pop_front() {
        let opened = match &below {
            Some(path) => top.at(path),
            None => top.directory(OsStr::new(".")),
        };
        let room = limits.max_files - walk.len();
        // One more, to know whether there are more.
        let names = opened.and_then(|dir| Ok((dir.names(room.saturating_add(1 + PROCESS_FILES))?, dir)));
        let (mut names, dir) = match (names, below.as_ref()) {
            (Ok(read), _) => read,
            (Err(error), None) => return Err(Error::io("read", folder)(error)),
            (Err(error), Some(path)) => {
                walk.skip(path, &error);
                continue;
            }
        };
        if below.is_none() {
            names.retain(|name| !is_of_the_process(name) && name != EVENTS);
        }
        names.sort_unstable();
        if below.is_none() {
            // It comes first, so that nothing takes its place.
            names.insert(0, EVENTS.into());
        }
        for name in &names {
            let Ok(path) = RelativePath::below(below.as_ref(), name) else {
                let folder = below.as_ref().map(|path| format!("{path}/")).unwrap_or_default();
                leave_out(&mut walk.left_out, format_args!("{folder}{}", name.display()), Why::TooDeep);
                continue;
            };
            let stat = match dir.stat(name) {
                Ok(stat) => stat,
                Err(error) => {
                    walk.skip(&path, &error);
                    continue;
                }
            };
            if walk.len() >= limits.max_files {
                leave_out(&mut walk.left_out, &path, Why::TooMany);
                return Ok((top, walk));
            }
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    walk.folders.push(path.clone());
                    ahead.push_back(Some(path));
                }
                FileType::RegularFile => walk.admit(path, Stamp::from(&stat), folder, limits)?,
                FileType::Symlink => leave_out(&mut walk.left_out, &path, Why::Link),
                _ => leave_out(&mut walk.left_out, &path, Why::Special),
            }
        }
    }
    Ok((top, walk))
}

/// How many files of processes there may be at the top beside the session's own before these are crowded out.
const PROCESS_FILES: usize = 100;

impl Walk {
    fn len(&self) -> usize {
        self.files.len() + self.folders.len()
    }

    fn admit(
        &mut self,
        path: RelativePath,
        stamp: Stamp,
        folder: &Path,
        limits: &Limits,
    ) -> Result<(), Error> {
        let bytes = self.bytes.saturating_add(stamp.len);
        if path.is_events() {
            if bytes > limits.max_bytes {
                let path = folder.to_owned();
                return Err(Error::TooLarge { path, bytes: stamp.len, limit: limits.max_bytes });
            }
        } else if stamp.len > limits.max_file {
            leave_out(&mut self.left_out, &path, Why::TooLarge);
            return Ok(());
        } else if bytes > limits.max_bytes {
            leave_out(&mut self.left_out, &path, Why::Full);
            return Ok(());
        }
        self.bytes = bytes;
        self.files.push((path, stamp));
        Ok(())
    }

    /// What is gone by now was never there; what cannot be read is left out.
    fn skip(&mut self, path: &RelativePath, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            leave_out(&mut self.left_out, path, Why::Unreadable);
            self.unreadable.push(path.clone());
        }
    }
}
