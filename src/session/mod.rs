//! What the facade itself decides: which sessions there are, whose turn it is, how a turn ends, who hears of it.
//! Knows neither protobuf nor sockets.
//!
//! [`Sessions`] is the room's door. A [`live`] session holds its queue and its [`current`] turn; a [`runner`] task
//! carries each turn from acceptance to rest; [`turn`], [`replay`], [`queue`], [`policy`] and [`list`] are pure.

mod blueprint;
mod current;
mod error;
pub mod hub;
mod key;
mod list;
mod live;
mod policy;
pub mod queue;
mod registry;
mod replay;
mod runner;
pub mod turn;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{info, warn};

use crate::{
    backend::{self, Backend, Link, Sink},
    copilot::{
        Event, Message, Provider, Rejection, Settings, event,
        method::{
            Compact, Compacted, Delete, Entry, Fork, Forked, GetClientMetadata, GetMetadata, IsProcessing,
            List, Method, ReadPersistedEvents,
        },
        settings::CLIENT_NAME,
    },
};
use blueprint::Record;
use hub::{Filter, Item, Subscriber};
use live::Session;
use queue::Ticket;
use registry::Registry;
use runner::Runner;

pub use blueprint::{Blueprint, Credentials, Missing};
pub use current::Outcome;
pub use error::{Delivery, Error, TurnCause, TurnError};
pub use key::{BadId, MAX_ID, SessionId, SessionKey, Tenant};
pub use list::{PageToken, Selection, SessionState, Summary, page};
pub use policy::{KINDS as PERMISSION_KINDS, Policy, Rule};
pub use runner::Deadline;
pub use turn::{Remains, ToolCall, TurnResult, Usage};

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions that are known at once.
    pub max_sessions: usize,
    /// Turns that may wait in one session.
    pub max_queued_turns: usize,
    /// How long a turn may take that goes on without its caller.
    pub turn_timeout: Duration,
}

/// The sessions of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Backend,
    registry: Arc<Registry>,
    limits: Limits,
    /// The operator's provider, for stored sessions that were created with it.
    operator: Option<Provider>,
    /// Turns, and whatever else must be finished before the server may go.
    tasks: TaskTracker,
    /// Cancelled when nothing new is taken on.
    draining: CancellationToken,
    /// Cancelled when what still runs has to end.
    shutdown: CancellationToken,
}

/// What is to change in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its model.
    pub model: Option<String>,
}

/// A prompt, and what its caller expects.
#[derive(Debug)]
pub struct Prompt {
    /// What to say.
    pub message: Message,
    /// When the caller wants to hear.
    pub deadline: Deadline,
    /// How long the agent may be silent while no tool runs.
    pub inactivity: Option<Duration>,
    /// Whether the turn goes on without its caller.
    pub detached: bool,
    /// The events that the caller wants.
    pub filter: Filter,
}

impl Sessions {
    /// Sets up the sessions, and with `connect` the backend that tells them of its events. `operator` is the provider of
    /// sessions that were created with the operator's default.
    pub fn new(
        limits: Limits,
        operator: Option<Provider>,
        connect: impl FnOnce(Arc<dyn Sink>) -> Backend,
    ) -> Self {
        let registry = Registry::new(limits.max_sessions);
        let backend = connect(registry.clone());
        let (draining, shutdown) = (CancellationToken::new(), CancellationToken::new());
        Self {
            inner: Arc::new(Inner {
                backend,
                registry,
                limits,
                operator,
                tasks: TaskTracker::new(),
                draining,
                shutdown,
            }),
        }
    }

    /// The CLI behind the sessions.
    pub fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// How many turns run or wait, and how many sessions are loaded.
    pub fn load(&self) -> Load {
        self.inner.registry.load()
    }

