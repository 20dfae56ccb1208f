//! The program, run by an operator as a service in front of a CLI that somebody else runs.

use std::{net::TcpListener, process::Stdio, sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    Backend, BackendState, GetServerInfoRequest, copilot_service_client::CopilotServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::transport::{self, Channel};

use super::{memory::Peak, real_cli::LastingCli, soon, state::State};

/// A server of its own process, on a port that stays.
pub(crate) struct Service {
    pub(crate) port: u16,
    flags: &'static [&'static str],
    state: Arc<State>,
    child: Child,
}

impl Service {
    pub(crate) async fn start(cli: &LastingCli, flags: &'static [&'static str]) -> Self {
        Self::start_on(Arc::default(), cli, flags).await
    }

    /// Beside others that are started so in front of the same CLI; see [`Setup::beside`](super::facade::Setup::beside).
    pub(crate) async fn beside(cli: &LastingCli, flags: &'static [&'static str]) -> Self {
        Self::start_on(cli.setup(cli.port).beside().state, cli, flags).await
    }

    async fn start_on(state: Arc<State>, cli: &LastingCli, flags: &'static [&'static str]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = Self::spawn(port, cli, flags, &state).await;
        Self { port, flags, state, child }
    }

    async fn spawn(port: u16, cli: &LastingCli, flags: &[&str], state: &State) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilot-grpc"));
        command
            .arg("--log-level=error")
            .args(flags)
            .args(state.flags().await)
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--cli-url=127.0.0.1:{}", cli.port))
            .envs(cli.setup(cli.port).variables)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// Waits until it is ready, and so many turns run on it.
    pub(crate) async fn runs(&self, turns: i32) {
        let is_so =
            |backend: Backend| backend.state() == BackendState::Ready && backend.running_turns >= turns;
        let running = async {
            while !self.backend().await.is_some_and(is_so) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // Clients come back when they like, and on a busy machine that takes a while.
        timeout(Duration::from_secs(60), running).await.expect("turns run on a server within a minute");
    }

    /// Ends it as an operator does, and starts it again.
    pub(crate) async fn restart(&mut self, cli: &LastingCli) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = soon("its end", self.child.wait()).await.unwrap();
        assert!(status.success(), "{status}");
        self.child = Self::spawn(self.port, cli, self.flags, &self.state).await;
    }

    /// How its CLI is, if it answers.
    pub(crate) async fn backend(&self) -> Option<Backend> {
        let info = self.connect().await.ok()?.get_server_info(GetServerInfoRequest {}).await;
        info.ok()?.into_inner().backends.pop()
    }

    pub(crate) async fn connect(&self) -> Result<CopilotServiceClient<Channel>, transport::Error> {
        CopilotServiceClient::connect(format!("http://127.0.0.1:{}", self.port)).await
    }

    /// The most memory that it has had.
    pub(crate) fn memory(&self) -> Peak {
        Peak::of(self.child.id().unwrap())
    }
}
