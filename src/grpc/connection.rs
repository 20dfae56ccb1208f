//! A client's connection: opened, ended at a certain age, and told to go when the server stops.
//!
//! A client keeps its connection for as long as it may, and so would never find out about servers that were added behind the
//! same name. So a connection has a maximum age, at which its client is told to open another (GOAWAY). The calls that are open
//! on it go on to their end, however long that takes: neither a turn nor a stream is cut by it.
//!
//! A connection is served once its client has opened HTTP/2, which [`opening`] waits for. One that falls silent later is found
//! by keepalive.
//!
//! Tests: `tests/integration/connections.rs`, `tests/integration/abuse/`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, future, stream};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::Connected;
use uuid::Uuid;

use super::{
    frames::Allowance,
    listener::Accepted,
    opening::{self, Refusal},
    socket::Socket,
    tls::Tls,
    transport::Transport,
    unread::Unread,
};
use crate::budget::{Budget, Entry};

/// An open connection to a client.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    transport: Transport,
    /// The first bytes from the client, until they have been read again.
    received: Bytes,
    allowance: Allowance,
    unread: Unread,
    /// An entry in the budget, which can end the connection for what its client leaves unread.
    _entry: Entry,
    /// A permit of the listener's, of which there are as many as connections may be open.
    _place: OwnedSemaphorePermit,
    _open: DropGuard,
    /// Cancelled when the connection is dropped.
    closed: CancellationToken,
}

impl Connection {
    /// Waits until the client has opened HTTP/2, over TLS if that is spoken here.
    ///
    /// # Errors
    /// If the client has not done so in time, or does something else. The connection is then dropped.
    pub(super) async fn open(client: Accepted, tls: Option<&Tls>, budget: &Budget) -> Result<Self, Refusal> {
        let deadline = opening::deadline();
        let Accepted { mut socket, mut transport, place } = client;
        if let Socket::Tcp(tcp) = socket {
            // Deltas are small and are sent at once.
            if let Err(error) = tcp.set_nodelay(true) {
                tracing::debug!(%error, "a connection could not be tuned");
            }
            socket = match tls {
                None => Socket::Tcp(tcp),
                Some(tls) => {
                    let (stream, certificate) = tls.accept(tcp, deadline).await?;
                    transport.is_tls = true;
                    transport.certificate = certificate;
                    Socket::Tls(Box::new(stream))
                }
            };
        }
        let received = opening::read(&mut socket, deadline).await?;
        let mut allowance = Allowance::new();
        // The allowance follows the frames from the first one on.
        allowance.received(opening::frames(&received)).map_err(io::Error::other)?;
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        let (unread, entry) = Unread::new(budget);
        Ok(Self {
            socket,
            transport,
            received,
            allowance,
            unread,
            _entry: entry,
            _place: place,
            _open: open,
            closed,
        })
    }

    /// The connection as tonic takes it, and a future that resolves when its client is to be told to go: at the maximum age,
    /// when the server stops, or when the client has gone.
    pub(super) fn served(
        self,
        max_age: Option<Duration>,
        closing: CancellationToken,
    ) -> (impl stream::Stream<Item = io::Result<Self>>, impl Future<Output = ()>) {
        let closed = self.closed.clone();
        let end = async move {
            let aged = async {
                match max_age {
                    Some(age) => sleep(age_of_one(age)).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                () = closed.cancelled() => {}
                () = closing.cancelled() => {}
                () = aged => tracing::debug!("a connection is as old as it may be"),
            }
        };
        // The stream must not end: tonic would take that for the end of the server.
        (stream::once(future::ready(Ok(self))).chain(stream::pending()), end)
    }
}

/// The age of one connection: up to a tenth less than the maximum, at random, so that clients that came together do not go
/// together.
fn age_of_one(max_age: Duration) -> Duration {
    let random = (Uuid::new_v4().as_u128() % 1000) as u32;
    max_age - max_age / 10 * random / 1000
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.received.is_empty() {
            let read = this.received.len().min(buf.remaining());
            buf.put_slice(&this.received[..read]);
            this.received.advance(read);
            return Poll::Ready(Ok(()));
        }
        this.unread.check(cx).map_err(io::Error::other)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        let received = this.allowance.received(&buf.filled()[before..]);
        Poll::Ready(received.map_err(io::Error::other))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unread.check(cx).map_err(io::Error::other)?;
        let sent = ready!(Pin::new(&mut this.socket).poll_write(cx, buf))?;
        this.allowance.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unread.check(cx).map_err(io::Error::other)?;
        let sent = ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, bufs))?;
        this.allowance.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// What each call on a connection has among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    transport: Transport,
    unread: Unread,
}

impl Shared {
    /// Puts each part among a request's extensions by itself, where layers look for it.
    pub(super) fn spread<B>(mut request: Request<B>) -> Request<B> {
        let extensions = request.extensions_mut();
        if let Some(Self { transport, unread }) = extensions.remove() {
            extensions.insert(transport);
            extensions.insert(unread);
        }
        request
    }
}

impl Connected for Connection {
    type ConnectInfo = Shared;

    fn connect_info(&self) -> Shared {
        Shared { transport: self.transport.clone(), unread: self.unread.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_find_how_a_client_is_connected_and_what_it_leaves_unread() {
        let (unread, _entry) = Unread::new(&Budget::new(1 << 20));
        let transport = Transport { is_tls: true, ..Transport::default() };
        let mut request = Request::new(());
        request.extensions_mut().insert(Shared { transport: transport.clone(), unread });
        let request = Shared::spread(request);
        assert_eq!(request.extensions().get(), Some(&transport));
        assert!(
            request.extensions().get::<Unread>().is_some() && request.extensions().get::<Shared>().is_none()
        );
    }

    #[test]
    fn connections_that_came_together_grow_to_different_ages_of_which_none_is_over_the_limit() {
        let limit = Duration::from_secs(1800);
        let ages: Vec<_> = (0..100).map(|_| age_of_one(limit)).collect();
        assert!(ages.iter().all(|age| (limit / 10 * 9..=limit).contains(age)), "{ages:?}");
        assert!(ages.iter().min() < ages.iter().max());
        assert_eq!(age_of_one(Duration::ZERO), Duration::ZERO);
    }
}
