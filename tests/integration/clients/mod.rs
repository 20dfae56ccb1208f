//! The programs in `examples`, in each language whose tools are here, built by `scripts/clients`: what they do, and how they end.
//!
//! `make test-clients` prints what each of them did, and also runs what is left out otherwise: the commands of the pages in
//! docs/guide/clients, in a folder with nothing but what is published.

mod chat;
mod pages;
mod programs;
mod retries;

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use scripted_model::ModelServer;
use tokio::{
    process::{Child, Command},
    sync::OnceCell,
    time::timeout,
};

use crate::support::{programs::root, server::Server, soon};

/// A chat, with one library of one language. They all take the same arguments and print the same.
#[derive(Clone, Copy, Debug)]
struct Client {
    name: &'static str,
    /// What builds it, in `scripts/clients`.
    script: &'static str,
}

const CLIENTS: [Client; 9] = [
    Client { name: "go", script: "go" },
    Client { name: "java", script: "java" },
    Client { name: "python", script: "python" },
    Client { name: "python-asyncio", script: "python" },
    Client { name: "connect", script: "typescript" },
    Client { name: "grpc-js", script: "typescript" },
    Client { name: "cpp", script: "cpp" },
    Client { name: "rust", script: "rust" },
    Client { name: "ruby", script: "ruby" },
];

/// The scripts, each a language or a set of tools.
const SCRIPTS: [&str; 8] = ["go", "java", "python", "typescript", "cpp", "rust", "ruby", "tools"];

/// What a script ends with when what it needs is not on this machine.
const NOT_HERE: i32 = 3;

/// How long a client may take: some begin slowly, on a busy machine more so.
const PATIENCE: Duration = Duration::from_secs(150);

/// Whether what `script` builds is here. Everything is built the first time, one after the other, and what cannot be is said.
async fn is_here(script: &str) -> bool {
    static HERE: OnceCell<Vec<&str>> = OnceCell::const_new();
    let here = HERE.get_or_init(|| async {
        let mut here = Vec::new();
        for script in SCRIPTS {
            let mut command = Command::new(root().join("scripts/clients").join(script));
            let ended = command.stdin(Stdio::null()).output().await.unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            if ended.status.code() == Some(NOT_HERE) {
                tell(&format!("{script}: not run: {}", said.trim()));
            } else {
                assert!(ended.status.success(), "scripts/clients/{script}: {}\n{said}", ended.status);
                here.push(script);
            }
        }
        here
    });
    here.await.contains(&script)
}

/// The clients that are here.
async fn clients() -> Vec<Client> {
    let mut here = Vec::new();
    for client in CLIENTS {
        if is_here(client.script).await {
            here.push(client);
        }
    }
    assert!(!here.is_empty(), "there is no client at all");
    here
}

/// A server that says that it is serving, which is what clients look at first.
async fn serving(model: &ModelServer) -> Server {
    let server = Server::start(model).await;
    soon("health", async { while !server.is_serving().await {} }).await;
    server
}

/// A program that a script has built. It takes Ctrl-C as from a terminal, also where the tests were started in the background.
fn program(name: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(binaries().join(name));
    on_loopback(command)
}

fn binaries() -> PathBuf {
    root().join("target/clients/bin")
}

/// A command that knows of no proxy, as nothing here is behind one, and ends with its test.
fn on_loopback(mut command: Command) -> Command {
    for variable in
        ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "COPILOT_SESSION"]
    {
        command.env_remove(variable);
    }
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a program ended, and what it said.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    out: String,
    error: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
    }
}

/// Runs a program to its end.
async fn run(command: Command) -> Ended {
    run_within(PATIENCE, command).await
}

async fn run_within(limit: Duration, mut command: Command) -> Ended {
    ended(&format!("{command:?}"), limit, command.spawn().unwrap()).await
}

async fn ended(what: &str, limit: Duration, child: Child) -> Ended {
    match timeout(limit, child.wait_with_output()).await {
        Ok(output) => output.unwrap().into(),
        Err(_) => panic!("{what} has not ended within {limit:?}"),
    }
}

/// Tells who runs the tests with `--nocapture`.
#[expect(clippy::print_stdout, reason = "it is what `make test-clients` shows")]
fn tell(line: &str) {
    println!("{line}");
}
