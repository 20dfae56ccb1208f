//! What outlives a server: its state directory, its store, and the model; and the server that is started on them, again and again.

use std::{
    fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration,
};

use copilot_grpc::grpc::pb::{
    Backend, BackendState, CreateSessionRequest, GetServerInfoRequest, GetSessionRequest, ListEventsRequest,
    ListSessionsRequest, Prompt, SendAndWaitRequest, Session, TurnResult,
    copilot_service_client::CopilotServiceClient, session_event::Payload,
};
use rustix::process::{Pid, Signal, kill_process};
use scripted_model::{ModelServer, Reply, Request};
use sqlx::{Connection as _, PgConnection};
use test_postgres::{Options, Postgres};
use tokio::{task::spawn_blocking, time::sleep};
use tonic::{Status, transport::Channel};

use crate::support::{
    real_cli,
    server::{self, Server},
    soon,
    state::State,
    until,
};

pub(crate) type Client = CopilotServiceClient<Channel>;

/// Where sessions live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// How many CLIs a server has.
pub(crate) const CLIS: usize = 3;

/// What outlives a server.
pub(crate) struct Installation {
    pub(crate) engine: Engine,
    pub(crate) model: ModelServer,
    state: Arc<State>,
    flags: Vec<String>,
    /// Whether its CLIs are started by a program of the test's own; then the server takes any for the Node CLI.
    can_keep_down: bool,
    /// If it is not the one that all tests share.
    postgres: Option<Arc<Postgres>>,
}

impl Installation {
    pub(crate) async fn new(
        engine: Engine,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(State::without_database());
        let model = ModelServer::start(script).await.unwrap();
        let flags = vec![format!("--embedded-clis={CLIS}")];
        let installation = Self { engine, model, state, flags, can_keep_down: true, postgres: None };
        installation.make_cli();
        match engine {
            Engine::Sqlite => installation,
            Engine::Postgres => {
                let postgres = spawn_blocking(test_postgres::shared).await.unwrap();
                installation.flag(format!("--store-url={}", postgres.database().await))
            }
        }
    }

    /// The same on a PostgreSQL whose clock is fast by so many hours.
    pub(crate) async fn beside_a_fast_clock(
        hours: i8,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let postgres = spawn_blocking(test_postgres::shared).await.unwrap();
        let url = postgres.fast_database(hours).await;
        let installation = Self::new(Engine::Sqlite, script).await.flag(format!("--store-url={url}"));
        Self { engine: Engine::Postgres, ..installation }
    }

    /// The same with a PostgreSQL of its own, which may go away.
    pub(crate) async fn with_own_store(
        engine: Engine,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut installation = Self::new(Engine::Sqlite, script).await;
        if engine == Engine::Postgres {
            let postgres = Arc::new(spawn_blocking(|| Postgres::start(Options::Fast)).await.unwrap());
            let url = postgres.database().await;
            (installation.engine, installation.postgres) = (engine, Some(postgres));
            installation = installation.flag(format!("--store-url={url}"));
        }
        installation
    }

    /// Another flag of the servers that are started from now on.
    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// With the CLI itself, which nothing keeps down.
    pub(crate) fn with_plain_clis(self) -> Self {
        Self { can_keep_down: false, ..self }
    }

    /// Starts a server on what is there, and waits until all its CLIs are ready.
    pub(crate) async fn start(&self) -> Server {
        self.start_before(&self.model).await
    }

    /// The same, before another model.
    pub(crate) async fn start_before(&self, model: &ModelServer) -> Server {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let server = Server::start_on_unready(self.state.clone(), model, &self.cli(), &flags).await;
        let mut client = server.client().await;
        all_ready(&mut client).await;
        server
    }

