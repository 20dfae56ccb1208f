//! What a call brings to show who makes it.

use std::{fmt, net::IpAddr};

/// What a call brings. Nothing of it has been checked, but for the certificate, whose chain TLS has verified, and the user id,
/// which the kernel tells.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The value of the `authorization` header. Whoever finds more than one refuses the call.
    pub authorization: Option<&'a [u8]>,
    /// The value of the `x-forwarded-client-cert` header. Several are joined with commas, in their order (RFC 9110, section 5.3).
    pub forwarded_client_cert: Option<&'a [u8]>,
    /// The names in the client's certificate.
    pub certificate: Option<&'a CertificateNames>,
    /// The user whose process is at the other end of a Unix socket.
    pub uid: Option<u32>,
    /// Where the connection comes from; `None` for a Unix socket.
    pub from: Option<IpAddr>,
}

/// The names in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// Subject alternative names of type dNSName.
    pub dns: Vec<String>,
    /// Subject alternative names of type URI, such as SPIFFE ids.
    pub uri: Vec<String>,
    /// Subject alternative names of type rfc822Name.
    pub email: Vec<String>,
    /// The common name of the subject, which counts as a DNS name if there are no alternative names.
    pub common_name: Option<String>,
    /// The SHA-256 hash of the certificate, for the log.
    pub sha256: Option<[u8; 32]>,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("authorization", &self.authorization.map(|_| "[redacted]"))
            .field("forwarded_client_cert", &self.forwarded_client_cert.map(|_| "[redacted]"))
            .field("certificate", &self.certificate)
            .field("uid", &self.uid)
            .field("from", &self.from)
            .finish()
    }
}
