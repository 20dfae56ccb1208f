//! A session that the facade knows: what it was created with, who waits in its queue, which turn runs.
//!
//! All of its state is behind one lock that is held for moments only. At rest it is a few hundred bytes, and no task.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    blueprint::{Blueprint, Record},
    current::{Current, Outcome, Progress, Signals, UNLOADED},
    error::{Error, TurnCause, TurnError},
    hub::Publisher,
    janitor::Rest,
    key::{SessionId, SessionKey},
    list::{SessionState, Summary},
    queue::{Queue, Ticket},
    runner::Deadline,
};
use crate::{
    backend::{self, Backend, Link, LinkId},
    copilot::{
        Event, Method, Rejection,
        event::{self, Payload, PermissionRequested},
        method::{
            AnswerPermission, Create, Created, Destroy, Detach, Entry, GetMetadata, IsProcessing, Resume,
            SetName, SwitchModel, UpdateClientMetadata, UpdateOptions,
        },
        settings::{EmptyOptions, Parameters},
    },
};

/// A session that the facade knows.
#[derive(Debug)]
pub(super) struct Session {
    key: SessionKey,
    /// What it is made of. Its credentials may change; the rest does not.
    blueprint: Mutex<Arc<Blueprint>>,
    /// Cancelled when the session is deleted.
    deleted: CancellationToken,
    /// Where the answers to the CLI's requests are given.
    tasks: TaskTracker,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The link that the session is attached to.
    link: Option<Arc<Link>>,
    create_time: String,
    update_time: String,
    title: String,
    working_directory: String,
    /// Whether the CLI has it on disk, which is from its first message on.
    stored: bool,
    last_heard: Instant,
    queue: Queue<oneshot::Sender<()>>,
    current: Option<Current>,
}

impl Session {
    pub(super) fn new(key: SessionKey, blueprint: Blueprint, max_queued: usize, tasks: TaskTracker) -> Self {
        let working_directory = blueprint.settings.working_directory.clone().unwrap_or_default();
        Self {
            key,
            blueprint: Mutex::new(Arc::new(blueprint)),
            deleted: CancellationToken::new(),
            tasks,
            state: Mutex::new(State {
                link: None,
                create_time: String::new(),
                update_time: String::new(),
                title: String::new(),
                working_directory,
                stored: false,
                last_heard: Instant::now(),
                queue: Queue::new(max_queued),
                current: None,
            }),
        }
    }

    /// One that the CLI has stored, and that has been found again.
    pub(super) fn found(self, entry: Entry) -> Self {
        let mut state = self.lock();
        state.stored = true;
        state.create_time = entry.start_time;
        state.update_time = entry.modified_time;
        state.title = entry.summary.unwrap_or_default();
        if let Some(cwd) = entry.context.and_then(|context| context.cwd) {
            state.working_directory = cwd;
        }
        drop(state);
        self
    }

