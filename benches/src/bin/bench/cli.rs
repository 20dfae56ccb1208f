//! Beside the real CLI, in both its forms: how many turns it does, what share of their CPU time is the service's, and what of memory
//! is left behind.

use std::{fs, path::Path, time::Duration};

use copilot_grpc::backend::process::discover::Form;
use copilot_grpc_bench::{job::Job, proc};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply};
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use crate::{
    Result,
    peers::{Bench, free_port, serving},
    program::{Load, Program},
    progress::Progress,
    table::{Table, median},
};

/// How many CLIs there are, and how many turns at once.
pub(crate) struct Grid {
    /// The part that this is.
    part: &'static str,
    clis: &'static [usize],
    at_once: &'static [usize],
}

pub(crate) static FEW: Grid = Grid { part: "cli", clis: &[1], at_once: &[1, 4, 16, 64] };

pub(crate) static CURVE: Grid = Grid { part: "curve", clis: &[1], at_once: &[1, 2, 4, 8, 16, 32, 64, 128] };

pub(crate) static SEVERAL: Grid = Grid { part: "several", clis: &[1, 2, 4], at_once: &[16, 64] };

/// The forms of the CLI.
const FORMS: [Form; 2] = [Form::Native, Form::Node];

impl Grid {
    pub(crate) fn steps(&self) -> usize {
        self.clis.len() * self.at_once.len() * FORMS.len()
    }
}

/// How many turns there are in a run, at least one a session.
const TURNS: usize = 128;

/// How many pieces an answer has.
const DELTAS: usize = 20;

/// A model that answers at once.
pub(crate) async fn model() -> Result<ModelServer> {
    Ok(ModelServer::start(|_| Reply::chunks(["a piece of it "; DELTAS])).await?)
}

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, runs: usize, grid: &Grid) -> Result<()> {
    let Grid { part, clis, at_once } = grid;
    let model = model().await?;
    let title = format!("Beside the real CLI: SendAndStream, {DELTAS} deltas (`{part}`)");
    let columns = [
        "CLI",
        "CLIs",
        "at once",
        "turns/s",
        "turn p50, ms",
        "p99, ms",
        "CPU a turn, the CLIs, ms",
        "the service, ms",
        "its share",
        "memory of the CLIs, MB",
    ];
    let mut table = Table::new(title, &columns);
    let rows = at_once.iter().flat_map(|sessions| clis.iter().map(move |clis| (sessions, clis)));
    for ((&sessions, clis), form) in rows.flat_map(|row| FORMS.map(|form| (row, form))) {
        progress.step(format_args!("{part}, {form}, CLIs: {clis}, turns at once: {sessions}"));
        // Anew for each: what it has come to with others would be in the way.
        let flags = ["--recycle-at-memory=0", &format!("--embedded-clis={clis}")];
        let pair = Pair::start(bench, form, &model, &flags).await?;
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
            clis.to_string(),
            sessions.to_string(),
            format!("{:.0}", median(|cost| cost.turns / cost.seconds)),
            format!("{:.0}", median(|cost| cost.p50)),
            format!("{:.0}", median(|cost| cost.p99)),
            format!("{:.1}", median(|cost| cost.cli / cost.turns) / 1e3),
            format!("{:.2}", median(|cost| cost.service / cost.turns) / 1e3),
            format!("{:.1} %", median(|cost| cost.service / (cost.service + cost.cli)) * 100.0),
            format!("{:.0}", pair.memory()? as f64 / 1e6),
        ]);
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

/// The service and real CLIs of its own.
pub(crate) struct Pair {
    pub(crate) address: String,
    facade: Program,
    folder: TempDir,
}

impl Pair {
    pub(crate) async fn start(
        bench: &Bench,
        form: Form,
        model: &ModelServer,
        flags: &[&str],
    ) -> Result<Self> {
        Self::start_on(bench, form, model, flags, tempfile::tempdir()?).await
    }

