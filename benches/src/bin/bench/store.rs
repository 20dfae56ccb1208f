//! What it costs that sessions live in a store: a turn, long lists, and sessions that move; with each engine, and beside the build
//! before (`BENCH_BEFORE`, a path), if there is one.

use std::{path::PathBuf, time::Duration};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        BackendState, CreateSessionRequest, GetServerInfoRequest, ListSessionsRequest, SendAndWaitRequest,
        copilot_service_client::CopilotServiceClient,
    },
};
use copilot_grpc_bench::{clock, job::Job, proc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, transport::Channel};

use crate::{
    Result,
    cli::{Pair, model},
    database::Database,
    peers::{Bench, Measured, free_port, serving},
    program::Program,
    progress::Progress,
    table::{Table, median},
};

pub(crate) type Client = CopilotServiceClient<Channel>;

/// How many sessions a long list has, and how many are on a page.
const SESSIONS: usize = 100_000;
const PAGE: i32 = 1000;

/// How many are created at once.
const AT_ONCE: usize = 64;

/// What is said in the sessions that move: prompts, and how long each is. The larger have 1 MB of history.
const SIZES: [(&str, usize, usize); 2] = [("one turn", 1, 20), ("1 MB", 16, 64 << 10)];

/// How a service keeps its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// By the build before, in the CLI alone.
    Before,
    Sqlite,
    /// With this setting of `archive`.
    Postgres(&'static str),
}

const ALL: [Kept; 5] = [
    Kept::Before,
    Kept::Sqlite,
    Kept::Postgres("off"),
    Kept::Postgres("after_answer"),
    Kept::Postgres("before_answer"),
];

impl Kept {
    fn name(self) -> String {
        match self {
            Self::Before => "the build before".into(),
            Self::Sqlite => "SQLite".into(),
            Self::Postgres(archive) => format!("PostgreSQL, archive = {archive}"),
        }
    }

    /// The flags for it, with a database of its own if it needs one.
    async fn flags(self, database: &Database) -> Vec<String> {
        match self {
            Self::Before | Self::Sqlite => Vec::new(),
            Self::Postgres(archive) => {
                vec![format!("--store-url={}", database.fresh().await), format!("--archive={archive}")]
            }
        }
    }
}

pub(crate) fn steps(runs: usize) -> usize {
    runs + 2 + 2 * SIZES.len()
}

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, runs: usize) -> Result<()> {
    let database = Database::start().await?;
    turns(bench, &database, progress, runs).await?;
    lists(bench, &database, progress, runs).await?;
    moves(bench, &database, progress, runs).await
}

/// A service in front of a stand-in of its own.
struct Service {
    program: Program,
    address: String,
    folder: TempDir,
    flags: Vec<String>,
}

impl Service {
    async fn start(bench: &Bench, kept: Kept, database: &Database) -> Result<Self> {
        let flags = kept.flags(database).await;
        let before = std::env::var_os("BENCH_BEFORE").map(PathBuf::from);
        let facade = match kept {
            Kept::Before => before.ok_or("BENCH_BEFORE is not set")?,
            _ => bench.facade.clone(),
        };
        Self::start_on(&bench.with(facade), tempfile::tempdir()?, flags).await
    }

    async fn start_on(bench: &Bench, folder: TempDir, flags: Vec<String>) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = bench.embedding_command(&address, &bench.stand_in_path(), folder.path());
        let program = Program::start(command.args(&flags))?;
        serving(&address).await?;
        Ok(Self { program, address, folder, flags })
    }

    async fn restart(mut self, bench: &Bench) -> Result<Self> {
        end(&mut self.program, Signal::TERM).await?;
        Self::start_on(bench, self.folder, self.flags).await
    }
}

async fn end(program: &mut Program, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(program.pid().cast_signed()).ok_or("it has ended")?;
    kill_process(pid, signal)?;
    program.ended().await
}

pub(crate) async fn client(address: &str) -> Result<Client> {
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    Ok(Client::new(channel).max_decoding_message_size(usize::MAX))
}

