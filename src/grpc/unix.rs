//! A Unix socket: made so that nobody connects who must not, and removed at the end.
//!
//! Who may connect is decided by the user that the kernel names (`SO_PEERCRED`), not by the file's mode alone: a socket that was
//! passed on, or whose mode somebody has changed, lets nobody else in.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket};

/// How many clients the kernel may hold ready; it cuts this to what it allows.
const BACKLOG: u32 = i32::MAX as u32;

/// A Unix socket that listens, and who may connect to it. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixPort {
    listener: UnixListener,
    users: Vec<u32>,
    file: SocketFile,
}

impl UnixPort {
    /// Opens a socket for these users, by their ids. Where it is only for the server's own user and root, the file's mode is
    /// 0600; for others 0666, and the user of each client decides. What the folder forbids stays forbidden.
    ///
    /// # Errors
    /// If another server listens there, if there is something that is no socket, or if the socket cannot be made.
    pub fn listen(path: &Path, users: Option<&[u32]>) -> io::Result<Self> {
        clear(path)?;
        let own = [rustix::process::geteuid().as_raw(), 0];
        let users = users.unwrap_or(&own).to_vec();
        let is_own = users.iter().all(|user| own.contains(user));
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile::new(path)?;
        // Before it listens, so that nobody has connected by then.
        fs::set_permissions(path, Permissions::from_mode(if is_own { 0o600 } else { 0o666 }))?;
        Ok(Self { listener: socket.listen(BACKLOG)?, users, file })
    }

    /// The socket that clients are accepted from.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whether a user may connect.
    pub(super) fn allows(&self, uid: u32) -> bool {
        self.users.contains(&uid)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Removes the socket of a server that has ended without removing it.
fn clear(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
    }
}

/// The file of a socket, which is removed at the end, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|it| (it.dev(), it.ino()) == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the Unix socket could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_goes_with_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let port = UnixPort::listen(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(port.allows(rustix::process::geteuid().as_raw()) && port.allows(0) && !port.allows(4242));
        drop(port);
        assert!(!path.exists());
        let port = UnixPort::listen(&path, Some(&[4242])).unwrap();
        assert_eq!(mode(&path), 0o666);
        assert!(port.allows(4242) && !port.allows(0));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let port = UnixPort::listen(&path, None).unwrap();
        let refused = UnixPort::listen(&path, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
        // One that another has put there is not ours to remove.
        fs::remove_file(&path).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(port);
        assert!(path.exists());
        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(UnixPort::listen(&file, None).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
