//! Beside the real CLI: what share of a turn's CPU time is the service's.

use std::path::Path;

use copilot_grpc_bench::{job::Job, proc};
use scripted_model::{ModelServer, Reply};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Result,
    peers::{Bench, Peer, free_port, serving},
    program::{Load, Program},
    table::{Table, median},
};

/// How many turns at once, and how many each.
const SESSIONS: usize = 4;
const TURNS: usize = 10;

/// How many pieces an answer has.
const DELTAS: usize = 20;

/// What the CLI needs no account and no network with.
type Offline = [(&'static str, String); 3];

pub(crate) async fn measure(bench: &Bench, runs: usize) -> Result<()> {
    let model = ModelServer::start(|_| Reply::chunks(["a piece of it "; DELTAS])).await?;
    let offline = [
        ("COPILOT_OFFLINE", "true".to_owned()),
        ("COPILOT_PROVIDER_BASE_URL", model.base_url()),
        ("COPILOT_MODEL", "scripted".to_owned()),
    ];
    let mut pairs = Vec::new();
    for peer in [Peer::Facade, Peer::TwoLinks, Peer::OneLink] {
        pairs.push((Pair::start(bench, peer, &offline).await?, Vec::new()));
    }
    for run in 0..=runs {
        // In turns, so that what else the machine does hits all of them.
        for (pair, costs) in &mut pairs {
            let cost = pair.carry(bench, run).await?;
            // The first one warms up.
            if run > 0 {
                costs.push(cost);
            }
        }
    }
    let title = format!("Beside the real CLI: SendAndStream, {SESSIONS} at once, {DELTAS} deltas");
    let columns = ["", "CPU a turn, the CLI", "CPU a turn, the service", "its share", "turns/s"];
    let mut table = Table::new(title, &columns);
    for (pair, costs) in &pairs {
        let median = |value: fn(&Cost) -> f64| median(costs.iter().map(value));
        table.row(vec![
            pair.peer.name().into(),
            format!("{:.1} ms", median(|cost| cost.cli / cost.turns) / 1e3),
            format!("{:.2} ms", median(|cost| cost.service / cost.turns) / 1e3),
            format!("{:.2} %", median(|cost| cost.service / (cost.service + cost.cli)) * 100.0),
            format!("{:.0}", median(|cost| cost.turns / cost.seconds)),
        ]);
    }
    table.print();
    Ok(())
}

/// What a job cost, in microseconds of CPU time.
struct Cost {
    cli: f64,
    service: f64,
    turns: f64,
    seconds: f64,
}

/// The service and the real CLI, each of them for the other alone.
struct Pair {
    peer: Peer,
    address: String,
    facade: Program,
    cli: u32,
    /// The CLI, if somebody else runs it than the service.
    _cli: Option<Program>,
    _folder: TempDir,
}

impl Pair {
    async fn start(bench: &Bench, peer: Peer, offline: &Offline) -> Result<Self> {
        let (address, folder) = (format!("127.0.0.1:{}", free_port()?), tempfile::tempdir()?);
        let (cli, mut command) = if peer == Peer::Facade {
            (None, bench.embedding_command(&address, &bench.cli()?, folder.path()))
        } else {
            let (cli, port) = listening(bench, folder.path(), offline).await?;
            let mut command = bench.facade_command(&address, &[port]);
            command.arg(format!("--keeper-link={}", peer == Peer::TwoLinks));
            (Some(cli), command)
        };
        let facade = Program::start(command.envs(offline.clone()))?;
        serving(&address).await?;
        let pid = match &cli {
            Some(cli) => cli.pid(),
            // Behind its guard.
            None => proc::child(proc::child(facade.pid())?.ok_or("no guard")?)?.ok_or("no CLI")?,
        };
        Ok(Self { peer, address, facade, cli: pid, _cli: cli, _folder: folder })
    }

    async fn carry(&self, bench: &Bench, run: usize) -> Result<Cost> {
        let job = Job {
            address: self.address.clone(),
            connections: 1,
            prefix: format!("cli-{run}"),
            sessions: SESSIONS,
            at_once: SESSIONS,
            turns: TURNS,
            stream: true,
            deltas: DELTAS,
            size: "a piece of it ".len(),
            pace: 0,
            create: true,
        };
        let mut load = Load::prepare(&mut bench.program("load"), &job).await?;
        let (service, cli) = (proc::cpu(self.facade.pid())?, proc::cpu(self.cli)?);
        let outcome = load.run().await?;
        Ok(Cost {
            cli: (proc::cpu(self.cli)? - cli) as f64,
            service: (proc::cpu(self.facade.pid())? - service) as f64,
            turns: outcome.turns.max(1) as f64,
            seconds: outcome.wall as f64 / 1e9,
        })
    }
}

/// A CLI that somebody else runs, and its port.
async fn listening(bench: &Bench, home: &Path, offline: &Offline) -> Result<(Program, u16)> {
    let mut command = Command::new(bench.cli()?);
    command
        .args(["--headless", "--port", "0", "--no-auto-update"])
        .current_dir(home)
        .env("COPILOT_HOME", home)
        .env("COPILOT_DISABLE_KEYTAR", "1")
        .envs(offline.clone());
    let mut cli = Program::start(&mut command)?;
    loop {
        if let Some((_, port)) = cli.line().await?.split_once("listening on port ") {
            return Ok((cli, port.trim().parse()?));
        }
    }
}
