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
