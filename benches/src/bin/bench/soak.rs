//! Mixed load with faults for a long time: what the service holds must not grow.

use std::time::Duration;

use copilot_grpc::grpc::pb::{GetServerInfoRequest, copilot_service_client::CopilotServiceClient};
use copilot_grpc_bench::proc;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{Result, peers::Bench, program::Program, progress::Progress, table::Table};

/// How often it is looked at what it holds.
const SAMPLES: u32 = 15;

pub(crate) const STEPS: usize = SAMPLES as usize;

/// How often the connections to the CLI are cut.
const CUT_EVERY: Duration = Duration::from_secs(20);

/// How long it is left alone at the end: longer than a session may take to come to rest.
const CALM: Duration = Duration::from_secs(45);

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, duration: Duration) -> Result<()> {
    let (mut stand_in, ports) = bench.stand_in(1).await?;
    let (service, address) = bench.facade(&ports, &[]).await?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = CopilotServiceClient::new(channel);
    let title = format!("Soak: mixed load with faults for {} s", duration.as_secs());
    let columns = ["after, s", "memory, MB", "descriptors", "threads", "sessions loaded", "turns running"];
    let mut table = Table::new(title, &columns);
    table.row(sample("before", &service, &mut client).await?);
    let load = Program::start(bench.program("mixed").arg(&address))?;
    let (began, mut cut) = (Instant::now(), Instant::now());
    for number in 1..=SAMPLES {
        progress.step(format_args!("soak, until {} s", (duration * number / SAMPLES).as_secs()));
        let until = began + duration * number / SAMPLES;
        while Instant::now() < until {
            tokio::time::sleep(until.saturating_duration_since(Instant::now()).min(CUT_EVERY)).await;
            if cut.elapsed() >= CUT_EVERY {
                stand_in.go().await?;
                cut = Instant::now();
            }
        }
        table.row(sample(&began.elapsed().as_secs().to_string(), &service, &mut client).await?);
    }
    drop(load);
    tokio::time::sleep(CALM).await;
    table.row(sample("the load's end", &service, &mut client).await?);
    table.print();
    Ok(())
}

/// What it holds.
async fn sample(
    when: &str,
    service: &Program,
    client: &mut CopilotServiceClient<Channel>,
) -> Result<Vec<String>> {
    let info = client.get_server_info(GetServerInfoRequest {}).await?.into_inner();
    let backend = info.backends.first().cloned().unwrap_or_default();
    Ok(vec![
        when.into(),
        format!("{:.1}", proc::memory(service.pid())? as f64 / 1e6),
        proc::descriptors(service.pid())?.to_string(),
        proc::threads(service.pid())?.to_string(),
        backend.loaded_sessions.to_string(),
        backend.running_turns.to_string(),
    ])
}
