//! One connection to another server: opened, over TLS where the other side has it, and as a service for tonic's client.

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::AlertDescription;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::body::Body;
use tower::Service;

use crate::{
    grpc::tls::{Connector, LateRefusal, Unsafe},
    session::Peer,
};

/// How long a connection with open calls may be silent before it is pinged, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How the address of a server begins that speaks TLS.
const TLS: &str = "https://";

/// Why a call has not reached another server, or has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent.
    NotSent(String),
    /// It may have been done.
    Lost(String),
    /// It is never to be tried again: the operator has to mend something.
    Misled(String),
}

/// A connection, for tonic's client.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) sender: http2::SendRequest<Body>,
    pub(super) origin: Uri,
    /// Whether the other side has refused this server's certificate.
    pub(super) refused: LateRefusal,
}

impl Sender {
    /// Opens a connection.
    ///
    /// # Errors
    /// If the other side cannot be reached, or is not to be trusted, or does not trust this side.
    pub(super) async fn connect(peer: &Peer, tls: Option<Connector>) -> Result<Self, Failure> {
        let name = &peer.incarnation.node;
        if peer.address.is_empty() {
            return Err(Failure::Misled(format!(
                "server {name}, which has the session, tells the others no address (advertise)"
            )));
        }
        let no_address = || {
            Failure::Misled(format!(
                "server {name} advertises {}, which is no address (advertise)",
                peer.address
            ))
        };
        let (tls, address) = match peer.address.strip_prefix(TLS) {
            Some(address) => (Some(tls.ok_or_else(no_address)?), address),
            None => (None, peer.address.as_str()),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin: Uri = format!("{scheme}://{address}").parse().map_err(|_| no_address())?;
        let not_sent = |error: io::Error| Failure::NotSent(format!("{}: {error}", peer.address));
        let socket = TcpStream::connect(address).await.map_err(not_sent)?;
        socket.set_nodelay(true).map_err(not_sent)?;
        let Some(tls) = tls else { return Self::open(socket, origin, LateRefusal::default()).await };
        let host = origin.host().unwrap_or_default();
        let refused = LateRefusal::default();
        let stream = tls.connect(host, socket, refused.clone()).await;
        let stream = stream.map_err(|error| distrust(peer, error))?;
        Self::open(stream, origin, refused).await
    }

    async fn open(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Uri,
        refused: LateRefusal,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .adaptive_window(true)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Failure::NotSent(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to another server has ended");
            }
        });
        Ok(Self { sender, origin, refused })
    }
}

/// Why the two sides do not trust each other, and what to do.
fn distrust(peer: &Peer, error: Unsafe) -> Failure {
    let (name, address) = (&peer.incarnation.node, &peer.address);
    match error {
        Unsafe::Untrusted(error) => Failure::Misled(format!(
            "the certificate of server {name} at {address} is not trusted: {error}. It must be from a CA of cluster_ca_file, and \
             have the host that the server advertises among its names (advertise)"
        )),
        Unsafe::Refused(alert) => refused(peer, alert),
        Unsafe::NoTls(error) => Failure::Misled(format!(
            "what answers at {address}, which server {name} advertises, does not speak TLS as it should: {error} (advertise)"
        )),
        Unsafe::Lost(error) => Failure::NotSent(format!("{address}: {error}")),
    }
}

/// That the other side does not take this server's certificate, and what to do.
pub(super) fn refused(peer: &Peer, alert: AlertDescription) -> Failure {
    Failure::Misled(format!(
        "server {} refuses the certificate of this server ({alert:?}): tls_cert_file must have one from a CA of its \
         tls_client_ca_file, for clients too, with one of its tls_allowed_names",
        peer.incarnation.node
    ))
}

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.sender.send_request(request).boxed()
    }
}

/// Whether a call that has failed was sent.
pub(super) fn failure(error: &hyper::Error) -> Failure {
    let causes = || std::iter::successors(std::error::Error::source(error), |error| error.source());
    let cause = causes().last().map_or_else(|| error.to_string(), ToString::to_string);
    // The other side has not begun with it: the connection was closed before, or just being closed.
    let is_refused = causes().filter_map(|error| error.downcast_ref::<h2::Error>()).any(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    });
    if error.is_canceled() || is_refused { Failure::NotSent(cause) } else { Failure::Lost(cause) }
}
