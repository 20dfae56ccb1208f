//! The running service: backends, sessions and server, put together from a configuration and stopped in order.
//!
//! Tests: `tests/integration/serve.rs`, `tests/integration/rolling.rs`.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::{StreamExt as _, future::ready, stream};
use tokio::{
    runtime::Handle,
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    config::{CliAddress, Config, StoreLocation, StoreSettings},
    descriptors,
};
use crate::{
    backend::{
        self, Names, Source, Target, admission,
        pool::addresses::{self, Addresses},
        process::{
            Spec,
            discover::{self, Form, Found, Places},
            private,
        },
    },
    grpc::{Defaults, listen, server},
    session::{Limits, Policy, Roots, Sessions, Storage},
    store::{self, FolderLimits, Store},
};

/// How long the last answers may take to reach their callers after the turns have ended.
const FLUSH: Duration = Duration::from_secs(2);

/// The number of CLIs for which descriptors are kept back for a name: nobody knows how many it will lead to.
const CLIS_OF_A_NAME: usize = 8;

/// Why the service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be opened.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address to listen on.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// There is no CLI to run.
    #[error("{0}")]
    NoCli(#[from] discover::NotFound),
    /// The store does not open.
    #[error("{0}")]
    Store(#[from] store::OpenError),
    /// Another server uses the state directory.
    #[error(
        "cannot use the state directory {}: another copilot-grpc uses it; end that one, or choose another with --state-dir",
        .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}: {problem}", .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The running service.
#[derive(Debug)]
pub struct Facade {
    address: SocketAddr,
    sessions: Sessions,
    draining: CancellationToken,
    closing: CancellationToken,
    /// The time between `draining` and `closing`.
    drain_delay: Duration,
    /// Cancelled to cut the wait for callers short.
    hurried: CancellationToken,
    /// Cancelled when the server has ended by itself.
    failed: CancellationToken,
    server: Mutex<Option<JoinHandle<()>>>,
    /// The lock on the state directory, held as long as the store and the CLIs' homes in it are in use.
    _lock: File,
}

impl Facade {
    /// Starts the service. The CLIs come up in the background; health says when one has. `guard` is the copilot-grpc binary,
    /// whose `guard` subcommand runs embedded CLIs.
    pub async fn start(config: Config, guard: PathBuf) -> Result<Self, StartError> {
        Self::start_with(config, guard, |address| look_up(&Names::default(), address)).await
    }

    /// [`start`](Self::start) with another way of looking names up.
    pub async fn start_with(
        config: Config,
        guard: PathBuf,
        look_up: impl Fn(&CliAddress) -> Addresses,
    ) -> Result<Self, StartError> {
        let lock = lock_soon(&config.state_dir).await?;
        let backends = backends(&config, &guard, look_up)?;
        // Sessions on this server's own disk are nobody else's.
        let alone = backends.fixed.iter().any(|backend| matches!(backend.source, Source::Embedded(_)));
        let storage = storage(&config, alone).await?;
        let roots = Roots::new(config.roots());
        let (address, listener) = listen(config.listen)
            .and_then(|listener| Ok((listener.local_addr()?, listener)))
            .map_err(|error| StartError::Listen { address: config.listen, error })?;
        let clis = backends.fixed.len() + backends.groups.len() * CLIS_OF_A_NAME;
        let limits = Limits {
            max_sessions: config.max_sessions,
            max_queued_turns: config.max_queued_turns,
            max_watchers: config.max_watchers,
            max_reader_memory: config.max_reader_memory,
            turn_timeout: config.turn_timeout,
        };
        let sessions = Sessions::new(
            limits,
            config.provider.clone(),
            config.profiles,
            roots,
            config.secrets,
            storage,
            backends,
        );
        sessions.keep_clean(config.cleanup);
        let setup = server::Setup {
            sessions: sessions.clone(),
            turn_timeout: config.turn_timeout,
            max_message_size: config.max_message_size,
            max_connection_age: config.max_connection_age,
            max_connections: descriptors::for_clients(config.max_connections, clis),
            defaults: Defaults {
                policy: Policy::allowing(&config.allow_permissions),
                ask_timeout: Some(config.ask_timeout),
                model: config.model,
                provider: config.provider,
                available_tools: config.available_tools,
            },
        };
        let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
        let failed = CancellationToken::new();
        let serving = server::serve(listener, setup, draining.clone(), closing.clone());
        let server = tokio::spawn({
            let failed = failed.clone().drop_guard();
            async move {
                let _failed = failed;
                if let Err(error) = serving.await {
                    tracing::error!(error, "serving has failed");
                }
            }
        });
        Ok(Self {
            address,
            sessions,
            draining,
            closing,
            drain_delay: config.drain_delay,
            hurried: CancellationToken::new(),
            failed,
            server: Mutex::new(Some(server)),
            _lock: lock,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Resolves when the server has ended by itself.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Ends the service: health turns to NOT_SERVING, after the drain delay new work is refused, running turns finish within
    /// `grace`, connections are closed, and embedded CLIs are ended with all their children.
    ///
    /// # Cancel safety
    /// The future must be run to its end; dropping it leaves the rest to the end of the process.
    pub async fn stop(&self, grace: Duration) {
        self.draining.cancel();
        // Load balancers that ask for health, and clients that they tell, still send calls for a while. Not a sleep of zero: it
        // would yield, and calls that come in then would be taken.
        if !self.drain_delay.is_zero() {
            self.hurried.run_until_cancelled(sleep(self.drain_delay)).await;
        }
        self.closing.cancel();
        self.sessions.drain(grace).await;
        if let Some(mut server) = self.server.lock().await.take()
            && timeout(FLUSH, &mut server).await.is_err()
        {
            // Streams that never end, such as Health.Watch, keep their connections open.
            server.abort();
        }
        self.sessions.pool().stop().await;
        self.sessions.store().close().await;
    }

    /// Makes a [`stop`](Self::stop) that is under way wait neither for callers nor for running turns any longer.
    pub fn hurry(&self) {
        self.hurried.cancel();
        self.sessions.hurry();
    }
}

/// The CLIs that an address leads to, as they change.
pub fn look_up(names: &Names, address: &CliAddress) -> Addresses {
    match address.clone() {
        CliAddress::One { host, port } => {
            stream::once(ready([Target { host, port, names: None }].into())).boxed()
        }
        CliAddress::Addresses { host, port } => addresses::look_up(names.clone(), host, port),
        CliAddress::Targets { name } => addresses::look_up_targets(names.clone(), name),
    }
}

/// How many turns a CLI can run at once, as far as is known: an external one may be of either form, and on a machine of its
/// own.
fn running_turns(form: Option<Form>) -> usize {
    let of_a_core = match form {
        Some(Form::Native) => 32,
        Some(Form::Node) | None => 5,
    };
    thread::available_parallelism().map_or(1, NonZero::get) * of_a_core
}

/// Opens the store.
async fn storage(config: &Config, alone: bool) -> Result<Storage, StartError> {
    let StoreSettings { location, time_limit, max_session_size, max_session_file_size } =
        config.store.clone();
    let location = match location {
        StoreLocation::Sqlite(path) => store::Location::Sqlite(path),
        StoreLocation::Postgres { url, password } => store::Location::Postgres { url, password },
    };
    let node = node(&config.state_dir)?;
    let (setup, runtime) = (store::Config { location, node, time_limit, alone }, Handle::current());
    // On a thread of its own, because the compiler does not see that what sqlx does here can change threads.
    let opened = spawn_blocking(move || runtime.block_on(Store::open(setup))).await;
    let store = opened.map_err(|error| store::OpenError::Failed { problem: error.to_string() })??;
    Ok(Storage {
        store,
        archive: config.archive,
        folder_limits: FolderLimits {
            max_file: max_session_file_size,
            max_bytes: max_session_size,
            ..FolderLimits::default()
        },
        sealer: config.seal.clone().map(Arc::new),
        state_dir: config.state_dir.clone(),
    })
}

/// The id of this node, made when the state directory is first used.
fn node(state_dir: &Path) -> Result<String, StartError> {
    let path = state_dir.join("node");
    let failed = |error: io::Error| StartError::State { path: state_dir.into(), problem: error.to_string() };
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => {
            let id = Uuid::new_v4().to_string();
            // Whole or not at all: half of an id would be another node's.
            let half = state_dir.join("node.new");
            fs::write(&half, &id).and_then(|()| fs::rename(&half, &path)).map_err(failed)?;
            Ok(id)
        }
    }
}

/// The configuration of the CLIs.
fn backends(
    config: &Config,
    guard: &Path,
    look_up: impl Fn(&CliAddress) -> Addresses,
) -> Result<backend::Setup, StartError> {
    let backend = |name: String, form: Option<Form>, source| backend::Config {
        name,
        source,
        max_frame: config.max_frame_size,
        turns: admission::Limits {
            running: config.max_running_turns.unwrap_or_else(|| running_turns(form)),
            waiting: config.max_waiting_turns,
        },
        ejection: config.ejection,
    };
    let mut setup = backend::Setup {
        fixed: Vec::new(),
        groups: Vec::new(),
        recycling: config.recycling,
        drain_file: config.drain_file.clone(),
    };
    for (number, address) in config.cli_url.iter().enumerate() {
        let source = |host, port| Source::External {
            host,
            port,
            names: None,
            token: config.cli_token.clone(),
            keeper: config.keeper_link,
            home: config.cli_home.get(number).map(PathBuf::from),
        };
        match address {
            CliAddress::One { host, port } => {
                setup.fixed.push(backend(name(number), None, source(host.clone(), *port)));
            }
            CliAddress::Addresses { .. } | CliAddress::Targets { .. } => {
                let (name, addresses) = (address.to_string(), look_up(address));
                // Each CLI gets an address of its own.
                let backend = backend(name.clone(), None, source(String::new(), 0));
                setup.groups.push(backend::Group { name, addresses, backend });
            }
        }
    }
    if !config.cli_url.is_empty() {
        return Ok(setup);
    }
    let path = std::env::var_os("PATH");
    let places = Places { given: config.cli_path.as_deref(), env_path: path.as_deref(), roots: &programs() };
    let Found { path: cli, form, remark } = discover::find(config.cli, &places)?;
    if let Some(remark) = remark {
        warn!("{remark}");
    }
    let (state_dir, count) = (&config.state_dir, config.embedded_clis);
    info!(%form, cli = %cli.display(), state_dir = %state_dir.display(), count, "running CLIs of our own");
    if state_dir.join(name(count)).exists() {
        let left_out = name(count);
        warn!(left_out, "there were more CLIs: the sessions of the others are not served (embedded_clis)");
    }
    let embedded = (0..count).map(|number| {
        let source = Source::Embedded(Spec {
            cli: cli.clone(),
            form,
            guard: guard.into(),
            home: state_dir.join(name(number)),
            work_dir: config.work_dir(),
            env: Vec::new(),
            start_timeout: config.start_timeout,
        });
        backend(name(number), Some(form), source)
    });
    setup.fixed.extend(embedded);
    Ok(setup)
}

/// The name of a CLI in logs and answers. Of an embedded CLI it is also the name of its home, so it must never change.
fn name(number: usize) -> String {
    format!("cli-{number}")
}

/// The folders whose `node_modules` may hold the CLI: the working directory, and those above the program.
fn programs() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let here = std::env::current_dir().into_iter();
    here.chain(program.ancestors().skip(1).map(Path::to_path_buf)).collect()
}

/// How long a server that is just ending may take to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Locks the state directory, for which a server that is just ending is waited for.
async fn lock_soon(state_dir: &Path) -> Result<File, StartError> {
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match lock(state_dir) {
            Err(StartError::InUse { .. }) if Instant::now() < give_up => {
                sleep(Duration::from_millis(100)).await
            }
            locked => return locked,
        }
    }
}

/// Locks the state directory. Two servers on one store would undo each other's work, and two CLIs on one home would fork the
/// histories of its sessions without a word (cli-protocol.md, section 10). One lock is for all: nobody else may use any of it.
fn lock(state_dir: &Path) -> Result<File, StartError> {
    let problem = |problem: String| StartError::State { path: state_dir.into(), problem };
    let open = || {
        private::create(state_dir)?;
        File::options().create(true).append(true).open(state_dir.join("lock"))
    };
    let file = open().map_err(|error| problem(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { path: state_dir.into() }),
        Err(TryLockError::Error(error)) => {
            warn!(%error, "the state directory cannot be locked: make sure that nobody else uses it");
            Ok(file)
        }
    }
}