    /// Creates a session.
    ///
    /// # Cancel safety
    /// It is created or it is not: if nobody waits for it any more when it is there, it is deleted again.
    pub async fn create(
        &self,
        tenant: Tenant,
        id: Option<SessionId>,
        blueprint: Blueprint,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        Record::of(&blueprint).write().ok_or(Error::TooMuchToStore)?;
        let chosen = id.is_some();
        let key = SessionKey::new(tenant, id.unwrap_or_else(SessionId::random));
        let session = Arc::new(self.session(key, blueprint));
        let reserved = self.inner.registry.reserve(session.clone())?;
        let (created, answer) = tokio::sync::oneshot::channel();
        let this = self.clone();
        // On a task of its own, because a session that was half made when its caller left could not be found again.
        self.inner.tasks.spawn(async move {
            let result = this.create_in_cli(&session, chosen).await.map(|()| {
                reserved.keep();
                session.summary()
            });
            if let Err(Ok(unwanted)) = created.send(result) {
                info!(session = %unwanted.id, "the caller left while the session was created");
                if let Err(error) = this.delete(tenant, &unwanted.id).await {
                    warn!(session = %unwanted.id, %error, "the unwanted session could not be deleted");
                }
            }
        });
        answer.await.unwrap_or(Err(Error::Draining))
    }

    async fn create_in_cli(&self, session: &Arc<Session>, chosen: bool) -> Result<(), Error> {
        let link = self.inner.backend.link()?;
        // On an id that exists the CLI would silently attach, or glue two histories together. A stored session shows in
        // its metadata; a loaded one without a message does not, but answers.
        if chosen {
            let session_id = session.cli_id();
            let stored = link.call(&GetMetadata { session_id }).await?.session.is_some();
            if stored || link.call(&IsProcessing { session_id }).await.is_ok() {
                return Err(Error::Exists(session.id().clone()));
            }
        }
        let created = session.create(&link).await;
        if created.is_err() {
            // Where the second half has failed, the first must not stay.
            let undone = link.call(&Delete { session_id: session.cli_id() }).await;
            tracing::debug!(session = %session.id(), ok = undone.is_ok(), "a session could not be created");
        }
        Ok(created?)
    }

    fn session(&self, key: SessionKey, blueprint: Blueprint) -> Session {
        Session::new(key, blueprint, self.inner.limits.max_queued_turns, self.inner.tasks.clone())
    }

    /// What there is to know of a session.
    pub async fn get(&self, tenant: Tenant, id: &SessionId) -> Result<Summary, Error> {
        let key = SessionKey::new(tenant, id.clone());
        if let Some(session) = self.inner.registry.find(&key) {
            return Ok(session.summary());
        }
        let stored = self.stored(&key).await?.ok_or_else(|| Error::NotFound(id.clone()))?;
        let record = self.records(&[key.cli_id()]).await?.remove(key.cli_id());
        Ok(stored_summary(&key, stored, record))
    }

    /// The sessions of a tenant that are wanted, in no order.
    pub async fn list(&self, tenant: Tenant, wanted: &Selection) -> Result<Vec<Summary>, Error> {
        let listed = self.inner.backend.link()?.call(&List {}).await?;
        let known = self.inner.registry.all(tenant);
        let stored = listed.sessions.into_iter().filter(is_ours).filter_map(|entry| {
            let key = SessionKey::from_cli_id(&entry.session_id).filter(|key| key.tenant() == tenant)?;
            self.inner.registry.find(&key).is_none().then_some((key, entry))
        });
        let stored: Vec<_> = stored.collect();
        let mut records =
            self.records(&stored.iter().map(|(key, _)| key.cli_id()).collect::<Vec<_>>()).await?;
        let stored = stored.into_iter().map(|(key, entry)| {
            let record = records.remove(key.cli_id());
            stored_summary(&key, entry, record)
        });
        let all = known.iter().map(|session| session.summary()).chain(stored);
        Ok(all.filter(|session| wanted.has(session)).collect())
    }

