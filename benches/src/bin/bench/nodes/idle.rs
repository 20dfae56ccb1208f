//! What nodes ask of the store when nobody asks anything of them.

use std::time::Duration;

use copilot_grpc_bench::proc::Meter;
use tokio::time::{Instant, sleep};

use super::{Cli, Node};
use crate::{
    Result,
    database::{self, Database, Sql},
    peers::Bench,
    progress::Progress,
    table::Table,
};

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// How many nodes run, and how many rows there are of nodes that seem to live.
const SETUPS: [(usize, usize); 4] = [(0, 0), (1, 1), (4, 4), (4, 100)];

pub(super) const STEPS: usize = SETUPS.len();

/// For how long it is looked. Each renewal of a lease is a tenth of what is seen of it, or less.
const LOOK: Duration = Duration::from_secs(60);

/// Until what is done at a start is done, and PostgreSQL has counted it: it counts late what a connection does that then rests.
const SETTLE: Duration = Duration::from_secs(15);

/// What the store has done so far. Time in microseconds.
#[derive(Debug, Clone, Copy)]
struct Counts {
    at: Instant,
    statements: usize,
    rows: i64,
    wal: i64,
    store: u64,
}

pub(super) async fn measure(bench: &Bench, database: &Database, progress: &mut Progress) -> Result<()> {
    let columns = ["nodes", "rows of nodes", "statements/s and node", "rows read/s and node"];
    let mut table = Table::new("Nodes that nobody calls, with a lease of 15 s", &columns);
    table.columns(&["CPU of PostgreSQL, µs a second and node", "WAL, bytes a second and node"]);
    table.columns(&["CPU of a node, µs a second"]);
    // Its own upkeep is not the nodes'.
    let mut sql = database.sql().await?;
    sql.run("ALTER SYSTEM SET autovacuum = off").await?;
    sql.run("SELECT pg_reload_conf()").await?;
    let mut without = 0.0;
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
        let meters: std::io::Result<Vec<_>> =
            nodes.iter().map(|node| Meter::start(node.program.pid())).collect();
        let meters = meters?;
        let before = counts(database, &mut sql, &store).await?;
        sleep(LOOK).await;
        let after = counts(database, &mut sql, &store).await?;
        let used: std::io::Result<Vec<_>> = meters.iter().map(Meter::read).collect();
        let used: u64 = used?.into_iter().sum();
        let seconds = (after.at - before.at).as_secs_f64();
        let each = |after: f64, before: f64| (after - before) / seconds / count.max(1) as f64;
        let cpu = (after.store - before.store) as f64 / seconds;
        if count == 0 {
            without = cpu;
        }
        table.row(vec![
            count.to_string(),
            rows.to_string(),
            format!("{:.2}", each(after.statements as f64, before.statements as f64)),
            format!("{:.1}", each(after.rows as f64, before.rows as f64)),
            match count {
                0 => format!("({cpu:.0} in all)"),
                _ => format!("{:.0}", (cpu - without) / count as f64),
            },
            format!("{:.0}", each(after.wal as f64, before.wal as f64)),
            format!("{:.0}", each(used as f64, 0.0)),
        ]);
    }
    sql.run("ALTER SYSTEM RESET autovacuum").await?;
    sql.run("SELECT pg_reload_conf()").await?;
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

async fn counts(database: &Database, sql: &mut Sql, store: &str) -> Result<Counts> {
    let name = database::name(store);
    let [rows, wal] = sql
        .numbers(&format!(
            "SELECT tup_returned, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint \
             FROM pg_stat_database WHERE datname = '{name}'"
        ))
        .await?;
    let statements = database.statements()?;
    Ok(Counts { at: Instant::now(), statements, rows, wal, store: database.cpu()? })
}
