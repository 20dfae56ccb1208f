//! PostgreSQL's ceiling: what turns leave behind, written by as many nodes at once as it takes, with no CLI and no caller.
//!
//! The nodes are stores that are open in this process, so they and PostgreSQL share the machine, as nothing else does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use copilot_grpc::{
    copilot::Secret,
    store::{
        Changes, Config, Ended, Facts, FolderWrite, Location, Node, Ownership, RequestKey, RequestState,
        Scope, Settling, Store, Time,
        archive::{encode, wants_snapshot},
        folder::{Op, RelativePath},
    },
};
use copilot_grpc_bench::{clock, disk, job::Quantiles, proc::Meter};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Result,
    database::{Database, Sql},
    progress::Progress,
    table::{Table, median},
};

/// What is written of a turn.
#[derive(Debug, Clone, Copy)]
struct Written {
    name: &'static str,
    /// Whether there is an archive: `before_answer` and `after_answer` write the same.
    is_archived: bool,
    has_request_id: bool,
}

const ALL: [Written; 3] = [
    Written { name: "the record alone", is_archived: false, has_request_id: false },
    Written { name: "with the archive", is_archived: true, has_request_id: false },
    Written { name: "with the archive and a request id", is_archived: true, has_request_id: true },
];

/// How many nodes there are.
const NODES: [usize; 4] = [1, 2, 4, 8];

/// How many turns each of them settles at once: twice as many as it has connections.
const AT_ONCE: usize = 16;

/// How many turns a session has. At this length it is written as a snapshot once.
const TURNS: i64 = 100;

/// For how long it is measured, after the time in which plans are made and tables grow.
const WARM_UP: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_secs(10);

/// Bytes of what else a turn of the native CLI leaves behind.
const MANIFEST: usize = 220;
const RESULT: usize = 700;
const USAGE: usize = 260;

pub(super) fn steps(runs: usize) -> usize {
    runs * ALL.len() * NODES.len()
}

pub(super) async fn measure(database: &Database, progress: &mut Progress, runs: usize) -> Result<()> {
    let columns = ["what is written of a turn", "nodes", "turns/s", "it takes, p50, ms", "p99, ms"];
    let mut table = Table::new("PostgreSQL's ceiling: turns as the store gets them, without CLIs", &columns);
    table.columns(&["CPU a turn, PostgreSQL, ms", "the nodes, ms", "cores PostgreSQL has"]);
    table.columns(&["WAL a turn, KB", "disk a turn, KB"]);
    let setups: Vec<_> = ALL.into_iter().flat_map(|written| NODES.map(|nodes| (written, nodes))).collect();
    let mut measured: Vec<Vec<Cost>> = setups.iter().map(|_| Vec::new()).collect();
    let folders = Arc::new(Folders::new()?);
    for run in 0..runs {
        for ((written, nodes), costs) in setups.iter().zip(&mut measured) {
            progress.step(format_args!(
                "nodes, ceiling, {}, nodes: {nodes}, run {} of {runs}",
                written.name,
                run + 1
            ));
            costs.push(cost(database, &folders, *written, *nodes).await?);
        }
    }
    for ((written, nodes), costs) in setups.iter().zip(&measured) {
        let figure = |value: fn(&Cost) -> f64| median(costs.iter().map(value));
        table.row(vec![
            written.name.into(),
            nodes.to_string(),
            format!("{:.0}", figure(|cost| cost.turns / cost.seconds)),
            format!("{:.1}", figure(|cost| cost.took.p50 as f64 / 1e6)),
            format!("{:.1}", figure(|cost| cost.took.p99 as f64 / 1e6)),
            format!("{:.2}", figure(|cost| cost.postgres / cost.turns / 1e3)),
            format!("{:.2}", figure(|cost| cost.nodes / cost.turns / 1e3)),
            format!("{:.2}", figure(|cost| cost.postgres / cost.seconds / 1e6)),
            format!("{:.1}", figure(|cost| cost.wal / cost.turns / 1e3)),
            format!("{:.1}", figure(|cost| cost.disk / cost.turns / 1e3)),
        ]);
    }
    table.print();
    Ok(())
}

/// What turns cost: microseconds of CPU time, and bytes.
struct Cost {
    turns: f64,
    seconds: f64,
    /// From when the turn comes to rest until all of it is stored, as an answer waits for it, in nanoseconds.
    took: Quantiles,
    postgres: f64,
    nodes: f64,
    wal: f64,
    disk: f64,
}

async fn cost(database: &Database, folders: &Arc<Folders>, written: Written, nodes: usize) -> Result<Cost> {
    let url = database.fresh().await;
    let mut sql = Sql::connect(&url).await?;
    // What is written to a page for the first time after a checkpoint is written whole: each run begins alike.
    sql.run("CHECKPOINT").await?;
    let tally = Arc::new(Tally::default());
    let (mut stores, mut writers) = (Vec::new(), JoinSet::new());
    for node in 0..nodes {
        let store = Store::open(config(&url, node)).await?;
        for number in 0..AT_ONCE {
            let writer = Writer {
                store: store.clone(),
                written,
                folders: folders.clone(),
                tally: tally.clone(),
                name: format!("{node}-{number}"),
            };
            writers.spawn(writer.run());
        }
        stores.push(store);
    }
    sleep(WARM_UP).await;
    let meter = Meter::start(std::process::id())?;
    let before = counts(database, &mut sql, &tally).await?;
    tally.is_measured.store(true, Ordering::Relaxed);
    sleep(LOOK).await;
    tally.is_measured.store(false, Ordering::Relaxed);
    let after = counts(database, &mut sql, &tally).await?;
    let nodes = meter.read()? as f64;
    tally.is_over.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    while let Some(samples) = writers.join_next().await {
        took.extend(samples??);
    }
    for store in stores {
        store.close().await;
    }
    let [turns, nanoseconds, postgres, wal, disk] = [0, 1, 2, 3, 4].map(|which| after[which] - before[which]);
    Ok(Cost { turns, seconds: nanoseconds / 1e9, took: Quantiles::of(took), postgres, nodes, wal, disk })
}

