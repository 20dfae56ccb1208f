//! A Copilot CLI that a test plays: a peer on loopback that speaks the CLI's frames, and says what it is told to say.
//!
//! Left alone it answers as CLI 1.0.102 does (cli-protocol.md), all but `session.send`: what an agent does is the test's
//! to tell. A test takes a method over with [`FakeCli::manual`], and then leads a dialogue:
//!
//! ```text
//! let call = cli.next("session.send").await;
//! call.answer(json!({"messageId": "m1"})).await;
//! cli.event("s", "session.idle", json!({})).await;
//! ```
//!
//! Its frames are its own, read and written without the crate's help, so that it judges the crate: whatever is not
//! exactly as the protocol has it fails the test.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::AbortHandle,
};

use super::{
    facade::{Setup, TestFacade},
    soon, state,
};

/// A CLI that a test plays.
pub(crate) struct FakeCli {
    shared: Arc<Shared>,
    port: u16,
    listening: AbortHandle,
    /// What the facades in front of it have, one after the other.
    state: Arc<state::State>,
}

/// What kind of CLI it is.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) version: &'static str,
    pub(crate) protocol: u32,
    /// The methods that it does not have.
    pub(crate) lacks: &'static [&'static str],
    /// The connection token that it wants.
    pub(crate) token: Option<&'static str>,
    /// Whether events say which message they belong to, as all do that are used.
    pub(crate) message_ids: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { version: "1.0.102", protocol: 3, lacks: &[], token: None, message_ids: true }
    }
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    /// Fires when there is something new to look at in the state.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// How many connections there have been.
    connections: u64,
    current: Option<Arc<Connection>>,
    manual: HashSet<String>,
    frozen: bool,
    calls: Vec<Received>,
    /// Calls that the test answers, and has not asked for.
    untaken: VecDeque<Call>,
    /// What we were answered.
    answers: Vec<Value>,
    sessions: HashMap<String, Session>,
    /// What the facade did that no client may do.
    complaint: Option<String>,
    events: u64,
    messages: u64,
}

/// A session, as far as the CLI's own answers depend on it.
#[derive(Default)]
struct Session {
    loaded: bool,
    /// On disk, which it is from its first message on.
    stored: bool,
    busy: bool,
    /// The messages that wait.
    queue: Vec<String>,
}

struct Connection {
    number: u64,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    authenticated: Mutex<bool>,
}

/// A call that was received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) params: Value,
}

impl FakeCli {
    pub(crate) async fn start() -> Self {
        Self::start_as(Options::default()).await
    }

    pub(crate) async fn start_as(options: Options) -> Self {
        Self::start_at(0, options).await
    }

    /// On a port of the test's choice.
    pub(crate) async fn start_at(port: u16, options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let manual = ["session.send".to_owned()].into();
        let state = State { manual, ..State::default() };
        let shared = Arc::new(Shared { options, state: Mutex::new(state), changed: Notify::new() });
        let listening = tokio::spawn(shared.clone().listen(listener)).abort_handle();
        Self { shared, port, listening, state: Arc::default() }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How a facade reaches it.
    pub(crate) fn setup(&self) -> Setup {
        // A test leads its dialogue on one connection, unless it says otherwise.
        let setup = Setup { cli_url: self.address(), state: self.state.clone(), ..Setup::default() };
        let setup = setup.flag("--keeper-link=false");
        match self.shared.options.token {
            Some(token) => setup.variable("COPILOT_CONNECTION_TOKEN", token),
            None => setup,
        }
    }

    /// From now on the test answers calls of this method.
    pub(crate) fn manual(&self, method: &str) {
        self.shared.lock().manual.insert(method.into());
    }

    /// From now on it answers calls of this method by itself again.
    pub(crate) fn automatic(&self, method: &str) {
        self.shared.lock().manual.remove(method);
    }

    /// From now on nothing is answered, not even a ping; what comes is still read.
    pub(crate) fn freeze(&self) {
        self.shared.lock().frozen = true;
    }

    /// The next call of a method that the test answers.
    pub(crate) async fn next(&self, method: &str) -> Call {
        let take = |state: &mut State| {
            let at = state.untaken.iter().position(|call| call.method == method)?;
            state.untaken.remove(at)
        };
        self.shared.wait_for(&format!("a call of {method}"), take).await
    }

    /// Waits until a method has been called so many times, answered or not, and returns the params of the last.
    pub(crate) async fn called(&self, method: &str, times: usize) -> Value {
        let find = |state: &mut State| {
            let mut calls = state.calls.iter().filter(|call| call.method == method);
            calls.nth(times - 1).map(|call| call.params.clone())
        };
        self.shared.wait_for(&format!("call {times} of {method}"), find).await
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Received> {
        self.shared.lock().calls.clone()
    }

    /// How often a method has been called.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.calls().iter().filter(|call| call.method == method).count()
    }

    /// The prompts that were sent.
    pub(crate) fn prompts(&self) -> Vec<String> {
        let calls = self.calls().into_iter().filter(|call| call.method == "session.send");
        calls.map(|call| call.params["prompt"].as_str().unwrap().to_owned()).collect()
    }

    /// An event of a session, which is sent when it is awaited.
    pub(crate) fn event(&self, session: &str, kind: &str, data: Value) -> Event<'_> {
        self.raw_event(session, kind, &data.to_string())
    }

