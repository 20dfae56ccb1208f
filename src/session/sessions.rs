//! The sessions of a server: what they share, how they start and how they drain.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use super::{
    blueprint::{Blueprint, Profiles},
    callers::Callers,
    cleanup::Cleanup,
    error::Error,
    id::SessionKey,
    idempotency::{Accepted, Creation, Idempotency},
    live::{Archive, Home, Means, Session},
    models::Models,
    others::{Others, Owners},
    prompt::PromptReader,
    registry::{Load, Registry},
    roots::Roots,
    turnstile::Turnstile,
};
use crate::{
    backend::{self, Backend, BackendId, Pool},
    budget::Budget,
    copilot::{Provider, Secret, redact_line},
    store::{FolderLimits, Sealer, SessionRecord, Store},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions that are known at once.
    pub max_sessions: usize,
    /// Turns that may wait in one session.
    pub max_queued_turns: usize,
    /// How many may watch one session.
    pub max_watchers: usize,
    /// What all readers together may hold, in bytes.
    pub max_reader_memory: usize,
    /// How long a turn may take that goes on without its caller.
    pub turn_timeout: Duration,
}

/// Where sessions live.
#[derive(Debug)]
pub struct Storage {
    /// Their records.
    pub store: Store,
    /// When their folders are written to it.
    pub archive: Archive,
    /// How much of a session's folder.
    pub folder_limits: FolderLimits,
    /// Seals their credentials.
    pub sealer: Option<Arc<Sealer>>,
    /// The disk that these homes are on: the id of `state_dir`.
    pub disk: String,
    /// Where the homes of embedded CLIs are.
    pub state_dir: PathBuf,
}

/// The sessions of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) means: Arc<Means>,
    pub(super) registry: Arc<Registry>,
    pub(super) limits: Limits,
    /// The operator's provider, for stored sessions that were created with it.
    pub(super) operator: Option<Arc<Provider>>,
    /// What else must not be seen of the server's.
    pub(super) secrets: Vec<Secret>,
    /// Sessions that were created by requests with an id.
    pub(super) creations: Idempotency<Creation>,
    /// Turns that were sent by requests with an id.
    pub(super) accepted: Idempotency<Accepted>,
    pub(super) profiles: Profiles,
    /// Where the paths lead that requests name.
    pub(super) roots: Roots,
    pub(super) models: Models,
    /// Lets one call at a time take a session that is not known here.
    pub(super) takes: Turnstile<SessionKey>,
    /// Which other servers own the sessions that were looked for lately.
    pub(super) owners: Owners,
    /// Callers whose calls other servers forward.
    pub(super) callers: Arc<Callers>,
    /// How other servers are asked.
    pub(super) others: OnceLock<Arc<dyn Others>>,
    /// Reads what is stored of a prompt.
    pub(super) prompts: OnceLock<PromptReader>,
    pub(super) cleanup: Mutex<Option<Cleanup>>,
    /// Cancelled when it is to have no sessions any more.
    pub(super) leaving: CancellationToken,
    /// Cancelled when nothing new is taken on.
    pub(super) draining: CancellationToken,
    /// Cancelled when what still runs has to end.
    pub(super) shutdown: CancellationToken,
    /// Cancelled when all has ended.
    pub(super) ended: CancellationToken,
}

