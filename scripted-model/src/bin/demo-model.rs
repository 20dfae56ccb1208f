//! A model to try clients with, without a key or a network: [`scripted_model::demo`] on a loopback port.

use std::io::{self, Write};
use std::net::SocketAddr;

use clap::Parser;
use scripted_model::{ModelServer, demo};
use tokio::signal::unix::{SignalKind, signal};

/// A demo model: an OpenAI-compatible server that echoes, for trying clients without a key or a network.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The loopback address to listen on; port 0 is any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = loopback)]
    listen: SocketAddr,
}

fn loopback(argument: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        argument.parse().map_err(|_| "not an address and a port, such as 127.0.0.1:4000".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("not a loopback address: the demo model answers anyone who can reach it".to_owned());
    }
    Ok(address)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let Arguments { listen } = Arguments::parse();
    // Before the line below, because whoever reads that may send a signal.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let model = ModelServer::bind(listen, demo)
        .await
        .map_err(|cause| io::Error::new(cause.kind(), format!("cannot listen on {listen}: {cause}")))?;
    {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "demo model listening on {}", model.base_url())?;
        stdout.flush()?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
