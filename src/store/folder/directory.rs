//! An open directory, in which files are reached by name without following links.
//!
//! A path is checked by the system anew each time it is used, and the agent may have put a link in its middle meanwhile. A
//! directory that is open stays the one it was.

use std::{
    ffi::{OsStr, OsString},
    fs::{DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat, unlinkat},
    io::Errno,
};

use super::path::RelativePath;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    /// Opens one. Links may lead to it, but the last name of the path is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, READ.union(OFlags::DIRECTORY), Mode::empty())?))
    }

    /// Opens one for which missing folders are made, for their owner only.
    pub(super) fn ensure(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::open(path)
    }

    /// Opens the one of this name.
    pub(super) fn directory(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(openat(&self.0, name, READ.union(OFlags::DIRECTORY), Mode::empty())?))
    }

    /// Opens the one of this path.
    pub(super) fn at(&self, path: &RelativePath) -> io::Result<Self> {
        let (folders, name) = path.split();
        self.lead(&folders, Self::directory)?.map_or_else(|| self.directory(name), |dir| dir.directory(name))
    }

    /// Makes a directory of this name for its owner only, if it is not there.
    pub(super) fn make(&self, name: &OsStr) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.directory(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes directories up to this path, if they are not there.
    pub(crate) fn make_all(&self, path: &RelativePath) -> io::Result<()> {
        let (mut names, last) = path.split();
        names.push(last);
        self.lead(&names, Self::make).map(drop)
    }

    /// Some of its names, at most so many.
    pub(super) fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                if names.len() >= most {
                    break;
                }
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// What the system knows of a name, of a link itself.
    pub(super) fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens a regular file to read.
    pub(super) fn file(&self, path: &RelativePath) -> io::Result<File> {
        let file = self.open_at(path, READ, Self::directory)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("it is not a file"))
        }
    }

    /// Makes a file to write and read, with the folders that lead there, for their owner only.
    pub(crate) fn create(&self, path: &RelativePath) -> io::Result<File> {
        self.open_at(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | PLAIN, Self::make)
    }

    /// Opens a file to write at its end.
    pub(crate) fn append(&self, path: &RelativePath) -> io::Result<File> {
        self.open_at(path, OFlags::WRONLY | OFlags::APPEND | PLAIN, Self::directory)
    }

    /// Removes a file.
    pub(crate) fn remove_file(&self, path: &RelativePath) -> io::Result<()> {
        self.unlink(path, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, path: &RelativePath) -> io::Result<()> {
        self.unlink(path, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, path: &RelativePath, flags: AtFlags) -> io::Result<()> {
        let (folders, name) = path.split();
        let dir = self.lead(&folders, Self::directory)?;
        Ok(unlinkat(&dir.as_ref().unwrap_or(self).0, name, flags)?)
    }

    fn open_at(&self, path: &RelativePath, flags: OFlags, step: Step) -> io::Result<File> {
        let (folders, name) = path.split();
        let dir = self.lead(&folders, step)?;
        let fd = openat(&dir.as_ref().unwrap_or(self).0, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(fd.into())
    }

    /// Where these names lead; nowhere else if there are none.
    fn lead(&self, names: &[&OsStr], step: Step) -> io::Result<Option<Self>> {
        names
            .iter()
            .try_fold(None, |dir: Option<Self>, name| step(dir.as_ref().unwrap_or(self), name).map(Some))
    }

    /// The descriptor, for what has no method here.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// How to go on to the directory of a name.
type Step = fn(&Directory, &OsStr) -> io::Result<Directory>;

const PLAIN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Does not wait for the other end of a pipe, should one have taken the place of a file.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(PLAIN);
