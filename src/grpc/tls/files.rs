//! The files of TLS: which there are, what is in them now, and what is wrong with them.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::names::AllowedNames;

/// What a server's TLS is made of. The default is a plaintext port, and no other servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What clients are shown and asked for; `None`: the port is plaintext.
    pub serving: Option<Serving>,
    /// What the certificates of other servers are checked by; `None`: none is called.
    pub peers: Option<Trust>,
}

/// A server's certificate, and what it asks of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// PEM: the certificate, and then those between it and its CA.
    pub certificate: PathBuf,
    /// PEM: its private key, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// What clients have to show; `None`: they are not asked.
    pub clients: Option<Clients>,
}

/// Which certificates of clients are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// PEM: the CAs that they are from.
    pub ca: PathBuf,
    /// Whether a client without one is refused.
    pub is_required: bool,
    /// The names of which they have one.
    pub allowed: AllowedNames,
}

/// What the certificates of servers are checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The CAs that this machine trusts.
    System,
    /// The CAs in a file of PEM.
    File(PathBuf),
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let serving = self.serving.iter().flat_map(|serving| {
            let ca = serving.clients.as_ref().map(|clients| &clients.ca);
            [Some(&serving.certificate), Some(&serving.key), ca].into_iter().flatten()
        });
        let peers = self.peers.iter().filter_map(|trust| match trust {
            Trust::System => None,
            Trust::File(path) => Some(path),
        });
        serving.chain(peers).map(PathBuf::as_path)
    }
}

/// What is in the files at one time.
pub(super) struct Contents(BTreeMap<PathBuf, Result<Zeroizing<Vec<u8>>, String>>);

/// No certificate is so large; a file that is was named by mistake.
const MAX_FILE: u64 = 1024 * 1024;

impl Contents {
    /// Reads all files. Blocks the thread.
    pub(super) fn read(files: &Files) -> Self {
        Self::of(files.paths())
    }

    pub(super) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let read = |path: &Path| read(path).map_err(|error| format!("the file cannot be read: {error}"));
        Self(paths.map(|path| (path.to_owned(), read(path))).collect())
    }

    /// What is in one of the files, which is not empty.
    pub(super) fn get(&self, path: &Path) -> Result<&[u8], String> {
        match self.0.get(path) {
            Some(Ok(content)) if content.iter().all(u8::is_ascii_whitespace) => {
                Err("the file is empty".into())
            }
            Some(Ok(content)) => Ok(content),
            Some(Err(problem)) => Err(problem.clone()),
            None => Err("the file has not been read".into()),
        }
    }

    /// What tells these contents from others. Nothing of a key can be seen from it.
    pub(super) fn digest(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for content in self.0.values() {
            let digest = match content {
                Ok(content) => Sha256::digest(content),
                Err(problem) => Sha256::digest(problem),
            };
            hash.update(digest);
        }
        hash.finalize().to_vec()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) file: PathBuf,
    pub(super) reason: String,
}

/// All that is wrong with the files. Displayed with one problem on each line; nothing of a key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub(super) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Problem { file, reason }) in self.0.iter().enumerate() {
            let line = if number == 0 { "" } else { "\n" };
            write!(f, "{line}{}: {reason}", file.to_string_lossy().escape_debug())?;
        }
        Ok(())
    }
}
