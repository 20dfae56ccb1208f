//! CAs of the tests' own, the certificates that they issue, and clients that use them.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

static NUMBER: AtomicUsize = AtomicUsize::new(1);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// Now, and for less than a week.
    NotForLong,
    Before,
    Later,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::of(When::Now)
    }

    pub(crate) fn of(when: When) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two have one name, by which clients and servers find them.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("CA {number} of the tests"));
        set_time(&mut params, when);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a server on loopback.
    pub(crate) fn server(&self) -> Issued {
        self.issue(&["localhost", "127.0.0.1"], When::Now)
    }

    /// A certificate with these names: hosts, addresses and URIs.
    pub(crate) fn issue(&self, names: &[&str], when: When) -> Issued {
        let names = names.iter().map(|name| (*name).to_owned());
        let (uris, hosts): (Vec<String>, Vec<String>) = names.partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(hosts).unwrap();
        params.subject_alt_names.extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_time(&mut params, when);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { cert, key: key.serialize_pem() }
    }
}

fn set_time(params: &mut CertificateParams, when: When) {
    let now = SystemTime::now();
    let (from, to) = match when {
        When::Now => (now - DAY, now + 30 * DAY),
        When::NotForLong => (now - DAY, now + 3 * DAY),
        When::Before => (now - 9 * DAY, now - DAY),
        When::Later => (now + DAY, now + 9 * DAY),
    };
    (params.not_before, params.not_after) = (from.into(), to.into());
}

impl Issued {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

/// A folder of PEM files.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With the certificate and the key of a server: `cert.pem` and `key.pem`.
    pub(crate) fn of(server: &Issued) -> Self {
        let files = Self::new();
        files.put(server);
        files
    }

    pub(crate) fn put(&self, issued: &Issued) {
        self.write("cert.pem", &issued.cert);
        self.write("key.pem", &issued.key);
    }

    /// Writes a file so that it is never there in part.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let part = self.path("part");
        fs::write(&part, text).unwrap();
        fs::rename(part, &path).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A flag that names one of the files.
    pub(crate) fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    /// The flags of a server that has the certificate.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec![self.flag("tls-cert-file", "cert.pem"), self.flag("tls-key-file", "key.pem")]
    }

    /// The same of one that asks clients for theirs, which are from the CA in `ca.pem`.
    pub(crate) fn mutual(&self, ca: &Authority) -> Vec<String> {
        self.write("ca.pem", &ca.pem);
        [self.flags(), vec![self.flag("tls-client-ca-file", "ca.pem")]].concat()
    }
}

/// Who connects: the CA that is trusted, and the certificate that is shown. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    pub(crate) fn new(ca: &Authority, shown: Option<&Issued>) -> Self {
        Self::speaking(ca, shown, &[&TLS13, &TLS12])
    }

    /// One that speaks these versions.
    pub(crate) fn speaking(
        ca: &Authority,
        shown: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match shown {
            Some(shown) => {
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![shown.der()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(Arc::new(config))
    }

    /// Shakes hands.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.0.clone()).connect(name, socket).await
    }

    /// The certificate that the server shows.
    pub(crate) async fn shown_at(&self, address: &str) -> CertificateDer<'static> {
        let stream = self.connect(address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// A channel, as tonic has it.
    pub(crate) async fn channel(&self, address: &str) -> Result<Channel, Error> {
        let (client, address) = (self.clone(), address.to_owned());
        let connect = move |_: Uri| {
            let (client, address) = (client.clone(), address.clone());
            async move { client.connect(&address).await.map(TokioIo::new) }
        };
        Endpoint::from_static("https://localhost").connect_with_connector(service_fn(connect)).await
    }
}