    /// The same, with data that is JSON text of the test's own making.
    pub(crate) fn raw_event(&self, session: &str, kind: &str, data: &str) -> Event<'_> {
        Event {
            cli: self,
            session: session.into(),
            kind: kind.into(),
            data: data.into(),
            agent: None,
            ephemeral: false,
        }
    }

    /// Tells something.
    pub(crate) async fn notify(&self, method: &str, params: Value) {
        self.write(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// Tells of a session's life, as every connection is told.
    pub(crate) async fn lifecycle(&self, kind: &str, session: &str) {
        self.notify("session.lifecycle", json!({"type": kind, "sessionId": session})).await;
    }

    /// Asks for something.
    pub(crate) async fn request(&self, id: Value, method: &str, params: Value) {
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    /// What our request was answered.
    pub(crate) async fn answer_to(&self, id: Value) -> Value {
        let find = |state: &mut State| state.answers.iter().find(|answer| answer["id"] == id).cloned();
        self.shared.wait_for(&format!("an answer to {id}"), find).await
    }

    async fn write(&self, message: &Value) {
        self.raw(&frame(&message.to_string())).await;
    }

    /// Writes bytes, whatever they are.
    pub(crate) async fn raw(&self, bytes: &[u8]) {
        let current = self.shared.lock().current.clone().expect("a connection");
        current.write(bytes).await;
    }

    /// Ends the connection, and with it what ran on it.
    pub(crate) async fn disconnect(&self) {
        let current = self.shared.lock().current.clone().expect("a connection");
        self.shared.lost(&current);
        // Not dropped: with unread calls in its buffer, it would take back what was written last.
        let _ = current.writer.lock().await.shutdown().await;
    }

    /// Takes no more connections.
    pub(crate) fn stop_listening(&self) {
        self.listening.abort();
    }

    /// Waits for a connection, counted from 1, to have shaken hands.
    pub(crate) async fn connected(&self, number: u64) {
        let is_open = |state: &mut State| {
            let current = state.current.as_ref()?;
            (current.number >= number && current.is_authenticated()).then_some(())
        };
        self.shared.wait_for(&format!("connection {number}"), is_open).await;
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    /// Unloads a session without a word; it stays on disk.
    pub(crate) fn unload(&self, session: &str) {
        let mut state = self.shared.lock();
        let session = state.sessions.get_mut(session).unwrap();
        *session = Session { stored: session.stored, ..Session::default() };
    }

    /// Has a session, as if somebody else had created it.
    pub(crate) fn has(&self, session: &str, loaded: bool, stored: bool) {
        self.shared.lock().sessions.insert(session.into(), Session { loaded, stored, ..Session::default() });
    }

    /// A message waits in a session's queue.
    pub(crate) fn queue(&self, session: &str, message: &str) {
        self.shared.lock().sessions.get_mut(session).unwrap().queue.push(message.into());
    }

    /// A session is busy, or not any more, without a word.
    pub(crate) fn busy(&self, session: &str, busy: bool) {
        self.shared.lock().sessions.get_mut(session).unwrap().busy = busy;
    }

    /// Does not have a session any more, as if somebody else had deleted it.
    pub(crate) fn forget(&self, session: &str) {
        self.shared.lock().sessions.remove(session).unwrap();
    }

    /// Takes the next prompt, and has the agent begin with it.
    pub(crate) async fn begin(&self) -> Turn<'_> {
        let call = self.next("session.send").await;
        let turn = Turn {
            cli: self,
            session: call.session(),
            prompt: call.params["prompt"].as_str().unwrap().into(),
            id: self.message_id(),
        };
        call.answer(json!({"messageId": turn.id})).await;
        turn.begins().await;
        turn
    }

    /// Plays a whole plain turn, and returns its prompt.
    pub(crate) async fn turn(&self, pieces: &[&str]) -> String {
        let turn = self.begin().await;
        turn.finish(pieces).await;
        turn.prompt
    }

    /// Plays a whole plain turn of a session, from its caller's prompt to its answer.
    pub(crate) async fn turn_of(&self, facade: &TestFacade, session: &str) {
        let (sent, _) = tokio::join!(facade.send(session, "hello"), self.turn(&["hi"]));
        assert_eq!(sent.unwrap().content, "hi");
    }

    fn message_id(&self) -> String {
        let mut state = self.shared.lock();
        state.messages += 1;
        format!("m{}", state.messages)
    }
}

impl Drop for FakeCli {
    fn drop(&mut self) {
        self.listening.abort();
        if let Some(complaint) = self.shared.lock().complaint.take()
            && !std::thread::panicking()
        {
            panic!("{complaint}");
        }
    }
}

/// A turn that the agent is at work on.
pub(crate) struct Turn<'a> {
    cli: &'a FakeCli,
    session: String,
    pub(crate) prompt: String,
    pub(crate) id: String,
}

impl<'a> Turn<'a> {
    pub(crate) fn event(&self, kind: &str, data: Value) -> Event<'a> {
        self.cli.event(&self.session, kind, data)
    }

    /// The beginning; part of [`FakeCli::begin`].
    async fn begins(&self) {
        let mut data = json!({"content": self.prompt, "transformedContent": self.prompt});
        self.refer(&mut data, "messageId");
        self.event("user.message", data).await;
        self.event("assistant.turn_start", json!({"turnId": "0"})).await;
    }

    /// A piece of the answer.
    pub(crate) async fn delta(&self, text: &str) {
        let data = json!({"messageId": format!("a-{}", self.id), "deltaContent": text});
        self.event("assistant.message_delta", data).ephemeral().await;
    }

    /// A whole message.
    pub(crate) fn message(&self, content: &str) -> Event<'a> {
        let mut data = json!({"messageId": format!("a-{}", self.id), "content": content, "model": "fake"});
        self.refer(&mut data, "originatingMessageId");
        self.event("assistant.message", data)
    }

    /// What ends the turn in failure, before its idle.
    pub(crate) fn error(&self, error_type: &str, message: &str) -> Event<'a> {
        let mut data = json!({"errorType": error_type, "message": message});
        self.refer(&mut data, "originatingMessageId");
        self.event("session.error", data)
    }

    pub(crate) async fn idle(&self) {
        self.event("session.idle", json!({})).ephemeral().await;
    }

    /// An answer in pieces, and all that follows it.
    pub(crate) async fn finish(&self, pieces: &[&str]) {
        for piece in pieces {
            self.delta(piece).await;
        }
        self.message(&pieces.concat()).await;
        let usage = json!({
            "model": "fake", "inputTokens": 3, "outputTokens": 2, "duration": 7,
            "copilotUsage": {"totalNanoAiu": 0, "tokenDetails": []},
        });
        self.event("assistant.usage", usage).ephemeral().await;
        self.event("assistant.turn_end", json!({"turnId": "0"})).await;
        self.event("assistant.idle", json!({})).ephemeral().await;
        self.idle().await;
    }

    fn refer(&self, data: &mut Value, key: &str) {
        if self.cli.shared.options.message_ids {
            data[key] = self.id.as_str().into();
        }
    }
}

