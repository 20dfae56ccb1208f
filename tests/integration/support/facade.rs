//! The facade, in this process, in front of a CLI of the test's choice, and clients of it.

use std::{collections::HashMap, ffi::OsString, io, path::Path, sync::Arc, time::Duration};

use copilot_grpc::{
    app::{
        Facade,
        command::{Command, parse},
        config::CliAddress,
        look_up,
        settings::Environment,
    },
    backend::{Names, pool::addresses::Addresses},
    grpc::pb::{
        AbortTurnRequest, AskAnswer, CreateSessionRequest, GetSessionRequest, PermissionAnswer,
        PermissionDecision, PermissionEffect, PermissionPolicy, PermissionRule, Prompt, RespondRequest,
        SendAndStreamRequest, SendAndStreamResponse, SendAndWaitRequest, Session, SessionEvent, TurnResult,
        WatchSessionRequest, WatchSessionResponse, ask_answer::Answer,
        copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload, session_event,
        watch_session_response,
    },
    store::{Facts, Time},
};
use tonic::{Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{soon, state::State};

/// The facade under test.
pub(crate) struct TestFacade {
    pub(crate) facade: Facade,
    channel: Channel,
    /// Kept while it runs.
    _state: Arc<State>,
}

/// Where a CLI is, and how the facade is configured for it.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) cli_url: String,
    /// Flags, such as `--turn-timeout=1s`.
    pub(crate) flags: Vec<String>,
    /// The environment: nothing of the machine's gets in.
    pub(crate) variables: HashMap<String, String>,
    /// Where it keeps what it has.
    pub(crate) state: Arc<State>,
}

impl Setup {
    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Beside others that are started so in front of the same CLI: with a state directory of its own, and the sessions of all of them
    /// in a database that they share.
    pub(crate) fn beside(mut self) -> Self {
        self.state = Arc::new(self.state.beside());
        self
    }

    /// Starts the facade, and waits until it is well.
    pub(crate) async fn start(self) -> TestFacade {
        let facade = self.start_unready().await;
        facade.serving("").await;
        facade
    }

    /// Starts the facade.
    pub(crate) async fn start_unready(self) -> TestFacade {
        self.start_where(|address| look_up(&Names::default(), address)).await
    }

    /// The same, where names lead to what the test says.
    pub(crate) async fn start_where(mut self, look_up: impl Fn(&CliAddress) -> Addresses) -> TestFacade {
        // Most tests have folders of their own, and other things to show.
        self.variables.entry("COPILOT_GRPC_ROOTS".into()).or_insert_with(|| "/".into());
        let state = self.state;
        let args = ["copilot-grpc", "--listen=127.0.0.1:0", "--cli-url", &self.cli_url];
        let args = args.into_iter().map(OsString::from).chain(state.flags().await);
        let args = args.chain(self.flags.iter().map(OsString::from));
        let config = match parse(args, &TestEnvironment(self.variables)) {
            Ok(Command::Serve(config)) => *config,
            other => panic!("{other:?}"),
        };
        let guard = env!("CARGO_BIN_EXE_copilot-grpc").into();
        let facade = Facade::start_with(config, guard, look_up).await.unwrap();
        let url = format!("http://{}", facade.address());
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        TestFacade { facade, channel, _state: state }
    }
}

struct TestEnvironment(HashMap<String, String>);

