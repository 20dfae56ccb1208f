//! How cost grows: with streams, sessions, CLIs, and with what is long.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ListEventsRequest, ListSessionsRequest, SendAndWaitRequest, WatchSessionRequest,
    copilot_service_client::CopilotServiceClient,
};
use copilot_grpc_bench::{job::Job, proc};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    Result,
    peers::Bench,
    program::{Load, Program},
    progress::Progress,
    table::Table,
};

const MB: f64 = 1e6;

/// How many of each there are.
const STREAMS: [usize; 5] = [1, 10, 100, 1000, 10_000];
const READERS: [usize; 4] = [1, 10, 100, 1000];
const SESSIONS: [usize; 6] = [1, 10, 100, 1000, 10_000, 100_000];
const CLIS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// How many events, sessions and deltas are many, and how many megabytes a message has.
const MANY: [usize; 3] = [1000, 10_000, 100_000];
const MEGABYTES: [usize; 3] = [1, 5, 20];

pub(crate) const STEPS: usize = STREAMS.len() + READERS.len() + SESSIONS.len() + CLIS.len();

pub(crate) const LONG_STEPS: usize = 4 * MANY.len() + MEGABYTES.len();

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress) -> Result<()> {
    streams(bench, progress).await?;
    readers(bench, progress).await?;
    sessions(bench, progress).await?;
    clis(bench, progress).await
}

fn job(address: &str, prefix: &str, sessions: usize, turns: usize) -> Job {
    Job {
        address: address.into(),
        // As many calls at once as a connection takes, and some to spare.
        connections: sessions.div_ceil(500).max(4),
        prefix: prefix.into(),
        sessions,
        at_once: sessions,
        turns,
        stream: true,
        deltas: 20,
        size: 24,
        tools: 0,
        pace: 0,
        create: true,
    }
}

/// What a turn costs: microseconds of the service's CPU time, and milliseconds of its caller's time.
struct Cost {
    cpu: f64,
    p50: f64,
    p99: f64,
}

impl Cost {
    const COLUMNS: [&str; 3] = ["CPU a turn, µs", "turn p50, ms", "p99, ms"];

    fn cells(&self) -> [String; 3] {
        [format!("{:.0}", self.cpu), format!("{:.1}", self.p50), format!("{:.1}", self.p99)]
    }
}

/// Has a service carry a load.
async fn cost(bench: &Bench, service: &Program, job: &Job) -> Result<Cost> {
    let mut load = Load::prepare(&mut bench.program("load"), job).await?;
    let before = proc::cpu(service.pid())?;
    let outcome = load.run().await?;
    let spent = proc::cpu(service.pid())? - before;
    let turns = job.sessions * job.turns;
    if outcome.turns != turns || outcome.deltas != turns * job.deltas {
        eprintln!("bench: of {turns} turns {} failed, and {} deltas came", outcome.failed, outcome.deltas);
    }
    Ok(Cost {
        cpu: spent as f64 / turns as f64,
        p50: outcome.whole.p50 as f64 / 1e6,
        p99: outcome.whole.p99 as f64 / 1e6,
    })
}

/// Streams at once.
async fn streams(bench: &Bench, progress: &mut Progress) -> Result<()> {
    let title = "Streams at once: SendAndStream at full speed, 20 deltas";
    let mut table = Table::new(title, &["streams"]);
    table.columns(&Cost::COLUMNS);
    table.columns(&["most memory, MB", "KiB a stream"]);
    for count in STREAMS {
        progress.step(format_args!("growth, streams: {count}"));
        let (_stand_in, ports) = bench.stand_in(1).await?;
        let (service, address) = bench.facade(&ports, &[]).await?;
        cost(bench, &service, &job(&address, "warm", 10, 20)).await?;
        let before = proc::peak(service.pid())?;
        let cost = cost(bench, &service, &job(&address, "s", count, 10_000_usize.div_ceil(count))).await?;
        let peak = proc::peak(service.pid())?;
        let mut row = vec![count.to_string()];
        row.extend(cost.cells());
        row.push(format!("{:.0}", peak as f64 / MB));
        row.push(format!("{:.1}", peak.saturating_sub(before) as f64 / count as f64 / 1024.0));
        table.row(row);
    }
    table.print();
    Ok(())
}