    /// A page of a session's stored history, oldest first, and where the next one begins; without loading the session.
    pub async fn history(
        &self,
        tenant: Tenant,
        id: &SessionId,
        after: Option<&str>,
        max: usize,
    ) -> Result<(Vec<Event>, Option<String>), Error> {
        let key = SessionKey::new(tenant, id.clone());
        let known = self.inner.registry.find(&key);
        if known.is_none() && self.stored(&key).await?.is_none() {
            return Err(Error::NotFound(id.clone()));
        }
        let question = ReadPersistedEvents { session_id: key.cli_id(), cursor: after, max };
        let page = match self.inner.backend.link()?.call(&question).await {
            // Before the first message there is no history.
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => return Ok((Vec::new(), None)),
            page => page?,
        };
        if page.cursor_status == "expired" {
            return Err(Error::CursorExpired);
        }
        let settings = match known {
            Some(session) => session.blueprint().settings.clone(),
            None => Settings { provider: self.inner.operator.clone(), ..Settings::default() },
        };
        let events = page.events.iter().filter_map(|raw| stored_event(raw.get(), &settings)).collect();
        Ok((events, page.has_more.then_some(page.cursor)))
    }

    /// Loads a session, with these credentials where it has some of its own. If it is loaded already, it gets the new ones,
    /// after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session loaded or not; the next call loads it where it must.
    pub async fn resume(
        &self,
        tenant: Tenant,
        id: &SessionId,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let key = SessionKey::new(tenant, id.clone());
        let session = self.known(&key, credentials.clone()).await?;
        let place = session.place(deadline).await?;
        let changed = with(&session.blueprint(), credentials);
        // Only while no turn runs: it takes the session off its link.
        if changed != *session.blueprint() {
            session.rebuild(changed);
        }
        self.load_within(deadline, &session).await?;
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
            blueprint.settings.model = Some(model);
        }
        Record::of(&blueprint).write().ok_or(Error::TooMuchToStore)?;
        let link = self.load_within(deadline, &session).await?;
        session.update(&link, blueprint).await?;
        drop(place);
        Ok(session.summary())
    }

    /// Has the model summarize a session's history, after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it may leave it summarized or not.
    pub async fn compact(
        &self,
        tenant: Tenant,
        id: &SessionId,
        deadline: Deadline,
    ) -> Result<Compacted, Error> {
        self.refuse_if_draining()?;
        let session = self.known(&SessionKey::new(tenant, id.clone()), Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let compact = Compact { session_id: session.cli_id() };
        tokio::select! {
            biased;
            compacted = link.call_within(self.inner.limits.turn_timeout, &compact) => match compacted {
                Err(backend::Error::Rejected(Rejection::NothingToCompact)) => Ok(Compacted::default()),
                compacted => Ok(compacted?),
            },
            cause = deadline.passed() => Err(Error::Turn(Arc::new(TurnError::not_delivered(cause)))),
        }
    }

    /// Copies a session, after the turns that were accepted before. The copy has an id of its own, and the credentials.
    ///
    /// # Cancel safety
    /// Dropping it may leave a copy that is only found by listing.
    pub async fn fork(&self, tenant: Tenant, id: &SessionId, deadline: Deadline) -> Result<Summary, Error> {
        self.refuse_if_draining()?;
        let session = self.known(&SessionKey::new(tenant, id.clone()), Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let Forked { session_id } = link.call(&Fork { session_id: session.cli_id() }).await?;
        let protocol =
            |problem: &str| backend::Error::Protocol { method: Fork::NAME, problem: problem.into() };
        let key = SessionKey::from_cli_id(&session_id)
            .ok_or_else(|| protocol("the copy's id cannot be one of ours"))?;
        let entry = self.stored(&key).await?.ok_or_else(|| protocol("the copy is not there"))?;
        let copy = self.session(key, Blueprint::clone(&session.blueprint())).found(entry);
        Ok(self.inner.registry.adopt(copy)?.summary())
    }

    /// Loads a session whose queue the caller has a place in.
    async fn load_within(&self, deadline: Deadline, session: &Arc<Session>) -> Result<Arc<Link>, Error> {
        let loaded = tokio::select! {
            biased;
            loaded = session.load(&self.inner.backend) => loaded,
            cause = deadline.passed() => Err(cause),
        };
        loaded.map_err(|cause| match cause {
            TurnCause::NotFound(id) => {
                self.inner.registry.forget(session);
                Error::NotFound(id)
            }
            TurnCause::Backend(error) => error.into(),
            cause => Error::Turn(Arc::new(TurnError::not_delivered(cause))),
        })
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
        let known = self.inner.registry.find(&key);
        if known.is_none() && self.stored(&key).await?.is_none() {
            return Err(Error::NotFound(id.clone()));
        }
        let deleted = self.inner.backend.link()?.call(&Delete { session_id: key.cli_id() }).await?;
        if !deleted.success {
            // Not on its disk and not loaded, which is what was wanted. Of other failures we know none.
            tracing::debug!(session = %id, error = deleted.error, "the CLI had nothing to delete");
        }
        if let Some(session) = known {
            self.inner.registry.forget(&session);
        }
        Ok(())
    }

    /// Accepts a prompt into the session's queue. Its turn runs on a task of its own; dropping the [`Turn`] ends it,
    /// unless it is detached.
    pub async fn send(&self, tenant: Tenant, id: &SessionId, prompt: Prompt) -> Result<Turn, Error> {
        self.refuse_if_draining()?;
        let key = SessionKey::new(tenant, id.clone());
        let session = self.known(&key, Credentials::default()).await?;
        let (ticket, granted) = session.join()?;
        let (publisher, subscriber) = hub::subscription(prompt.filter);
        let caller_gone = CancellationToken::new();
        let own_limit = Deadline::after(self.inner.limits.turn_timeout);
        let runner = Runner {
            registry: self.inner.registry.clone(),
            session: session.clone(),
            backend: self.inner.backend.clone(),
            message: prompt.message,
            deadline: if prompt.detached { prompt.deadline.later(own_limit) } else { prompt.deadline },
            inactivity: prompt.inactivity,
            caller_gone: caller_gone.clone(),
            shutdown: self.inner.shutdown.clone(),
        };
        self.inner.tasks.spawn(runner.run(ticket, granted, publisher));
        let gone = (!prompt.detached).then(|| caller_gone.drop_guard());
        Ok(Turn { session, ticket, subscriber, deadline: prompt.deadline, gone })
    }

    /// Stops the running turn of a session. `None`: none runs.
    pub async fn abort(&self, tenant: Tenant, id: &SessionId) -> Result<Option<String>, Error> {
        let key = SessionKey::new(tenant, id.clone());
        match self.inner.registry.find(&key) {
            Some(session) => Ok(session.abort()),
            None if self.stored(&key).await?.is_some() => Ok(None),
            None => Err(Error::NotFound(id.clone())),
        }
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

    fn refuse_if_draining(&self) -> Result<(), Error> {
        if self.inner.draining.is_cancelled() { Err(Error::Draining) } else { Ok(()) }
    }

    /// A session that this process knows, if need be from now on because the CLI has stored it.
    async fn known(&self, key: &SessionKey, credentials: Credentials) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.inner.registry.find(key) {
            return Ok(session);
        }
        let entry = self.stored(key).await?.ok_or_else(|| Error::NotFound(key.id().clone()))?;
        let blueprint = match self.records(&[key.cli_id()]).await?.remove(key.cli_id()) {
            Some(record) => record.blueprint(credentials, self.inner.operator.as_ref()),
            // All that is known is that it is ours; to guess who is to pay for it would be wrong.
            None if credentials == Credentials::default() => Err(Missing::Either),
            None => Record::default().blueprint(credentials, None),
        };
        let blueprint =
            blueprint.map_err(|missing| Error::NotLoaded { session: key.id().clone(), missing })?;
        self.inner.registry.adopt(self.session(key.clone(), blueprint).found(entry))
    }

    /// What is stored with these sessions; nothing for those of which nothing is.
    async fn records(&self, cli_ids: &[&str]) -> Result<HashMap<String, Record>, Error> {
        let mut records = HashMap::new();
        for session_ids in cli_ids.chunks(MAX_RECORDS) {
            let question = GetClientMetadata { session_ids, keys: &Record::KEYS };
            match self.inner.backend.link()?.call(&question).await {
                Ok(answers) => records.extend(
                    answers
                        .into_iter()
                        .filter_map(|answer| Some((answer.session_id, Record::read(&answer.metadata)?))),
                ),
                // Older CLIs cannot; GetServerInfo says so.
                Err(backend::Error::Rejected(Rejection::MethodMissing)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    /// A session of ours that the CLI has stored.
    async fn stored(&self, key: &SessionKey) -> Result<Option<Entry>, Error> {
        let metadata = self.inner.backend.link()?.call(&GetMetadata { session_id: key.cli_id() }).await?;
        Ok(metadata.session.filter(is_ours))
    }
}

/// How many records are read at once: as many as the CLI takes (cli-protocol.md, section 14).
const MAX_RECORDS: usize = 1000;

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

/// A turn that was accepted. Dropping it ends the turn, unless it is detached.
#[derive(Debug)]
pub struct Turn {
    session: Arc<Session>,
    ticket: Ticket,
    subscriber: Subscriber<Outcome>,
    deadline: Deadline,
    gone: Option<DropGuard>,
}

impl Turn {
    /// The next thing to tell the caller.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Item<Outcome> {
        if self.gone.is_some() {
            // The turn keeps to its caller's deadline by itself.
            return self.subscriber.next().await;
        }
        tokio::select! {
            biased;
            item = self.subscriber.next() => item,
            cause = self.deadline.passed() => {
                Item::End(Err(Arc::new(self.session.snapshot(self.ticket, cause))))
            }
        }
    }

    /// Waits for the end.
    pub async fn outcome(mut self) -> Outcome {
        loop {
            match self.next().await {
                Item::End(outcome) => return outcome,
                Item::Event(_) => {}
                // Without events there is nothing to lag behind.
                Item::Lagged(_) => return Err(Arc::new(TurnError::not_delivered(TurnCause::Cancelled))),
            }
        }
    }

    /// Lets the turn go on without its caller.
    pub fn detach(mut self) {
        if let Some(gone) = self.gone.take() {
            gone.disarm();
        }
    }
}

/// Whether a session was made by this service: other programs may use the same CLI.
fn is_ours(entry: &Entry) -> bool {
    entry.client_name.as_deref() == Some(CLIENT_NAME)
}

/// An event of a stored history, without the secrets that a provider may have quoted.
fn stored_event(raw: &str, settings: &Settings) -> Option<Event> {
    let event = event::parse_stored(raw)?;
    if live::may_quote_a_secret(&event.kind) {
        event::parse_stored(&settings.redact(raw))
    } else {
        Some(event)
    }
}

/// The same session with other credentials, where there are some.
fn with(blueprint: &Blueprint, credentials: Credentials) -> Blueprint {
    let mut changed = blueprint.clone();
    if let Some(provider) = credentials.provider {
        changed.settings.provider = Some(provider);
        changed.operators_provider = false;
    }
    if let Some(token) = credentials.github_token {
        changed.settings.github_token = Some(token);
    }
    changed
}

fn stored_summary(key: &SessionKey, entry: Entry, record: Option<Record>) -> Summary {
    let record = record.unwrap_or_default();
    Summary {
        id: key.id().clone(),
        model: record.model.unwrap_or_default(),
        labels: record.labels,
        state: SessionState::Unloaded,
        title: entry.summary.unwrap_or_default(),
        create_time: entry.start_time,
        update_time: entry.modified_time,
        working_directory: entry.context.and_then(|context| context.cwd).unwrap_or_default(),
    }
}