impl Environment for TestEnvironment {
    fn var(&self, name: &str) -> Option<OsString> {
        self.0.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

impl TestFacade {
    pub(crate) fn client(&self) -> CopilotServiceClient<Channel> {
        CopilotServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Ends it, as an operator does who does not wait: another can start on what it has left.
    pub(crate) async fn stop(self) {
        soon("the end of a facade", self.facade.stop(Duration::ZERO)).await;
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> CopilotServiceClient<Channel> {
        let url = format!("http://{}", self.facade.address());
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        CopilotServiceClient::new(channel).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until a service is well.
    pub(crate) async fn serving(&self, service: &str) {
        self.health_becomes(service, ServingStatus::Serving).await;
    }

    /// Waits, by Watch, until a service has this health.
    pub(crate) async fn health_becomes(&self, service: &str, expected: ServingStatus) {
        let request = HealthCheckRequest { service: service.into() };
        let mut watch = HealthClient::new(self.channel.clone()).watch(request).await.unwrap().into_inner();
        soon(&format!("health {expected:?}"), async {
            while watch.message().await.unwrap().unwrap().status() != expected {}
        })
        .await;
    }

    /// Creates a session with the defaults.
    pub(crate) async fn create(&self, id: &str) -> Session {
        let request = CreateSessionRequest { session_id: id.into(), ..Default::default() };
        self.client().create_session(request).await.unwrap().into_inner().session.unwrap()
    }

    /// What the server says of a session.
    pub(crate) async fn get(&self, id: &str) -> Result<Session, Status> {
        let request = GetSessionRequest { session_id: id.into() };
        Ok(self.client().get_session(request).await?.into_inner().session.unwrap())
    }

    pub(crate) async fn send(&self, id: &str, prompt: &str) -> Result<TurnResult, Status> {
        self.send_and_wait(wait(id, prompt)).await
    }

    pub(crate) async fn send_and_wait(
        &self,
        request: impl tonic::IntoRequest<SendAndWaitRequest>,
    ) -> Result<TurnResult, Status> {
        Ok(self.client().send_and_wait(request).await?.into_inner().result.unwrap())
    }

    pub(crate) async fn stream(
        &self,
        id: &str,
        prompt: &str,
    ) -> Result<Streaming<SendAndStreamResponse>, Status> {
        self.send_and_stream(stream(id, prompt)).await
    }

    pub(crate) async fn send_and_stream(
        &self,
        request: impl tonic::IntoRequest<SendAndStreamRequest>,
    ) -> Result<Streaming<SendAndStreamResponse>, Status> {
        Ok(self.client().send_and_stream(request).await?.into_inner())
    }

    /// Opens a watcher of a session.
    pub(crate) async fn watch(&self, request: WatchSessionRequest) -> Result<Watcher, Status> {
        Ok(Watcher(self.client().watch_session(request).await?.into_inner()))
    }

    /// Answers an ask, from a connection of its own.
    pub(crate) async fn respond(&self, id: &str, ask_id: &str, answer: Answer) -> Result<(), Status> {
        let answer = Some(AskAnswer { answer: Some(answer) });
        let request = RespondRequest { session_id: id.into(), ask_id: ask_id.into(), answer };
        self.connect().await.respond(request).await.map(|_| ())
    }

    /// Has a session in its store, as if it had been made before, in the CLI of this place. Gives it this owner.
    pub(crate) async fn has(&self, id: &str, place: &str, owner: &str) {
        let facts = Facts {
            cli_id: id.into(),
            settings: "{}".into(),
            has_message: true,
            home: place.into(),
            owner: owner.into(),
            ..Facts::default()
        };
        self.facade.sessions().store().create("", id, &facts, Time::now()).await.unwrap();
    }

    /// Waits until nothing runs or waits in any session.
    pub(crate) async fn at_rest(&self) {
        super::until("all turns at rest", || self.facade.sessions().load().turns == 0).await;
    }
}

/// A prompt that is nothing but its text.
pub(crate) fn prompt(text: &str) -> Prompt {
    Prompt { text: text.into(), ..Default::default() }
}

/// A request to send a text and wait.
pub(crate) fn wait(id: &str, text: &str) -> SendAndWaitRequest {
    wait_with(id, prompt(text))
}

/// A request to send a prompt and wait.
pub(crate) fn wait_with(id: &str, prompt: Prompt) -> SendAndWaitRequest {
    SendAndWaitRequest { session_id: id.into(), prompt: Some(prompt) }
}

/// A request to send a text and hear of its turn.
pub(crate) fn stream(id: &str, text: &str) -> SendAndStreamRequest {
    stream_with(id, prompt(text))
}

/// A request to send a prompt and hear of its turn.
pub(crate) fn stream_with(id: &str, prompt: Prompt) -> SendAndStreamRequest {
    SendAndStreamRequest { session_id: id.into(), prompt: Some(prompt), ..Default::default() }
}

/// A request to watch a session from now on.
pub(crate) fn watching(id: &str) -> WatchSessionRequest {
    WatchSessionRequest { session_id: id.into(), ..Default::default() }
}

/// A policy that has one effect on everything, whatever it is.
pub(crate) fn on_everything(effect: PermissionEffect) -> Option<PermissionPolicy> {
    let rule = PermissionRule { kind: "*".into(), effect: effect.into(), ..Default::default() };
    Some(PermissionPolicy { rules: vec![rule] })
}

/// A request to stop what runs in a session.
pub(crate) fn abort(id: &str) -> AbortTurnRequest {
    AbortTurnRequest { session_id: id.into(), ..Default::default() }
}

/// A request with a gRPC deadline.
pub(crate) fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Permission to do what was asked for, or not.
pub(crate) fn decide(decision: PermissionDecision) -> Answer {
    Answer::Permission(PermissionAnswer { decision: decision.into(), ..Default::default() })
}

/// A watcher of a session.
pub(crate) struct Watcher(Streaming<WatchSessionResponse>);

impl Watcher {
    /// The next event.
    pub(crate) async fn event(&mut self) -> Result<SessionEvent, Status> {
        soon("an event", event(&mut self.0)).await
    }

    /// The next event that `look` finds something in, which is returned.
    pub(crate) async fn find<T>(&mut self, look: impl Fn(&session_event::Payload) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.event().await.unwrap().payload.unwrap()) {
                return found;
            }
        }
    }

    /// The id of the next ask that waits for an answer.
    pub(crate) async fn ask(&mut self) -> String {
        self.find(ask_id).await
    }
}

/// The next event of what a session's watcher hears.
pub(crate) async fn event(stream: &mut Streaming<WatchSessionResponse>) -> Result<SessionEvent, Status> {
    loop {
        let message = stream.message().await?.expect("the stream goes on");
        match message.payload.unwrap() {
            watch_session_response::Payload::Event(event) => return Ok(event),
            watch_session_response::Payload::Heartbeat(_) => {}
        }
    }
}

/// The id of an ask that waits for an answer.
pub(crate) fn ask_id(event: &session_event::Payload) -> Option<String> {
    use session_event::Payload;
    match event {
        Payload::PermissionAsked(ask) => ask.awaits_answer.then(|| ask.ask_id.clone()),
        Payload::ToolCallAsked(ask) => Some(ask.ask_id.clone()),
        Payload::UserInputAsked(ask) => Some(ask.ask_id.clone()),
        Payload::ElicitationAsked(ask) => Some(ask.ask_id.clone()),
        Payload::ExitPlanAsked(ask) => Some(ask.ask_id.clone()),
        _ => None,
    }
}

/// All that a stream gave: its events, and how it ended.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) events: Vec<SessionEvent>,
    pub(crate) end: Result<TurnResult, Status>,
}

impl Streamed {
    /// Reads a stream to its end.
    pub(crate) async fn read(stream: Streaming<SendAndStreamResponse>) -> Self {
        Self::read_pausing(stream, async || {}).await
    }

    /// The same, with a pause before each message.
    pub(crate) async fn read_pausing(
        mut stream: Streaming<SendAndStreamResponse>,
        mut pause: impl AsyncFnMut(),
    ) -> Self {
        let mut events = Vec::new();
        loop {
            pause().await;
            match stream.message().await {
                Ok(Some(message)) => match message.payload.unwrap() {
                    Payload::Event(event) => events.push(event),
                    Payload::Heartbeat(_) => {}
                    Payload::Result(result) => {
                        assert_eq!(stream.message().await.unwrap(), None, "something came after the result");
                        return Self { events, end: Ok(result) };
                    }
                },
                Ok(None) => panic!("the stream ended without a result or an error"),
                Err(status) => return Self { events, end: Err(status) },
            }
        }
    }

    /// Puts messages before the others that were read earlier.
    pub(crate) fn prepend(&mut self, messages: Vec<SendAndStreamResponse>) {
        let events = messages.into_iter().filter_map(|message| match message.payload.unwrap() {
            Payload::Event(event) => Some(event),
            Payload::Heartbeat(_) => None,
            Payload::Result(result) => panic!("the turn had ended: {result:?}"),
        });
        self.events.splice(0..0, events);
    }

    /// The text of the main agent's deltas.
    pub(crate) fn text(&self) -> String {
        let deltas = self.events.iter().filter(|event| event.agent_id.is_empty()).filter_map(|event| {
            match event.payload.as_ref()? {
                session_event::Payload::AssistantMessageDelta(delta) => Some(delta.text.as_str()),
                _ => None,
            }
        });
        deltas.collect()
    }
}
