//! A stand-in for the Copilot CLI that costs next to nothing: it plays the recorded turn for each prompt, and otherwise answers
//! what the service and the SDKs ask, as CLI 1.0.102 does. Prints the ports that it listens on.
//!
//! A prompt says how its turn is played: `deltas=20 size=24 pace=1000` is 20 deltas of 24 bytes with 1000 microseconds before each.
//! Left out, the turn is as it was recorded and as fast as the socket takes it. Texts begin with the time at which they were
//! written, in nanoseconds, if there is room for it, and the answer tells the time that the turn took here: `received written`.
//! With `answer=1000000` the answer has so many bytes.
//!
//! `stand_in LISTENERS STORED` has so many ports, each of them a CLI of its own with so many sessions, `stored-0` and so on. A
//! session whose id ends with `events-1000` has so many events in its history. A line on standard input cuts all connections.
//!
//! With `--stdio` it is a CLI of the service's own: it prints nothing, and its only connection is its standard input and output, which
//! have to be one end of a pair of sockets. Then each turn adds to the session's history on its disk.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::Write as _,
    os::{fd::AsFd as _, unix},
    sync::LazyLock,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use copilot_grpc_bench::{
    clock,
    disk::{self, Disk},
    frames::{self, Message, Reader},
    recording::{Recording, Values},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UnixStream},
    sync::Notify,
    time::sleep,
};

/// How much of a turn is written at once.
const CHUNK: usize = 64 * 1024;

/// Bytes that it takes to tell the time.
const TIME: usize = 20;

struct StandIn {
    recording: Recording,
    sessions: Mutex<HashMap<String, Session>>,
    turns: AtomicU64,
    /// Where its sessions are, if it has a home.
    disk: Option<Disk>,
    /// Fires when the connections are to be cut.
    cut: Arc<Notify>,
}

#[derive(Default)]
struct Session {
    /// The connections that hear of it.
    attached: Vec<Arc<Connection>>,
    /// On disk, which it is from its first message on.
    stored: bool,
    /// The turn that runs.
    turn: Option<u64>,
    notes: Value,
}

struct Connection {
    number: u64,
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    if std::env::args().any(|arg| arg == "--stdio") {
        let stand_in = StandIn { disk: Disk::of_env(), ..StandIn::new(0, Arc::default()) };
        return Arc::new(stand_in).serve_stdio().await;
    }
    let mut args = std::env::args().skip(1);
    let mut count = |usual| args.next().map_or(usual, |count| count.parse().expect("a count"));
    let (listeners, stored) = (count(1), count(0));
    let (mut ports, cut) = (Vec::new(), Arc::new(Notify::new()));
    for _ in 0..listeners {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.push(listener.local_addr()?.port().to_string());
        tokio::spawn(Arc::new(StandIn::new(stored, cut.clone())).listen(listener));
    }
    println!("{}", ports.join(" "));
    std::io::stdout().flush()?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        cut.notify_waiters();
    }
    // Who has no input for us does not want it to end.
    std::future::pending().await
}

impl Session {
    fn stored() -> Self {
        Self { stored: true, ..Self::default() }
    }
}

