//! A wire between the facade and a CLI, which a test can cut.

use std::sync::{Arc, Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// Passes on what comes, to and fro, until it is cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    listening: AbortHandle,
}

impl Proxy {
    /// In front of a port on loopback.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<Mutex<JoinSet<()>>>::default();
        let accepted = connections.clone();
        let listening = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                accepted.lock().unwrap().spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, connections, listening: listening.abort_handle() }
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
