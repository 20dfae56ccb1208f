//! Mixed load with faults for a long time: what the service holds must not grow.

use std::time::Duration;

use copilot_grpc::grpc::pb::{GetServerInfoRequest, copilot_service_client::CopilotServiceClient};
use copilot_grpc_bench::proc;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{Result, peers::Bench, program::Program, table::Table};

/// How often it is looked at what it holds.
const SAMPLES: u32 = 15;

/// How often the connections to the CLI are cut.
const CUT_EVERY: Duration = Duration::from_secs(20);

pub(crate) async fn measure(bench: &Bench, duration: Duration) -> Result<()> {
    let (mut stand_in, ports) = bench.stand_in(1).await?;
    let (service, address) = bench.facade(&ports, &[]).await?;
    let _load = Program::start(bench.program("mixed").arg(&address))?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = CopilotServiceClient::new(channel);
    let title = format!("Soak: mixed load with faults for {} s", duration.as_secs());
    let columns = ["after, s", "memory, MB", "descriptors", "threads", "sessions loaded", "turns running"];
    let mut table = Table::new(title, &columns);
    let (began, mut cut) = (Instant::now(), Instant::now());
    for sample in 1..=SAMPLES {
        let until = began + duration * sample / SAMPLES;
        while Instant::now() < until {
            tokio::time::sleep(until.saturating_duration_since(Instant::now()).min(CUT_EVERY)).await;
            if cut.elapsed() >= CUT_EVERY {
                stand_in.go().await?;
                cut = Instant::now();
            }
        }
        let info = client.get_server_info(GetServerInfoRequest {}).await?.into_inner();
        let backend = info.backends.first().cloned().unwrap_or_default();
        table.row(vec![
            began.elapsed().as_secs().to_string(),
            format!("{:.1}", proc::memory(service.pid())? as f64 / 1e6),
            proc::descriptors(service.pid())?.to_string(),
            proc::threads(service.pid())?.to_string(),
            backend.loaded_sessions.to_string(),
            backend.running_turns.to_string(),
        ]);
    }
    table.print();
    Ok(())
}
