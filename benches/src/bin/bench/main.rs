//! Starts the service, its peers and the load, reads what they cost, and prints tables: `bench [--runs N] [--alone]
//! [--seconds N] [PART...]`. With `--alone` without the peers.
//!
//! Parts: `turns`, `streams`, `bulk`, `latency`, `json`, `rest`, `start`, `cli`, which are all run without any; and `instructions`,
//! `growth`, `long`, `curve`, `several`, `wear` and `soak`. See docs/operate/benchmarks.md.

mod cli;
mod growth;
mod instructions;
mod peers;
mod program;
mod rest;
mod soak;
mod start;
mod table;
mod wear;

use std::{error::Error, time::Duration};

use copilot_grpc_bench::job::Job;
use peers::{Bench, Measured, Peer};
use table::{Table, median};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let (mut runs, mut alone, mut parts) = (5, false, Vec::new());
    let mut duration = Duration::from_secs(30 * 60);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => runs = args.next().and_then(|runs| runs.parse().ok()).ok_or("--runs N")?,
            "--alone" => alone = true,
            "--seconds" => {
                let seconds = args.next().and_then(|seconds| seconds.parse().ok());
                duration = Duration::from_secs(seconds.ok_or("--seconds N")?);
            }
            part => parts.push(part.to_owned()),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let bench = Bench::new()?;
    eprintln!("medians of {runs} runs");
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.part)) {
        compare(&bench, scenario, runs, alone).await?;
    }
    if wanted("rest") {
        rest::measure(&bench, runs).await?;
    }
    if wanted("start") {
        start::measure(&bench, runs).await?;
    }
    if wanted("cli") {
        cli::measure(&bench, runs, &[1], &cli::FEW).await?;
    }
    // Those only if asked for: they take their time.
    for part in &parts {
        match part.as_str() {
            "instructions" => instructions::measure(&bench).await?,
            "growth" => growth::measure(&bench).await?,
            "long" => growth::long(&bench).await?,
            "curve" => cli::measure(&bench, runs, &[1], &cli::CURVE).await?,
            "several" => cli::measure(&bench, runs, &cli::SEVERAL, &cli::SHARED).await?,
            "wear" => wear::measure(&bench, duration).await?,
            "soak" => soak::measure(&bench, duration).await?,
            _ => {}
        }
    }
    Ok(())
}

/// A load that all peers get.
struct Scenario {
    part: &'static str,
    title: &'static str,
    /// How many turns at once.
    sessions: usize,
    /// How many each after the other, for those that are fast.
    turns: usize,
    stream: bool,
    deltas: usize,
    tools: usize,
    pace: u64,
    show: &'static [Column],
}

#[derive(Clone, Copy, PartialEq)]
enum Column {
    CpuTurn,
    CpuDelta,
    Turns,
    Deltas,
    Messages,
    Failed,
    Lost,
    TurnLatency,
    DeltaLatency,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        part: "turns",
        title: "Turns at full speed: SendAndWait, 64 at once, 5 deltas",
        sessions: 64,
        turns: 100,
        stream: false,
        deltas: 5,
        tools: 0,
        pace: 0,
        show: &[Column::CpuTurn, Column::Turns, Column::Failed],
    },
    Scenario {
        part: "streams",
        title: "Short streams at full speed: SendAndStream, 64 at once, 20 deltas",
        sessions: 64,
        turns: 60,
        stream: true,
        deltas: 20,
        tools: 0,
        pace: 0,
        show: &[Column::CpuTurn, Column::Turns, Column::Failed, Column::Lost],
    },
    Scenario {
        part: "bulk",
        title: "Long streams at full speed: SendAndStream, 16 at once, 10000 deltas",
        sessions: 16,
        turns: 1,
        stream: true,
        deltas: 10_000,
        tools: 0,
        pace: 0,
        show: &[Column::CpuDelta, Column::Deltas, Column::Messages, Column::Failed, Column::Lost],
    },
    Scenario {
        part: "latency",
        title: "Latency: SendAndStream, 64 at once, a delta every 20 ms",
        sessions: 64,
        turns: 10,
        stream: true,
        deltas: 20,
        tools: 0,
        pace: 20_000,
        show: &[Column::CpuTurn, Column::Failed, Column::Lost, Column::TurnLatency, Column::DeltaLatency],
    },
    Scenario {
        part: "json",
        title: "Turns full of JSON: SendAndStream, 8 at once, 100 calls of tools with 20 KB of arguments",
        sessions: 8,
        turns: 10,
        stream: true,
        deltas: 5,
        tools: 100,
        pace: 0,
        show: &[Column::CpuTurn, Column::Turns, Column::Failed, Column::Lost],
    },
];