    /// What it is made of.
    pub(super) fn blueprint(&self) -> Arc<Blueprint> {
        self.blueprint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what it is made of, while no turn runs. It takes effect when the session is loaded again, which is next.
    pub(super) fn rebuild(&self, blueprint: Blueprint) {
        self.redraw(blueprint);
        self.unloaded();
    }

    fn redraw(&self, blueprint: Blueprint) {
        *self.blueprint.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(blueprint);
    }

    /// Changes its model and its notes, while no turn runs.
    pub(super) async fn update(&self, link: &Link, blueprint: Blueprint) -> Result<(), backend::Error> {
        let model = blueprint.settings.model.as_deref();
        if let Some(model_id) = model.filter(|_| model != self.blueprint().settings.model.as_deref()) {
            self.call(link, &SwitchModel { session_id: self.cli_id(), model_id }).await?;
        }
        self.redraw(blueprint);
        self.remember(link).await
    }

    /// Gives it a title. The CLI tells of it too, but not necessarily before it answers.
    pub(super) async fn name(&self, link: &Link, title: &str) -> Result<(), backend::Error> {
        self.call(link, &SetName { session_id: self.cli_id(), name: title }).await?;
        title.clone_into(&mut self.lock().title);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Poisoned means that a bug was reported elsewhere; the state is valid after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.key
    }

    pub(super) fn id(&self) -> &SessionId {
        self.key.id()
    }

    pub(super) fn cli_id(&self) -> &str {
        self.key.cli_id()
    }

    pub(super) fn deleted(&self) -> &CancellationToken {
        &self.deleted
    }

    /// Where its tasks run.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(super) fn summary(&self) -> Summary {
        let blueprint = self.blueprint();
        let state = self.lock();
        let doing = match (&state.link, state.queue.is_busy()) {
            (_, true) => SessionState::Running,
            (Some(_), false) => SessionState::Idle,
            (None, false) => SessionState::Unloaded,
        };
        Summary {
            id: self.id().clone(),
            model: blueprint.settings.model.clone().unwrap_or_default(),
            labels: blueprint.labels.clone(),
            state: doing,
            title: state.title.clone(),
            create_time: state.create_time.clone(),
            update_time: state.update_time.clone(),
            working_directory: state.working_directory.clone(),
            owner: blueprint.owner.clone(),
            profile: blueprint.profile.as_ref().map(|profile| profile.name.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.lock().link.is_some()
    }

    /// How many turns are in the queue, the running one included.
    pub(super) fn queued(&self) -> usize {
        self.lock().queue.count()
    }
}

/// Loading.
impl Session {
    /// Creates the session in the CLI.
    pub(super) async fn create(&self, link: &Arc<Link>) -> Result<(), backend::Error> {
        let blueprint = self.blueprint();
        let created = self.call(link, &Create(self.parameters(&blueprint))).await?;
        self.complete(link, created).await
    }

    /// Calls the CLI for this session. It may quote a secret in its refusal, which is told to the caller.
    pub(super) async fn call<M: Method>(&self, link: &Link, params: &M) -> Result<M::Output, backend::Error> {
        link.call(params).await.map_err(|error| match error {
            backend::Error::Rejected(rejection) => {
                backend::Error::Rejected(rejection.map(|text| self.blueprint().settings.redact(&text)))
            }
            other => other,
        })
    }

    /// A link that the session is attached to: the one it has, or a new one on which it is resumed first.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session attached without our knowing, and the next call attaches it again.
    pub(super) async fn load(&self, backend: &Backend) -> Result<Arc<Link>, TurnCause> {
        let link = backend.link()?;
        let stored = {
            let state = self.lock();
            match &state.link {
                Some(attached) if attached.id() == link.id() => return Ok(link),
                _ => state.stored,
            }
        };
        debug!(session = %self.id(), "loading the session again");
        match self.resume(&link, stored).await {
            Ok(resumed) => self.complete(&link, resumed).await?,
            // The CLI has not stored it because it holds no message: a new one is the same.
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) if !stored => {
                self.create(&link).await?
            }
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => {
                return Err(TurnCause::NotFound(self.id().clone()));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(link)
    }

    fn parameters<'a>(&'a self, blueprint: &'a Blueprint) -> Parameters<'a> {
        Parameters::new(self.cli_id(), &blueprint.settings)
    }

    /// Resumes it. Right after its last connection has left, the CLI may not find a session for a moment (observed).
    async fn resume(&self, link: &Link, stored: bool) -> Result<Created, backend::Error> {
        let blueprint = self.blueprint();
        let mut tries = if stored { 0..RESUME_TRIES } else { 0..1 };
        loop {
            tries.next();
            let resumed = self.call(link, &Resume(self.parameters(&blueprint))).await;
            match resumed {
                Err(backend::Error::Rejected(Rejection::SessionNotFound)) if !tries.is_empty() => {
                    sleep(RESUME_PAUSE).await;
                }
                resumed => return resumed,
            }
        }
    }

    async fn complete(&self, link: &Arc<Link>, created: Created) -> Result<(), backend::Error> {
        let options = UpdateOptions { session_id: self.cli_id(), options: EmptyOptions::default() };
        self.call(link, &options).await?;
        self.remember(link).await?;
        let title = Some(self.lock()).filter(|state| !state.stored).map(|state| state.title.clone());
        // A session without a message that was made anew: it had its title from its owner.
        if let Some(title) = title.filter(|title| !title.is_empty()) {
            self.name(link, &title).await?;
        }
        let mut state = self.lock();
        if state.create_time.is_empty() {
            state.create_time.clone_from(&created.start_time);
            state.update_time = created.start_time;
        }
        state.link = Some(link.clone());
        Ok(())
    }

    /// Stores with the session what it takes to load it again.
    async fn remember(&self, link: &Link) -> Result<(), backend::Error> {
        // That it is not too long was seen to when the session was made.
        let Some(set) = Record::of(&self.blueprint()).write() else { return Ok(()) };
        let notes = UpdateClientMetadata { session_id: self.cli_id(), set };
        match self.call(link, &notes).await {
            // Older CLIs cannot; GetServerInfo says so.
            Err(backend::Error::Rejected(Rejection::MethodMissing)) => Ok(()),
            stored => stored.map(|_| ()),
        }
    }

    /// Leaves it, so that the CLI closes it.
    pub(super) async fn unload(&self) -> Result<(), backend::Error> {
        let Some(link) = self.lock().link.clone() else { return Ok(()) };
        let session_id = self.cli_id();
        match link.call(&Detach { session_id }).await {
            Err(backend::Error::Rejected(Rejection::MethodMissing)) => {
                link.call(&Destroy { session_id }).await?
            }
            left => left?,
        };
        self.unloaded();
        Ok(())
    }

    /// Whether the CLI neither has the session loaded nor stored. In doubt it does.
    pub(super) async fn is_gone_from_cli(&self) -> bool {
        let Some(link) = self.lock().link.clone() else { return false };
        let session_id = self.cli_id();
        let loaded = link.call(&IsProcessing { session_id }).await;
        matches!(loaded, Err(backend::Error::Rejected(Rejection::SessionNotFound)))
            && link.call(&GetMetadata { session_id }).await.is_ok_and(|metadata| metadata.session.is_none())
    }

    /// The CLI does not have the session loaded any more.
    pub(super) fn unloaded(&self) {
        self.lock().link = None;
    }
}

/// What the CLI tells.
impl Session {
    /// Takes in the parameters of a `session.event` of this session.
    pub(super) fn hear(self: &Arc<Self>, kind: &str, params: &Bytes) {
        if !self.wants(kind) {
            return;
        }
        // A provider may quote the key in its complaints, which are told to whoever uses the session.
        let redacted = may_quote_a_secret(kind)
            .then(|| self.blueprint().settings.redact(&String::from_utf8_lossy(params)));
        match event::parse(redacted.as_ref().map_or(params, String::as_bytes)) {
            Some(event) => self.apply(&Arc::new(event)),
            None => warn!(session = %self.id(), kind, "the CLI sent an event that makes no sense"),
        }
    }

    /// An event of this kind was too large to be taken in.
    pub(super) fn missed(&self, kind: &str) {
        self.with_current(|current| current.missed(kind));
    }

    fn wants(&self, kind: &str) -> bool {
        let mut state = self.lock();
        state.last_heard = Instant::now();
        event::is_known(kind) || state.current.as_ref().is_some_and(|current| current.wants(kind))
    }

    fn apply(self: &Arc<Self>, event: &Arc<Event>) {
        let mut state = self.lock();
        state.note(event);
        if let Payload::PermissionRequested(request) = &event.payload {
            self.answer(&state, request);
        }
        if let Some(current) = &mut state.current {
            current.hear(event);
        }
    }

    /// Answers a permission request. Nobody else does: without an answer the turn would hang for ever.
    fn answer(self: &Arc<Self>, state: &State, request: &PermissionRequested) {
        let Some(link) = state.link.clone() else { return };
        if request.resolved_by_hook {
            return;
        }
        let blueprint = self.blueprint();
        let ceiling = blueprint.profile.as_ref().and_then(|profile| profile.policy.as_ref());
        let decision = blueprint.policy.within(ceiling, request.kind());
        let (session, request_id) = (self.clone(), request.request_id.clone());
        self.tasks.spawn(async move {
            let answer =
                AnswerPermission { session_id: session.cli_id(), request_id: &request_id, result: decision };
            if let Err(error) = link.call(&answer).await {
                warn!(session = %session.id(), %error, "a permission request could not be answered");
            }
        });
    }

    /// The link is gone, and with it what ran on it: the CLI ends a turn when its last connection drops.
    pub(super) fn link_lost(&self, link: LinkId, problem: &str) {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|attached| attached.id() != link) {
            return;
        }
        state.link = None;
        if let Some(current) = &mut state.current {
            current.cut(problem);
        }
    }
}

impl State {
    fn note(&mut self, event: &Event) {
        if !event.ephemeral && !event.timestamp.is_empty() {
            self.update_time.clone_from(&event.timestamp);
        }
        match &event.payload {
            Payload::SessionStart(start) => {
                let text = |pointer| start.pointer(pointer).and_then(Value::as_str);
                if let Some(cwd) = text("/context/cwd") {
                    self.working_directory = cwd.to_owned();
                }
                // Older CLIs do not tell it in their answer to `session.create` (seen on 1.0.70).
                if let Some(start_time) = text("/startTime")
                    && self.create_time.is_empty()
                {
                    self.create_time = start_time.to_owned();
                }
            }
            Payload::SessionTitleChanged(changed) => self.title.clone_from(&changed.title),
            Payload::UserMessage(_) => self.stored = true,
            Payload::SessionShutdown(_) => self.link = None,
            _ => {}
        }
    }
}

/// The queue and the running turn.
impl Session {
    /// Waits in the queue for a moment in which no turn runs.
    ///
    /// # Cancel safety
    /// Dropping it leaves the queue.
    pub(super) async fn place(self: &Arc<Self>, deadline: Deadline) -> Result<Place, Error> {
        let (ticket, granted) = self.join()?;
        let place = Place { session: self.clone(), ticket };
        tokio::select! {
            biased;
            () = self.deleted.cancelled() => Err(Error::NotFound(self.id().clone())),
            _ = granted => Ok(place),
            cause = deadline.passed() => Err(Error::Turn(Arc::new(TurnError::not_delivered(cause)))),
        }
    }

    /// A place in the queue, if nobody has one.
    pub(super) fn try_place(self: &Arc<Self>) -> Option<Place> {
        let (wake, _granted) = oneshot::channel();
        let mut state = self.lock();
        if state.queue.is_busy() {
            return None;
        }
        let (ticket, _) = state.queue.join(wake).ok()?;
        drop(state);
        Some(Place { session: self.clone(), ticket })
    }

    /// How it rests.
    pub(super) fn rest(&self) -> Rest {
        let state = self.lock();
        Rest::since(state.last_heard, state.link.is_some(), state.stored, state.queue.is_busy())
    }

    /// Joins the queue. The receiver fires when it is this turn's time.
    pub(super) fn join(&self) -> Result<(Ticket, oneshot::Receiver<()>), Error> {
        let (wake, granted) = oneshot::channel();
        let mut state = self.lock();
        let waiting = state.queue.count().saturating_sub(1);
        let (ticket, woken) =
            state.queue.join(wake).map_err(|_| Error::QueueFull { session: self.id().clone(), waiting })?;
        wake_up(woken);
        Ok((ticket, granted))
    }

    /// Leaves the queue; if it was this one's time, the next one is woken.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut state = self.lock();
        if let Some(mut current) = state.current.take_if(|current| current.ticket() == ticket) {
            // Concluded it is, unless the task that ran it has come to grief.
            current.fail(TurnCause::Interrupted("the server could not go on with it".into()));
        }
        wake_up(state.queue.leave(ticket));
    }

    /// The session now belongs to this turn.
    pub(super) fn begin(&self, ticket: Ticket, publisher: Publisher<Outcome>) -> Signals {
        let current = Current::new(ticket, publisher);
        let signals = current.signals().clone();
        let mut state = self.lock();
        state.last_heard = Instant::now();
        state.current = Some(current);
        signals
    }

    /// From here on the CLI may have the prompt.
    pub(super) fn sending(&self) {
        self.with_current(Current::sending);
    }

    /// The CLI does not have the session loaded, and so not the prompt.
    pub(super) fn not_sent(&self) {
        self.unloaded();
        self.with_current(Current::not_sent);
    }

    /// The CLI has the prompt, which it got on this link.
    pub(super) fn accepted(&self, message_id: String, link: LinkId) {
        let mut state = self.lock();
        state.stored = true;
        let lost = state.link.as_ref().is_none_or(|attached| attached.id() != link);
        if let Some(current) = &mut state.current {
            current.accepted(message_id);
            // The news of the loss came while it was not known whether the prompt had arrived.
            if lost {
                current.cut(LINK_LOST);
            }
        }
    }

    /// Whether the CLI has the prompt will never be known.
    pub(super) fn unacknowledged(&self) {
        self.with_current(Current::unacknowledged);
    }

    /// The CLI says that the session does nothing.
    pub(super) fn found_idle(&self) {
        self.with_current(Current::found_idle);
    }

    /// The CLI says that it does not have the session loaded.
    pub(super) fn found_unloaded(&self) {
        self.unloaded();
        self.with_current(|current| current.cut(UNLOADED));
    }

    /// Ends the turn for its caller. The first conclusion counts.
    pub(super) fn conclude(&self, cause: TurnCause) {
        self.with_current(|current| current.fail(cause));
    }

    /// Asks for the end of the running turn. `None`: none runs. The id is empty while the prompt is on its way.
    pub(super) fn abort(&self) -> Option<String> {
        self.lock().current.as_ref()?.abort()
    }

    /// What would be told to a caller that stops waiting for a turn now, while the turn goes on.
    pub(super) fn snapshot(&self, ticket: Ticket, cause: TurnCause) -> TurnError {
        let state = self.lock();
        match state.current.as_ref().filter(|current| current.ticket() == ticket) {
            Some(current) => current.error(cause),
            None => TurnError::not_delivered(cause),
        }
    }

    /// How the running turn stands, and when the session last showed a sign of life. `None`: no turn runs.
    pub(super) fn progress(&self) -> Option<(Progress, Instant)> {
        let state = self.lock();
        state.current.as_ref().map(|current| (current.progress(), state.last_heard))
    }

    fn with_current(&self, act: impl FnOnce(&mut Current)) {
        if let Some(current) = &mut self.lock().current {
            act(current);
        }
    }
}

/// How often a stored session is looked for, and the pause between: 0.2 s were observed to be enough.
const RESUME_TRIES: u32 = 5;

/// See [`RESUME_TRIES`].
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// What cut a turn whose link was lost right after its prompt had arrived.
const LINK_LOST: &str = "the connection to the Copilot CLI was lost";

/// Whether events of this kind may hold what a provider says. The agent's own words are left as they are.
pub(super) fn may_quote_a_secret(kind: &str) -> bool {
    matches!(kind, "session.error" | "session.warning") || !event::is_known(kind)
}

/// A place in a session's queue; dropping it leaves the queue, whatever happens to the task.
#[derive(Debug)]
pub(super) struct Place {
    session: Arc<Session>,
    ticket: Ticket,
}

impl Place {
    pub(super) fn new(session: Arc<Session>, ticket: Ticket) -> Self {
        Self { session, ticket }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.session.leave(self.ticket);
    }
}

fn wake_up(waiter: Option<oneshot::Sender<()>>) {
    if let Some(waiter) = waiter {
        // Who has gone meanwhile leaves the queue by itself.
        let _ = waiter.send(());
    }
}
