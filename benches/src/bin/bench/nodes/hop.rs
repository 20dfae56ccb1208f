//! What a hop costs: the same load through the server that owns the sessions, and through another one.

use copilot_grpc_bench::{
    job::{Job, Outcome},
    proc::Meter,
};

use super::{Cli, Node, all_owned_by};
use crate::{
    Result,
    database::{Database, Sql},
    peers::Bench,
    program::Load,
    progress::Progress,
    table::{Table, median},
};

/// A load that goes both ways.
struct Shape {
    name: &'static str,
    archive: &'static str,
    /// How many turns at once.
    sessions: usize,
    /// How many each, one after the other.
    turns: usize,
    stream: bool,
    deltas: usize,
    pace: u64,
}

const BEFORE: &str = "before_answer";
const AFTER: &str = "after_answer";

const TURN: Shape =
    Shape { name: "turn", archive: BEFORE, sessions: 1, turns: 500, stream: false, deltas: 5, pace: 0 };
const TURNS: [Shape; 4] = [
    Shape { name: "turn-late", archive: AFTER, ..TURN },
    TURN,
    Shape { name: "turns-late", archive: AFTER, sessions: 64, turns: 50, ..TURN },
    Shape { name: "turns", sessions: 64, turns: 50, ..TURN },
];

const PACED: Shape =
    Shape { name: "paced-1", sessions: 1, turns: 30, stream: true, deltas: 20, pace: 20_000, ..TURN };
const DELTAS: [Shape; 3] = [
    PACED,
    Shape { name: "paced-8", sessions: 8, turns: 20, ..PACED },
    Shape { name: "paced-64", sessions: 64, turns: 10, ..PACED },
];

const BULK: [Shape; 1] = [Shape { name: "bulk", sessions: 16, turns: 1, deltas: 10_000, pace: 0, ..PACED }];

/// Which server the callers call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    Owner,
    Other,
}

impl Through {
    const BOTH: [Self; 2] = [Self::Owner, Self::Other];

    fn name(self) -> &'static str {
        match self {
            Self::Owner => "the owner",
            Self::Other => "another node",
        }
    }
}

/// What a load cost, in microseconds of CPU time.
struct Cost {
    outcome: Outcome,
    owner: f64,
    other: f64,
}

/// Two servers that share a store.
struct Two {
    owner: Node,
    other: Node,
    sql: Sql,
}

impl Two {
    async fn start(bench: &Bench, database: &Database, archive: &str) -> Result<Self> {
        let (store, archive) = (database.fresh().await, format!("--archive={archive}"));
        let owner = Node::start(bench, "owner", &store, Cli::StandIn, &[&archive]).await?;
        let other = Node::start(bench, "other", &store, Cli::StandIn, &[&archive]).await?;
        Ok(Self { owner, other, sql: Sql::connect(&store).await? })
    }

    async fn carry(&mut self, bench: &Bench, run: usize, shape: &Shape, through: Through) -> Result<Cost> {
        let address = match through {
            Through::Owner => &self.owner.address,
            Through::Other => &self.other.address,
        };
        let job = Job {
            address: address.clone(),
            connections: 4,
            prefix: format!(
                "{}-{}-{run}-",
                shape.name,
                if through == Through::Owner { "own" } else { "far" }
            ),
            sessions: shape.sessions,
            at_once: shape.sessions,
            turns: shape.turns,
            stream: shape.stream,
            deltas: shape.deltas,
            size: 24,
            tools: 0,
            pace: shape.pace,
            create: false,
        };
        let create =
            Job { address: self.owner.address.clone(), turns: 0, pace: 0, create: true, ..job.clone() };
        // As many there, so that neither gives away what it has beyond its share.
        let balance = Job {
            address: self.other.address.clone(),
            prefix: format!("there-{}", job.prefix),
            ..create.clone()
        };
        let warm_up = Job { turns: job.turns.min(5), deltas: job.deltas.min(100), pace: 0, ..job.clone() };
        for job in [balance, create, warm_up] {
            Load::prepare(&mut bench.program("load"), &job).await?.run().await?;
        }
        let mut load = Load::prepare(&mut bench.program("load"), &job).await?;
        let (owner, other) = self.meters()?;
        let outcome = load.run().await?;
        let (owner, other) = (owner.read()? as f64, other.read()? as f64);
        if outcome.failed > 0 || job.stream && outcome.deltas != job.sessions * job.turns * job.deltas {
            return Err(
                format!("{}: {} failed, {} deltas came", shape.name, outcome.failed, outcome.deltas).into()
            );
        }
        all_owned_by(&mut self.sql, &self.owner, &job.prefix).await?;
        Ok(Cost { outcome, owner, other })
    }

    fn meters(&self) -> Result<(Meter, Meter)> {
        Ok((Meter::start(self.owner.program.pid())?, Meter::start(self.other.program.pid())?))
    }
}