    /// Starts a server that is to refuse to run, and gives what it says.
    pub(crate) async fn fail_to_start(&self) -> (ExitStatus, String) {
        let state = self.state.dir();
        let mut program = server::program(state.to_str().unwrap(), &self.cli());
        let output = program.args(["--listen=127.0.0.1:0"]).args(&self.flags).output();
        let output = soon("the end of a server", output).await.unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// Ends a server with SIGKILL, and removes all that it had on its disk, when its CLIs have ended, which write there.
    pub(crate) async fn lose_disk_of(&self, server: Server) {
        let clis = server.clis();
        server.stop(Signal::KILL).await;
        // One that nobody has waited for has no command line any more.
        let has_ended =
            |cli: &Pid| fs::read(format!("/proc/{cli}/cmdline")).map_or(true, |line| line.is_empty());
        until("the end of the CLIs", || clis.iter().all(has_ended)).await;
        self.wipe();
    }

    /// Removes all that a server has left on its disk.
    pub(crate) fn wipe(&self) {
        fs::remove_dir_all(self.state.dir()).unwrap();
    }

    /// How many bytes the archive has of a session.
    pub(crate) async fn archived(&self, id: &str) -> i64 {
        let url = self.flags.iter().find_map(|flag| flag.strip_prefix("--store-url=")).unwrap();
        let mut store = PgConnection::connect(url).await.unwrap();
        let sum = "SELECT coalesce(sum(length(data)), 0) FROM chunks JOIN sessions USING (uid) WHERE id = $1";
        sqlx::query_scalar(sum).bind(id).fetch_one(&mut store).await.unwrap()
    }

    /// From now on a CLI that has ended cannot be started again.
    pub(crate) fn keep_down(&self) {
        fs::write(self.obstacle(), "").unwrap();
    }

    /// From now on it can.
    pub(crate) fn let_up(&self) {
        fs::remove_file(self.obstacle()).unwrap();
    }

    /// A file of the installation's own.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.state.outer().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// All files below the state directory whose bytes have this text.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut folders, mut found) = (vec![self.state.dir()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file()
                    && fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
                {
                    found.push(path);
                }
            }
        }
        found
    }

    /// PostgreSQL goes away, as in a crash.
    pub(crate) async fn stop_store(&self) {
        self.postgres(|postgres| postgres.stop()).await;
    }

    /// It comes back.
    pub(crate) async fn start_store(&self) {
        self.postgres(|postgres| postgres.start_again()).await;
    }

    async fn postgres(&self, act: impl FnOnce(&Postgres) + Send + 'static) {
        let postgres = self.postgres.clone().expect("it has one of its own");
        spawn_blocking(move || act(&postgres)).await.unwrap();
    }

    /// It is away for so long.
    pub(crate) async fn restart_store(&self, pause: Duration) {
        self.stop_store().await;
        sleep(pause).await;
        self.start_store().await;
    }

    fn obstacle(&self) -> PathBuf {
        self.state.outer().join("obstacle")
    }

    fn cli(&self) -> PathBuf {
        match self.can_keep_down {
            true => self.state.outer().join("copilot"),
            false => real_cli::path(),
        }
    }

    /// The real one, which is not started while there is an obstacle.
    fn make_cli(&self) {
        let text = format!(
            "#!/bin/sh\n[ -e '{}' ] && echo 'kept down' >&2 && exit 1\nexec '{}' \"$@\"\n",
            self.obstacle().display(),
            real_cli::path().display()
        );
        fs::write(self.cli(), text).unwrap();
        fs::set_permissions(self.cli(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Shows something on both engines, side by side.
pub(crate) async fn on_both(
    script: impl Fn(&Request) -> Reply + Clone + Send + Sync + 'static,
    show: impl AsyncFn(Installation),
) {
    tokio::join!(async { show(Installation::new(Engine::Sqlite, script.clone()).await).await }, async {
        show(Installation::new(Engine::Postgres, script.clone()).await).await
    },);
}

/// Says which prompts of the conversation it sees, slowly if the last one is `slow`, and never if it is `hang`.
pub(crate) fn script(request: &Request) -> Reply {
    let users = request.messages.iter().filter(|message| message.role == "user");
    let prompts: Vec<_> = users.map(|message| message.content.rsplit('\n').next().unwrap()).collect();
    let reply = Reply::text(format!("prompts: {}", prompts.join(", ")));
    match request.prompt() {
        "hang" => Reply::hang(),
        "slow" => reply.every(Duration::from_millis(200)),
        _ => reply,
    }
}

/// What the server says of its CLIs.
pub(crate) async fn backends(client: &mut Client) -> Vec<Backend> {
    client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().backends
}

/// Waits until every CLI is ready.
pub(crate) async fn all_ready(client: &mut Client) {
    soon("all CLIs", async {
        loop {
            let backends = backends(client).await;
            if backends.iter().all(|backend| backend.state() == BackendState::Ready) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The name of the only CLI that has a session loaded.
pub(crate) async fn loaded_in(client: &mut Client) -> String {
    let backends = backends(client).await;
    let mut loaded = backends.into_iter().filter(|backend| backend.loaded_sessions > 0);
    let found = loaded.next().expect("a session is loaded").name;
    assert!(loaded.next().is_none(), "sessions are loaded in several CLIs");
    found
}

/// Kills a CLI, and waits until the server knows. A prompt that was on its way to it would be cut.
pub(crate) async fn lose(server: &Server, client: &mut Client, name: &str) {
    kill_process(server.pid_of(name), Signal::KILL).unwrap();
    soon("the loss of a CLI", async {
        loop {
            let backends = backends(client).await;
            let lost = backends.into_iter().find(|backend| backend.name == name).unwrap();
            if lost.state() != BackendState::Ready {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) async fn create(client: &mut Client, id: &str) -> Session {
    create_with(client, CreateSessionRequest { session_id: id.into(), ..Default::default() }).await.unwrap()
}

pub(crate) async fn create_with(
    client: &mut Client,
    request: CreateSessionRequest,
) -> Result<Session, Status> {
    Ok(soon("a creation", client.create_session(request)).await?.into_inner().session.unwrap())
}

pub(crate) async fn send(client: &mut Client, id: &str, text: &str) -> Result<TurnResult, Status> {
    send_with(client, id, Prompt { text: text.into(), ..Default::default() }).await
}

/// The same, with the id of a request that may be repeated.
pub(crate) async fn send_named(
    client: &mut Client,
    id: &str,
    request_id: &str,
    text: &str,
) -> Result<TurnResult, Status> {
    send_with(client, id, Prompt { text: text.into(), request_id: request_id.into(), ..Default::default() })
        .await
}

pub(crate) async fn send_with(client: &mut Client, id: &str, prompt: Prompt) -> Result<TurnResult, Status> {
    let request = SendAndWaitRequest { session_id: id.into(), prompt: Some(prompt) };
    Ok(soon("a turn", client.send_and_wait(request)).await?.into_inner().result.unwrap())
}

pub(crate) async fn get(client: &mut Client, id: &str) -> Result<Session, Status> {
    let request = GetSessionRequest { session_id: id.into() };
    Ok(client.get_session(request).await?.into_inner().session.unwrap())
}

/// The ids of all sessions, oldest first.
pub(crate) async fn listed(client: &mut Client) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListSessionsRequest { order_by: "create_time".into(), page_token, ..Default::default() };
        let page = client.list_sessions(request).await.unwrap().into_inner();
        ids.extend(page.sessions.into_iter().map(|session| session.session_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

/// What was said in a session: prompts with a `>` before them, and answers.
pub(crate) async fn history(client: &mut Client, id: &str) -> Result<Vec<String>, Status> {
    let (mut said, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListEventsRequest { session_id: id.into(), page_size: 1000, page_token, ..Default::default() };
        let page = client.list_events(request).await?.into_inner();
        said.extend(page.events.into_iter().filter_map(|event| match event.payload? {
            Payload::UserMessage(message) => Some(format!("> {}", message.content)),
            Payload::AssistantMessage(message) => Some(message.content),
            _ => None,
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(said);
        }
    }
}
