//! What the service holds: for a session at rest, and for a stream that is open.

use copilot_grpc_bench::{job::Job, proc};

use crate::{
    Result,
    peers::Bench,
    program::Load,
    progress::Progress,
    table::{Table, median},
};

/// How many sessions, and how many streams.
const COUNT: usize = 20_000;

/// Memory differs little from run to run: three are enough.
pub(crate) fn steps(runs: usize) -> usize {
    runs.min(3)
}

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, runs: usize) -> Result<()> {
    let (mut sessions, mut streams) = (Vec::new(), Vec::new());
    for run in 1..=steps(runs) {
        progress.step(format_args!("rest, run {run} of {}", steps(runs)));
        let (_stand_in, ports) = bench.stand_in(1).await?;
        let (facade, address) = bench.facade(&ports, &[]).await?;
        let job = |prefix: &str, sessions: usize, turns: usize, stream: bool| Job {
            address: address.clone(),
            connections: 32,
            prefix: prefix.into(),
            sessions,
            // What many turns at once take is kept for the next ones, and is not the sessions'.
            at_once: 16,
            turns,
            stream,
            deltas: 5,
            size: 24,
            tools: 0,
            pace: 0,
            create: true,
        };
        // What is there once, however many follow.
        Load::prepare(&mut bench.program("load"), &job("warm", 200, 2, true)).await?.run().await?;
        let empty = proc::memory(facade.pid())?;
        Load::prepare(&mut bench.program("load"), &job("rest", COUNT, 1, false)).await?.run().await?;
        let resting = proc::memory(facade.pid())?;
        sessions.push((resting.saturating_sub(empty)) as f64 / COUNT as f64);
        let mut watch = job("rest", COUNT, 0, true);
        (watch.create, watch.at_once) = (false, COUNT);
        let watching = Load::prepare(&mut bench.program("watch"), &watch).await?;
        let watched = proc::memory(facade.pid())?;
        streams.push((watched.saturating_sub(resting)) as f64 / COUNT as f64);
        drop(watching);
    }
    let mut table = Table::new(format!("Memory, with {COUNT} of each"), &["", "KiB"]);
    table.row(vec!["a session at rest".into(), format!("{:.1}", median(sessions.into_iter()) / 1024.0)]);
    table.row(vec![
        "an open WatchSession stream".into(),
        format!("{:.1}", median(streams.into_iter()) / 1024.0),
    ]);
    table.print();
    Ok(())
}
