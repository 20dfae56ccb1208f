//! The same load by the official Rust SDK, with no gRPC in between: it is the program that is measured, and the one that makes the
//! load. `rust_sdk JOB`.

use std::{sync::Arc, time::Duration};

use copilot_grpc_bench::{
    clock,
    job::{Dialogue, Job, Tally},
};
use github_copilot_sdk::{
    Client,
    session::Session,
    types::{MessageOptions, SessionConfig},
};
use tokio::net::TcpStream;

/// How long a turn may take that lost its end. At full speed some do.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let job = Job::of_args();
    let socket = TcpStream::connect(&job.address).await?;
    socket.set_nodelay(true)?;
    let (reader, writer) = socket.into_split();
    let client = Client::from_streams(reader, writer, std::env::current_dir()?)?;
    client.verify_protocol_version().await?;
    let mut sessions = Vec::new();
    for number in 0..job.sessions {
        let config = SessionConfig::default()
            .with_session_id(job.session(number))
            .with_model("scripted")
            .with_streaming(true)
            .approve_all_permissions();
        sessions.push(Arc::new(client.create_session(config).await?));
    }
    let dialogue = Dialogue::ready().await?;
    let turns: Vec<_> = (0..)
        .zip(&sessions)
        .map(|(number, session)| tokio::spawn(turns(job.clone(), number, session.clone())))
        .collect();
    let mut tally = Tally::default();
    for one in turns {
        tally.add(one.await?);
    }
    dialogue.done(tally).await?;
    Ok(())
}

/// The turns of one session.
async fn turns(job: Job, number: usize, session: Arc<Session>) -> Tally {
    let mut tally = Tally::default();
    let (mut events, size) = (session.subscribe(), job.size);
    let listening = job.stream.then(|| {
        tokio::spawn(async move {
            let mut tally = Tally::default();
            loop {
                match events.recv().await {
                    Ok(event) if event.event_type == "assistant.message_delta" => {
                        tally.delta(event.data["deltaContent"].as_str().unwrap_or_default(), size);
                    }
                    Ok(event) if event.event_type == "bench.end" => return tally,
                    Ok(_) => {}
                    Err(error) if format!("{error:?}").contains("Lagged") => {}
                    Err(_) => return tally,
                }
            }
        })
    });
    job.begin(number).await;
    for _ in 0..job.turns {
        let sent = clock::now();
        let prompt = MessageOptions::new(job.prompt()).with_wait_timeout(PATIENCE);
        match session.send_and_wait(prompt).await {
            Ok(Some(message)) => tally.turn(sent, message.data["content"].as_str().unwrap_or_default()),
            Ok(None) => tally.failed(&"a turn ended without an answer"),
            Err(error) => tally.failed(&error),
        }
    }
    session.stop_event_loop().await;
    drop(session);
    if let Some(listening) = listening
        && let Ok(Ok(seen)) = tokio::time::timeout(PATIENCE, listening).await
    {
        tally.add(seen);
    }
    tally
}
