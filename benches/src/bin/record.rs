//! Records a turn of the real CLI: `record COPILOT_GRPC CLI > recording/turn.jsonl`.
//!
//! The session is one with the CLI's own defaults, whose system prompt and tools make it talk most. Its model is a scripted one
//! on loopback, whose answer is marks. What differs from turn to turn becomes a mark too (see `recording`), and each long
//! text only its length: they are the CLI's system prompt and the like, of which only the size matters, and which are not
//! ours to publish.

use std::{error::Error, time::Duration};

use copilot_grpc::backend::process::{Process, Spec, discover::Form};
use copilot_grpc_bench::{
    frames::{self, Reader},
    recording::{ANSWER, EVENT, PROMPT, SESSION, TEXT, TURN, fill},
};
use scripted_model::{ModelServer, Reply};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::timeout};

/// How many pieces the model's answer has.
const PIECES: usize = 5;

/// From how many bytes on a text is replaced by its length.
const LONG: usize = 200;

/// The id of the session that is recorded.
const ID: &str = "bench-recorded-session";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let (guard, cli) = (args.next().ok_or("COPILOT_GRPC")?, args.next().ok_or("CLI")?);
    let model =
        ModelServer::start(|_| Reply::chunks([TEXT; PIECES]).every(Duration::from_millis(20))).await?;
    let folder = tempfile::tempdir()?;
    let offline = [
        ("COPILOT_OFFLINE", "true".to_owned()),
        ("COPILOT_PROVIDER_BASE_URL", model.base_url()),
        ("COPILOT_MODEL", "scripted".to_owned()),
    ];
    let spec = Spec {
        cli: cli.into(),
        form: Form::Node,
        guard: guard.into(),
        home: folder.path().join("home"),
        work_dir: folder.path().join("work"),
        env: offline.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        start_timeout: Duration::from_secs(60),
    };
    let (cli, stdio) = Process::start(&spec, async |stdio| Some(stdio)).await?;
    let (from_cli, mut to_cli) = stdio.into_split();
    let mut reader = Reader::new(from_cli);
    let provider = json!({"type": "openai", "baseUrl": model.base_url()});
    let requests = [
        ("connect", json!({})),
        (
            "session.create",
            json!({"sessionId": ID, "model": "scripted", "streaming": true, "provider": provider}),
        ),
        ("session.send", json!({"sessionId": ID, "prompt": PROMPT})),
        // The second turn is like all that follow; the first one has things to say that are said once.
        ("session.send", json!({"sessionId": ID, "prompt": PROMPT})),
    ];
    let home = folder.path().display().to_string();
    for (number, (method, params)) in requests.into_iter().enumerate() {
        let request = json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params});
        let mut frame = Vec::new();
        frames::push(&mut frame, request.to_string().as_bytes());
        to_cli.write_all(&frame).await?;
        while let Ok(Ok(Some(body))) = timeout(Duration::from_secs(2), reader.next()).await {
            let message: Value = serde_json::from_slice(&body)?;
            if number == 3 {
                println!("{}", marked(std::str::from_utf8(&body)?, &home));
            } else if message.get("error").is_some() {
                return Err(format!("{method}: {message}").into());
            }
        }
    }
    cli.stop().await;
    Ok(())
}

/// A message with marks in it.
fn marked(body: &str, home: &str) -> String {
    let body = body.replace(home, "/bench").replace(ID, SESSION).replace(&TEXT.repeat(PIECES), ANSWER);
    let own = |mark: &str| format!("{mark}\",\"timestamp\"");
    shorten(&unnumber(&body).replace(&own(TURN), &own(EVENT)))
}

/// Replaces long strings by their lengths.
fn shorten(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some(start) = rest.find('"') {
        out.push_str(&rest[..=start]);
        rest = &rest[start + 1..];
        let mut end = 0;
        while rest.as_bytes()[end] != b'"' {
            end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
        }
        match end {
            LONG.. => out.push_str(&fill(end)),
            _ => out.push_str(&rest[..end]),
        }
        out.push('"');
        rest = &rest[end + 1..];
    }
    out + rest
}

/// Replaces the end of each UUID by the mark of the turn.
fn unnumber(body: &str) -> String {
    let is_uuid = |text: &[u8]| {
        text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let (mut out, mut at) = (String::new(), 0);
    while at < body.len() {
        match body.as_bytes().get(at..at + 36) {
            Some(text) if is_uuid(text) => {
                out.push_str(&body[at..at + 24]);
                out.push_str(TURN);
                at += 36;
            }
            _ => {
                let next = body[at..].chars().next().map_or(1, char::len_utf8);
                out.push_str(&body[at..at + next]);
                at += next;
            }
        }
    }
    out
}
