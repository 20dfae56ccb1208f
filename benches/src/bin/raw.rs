//! The same load as `load` makes, by raw JSON-RPC to the CLI: what there is without the service. `raw JOB`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use copilot_grpc_bench::{
    clock,
    frames::{self, Message, Reader},
    job::{Dialogue, Job, Tally},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

/// What is heard of the turn that runs in each session.
type Turns = Arc<Mutex<HashMap<String, Turn>>>;

struct Turn {
    answer: String,
    tally: Tally,
    done: Option<oneshot::Sender<(String, Tally)>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let job = Job::of_args();
    let turns = Turns::default();
    let mut writers = Vec::new();
    for _ in 0..job.connections {
        let socket = TcpStream::connect(&job.address).await?;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        tokio::spawn(read(Reader::new(reader), turns.clone(), job.size));
        writers.push(Arc::new(tokio::sync::Mutex::new(writer)));
    }
    for number in 0..job.sessions {
        let params = json!({"sessionId": job.session(number)});
        call(&writers[number % writers.len()], number, "session.create", params).await?;
    }
    let dialogue = Dialogue::ready().await?;
    let sessions: Vec<_> = (0..job.sessions)
        .map(|number| {
            let writer = writers[number % writers.len()].clone();
            tokio::spawn(session(job.clone(), number, writer, turns.clone()))
        })
        .collect();
    let mut tally = Tally::default();
    for one in sessions {
        tally.add(one.await??);
    }
    dialogue.done(tally).await?;
    Ok(())
}

async fn session(
    job: Job,
    number: usize,
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    turns: Turns,
) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    job.begin(number).await;
    for _ in 0..job.turns {
        let (done, ended) = oneshot::channel();
        let turn = Turn { answer: String::new(), tally: Tally::default(), done: Some(done) };
        turns.lock().unwrap_or_else(PoisonError::into_inner).insert(job.session(number), turn);
        let sent = clock::now();
        let params = json!({"sessionId": job.session(number), "prompt": job.prompt()});
        call(&writer, number, "session.send", params).await?;
        match ended.await {
            Ok((answer, seen)) => {
                tally.turn(sent, &answer);
                tally.add(seen);
            }
            Err(error) => tally.failed(&error),
        }
    }
    Ok(tally)
}

async fn call(
    writer: &tokio::sync::Mutex<OwnedWriteHalf>,
    id: usize,
    method: &str,
    params: Value,
) -> std::io::Result<()> {
    let mut frame = Vec::new();
    let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    frames::push(&mut frame, request.to_string().as_bytes());
    writer.lock().await.write_all(&frame).await
}

/// Takes in what the CLI tells; only what is wanted is read.
async fn read(mut reader: Reader<OwnedReadHalf>, turns: Turns, size: usize) -> std::io::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params {
        session_id: String,
        event: Event,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        data: Value,
    }
    const WANTED: [&str; 3] = ["assistant.message_delta", "assistant.message", "session.idle"];
    while let Some(body) = reader.next().await? {
        let head = &body[..body.len().min(200)];
        let is_wanted = |kind: &&str| memchr::memmem::find(head, format!("\"{kind}\"").as_bytes()).is_some();
        if !WANTED.iter().any(is_wanted) {
            continue;
        }
        let message: Message<'_> = serde_json::from_slice(&body)?;
        let Some(params) = message.params else { continue };
        let Params { session_id, event } = serde_json::from_str(params.get())?;
        let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turn) = turns.get_mut(&session_id) else { continue };
        let text = |field: &str| event.data[field].as_str().unwrap_or_default();
        match event.kind.as_str() {
            "assistant.message_delta" => turn.tally.delta(text("deltaContent"), size),
            "assistant.message" => turn.answer = text("content").into(),
            _ => {
                if let Some(done) = turn.done.take() {
                    let _ = done.send((turn.answer.clone(), std::mem::take(&mut turn.tally)));
                }
            }
        }
    }
    Ok(())
}
