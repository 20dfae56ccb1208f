//! Several servers on one PostgreSQL, each a process with CLIs and a disk of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use copilot_grpc::grpc::pb::{GetServerInfoRequest, Node, NodeState, SessionState};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal};
use scripted_model::{ModelServer, Reply, Request};
use sqlx::{Connection as _, PgConnection};
use test_postgres::{Options, Postgres};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    store::installation::{Client, all_ready, get},
    support::{
        real_cli,
        server::{self, Server},
        soon,
        state::State,
        tls, until,
    },
};

/// The lease of a server: short, so that tests are.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Several servers on one PostgreSQL.
pub(crate) struct Cluster {
    pub(crate) model: ModelServer,
    nodes: Vec<Place>,
    flags: Vec<String>,
    store_url: String,
    postgres: Option<Arc<Postgres>>,
    /// Who the clients are of servers that speak TLS.
    pub(crate) tls: Option<tls::Client>,
}

/// Where a server is, and it, while it runs.
struct Place {
    state: Arc<State>,
    flags: Vec<String>,
    /// Its build.
    program: PathBuf,
    server: Option<Server>,
    /// The CLIs that it has had.
    clis: Vec<Pid>,
}

impl Cluster {
    /// So many servers, which all run.
    pub(crate) async fn start(
        count: usize,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut cluster = Self::new(count, script).await;
        cluster.start_all().await;
        cluster
    }

    /// So many servers, which are not started yet.
    pub(crate) async fn new(
        count: usize,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let postgres = spawn_blocking(test_postgres::shared).await.unwrap();
        let store_url = postgres.database().await;
        Self::on(count, store_url, script).await
    }

    /// The same with a PostgreSQL of their own, which may go away.
    pub(crate) async fn with_own_store(
        count: usize,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let postgres = Arc::new(spawn_blocking(|| Postgres::start(Options::Fast)).await.unwrap());
        let store_url = postgres.database().await;
        Self { postgres: Some(postgres), ..Self::on(count, store_url, script).await }
    }

    async fn on(
        count: usize,
        store_url: String,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let place = |n: usize| Place {
            state: Arc::new(State::without_database()),
            flags: vec![format!("--node-name=node-{n}")],
            program: server::PROGRAM.into(),
            server: None,
            clis: Vec::new(),
        };
        let flags = vec![
            format!("--store-url={store_url}"),
            format!("--lease={}s", LEASE.as_secs()),
            "--embedded-clis=1".into(),
        ];
        let model = ModelServer::start(script).await.unwrap();
        Self { model, nodes: (0..count).map(place).collect(), flags, store_url, postgres: None, tls: None }
    }

    /// Another flag of the servers that are started from now on.
    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The same of one of them.
    pub(crate) fn flag_of(&mut self, node: usize, flag: impl Into<String>) {
        self.nodes[node].flags.push(flag.into());
    }

    /// Another build of one of them.
    pub(crate) fn program_of(&mut self, node: usize, program: impl Into<PathBuf>) {
        self.nodes[node].program = program.into();
    }

    pub(crate) fn store_url(&self) -> &str {
        &self.store_url
    }

