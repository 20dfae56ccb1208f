//! The sessions of a server: what they share, how they start and how they drain.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    blueprint::{Blueprint, Credentials, Profiles, Record},
    calls::Cleanup,
    catalogue::{Shelf, Stored, records, stored_in, stored_summary},
    error::Error,
    id::{SessionId, SessionKey, Tenant},
    idempotency::{Accepted, Creation, Found, Key, Repeats, RequestId},
    live::{Home, Session, delete_from_cli, runs_for_others},
    models::Models,
    registry::Registry,
    roots::{self, Roots},
    summary::{SessionState, Summary},
    turn::{Deadline, TurnCause},
};
use crate::{
    backend::{self, Backend, BackendId, Link, Pool},
    budget::Budget,
    copilot::{
        Provider, Rejection, Secret,
        method::{Delete, Fork, Forked, GetMetadata, IsProcessing, Method},
        redact_line,
    },
};

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

/// The sessions of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pool: Pool,
    pub(super) registry: Arc<Registry>,
    pub(super) limits: Limits,
    /// Of what readers hold.
    pub(super) budget: Budget,
    /// The operator's provider, for stored sessions that were created with it.
    pub(super) operator: Option<Arc<Provider>>,
    /// What else must not be seen of the server's.
    pub(super) secrets: Vec<Secret>,
    /// Sessions that were created by requests with an id.
    pub(super) creations: Repeats<Creation>,
    /// Turns that were sent by requests with an id.
    pub(super) accepted: Repeats<Accepted>,
    /// What is remembered of each CLI's stored sessions.
    pub(super) shelves: Mutex<HashMap<BackendId, Arc<Shelf>>>,
    pub(super) profiles: Profiles,
    /// Where the paths lead that requests name.
    pub(super) roots: Roots,
    pub(super) models: Models,
    pub(super) cleanup: Mutex<Option<Cleanup>>,
    /// Turns, and whatever else must be finished before the server may go.
    pub(super) tasks: TaskTracker,
    /// Cancelled when nothing new is taken on.
    pub(super) draining: CancellationToken,
    /// Cancelled when what still runs has to end.
    pub(super) shutdown: CancellationToken,
}

