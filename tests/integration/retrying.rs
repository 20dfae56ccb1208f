//! Client libraries repeat what the agent surely has not got, and never what it may have got.
//!
//! They are those of Python and of Go, with the service configuration that is published in `examples`, behind a proxy that cuts. And what
//! else is between a caller and the server does no harm: a CLI that starts slowly, proxies that end silent connections, compression.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        ErrorReason, WatchSessionRequest, WatchSessionResponse, copilot_service_client::CopilotServiceClient,
        watch_session_response::Payload,
    },
};
use scripted_model::{Call, ModelServer, Reply, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::{Code, Streaming, codec::CompressionEncoding};

use crate::support::{
    check,
    facade::{TestFacade, abort, stream, wait},
    fake_cli::FakeCli,
    programs::{go_client, python, root},
    real_cli::{self, RealCli},
    server::Server,
    soon, until,
};

/// A client library, and the program with which a caller uses it.
#[derive(Clone, Copy, Debug)]
enum Library {
    /// grpcio, on gRPC's C core.
    Python,
    /// grpc-go.
    Go,
}

const LIBRARIES: [Library; 2] = [Library::Python, Library::Go];

impl Library {
    /// Makes one call through a proxy.
    async fn call(self, proxy: &Middlebox, what: &[&str]) -> Child {
        let mut command = match self {
            Self::Python => {
                let mut command = Command::new(python().await);
                command.arg(root().join("tests/integration/retrying.py"));
                command
            }
            Self::Go => Command::new(go_client().await),
        };
        command
            .arg(root().join("examples/service-config.json"))
            .arg(format!("127.0.0.1:{}", proxy.port))
            .args(what)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}

/// What came of a call.
async fn came(caller: Child) -> String {
    let output = soon("the caller's end", caller.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A proxy as there are many: it may be closed, and cuts connections on which the server says nothing for a while.
struct Middlebox {
    port: u16,
    is_open: watch::Sender<bool>,
    carried: Arc<Carried>,
    /// Ends with it.
    _tasks: JoinSet<()>,
}

/// What has come to a proxy.
#[derive(Default)]
struct Carried {
    connections: AtomicUsize,
    from_client: AtomicUsize,
    from_server: AtomicUsize,
}

impl Middlebox {
    /// One that waits for ever.
    async fn start(target: u16) -> Self {
        Self::with_patience(target, Duration::MAX).await
    }

    async fn with_patience(target: u16, patience: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_open = watch::Sender::new(true);
        let carried = Arc::new(Carried::default());
        let mut tasks = JoinSet::new();
        let (door, counts) = (is_open.subscribe(), carried.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, target, patience, door.clone(), counts.clone()));
            }
        });
        Self { port, is_open, carried, _tasks: tasks }
    }

    /// Cuts all connections; those that come wait until it is opened again.
    fn close(&self) {
        self.is_open.send_replace(false);
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// How many connections there have been.
    fn connections(&self) -> usize {
        self.carried.connections.load(Ordering::Relaxed)
    }

    /// How many bytes have come from clients, and how many from the server.
    fn bytes(&self) -> (usize, usize) {
        (self.carried.from_client.load(Ordering::Relaxed), self.carried.from_server.load(Ordering::Relaxed))
    }
}

async fn carry(
    mut client: TcpStream,
    target: u16,
    patience: Duration,
    mut door: watch::Receiver<bool>,
    carried: Arc<Carried>,
) {
    let _ = door.wait_for(|is_open| *is_open).await;
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // Whatever ends first ends the connection.
    tokio::select! {
        () = pass_on(from_client, to_server, Duration::MAX, &carried.from_client) => {}
        () = pass_on(from_server, to_client, patience, &carried.from_server) => {}
        _ = door.wait_for(|is_open| !is_open) => {}
    }
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    patience: Duration,
    carried: &AtomicUsize,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(Ok(length @ 1..)) = timeout(patience, from.read(&mut buffer)).await {
        carried.fetch_add(length, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// How often the model was asked this.
fn asked(calls: &[Call], text: &str) -> usize {
    calls.iter().filter(|call| call.request.prompt() == text).count()
}

fn script(request: &Request) -> Reply {
    match request.prompt() {
        "hang" => Reply::hang(),
        prompt => Reply::text(format!("You said: {prompt}")),
    }
}

/// With a session `s`.
async fn start() -> (RealCli, TestFacade, Middlebox) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let proxy = Middlebox::start(facade.facade.address().port()).await;
    (cli, facade, proxy)
}

fn turns(facade: &TestFacade) -> usize {
    facade.facade.sessions().load().turns
}

#[tokio::test]
async fn a_turn_that_was_delivered_is_not_sent_again_when_a_proxy_cuts_it() {
    for library in LIBRARIES {
        let (cli, facade, proxy) = start().await;
        let caller = library.call(&proxy, &["send", "s", "hang"]).await;
        cli.model.wait_for(|calls| calls.len() == 1).await;
        proxy.close();
        until("the turn was stopped", || turns(&facade) == 0).await;
        proxy.open();
        assert_eq!(came(caller).await, "UNAVAILABLE", "{library:?}");
        facade.at_rest().await;
        assert_eq!(asked(&cli.model.calls(), "hang"), 1, "{library:?}");
    }
}

#[tokio::test]
async fn a_turn_that_waits_for_another_is_sent_again_when_a_proxy_cuts_it() {
    for library in LIBRARIES {
        let (cli, facade, proxy) = start().await;
        let _running = facade.stream("s", "hang").await.unwrap();
        cli.model.wait_for(|calls| calls.len() == 1).await;
        let caller = library.call(&proxy, &["send", "s", "two"]).await;
        until("it waits", || turns(&facade) == 2).await;
        proxy.close();
        until("it was withdrawn", || turns(&facade) == 1).await;
        proxy.open();
        until("it waits again", || turns(&facade) == 2).await;
        facade.client().abort_turn(abort("s")).await.unwrap();
        assert_eq!(came(caller).await, "You said: two", "{library:?}");
        assert_eq!(asked(&cli.model.calls(), "two"), 1, "{library:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_refused_is_sent_again_if_the_server_says_that_it_may_be_and_not_otherwise() {
    const REFUSED: &str = "a call failed";
    for library in LIBRARIES {
        let model = ModelServer::start(script).await.unwrap();
        let server = Server::start_with(&model, &["--max-queued-turns=1", "--max-message-size=64KiB"]).await;
        let proxy = Middlebox::start(port_of(&server)).await;
        let caller = library.call(&proxy, &["create", "s"]).await;
        assert_eq!(came(caller).await, "s");

        // MESSAGE_TOO_LARGE has the code of OVERLOADED, but it is no use to try again.
        let caller = library.call(&proxy, &["send", "s", &"x".repeat(100_000)]).await;
        assert_eq!(came(caller).await, "RESOURCE_EXHAUSTED", "{library:?}");
        assert_eq!(server.times(REFUSED), 1, "{library:?}");

        let mut client = server.client().await;
        let _running = client.send_and_stream(stream("s", "hang")).await.unwrap();
        // Its headers come when it waits.
        let waiting = client.send_and_stream(stream("s", "two")).await.unwrap();
        let caller = library.call(&proxy, &["send", "s", "three"]).await;
        until("it is refused with OVERLOADED", || server.times(REFUSED) > 1).await;
        drop(waiting);
        client.abort_turn(abort("s")).await.unwrap();
        assert_eq!(came(caller).await, "You said: three", "{library:?}");
        assert_eq!(asked(&model.calls(), "three"), 1, "{library:?}");
    }
}

fn port_of(server: &Server) -> u16 {
    server.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn first_calls_wait_for_a_cli_that_takes_three_seconds_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let may_start = folder.path().join("may-start");
    let cli = slow_cli(folder.path(), &may_start);
    let model = ModelServer::start(script).await.unwrap();
    // Made before, so that the calls are no later than they have to be.
    go_client().await;
    let mut server = Server::start_unready(&model, &cli, &[]).await;
    let proxy = Middlebox::start(port_of(&server)).await;
    let python = Library::Python.call(&proxy, &["create", "python"]).await;
    let go = Library::Go.call(&proxy, &["create", "go"]).await;
    until("both have connected", || proxy.connections() >= 2).await;
    fs::write(may_start, "").unwrap();
    assert_eq!(came(python).await, "python");
    assert_eq!(came(go).await, "go");
    assert_eq!(server.times("a call failed"), 0);
    server.child.kill().await.unwrap();
}

/// The CLI that the repository pins, but it waits until there is this file, and then 3 seconds.
fn slow_cli(folder: &Path, may_start: &Path) -> PathBuf {
    let path = folder.join("slow-cli");
    // What is given by its path and is not the native form is run as Node's, which both understand.
    let cli = real_cli::pinned(Form::Node).path;
    // Closed before it is run, or it would be "text file busy".
    let mut file = fs::File::create(&path).unwrap();
    let wait = format!("until [ -e '{}' ]; do sleep 0.05; done; sleep 3", may_start.display());
    write!(file, "#!/bin/sh\n{wait}\nexec '{}' \"$@\"\n", cli.display()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_watcher_with_heartbeats_stays_behind_a_proxy_that_cuts_silent_connections() {
    const PATIENCE: Duration = Duration::from_secs(4);
    const STAYS: Duration = Duration::from_secs(10);
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let proxy = Middlebox::with_patience(facade.facade.address().port(), PATIENCE).await;
    let (start, mut heard) = (Instant::now(), watch_session(&proxy, 1).await);
    let mut silent = watch_session(&proxy, 0).await;
    assert!(soon("it is cut", silent.message()).await.is_err(), "nothing else ends it");
    assert!(start.elapsed() >= PATIENCE);
    while start.elapsed() < STAYS {
        let message = soon("a heartbeat", heard.message()).await.unwrap().unwrap();
        assert!(matches!(message.payload, Some(Payload::Heartbeat(_))), "{message:?}");
    }
    // One connection each: nobody has come again.
    assert_eq!(proxy.connections(), 2);
}

/// A watcher of `s`, to whom nothing happens but heartbeats, on a connection of its own.
async fn watch_session(proxy: &Middlebox, heartbeat_interval: i64) -> Streaming<WatchSessionResponse> {
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let request = WatchSessionRequest {
        session_id: "s".into(),
        event_types: vec!["none.of.these".into()],
        heartbeat_interval: Some(prost_types::Duration { seconds: heartbeat_interval, nanos: 0 }),
        ..Default::default()
    };
    let mut client = CopilotServiceClient::connect(url).await.unwrap();
    client.watch_session(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_caller_in_python_that_compresses_what_it_sends_gets_a_compressed_answer() {
    let text = "all work and no play ".repeat(1000);
    let text = text.trim();
    let (_cli, facade, _) = start().await;
    let mut carried = Vec::new();
    for what in ["send", "send-compressed"] {
        let proxy = Middlebox::start(facade.facade.address().port()).await;
        let caller = Library::Python.call(&proxy, &[what, "s", text]).await;
        assert_eq!(came(caller).await, format!("You said: {text}"));
        carried.push(proxy.bytes());
    }
    let [(sent, received), (sent_compressed, received_compressed)] = carried[..] else { unreachable!() };
    assert!(sent > text.len() && received > text.len(), "{carried:?}");
    assert!(sent_compressed < text.len() / 4 && received_compressed < text.len() / 4, "{carried:?}");
}

#[tokio::test]
async fn a_request_that_is_too_large_when_it_is_unpacked_is_refused() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let zeros = "\0".repeat(17 << 20);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = facade.client().send_compressed(encoding);
        let refused = client.send_and_wait(wait("s", &zeros)).await.unwrap_err();
        check(&refused, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1", "{encoding:?}");
    }
}
