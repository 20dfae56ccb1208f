//! The handshake with a server, as its client: with another server that shares the store, or from the command line.
//!
//! In TLS 1.3 a client is done before the server has judged its certificate. That the server refuses it is an alert in place of the
//! first answer, which [`TlsServer`] notes before anybody else makes another error of it.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use rustls::{AlertDescription, ClientConfig, Error, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    current::Tls,
    files::{Problems, Trust},
    set,
};

/// How a client shakes hands with servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Connector(Arc<ClientConfig>);

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub(in crate::grpc) enum Unsafe {
    /// The server's certificate is not one of those that are trusted, or has another name.
    #[error("its certificate is not trusted: {0}")]
    Untrusted(Error),
    /// The server refuses this client.
    #[error("it refuses the certificate of this side, or that there is none: {0:?}")]
    Refused(AlertDescription),
    /// It does something else.
    #[error("it does not speak TLS: {0}")]
    NoTls(Error),
    /// The connection was lost.
    #[error("{0}")]
    Lost(#[from] io::Error),
}

impl Connector {
    /// One that trusts these CAs, and shows this certificate with its key to servers that ask for one.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub(in crate::grpc) fn new(trust: &Trust, shown: Option<(&Path, &Path)>) -> Result<Self, Problems> {
        set::client_config(trust, shown).map(Self)
    }

    /// Shakes hands with the server of this name, which its certificate must have: a host name, or an IP address. `refusal` tells
    /// afterwards whether the server has refused this client.
    ///
    /// # Errors
    /// If the server is not trusted, refuses, or speaks something else.
    pub(in crate::grpc) async fn connect(
        &self,
        host: &str,
        socket: TcpStream,
        refusal: LateRefusal,
    ) -> Result<TlsServer, Unsafe> {
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| Unsafe::Lost(io::Error::other(error)))?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, socket).await;
        stream.map(|stream| TlsServer { stream, refusal }).map_err(reason)
    }
}

impl Tls {
    /// How this server connects to those that share the store; `None`: there are none.
    pub(in crate::grpc) fn connector(&self) -> Option<Connector> {
        self.now().client.clone().map(Connector)
    }
}

fn reason(error: io::Error) -> Unsafe {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => Unsafe::Refused(*alert),
        Some(error @ Error::InvalidCertificate(_)) => Unsafe::Untrusted(error.clone()),
        Some(error) => Unsafe::NoTls(error.clone()),
        None => Unsafe::Lost(error),
    }
}

/// That a server has refused its client after the handshake. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct LateRefusal(Arc<OnceLock<AlertDescription>>);

impl LateRefusal {
    /// The alert, if there was one.
    pub(in crate::grpc) fn get(&self) -> Option<AlertDescription> {
        self.0.get().copied()
    }
}

/// A connection to a server, encrypted.
#[derive(Debug)]
pub(in crate::grpc) struct TlsServer {
    stream: TlsStream<TcpStream>,
    refusal: LateRefusal,
}

impl AsyncRead for TlsServer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(Error::AlertReceived(alert)) = error.get_ref().and_then(|error| error.downcast_ref())
        {
            // The first one counts.
            let _ = self.refusal.0.set(*alert);
        }
        read
    }
}

impl AsyncWrite for TlsServer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
