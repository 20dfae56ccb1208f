//! A wire between the facade and a CLI, which a test can cut, or keep from carrying anything.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// Passes on what comes, to and fro, until it is cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Oldest first.
    connections: Arc<Mutex<Vec<Connection>>>,
    taken: Arc<AtomicUsize>,
    listening: AbortHandle,
}

struct Connection {
    task: JoinHandle<()>,
    /// Whether nothing is passed on any more; what comes is still taken, as a machine does that is gone from the other end.
    silent: watch::Sender<bool>,
}

impl Proxy {
    /// In front of a port on loopback.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let taken = Arc::<AtomicUsize>::default();
        let (accepted, counter) = (connections.clone(), taken.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let (silent, silenced) = watch::channel(false);
                let task = tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await {
                        let (from_client, to_client) = client.into_split();
                        let (from_server, to_server) = server.into_split();
                        // Both ways at once, and if one ends so does the other.
                        tokio::select! {
                            _ = pass_on(from_client, to_server, &silenced) => {}
                            _ = pass_on(from_server, to_client, &silenced) => {}
                        }
                    }
                });
                accepted.lock().unwrap().push(Connection { task, silent });
            }
        });
        Self { port, connections, taken, listening: listening.abort_handle() }
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.open().len()
    }

    /// How many connections there have been.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        self.open().drain(..).for_each(|connection| connection.task.abort());
    }

    /// Cuts one of them.
    pub(crate) fn cut_one(&self, number: usize) {
        self.open().remove(number).task.abort();
    }

    /// From now on the connections carry nothing, and nobody is told; new ones are taken.
    pub(crate) fn silence(&self) {
        for connection in self.open().iter() {
            connection.silent.send_replace(true);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        let mut connections = self.connections.lock().unwrap();
        connections.retain(|connection| !connection.task.is_finished());
        connections
    }
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    silenced: &watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if !*silenced.borrow() {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