/// Turns alone, and many at once.
async fn turns(bench: &Bench, database: &Database, progress: &mut Progress, runs: usize) -> Result<()> {
    let job = |prefix: String, sessions: usize, turns: usize| Job {
        address: String::new(),
        connections: 4,
        prefix,
        sessions,
        at_once: sessions,
        turns,
        stream: false,
        deltas: 5,
        size: 24,
        tools: 0,
        pace: 0,
        create: true,
    };
    let mut measured: Vec<[Vec<Measured>; 2]> = ALL.iter().map(|_| Default::default()).collect();
    for run in 0..runs {
        progress.step(format_args!("store, turns, run {} of {runs}", run + 1));
        // In turns, so that what else the machine does hits all of them.
        for (kept, measured) in ALL.into_iter().zip(&mut measured) {
            match Service::start(bench, kept, database).await {
                Ok(service) => {
                    let jobs = [job(format!("one-{run}"), 1, 500), job(format!("many-{run}"), 64, 50)];
                    for (job, measured) in jobs.into_iter().zip(measured) {
                        let job = Job { address: service.address.clone(), ..job };
                        measured.push(bench.through(&service.program, job).await?);
                    }
                }
                Err(error) => eprintln!("bench: {}: {error}", kept.name()),
            }
        }
    }
    let columns =
        ["sessions live in", "turn p50, ms", "more, ms", "p99, ms", "CPU a turn, µs", "more, µs", "turns/s"];
    for (number, title) in ["one at a time", "64 at once"].into_iter().enumerate() {
        let mut table = Table::new(format!("Turns and the store: SendAndWait, 5 deltas, {title}"), &columns);
        let with: Vec<_> = ALL.into_iter().zip(measured.iter().map(|all| &all[number])).collect();
        let with: Vec<_> = with.into_iter().filter(|(_, measured)| !measured.is_empty()).collect();
        let figure = |measured: &[Measured], value: fn(&Measured) -> f64| median(measured.iter().map(value));
        let p50 = |one: &Measured| one.outcome.turn.p50 as f64 / 1e6;
        let p99 = |one: &Measured| one.outcome.turn.p99 as f64 / 1e6;
        let Some((_, first)) = with.first() else { return Err("nothing was measured".into()) };
        for (kept, measured) in &with {
            let (latency, cpu) = (figure(measured, p50), figure(measured, Measured::cpu_turn));
            table.row(vec![
                kept.name(),
                format!("{latency:.2}"),
                format!("{:+.2}", latency - figure(first, p50)),
                format!("{:.2}", figure(measured, p99)),
                format!("{cpu:.0}"),
                format!("{:+.0}", cpu - figure(first, Measured::cpu_turn)),
                format!("{:.0}", figure(measured, Measured::turns_a_second)),
            ]);
        }
        table.print();
    }
    Ok(())
}

/// A long list, of sessions that are not loaded.
async fn lists(bench: &Bench, database: &Database, progress: &mut Progress, runs: usize) -> Result<()> {
    let columns = ["sessions live in", "to create one, ms", "all pages, s", "a page p50, ms", "p99, ms"];
    let title = format!("ListSessions of {SESSIONS}, in pages of {PAGE}");
    let mut table = Table::new(title, &columns);
    table.columns(&["half of them by label, a page p50, ms", "one in a hundred by label, ms"]);
    table.columns(&["CPU of all pages, s"]);
    for kept in [Kept::Sqlite, Kept::Postgres("before_answer")] {
        progress.step(format_args!("store, lists, {}", kept.name()));
        let service = Service::start(bench, kept, database).await?;
        let began = Instant::now();
        fill(&client(&service.address).await?).await?;
        let creating = began.elapsed().as_secs_f64() * 1e3 / SESSIONS as f64;
        let service = service.restart(bench).await?;
        let mut client = client(&service.address).await?;
        let mut figures: [Vec<f64>; 6] = Default::default();
        // The first one warms up.
        for run in 0..=runs {
            let before = proc::cpu(service.program.pid())?;
            let all = list(&mut client, &[], SESSIONS).await?;
            let spent = proc::cpu(service.program.pid())? - before;
            let half = list(&mut client, &[("half", "0")], SESSIONS / 2).await?;
            let few = list(&mut client, &[("team", "team-7")], SESSIONS / 100).await?;
            if run > 0 {
                let p50 = |pages: &[f64]| median(pages.iter().copied());
                let p99 = all.iter().copied().fold(0.0, f64::max);
                let sum = all.iter().sum::<f64>() / 1e3;
                for (figures, figure) in
                    figures.iter_mut().zip([sum, p50(&all), p99, p50(&half), p50(&few), spent as f64 / 1e6])
                {
                    figures.push(figure);
                }
            }
        }
        let [sum, p50, p99, half, few, cpu] = figures.map(|figures| median(figures.into_iter()));
        table.row(vec![
            kept.name(),
            format!("{creating:.2}"),
            format!("{sum:.2}"),
            format!("{p50:.1}"),
            format!("{p99:.1}"),
            format!("{half:.1}"),
            format!("{few:.1}"),
            format!("{cpu:.2}"),
        ]);
    }
    table.print();
    Ok(())
}

/// Creates the sessions, with labels.
async fn fill(client: &Client) -> Result<()> {
    let created = stream::iter(0..SESSIONS).map(|number| {
        let labels = [
            ("half".to_owned(), (number % 2).to_string()),
            ("team".to_owned(), format!("team-{}", number % 100)),
            ("number".to_owned(), number.to_string()),
        ];
        let request = CreateSessionRequest {
            session_id: format!("listed-{number}"),
            labels: labels.into(),
            owner: format!("somebody-{}", number % 1000),
            ..Default::default()
        };
        let mut client = client.clone();
        async move { client.create_session(request).await }
    });
    created.buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    Ok(())
}

