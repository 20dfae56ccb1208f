//! The service and its peers: started in front of a stand-in, put under load, and measured.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use copilot_grpc::backend::process::discover::{self, Form, Places, Wanted};
use copilot_grpc_bench::{
    job::{Job, Outcome},
    proc,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};

use crate::{
    Result,
    program::{Load, Program},
};

/// How long a service may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Who carries the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Raw JSON-RPC: the load itself.
    Raw,
    /// The service, with a CLI of its own.
    Facade,
    /// The service, with two links to a CLI that somebody else runs.
    TwoLinks,
    /// The same with one.
    OneLink,
    /// The official Rust SDK, in the process that makes the load.
    RustSdk,
    /// A gRPC facade on the official Node SDK.
    Node,
    /// A server with nothing behind it.
    Bare,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw JSON-RPC client",
            Self::Facade => "copilot-grpc",
            Self::TwoLinks => "copilot-grpc, cli_url",
            Self::OneLink => "the same, no keeper link",
            Self::RustSdk => "Rust SDK, no gRPC",
            Self::Node => "Node SDK and grpc-js",
            Self::Bare => "bare tonic server",
        }
    }
}

/// Where everything is.
#[derive(Clone)]
pub(crate) struct Bench {
    /// The programs of this crate.
    programs: PathBuf,
    /// The repository.
    root: PathBuf,
    /// The service.
    pub(crate) facade: PathBuf,
    /// The state directories of services in front of CLIs, one each, as a service that runs has it for itself.
    scratch: Arc<(TempDir, AtomicUsize)>,
}

/// What a job cost.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    job: Job,
    pub(crate) outcome: Outcome,
    /// Microseconds of the process that was measured.
    cpu: u64,
}

impl Measured {
    fn turns(&self) -> f64 {
        (self.job.sessions * self.job.turns) as f64
    }

    fn deltas(&self) -> f64 {
        self.turns() * self.job.deltas as f64
    }

    fn seconds(&self) -> f64 {
        self.outcome.wall as f64 / 1e9
    }

    pub(crate) fn cpu_turn(&self) -> f64 {
        self.cpu as f64 / self.turns()
    }

    pub(crate) fn cpu_delta(&self) -> f64 {
        self.cpu as f64 / self.deltas()
    }

    pub(crate) fn turns_a_second(&self) -> f64 {
        self.outcome.turns as f64 / self.seconds()
    }

    pub(crate) fn deltas_a_second(&self) -> f64 {
        self.outcome.deltas as f64 / self.seconds()
    }

    pub(crate) fn deltas_a_message(&self) -> f64 {
        self.outcome.deltas as f64 / self.outcome.messages.max(1) as f64
    }

    pub(crate) fn failed(&self) -> f64 {
        self.outcome.failed as f64 / self.turns()
    }

