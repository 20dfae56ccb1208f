//! All that clients do, the right way and the wrong way, until it is ended: `mixed ADDRESS`.
//!
//! Sessions come and go; turns are awaited, streamed, dropped in the middle, and given deadlines that are too short; watchers
//! come, read or do not read, and go; sessions are listed, closed and deleted.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, CloseSessionRequest, CreateSessionRequest, DeleteSessionRequest, ListSessionsRequest,
    SendAndStreamRequest, SendAndWaitRequest, WatchSessionRequest,
    copilot_service_client::CopilotServiceClient,
};
use tokio::time::{sleep, timeout};
use tonic::{Request, Status, transport::Channel};

/// How many clients there are, each with a connection and, at each time, a session of its own.
const CLIENTS: u64 = 32;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = format!("http://{}", std::env::args().nth(1).expect("an address"));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = address.clone();
            tokio::spawn(async move {
                let mut random = Random(number + 1);
                for life in 0.. {
                    // What fails is the faults' doing; it is not what is measured here.
                    let _ = live(&address, format!("mixed-{number}-{life}"), &mut random).await;
                    sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    Ok(())
}

/// A session's life, on a connection of its own.
async fn live(
    address: &str,
    session_id: String,
    random: &mut Random,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = Channel::from_shared(address.to_owned())?.connect().await?;
    let mut client = CopilotServiceClient::new(channel);
    let id = || session_id.clone();
    client.create_session(CreateSessionRequest { session_id: id(), ..Default::default() }).await?;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let (deltas, pace) = (random.below(200), random.below(3) * 500);
        let prompt = format!("deltas={deltas} pace={pace}");
        let _: Result<(), Status> = async {
            match random.below(8) {
                0..=1 => {
                    let request =
                        SendAndWaitRequest { session_id: id(), prompt: Some(prompt.as_str().into()) };
                    client.send_and_wait(request).await?;
                }
                2 => {
                    let request =
                        SendAndWaitRequest { session_id: id(), prompt: Some(prompt.as_str().into()) };
                    let mut request = Request::new(request);
                    request.set_timeout(Duration::from_millis(random.below(200)));
                    client.send_and_wait(request).await?;
                }
                3..=4 => {
                    let request = SendAndStreamRequest {
                        session_id: id(),
                        prompt: Some(prompt.as_str().into()),
                        ..Default::default()
                    };
                    let mut stream = client.send_and_stream(request).await?.into_inner();
                    let patience = if random.below(2) == 0 { 5 } else { 20_000 };
                    let read = async {
                        while stream.message().await?.is_some() {}
                        Ok::<_, Status>(())
                    };
                    let _ = timeout(Duration::from_millis(patience), read).await;
                }
                5 => {
                    let request = WatchSessionRequest { session_id: id(), ..Default::default() };
                    // Some are never read.
                    watches.push(client.watch_session(request).await?.into_inner());
                    if watches.len() > 3 {
                        watches.remove(0);
                    }
                }
                6 => {
                    client.list_sessions(ListSessionsRequest::default()).await?;
                    client.abort_turn(AbortTurnRequest { session_id: id(), ..Default::default() }).await?;
                }
                _ => {
                    client.close_session(CloseSessionRequest { session_id: id() }).await?;
                }
            }
            Ok(())
        }
        .await;
    }
    drop(watches);
    client.delete_session(DeleteSessionRequest { session_id: id(), allow_missing: true }).await?;
    Ok(())
}

/// Numbers that look random, and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Xorshift: good enough to mix what clients do.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
