//! How clients come in: over TLS and with certificates, which change while the server runs, over a Unix socket, and to the port for
//! probes.

mod mutual;
mod probes;
mod reloading;
mod starting;
mod tls;
mod unix;

use copilot_grpc::grpc::pb::{GetServerInfoRequest, copilot_service_client::CopilotServiceClient};

use crate::support::{
    fake_cli::FakeCli,
    server::{Server, said},
    soon,
    tls::Client,
    until,
};

/// A server with these flags.
async fn server(cli: &FakeCli, flags: &[String]) -> Server {
    let flags = flags.iter().map(String::as_str).chain(["--log-level=debug"]).collect::<Vec<_>>();
    Server::in_front_of(cli, &flags).await
}

/// Makes a small call on a connection of its own; an error says what was in the way.
async fn call(server: &Server, client: &Client) -> Result<(), String> {
    let channel =
        soon("a connection", client.channel(server.address())).await.map_err(|error| format!("{error:?}"))?;
    let called = CopilotServiceClient::new(channel).get_server_info(GetServerInfoRequest {}).await;
    called.map(|_| ()).map_err(|status| format!("{status:?}"))
}

/// Waits until the log says this so often, and gives the last line that does.
async fn logged(server: &Server, message: &str, times: usize) -> serde_json::Value {
    until(message, || server.times(message) >= times).await;
    let logs = server.logs.borrow();
    logs.iter().rev().find_map(|line| said(line, message)).unwrap()
}
