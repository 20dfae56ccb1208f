//! The real Copilot CLI, with no account and no network: its provider is a scripted model on loopback.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use copilot_grpc::backend::process::discover::{self, Form, Found, Places, Wanted};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::Mutex,
    time::sleep,
};

use super::{
    facade::{Setup, TestFacade},
    soon,
    state::State,
};

/// The name of the scripted model.
pub(crate) const MODEL: &str = "scripted";

/// A running CLI that somebody else runs, as a facade sees it, and the model behind it.
pub(crate) struct RealCli {
    pub(crate) model: ModelServer,
    home: TempDir,
    guarded: Guarded,
    /// What the facades in front of it have, one after the other.
    state: Arc<State>,
}

impl RealCli {
    /// Starts both. The script decides what the model answers.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let model = ModelServer::start(script).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        let guarded = Guarded::start(&home, &model).await;
        Self { model, home, guarded, state: Arc::default() }
    }

    /// How the facade reaches it. Sessions have the scripted model by the operator's default.
    pub(crate) fn setup(&self) -> Setup {
        let cli_url = format!("127.0.0.1:{}", self.guarded.port);
        let setup = Setup { cli_url, state: self.state.clone(), ..Setup::default() }
            .variable("COPILOT_CONNECTION_TOKEN", TOKEN);
        offline(&self.model).into_iter().fold(setup, |setup, (name, value)| setup.variable(name, value))
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.guarded.port
    }

    /// What of a session is on its disk, an event a line.
    pub(crate) fn history(&self, session: &str) -> String {
        history(self.home.path(), session)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// From now on it does nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on where it was frozen.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.guarded.cli, signal).unwrap();
    }

    /// Ends it with SIGKILL, and starts another on the same home, which facades have to be told of.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.guarded = Guarded::start(&self.home, &self.model).await;
    }

    /// Starts a facade in front of it.
    pub(crate) async fn facade(&self) -> TestFacade {
        self.setup().start().await
    }
}

/// A CLI on a port, under the guard, so that its tools end with it.
struct Guarded {
    port: u16,
    cli: Pid,
    /// The guard, which lives for as long as the other end of its standard input.
    _guard: Child,
}

impl Guarded {
    /// Starts it, and waits until it listens, which takes long where many are started at once.
    async fn start(home: &TempDir, model: &ModelServer) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilot-grpc"));
        command.args(["guard", "--"]).arg(path());
        let mut guard = on_port(&mut command, 0, home, model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on port ") {
            line.clear();
            assert_ne!(output.read_line(&mut line).await.unwrap(), 0, "the CLI has ended");
        }
        let port = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        // A pipe that nobody reads fills up.
        tokio::spawn(async move { output.read_to_end(&mut Vec::new()).await });
        let pid = guard.id().unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let cli = children.split_whitespace().next().unwrap().parse().unwrap();
        Self { port, cli: Pid::from_raw(cli).unwrap(), _guard: guard }
    }
}

/// A CLI that somebody else runs, as a facade sees it: its address and its token stay, whatever becomes of it.
pub(crate) struct LastingCli {
    pub(crate) model: ModelServer,
    pub(crate) port: u16,
    home: TempDir,
    child: Mutex<Child>,
    /// What the facades in front of it have, one after the other.
    state: Arc<State>,
}

impl LastingCli {
    /// Starts it, and the model behind it, and waits until it listens.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let model = ModelServer::start(script).await.unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let child = Mutex::new(spawn(port, &home, &model));
        // A facade that finds nobody tries again after longer and longer pauses.
        soon("the CLI listens", async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        Self { model, port, home, child, state: Arc::default() }
    }

    /// How a facade reaches it, on whatever port it is let through.
    pub(crate) fn setup(&self, port: u16) -> Setup {
        let cli_url = format!("127.0.0.1:{port}");
        let setup = Setup { cli_url, state: self.state.clone(), ..Setup::default() }
            .variable("COPILOT_CONNECTION_TOKEN", TOKEN);
        offline(&self.model).into_iter().fold(setup, |setup, (name, value)| setup.variable(name, value))
    }

    /// Ends it with SIGKILL, and starts it again on the same home.
    pub(crate) async fn restart(&self) {
        let mut child = self.child.lock().await;
        child.kill().await.unwrap();
        *child = spawn(self.port, &self.home, &self.model);
    }

    /// Whether an event of this kind is in a session's history on disk.
    pub(crate) fn has_stored(&self, session: &str, kind: &str) -> bool {
        history(self.home.path(), session).contains(kind)
    }

    /// For so long it does nothing; then it goes on where it was.
    pub(crate) async fn freeze(&self, time: Duration) {
        let child = self.child.lock().await;
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        sleep(time).await;
        kill_process(pid, Signal::CONT).unwrap();
    }
}

/// What of a session is on a CLI's disk; nothing if there is none.
fn history(home: &Path, session: &str) -> String {
    let history = home.join("session-state").join(session).join("events.jsonl");
    std::fs::read_to_string(history).unwrap_or_default()
}

/// The connection token of all of them.
pub(crate) const TOKEN: &str = "the-same-for-ever";

/// Starts a CLI on a port that stays, with [`TOKEN`].
pub(crate) fn spawn(port: u16, home: &TempDir, model: &ModelServer) -> Child {
    let mut command = Command::new(path());
    on_port(&mut command, port, home, model)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What a CLI is told that is to listen on a port, with [`TOKEN`].
fn on_port<'a>(command: &'a mut Command, port: u16, home: &TempDir, model: &ModelServer) -> &'a mut Command {
    let work = home.path().join("work");
    fs::create_dir_all(&work).unwrap();
    command
        .args(["--headless", "--no-auto-update", "--port", &port.to_string()])
        .current_dir(work)
        .env("COPILOT_HOME", home.path())
        .envs(offline(model))
        .env("COPILOT_DISABLE_KEYTAR", "1")
        .env("COPILOT_CONNECTION_TOKEN", TOKEN)
}

/// The CLI that the tests are run with: what `TEST_CLI` says, which is the path of one, or a form of those that the repository pins,
/// as in the setting `cli`.
pub(crate) fn path() -> PathBuf {
    found().path
}

/// The form that the tests are run with.
pub(crate) fn form() -> Form {
    found().form
}

/// The CLI that the repository pins, in this form.
pub(crate) fn pinned(form: Form) -> Found {
    find(Wanted::Only(form), Places::default())
}

fn found() -> Found {
    let wanted = env::var("TEST_CLI").unwrap_or("auto".into());
    match wanted.parse() {
        Ok(wanted) => find(wanted, Places::default()),
        Err(_) => find(Wanted::Auto, Places { given: Some(Path::new(&wanted)), ..Places::default() }),
    }
}

fn find(wanted: Wanted, places: Places<'_>) -> Found {
    let places = Places { roots: &[env!("CARGO_MANIFEST_DIR").into()], ..places };
    discover::find(wanted, &places).expect("run `npm ci` first")
}

/// Whether this is what a CLI has the model summarize a session with, in the words of its forms.
pub(crate) fn asks_for_a_summary(prompt: &str) -> bool {
    ["respond only with the summary", "Please write the summary now"]
        .iter()
        .any(|words| prompt.contains(words))
}

/// The variables with which a CLI needs no account and no network.
pub(crate) fn offline(model: &ModelServer) -> [(&'static str, String); 3] {
    [
        ("COPILOT_OFFLINE", "true".into()),
        ("COPILOT_PROVIDER_BASE_URL", model.base_url()),
        ("COPILOT_MODEL", MODEL.into()),
    ]
}