/// Turns, the time, PostgreSQL's CPU time, its WAL, and the size of the database.
async fn counts(database: &Database, sql: &mut Sql, tally: &Tally) -> Result<[f64; 5]> {
    let [disk] = sql.numbers("SELECT pg_database_size(current_database())").await?;
    let wal = sql.wal().await?;
    Ok([
        tally.turns.load(Ordering::Relaxed) as f64,
        clock::now() as f64,
        database.cpu()? as f64,
        wal as f64,
        disk as f64,
    ])
}

fn config(url: &str, node: usize) -> Config {
    let node = Node {
        name: format!("node-{node}"),
        address: String::new(),
        version: "0.0.0".into(),
        lease: Duration::from_secs(15),
        is_command: false,
    };
    let location = Location::Postgres { url: Secret::new(url), password: None };
    Config { location, node, time_limit: Duration::from_secs(10), alone: false }
}

#[derive(Debug, Default)]
struct Tally {
    turns: AtomicU64,
    is_measured: AtomicBool,
    is_over: AtomicBool,
}

/// What is new in a folder after each turn of a session, as the archive has it: made beforehand, because it is the node's
/// work to make it, and not the store's.
struct Folders(Vec<FolderWrite>);

impl Folders {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let disk = disk::Disk::new(home.path().into());
        let events = home.path().join("session-state/it/events.jsonl");
        let path = RelativePath::parse(b"events.jsonl")?;
        let (mut writes, mut chunks, mut bytes, mut from) = (Vec::new(), 0, 0, 0);
        for turn in 0..TURNS {
            disk.add("it", turn.unsigned_abs(), "", disk::TURN)?;
            let all = Bytes::from(std::fs::read(&events)?);
            let is_snapshot = turn == 0 || wants_snapshot(chunks, bytes, all.len() as u64);
            let op = match is_snapshot {
                true => Op::Put { path: path.clone(), data: all.clone() },
                false => Op::Append { path: path.clone(), from, data: all.slice(usize::try_from(from)?..) },
            };
            let data = encode(&[op]);
            (chunks, bytes) = match is_snapshot {
                true => (1, data.len() as u64),
                false => (chunks + 1, bytes + data.len() as u64),
            };
            from = all.len() as u64;
            let after = (turn > 0).then_some(turn);
            writes.push(FolderWrite { after, data, manifest: vec![7; MANIFEST], is_snapshot });
        }
        Ok(Self(writes))
    }
}

/// Settles turns, one after the other, in one session after the other.
struct Writer {
    store: Store,
    written: Written,
    folders: Arc<Folders>,
    tally: Arc<Tally>,
    name: String,
}

impl Writer {
    /// What each turn that was measured took to be stored, in nanoseconds.
    async fn run(self) -> Result<Vec<u64>> {
        let mut took = Vec::new();
        for session in 0.. {
            let id = format!("{}-{session}", self.name);
            let ownership = self.store.create("", &id, &facts(), Time::now()).await?;
            for (turn, folder) in self.folders.0.iter().enumerate() {
                if self.tally.is_over.load(Ordering::Relaxed) {
                    return Ok(took);
                }
                let one = self.settle(ownership, turn, folder).await?;
                self.tally.turns.fetch_add(1, Ordering::Relaxed);
                if self.tally.is_measured.load(Ordering::Relaxed) {
                    took.push(one);
                }
            }
        }
        Ok(took)
    }

    /// Does for a turn what a server does, and tells how long what an answer waits for took.
    async fn settle(&self, ownership: Ownership, turn: usize, folder: &FolderWrite) -> Result<u64> {
        let scope = Scope::Session(ownership.uid);
        let key = RequestKey { tenant: String::new(), scope, id: format!("8d1f5c3e-request-{turn}") };
        if self.written.has_request_id {
            self.store.begin(&key, 7, None, None).await?;
            self.store.sent(&key, ownership).await?;
        }
        let facts = facts();
        let changes = Changes {
            title: Some(facts.title),
            working_directory: Some(facts.working_directory),
            has_message: Some(true),
            home: Some(facts.home),
            home_disk: Some(facts.home_disk),
            usage: Some(facts.usage),
            bytes: self.written.is_archived.then_some(turn as i64 * disk::TURN as i64),
            update_time: Some(Time::now()),
            ..Changes::default()
        };
        let request = self.written.has_request_id.then(|| Ended {
            key,
            state: RequestState::Succeeded,
            result: Some("r".repeat(RESULT)),
            message_id: Some("0c8a2f6e-1d7b-4f8e-9a53-6b1e7c9d2f40".into()),
        });
        let folder = self.written.is_archived.then(|| folder.clone());
        let began = clock::now();
        self.store.settle(ownership, &Settling { changes, request, folder }).await?;
        Ok(clock::now() - began)
    }
}

/// A session as most are.
fn facts() -> Facts {
    Facts {
        owner: "somebody".into(),
        cli_id: "d2b4c6d8-e0f2-a4b6-c8d0-e2f4a6b8c0d2".into(),
        title: "What was asked first, or what it was about".into(),
        working_directory: "/work/somebody/project".into(),
        settings: "{}".into(),
        has_message: true,
        home: "cli-0".into(),
        home_disk: "a2b4c6d8e0f2a4b6c8d0e2f4a6b8c0d2".into(),
        usage: "u".repeat(USAGE),
        ..Facts::default()
    }
}
