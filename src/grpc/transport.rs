//! How a client is connected, and what its connection alone says of who it is.
//!
//! Each request has a [`Transport`] among its extensions. It is a fact, not a decision: who may do what is decided elsewhere. A
//! certificate is here only if the handshake has verified it: it comes from a CA that the operator trusts, it holds at this
//! time, and it has one of the names that are allowed.

use std::{net::SocketAddr, sync::Arc};

/// The connection that a request came on. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Where the client is; `None` on a Unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub(crate) is_tls: bool,
    /// The certificate that the client has shown and proven to have; `None`: it has shown none.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    /// Who has opened the Unix socket, as the kernel tells; `None` on TCP.
    pub(crate) process: Option<ClientProcess>,
}

/// What a verified certificate says of the client that it was issued to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// The DNS names among its subject alternative names.
    pub(crate) dns_names: Vec<String>,
    /// The URIs among them, such as SPIFFE ids.
    pub(crate) uris: Vec<String>,
    /// The email addresses among them.
    pub(crate) emails: Vec<String>,
    /// The common name of its subject. No name that is checked by anyone: for logs, and for CAs that have no other.
    pub(crate) common_name: Option<String>,
    /// SHA-256 over the whole certificate, as 64 lower-case hexadecimal digits.
    pub(crate) fingerprint: String,
}

/// A process at the other end of a Unix socket, as it was when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientProcess {
    /// Its effective user.
    pub(crate) uid: u32,
    /// Its effective group.
    pub(crate) gid: u32,
    /// Its id, where the system tells it. It may have ended since, and another may have its id.
    pub(crate) pid: Option<i32>,
}
