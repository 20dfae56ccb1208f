//! What nodes ask of the store when nobody asks anything of them.

use std::time::Duration;

use copilot_grpc_bench::proc::Meter;
use tokio::time::{Instant, sleep};

use super::{Cli, Node};
use crate::{
    Result,
    database::{Database, Sql},
    peers::Bench,
    progress::Progress,
    table::Table,
};

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// How many nodes run, and how many rows there are of nodes that seem to live.
const SETUPS: [(usize, usize); 3] = [(1, 1), (4, 4), (4, 100)];

pub(super) const STEPS: usize = SETUPS.len();

/// For how long it is looked: twelve renewals of each lease.
const LOOK: Duration = Duration::from_secs(60);

/// Until what is done at a start is done.
const SETTLE: Duration = Duration::from_secs(15);

pub(super) async fn measure(bench: &Bench, database: &Database, progress: &mut Progress) -> Result<()> {
    let columns =
        ["nodes", "rows of nodes", "statements/s and node", "CPU of PostgreSQL, µs a second and node"];
    let mut table = Table::new("Nodes that nobody calls, with a lease of 15 s", &columns);
    table.columns(&["WAL, bytes a second and node", "CPU of a node, µs a second"]);
    for (count, rows) in SETUPS {
        progress.step(format_args!("nodes, idle: {count}, with {rows} rows"));
        let store = database.fresh().await;
        database.count_statements(&store).await?;
        let mut nodes = Vec::new();
        for name in NAMES.into_iter().take(count) {
            nodes.push(Node::start(bench, name, &store, Cli::StandIn, &["--lease=15s"]).await?);
        }
        if rows > count {
            pretend(&store, rows - count).await?;
        }
        sleep(SETTLE).await;
        let mut sql = database.sql().await?;
        // What serves the nodes, and not what PostgreSQL does by itself.
        let servers = Meter::start_all(database.servers_of(&mut sql, &store).await?)?;
        let meters = Meter::start_all(nodes.iter().map(|node| node.program.pid()))?;
        let (began, asked, wal) = (Instant::now(), database.statements()?, sql.wal().await?);
        sleep(LOOK).await;
        let wal = sql.wal().await? - wal;
        let each = |count: f64| count / began.elapsed().as_secs_f64() / nodes.len() as f64;
        table.row(vec![
            count.to_string(),
            rows.to_string(),
            format!("{:.2}", each((database.statements()? - asked) as f64)),
            format!("{:.0}", each(Meter::read_all(&servers)? as f64)),
            format!("{:.0}", each(wal as f64)),
            format!("{:.0}", each(Meter::read_all(&meters)? as f64)),
        ]);
    }
    table.print();
    Ok(())
}

/// Adds nodes that seem to live, and to have started later than all others.
async fn pretend(store: &str, count: usize) -> Result<()> {
    let insert = format!(
        "INSERT INTO nodes (node, incarnation, lease_until, address, version, role, sessions, turns, room, start_time) \
         SELECT 'seeming-' || n, 1, it.later, '127.0.0.1:1', '1.0.0', 0, 0, 0, 0, it.later \
         FROM generate_series(1, {count}) n, \
         (SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + 3600000000 AS later) it"
    );
    Sql::connect(store).await?.run(&insert).await
}