/// Readers of one session.
async fn readers(bench: &Bench, progress: &mut Progress) -> Result<()> {
    const DELTAS: usize = 2000;
    let title = format!("Readers of one session: WatchSession, a turn of {DELTAS} deltas");
    let mut table = Table::new(title, &["readers", "CPU a delta and reader, µs"]);
    for count in READERS {
        progress.step(format_args!("growth, readers: {count}"));
        let (_stand_in, ports) = bench.stand_in(1).await?;
        let (service, address) = bench.facade(&ports, &[]).await?;
        let turns = |turns| Job { stream: false, deltas: DELTAS, ..job(&address, "read", 1, turns) };
        Load::prepare(&mut bench.program("load"), &turns(1)).await?.run().await?;
        let watch = Job { at_once: count, ..turns(0) };
        let _watching = Load::prepare(&mut bench.program("watch"), &watch).await?;
        let mut load = Load::prepare(&mut bench.program("load"), &Job { create: false, ..turns(5) }).await?;
        let before = proc::cpu(service.pid())?;
        load.run().await?;
        // What was told last is still on its way to the readers.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let spent = proc::cpu(service.pid())? - before;
        table.row(vec![count.to_string(), format!("{:.2}", spent as f64 / (5 * DELTAS * count) as f64)]);
    }
    table.print();
    Ok(())
}

/// Sessions at rest.
async fn sessions(bench: &Bench, progress: &mut Progress) -> Result<()> {
    let columns = ["sessions", "CPU to create one, µs", "memory, MB", "KiB a session"];
    let mut table = Table::new("Sessions at rest", &columns);
    table.columns(&["CPU a turn meanwhile, µs", "turn p50, ms", "p99, ms"]);
    let (_stand_in, ports) = bench.stand_in(1).await?;
    let (service, address) = bench.facade(&ports, &[]).await?;
    cost(bench, &service, &job(&address, "warm", 64, 20)).await?;
    let (mut known, empty) = (0, proc::memory(service.pid())?);
    for count in SESSIONS {
        progress.step(format_args!("growth, sessions at rest: {count}"));
        let before = proc::cpu(service.pid())?;
        let create = Job { turns: 0, ..job(&address, &format!("at-{count}"), count - known, 0) };
        Load::prepare(&mut bench.program("load"), &create).await?.run().await?;
        let spent = proc::cpu(service.pid())? - before;
        let memory = proc::memory(service.pid())?;
        let turn = cost(bench, &service, &job(&address, &format!("turns-{count}"), 64, 50)).await?;
        let mut row = vec![
            count.to_string(),
            format!("{:.0}", spent as f64 / (count - known) as f64),
            format!("{:.0}", memory as f64 / MB),
            format!("{:.1}", memory.saturating_sub(empty) as f64 / count as f64 / 1024.0),
        ];
        row.extend(turn.cells());
        table.row(row);
        known = count;
    }
    table.print();
    Ok(())
}

/// CLIs behind one service.
async fn clis(bench: &Bench, progress: &mut Progress) -> Result<()> {
    let mut table = Table::new("CLIs: 64 streams at once, 20 deltas", &["CLIs"]);
    table.columns(&Cost::COLUMNS);
    table.columns(&["memory, MB"]);
    for count in CLIS {
        progress.step(format_args!("growth, CLIs: {count}"));
        let (_stand_in, ports) = bench.stand_in(count).await?;
        let (service, address) = bench.facade(&ports, &[]).await?;
        cost(bench, &service, &job(&address, "warm", 64, 10)).await?;
        let cost = cost(bench, &service, &job(&address, "s", 64, 50)).await?;
        let memory = proc::memory(service.pid())? as f64 / MB;
        let mut row = vec![count.to_string()];
        row.extend(cost.cells());
        row.push(format!("{memory:.1}"));
        table.row(row);
    }
    table.print();
    Ok(())
}