impl Scenario {
    fn job(&self, peer: Peer, run: usize) -> Job {
        // The others take so long that fewer will do.
        let slow = matches!(peer, Peer::Node | Peer::RustSdk) && self.pace == 0 && self.turns > 1;
        Job {
            address: String::new(),
            connections: if peer == Peer::Raw { 1 } else { 4 },
            prefix: format!("{}-{run}", self.part),
            sessions: self.sessions,
            at_once: self.sessions,
            turns: if slow { self.turns.div_ceil(5) } else { self.turns },
            stream: self.stream,
            deltas: self.deltas,
            size: 24,
            tools: self.tools,
            pace: self.pace,
            create: true,
        }
    }
}

async fn compare(bench: &Bench, scenario: &Scenario, runs: usize, alone: bool) -> Result<()> {
    let mut peers = vec![Peer::Facade, Peer::TwoLinks, Peer::OneLink];
    if !alone {
        peers.extend([Peer::Raw, Peer::RustSdk, Peer::Node]);
        // It has only streams.
        if scenario.stream {
            peers.push(Peer::Bare);
        }
    }
    let mut measured: Vec<Vec<Measured>> = peers.iter().map(|_| Vec::new()).collect();
    for run in 0..runs {
        // In turns, so that what else the machine does hits all of them.
        for (peer, measured) in peers.iter().zip(&mut measured) {
            match bench.measure(*peer, scenario.job(*peer, run)).await {
                Ok(one) => measured.push(one),
                Err(error) => eprintln!("{}: {error}", peer.name()),
            }
        }
    }
    let mut table = Table::new(scenario.title, &["process"]);
    for column in scenario.show {
        table.columns(match column {
            Column::CpuTurn => &["CPU a turn, µs", "of the service's"],
            Column::CpuDelta => &["CPU a delta, µs", "of the service's"],
            Column::Turns => &["turns/s"],
            Column::Deltas => &["deltas/s"],
            Column::Messages => &["deltas a message"],
            Column::Failed => &["failed turns"],
            Column::Lost => &["lost deltas"],
            Column::TurnLatency => &["turn p50, µs", "p99, µs"],
            Column::DeltaLatency => &["delta p50, µs", "p99, µs"],
        });
    }
    let own = measured[0].clone();
    for (peer, measured) in peers.iter().zip(&measured) {
        let median = |value: fn(&Measured) -> f64| median(measured.iter().map(value));
        let ratio = |value: fn(&Measured) -> f64| median(value) / table::median(own.iter().map(value));
        let mut row = vec![peer.name().to_owned()];
        for column in scenario.show {
            row.extend(match column {
                Column::CpuTurn => {
                    vec![
                        format!("{:.0}", median(Measured::cpu_turn)),
                        format!("{:.1}x", ratio(Measured::cpu_turn)),
                    ]
                }
                Column::CpuDelta => vec![
                    format!("{:.2}", median(Measured::cpu_delta)),
                    format!("{:.1}x", ratio(Measured::cpu_delta)),
                ],
                Column::Turns => vec![format!("{:.0}", median(Measured::turns_a_second))],
                Column::Deltas => vec![format!("{:.0}", median(Measured::deltas_a_second))],
                Column::Messages => vec![format!("{:.1}", median(Measured::deltas_a_message))],
                Column::Failed => vec![share(median(Measured::failed))],
                Column::Lost => vec![share(median(Measured::lost))],
                Column::TurnLatency => vec![
                    format!("{:.0}", median(|one| one.outcome.turn.p50 as f64 / 1e3)),
                    format!("{:.0}", median(|one| one.outcome.turn.p99 as f64 / 1e3)),
                ],
                Column::DeltaLatency => vec![
                    format!("{:.0}", median(|one| one.outcome.delta.p50 as f64 / 1e3)),
                    format!("{:.0}", median(|one| one.outcome.delta.p99 as f64 / 1e3)),
                ],
            });
        }
        table.row(row);
    }
    table.print();
    Ok(())
}

fn share(share: f64) -> String {
    if share == 0.0 { "0".into() } else { format!("{:.1} %", share * 100.0) }
}
