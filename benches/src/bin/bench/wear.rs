//! A CLI that is worn out, at full speed and for long: what it holds, and what its callers notice when it is replaced.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        CreateSessionRequest, DeleteSessionRequest, GetServerInfoRequest, SendAndWaitRequest,
        copilot_service_client::CopilotServiceClient,
    },
};
use copilot_grpc_bench::{clock, job::Quantiles};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, transport::Channel};

use crate::{
    Result,
    cli::{Pair, model},
    peers::Bench,
    progress::Progress,
    table::Table,
};

type Client = CopilotServiceClient<Channel>;

/// How many callers there are, each with a new session for every fifth turn.
const CALLERS: usize = 16;
const TURNS_OF_A_SESSION: usize = 5;

/// How long a row of the table is.
const ROW: Duration = Duration::from_secs(60);

/// What the callers have seen since it was last looked.
#[derive(Debug, Default)]
struct Seen {
    /// How long each turn took, in nanoseconds.
    turns: Vec<u64>,
    failed: usize,
}

/// A step is a row.
pub(crate) fn steps(duration: Duration) -> usize {
    duration.as_secs().div_ceil(ROW.as_secs()) as usize
}

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, duration: Duration) -> Result<()> {
    let model = model().await?;
    // A call that tonic is about to send when its connection is to be given up fails: that is another matter (docs/guide/clients.md).
    let pair = Pair::start(bench, Form::Native, &model, &["--max-connection-age=0s"]).await?;
    let channel = Channel::from_shared(format!("http://{}", pair.address))?.connect().await?;
    let mut client = Client::new(channel);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let callers: Vec<_> =
        (0..CALLERS).map(|caller| tokio::spawn(call(client.clone(), caller, seen.clone()))).collect();
    let title = format!("The native runtime at full speed for {} s: {CALLERS} callers", duration.as_secs());
    let columns = [
        "minute",
        "turns/s",
        "p50, ms",
        "p99, ms",
        "longest, ms",
        "failed",
        "replaced",
        "memory, MB",
        "most, MB",
    ];
    let mut table = Table::new(title, &columns);
    let (began, mut replaced) = (Instant::now(), 0);
    for minute in 1..=steps(duration) {
        progress.step(format_args!("wear, minute {minute}"));
        let until = began + ROW * u32::try_from(minute)?;
        let mut most = 0;
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + Duration::from_millis(200))).await;
            most = most.max(pair.memory()?);
        }
        let Seen { turns, failed } = mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        let (count, longest) = (turns.len(), turns.iter().max().copied().unwrap_or_default());
        let Quantiles { p50, p99 } = Quantiles::of(turns);
        let info = client.get_server_info(GetServerInfoRequest {}).await?.into_inner();
        let times = info.backends.first().map(|backend| backend.recycle_count).unwrap_or_default();
        let ms = |nanoseconds: u64| format!("{:.0}", nanoseconds as f64 / 1e6);
        let mb = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
        table.row(vec![
            minute.to_string(),
            format!("{:.0}", count as f64 / ROW.as_secs_f64()),
            ms(p50),
            ms(p99),
            ms(longest),
            failed.to_string(),
            (times - mem::replace(&mut replaced, times)).to_string(),
            mb(pair.memory()?),
            mb(most),
        ]);
    }
    callers.iter().for_each(|caller| caller.abort());
    table.print();
    Ok(())
}

/// One caller, until it is ended.
async fn call(mut client: Client, caller: usize, seen: Arc<Mutex<Seen>>) {
    let note = |outcome: std::result::Result<u64, Status>| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(took) => seen.turns.push(took),
            Err(status) => {
                eprintln!("wear: {status}");
                seen.failed += 1;
            }
        }
    };
    for life in 0.. {
        let session_id = format!("wear-{caller}-{life}");
        let id = || session_id.clone();
        if let Err(status) =
            client.create_session(CreateSessionRequest { session_id: id(), ..Default::default() }).await
        {
            note(Err(status));
            continue;
        }
        for _ in 0..TURNS_OF_A_SESSION {
            let request = SendAndWaitRequest { session_id: id(), prompt: Some("go on".into()) };
            let sent = clock::now();
            note(client.send_and_wait(request).await.map(|_| clock::now() - sent));
        }
        if let Err(status) =
            client.delete_session(DeleteSessionRequest { session_id: id(), ..Default::default() }).await
        {
            note(Err(status));
        }
    }
}
