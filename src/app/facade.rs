//! The running service: backends, sessions and server, put together from a configuration and stopped in order.
//!
//! Tests: `tests/integration/serve.rs`, `tests/integration/nodes/rolling.rs`.

use std::{
    fmt::Display,
    fs::File,
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
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    config::{
        CliAddress, ClusterSettings, Config, StoreLocation, StoreSettings, TransportSettings, UnixSettings,
    },
    descriptors,
    state_dir::{self, Unusable, cli_name},
};
use crate::{
    backend::{
        self, Names, Source, Target, admission,
        pool::addresses::{self, Addresses},
        process::{
            Spec,
            discover::{self, Form, Found, Places},
        },
    },
    grpc::{
        Defaults, UnixPort, listen,
        server::{self, Ports, Stages},
        tls::{self, Tls},
    },
    identity::Identities,
    session::{Archive, Limits, Policy, Roots, Sessions, Storage},
    store::{self, FolderLimits, Store},
};

/// How long the last answers may take to reach their callers after the turns have ended.
const FLUSH: Duration = Duration::from_secs(2);

/// The number of CLIs for which descriptors are kept back for a name: nobody knows how many it will lead to.
const CLIS_OF_A_NAME: usize = 8;

/// Why the service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be opened.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address or path to listen on.
        address: String,
        /// The system's error.
        error: io::Error,
    },
    /// Certificates, keys or CAs cannot be used.
    #[error("{0}")]
    Tls(#[from] tls::Problems),
    /// There is no CLI to run.
    #[error("{0}")]
    NoCli(#[from] discover::NotFound),
    /// The store does not open.
    #[error("{0}")]
    Store(#[from] store::OpenError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] Unusable),
}

/// The running service.
#[derive(Debug)]
pub struct Facade {
    address: SocketAddr,
    sessions: Sessions,
    stages: Stages,
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
        if config.identity.is_none() && !config.trusts_callers {
            warn!(
                "callers are not asked who they are: whoever reaches this server may do everything (trust = callers, or token_file)"
            );
        }
        if let Some(risk) = config.transport.risk() {
            warn!(listen = %config.transport.listen, "{risk} (allow_insecure_listen)");
        }
        let tls = Tls::load(config.transport.tls.clone())?;
        let lock = state_dir::lock_soon(&config.state_dir).await?;
        let backends = backends(&config, &guard, look_up)?;
        // Sessions on this server's own disk, and in no archive, are nobody else's.
        let groups = backends.groups.iter().map(|group| &group.backend);
        let has_homes = backends.fixed.iter().chain(groups).any(|backend| has_home(&backend.source));
        let alone = has_homes && config.archive == Archive::Off;
        let (ports, address) = ports(&config.transport)?;
        let storage = storage(&config, address, alone).await?;
        let roots = Roots::new(config.roots());
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
        sessions.keep_up();
        sessions.keep_clean(config.cleanup);
        let setup = server::Setup {
            sessions: sessions.clone(),
            tls,
            identities: config.identity.map(|settings| Arc::new(Identities::start(settings))),
            cluster_token: config.cluster.token,
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
        let (stages, failed) = (Stages::default(), CancellationToken::new());
        let serving = server::serve(ports, setup, stages.clone());
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
            stages,
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
        self.stages.draining.cancel();
        self.sessions.leave();
        // Load balancers that ask for health, and clients that they tell, still send calls for a while. Not a sleep of zero: it
        // would yield, and calls that come in then would be taken.
        if !self.drain_delay.is_zero() {
            self.hurried.run_until_cancelled(sleep(self.drain_delay)).await;
        }
        self.stages.closing.cancel();
        self.sessions.drain(grace).await;
        self.stages.ended.cancel();
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

/// Opens the ports, and gives the address of the one for clients.
fn ports(config: &TransportSettings) -> Result<(Ports, SocketAddr), StartError> {
    let failed = |address: &dyn Display| {
        let address = address.to_string();
        |error| StartError::Listen { address, error }
    };
    let tcp = listen(config.listen).map_err(failed(&config.listen))?;
    let address = tcp.local_addr().map_err(failed(&config.listen))?;
    let probes = config.probes.map(|address| listen(address).map_err(failed(&address))).transpose()?;
    let unix = config.unix.as_ref().map(|UnixSettings { path, users }| {
        UnixPort::listen(path, users.as_deref()).map_err(failed(&format!("unix:{}", path.display())))
    });
    let unix = unix.transpose()?;
    if let Some(port) = &unix {
        info!(path = %port.path().display(), "serving on a Unix socket");
    }
    if let Some(port) = probes.as_ref().and_then(|probes| probes.local_addr().ok()) {
        info!(address = %port, "serving probes");
    }
    Ok((Ports { tcp, unix, probes }, address))
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

/// Whether this server can read and write the home of these CLIs.
fn has_home(source: &Source) -> bool {
    match source {
        Source::Embedded(_) => true,
        Source::External { home, .. } => home.is_some(),
    }
}

/// Opens the store.
async fn storage(config: &Config, address: SocketAddr, alone: bool) -> Result<Storage, StartError> {
    let StoreSettings { location, time_limit, max_session_size, max_session_file_size } =
        config.store.clone();
    let disk = state_dir::node(&config.state_dir)?;
    let ClusterSettings { node_name, advertise, lease, .. } = config.cluster.clone();
    let reached_at = (!address.ip().is_unspecified()).then(|| address.to_string());
    let address = advertise.or(reached_at).unwrap_or_default();
    let is_tls = config.transport.tls.serving.is_some();
    let address = match is_tls && !address.is_empty() && !address.starts_with("https://") {
        true => format!("https://{address}"),
        false => address,
    };
    if address.is_empty() && matches!(location, StoreLocation::Postgres { .. }) {
        warn!(
            "this server tells the others at store_url no address (advertise): they cannot forward calls to it"
        );
    }
    let node = store::Node {
        name: node_name.unwrap_or_else(|| disk.clone()),
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lease,
        is_command: false,
    };
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
        disk,
        state_dir: config.state_dir.clone(),
    })
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
                setup.fixed.push(backend(cli_name(number), None, source(host.clone(), *port)));
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
    if state_dir.join(cli_name(count)).exists() {
        let left_out = cli_name(count);
        warn!(left_out, "there were more CLIs: the sessions of the others are not served (embedded_clis)");
    }
    let embedded = (0..count).map(|number| {
        let source = Source::Embedded(Spec {
            cli: cli.clone(),
            form,
            guard: guard.into(),
            home: state_dir.join(cli_name(number)),
            work_dir: config.work_dir(),
            env: Vec::new(),
            start_timeout: config.start_timeout,
        });
        backend(cli_name(number), Some(form), source)
    });
    setup.fixed.extend(embedded);
    Ok(setup)
}

/// The folders whose `node_modules` may hold the CLI: the working directory, and those above the program.
fn programs() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let here = std::env::current_dir().into_iter();
    here.chain(program.ancestors().skip(1).map(Path::to_path_buf)).collect()
}
