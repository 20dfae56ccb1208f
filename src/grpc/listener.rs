//! The port: accepts clients up to a limit, and goes on whatever happens.
//!
//! A client over the limit is accepted, told so and closed before the next one is accepted; otherwise it would wait in the
//! kernel's queue for an unknown time. Events that come in floods are logged now and then, not each time.
//!
//! Tests: `tests/integration/connections.rs`, `tests/integration/abuse/`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::seldom::Seldom;

/// How many clients the kernel may hold ready: as many as it allows (`net.core.somaxconn`), to which it cuts this number.
const BACKLOG: u32 = i32::MAX as u32;

/// The first and the longest pause after a client that could not be accepted: mostly too many files are open, and that does not
/// pass at once.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The answer to a client over the limit: SETTINGS, which come first (RFC 9113, section 3.4), and a GOAWAY with
/// ENHANCE_YOUR_CALM before any of its calls (section 6.8), so that it may repeat them elsewhere.
const TOO_MANY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2d\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections: max_connections";

/// Opens a socket that listens on an address.
///
/// # Errors
/// If the address cannot be listened on.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server does not wait for the connections of the former one.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts clients, up to a limit.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    refused: Seldom,
    failed: Seldom,
}

impl Listener {
    /// A listener that accepts up to `max_connections` clients at once.
    pub(super) fn new(listener: TcpListener, max_connections: usize) -> Self {
        let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { listener, places, refused: Seldom::default(), failed: Seldom::default() }
    }

    /// Waits for the next client. Its permit counts it for as long as it is held.
    ///
    /// # Cancel safety
    /// Dropping the future loses no client.
    pub(super) async fn accept(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        let mut pause = PAUSES.0;
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => match self.places.clone().try_acquire_owned() {
                    Ok(place) => return (socket, place),
                    Err(_) => self.refuse(&socket),
                },
                Err(error) if is_of_one_client(&error) => {
                    tracing::debug!(%error, "a client was gone before it was taken");
                }
                Err(error) => {
                    if let Some(times) = self.failed.now(1) {
                        tracing::warn!(%error, times, "clients could not be taken");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    fn refuse(&mut self, socket: &TcpStream) {
        if let Some(times) = self.refused.now(1) {
            tracing::warn!(
                times,
                "clients were refused: there are as many as there may be (max_connections)"
            );
        }
        // A new socket has room for it; a client that has gone again does not need it.
        let _ = socket.try_write(TOO_MANY);
    }
}

/// Whether the error says nothing about the next client (accept(2)).
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::grpc::frames::{HEAD, Head};

    #[test]
    fn a_client_too_many_is_told_so_in_two_frames() {
        let settings = Head::read(TOO_MANY).unwrap();
        assert!(settings.is_settings() && settings.length == 0);
        let go_away = Head::read(&TOO_MANY[HEAD..]).unwrap();
        assert_eq!(TOO_MANY.len(), 2 * HEAD + go_away.length);
    }

    #[tokio::test]
    async fn a_client_too_many_is_refused_and_the_next_one_taken_when_another_has_gone() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = Listener::new(listener, 1);
        let _first = TcpStream::connect(address).await.unwrap();
        let (_, place) = listener.accept().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut told = Vec::new();
        tokio::select! {
            _ = listener.accept() => panic!("there was no place"),
            read = second.read_to_end(&mut told) => { read.unwrap(); }
        }
        assert_eq!(told, TOO_MANY);
        drop(place);
        let _third = TcpStream::connect(address).await.unwrap();
        let _ = listener.accept().await;
    }
}