    /// Starts all that do not run.
    pub(crate) async fn start_all(&mut self) {
        let stopped: Vec<_> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].server.is_none()).collect();
        let started = join_all(stopped.iter().map(|node| self.started(*node))).await;
        for (node, server) in stopped.into_iter().zip(started) {
            self.nodes[node].server = Some(server);
        }
        self.see_each_other().await;
    }

    /// Starts one that does not run.
    pub(crate) async fn start_one(&mut self, node: usize) {
        let server = self.started(node).await;
        self.nodes[node].server = Some(server);
    }

    async fn started(&self, node: usize) -> Server {
        let place = &self.nodes[node];
        let flags = self.flags_of(place);
        let cli: &Path = &real_cli::path();
        let state = place.state.clone();
        let mut server = Server::start_program_on(&place.program, state, &self.model, cli, &flags).await;
        server.tls = self.tls.clone();
        all_ready(&mut server.client().await).await;
        server
    }

    /// The flags of a server: what is said later counts.
    fn flags_of<'a>(&'a self, place: &'a Place) -> Vec<&'a str> {
        let key = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let all: Vec<_> = self.flags.iter().chain(&place.flags).map(String::as_str).collect();
        let is_last = |at: usize| all[at + 1..].iter().all(|later| key(later) != key(all[at]));
        (0..all.len()).filter(|at| is_last(*at)).map(|at| all[at]).collect()
    }

    /// Starts a server that is to refuse to run, and gives what it says.
    pub(crate) async fn fail_to_start(&self, node: usize) -> (ExitStatus, String) {
        let place = &self.nodes[node];
        let state = place.state.dir();
        let mut program = server::program(state.to_str().unwrap(), &real_cli::path());
        let output = program.args(["--listen=127.0.0.1:0"]).args(self.flags_of(place)).output();
        let output = soon("the end of a server", output).await.unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// What a server says that does not start, with these flags.
    pub(crate) async fn refusal(&self, flags: &[&str]) -> String {
        let state = self.nodes[0].state.dir();
        let mut program = server::program(state.to_str().unwrap(), &real_cli::path());
        let store = format!("--store-url={}", self.store_url);
        let output = program.args(["--listen=127.0.0.1:0", &store]).args(flags).output();
        let output = soon("the end of a server", output).await.unwrap();
        assert!(!output.status.success(), "it runs with {flags:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A file beside a server's state directory.
    pub(crate) fn file_of(&self, node: usize, name: &str, text: &str) -> PathBuf {
        let path = self.nodes[node].state.outer().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Where the servers are that run.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().filter_map(|place| Some(place.server.as_ref()?.url.clone())).collect()
    }

    /// Waits until each knows of the others.
    async fn see_each_other(&self) {
        let running: Vec<_> = (0..self.nodes.len()).filter(|node| self.runs(*node)).collect();
        for node in &running {
            let mut client = self.client(*node).await;
            soon("the nodes see each other", async {
                while nodes_of(&mut client).await.iter().filter(|it| it.state() == NodeState::Serving).count()
                    < running.len()
                {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
    }

    pub(crate) fn runs(&self, node: usize) -> bool {
        self.nodes[node].server.is_some()
    }

    pub(crate) fn server(&self, node: usize) -> &Server {
        self.nodes[node].server.as_ref().expect("it runs")
    }

    pub(crate) async fn client(&self, node: usize) -> Client {
        self.server(node).client().await
    }

    /// Clients of all servers that run.
    pub(crate) async fn clients(&self) -> Vec<Client> {
        let running = self.nodes.iter().filter_map(|place| place.server.as_ref());
        join_all(running.map(Server::client)).await
    }

    /// Ends a server with this signal, and waits for its end.
    pub(crate) async fn stop(&mut self, node: usize, signal: Signal) {
        let server = self.nodes[node].server.take().expect("it runs");
        self.nodes[node].clis = server.clis();
        server.stop(signal).await;
    }

    /// Removes all that a server has left on its disk, when its CLIs have ended, which write there.
    pub(crate) async fn wipe(&self, node: usize) {
        assert!(!self.runs(node));
        // One that nobody has waited for has no command line any more.
        let has_ended =
            |cli: &Pid| fs::read(format!("/proc/{cli}/cmdline")).map_or(true, |line| line.is_empty());
        until("the end of the CLIs", || self.nodes[node].clis.iter().all(has_ended)).await;
        fs::remove_dir_all(self.nodes[node].state.dir()).unwrap();
    }

    /// The server that owns a session.
    pub(crate) async fn owner_of(&self, id: &str) -> usize {
        let name = self.owner_name(id).await;
        name.strip_prefix("node-").unwrap_or_else(|| panic!("{id} is {name:?}'s")).parse().unwrap()
    }

    /// The name of the server that owns a session; empty: none does.
    pub(crate) async fn owner_name(&self, id: &str) -> String {
        let mut store = PgConnection::connect(&self.store_url).await.unwrap();
        let name = sqlx::query_scalar("SELECT node FROM sessions WHERE id = $1").bind(id);
        name.fetch_one(&mut store).await.unwrap()
    }

    /// PostgreSQL goes away, as in a crash, and comes back after a pause.
    pub(crate) async fn restart_store(&self, pause: Duration) {
        self.postgres(|postgres| postgres.stop()).await;
        sleep(pause).await;
        self.postgres(|postgres| postgres.start_again()).await;
    }

    async fn postgres(&self, act: impl FnOnce(&Postgres) + Send + 'static) {
        let postgres = self.postgres.clone().expect("it has one of its own");
        spawn_blocking(move || act(&postgres)).await.unwrap();
    }
}

/// What a server says of those that share the store.
pub(crate) async fn nodes_of(client: &mut Client) -> Vec<Node> {
    client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().nodes
}

/// Waits until a session is in this state.
pub(crate) async fn in_state(client: &mut Client, id: &str, state: SessionState) {
    soon("the state of a session", async {
        while get(client, id).await.unwrap().state() != state {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
