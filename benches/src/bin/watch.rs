//! Opens streams, and reads what comes: `watch JOB`, with as many WatchSession at once as the job says, spread over its sessions.

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
    for number in 0..job.at_once {
        let client = &mut clients[number % job.connections];
        let session_id = job.session(number % job.sessions);
        let request = WatchSessionRequest { session_id, ..Default::default() };
        let mut stream = client.watch_session(request).await?.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    }
    Dialogue::ready().await?.done(Tally::default()).await?;
    Ok(())
}