impl Sessions {
    /// Sets up the sessions, and starts the backends, of which there is at least one. `operator` is the provider of sessions
    /// that were created with the operator's default, `profiles` are what sessions may be under, `roots` where the paths lead
    /// that requests name, `secrets` what a CLI may have printed of the server's.
    pub fn new(
        limits: Limits,
        operator: Option<Arc<Provider>>,
        profiles: Profiles,
        roots: Roots,
        secrets: Vec<Secret>,
        storage: Storage,
        backends: backend::Setup,
    ) -> Self {
        let registry = Registry::new(limits.max_sessions);
        let sessions = registry.clone();
        let pool = Pool::spawn(backends, move |backend| sessions.sink(backend));
        let (draining, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let Storage { store, archive, folder_limits, sealer, disk, state_dir } = storage;
        let means = Means {
            pool,
            store,
            claims: Arc::default(),
            archive,
            folder_limits,
            sealer,
            disk,
            state_dir,
            max_queued_turns: limits.max_queued_turns,
            budget: Budget::new(limits.max_reader_memory),
            tasks: TaskTracker::new(),
        };
        Self {
            inner: Arc::new(Inner {
                means: means.into(),
                registry,
                limits,
                operator,
                secrets,
                creations: Idempotency::default(),
                accepted: Idempotency::default(),
                profiles,
                roots,
                models: Models::default(),
                takes: Turnstile::default(),
                owners: Owners::default(),
                callers: Arc::default(),
                others: OnceLock::new(),
                prompts: OnceLock::new(),
                cleanup: Mutex::default(),
                leaving: CancellationToken::new(),
                draining,
                shutdown,
                ended: CancellationToken::new(),
            }),
        }
    }

    /// The operator's profiles.
    pub fn profiles(&self) -> &Profiles {
        &self.inner.profiles
    }

    /// What readers may hold.
    pub fn budget(&self) -> &Budget {
        &self.inner.means.budget
    }

    /// Lines that a CLI has printed, about anything, without the secrets that are known here: the server's, and those of all
    /// sessions.
    pub fn redact(&self, lines: &[String]) -> Vec<String> {
        if lines.is_empty() {
            return Vec::new();
        }
        let blueprints: Vec<_> =
            self.inner.registry.all().iter().map(|session| session.blueprint()).collect();
        let inner = &self.inner;
        let ours = inner.secrets.iter().chain(inner.operator.iter().flat_map(|it| it.secrets()));
        let of_sessions = blueprints.iter().flat_map(|blueprint| blueprint.settings.secrets());
        let secrets: Vec<_> = ours.chain(inner.profiles.secrets()).chain(of_sessions).collect();
        lines.iter().map(|line| redact_line(line, secrets.iter().copied())).collect()
    }

    /// The CLIs behind the sessions.
    pub fn pool(&self) -> &Pool {
        &self.inner.means.pool
    }

    /// When their folders are written to the store.
    pub fn archive(&self) -> Archive {
        self.inner.means.archive
    }

    /// Where they live.
    pub fn store(&self) -> &Store {
        &self.inner.means.store
    }

    /// How many turns run or wait, and how many sessions are loaded.
    pub fn load(&self) -> Load {
        self.inner.registry.load()
    }

    /// The same of one CLI.
    pub fn load_on(&self, backend: BackendId) -> Load {
        self.inner.registry.load_on(backend)
    }

    /// A session that is new to this CLI.
    pub(super) fn session(&self, key: SessionKey, blueprint: Blueprint, backend: Backend) -> Session {
        let home = Home::new(backend, String::new(), String::new());
        let cli_id = key.new_cli_id();
        Session::new(key, cli_id, blueprint, home, self.inner.means.clone())
    }

    /// A session that is in the store. If its CLI has left, it is in any.
    ///
    /// # Errors
    /// If there is no CLI.
    pub(super) fn session_of(
        &self,
        key: SessionKey,
        blueprint: Blueprint,
        record: &SessionRecord,
    ) -> Result<Session, Error> {
        let (pool, facts) = (self.pool(), &record.facts);
        let backend = match pool.at(&facts.home) {
            Some(backend) => backend,
            None => pool.for_new(&facts.cli_id)?,
        };
        let home = Home::new(backend, facts.home.clone(), facts.home_disk.clone());
        let cli_id = facts.cli_id.as_str().into();
        Ok(Session::new(key, cli_id, blueprint, home, self.inner.means.clone()).of_record(record))
    }

    /// Makes a [`drain`](Self::drain) that is under way stop what still runs.
    pub fn hurry(&self) {
        self.inner.shutdown.cancel();
    }

    pub(super) fn refuse_if_draining(&self) -> Result<(), Error> {
        if self.inner.draining.is_cancelled() { Err(Error::Draining) } else { Ok(()) }
    }
}

impl Sessions {
    /// Cancelled when the server takes nothing new on.
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }
}
