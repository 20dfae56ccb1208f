//! The program, as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
};

use copilot_grpc::grpc::pb::copilot_service_client::CopilotServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::ModelServer;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};
use tonic::transport::Channel;

use super::{fake_cli::FakeCli, memory::Peak, real_cli, soon, state::State, tls};

/// A server that runs as a process of its own, with CLIs of its own.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) logs: watch::Receiver<Vec<String>>,
    pub(crate) url: String,
    /// Who its clients are, if it speaks TLS.
    pub(crate) tls: Option<tls::Client>,
    state: Arc<State>,
}

impl Server {
    pub(crate) async fn start(model: &ModelServer) -> Self {
        Self::start_with(model, &[]).await
    }

    pub(crate) async fn start_with(model: &ModelServer, flags: &[&str]) -> Self {
        let mut server = Self::start_unready(model, &real_cli::path(), flags).await;
        value_in(&mut server.logs, "the CLI is ready", "version").await;
        server
    }

    /// The same, with another program for a CLI, and not waiting for it.
    pub(crate) async fn start_unready(model: &ModelServer, cli: &Path, flags: &[&str]) -> Self {
        Self::start_unready_with(model, cli, flags, &[]).await
    }

    /// The same, with these variables.
    pub(crate) async fn start_unready_with(
        model: &ModelServer,
        cli: &Path,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut program = Command::new(PROGRAM);
        program.envs(variables.iter().copied());
        Self::spawn(program, model, cli, flags).await
    }

    /// The same with a CLI, where no process may have more than so many descriptors.
    pub(crate) async fn start_with_descriptors(descriptors: u32, model: &ModelServer) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"ulimit -n "$0" && exec "$@""#]).arg(descriptors.to_string()).arg(PROGRAM);
        let mut server = Self::spawn(shell, model, &real_cli::path(), &[]).await;
        value_in(&mut server.logs, "the CLI is ready", "version").await;
        server
    }

    /// One in front of a CLI that a test plays.
    pub(crate) async fn in_front_of(cli: &FakeCli, flags: &[&str]) -> Self {
        let mut program = Command::new(PROGRAM);
        program.args(["--keeper-link=false", "--cli-url", &cli.address()]).args(flags);
        let mut server = Self::watch(clean(program), Arc::default()).await;
        value_in(&mut server.logs, "the CLI is ready", "version").await;
        server
    }

    /// One that goes on with what another has left; see [`stop`](Self::stop).
    pub(crate) async fn start_on(state: Arc<State>, model: &ModelServer, cli: &Path) -> Self {
        let mut server = Self::start_on_unready(state, model, cli, &[]).await;
        value_in(&mut server.logs, "the CLI is ready", "version").await;
        server
    }

    /// The same with these flags, and not waiting for the CLIs.
    pub(crate) async fn start_on_unready(
        state: Arc<State>,
        model: &ModelServer,
        cli: &Path,
        flags: &[&str],
    ) -> Self {
        Self::start_program_on(Path::new(PROGRAM), state, model, cli, flags).await
    }

    /// The same of another build.
    pub(crate) async fn start_program_on(
        program: &Path,
        state: Arc<State>,
        model: &ModelServer,
        cli: &Path,
        flags: &[&str],
    ) -> Self {
        Self::spawn_on(state, Command::new(program), model, cli, flags).await
    }

    async fn spawn(program: Command, model: &ModelServer, cli: &Path, flags: &[&str]) -> Self {
        Self::spawn_on(Arc::default(), program, model, cli, flags).await
    }

    async fn spawn_on(
        state: Arc<State>,
        program: Command,
        model: &ModelServer,
        cli: &Path,
        flags: &[&str],
    ) -> Self {
        let mut program = clean(program);
        program
            .arg("--cli-path")
            .arg(cli)
            .arg("--log-level=debug")
            .args(flags)
            .envs(real_cli::offline(model))
            .env("COPILOT_PROVIDER_API_KEY", KEY);
        Self::watch(program, state).await
    }

    /// Ends it with this signal, and gives back what it has left.
    pub(crate) async fn stop(mut self, signal: Signal) -> Arc<State> {
        self.signal(signal);
        soon("the server's end", self.child.wait()).await.unwrap();
        self.state
    }

    async fn watch(mut program: Command, state: Arc<State>) -> Self {
        let listens =
            program.as_std().get_args().any(|flag| flag.as_encoded_bytes().starts_with(b"--listen="));
        if !listens {
            program.arg("--listen=127.0.0.1:0");
        }
        program.arg("--log-format=json").args(state.flags().await);
        let mut child = program.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, mut logs) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|logs| logs.push(line));
            }
        });
        let address = value_in(&mut logs, "serving", "address").await;
        Self { child, logs, url: format!("http://{}", address.as_str().unwrap()), tls: None, state }
    }

    /// Where its CLIs keep their sessions.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.dir()
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> CopilotServiceClient<Channel> {
        match &self.tls {
            None => CopilotServiceClient::connect(self.url.clone()).await.unwrap(),
            Some(tls) => CopilotServiceClient::new(tls.channel(self.address()).await.unwrap()),
        }
    }

    /// The process of the CLI that was started last.
    pub(crate) fn cli(&self) -> Pid {
        self.pid_of("")
    }

    /// The same of a CLI whose name ends so.
    pub(crate) fn pid_of(&self, name: &str) -> Pid {
        let logs = self.logs.borrow();
        let started = logs.iter().rev().filter_map(|line| said(line, "the CLI has started"));
        let started =
            started.into_iter().find(|line| line["backend"].as_str().unwrap().ends_with(name)).unwrap();
        Pid::from_raw(i32::try_from(started["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }

    /// The processes of all CLIs that were started.
    pub(crate) fn clis(&self) -> Vec<Pid> {
        let logs = self.logs.borrow();
        let pids = logs.iter().filter_map(|line| said(line, "the CLI has started")?["pid"].as_i64());
        pids.filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Runs a subcommand against it.
    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--server", &self.url]).stdin(Stdio::null()).kill_on_drop(true);
        soon("the subcommand", command.output()).await.unwrap()
    }

    /// The most memory that it has had.
    pub(crate) fn memory(&self) -> Peak {
        Peak::of(self.child.id().unwrap())
    }

    /// How often its log says this.
    pub(crate) fn times(&self, message: &str) -> usize {
        self.logs.borrow().iter().filter(|line| said(line, message).is_some()).count()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) async fn is_serving(&self) -> bool {
        self.run(&["health"]).await.status.success()
    }
}

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_copilot-grpc");

/// A key that must be seen nowhere.
pub(crate) const KEY: &str = "sk-never-to-be-seen";

/// The program, away from the environment of whoever runs the tests.
pub(crate) fn program(state_dir: &str, cli: &Path) -> Command {
    let mut command = clean(Command::new(PROGRAM));
    command.args(["--state-dir", state_dir, "--cli-path"]).arg(cli);
    command
}

fn clean(mut command: Command) -> Command {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with("COPILOT_"));
    variables.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A log line, if it says this.
pub(crate) fn said(line: &str, message: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == message).then_some(line)
}

/// Waits for a log line that says this, and returns a field of it.
pub(crate) async fn value_in(logs: &mut watch::Receiver<Vec<String>>, message: &str, field: &str) -> Value {
    let is_said = |logs: &Vec<String>| logs.iter().any(|line| said(line, message).is_some());
    let ended = soon(message, logs.wait_for(is_said)).await.is_err();
    let logs = logs.borrow();
    assert!(!ended, "the server has ended: {logs:#?}");
    logs.iter().find_map(|line| said(line, message)).unwrap()[field].clone()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
