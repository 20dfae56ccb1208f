//! The ports: accept clients up to a limit, and go on whatever happens.
//!
//! A client over the limit is accepted, told so and closed before the next one is accepted; otherwise it would wait in the
//! kernel's queue for an unknown time. Events that come in floods are logged now and then, not each time.
//!
//! Tests: `tests/integration/connections.rs`, `tests/integration/abuse/`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{
    socket::Socket,
    transport::{ClientProcess, Transport},
    unix::UnixPort,
};
use crate::seldom::Seldom;

/// How many clients the kernel may hold ready: as many as it allows (`net.core.somaxconn`), to which it cuts this number.
const BACKLOG: u32 = i32::MAX as u32;

/// The first and the longest pause after a client that could not be accepted: mostly too many files are open, and that does not
/// pass at once.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The answer to a client that is not taken: SETTINGS, which come first (RFC 9113, section 3.4), and a GOAWAY before any of its
/// calls (section 6.8), so that it may repeat them elsewhere.
macro_rules! go_away {
    ($code:literal, $length:literal, $text:literal) => {
        concat!("\0\0\0\x04\0\0\0\0\0", "\0\0", $length, "\x07\0\0\0\0\0", "\0\0\0\0\0\0\0", $code, $text)
            .as_bytes()
    };
}

/// The answer to a client over the limit: ENHANCE_YOUR_CALM.
const TOO_MANY: &[u8] = go_away!("\x0b", "\x2d", "too many connections: max_connections");

/// The answer to a client of a user who may not connect: INADEQUATE_SECURITY.
const FOREIGN: &[u8] = go_away!("\x0c", "\x3e", "this user may not connect: listen_unix_users (its uid)");

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

/// Where clients come in.
#[derive(Debug)]
pub(super) enum Port {
    Tcp(TcpListener),
    Unix(UnixPort),
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixPort> for Port {
    fn from(port: UnixPort) -> Self {
        Self::Unix(port)
    }
}

impl Port {
    /// Waits for the next client.
    async fn accept(&self) -> io::Result<(Socket, Transport)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                let transport = Transport { address: Some(address), ..Transport::default() };
                Ok((Socket::Tcp(socket), transport))
            }
            Self::Unix(port) => {
                let (socket, _) = port.listener().accept().await?;
                let client = socket.peer_cred()?;
                let process = ClientProcess { uid: client.uid(), gid: client.gid(), pid: client.pid() };
                let transport = Transport { process: Some(process), ..Transport::default() };
                Ok((Socket::Unix(socket), transport))
            }
        }
    }

    fn allows(&self, transport: &Transport) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Unix(port) => transport.process.is_some_and(|process| port.allows(process.uid)),
        }
    }
}

/// A client that was accepted: it has said nothing yet.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) transport: Transport,
    /// Counts it for as long as it is held.
    pub(super) place: OwnedSemaphorePermit,
}

/// Accepts clients, up to a limit.
#[derive(Debug)]
pub(super) struct Listener {
    port: Port,
    places: Arc<Semaphore>,
    /// Whether clients speak TLS, and so do not understand an answer before the handshake.
    is_tls: bool,
    refused: Seldom,
    foreign: Seldom,
    failed: Seldom,
}

impl Listener {
    /// A listener that accepts a client when there is a place.
    pub(super) fn new(port: impl Into<Port>, places: &Arc<Semaphore>, is_tls: bool) -> Self {
        Self {
            port: port.into(),
            places: places.clone(),
            is_tls,
            refused: Seldom::default(),
            foreign: Seldom::default(),
            failed: Seldom::default(),
        }
    }

    /// Waits for the next client.
    ///
    /// # Cancel safety
    /// Dropping the future loses no client.
    pub(super) async fn accept(&mut self) -> Accepted {
        let mut pause = PAUSES.0;
        loop {
            match self.port.accept().await {
                Ok((socket, transport)) if !self.port.allows(&transport) => {
                    if let Some(times) = self.foreign.now(1) {
                        let uid = transport.process.map(|process| process.uid);
                        tracing::warn!(times, uid, "clients of other users were refused (listen_unix_users)");
                    }
                    self.refuse(&socket, FOREIGN);
                }
                Ok((socket, transport)) => match self.places.clone().try_acquire_owned() {
                    Ok(place) => return Accepted { socket, transport, place },
                    Err(_) => {
                        if let Some(times) = self.refused.now(1) {
                            tracing::warn!(
                                times,
                                "clients were refused: there are as many as there may be (max_connections)"
                            );
                        }
                        self.refuse(&socket, TOO_MANY);
                    }
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

    fn refuse(&self, socket: &Socket, answer: &[u8]) {
        // A new socket has room for it; a client that has gone again does not need it.
        let _ = match socket {
            Socket::Tcp(socket) if !self.is_tls => socket.try_write(answer),
            Socket::Unix(socket) => socket.try_write(answer),
            Socket::Tcp(_) | Socket::Tls(_) => Ok(0),
        };
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

    use tokio::{io::AsyncReadExt as _, net::TcpStream};

    use super::*;
    use crate::grpc::frames::{HEAD, Head};

    #[test]
    fn a_client_that_is_not_taken_is_told_so_in_two_frames() {
        for answer in [TOO_MANY, FOREIGN] {
            let settings = Head::read(answer).unwrap();
            assert!(settings.is_settings() && settings.length == 0);
            let go_away = Head::read(&answer[HEAD..]).unwrap();
            assert_eq!(answer.len(), 2 * HEAD + go_away.length);
        }
    }

    #[tokio::test]
    async fn a_client_too_many_is_refused_and_the_next_one_taken_when_another_has_gone() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = Listener::new(listener, &Arc::new(Semaphore::new(1)), false);
        let _first = TcpStream::connect(address).await.unwrap();
        let place = listener.accept().await.place;
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