/// An event on its way: await it to send it.
#[must_use = "it is sent when it is awaited"]
pub(crate) struct Event<'a> {
    cli: &'a FakeCli,
    session: String,
    kind: String,
    data: String,
    agent: Option<String>,
    ephemeral: bool,
}

impl Event<'_> {
    /// It happens in a sub-agent.
    pub(crate) fn agent(mut self, agent: &str) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// It is not stored.
    pub(crate) fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }

    /// Its frame, for those that are written many at a time.
    pub(crate) fn frame(self) -> Vec<u8> {
        let id = self.cli.shared.event_id();
        let mut state = self.cli.shared.lock();
        let session = state.sessions.entry(self.session.clone()).or_default();
        match self.kind.as_str() {
            "user.message" => session.stored = true,
            "session.idle" => session.busy = false,
            "session.shutdown" => session.loaded = false,
            _ => {}
        }
        // By hand: in the CLI's order of members, which serde_json's maps would not keep, and with data as it is.
        let quoted = |text: &str| Value::from(text).to_string();
        let mut event = format!(r#"{{"type":{},"data":{}"#, quoted(&self.kind), self.data);
        event += &format!(r#","id":"{id}","timestamp":"2026-11-23T14:30:00.000Z""#);
        if self.ephemeral {
            event += r#","ephemeral":true"#;
        }
        if let Some(agent) = &self.agent {
            event += &format!(r#","agentId":{}"#, quoted(agent));
        }
        let params = format!(r#"{{"sessionId":{},"event":{event}}}}}"#, quoted(&self.session));
        frame(&format!(r#"{{"jsonrpc":"2.0","method":"session.event","params":{params}}}"#))
    }
}

impl<'a> IntoFuture for Event<'a> {
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let cli = self.cli;
        Box::pin(async move { cli.raw(&self.frame()).await })
    }
}

/// A call that waits for an answer.
pub(crate) struct Call {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    pub(crate) id: Value,
    method: String,
    pub(crate) params: Value,
}

impl Call {
    /// Answers. It does not check what: a method's answer means what it says.
    pub(crate) async fn answer(&self, result: Value) {
        {
            let mut state = self.shared.lock();
            let session = state.sessions.entry(self.session()).or_default();
            match self.method.as_str() {
                "session.create" | "session.resume" => session.loaded = true,
                "session.send" => session.busy = true,
                _ => {}
            }
        }
        self.write(json!({"jsonrpc": "2.0", "id": self.id, "result": result})).await;
    }

    /// Refuses, in the CLI's words if the code is its usual one.
    pub(crate) async fn refuse(&self, code: i64, reason: &str) {
        let message = match code {
            -32603 => format!("Request {} failed with message: {reason}", self.method),
            _ => reason.to_owned(),
        };
        self.write(json!({"jsonrpc": "2.0", "id": self.id, "error": {"code": code, "message": message}}))
            .await;
    }

    /// Answers as the CLI does. Boxed, because the answer to a call may be a large future.
    pub(crate) fn answer_as_usual(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.usual_answer())
    }

    async fn write(&self, message: Value) {
        self.connection.write(&frame(&message.to_string())).await;
    }

    fn session(&self) -> String {
        self.params["sessionId"].as_str().unwrap_or_default().into()
    }

    /// Whether it is only asked if there is such a method.
    fn is_probe(&self) -> bool {
        self.session().starts_with("probe-")
    }

    async fn usual_answer(&self) {
        let options = &self.shared.options;
        let session = self.session();
        let (loaded, stored, busy) = {
            let state = self.shared.lock();
            let session = state.sessions.get(&session);
            session.map_or((false, false, false), |session| (session.loaded, session.stored, session.busy))
        };
        let not_found = format!("Session not found for sessionId: {session}");
        let created = json!({
            "sessionId": session, "nativeSessionId": session, "startTime": "2026-11-23T14:28:56.393Z",
            "isRemote": false, "mode": "interactive", "workspacePath": format!("/home/session-state/{session}"),
        });
        match self.method.as_str() {
            method if options.lacks.contains(&method) => {
                self.refuse(-32601, &format!("Unhandled method {method}")).await;
            }
            _ if self.is_probe() => self.refuse(-32603, &not_found).await,
            "status.get" => {
                self.answer(json!({"version": options.version, "protocolVersion": options.protocol})).await;
            }
            "connect" => self.connect().await,
            _ if !self.connection.is_authenticated() => self.refuse(-32001, "AUTHENTICATION_REQUIRED").await,
            "ping" => {
                let now = "2026-11-23T14:28:56.393Z";
                let pong = json!({"message": "pong", "timestamp": now, "protocolVersion": options.protocol});
                self.answer(pong).await;
            }
            "session.create" => {
                // Ahead of the answer, as the CLI may have it.
                self.lifecycle("session.created").await;
                self.tell("session.start", json!({"sessionId": session, "context": {"cwd": "/work"}})).await;
                self.answer(created).await;
            }
            "session.resume" if loaded || stored => {
                self.tell("session.resume", json!({"eventCount": 1})).await;
                self.answer(created).await;
            }
            "session.resume" => {
                let reason = format!("Failed to load session events: Session not found: {session}");
                self.refuse(-32603, &reason).await;
            }
            "session.options.update" if loaded => self.answer(json!({"success": true})).await,
            "session.getMetadata" if stored => self.answer(json!({"session": entry(&session)})).await,
            "session.getMetadata" => self.answer(json!({})).await,
            "session.metadata.isProcessing" if loaded => self.answer(json!({"processing": busy})).await,
            "session.metadata.snapshot" if loaded => {
                self.answer(json!({"sessionId": session, "startTime": "2026-11-23T14:28:56.393Z"})).await;
            }
            "session.queue.pendingItems" if loaded => {
                let queue = self.shared.lock().sessions[&session].queue.clone();
                let items: Vec<_> =
                    queue.iter().map(|id| json!({"id": format!("item-{id}"), "messageId": id})).collect();
                self.answer(json!({"items": items, "steeringMessages": []})).await;
            }
            "session.queue.removeAt" if loaded => {
                let removed = {
                    let mut state = self.shared.lock();
                    let queue = &mut state.sessions.get_mut(&session).unwrap().queue;
                    let before = queue.len();
                    queue.retain(|id| self.params["id"] != format!("item-{id}"));
                    queue.len() < before
                };
                self.answer(json!({"removed": removed})).await;
            }
            "session.history.abortManualCompaction" if loaded => self.answer(json!({"aborted": false})).await,
            "session.history.listRewindPoints" if loaded => {
                self.answer(json!({"fileChangeTrackingEnabled": true, "points": []})).await;
            }
            "session.history.previewRewind" if loaded => {
                self.answer(json!({"available": true, "fileCount": 0, "files": []})).await;
            }
            "session.history.rewind" if loaded => {
                let done = json!({"outcome": "success", "eventsRemoved": 0, "restoredFiles": [], "skippedFiles": []});
                self.answer(done).await;
            }
            "session.list" => {
                let listed = |state: &State| -> Vec<_> {
                    let stored = state.sessions.iter().filter(|(_, session)| session.stored);
                    stored.map(|(id, _)| entry(id)).collect()
                };
                let sessions = listed(&self.shared.lock());
                self.answer(json!({"sessions": sessions})).await;
            }
            "session.delete" if loaded || stored => {
                self.shared.lock().sessions.remove(&session);
                self.lifecycle("session.deleted").await;
                self.write(json!({"jsonrpc": "2.0", "id": self.id, "result": {"success": true}})).await;
            }
            "session.delete" => {
                let error = format!("Session file not found for {session}");
                self.answer(json!({"success": false, "error": error})).await;
            }
            "session.abort" if loaded => {
                if busy {
                    self.shared.lock().sessions.entry(session).or_default().busy = false;
                    self.tell("abort", json!({"reason": "user_initiated"})).await;
                    self.tell("session.idle", json!({"aborted": true})).await;
                }
                self.answer(json!({"success": true})).await;
            }
            "session.detach" => {
                if let Some(session) = self.shared.lock().sessions.get_mut(&session) {
                    session.loaded = false;
                }
                self.answer(json!({"success": true})).await;
            }
            "session.permissions.handlePendingPermissionRequest" if loaded => {
                self.answer(json!({"success": true})).await;
            }
            "session.options.update"
            | "session.metadata.isProcessing"
            | "session.metadata.snapshot"
            | "session.queue.pendingItems"
            | "session.queue.removeAt"
            | "session.history.abortManualCompaction"
            | "session.history.listRewindPoints"
            | "session.history.previewRewind"
            | "session.history.rewind"
            | "session.abort"
            | "session.send"
            | "session.permissions.handlePendingPermissionRequest" => self.refuse(-32603, &not_found).await,
            method => self.refuse(-32601, &format!("Unhandled method {method}")).await,
        }
    }

    async fn connect(&self) {
        let options = &self.shared.options;
        match (options.token, self.params["token"].as_str()) {
            (None, Some(_)) => return self.refuse(-32003, "AUTHENTICATION_NOT_CONFIGURED").await,
            (Some(wanted), given) if given != Some(wanted) => {
                return self.refuse(-32002, "AUTHENTICATION_FAILED").await;
            }
            _ => {}
        }
        *self.connection.authenticated.lock().unwrap() = true;
        self.answer(json!({"ok": true, "protocolVersion": options.protocol, "version": options.version}))
            .await;
        self.shared.changed.notify_waiters();
    }

    async fn lifecycle(&self, kind: &str) {
        let params = json!({"type": kind, "sessionId": self.session()});
        self.write(json!({"jsonrpc": "2.0", "method": "session.lifecycle", "params": params})).await;
    }

    async fn tell(&self, kind: &str, data: Value) {
        let id = self.shared.event_id();
        let event = json!({"type": kind, "data": data, "id": id, "timestamp": "2026-11-23T14:29:00.000Z"});
        let params = json!({"sessionId": self.session(), "event": event});
        self.write(json!({"jsonrpc": "2.0", "method": "session.event", "params": params})).await;
    }
}

/// A session as the CLI lists it.
fn entry(session: &str) -> Value {
    json!({
        "sessionId": session, "clientName": "copilot-grpc", "isRemote": false,
        "startTime": "2026-11-23T14:28:56.393Z", "modifiedTime": "2026-11-23T14:30:00.000Z",
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event_id(&self) -> String {
        let mut state = self.lock();
        state.events += 1;
        format!("e{}", state.events)
    }

    /// Waits until `look` finds something.
    async fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // Before looking, so that no change falls between the look and the wait.
                changed.as_mut().enable();
                {
                    let mut state = self.lock();
                    if let Some(complaint) = state.complaint.take() {
                        panic!("{complaint}");
                    }
                    if let Some(found) = look(&mut state) {
                        return found;
                    }
                }
                changed.await;
            }
        })
        .await
    }

    async fn listen(self: Arc<Self>, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let (reader, connection) = self.accept(socket);
            tokio::spawn(self.clone().serve(connection, reader));
        }
    }

    fn accept(&self, socket: TcpStream) -> (OwnedReadHalf, Arc<Connection>) {
        socket.set_nodelay(true).unwrap();
        let (reader, writer) = socket.into_split();
        let mut state = self.lock();
        state.connections += 1;
        let connection = Arc::new(Connection {
            number: state.connections,
            writer: tokio::sync::Mutex::new(writer),
            authenticated: Mutex::new(false),
        });
        state.current = Some(connection.clone());
        (reader, connection)
    }

    async fn serve(self: Arc<Self>, connection: Arc<Connection>, reader: OwnedReadHalf) {
        let mut incoming = Incoming { reader, buffer: Vec::new(), ids: HashSet::new() };
        let complaint = loop {
            match incoming.next().await {
                Ok(Some(message)) => self.hear(&connection, message).await,
                Ok(None) => break None,
                Err(complaint) => break Some(complaint),
            }
        };
        if let Some(complaint) = complaint {
            self.lock().complaint.get_or_insert(format!("the facade broke the protocol: {complaint}"));
        }
        self.lost(&connection);
    }

    async fn hear(self: &Arc<Self>, connection: &Arc<Connection>, mut message: Value) {
        let Some(method) = message["method"].as_str().map(str::to_owned) else {
            self.lock().answers.push(message);
            return self.changed.notify_waiters();
        };
        let (id, params) = (message["id"].take(), message["params"].take());
        let call = Call { shared: self.clone(), connection: connection.clone(), id, method, params };
        if call.is_probe() {
            return call.answer_as_usual().await;
        }
        let usual = {
            let mut state = self.lock();
            state.calls.push(Received { method: call.method.clone(), params: call.params.clone() });
            // What is not loaded cannot be sent to, whoever plays the agent.
            let is_loaded = state.sessions.get(&call.session()).is_some_and(|session| session.loaded);
            let is_manual =
                state.manual.contains(&call.method) && (call.method != "session.send" || is_loaded);
            match state.frozen || is_manual {
                true => {
                    state.untaken.push_back(call);
                    None
                }
                false => Some(call),
            }
        };
        self.changed.notify_waiters();
        if let Some(call) = usual {
            call.answer_as_usual().await;
        }
    }

    /// The CLI unloads a session when its last connection drops.
    fn lost(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|current| current.number == connection.number) {
            state.current = None;
            state.untaken.clear();
            state.sessions.retain(|_, session| session.stored);
            for session in state.sessions.values_mut() {
                *session = Session { stored: true, ..Session::default() };
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Connection {
    fn is_authenticated(&self) -> bool {
        *self.authenticated.lock().unwrap()
    }

    /// Writes, if the facade is still there to read.
    async fn write(&self, bytes: &[u8]) {
        let _ = self.writer.lock().await.write_all(bytes).await;
    }
}

/// A frame, as the CLI writes it.
pub(crate) fn frame(body: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What the facade writes, read strictly.
struct Incoming {
    reader: OwnedReadHalf,
    buffer: Vec<u8>,
    ids: HashSet<u64>,
}

impl Incoming {
    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<Value>, String> {
        loop {
            if let Some(body) = self.body()? {
                return self.judge(&body).map(Some);
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err("it left half a frame behind".into()),
                Ok(_) => {}
                // It may close with something of ours unread.
                Err(_) => return Ok(None),
            }
        }
    }

    fn body(&mut self) -> Result<Option<Vec<u8>>, String> {
        const END: &[u8] = b"\r\n\r\n";
        let Some(header) = self.buffer.windows(END.len()).position(|bytes| bytes == END) else {
            return if self.buffer.len() > 100 { Err("no header ends".into()) } else { Ok(None) };
        };
        let text = String::from_utf8_lossy(&self.buffer[..header]).into_owned();
        let length: usize = text
            .strip_prefix("Content-Length: ")
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("a header that is not Content-Length alone: {text:?}"))?;
        let start = header + END.len();
        if self.buffer.len() < start + length {
            return Ok(None);
        }
        let body = self.buffer[start..start + length].to_vec();
        self.buffer.drain(..start + length);
        Ok(Some(body))
    }

    fn judge(&mut self, body: &[u8]) -> Result<Value, String> {
        let shown = String::from_utf8_lossy(body);
        let message: Value = serde_json::from_slice(body).map_err(|error| format!("{error} in {shown}"))?;
        if message["jsonrpc"] != "2.0" {
            return Err(format!("not JSON-RPC 2.0: {shown}"));
        }
        if message.get("method").is_none() {
            let outcomes = ["result", "error"].iter().filter(|key| message.get(key).is_some()).count();
            return if outcomes == 1 { Ok(message) } else { Err(format!("no single outcome: {shown}")) };
        }
        let id = message["id"].as_u64().ok_or_else(|| format!("a call without an id: {shown}"))?;
        if !message["method"].is_string() || !message["params"].is_object() {
            return Err(format!("a call without method or params: {shown}"));
        }
        if !self.ids.insert(id) {
            return Err(format!("an id for the second time: {shown}"));
        }
        Ok(message)
    }
}
