//! Beside the real CLI: what share of a turn's CPU time is the service's.

use std::time::Duration;

use copilot_grpc::backend::process::{Process, Spec};
use copilot_grpc_bench::{job::Job, proc};
use scripted_model::{ModelServer, Reply};

use crate::{
    Result,
    peers::{Bench, free_port, serving},
    program::{Load, Program},
    table::{Table, median},
};

/// How many turns at once, and how many each.
const SESSIONS: usize = 4;
const TURNS: usize = 10;

/// How many pieces an answer has.
const DELTAS: usize = 20;

pub(crate) async fn measure(bench: &Bench, runs: usize) -> Result<()> {
    let model = ModelServer::start(|_| Reply::chunks(["a piece of it "; DELTAS])).await?;
    let folder = tempfile::tempdir()?;
    let offline = [
        ("COPILOT_OFFLINE", "true".to_owned()),
        ("COPILOT_PROVIDER_BASE_URL", model.base_url()),
        ("COPILOT_MODEL", "scripted".to_owned()),
    ];
    let cli = Process::start(&Spec {
        cli: bench.cli()?,
        guard: bench.facade.clone(),
        home: folder.path().join("home"),
        work_dir: folder.path().join("work"),
        env: offline.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        start_timeout: Duration::from_secs(60),
    })
    .await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = bench.facade_command(&address, &[cli.port()]);
    command.env("COPILOT_CONNECTION_TOKEN", cli.token().expose()).envs(offline);
    let facade = Program::start(&mut command)?;
    serving(&address).await?;
    let pid = cli.cli_pid().ok_or("no CLI")?;
    let mut costs = Vec::new();
    for run in 0..=runs {
        let job = Job {
            address: address.clone(),
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
        let (own, its) = (proc::cpu(facade.pid())?, proc::cpu(pid)?);
        let outcome = load.run().await?;
        let cost = (proc::cpu(facade.pid())? - own, proc::cpu(pid)? - its, outcome.turns);
        // The first one warms up.
        if run > 0 {
            costs.push(cost);
        }
    }
    cli.stop().await;
    let turns = |cost: &(u64, u64, usize)| cost.2.max(1) as f64;
    let (own, its) = (
        median(costs.iter().map(|cost| cost.0 as f64 / turns(cost))),
        median(costs.iter().map(|cost| cost.1 as f64 / turns(cost))),
    );
    let share = median(costs.iter().map(|cost| cost.0 as f64 / (cost.0 + cost.1) as f64));
    let title = format!("Beside the real CLI: SendAndStream, {SESSIONS} at once, {DELTAS} deltas");
    let mut table = Table::new(title, &["", "median"]);
    table.row(vec!["CPU a turn, the CLI".into(), format!("{:.1} ms", its / 1e3)]);
    table.row(vec!["CPU a turn, copilot-grpc".into(), format!("{:.2} ms", own / 1e3)]);
    table.row(vec!["its share".into(), format!("{:.2} %", share * 100.0)]);
    table.print();
    Ok(())
}
