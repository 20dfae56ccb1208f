//! A wire between the facade and a CLI, which a test can cut.

use std::sync::{Arc, Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle},
};

/// Passes on what comes, to and fro, until it is cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Oldest first.
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    listening: AbortHandle,
}

impl Proxy {
    /// In front of a port on loopback.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<Mutex<Vec<JoinHandle<()>>>>::default();
        let accepted = connections.clone();
        let listening = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                accepted.lock().unwrap().push(tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                }));
            }
        });
        Self { port, connections, listening: listening.abort_handle() }
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.open().len()
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        self.open().drain(..).for_each(|connection| connection.abort());
    }

    /// Cuts one of them.
    pub(crate) fn cut_one(&self, number: usize) {
        self.open().remove(number).abort();
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        let mut connections = self.connections.lock().unwrap();
        connections.retain(|connection| !connection.is_finished());
        connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