/// Long histories, long lists, many small deltas, large messages.
pub(crate) async fn long(bench: &Bench, progress: &mut Progress) -> Result<()> {
    let columns = ["", "time, s", "CPU, s", "CPU of one, µs", "most memory before, MB", "after, MB"];
    let mut table = Table::new("What is long", &columns);
    for count in MANY {
        let what = format!("a history of {count} events, ListEvents by 1000");
        let session_id = format!("events-{count}");
        alone(bench, progress, &mut table, what, (0, count), async |client| {
            turn(client, &session_id, "deltas=1").await?;
            let (mut page_token, mut read) = (String::new(), 0);
            loop {
                let session_id = session_id.clone();
                let request =
                    ListEventsRequest { session_id, page_size: 1000, page_token, ..Default::default() };
                let page = client.list_events(request).await?.into_inner();
                read += page.events.len();
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return expect(read, count);
                }
            }
        })
        .await?;
    }
    for count in MANY {
        let what = format!("a history of {count} events, WatchSession");
        let session_id = format!("events-{count}");
        alone(bench, progress, &mut table, what, (0, count), async |client| {
            turn(client, &session_id, "deltas=1").await?;
            let request = WatchSessionRequest {
                session_id: session_id.clone(),
                from_beginning: true,
                ..Default::default()
            };
            let mut stream = client.watch_session(request).await?.into_inner();
            for _ in 0..count {
                stream.message().await?.ok_or("the stream ended")?;
            }
            Ok(())
        })
        .await?;
    }
    for count in MANY {
        let what = format!("a list of {count} sessions, ListSessions by 1000");
        alone(bench, progress, &mut table, what, (count, count), async |client| {
            let (mut page_token, mut read) = (String::new(), 0);
            loop {
                let request = ListSessionsRequest { page_size: 1000, page_token, ..Default::default() };
                let page = client.list_sessions(request).await?.into_inner();
                read += page.sessions.len();
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return expect(read, count);
                }
            }
        })
        .await?;
    }
    for count in MANY {
        let what = format!("a turn of {count} deltas of 1 byte");
        let prompt = format!("deltas={count} size=1");
        alone(bench, progress, &mut table, what, (0, count), async |client| {
            turn(client, "small", &prompt).await
        })
        .await?;
    }
    for megabytes in MEGABYTES {
        let what = format!("a message of {megabytes} MB, SendAndWait");
        let prompt = format!("deltas=1 answer={megabytes}000000");
        alone(bench, progress, &mut table, what, (0, 1), async |client| turn(client, "large", &prompt).await)
            .await?;
    }
    table.print();
    Ok(())
}

fn expect(read: usize, count: usize) -> Result<()> {
    if read == count { Ok(()) } else { Err(format!("{read} of {count} came").into()) }
}

async fn turn(client: &mut CopilotServiceClient<Channel>, session_id: &str, prompt: &str) -> Result<()> {
    let session_id = session_id.to_owned();
    client
        .create_session(CreateSessionRequest { session_id: session_id.clone(), ..Default::default() })
        .await?;
    let request = SendAndWaitRequest { session_id, prompt: Some(prompt.into()) };
    client.send_and_wait(request).await?;
    Ok(())
}

/// Has a service of its own do something.
async fn alone(
    bench: &Bench,
    progress: &mut Progress,
    table: &mut Table,
    what: String,
    (stored, count): (usize, usize),
    act: impl AsyncFnOnce(&mut CopilotServiceClient<Channel>) -> Result<()>,
) -> Result<()> {
    progress.step(format_args!("long, {what}"));
    let (_stand_in, ports) = bench.stand_in_with(1, stored).await?;
    let (service, address) = bench.facade(&ports, &[]).await?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = CopilotServiceClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let (before, peak, began) = (proc::cpu(service.pid())?, proc::peak(service.pid())?, Instant::now());
    if let Err(error) = act(&mut client).await {
        eprintln!("bench: {what}: {error}");
    }
    let spent = proc::cpu(service.pid())? - before;
    table.row(vec![
        what,
        format!("{:.2}", began.elapsed().as_secs_f64()),
        format!("{:.2}", spent as f64 / 1e6),
        format!("{:.1}", spent as f64 / count as f64),
        format!("{:.0}", peak as f64 / MB),
        format!("{:.0}", proc::peak(service.pid())? as f64 / MB),
    ]);
    Ok(())
}
