//! Beside the real CLI, in both its forms: how many turns it does, what share of their CPU time is the service's, and what of memory
//! is left behind.

use std::path::PathBuf;

use copilot_grpc::backend::discover::Form;
use copilot_grpc_bench::{job::Job, proc};
use scripted_model::{ModelServer, Reply};
use tempfile::TempDir;

use crate::{
    Result,
    peers::{Bench, free_port, serving},
    program::{Load, Program},
    table::{Table, median},
};

/// How many turns at once.
pub(crate) const FEW: [usize; 4] = [1, 4, 16, 64];

/// The same for a curve.
pub(crate) const CURVE: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// How many turns there are in a run, at least one a session.
const TURNS: usize = 128;

/// How many pieces an answer has.
const DELTAS: usize = 20;

/// A model that answers at once.
pub(crate) async fn model() -> Result<ModelServer> {
    Ok(ModelServer::start(|_| Reply::chunks(["a piece of it "; DELTAS])).await?)
}

pub(crate) async fn measure(bench: &Bench, runs: usize, at_once: &[usize]) -> Result<()> {
    let model = model().await?;
    let title = format!("Beside the real CLI: SendAndStream, {DELTAS} deltas");
    let columns = [
        "CLI",
        "at once",
        "turns/s",
        "turn p50, ms",
        "p99, ms",
        "CPU a turn, the CLI, ms",
        "the service, ms",
        "its share",
        "memory of the CLI, MB",
    ];
    let mut table = Table::new(title, &columns);
    for &sessions in at_once {
        for form in [Form::Native, Form::Node] {
            // Anew for each: what it has come to with others would be in the way.
            let pair = Pair::start(bench, form, &model, &["--recycle-at-memory=0"]).await?;
            let mut costs = Vec::new();
            for run in 0..=runs {
                let cost = pair.carry(bench, run, sessions).await?;
                // The first one warms up.
                if run > 0 {
                    costs.push(cost);
                }
            }
            let median = |value: fn(&Cost) -> f64| median(costs.iter().map(value));
            table.row(vec![
                form.to_string(),
                sessions.to_string(),
                format!("{:.0}", median(|cost| cost.turns / cost.seconds)),
                format!("{:.0}", median(|cost| cost.p50)),
                format!("{:.0}", median(|cost| cost.p99)),
                format!("{:.1}", median(|cost| cost.cli / cost.turns) / 1e3),
                format!("{:.2}", median(|cost| cost.service / cost.turns) / 1e3),
                format!("{:.1} %", median(|cost| cost.service / (cost.service + cost.cli)) * 100.0),
                format!("{:.0}", proc::memory(pair.cli()?)? as f64 / 1e6),
            ]);
        }
    }
    table.print();
    Ok(())
}

/// What a job cost, in microseconds of CPU time and milliseconds of a turn.
struct Cost {
    cli: f64,
    service: f64,
    turns: f64,
    seconds: f64,
    p50: f64,
    p99: f64,
}

/// The service and a real CLI of its own.
pub(crate) struct Pair {
    pub(crate) address: String,
    facade: Program,
    _folder: TempDir,
}

impl Pair {
    pub(crate) async fn start(bench: &Bench, form: Form, model: &ModelServer, flags: &[&str]) -> Result<Self> {
        let (address, folder) = (format!("127.0.0.1:{}", free_port()?), tempfile::tempdir()?);
        let cli: PathBuf = bench.cli(form)?;
        let mut command = bench.embedding_command(&address, &cli, folder.path());
        // What the CLI needs no account and no network with.
        command
            .env("COPILOT_OFFLINE", "true")
            .env("COPILOT_PROVIDER_BASE_URL", model.base_url())
            .env("COPILOT_MODEL", "scripted");
        let facade = Program::start(command.args(flags))?;
        serving(&address).await?;
        Ok(Self { address, facade, _folder: folder })
    }

    /// The CLI's process, behind its guard.
    pub(crate) fn cli(&self) -> Result<u32> {
        Ok(proc::child(proc::child(self.facade.pid())?.ok_or("no guard")?)?.ok_or("no CLI")?)
    }

    async fn carry(&self, bench: &Bench, run: usize, sessions: usize) -> Result<Cost> {
        let job = Job {
            address: self.address.clone(),
            connections: 1,
            prefix: format!("cli-{run}"),
            sessions,
            at_once: sessions,
            turns: (TURNS / sessions).max(1),
            stream: true,
            deltas: DELTAS,
            size: "a piece of it ".len(),
            pace: 0,
            create: true,
        };
        let mut load = Load::prepare(&mut bench.program("load"), &job).await?;
        let cli = self.cli()?;
        let (service_before, cli_before) = (proc::cpu(self.facade.pid())?, proc::cpu(cli)?);
        let outcome = load.run().await?;
        Ok(Cost {
            cli: (proc::cpu(cli)? - cli_before) as f64,
            service: (proc::cpu(self.facade.pid())? - service_before) as f64,
            turns: outcome.turns.max(1) as f64,
            seconds: outcome.wall as f64 / 1e9,
            p50: outcome.whole.p50 as f64 / 1e6,
            p99: outcome.whole.p99 as f64 / 1e6,
        })
    }
}
