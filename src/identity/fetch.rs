//! Fetches a small document over HTTP: an issuer's keys.
//!
//! One connection for each document, HTTP/1.1, no proxy, no redirects, no cookies: there is little that another server could make this
//! one do. HTTPS with the system's authorities, or with those that are configured.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// How long a fetch may take, from the lookup of the name to the last byte.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Where a document is: an `https://` URL, or an `http://` URL of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    is_https: bool,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write an https:// URL, or an http:// URL of this machine (localhost, 127.0.0.1)";
        let uri: Uri = text.parse().map_err(|_| FORM.to_owned())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(FORM)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_local =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_local => false,
            _ => return Err(FORM.into()),
        };
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { host, port, is_https, uri })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

/// Who may vouch for servers.
#[derive(Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads certificates in PEM.
    ///
    /// # Errors
    /// In words, if there are none, or one cannot be used.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let wrong = || "write certificates in PEM into it (-----BEGIN CERTIFICATE-----)".to_owned();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| wrong())?).map_err(|_| wrong())?;
        }
        if roots.is_empty() { Err(wrong()) } else { Ok(Self(roots.into())) }
    }

    /// Those of the system. What cannot be read of them is left out.
    fn of_system() -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self(roots.into())
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

/// Fetches one document, again and again.
pub(super) struct Fetcher {
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
}

impl Fetcher {
    /// Ready to fetch. The system's certificates are read here, once.
    ///
    /// # Errors
    /// TLS cannot be had, in words.
    pub(super) fn new(endpoint: Endpoint, authorities: Option<Authorities>) -> Result<Self, String> {
        let tls = || {
            let Authorities(roots) = authorities.unwrap_or_else(Authorities::of_system);
            let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let config = config.with_root_certificates(roots).with_no_client_auth();
            Ok::<_, String>(TlsConnector::from(Arc::new(config)))
        };
        let tls = endpoint.is_https.then(tls).transpose()?;
        Ok(Self { endpoint, tls })
    }

    /// Fetches the document, of at most `limit` bytes, within 5 s.
    ///
    /// # Errors
    /// In words: it takes too long, cannot be reached, answers with another status than 200, or with too much.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub(super) async fn fetch(&self, limit: usize) -> Result<Bytes, String> {
        let fetched = timeout(TIME_LIMIT, self.connect_and_get(limit)).await;
        fetched.unwrap_or_else(|_| Err(format!("it took longer than {TIME_LIMIT:?}")))
    }

    async fn connect_and_get(&self, limit: usize) -> Result<Bytes, String> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let unreached = |error: io::Error| format!("it cannot be reached: {error}");
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreached)?;
        match &self.tls {
            None => self.get(stream, limit).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let stream = tls.connect(name, stream).await.map_err(unreached)?;
                self.get(stream, limit).await
            }
        }
    }

    async fn get<S>(&self, stream: S, limit: usize) -> Result<Bytes, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: hyper::Error| format!("it does not answer in HTTP: {error}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let uri = &self.endpoint.uri;
        let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            match response.status() {
                StatusCode::OK => {}
                status if status.is_redirection() => {
                    return Err(format!("it answers {status}: redirects are not followed"));
                }
                status => return Err(format!("it answers {status}")),
            }
            let body = Limited::new(response.into_body(), limit).collect().await;
            body.map(|body| body.to_bytes())
                .map_err(|_| format!("its answer was cut off, or is longer than {} KiB", limit >> 10))
        };
        tokio::pin!(answer, connection);
        // The connection moves the bytes. That it is done may be seen before the answer has been read.
        tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }
}
