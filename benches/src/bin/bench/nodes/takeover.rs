//! How long a session waits for its next owner when its server is killed, after the lease is over by the store's clock.

use std::time::Duration;

use copilot_grpc::grpc::pb::CreateSessionRequest;
use copilot_grpc_bench::{clock, disk};
use tokio::time::sleep;

use super::{Cli, Node, all_owned_by};
use crate::{
    Result,
    cli::{model, session_size},
    database::{Database, Sql},
    peers::Bench,
    progress::Progress,
    store::{client, ready, text, turn},
    table::{Table, median},
};

const SESSION: &str = "taken";

/// How long the lease is.
const LEASE: &str = "--lease=2s";

/// How long after the end of the lease a session is asked for that nobody has asked for before.
const LATER: Duration = Duration::from_secs(1);

/// How often a session is taken over, each way, for each run.
const TIMES: usize = 3;

/// What is said in a session: prompts, and how long each is. A turn of the stand-in leaves as much behind, whatever is said.
struct Size {
    name: &'static str,
    is_native: bool,
    prompts: usize,
    length: usize,
}

const SIZES: [Size; 3] = [
    Size { name: "1 MB, stand-in", is_native: false, prompts: (1 << 20) / disk::TURN, length: 20 },
    Size { name: "one turn, native CLI", is_native: true, prompts: 1, length: 20 },
    Size { name: "1 MB, native CLI", is_native: true, prompts: 16, length: 64 << 10 },
];

pub(super) const STEPS: usize = SIZES.len();

/// When a caller asks for the session whose server was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// At once.
    AtOnce,
    /// When the lease is over.
    Later,
}

pub(super) async fn measure(
    bench: &Bench,
    database: &Database,
    progress: &mut Progress,
    runs: usize,
) -> Result<()> {
    let columns = ["session", "folder, KB", "a turn, ms"];
    let mut table =
        Table::new("Take-over of a session whose server was killed: until the next answer", &columns);
    table.columns(&["from the lease's end, p50, ms", "longest, ms"]);
    table.columns(&["asked later, p50, ms", "longest, ms"]);
    let model = model().await?;
    for size in &SIZES {
        progress.step(format_args!("nodes, take-over, {}", size.name));
        let cli = if size.is_native { Cli::Native(&model) } else { Cli::StandIn };
        let store = database.fresh().await;
        let mut sql = Sql::connect(&store).await?;
        let mut owner = Node::start(bench, "one", &store, cli, &[LEASE]).await?;
        let mut other = Node::start(bench, "another", &store, cli, &[LEASE]).await?;
        let mut first = client(&owner.address).await?;
        first
            .create_session(CreateSessionRequest { session_id: SESSION.into(), ..Default::default() })
            .await?;
        for number in 0..size.prompts {
            turn(&mut first, SESSION, &text(number, size.length)).await?;
        }
        let folder = session_size(owner.folder.path(), SESSION)?;
        let (mut still, mut waited, mut asked_later) = (Vec::new(), Vec::new(), Vec::new());
        for asked in [Asked::AtOnce, Asked::Later].repeat(TIMES * runs) {
            let (mut at_owner, mut at_other) = (client(&owner.address).await?, client(&other.address).await?);
            ready(&mut at_owner).await?;
            ready(&mut at_other).await?;
            still.push(turn(&mut at_owner, SESSION, "stay").await?);
            all_owned_by(&mut sql, &owner, SESSION).await?;
            let Node { name, program, folder, .. } = owner;
            program.kill().await?;
            let end = end_of_lease(&mut sql, name).await?;
            match asked {
                Asked::AtOnce => {
                    turn(&mut at_other, SESSION, "go on").await?;
                    waited.push((clock::now() as f64 - end) / 1e6);
                }
                Asked::Later => {
                    let until_then = (end - clock::now() as f64).max(0.0);
                    sleep(Duration::from_secs_f64(until_then / 1e9) + LATER).await;
                    asked_later.push(turn(&mut at_other, SESSION, "go on").await?);
                }
            }
            all_owned_by(&mut sql, &other, SESSION).await?;
            // Its CLIs have written there until they ended.
            drop(folder);
            // On an empty disk, so that all of the session comes from the archive each time.
            owner = other;
            other = Node::start(bench, name, &store, cli, &[LEASE]).await?;
        }
        let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
        let mut row = vec![size.name.into(), format!("{:.0}", folder as f64 / 1e3)];
        row.push(format!("{:.0}", median(still.into_iter())));
        for times in [waited, asked_later] {
            row.push(format!("{:.0}", median(times.iter().copied())));
            row.push(format!("{:.0}", longest(&times)));
        }
        table.row(row);
    }
    table.print();
    Ok(())
}

/// When the lease of a dead node is over, by the store's clock: in nanoseconds of this machine's.
async fn end_of_lease(sql: &mut Sql, node: &str) -> Result<f64> {
    let before = clock::now();
    let [left] = sql
        .numbers(&format!(
            "SELECT lease_until - (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint FROM nodes WHERE node = '{node}'"
        ))
        .await?;
    Ok((before + clock::now()) as f64 / 2.0 + left as f64 * 1e3)
}
