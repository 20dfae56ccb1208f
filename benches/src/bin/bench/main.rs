//! Starts the service, its peers and the load, reads what they cost, and prints tables: `bench [--runs N] [--alone]
//! [--seconds N] [PART...]`. With `--alone` without the peers. How far it is, it tells on standard error.
//!
//! Parts: `turns`, `streams`, `bulk`, `latency`, `json`, `rest`, `start`, `cli`, which are all run without any; and `instructions`,
//! `growth`, `long`, `curve`, `several`, `store`, `nodes` (or of it `hop`, `takeover`,
//! `idle`, `ceiling`), `wear` and `soak`. See docs/operate/benchmarks.md.
//!
//! `bench plot FILE FOLDER` draws pictures of the tables in a Markdown file: those that were printed, or of that page.

mod cli;
mod database;
mod growth;
mod instructions;
mod nodes;
mod peers;
mod pictures;
mod plot;
mod program;
mod progress;
mod rest;
mod soak;
mod start;
mod store;
mod table;
mod wear;

use std::{error::Error, fs, path::Path, time::Duration};

use copilot_grpc_bench::job::Job;
use peers::{Bench, Measured, Peer};
use progress::Progress;
use table::{Table, median};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "plot") {
        let [_, file, folder] = args.as_slice() else { return Err("bench plot FILE FOLDER".into()) };
        return pictures::draw(&fs::read_to_string(file)?, Path::new(folder));
    }
    let mut plan = Plan { runs: 5, alone: false, duration: Duration::from_secs(30 * 60) };
    let mut parts = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => plan.runs = args.next().and_then(|runs| runs.parse().ok()).ok_or("--runs N")?,
            "--alone" => plan.alone = true,
            "--seconds" => {
                let seconds = args.next().and_then(|seconds| seconds.parse().ok());
                plan.duration = Duration::from_secs(seconds.ok_or("--seconds N")?);
            }
            part => parts.push(Part::named(part).ok_or_else(|| format!("there is no part {part}"))?),
        }
    }
    if parts.is_empty() {
        parts = SCENARIOS.iter().map(Part::Compare).collect();
        parts.extend([Part::Rest, Part::Start, Part::Cli(&cli::FEW)]);
    }
    let bench = Bench::new()?;
    eprintln!("medians of {} runs", plan.runs);
    let mut progress = Progress::of(parts.iter().map(|part| part.steps(&plan)).sum());
    for part in parts {
        part.measure(&bench, &mut progress, &plan).await?;
    }
    progress.end();
    Ok(())
}

/// How long and how often it is measured.
struct Plan {
    runs: usize,
    /// Whether without the peers.
    alone: bool,
    /// Of the parts that take as long as one likes.
    duration: Duration,
}

/// What can be measured.
enum Part {
    Compare(&'static Scenario),
    Rest,
    Start,
    Cli(&'static cli::Grid),
    Instructions,
    Growth,
    Long,
    Store,
    Nodes(&'static [nodes::Piece]),
    Wear,
    Soak,
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "rest" => Self::Rest,
            "start" => Self::Start,
            "cli" => Self::Cli(&cli::FEW),
            "curve" => Self::Cli(&cli::CURVE),
            "several" => Self::Cli(&cli::SEVERAL),
            "instructions" => Self::Instructions,
            "growth" => Self::Growth,
            "long" => Self::Long,
            "store" => Self::Store,
            "nodes" => Self::Nodes(&nodes::Piece::ALL),
            "hop" => Self::Nodes(&[nodes::Piece::Hop]),
            "takeover" => Self::Nodes(&[nodes::Piece::TakeOver]),
            "idle" => Self::Nodes(&[nodes::Piece::Idle]),
            "ceiling" => Self::Nodes(&[nodes::Piece::Ceiling]),
            "wear" => Self::Wear,
            "soak" => Self::Soak,
            _ => Self::Compare(SCENARIOS.iter().find(|scenario| scenario.part == name)?),
        })
    }

    /// How often it tells how far it is.
    fn steps(&self, plan: &Plan) -> usize {
        match self {
            Self::Compare(_) => plan.runs,
            Self::Rest => rest::steps(plan.runs),
            Self::Start => start::STEPS,
            Self::Cli(grid) => grid.steps(),
            Self::Instructions => instructions::STEPS,
            Self::Growth => growth::STEPS,
            Self::Long => growth::LONG_STEPS,
            Self::Store => store::steps(plan.runs),
            Self::Nodes(pieces) => nodes::steps(pieces, plan.runs),
            Self::Wear => wear::steps(plan.duration),
            Self::Soak => soak::STEPS,
        }
    }

    async fn measure(&self, bench: &Bench, progress: &mut Progress, plan: &Plan) -> Result<()> {
        match self {
            Self::Compare(scenario) => compare(bench, progress, scenario, plan).await,
            Self::Rest => rest::measure(bench, progress, plan.runs).await,
            Self::Start => start::measure(bench, progress, plan.runs).await,
            Self::Cli(grid) => cli::measure(bench, progress, plan.runs, grid).await,
            Self::Instructions => instructions::measure(bench, progress).await,
            Self::Growth => growth::measure(bench, progress).await,
            Self::Long => growth::long(bench, progress).await,
            Self::Store => store::measure(bench, progress, plan.runs).await,
            Self::Nodes(pieces) => nodes::measure(bench, progress, pieces, plan.runs).await,
            Self::Wear => wear::measure(bench, progress, plan.duration).await,
            Self::Soak => soak::measure(bench, progress, plan.duration).await,
        }
    }
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

static SCENARIOS: [Scenario; 5] = [
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

async fn compare(bench: &Bench, progress: &mut Progress, scenario: &Scenario, plan: &Plan) -> Result<()> {
    let mut peers = vec![Peer::Facade, Peer::TwoLinks, Peer::OneLink];
    if !plan.alone {
        peers.extend([Peer::Raw, Peer::RustSdk, Peer::Node]);
        // It has only streams.
        if scenario.stream {
            peers.push(Peer::Bare);
        }
    }
    let mut measured: Vec<Vec<Measured>> = peers.iter().map(|_| Vec::new()).collect();
    for run in 0..plan.runs {
        progress.step(format_args!("{}, run {} of {}", scenario.part, run + 1, plan.runs));
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
