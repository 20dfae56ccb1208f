//! Folders put in place whole: a crash leaves the old one or the new one, never half of one.
//!
//! A folder is written aside, in a hidden folder beside the sessions' own so that no CLI takes it for a session, and then
//! changes places with the one that is there. This holds when the process dies; when the machine loses power it holds as far as
//! the file system goes, as with what the CLI itself writes.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, FileTimes},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, RenameFlags, renameat, renameat_with},
    io::Errno,
};

use super::{
    directory::Directory,
    error::Error,
    limits::{LeftOut, Limits, Why, leave_out},
    walk::{Walk, walk},
};

/// The folder in which others are written and removed.
const ASIDE: &str = ".copilot-grpc";

/// A folder that is being written.
const NEW: &str = ".new";
/// A folder that made place for another. If that never came, it goes back.
const OLD: &str = ".old";
/// A folder that is being removed.
const GONE: &str = ".gone";

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The number of files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What was not copied.
    pub left_out: Vec<LeftOut>,
}

/// A folder that is being written aside.
#[derive(Debug)]
pub struct Staged {
    pub(crate) directory: Directory,
    /// Its path, for errors.
    pub(crate) path: PathBuf,
}

/// Copies a session's folder, in place of what is at `to`. The session may be loaded where it is, but should be at rest: an
/// unfinished last line of its events is left out.
///
/// # Errors
/// If `from` is not there, or `to` cannot be written; it is then as it was.
pub fn copy(from: &Path, to: &Path, limits: &Limits) -> Result<Copied, Error> {
    let (source, Walk { folders, files, mut left_out, .. }) = walk(from, limits)?;
    fill(to, |Staged { directory, path: staged }| {
        for folder in &folders {
            directory.make_all(folder).map_err(Error::io("make", &staged.join(folder.as_path())))?;
        }
        let mut copied = Copied::default();
        for (path, stamp) in &files {
            let file = match source.file(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if path.is_events() => {
                    return Err(Error::io("read", &from.join(path.as_path()))(error));
                }
                Err(_) => {
                    leave_out(&mut left_out, path, Why::Unreadable);
                    continue;
                }
            };
            let target = directory.create(path);
            let written = target.and_then(|target| copy_file(&file, &target, stamp.len, path.is_log()));
            copied.bytes += written.map_err(Error::io("write", &staged.join(path.as_path())))?;
            copied.files += 1;
        }
        copied.left_out = std::mem::take(&mut left_out);
        Ok(copied)
    })
}

/// Copies at most so many bytes: a file that grows meanwhile would not end.
fn copy_file(from: &File, mut to: &File, len: u64, is_log: bool) -> io::Result<u64> {
    let mut written = io::copy(&mut from.take(len), &mut to)?;
    if is_log {
        written = end_of_lines(to, written)?;
        to.set_len(written)?;
    }
    // By them people find what they look for.
    if let Ok(modified) = from.metadata()?.modified() {
        to.set_times(FileTimes::new().set_modified(modified))?;
    }
    Ok(written)
}

/// Where the last whole line of a file ends.
fn end_of_lines(file: &File, len: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = len;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        // It is at most as large as the block.
        block.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut block, start)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Has a folder written and puts it in place of what is at `to`, if anything is.
///
/// # Errors
/// What `write` returns, or that the folder cannot be put in place. What was at `to` is still there then.
pub fn fill<T, E: From<Error>>(to: &Path, write: impl FnOnce(&Staged) -> Result<T, E>) -> Result<T, E> {
    let place = Place::of(to)?;
    place.clear()?;
    let new = place.aside(NEW);
    let done = place.room.make(&place.name(NEW)).map_err(Error::io("make", &new)).map_err(E::from);
    let done = done.and_then(|directory| write(&Staged { directory, path: new.clone() }));
    match done
        .and_then(|done| place.swap().map(|()| done).map_err(|error| Error::io("replace", to)(error).into()))
    {
        Ok(done) => {
            // Where the two have changed places, the old one is there now. The next one clears what stays.
            let _ = place.clear();
            Ok(done)
        }
        Err(error) => {
            let _ = destroy(&new);
            Err(error)
        }
    }
}

