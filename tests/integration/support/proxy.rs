//! A wire between the facade and a CLI, on which a test does what wires do: break, fall silent, stall, and carry nonsense.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
};

/// Passes on what comes, to and fro, until it is cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Oldest first.
    connections: Arc<Mutex<Vec<Connection>>>,
    taken: Arc<AtomicUsize>,
    target: Arc<AtomicU16>,
    /// Whether new connections are closed at once.
    is_shut: Arc<AtomicBool>,
    answerless: Answerless,
    listening: AbortHandle,
}

struct Connection {
    task: JoinHandle<()>,
    flow: watch::Sender<Flow>,
    /// What the client gets in the midst of what the server says.
    nonsense: mpsc::Sender<Vec<u8>>,
}

/// What a client is about to say whose connection is cut when the server answers it.
type Answerless = Arc<Mutex<Option<Vec<u8>>>>;

/// What a connection does with what comes.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    /// It passes it on.
    Passing,
    /// It takes nothing more, until it passes it on again.
    Held,
    /// It takes it and throws it away, as a machine does that is gone from the other end.
    Silent,
    /// Both ends are told that the connection was reset.
    Reset,
}

impl Proxy {
    /// In front of a port on loopback.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let taken = Arc::<AtomicUsize>::default();
        let (target, is_shut) = (Arc::new(AtomicU16::new(target)), Arc::<AtomicBool>::default());
        let (accepted, counter) = (connections.clone(), taken.clone());
        let answerless = Answerless::default();
        let (now, shut, said) = (target.clone(), is_shut.clone(), answerless.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                if shut.load(Ordering::Relaxed) {
                    continue;
                }
                let target = now.load(Ordering::Relaxed);
                let (flow, flowing) = watch::channel(Flow::Passing);
                let (nonsense, inserted) = mpsc::channel(1);
                let task = tokio::spawn(carry(client, target, flowing, inserted, said.clone()));
                accepted.lock().unwrap().push(Connection { task, flow, nonsense });
            }
        });
        Self { port, connections, taken, target, is_shut, answerless, listening: listening.abort_handle() }
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

    /// Cuts all connections, and closes new ones at once, until it is opened.
    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// New connections are taken again.
    pub(crate) fn reopen(&self) {
        self.is_shut.store(false, Ordering::Relaxed);
    }

    /// New connections go to this port.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// Cuts one of them.
    pub(crate) fn cut_one(&self, number: usize) {
        self.open().remove(number).task.abort();
    }

    /// What a client says next that has this text is passed on; its connection is cut when the server answers.
    pub(crate) fn cut_the_answer_to(&self, text: &str) {
        *self.answerless.lock().unwrap() = Some(text.into());
    }

    /// From now on the connections carry nothing, and nobody is told; new ones are taken.
    pub(crate) fn silence(&self) {
        self.let_all(Flow::Silent);
    }

    /// The same for one of them.
    pub(crate) fn silence_one(&self, number: usize) {
        self.let_one(number, Flow::Silent);
    }

    /// Resets all connections; new ones are taken.
    pub(crate) fn reset(&self) {
        self.let_all(Flow::Reset);
    }

    /// Resets one of them.
    pub(crate) fn reset_one(&self, number: usize) {
        self.let_one(number, Flow::Reset);
    }

    /// Until [`release`](Self::release) the connections take nothing, so that who writes has to wait.
    pub(crate) fn hold(&self) {
        self.let_all(Flow::Held);
    }

    /// The connections carry again what comes.
    pub(crate) fn release(&self) {
        self.let_all(Flow::Passing);
    }

    /// The facade reads this from one of the connections, wherever in a frame it is.
    pub(crate) fn insert(&self, number: usize, nonsense: Vec<u8>) {
        if let Some(connection) = self.open().get(number) {
            // It fails if there is some on its way already.
            let _ = connection.nonsense.try_send(nonsense);
        }
    }

    fn let_all(&self, flow: Flow) {
        for connection in self.open().iter() {
            connection.flow.send_replace(flow);
        }
    }

    fn let_one(&self, number: usize, flow: Flow) {
        if let Some(connection) = self.open().get(number) {
            connection.flow.send_replace(flow);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        let mut connections = self.connections.lock().unwrap();
        connections.retain(|connection| !connection.task.is_finished());
        connections
    }
}

async fn carry(
    mut client: TcpStream,
    target: u16,
    flow: watch::Receiver<Flow>,
    nonsense: mpsc::Receiver<Vec<u8>>,
    answerless: Answerless,
) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (_, none) = mpsc::channel(1);
    let mut reset = flow.clone();
    let is_to_be_cut = AtomicBool::new(false);
    let hear = |said: &[u8]| {
        let is_it = |text: &Vec<u8>| said.windows(text.len()).any(|window| window == text);
        if answerless.lock().unwrap().take_if(|text| is_it(text)).is_some() {
            is_to_be_cut.store(true, Ordering::Relaxed);
        }
        true
    };
    let may_answer = |_: &[u8]| !is_to_be_cut.load(Ordering::Relaxed);
    // Both ways at once, and if one ends so does the other.
    let is_reset = tokio::select! {
        _ = pass_on(from_client, to_server, flow.clone(), none, hear) => false,
        _ = pass_on(from_server, to_client, flow, nonsense, may_answer) => false,
        _ = reset.wait_for(|flow| *flow == Flow::Reset) => true,
    };
    if is_reset {
        for socket in [&client, &server] {
            // Closed without this, it would be ended in good order.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Passes on what comes, for as long as it `may` be.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
    mut nonsense: mpsc::Receiver<Vec<u8>>,
    may: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length?,
            Some(nonsense) = nonsense.recv() => {
                to.write_all(&nonsense).await?;
                continue;
            }
        };
        if length == 0 || !may(&buffer[..length]) {
            return Ok(());
        }
        // It fails when nobody is there any more who could let it go on.
        let flow = flow.wait_for(|flow| *flow != Flow::Held).await.map_or(Flow::Passing, |flow| *flow);
        if flow != Flow::Silent {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