/// How long each page took, in milliseconds.
async fn list(client: &mut Client, labels: &[(&str, &str)], count: usize) -> Result<Vec<f64>> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut request = ListSessionsRequest { page_size: PAGE, labels: labels.collect(), ..Default::default() };
    let (mut pages, mut read) = (Vec::new(), 0);
    loop {
        let began = clock::now();
        let page = client.list_sessions(request.clone()).await?.into_inner();
        pages.push((clock::now() - began) as f64 / 1e6);
        read += page.sessions.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if read == count { Ok(pages) } else { Err(format!("{read} of {count} sessions came").into()) }
}

/// Sessions of the real CLI that move.
async fn moves(bench: &Bench, database: &Database, progress: &mut Progress, runs: usize) -> Result<()> {
    let columns = ["session", "sessions live in", "folder, KB", "a turn, ms", "its CLI killed, ms"];
    let mut table = Table::new("Sessions that move, on the real CLI: until the next answer", &columns);
    table.columns(&["server restarted, ms", "on an empty disk, ms"]);
    let model = model().await?;
    for (size, prompts, length) in SIZES {
        for kept in [Kept::Sqlite, Kept::Postgres("before_answer")] {
            progress.step(format_args!("store, moves, {size}, {}", kept.name()));
            let mut flags = kept.flags(database).await;
            flags.push("--embedded-clis=2".into());
            let flags: Vec<_> = flags.iter().map(String::as_str).collect();
            let mut pair = Pair::start(bench, Form::Native, &model, &flags).await?;
            let mut client_now = client(&pair.address).await?;
            let session_id = "moves".to_owned();
            let create = CreateSessionRequest { session_id: session_id.clone(), ..Default::default() };
            client_now.create_session(create).await?;
            for number in 0..prompts {
                turn(&mut client_now, &session_id, &text(number, length)).await?;
            }
            let folder = pair.session_size(&session_id)?;
            let (mut still, mut moved, mut restarted, mut wiped) = (vec![], vec![], vec![], vec![]);
            for _ in 0..runs {
                still.push(turn(&mut client_now, &session_id, "stay").await?);
                let home = ready(&mut client_now).await?;
                pair.kill(&home)?;
                moved.push(turn(&mut client_now, &session_id, "move").await?);
                ready(&mut client_now).await?;
                pair = pair.restart(bench, Form::Native, &model, &flags, false).await?;
                client_now = client(&pair.address).await?;
                ready(&mut client_now).await?;
                restarted.push(turn(&mut client_now, &session_id, "again").await?);
                if kept != Kept::Sqlite {
                    pair = pair.restart(bench, Form::Native, &model, &flags, true).await?;
                    client_now = client(&pair.address).await?;
                    ready(&mut client_now).await?;
                    wiped.push(turn(&mut client_now, &session_id, "anew").await?);
                }
            }
            let ms = |times: Vec<f64>| format!("{:.0}", median(times.into_iter()));
            table.row(vec![
                size.into(),
                kept.name(),
                format!("{:.0}", folder as f64 / 1e3),
                ms(still),
                ms(moved),
                ms(restarted),
                if wiped.is_empty() { "-".into() } else { ms(wiped) },
            ]);
        }
    }
    table.print();
    Ok(())
}

/// A text that does not compress to nothing.
pub(crate) fn text(number: usize, length: usize) -> String {
    let mut seed = number as u64 + 1;
    let mut text = String::with_capacity(length + 20);
    while text.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:x} ", seed >> 40));
    }
    text
}

/// How long it takes until a prompt is answered, in milliseconds, for a caller that repeats what was not delivered.
pub(crate) async fn turn(client: &mut Client, session_id: &str, prompt: &str) -> Result<f64> {
    let began = clock::now();
    loop {
        let request = SendAndWaitRequest { session_id: session_id.into(), prompt: Some(prompt.into()) };
        match client.send_and_wait(request).await {
            Ok(_) => return Ok((clock::now() - began) as f64 / 1e6),
            Err(status) if may_be_repeated(&status) => sleep(Duration::from_millis(5)).await,
            Err(status) => return Err(status.into()),
        }
    }
}

fn may_be_repeated(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// Waits until all CLIs are ready, and names the one that has the session, if there is one.
pub(crate) async fn ready(client: &mut Client) -> Result<String> {
    loop {
        let backends = client.get_server_info(GetServerInfoRequest {}).await?.into_inner().backends;
        if backends.iter().all(|backend| backend.state() == BackendState::Ready) {
            let loaded = backends.into_iter().find(|backend| backend.loaded_sessions > 0);
            return Ok(loaded.map(|backend| backend.name).unwrap_or_default());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
