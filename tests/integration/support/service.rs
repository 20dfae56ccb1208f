//! The program, run by an operator as a service in front of a CLI that somebody else runs.

use std::{net::TcpListener, process::Stdio, time::Duration};

use copilot_grpc::grpc::pb::{
    Backend, BackendState, GetServerInfoRequest, copilot_service_client::CopilotServiceClient,
};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::transport::{self, Channel};

use super::{memory::Peak, real_cli::LastingCli, state::State};

/// A server of its own process.
pub(crate) struct Service {
    pub(crate) port: u16,
    /// What it has, as long as it runs.
    _state: State,
    child: Child,
}

impl Service {
    pub(crate) async fn start(cli: &LastingCli, flags: &[&str]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let state = State::default();
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
        Self { port, _state: state, child: command.spawn().unwrap() }
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