impl StandIn {
    /// With so many sessions stored.
    fn new(stored: usize, cut: Arc<Notify>) -> Self {
        let stored = (0..stored).map(|number| (format!("stored-{number}"), Session::stored()));
        Self {
            recording: Recording::load(),
            sessions: Mutex::new(stored.collect()),
            turns: AtomicU64::new(1),
            disk: None,
            cut,
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: Arc<Self>, listener: TcpListener) {
        for number in 0.. {
            let Ok((socket, _)) = listener.accept().await else { return };
            if socket.set_nodelay(true).is_ok() {
                let (reader, writer) = socket.into_split();
                tokio::spawn(self.clone().serve(number, reader, writer));
            }
        }
    }

    async fn serve_stdio(self: Arc<Self>) -> std::io::Result<()> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stdio = unix::net::UnixStream::from(stdin);
        stdio.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stdio)?.into_split();
        self.serve(0, reader, writer).await;
        Ok(())
    }

    async fn serve(
        self: Arc<Self>,
        number: u64,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) {
        let connection = Arc::new(Connection { number, writer: tokio::sync::Mutex::new(Box::new(writer)) });
        tokio::select! {
            heard = self.clone().hear(reader, &connection) => if let Err(error) = heard {
                eprintln!("stand-in: {error}");
            },
            () = self.cut.notified() => {}
        }
        // Also for the turns that are played to it.
        let _ = connection.writer.lock().await.shutdown().await;
        for session in self.sessions().values_mut() {
            session.attached.retain(|one| one.number != number);
        }
    }

    async fn hear(
        self: Arc<Self>,
        reader: impl AsyncRead + Unpin,
        connection: &Arc<Connection>,
    ) -> std::io::Result<()> {
        let (mut reader, mut out) = (Reader::new(reader), Vec::new());
        while let Some(mut body) = reader.next().await? {
            loop {
                self.answer(&body, connection, &mut out);
                match reader.buffered()? {
                    Some(next) => body = next,
                    None => break,
                }
            }
            connection.write(&out).await;
            out.clear();
        }
        Ok(())
    }

    /// Answers a request; a prompt's turn is played on a task of its own.
    fn answer(self: &Arc<Self>, body: &[u8], connection: &Arc<Connection>, out: &mut Vec<u8>) {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Params {
            session_id: String,
            prompt: String,
            set: Value,
            session_ids: Vec<String>,
            cursor: String,
            max: usize,
        }
        let received = clock::now();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return eprintln!("stand-in: what is no message was received");
        };
        let (Some(id), Some(method)) = (message.id, message.method) else { return };
        let params = message.params.map_or("{}", |params| params.get());
        let params: Params = serde_json::from_str(params).unwrap_or_default();
        let session_id = params.session_id;
        if method == "session.send" {
            let mut sessions = self.sessions();
            if let Some(session) = sessions.get_mut(&session_id) {
                let turn = self.turns.fetch_add(1, Ordering::Relaxed);
                (session.stored, session.turn) = (true, Some(turn));
                drop(sessions);
                let play = Play::new(session_id, params.prompt, id.get().into(), received);
                tokio::spawn(self.clone().play(play, turn, connection.clone()));
                return;
            }
        }
        let result = match method {
            "connect" => {
                json!({"ok": true, "protocolVersion": 3, "version": "1.0.102", "taskKinds": ["agent", "shell"]})
            }
            "ping" => {
                json!({"message": "pong", "timestamp": "2026-11-23T14:28:56.393Z", "protocolVersion": 3})
            }
            "session.create" | "session.resume" => {
                let mut sessions = self.sessions();
                let session = sessions.entry(session_id.clone()).or_default();
                // Also one that was put there.
                session.stored |= self.disk.as_ref().is_some_and(|disk| disk.has(&session_id));
                if session.attached.iter().all(|one| one.number != connection.number) {
                    session.attached.push(connection.clone());
                }
                json!({
                    "sessionId": session_id, "nativeSessionId": session_id, "isRemote": false,
                    "startTime": "2026-11-23T14:28:56.393Z", "mode": "interactive",
                    "workspacePath": format!("/bench/session-state/{session_id}"),
                    "capabilities": {"ui": {"elicitation": false}},
                })
            }
            "session.getMetadata" => match self.sessions().get(&session_id) {
                Some(session) if session.stored => json!({"session": entry(&session_id)}),
                _ => json!({}),
            },
            "session.list" | "sessions.list" => {
                let sessions = self.sessions();
                let stored = sessions.iter().filter(|(_, session)| session.stored);
                json!({"sessions": stored.map(|(id, _)| entry(id)).collect::<Vec<_>>()})
            }
            "session.metadata.updateClientMetadata" => {
                if let Some(session) = self.sessions().get_mut(&session_id) {
                    session.notes = params.set;
                }
                json!({})
            }
            "sessions.getClientMetadata" => {
                let sessions = self.sessions();
                let known = params.session_ids.iter().filter_map(|id| Some((id, sessions.get(id)?)));
                let notes = known.map(|(id, one)| match &one.notes {
                    Value::Null => json!({"sessionId": id, "metadata": {}}),
                    notes => json!({"sessionId": id, "metadata": notes}),
                });
                notes.collect()
            }
            "session.metadata.isProcessing" => {
                let sessions = self.sessions();
                let loaded = sessions.get(&session_id).filter(|session| !session.attached.is_empty());
                let Some(session) = loaded else {
                    let message = format!(
                        "Request {method} failed with message: Session not found for sessionId: {session_id}"
                    );
                    return respond(out, id.get(), "error", &json!({"code": -32603, "message": message}));
                };
                json!({"processing": session.turn.is_some()})
            }
            "sessions.readPersistedEvents" | "session.eventLog.read" => {
                history(&session_id, &params.cursor, params.max)
            }
            "session.detach" | "session.destroy" => {
                if let Some(session) = self.sessions().get_mut(&session_id) {
                    session.attached.retain(|one| one.number != connection.number);
                }
                json!({"success": true})
            }
            "session.delete" => {
                self.sessions().remove(&session_id);
                if let Some(disk) = &self.disk {
                    disk.remove(&session_id);
                }
                json!({"success": true})
            }
            "session.abort" => {
                if let Some(session) = self.sessions().get_mut(&session_id)
                    && session.turn.take().is_some()
                {
                    tokio::spawn(aborted(session_id, session.attached.clone()));
                }
                json!({"success": true})
            }
            "session.options.update" => json!({"success": true}),
            "session.eventLog.registerInterest" => json!({"handle": "interest"}),
            _ => {
                let error = json!({"code": -32601, "message": format!("Unhandled method {method}")});
                return respond(out, id.get(), "error", &error);
            }
        };
        respond(out, id.get(), "result", &result);
    }

    /// Plays a turn to all who hear of the session; the answer to the prompt goes to its sender.
    async fn play(self: Arc<Self>, play: Play, turn: u64, sender: Arc<Connection>) {
        let listeners = match self.sessions().get(&play.session) {
            Some(session) => session.attached.clone(),
            None => return,
        };
        let recording = &self.recording;
        let (mut text, mut answer) = (String::new(), String::new());
        let mut out = Vec::with_capacity(2 * CHUNK);
        let (first, end) = (recording.deltas.start, recording.deltas.end);
        let deltas = play.deltas.unwrap_or(recording.delta_count());
        // Between two deltas the CLI says how much there is by now.
        let order = (0..first)
            .chain((0..(2 * deltas).saturating_sub(1)).map(|place| first + place % 2))
            .chain(end..recording.messages.len());
        for (event, number) in order.enumerate() {
            let message = &recording.messages[number];
            let is_delta = number == first;
            if !play.pace.is_zero() && (is_delta || number == end) {
                flush(&mut out, &listeners).await;
                sleep(play.pace).await;
                if self.sessions().get(&play.session).is_none_or(|session| session.turn != Some(turn)) {
                    return;
                }
            }
            if is_delta {
                text.clear();
                match play.size {
                    TIME.. => drop(write!(text, "{:<1$}", clock::now(), play.size)),
                    size => text.extend(std::iter::repeat_n('x', size)),
                }
            } else if number == end {
                for tool in 0..play.tools {
                    push_tool(&mut out, &play.session, turn, tool);
                    if out.len() >= CHUNK {
                        flush(&mut out, &listeners).await;
                    }
                }
                let _ = write!(answer, "{} {} ", play.received, clock::now());
                answer.extend(std::iter::repeat_n('x', play.answer.saturating_sub(answer.len())));
            }
            let values = Values {
                request_id: &play.request,
                session: &play.session,
                turn,
                event: event as u64,
                prompt: &play.prompt,
                text: &text,
                answer: &answer,
            };
            if message.is_response() {
                // In its place among the others, for the one who waits for it.
                flush(&mut out, &listeners).await;
                message.push(&mut out, &values);
                flush(&mut out, std::slice::from_ref(&sender)).await;
                continue;
            }
            if number + 1 == recording.messages.len()
                && let Some(session) = self.sessions().get_mut(&play.session)
            {
                session.turn = None;
            }
            message.push(&mut out, &values);
            // Before it is told, as the CLI mostly does.
            if number == recording.stored
                && let Some(disk) = &self.disk
                && let Err(error) = disk.add(&play.session, turn, last_id(&out), disk::TURN)
            {
                eprintln!("stand-in: {error}");
            }
            if out.len() >= CHUNK {
                flush(&mut out, &listeners).await;
            }
        }
        flush(&mut out, &listeners).await;
    }
}

