//! Opens streams, and leaves them open: `watch JOB`, one WatchSession for each of the job's sessions.

use copilot_grpc::grpc::pb::{WatchSessionRequest, copilot_service_client::CopilotServiceClient};
use copilot_grpc_bench::job::{Dialogue, Job, Tally};
use tonic::transport::Channel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let job = Job::of_args();
    let mut clients = Vec::new();
    for _ in 0..job.connections {
        let channel = Channel::from_shared(format!("http://{}", job.address))?.connect().await?;
        clients.push(CopilotServiceClient::new(channel));
    }
    let mut streams = Vec::new();
    for number in 0..job.sessions {
        let client = &mut clients[number % job.connections];
        let request = WatchSessionRequest { session_id: job.session(number), ..Default::default() };
        streams.push(client.watch_session(request).await?.into_inner());
    }
    Dialogue::ready().await?.done(Tally::default()).await?;
    Ok(())
}
