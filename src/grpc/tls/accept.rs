//! The handshake with a client.

use std::{io, sync::Arc};

use rustls::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{certificate, current::Tls};
use crate::{
    grpc::{
        opening::{Refusal, linger},
        transport::ClientCertificate,
    },
    lock::lock,
};

/// A connection to a client, encrypted.
pub(in crate::grpc) type TlsClient = TlsStream<TcpStream>;

impl Tls {
    /// Shakes hands with a client, and gives what its certificate says, if it has shown one.
    ///
    /// # Errors
    /// If it is not done in time, or does not come to an agreement, which the client is told by an alert. The log has it now and
    /// then.
    pub(in crate::grpc) async fn accept(
        &self,
        socket: TcpStream,
        deadline: Instant,
    ) -> Result<(TlsClient, Option<Arc<ClientCertificate>>), Refusal> {
        let set = self.now();
        // A listener has TLS only if it is served.
        let Some(config) = &set.server else { return Err(Refusal::Tls) };
        let handshake = TlsAcceptor::from(config.clone()).accept(socket).into_fallible();
        match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = shown.map(|shown| certificate::names(shown)).transpose();
                let names = names.map_err(io::Error::other)?;
                Ok((stream, names.map(Arc::new)))
            }
            Ok(Err((error, mut socket))) => {
                // Otherwise the alert might be lost with the connection.
                let _ = timeout_at(deadline, linger(&mut socket)).await;
                Err(self.failed(error))
            }
            Err(_) => Err(Refusal::Silent),
        }
    }

    fn failed(&self, error: io::Error) -> Refusal {
        let cause = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let Some(cause) = cause else { return Refusal::Lost(error) };
        if let Error::InvalidMessage(_) = cause {
            return Refusal::Plaintext;
        }
        if let Some(times) = lock(&self.failed).now(1) {
            tracing::warn!(times, reason = %cause, "TLS handshakes with clients have failed");
        }
        Refusal::Handshake(cause.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use rcgen::{CertificateParams, KeyPair, SanType};
    use tokio::net::TcpListener;

    use super::*;
    use crate::grpc::{
        opening,
        tls::{AllowedNames, Clients, Connector, Files, LateRefusal, Serving, Trust},
    };

    /// Writes a certificate that is its own CA, and its key; and gives their files.
    fn issue(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let uri = format!("spiffe://example.org/{name}");
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let files = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        fs::write(&files.0, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    #[tokio::test]
    async fn what_a_clients_certificate_says_comes_with_its_connection() {
        let folder = tempfile::tempdir().unwrap();
        let (server, client) = (issue(folder.path(), "server"), issue(folder.path(), "client"));
        let clients = Clients { ca: client.0.clone(), is_required: false, allowed: AllowedNames::default() };
        let serving = Serving { certificate: server.0.clone(), key: server.1, clients: Some(clients) };
        let tls = Tls::load(Files { serving: Some(serving), peers: None }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for shown in [None, Some((client.0.as_path(), client.1.as_path()))] {
            let connector = Connector::new(&Trust::File(server.0.clone()), shown).unwrap();
            let connecting = async {
                let socket = TcpStream::connect(address).await.unwrap();
                connector.connect("localhost", socket, LateRefusal::default()).await.unwrap()
            };
            let accepting = async {
                let (socket, _) = listener.accept().await.unwrap();
                tls.accept(socket, opening::deadline()).await.unwrap().1
            };
            let (_client, certificate) = tokio::join!(connecting, accepting);
            let uris = certificate.map(|certificate| certificate.uris.clone());
            assert_eq!(uris, shown.map(|_| vec!["spiffe://example.org/client".to_owned()]));
        }
    }
}