pub(super) async fn measure(
    bench: &Bench,
    database: &Database,
    progress: &mut Progress,
    runs: usize,
) -> Result<()> {
    let shapes: Vec<&Shape> = TURNS.iter().chain(&DELTAS).chain(&BULK).collect();
    let mut costs: Vec<[Vec<Cost>; 2]> = shapes.iter().map(|_| Default::default()).collect();
    for run in 0..runs {
        progress.step(format_args!("nodes, through another one, run {} of {runs}", run + 1));
        for archive in [AFTER, BEFORE] {
            let mut two = Two::start(bench, database, archive).await?;
            for (shape, costs) in shapes.iter().zip(&mut costs).filter(|(shape, _)| shape.archive == archive)
            {
                // In turns, so that what else the machine does hits both ways.
                for (through, costs) in Through::BOTH.into_iter().zip(costs) {
                    costs.push(two.carry(bench, run, shape, through).await?);
                }
            }
        }
    }
    let mut costs = shapes.into_iter().zip(costs);
    turns(costs.by_ref().take(TURNS.len()));
    deltas(costs.by_ref().take(DELTAS.len()));
    bulk(costs);
    Ok(())
}

type Costs<'s> = (&'s Shape, [Vec<Cost>; 2]);

fn turns<'s>(all: impl Iterator<Item = Costs<'s>>) {
    let columns = ["archive", "at once", "through", "turn p50, ms", "more, ms", "p99, ms", "turns/s"];
    let mut table = Table::new("A hop: SendAndWait, 5 deltas", &columns);
    table.columns(&["CPU a turn, the owner, µs", "the other node, µs"]);
    for (shape, both) in all {
        let count = (shape.sessions * shape.turns) as f64;
        let p50 = |costs: &[Cost]| figure(costs, |cost| cost.outcome.turn.p50 as f64 / 1e6);
        for (through, costs) in Through::BOTH.into_iter().zip(&both) {
            table.row(vec![
                shape.archive.into(),
                shape.sessions.to_string(),
                through.name().into(),
                format!("{:.2}", p50(costs)),
                format!("{:+.2}", p50(costs) - p50(&both[0])),
                format!("{:.2}", figure(costs, |cost| cost.outcome.turn.p99 as f64 / 1e6)),
                format!(
                    "{:.0}",
                    figure(costs, |cost| cost.outcome.turns as f64 / (cost.outcome.wall as f64 / 1e9))
                ),
                format!("{:.0}", figure(costs, |cost| cost.owner / count)),
                format!("{:.0}", figure(costs, |cost| cost.other / count)),
            ]);
        }
    }
    table.print();
}

fn deltas<'s>(all: impl Iterator<Item = Costs<'s>>) {
    let columns = ["at once", "through", "delta p50, µs", "more, µs", "p99, µs"];
    let mut table = Table::new("A hop: SendAndStream, a delta every 20 ms", &columns);
    table.columns(&["CPU a turn of 20 deltas, the owner, µs", "the other node, µs"]);
    for (shape, both) in all {
        let count = (shape.sessions * shape.turns) as f64;
        let p50 = |costs: &[Cost]| figure(costs, |cost| cost.outcome.delta.p50 as f64 / 1e3);
        for (through, costs) in Through::BOTH.into_iter().zip(&both) {
            table.row(vec![
                shape.sessions.to_string(),
                through.name().into(),
                format!("{:.0}", p50(costs)),
                format!("{:+.0}", p50(costs) - p50(&both[0])),
                format!("{:.0}", figure(costs, |cost| cost.outcome.delta.p99 as f64 / 1e3)),
                format!("{:.0}", figure(costs, |cost| cost.owner / count)),
                format!("{:.0}", figure(costs, |cost| cost.other / count)),
            ]);
        }
    }
    table.print();
}

fn bulk<'s>(all: impl Iterator<Item = Costs<'s>>) {
    let columns = ["through", "deltas/s", "deltas a message"];
    let mut table = Table::new("A hop: SendAndStream as fast as it goes, 16 at once, 10000 deltas", &columns);
    table.columns(&["CPU a delta, the owner, µs", "the other node, µs"]);
    for (shape, both) in all {
        let count = (shape.sessions * shape.turns * shape.deltas) as f64;
        for (through, costs) in Through::BOTH.into_iter().zip(&both) {
            table.row(vec![
                through.name().into(),
                format!("{:.0}", figure(costs, |cost| count / (cost.outcome.wall as f64 / 1e9))),
                format!("{:.1}", figure(costs, |cost| count / cost.outcome.messages.max(1) as f64)),
                format!("{:.2}", figure(costs, |cost| cost.owner / count)),
                format!("{:.2}", figure(costs, |cost| cost.other / count)),
            ]);
        }
    }
    table.print();
}

fn figure(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    median(costs.iter().map(value))
}