    pub(crate) fn lost(&self) -> f64 {
        1.0 - self.outcome.deltas as f64 / self.deltas()
    }
}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        let programs = std::env::current_exe()?.parent().ok_or("no folder")?.to_owned();
        let root: PathBuf = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder")?.into();
        let facade = std::env::var_os("COPILOT_GRPC").map(PathBuf::from);
        let facade = facade.unwrap_or_else(|| root.join("target/release/copilot-grpc"));
        let scratch = Arc::new((tempfile::tempdir()?, AtomicUsize::new(0)));
        Ok(Self { programs, root, facade, scratch })
    }

    /// The same with another service.
    pub(crate) fn with(&self, facade: PathBuf) -> Self {
        Self { facade, ..self.clone() }
    }

    /// The stand-in, as a CLI of the service's own.
    pub(crate) fn stand_in_path(&self) -> PathBuf {
        self.programs.join("stand_in")
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// The CLI that the repository pins, in this form.
    pub(crate) fn cli(&self, form: Form) -> Result<PathBuf> {
        let places = Places { roots: std::slice::from_ref(&self.root), ..Places::default() };
        Ok(discover::find(Wanted::Only(form), &places)?.path)
    }

    /// A stand-in, and its ports.
    pub(crate) async fn stand_in(&self, listeners: usize) -> Result<(Program, Vec<u16>)> {
        self.stand_in_with(listeners, 0).await
    }

    /// One that has so many sessions stored.
    pub(crate) async fn stand_in_with(&self, listeners: usize, stored: usize) -> Result<(Program, Vec<u16>)> {
        let mut command = self.program("stand_in");
        let mut stand_in = Program::start(command.args([listeners.to_string(), stored.to_string()]))?;
        let ports = stand_in.line().await?;
        let ports = ports.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        Ok((stand_in, ports))
    }

    /// The service in front of some CLIs, and its address.
    pub(crate) async fn facade(&self, clis: &[u16], flags: &[&str]) -> Result<(Program, String)> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let program = Program::start(self.facade_command(&address, clis).args(flags))?;
        serving(&address).await?;
        Ok((program, address))
    }

    pub(crate) fn facade_command(&self, address: &str, clis: &[u16]) -> Command {
        let mut command = self.bare_command(address);
        let (folder, used) = &*self.scratch;
        let number = used.fetch_add(1, Ordering::Relaxed);
        command
            .args(clis.iter().map(|port| format!("--cli-url=127.0.0.1:{port}")))
            .arg("--state-dir")
            .arg(folder.path().join(number.to_string()));
        command
    }

    /// The service with a CLI of its own, which keeps its sessions below this folder.
    pub(crate) fn embedding_command(&self, address: &str, cli: &Path, folder: &Path) -> Command {
        let mut command = self.bare_command(address);
        command.arg("--cli-path").arg(cli).arg("--state-dir").arg(folder.join("state"));
        command
    }

    fn bare_command(&self, address: &str) -> Command {
        let mut command = Command::new(&self.facade);
        command
            .arg(format!("--listen={address}"))
            // Limits that the load would run into by itself.
            .args(["--max-running-turns=10000", "--max-waiting-turns=10000", "--max-sessions=1000000"])
            .arg("--max-reader-memory=4GiB")
            .args(["--log-level=warn"]);
        command
    }

    /// Has a peer carry a load.
    pub(crate) async fn measure(&self, peer: Peer, job: Job) -> Result<Measured> {
        if peer == Peer::Facade {
            let (address, state) = (format!("127.0.0.1:{}", free_port()?), tempfile::tempdir()?);
            let stand_in = self.stand_in_path();
            let facade = Program::start(&mut self.embedding_command(&address, &stand_in, state.path()))?;
            serving(&address).await?;
            return self.through(&facade, Job { address, ..job }).await;
        }
        let (_stand_in, ports) = self.stand_in(1).await?;
        let cli = format!("127.0.0.1:{}", ports[0]);
        match peer {
            Peer::Raw => self.alone("raw", Job { address: cli, ..job }).await,
            Peer::RustSdk => self.alone("rust_sdk", Job { address: cli, ..job }).await,
            Peer::Facade | Peer::TwoLinks | Peer::OneLink => {
                let keeper = format!("--keeper-link={}", peer == Peer::TwoLinks);
                let (facade, address) = self.facade(&ports, &[&keeper]).await?;
                self.through(&facade, Job { address, ..job }).await
            }
            Peer::Node => {
                let mut node = Command::new("node");
                node.arg(self.root.join("benches/node/facade.mjs")).arg(ports[0].to_string());
                let mut node = Program::start(node.arg(self.root.join("proto")))?;
                let address = format!("127.0.0.1:{}", node.line().await?);
                self.through(&node, Job { address, ..job }).await
            }
            Peer::Bare => {
                let mut bare = Program::start(&mut self.program("bare"))?;
                let address = format!("127.0.0.1:{}", bare.line().await?);
                self.through(&bare, Job { address, create: false, ..job }).await
            }
        }
    }

    /// A program that makes the load and is measured itself.
    async fn alone(&self, program: &str, job: Job) -> Result<Measured> {
        let mut load = Load::prepare(&mut self.program(program), &job).await?;
        let pid = load.0.pid();
        measured(pid, job, &mut load).await
    }

    /// A server that is measured, under load by another process.
    pub(crate) async fn through(&self, server: &Program, job: Job) -> Result<Measured> {
        // What is slow the first time is not what is measured, above all where code is compiled as it runs.
        let warm_up = Job { prefix: format!("{}-warm", job.prefix), turns: job.turns.min(5), ..job.clone() };
        let warm_up = Job { deltas: warm_up.deltas.min(100), pace: 0, ..warm_up };
        Load::prepare(&mut self.program("load"), &warm_up).await?.run().await?;
        let mut load = Load::prepare(&mut self.program("load"), &job).await?;
        measured(server.pid(), job, &mut load).await
    }
}

async fn measured(pid: u32, job: Job, load: &mut Load) -> Result<Measured> {
    let before = proc::cpu(pid)?;
    let outcome = load.run().await?;
    Ok(Measured { job, outcome, cpu: proc::cpu(pid)? - before })
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a service says that it is well.
pub(crate) async fn serving(address: &str) -> Result<()> {
    let healthy = tokio::time::timeout(START_TIMEOUT, healthy(address)).await;
    healthy.unwrap_or_else(|_| Err("it did not become healthy in time".into()))
}

async fn healthy(address: &str) -> Result<()> {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await?.into_inner();
    while let Some(health) = watch.message().await? {
        if health.status() == ServingStatus::Serving {
            return Ok(());
        }
    }
    Err("it does not become healthy".into())
}
