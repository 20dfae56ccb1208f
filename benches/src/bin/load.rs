//! Load by gRPC clients: `load JOB`.

use std::sync::Arc;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, SendAndStreamRequest, SendAndWaitRequest,
    copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload, session_event,
};
use copilot_grpc_bench::{
    clock,
    job::{Dialogue, Job, Tally},
};
use tokio::sync::Semaphore;
use tonic::{Status, transport::Channel};

type Client = CopilotServiceClient<Channel>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let job = Job::of_args();
    let mut clients = Vec::new();
    for _ in 0..job.connections {
        let channel = Channel::from_shared(format!("http://{}", job.address))?.connect().await?;
        clients.push(Client::new(channel).max_decoding_message_size(usize::MAX));
    }
    let clients = (0..job.sessions).map(|number| clients[number % clients.len()].clone());
    if job.create {
        for (number, mut client) in clients.clone().enumerate() {
            let session_id = job.session(number);
            client.create_session(CreateSessionRequest { session_id, ..Default::default() }).await?;
        }
    }
    let dialogue = Dialogue::ready().await?;
    let places = Arc::new(Semaphore::new(job.at_once));
    let turns: Vec<_> = clients
        .enumerate()
        .map(|(number, client)| tokio::spawn(turns(job.clone(), number, client, places.clone())))
        .collect();
    let mut tally = Tally::default();
    for one in turns {
        tally.add(one.await?);
    }
    dialogue.done(tally).await?;
    Ok(())
}

/// The turns of one session.
async fn turns(job: Job, number: usize, mut client: Client, places: Arc<Semaphore>) -> Tally {
    let mut tally = Tally::default();
    job.begin(number).await;
    for _ in 0..job.turns {
        let _place = places.acquire().await;
        let sent = clock::now();
        let answer = match job.stream {
            true => streamed(&job, number, &mut client, &mut tally).await,
            false => unary(&job, number, &mut client).await,
        };
        match answer {
            Ok(answer) => tally.turn(sent, &answer),
            Err(status) => tally.failed(&status),
        }
    }
    tally
}

async fn unary(job: &Job, number: usize, client: &mut Client) -> Result<String, Status> {
    let (session_id, prompt) = (job.session(number), job.prompt());
    let request = SendAndWaitRequest { session_id, prompt: Some(prompt.as_str().into()) };
    let result = client.send_and_wait(request).await?.into_inner().result;
    Ok(result.unwrap_or_default().content)
}

async fn streamed(
    job: &Job,
    number: usize,
    client: &mut Client,
    tally: &mut Tally,
) -> Result<String, Status> {
    let (session_id, prompt) = (job.session(number), job.prompt());
    let request =
        SendAndStreamRequest { session_id, prompt: Some(prompt.as_str().into()), ..Default::default() };
    let mut stream = client.send_and_stream(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.payload {
            Some(Payload::Event(event)) => {
                if let Some(session_event::Payload::AssistantMessageDelta(delta)) = event.payload {
                    tally.delta(&delta.text, job.size);
                }
            }
            Some(Payload::Result(result)) => return Ok(result.content),
            Some(Payload::Heartbeat(_)) | None => {}
        }
    }
    Err(Status::data_loss("the stream ended without a result"))
}