/// What is to change in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its model.
    pub model: Option<String>,
    /// How much its model thinks.
    pub reasoning_effort: Option<String>,
    /// Its title.
    pub title: Option<String>,
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
        backends: backend::Setup,
    ) -> Self {
        let registry = Registry::new(limits.max_sessions);
        let ears = registry.clone();
        let pool = Pool::spawn(backends, move |backend| ears.ear(backend));
        let (draining, shutdown) = (CancellationToken::new(), CancellationToken::new());
        Self {
            inner: Arc::new(Inner {
                pool,
                registry,
                limits,
                budget: Budget::new(limits.max_reader_memory),
                operator,
                secrets,
                creations: Repeats::default(),
                accepted: Repeats::default(),
                profiles,
                roots,
                models: Models::default(),
                cleanup: Mutex::default(),
                shelves: Mutex::default(),
                tasks: TaskTracker::new(),
                draining,
                shutdown,
            }),
        }
    }

    /// The operator's profiles.
    pub fn profiles(&self) -> &Profiles {
        &self.inner.profiles
    }

    /// What readers may hold.
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// Lines that a CLI has printed, about anything, without the secrets that are known here: the server's, and those of all
    /// sessions.
    pub fn redact(&self, lines: &[String]) -> Vec<String> {
        if lines.is_empty() {
            return Vec::new();
        }
        let blueprints: Vec<_> =
            self.inner.registry.all(Tenant::ONLY).iter().map(|session| session.blueprint()).collect();
        let inner = &self.inner;
        let ours = inner.secrets.iter().chain(inner.operator.iter().flat_map(|it| it.secrets()));
        let of_sessions = blueprints.iter().flat_map(|blueprint| blueprint.settings.secrets());
        let secrets: Vec<_> = ours.chain(inner.profiles.secrets()).chain(of_sessions).collect();
        lines.iter().map(|line| redact_line(line, secrets.iter().copied())).collect()
    }

    /// The CLIs behind the sessions.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// How many turns run or wait, and how many sessions are loaded.
    pub fn load(&self) -> Load {
        self.inner.registry.load()
    }

    /// The same of one CLI.
    pub fn load_on(&self, backend: BackendId) -> Load {
        self.inner.registry.load_on(backend)
    }

    /// Creates a session. A request with an id that is repeated gets the session of the first one.
    ///
    /// # Cancel safety
    /// It is created or it is not: if nobody waits for it any more when it is there, it is deleted again, unless its request
    /// may be repeated.
    pub async fn create(
        &self,
        tenant: Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
        request: Option<RequestId>,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_settings(&blueprint.settings)).await?;
        Record::of(&blueprint).write().ok_or(Error::TooMuchToStore)?;
        let begin = || self.begin_creation(tenant, id, blueprint, request.is_some());
        let Some(RequestId { id: request, fingerprint }) = &request else { return finished(begin()?).await };
        let key = Key::Create(tenant, request.clone());
        let is_current = |creation: &Creation| !matches!(&*creation.borrow(), Some(Err(_)));
        match self.inner.creations.find_or_insert(key.clone(), *fingerprint, is_current, begin)? {
            Found::First(creation) => finished(creation).await,
            Found::Repeated(creation) => {
                let created = finished(creation).await?;
                // It may have been deleted since.
                self.get(tenant, &created.id).await.inspect_err(|_| self.inner.creations.forget(&key))
            }
        }
    }

    /// Begins to create a session. `wanted`: also if nobody waits for it.
    fn begin_creation(
        &self,
        tenant: Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
        wanted: bool,
    ) -> Result<Creation, Error> {
        let chosen = id.is_some();
        let key = SessionKey::new(tenant, id.unwrap_or_else(SessionId::random));
        // A chosen id is looked for, and so its session is where it is looked for first.
        let pool = self.pool();
        let backend = if chosen { pool.home(key.cli_id()) } else { pool.for_new(key.cli_id()) }?;
        let session = Arc::new(self.session(key, blueprint, &backend));
        let reserved = self.inner.registry.reserve(session.clone())?;
        let (created, answer) = tokio::sync::watch::channel(None);
        let this = self.clone();
        // On a task of its own, because a session that was half made when its caller left could not be found again.
        self.inner.tasks.spawn(async move {
            let result = this.create_in_cli(&session, chosen).await.map(|()| {
                reserved.keep();
                session.summary()
            });
            let unwanted = result.is_ok() && !wanted && created.is_closed();
            created.send_replace(Some(result));
            if unwanted {
                info!(session = %session.id(), "the caller left while the session was created");
                if let Err(error) = this.delete(tenant, session.id()).await {
                    warn!(session = %session.id(), %error, "the unwanted session could not be deleted");
                }
            }
        });
        Ok(answer)
    }

    async fn create_in_cli(&self, session: &Arc<Session>, chosen: bool) -> Result<(), Error> {
        if chosen {
            self.refuse_if_it_exists(session).await?;
        }
        let link = session.home().await?.connected().await?;
        let mut created = session.create(&link).await;
        if created.is_ok() {
            created = session.validate_tools(&link).await;
        }
        if created.is_err() {
            // Where the second half has failed, the first must not stay.
            let undone = session.delete(&link).await;
            debug!(session = %session.id(), ok = undone.is_ok(), "a session could not be created");
        }
        Ok(created?)
    }

    /// On an id that exists the CLI would silently attach, or glue two histories together. Another CLI may have it: one that
    /// is down is not waited for, as long as the id's own, where sessions of chosen ids are made, says that it has not.
    async fn refuse_if_it_exists(&self, session: &Session) -> Result<(), Error> {
        let order = self.inner.pool.in_order(session.cli_id());
        // Also those before it, which get no new sessions: they may have had it.
        let own = order.iter().position(|backend| session.is_in(backend.id()));
        let must_say = |place: usize| own.is_none_or(|own| place <= own);
        let asked = order.into_iter().enumerate();
        let asked: Vec<_> = asked.filter(|(place, backend)| must_say(*place) || backend.is_ready()).collect();
        let answers = join_all(asked.iter().map(|(_, backend)| has(backend, session.cli_id()))).await;
        if answers.iter().any(|answer| matches!(answer, Ok(true))) {
            return Err(Error::Exists(session.id().clone()));
        }
        for ((place, _), answer) in asked.into_iter().zip(answers) {
            match answer {
                Err(error) if must_say(place) => return Err(error.into()),
                Err(error) => {
                    warn!(session = %session.id(), %error, "a CLI cannot be asked for a session's id")
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn session(&self, key: SessionKey, blueprint: Blueprint, backend: &Backend) -> Session {
        let Inner { limits, budget, tasks, .. } = &*self.inner;
        let home = Home::new(self.inner.pool.clone(), backend.clone());
        Session::new(key, blueprint, limits.max_queued_turns, budget.clone(), home, tasks.clone())
    }

    /// What there is to know of a session.
    pub async fn get(&self, tenant: Tenant, id: &SessionId) -> Result<Summary, Error> {
        let key = SessionKey::new(tenant, id.clone());
        let (mut summary, backend) = match self.inner.registry.find(&key) {
            Some(session) => {
                session.check_others().await;
                (session.summary(), session.backend())
            }
            None => {
                let Stored { backend, entry } =
                    self.stored(&key).await?.ok_or_else(|| Error::NotFound(id.clone()))?;
                let record = records(&backend, &[key.cli_id()]).await?.remove(key.cli_id());
                (stored_summary(&key, entry, record), backend)
            }
        };
        // What is not loaded for us may be for another client of the CLI.
        if summary.state == SessionState::Unloaded && runs_for_others(&backend, key.cli_id()).await {
            summary.state = SessionState::Running;
        }
        Ok(summary)
    }

    /// Loads a session, with these credentials where it has some of its own. If it is loaded already, it gets the new ones,
    /// after the turns that were accepted before. If it cannot be loaded with them, nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping it leaves the session with the credentials that it had, loaded or not; the next call loads it where it must.
    pub async fn resume(
        &self,
        tenant: Tenant,
        id: &SessionId,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_servers(&credentials.mcp_servers)).await?;
        let key = SessionKey::new(tenant, id.clone());
        let was_known = self.inner.registry.find(&key).is_some();
        let session = self.known(&key, credentials.clone()).await?;
        let resumed = self.resume_known(&session, credentials, deadline).await;
        if resumed.is_err() && !was_known {
            // What it was taken up with may be what is wrong.
            self.inner.registry.release(&session);
        }
        resumed
    }

    async fn resume_known(
        &self,
        session: &Arc<Session>,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        if let Some(profile) = &session.blueprint().profile {
            profile.admit(&credentials).map_err(Error::Denied)?;
        }
        let changed = session.blueprint().with(credentials.clone()).map_err(Error::Unfit)?;
        if session.is_loaded() && changed == *session.blueprint() {
            return Ok(session.summary());
        }
        let place = session.place(deadline).await?;
        let changed = session.blueprint().with(credentials).map_err(Error::Unfit)?;
        if changed == *session.blueprint() {
            self.load_within(deadline, session).await?;
            drop(place);
            return Ok(session.summary());
        }
        Record::of(&changed).write().ok_or(Error::TooMuchToStore)?;
        let was_loaded = session.is_loaded();
        // Only while no turn runs: it takes the session off its link.
        let trial = Trial::begin(session, changed);
        match self.load_within(deadline, session).await {
            Ok(_) => trial.keep(),
            Err(error) => {
                drop(trial);
                if was_loaded && let Err(problem) = self.load_within(deadline, session).await {
                    debug!(session = %session.id(), %problem, "a session could not be loaded as it was before");
                }
                return Err(error);
            }
        }
        drop(place);
        Ok(session.summary())
    }

    /// Changes a session, after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session changed or not.
    pub async fn update(
        &self,
        tenant: Tenant,
        id: &SessionId,
        change: Change,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let session = self.known(&SessionKey::new(tenant, id.clone()), Credentials::default()).await?;
        let place = session.place(deadline).await?;
        let mut blueprint = Blueprint::clone(&session.blueprint());
        if let Some(labels) = change.labels {
            blueprint.labels = labels;
        }
        if let Some(model) = change.model {
            if let Some(profile) = &blueprint.profile {
                profile
                    .admit_model(&model)
                    .map_err(|excess| Error::Denied(vec![excess.within("session")]))?;
            }
            blueprint.settings.model = Some(model);
        }
        if change.reasoning_effort.is_some() {
            blueprint.settings.reasoning_effort = change.reasoning_effort;
        }
        Record::of(&blueprint).write().ok_or(Error::TooMuchToStore)?;
        let link = self.load_within(deadline, &session).await?;
        session.update(&link, blueprint).await?;
        if let Some(title) = change.title {
            session.name(&link, &title).await?;
        }
        drop(place);
        Ok(session.summary())
    }

    /// Copies a session, after the turns that were accepted before; `before` an event of its history, or all of it. The copy
    /// has an id of its own, and the credentials.
    ///
    /// # Cancel safety
    /// Dropping it may leave a copy that is only found by listing.
    pub async fn fork(
        &self,
        tenant: Tenant,
        id: &SessionId,
        before: Option<&str>,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let session = self.known(&SessionKey::new(tenant, id.clone()), Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let Forked { session_id } =
            link.call(&Fork { session_id: session.cli_id(), to_event_id: before }).await?;
        let protocol =
            |problem: &str| backend::Error::Protocol { method: Fork::NAME, problem: problem.into() };
        let key = SessionKey::from_cli_id(&session_id)
            .ok_or_else(|| protocol("the copy's id cannot be one of ours"))?;
        // The copy is where the original is, wherever its own id belongs.
        let backend = &session.backend();
        let entry = stored_in(backend, &key).await?.ok_or_else(|| protocol("the copy is not there"))?;
        let copy = self.session(key, Blueprint::clone(&session.blueprint()), backend).found(entry);
        let adopted = self.inner.registry.adopt(copy);
        if adopted.is_err() {
            // The caller would not know of it.
            link.call(&Delete { session_id: &session_id }).await?;
        }
        Ok(adopted?.summary())
    }

    /// Loads a session whose queue the caller has a place in.
    pub(super) async fn load_within(
        &self,
        deadline: Deadline,
        session: &Arc<Session>,
    ) -> Result<Arc<Link>, Error> {
        let loaded = tokio::select! {
            biased;
            loaded = session.load() => loaded,
            cause = deadline.passed() => Err(cause),
        };
        if let Err(TurnCause::NotFound(_)) = loaded {
            self.inner.registry.forget(session);
        }
        loaded.map_err(|cause| session.not_loaded(cause))
    }

    /// Has the CLI close a session, after the turns that were accepted before; it is loaded again when it is next used.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session closed or not.
    pub async fn close(&self, tenant: Tenant, id: &SessionId, deadline: Deadline) -> Result<(), Error> {
        let key = SessionKey::new(tenant, id.clone());
        match self.inner.registry.find(&key) {
            Some(session) => {
                let _place = session.place(deadline).await?;
                Ok(session.unload().await?)
            }
            None => self.stored(&key).await?.map(|_| ()).ok_or_else(|| Error::NotFound(id.clone())),
        }
    }

    /// Deletes a session, and ends its turns.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session deleted or not.
    pub async fn delete(&self, tenant: Tenant, id: &SessionId) -> Result<(), Error> {
        let key = SessionKey::new(tenant, id.clone());
        let backend = match self.inner.registry.find(&key) {
            Some(session) => session.home().await?,
            None => self.stored(&key).await?.ok_or_else(|| Error::NotFound(id.clone()))?.backend,
        };
        self.delete_in(&backend, &key).await
    }

    /// Deletes a session that this CLI has.
    pub(super) async fn delete_in(&self, backend: &Backend, key: &SessionKey) -> Result<(), Error> {
        let known = self.inner.registry.find(key).filter(|session| session.is_in(backend.id()));
        let link = backend.connected().await?;
        let deleted = match &known {
            Some(session) => session.delete(&link).await?,
            None => delete_from_cli(&link, key.cli_id()).await?,
        };
        if !deleted.success {
            // A failure inside a success. That there was nothing to delete is as good as a deletion.
            match Rejection::new(Delete::NAME, 0, &deleted.error.unwrap_or_default()) {
                Rejection::SessionNotFound => {}
                failure => return Err(backend::Error::Rejected(failure).into()),
            }
        }
        self.strike_off(backend, key);
        if let Some(session) = known {
            self.inner.registry.forget(&session);
        }
        Ok(())
    }

    /// Takes nothing new on, and waits at most `grace` for what runs. What then still runs is stopped.
    pub async fn drain(&self, grace: Duration) {
        self.inner.draining.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(grace, self.inner.tasks.wait()).await.is_err() {
            warn!(
                turns = self.load().turns,
                "the grace period is over: the turns that still run are stopped"
            );
            self.inner.shutdown.cancel();
            // To stop an agent takes milliseconds; a CLI that does not answer is ended anyway.
            let _ = tokio::time::timeout(LAST_GRACE, self.inner.tasks.wait()).await;
        }
    }

    /// Makes a [`drain`](Self::drain) that is under way stop what still runs.
    pub fn hurry(&self) {
        self.inner.shutdown.cancel();
    }

    pub(super) fn refuse_if_draining(&self) -> Result<(), Error> {
        if self.inner.draining.is_cancelled() { Err(Error::Draining) } else { Ok(()) }
    }
}

/// A session that is tried with other credentials. Dropping it gives the session back those that it had, with which it is
/// loaded when it is next used.
struct Trial<'a> {
    session: &'a Session,
    before: Option<Arc<Blueprint>>,
}

impl<'a> Trial<'a> {
    fn begin(session: &'a Session, changed: Blueprint) -> Self {
        let before = session.blueprint();
        session.rebuild(changed);
        Self { session, before: Some(before) }
    }

    fn keep(mut self) {
        self.before = None;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.session.rebuild(Blueprint::clone(&before));
        }
    }
}

/// Whether a CLI has a session of this id. A stored one shows in its metadata; a loaded one without a message does not, but
/// answers.
async fn has(backend: &Backend, session_id: &str) -> Result<bool, backend::Error> {
    let link = backend.connected().await?;
    if link.call(&GetMetadata { session_id }).await?.session.is_some() {
        return Ok(true);
    }
    match link.call(&IsProcessing { session_id }).await {
        Err(backend::Error::Rejected(Rejection::SessionNotFound)) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// What has come of a creation.
async fn finished(mut creation: Creation) -> Result<Summary, Error> {
    match creation.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(result)) => result.clone(),
        Ok(None) | Err(_) => Err(Error::Draining),
    }
}

/// How long a stopped agent may take to stop when the server goes.
const LAST_GRACE: Duration = Duration::from_secs(3);

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Turns that run or wait.
    pub turns: usize,
    /// Sessions that run a turn.
    pub running: usize,
    /// Sessions that are loaded.
    pub loaded: usize,
    /// Sessions that are known.
    pub known: usize,
}