    /// Ends it, and starts another on what it has left on its disk, or on an empty one.
    pub(crate) async fn restart(
        self,
        bench: &Bench,
        form: Form,
        model: &ModelServer,
        flags: &[&str],
        is_empty: bool,
    ) -> Result<Self> {
        let clis = self.clis()?;
        let Self { facade, folder, .. } = self;
        facade.kill().await?;
        if is_empty {
            // They write there until their end.
            while clis.iter().any(|cli| is_running(*cli)) {
                sleep(Duration::from_millis(5)).await;
            }
            fs::remove_dir_all(folder.path().join("state"))?;
        }
        Self::start_on(bench, form, model, flags, folder).await
    }

    async fn start_on(
        bench: &Bench,
        form: Form,
        model: &ModelServer,
        flags: &[&str],
        folder: TempDir,
    ) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = command(bench, form, model, &address, folder.path())?;
        let facade = Program::start(command.args(flags))?;
        serving(&address).await?;
        Ok(Self { address, facade, folder })
    }

    /// The processes of its CLIs, each behind its guard.
    fn clis(&self) -> Result<Vec<u32>> {
        let mut clis = Vec::new();
        for guard in proc::children(self.facade.pid())? {
            // One that is replaced may end meanwhile.
            clis.extend(proc::children(guard).unwrap_or_default().first());
        }
        Ok(clis)
    }

    /// Kills the CLI of this name.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        let home = format!("COPILOT_HOME={}", self.folder.path().join("state").join(name).display());
        let is_it = |pid: &u32| {
            let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            variables.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
        };
        let pid = self.clis()?.into_iter().find(is_it).ok_or_else(|| format!("there is no CLI {name}"))?;
        let pid = Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    pub(crate) fn session_size(&self, session: &str) -> Result<u64> {
        session_size(self.folder.path(), session)
    }

    /// What they hold, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        Ok(self.clis()?.into_iter().map(|cli| proc::memory(cli).unwrap_or_default()).sum())
    }

    /// The CPU time that they have used, in microseconds.
    fn cpu(&self) -> Result<u64> {
        Ok(self.clis()?.into_iter().map(|cli| proc::cpu(cli).unwrap_or_default()).sum())
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
            tools: 0,
            pace: 0,
            create: true,
        };
        let mut load = Load::prepare(&mut bench.program("load"), &job).await?;
        let (service_before, cli_before) = (proc::cpu(self.facade.pid())?, self.cpu()?);
        let outcome = load.run().await?;
        Ok(Cost {
            cli: (self.cpu()? - cli_before) as f64,
            service: (proc::cpu(self.facade.pid())? - service_before) as f64,
            turns: outcome.turns.max(1) as f64,
            seconds: outcome.wall as f64 / 1e9,
            p50: outcome.whole.p50 as f64 / 1e6,
            p99: outcome.whole.p99 as f64 / 1e6,
        })
    }
}

/// The service with a real CLI of its own, which needs no account and no network.
pub(crate) fn command(
    bench: &Bench,
    form: Form,
    model: &ModelServer,
    address: &str,
    folder: &Path,
) -> Result<Command> {
    let mut command = bench.embedding_command(address, &bench.cli(form)?, folder);
    command
        .env("COPILOT_OFFLINE", "true")
        .env("COPILOT_PROVIDER_BASE_URL", model.base_url())
        .env("COPILOT_MODEL", "scripted");
    Ok(command)
}

/// How large the folder of a session is, in bytes, where it is largest, of a service that keeps its sessions below this folder.
pub(crate) fn session_size(folder: &Path, session: &str) -> Result<u64> {
    let mut largest = 0;
    for home in fs::read_dir(folder.join("state"))? {
        largest = largest.max(size(&home?.path().join("session-state").join(session)));
    }
    Ok(largest)
}

/// One that has ended has no command line any more.
fn is_running(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The size of all files below a folder, in bytes; of none if there is none.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