/// Removes a folder, if it is there. It is gone at once; what is in it goes after that.
///
/// # Errors
/// If the file system refuses.
pub fn remove(folder: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(Error::io("look at", folder))?,
    };
    let place = Place::of(folder)?;
    destroy(&place.aside(GONE)).map_err(Error::io("remove", &place.aside(GONE)))?;
    match renameat(place.parent.fd(), &place.last, place.room.fd(), place.name(GONE)) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(Error::io("remove", folder)(error.into())),
    }
    destroy(&place.aside(GONE)).map_err(Error::io("remove", folder))?;
    Ok(true)
}

/// Clears what a process that died has left beside the sessions' folders in this one, to be called before any of them is used.
///
/// # Errors
/// If the file system refuses.
pub fn tidy(sessions: &Path) -> Result<(), Error> {
    let aside = sessions.join(ASIDE);
    let names = match Directory::open(&aside).and_then(|room| room.names(usize::MAX)) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", &aside)(error)),
    };
    for name in names {
        let left = aside.join(&name);
        let is_old = left.extension() == Some(OsStr::new(&OLD[1..]));
        match left.file_stem().filter(|_| is_old) {
            Some(stem) => Place::of(&sessions.join(stem))?.clear()?,
            None => destroy(&left).map_err(Error::io("remove", &left))?,
        }
    }
    Ok(())
}

/// Where a folder is or will be.
struct Place {
    parent: Directory,
    room: Directory,
    aside: PathBuf,
    last: OsString,
}

impl Place {
    fn of(folder: &Path) -> Result<Self, Error> {
        let (Some(above), Some(last)) = (folder.parent(), folder.file_name()) else {
            return Err(Error::io("use", folder)(io::ErrorKind::InvalidFilename.into()));
        };
        let parent = Directory::ensure(above).map_err(Error::io("open", above))?;
        let aside = above.join(ASIDE);
        let room = parent.make(OsStr::new(ASIDE)).map_err(Error::io("open", &aside))?;
        Ok(Self { parent, room, aside, last: last.to_owned() })
    }

    fn name(&self, suffix: &str) -> OsString {
        let mut name = self.last.clone();
        name.push(suffix);
        name
    }

    fn aside(&self, suffix: &str) -> PathBuf {
        self.aside.join(self.name(suffix))
    }

    /// Clears what another has left that died between two steps.
    fn clear(&self) -> Result<(), Error> {
        let (old, new) = (self.aside(OLD), self.aside(NEW));
        if self.kind()?.is_none() {
            match renameat(self.room.fd(), self.name(OLD), self.parent.fd(), &self.last) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(Error::io("move back", &old)(error.into())),
            }
        }
        destroy(&old).map_err(Error::io("remove", &old))?;
        destroy(&new).map_err(Error::io("remove", &new))
    }

    /// What is at the place.
    fn kind(&self) -> Result<Option<FileType>, Error> {
        match self.parent.stat(&self.last) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", &self.aside)(error)),
        }
    }

    /// Puts the new one in place. What was there is aside then.
    fn swap(&self) -> io::Result<()> {
        let (from, to) = (self.room.fd(), self.parent.fd());
        let (new, last) = (self.name(NEW), &self.last);
        match renameat_with(from, &new, to, last, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => return Ok(renameat(from, &new, to, last)?),
            // The file system cannot do this.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
        match renameat(to, last, from, self.name(OLD)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        renameat(from, &new, to, last).inspect_err(|_| {
            let _ = renameat(from, self.name(OLD), to, last);
        })?;
        Ok(())
    }
}

/// Removes whatever is there, with all that is in it. Links are not followed.
fn destroy(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
