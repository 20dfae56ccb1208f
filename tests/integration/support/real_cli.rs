//! The real Copilot CLI, with no account and no network: its provider is a scripted model on loopback.

use std::{path::PathBuf, time::Duration};

use copilot_grpc::backend::{
    discover,
    process::{Process, Spec},
};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use tempfile::TempDir;

use super::facade::{Setup, TestFacade};

/// The name of the scripted model.
pub(crate) const MODEL: &str = "scripted";

/// A running CLI, and the model behind it.
pub(crate) struct RealCli {
    pub(crate) model: ModelServer,
    spec: Spec,
    process: Process,
    _folder: TempDir,
}

impl RealCli {
    /// Starts both. The script decides what the model answers.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let model = ModelServer::start(script).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let spec = Spec {
            cli: path(),
            guard: env!("CARGO_BIN_EXE_copilot-grpc").into(),
            home: folder.path().join("home"),
            work_dir: folder.path().join("work"),
            env: offline(&model).into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            start_timeout: Duration::from_secs(60),
        };
        let process = Process::start(&spec).await.unwrap();
        Self { model, spec, process, _folder: folder }
    }

    /// How the facade reaches it. Sessions have the scripted model by the operator's default.
    pub(crate) fn setup(&self) -> Setup {
        let setup = Setup { cli_url: format!("127.0.0.1:{}", self.process.port()), ..Setup::default() }
            .variable("COPILOT_CONNECTION_TOKEN", self.process.token().expose());
        offline(&self.model).into_iter().fold(setup, |setup, (name, value)| setup.variable(name, value))
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.process.port()
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
        let pid = self.process.cli_pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it with SIGKILL, and starts another on the same home, which facades have to be told of.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = Process::start(&self.spec).await.unwrap();
    }

    /// Starts a facade in front of it.
    pub(crate) async fn facade(&self) -> TestFacade {
        self.setup().start().await
    }
}

/// The CLI that the repository pins.
pub(crate) fn path() -> PathBuf {
    discover::find(None, None, &[env!("CARGO_MANIFEST_DIR").into()]).expect("run `npm ci` first")
}

/// The variables with which a CLI needs no account and no network.
pub(crate) fn offline(model: &ModelServer) -> [(&'static str, String); 3] {
    [
        ("COPILOT_OFFLINE", "true".into()),
        ("COPILOT_PROVIDER_BASE_URL", model.base_url()),
        ("COPILOT_MODEL", MODEL.into()),
    ]
}