/// The id of the last event in these frames.
fn last_id(out: &[u8]) -> &str {
    let text = std::str::from_utf8(out).unwrap_or_default();
    text.rsplit_once("\"id\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default()
}

/// A call of a tool: that it begins, with 20 KB of arguments, and that it has ended.
fn push_tool(out: &mut Vec<u8>, session: &str, turn: u64, tool: u64) {
    static ARGUMENTS: LazyLock<String> = LazyLock::new(|| {
        let item = |n: u64| json!({"id": 1_234_567_890_123_456_789 + n, "name": format!("item {n}"), "tags": ["a", "b"], "at": [1.5, n]});
        json!({"items": (0..250).map(item).collect::<Vec<_>>()}).to_string()
    });
    let mut push = |kind: &str, data: &str| {
        let event = format!(
            r#"{{"jsonrpc":"2.0","method":"session.event","params":{{"sessionId":"{session}","event":{{"type":"{kind}","data":{{"toolCallId":"{turn}-{tool}",{data}}},"id":"{kind}-{turn}-{tool}","timestamp":"2026-11-23T14:30:00.000Z","parentId":null}}}}}}"#
        );
        frames::push(out, event.as_bytes());
    };
    push("tool.execution_start", &format!(r#""toolName":"look","arguments":{}"#, *ARGUMENTS));
    push("tool.execution_complete", r#""success":true,"result":{"content":"done"}"#);
}

/// Tells that a turn was stopped.
async fn aborted(session: String, listeners: Vec<Arc<Connection>>) {
    let mut out = Vec::new();
    for (kind, data) in
        [("abort", json!({"reason": "user_initiated"})), ("session.idle", json!({"aborted": true}))]
    {
        let event = json!({"type": kind, "data": data, "id": kind, "timestamp": "2026-11-23T14:30:00.000Z"});
        let params = json!({"sessionId": session, "event": event});
        let message = json!({"jsonrpc": "2.0", "method": "session.event", "params": params});
        frames::push(&mut out, message.to_string().as_bytes());
    }
    flush(&mut out, &listeners).await;
}

/// A turn that is to be played.
struct Play {
    session: String,
    prompt: String,
    request: String,
    received: u64,
    deltas: Option<usize>,
    size: usize,
    answer: usize,
    tools: u64,
    pace: Duration,
}

impl Play {
    fn new(session: String, prompt: String, request: String, received: u64) -> Self {
        let number = |name: &str| {
            let words = prompt.split_ascii_whitespace();
            words
                .filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
                .next_back()
        };
        let deltas = number("deltas").and_then(|count| usize::try_from(count).ok());
        let size = number("size").and_then(|size| usize::try_from(size).ok()).unwrap_or(24);
        let answer = number("answer").and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let pace = Duration::from_micros(number("pace").unwrap_or_default());
        let tools = number("tools").unwrap_or_default();
        Self { session, prompt, request, received, deltas, size, answer, tools, pace }
    }
}

async fn flush(out: &mut Vec<u8>, listeners: &[Arc<Connection>]) {
    for listener in listeners {
        listener.write(out).await;
    }
    out.clear();
}

impl Connection {
    /// Writes, if the other end is still there to read.
    async fn write(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let _ = self.writer.lock().await.write_all(bytes).await;
        }
    }
}

fn respond(out: &mut Vec<u8>, id: &str, outcome: &str, value: &Value) {
    frames::push(out, format!(r#"{{"jsonrpc":"2.0","id":{id},"{outcome}":{value}}}"#).as_bytes());
}

/// A page of a history: questions and answers, whose ids are their numbers, from 1 on.
fn history(session: &str, cursor: &str, max: usize) -> Value {
    let count: usize = session.rsplit_once("events-").and_then(|(_, count)| count.parse().ok()).unwrap_or(0);
    let after: usize = cursor.split('|').next().and_then(|id| id.parse().ok()).unwrap_or(0);
    let until = count.min(after + max);
    let text = "Something that was said, as long as what is said mostly is, or a little shorter than that. "
        .repeat(3);
    let event = |id: usize| {
        let (kind, data) = match id % 2 {
            1 => ("user.message", json!({"content": text, "messageId": id.to_string()})),
            _ => ("assistant.message", json!({"messageId": id.to_string(), "content": text})),
        };
        json!({"type": kind, "data": data, "id": id.to_string(), "timestamp": "2026-11-23T14:30:00.000Z"})
    };
    let events: Vec<_> = (after + 1..=until).map(event).collect();
    json!({"events": events, "cursor": format!("{until}|0"), "hasMore": until < count, "cursorStatus": "ok"})
}

/// A session as the CLI lists it.
fn entry(id: &str) -> Value {
    json!({
        "sessionId": id, "clientName": "copilot-grpc", "isRemote": false, "summary": "@PROMPT@",
        "startTime": "2026-11-23T14:28:56.393Z", "modifiedTime": "2026-11-23T14:30:00.000Z",
        "context": {"cwd": "/bench/work"},
    })
}
