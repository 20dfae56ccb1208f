//! The composition root: puts the rooms together, with configuration, logs and signals.

pub mod chat;
pub mod command;
pub mod config;
mod descriptors;
mod facade;
pub mod health;
mod outcome;
pub mod settings;
mod state_dir;
pub mod store;
mod telemetry;
pub mod token;

use std::{
    fmt::Display,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

pub use facade::{Facade, StartError, look_up};
pub use outcome::Result;
pub use state_dir::Unusable;

use command::Failure;
use config::Config;

/// Runs a command to its end.
pub fn run(command: impl Future<Output = Result>) -> ExitCode {
    let ended = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("copilot-grpc: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints why there is no command to run: a mistake, or the text that was asked for, such as `--help`.
pub fn explain(failure: &Failure) -> ExitCode {
    match failure {
        Failure::Usage(usage) => {
            // If the terminal is gone, nobody can be told.
            let _ = usage.print();
            u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Failure::Config(mistakes) => {
            say(mistakes);
            ExitCode::from(2)
        }
    }
}

fn say(text: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `serve`: serves until SIGTERM or SIGINT, and then until running turns have finished or a second signal comes.
pub async fn serve(config: Config) -> Result {
    telemetry::install(&config);
    descriptors::raise_limit();
    let mut signals = Signals::new()?;
    let grace = config.grace_period;
    let facade = Facade::start(config, own_program()?).await?;
    info!(address = %facade.address(), "serving");
    let outcome = tokio::select! {
        name = signals.next() => {
            info!(signal = name, grace_period = ?grace, "draining");
            Ok(())
        }
        () = facade.failed() => {
            error!("the server has failed");
            Err("the server has failed".into())
        }
    };
    let stop = facade.stop(grace);
    tokio::pin!(stop);
    tokio::select! {
        () = &mut stop => info!("stopped"),
        name = signals.next() => {
            info!(signal = name, "stopping at once");
            facade.hurry();
            stop.await;
        }
    }
    outcome
}

/// `protoset`: prints the contract's descriptor set.
pub async fn protoset() -> Result {
    let mut out = std::io::stdout().lock();
    out.write_all(&crate::grpc::protoset::encoded()?)?;
    Ok(out.flush()?)
}

/// The path of this binary. On Linux it is a name that still leads to it after an upgrade in place.
fn own_program() -> std::io::Result<PathBuf> {
    let linux = Path::new("/proc/self/exe");
    if linux.exists() { Ok(linux.into()) } else { std::env::current_exe() }
}

/// The signals that end the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
