//! A session that the facade knows: what it was created with, who waits in its queue, which turn runs.
//!
//! All of its state is behind one lock that is held for moments only. At rest it is a few hundred bytes, and no task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    approvals::Approvals,
    blueprint::Blueprint,
    current::{Current, Outcome, Progress, Signals, UNLOADED},
    error::{Error, TurnCause, TurnError},
    home::Home,
    hub::{Audience, Cursor, Filter, Hub, Scope, Subscriber, Update},
    janitor::Rest,
    keeping::Gap,
    key::{SessionId, SessionKey},
    list::{SessionState, Summary},
    queue::{Queue, Ticket},
    replay::Replay,
    requests::Requests,
    runner::Deadline,
    schema::Schema,
};
use crate::{
    backend::{Link, LinkId},
    copilot::{
        Event, answer,
        event::{self, Payload},
        method::Entry,
    },
};

/// A session that the facade knows. [`loading`](super::loading) is how it gets into the CLI, and
/// [`asking`](super::asking) what the CLI asks.
#[derive(Debug)]
pub(super) struct Session {
    key: SessionKey,
    pub(super) home: Home,
    /// What it is made of. Its credentials may change; the rest does not.
    blueprint: Mutex<Arc<Blueprint>>,
    /// Cancelled when the session is deleted.
    deleted: CancellationToken,
    /// Where the answers to the CLI's requests are given.
    tasks: TaskTracker,
    /// Held while links are attached to the session or leave it, and while it is deleted: one at a time.
    pub(super) loading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// The link that the session is attached to.
    pub(super) link: Option<Arc<Link>>,
    pub(super) create_time: String,
    pub(super) update_time: String,
    pub(super) title: String,
    working_directory: String,
    pub(super) stored: Stored,
    /// Whether the agent may still be at work on a turn that never came to rest: the CLI may not have noticed that the link was
    /// lost.
    pub(super) abandoned: bool,
    /// Whether the CLI has it in mode "autopilot".
    pub(super) autopilot: bool,
    last_heard: Instant,
    /// What has been heard.
    pub(super) replay: Replay,
    queue: Queue<oneshot::Sender<()>>,
    /// Boxed, because it is large, and at rest there is none.
    pub(super) current: Option<Box<Current>>,
    pub(super) hub: Hub<Outcome>,
    pub(super) requests: Requests,
    /// What callers have approved for good.
    pub(super) approvals: Approvals,
    /// After the last stored event.
    cursor: Option<Cursor>,
    /// When the latest event happened that was heard.
    last_event: String,
    /// The same when the turn began: all of its events are later, or of the same moment.
    before_turn: String,
    /// The keeper link that is attached to it.
    pub(super) kept: Option<LinkId>,
    /// What is missing, where the link was lost and the agent goes on.
    pub(super) gap: Option<Gap>,
}

/// Whether the CLI has a session on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stored {
    /// It holds no message: such a session the CLI does not store.
    No,
    /// Its first turn has begun. A CLI that is killed in it may not have come to storing it (observed).
    Perhaps,
    /// It was found there, or a turn of it has ended.
    Yes,
}

impl Session {
    pub(super) fn new(
        key: SessionKey,
        blueprint: Blueprint,
        max_queued: usize,
        home: Home,
        tasks: TaskTracker,
    ) -> Self {
        let working_directory = blueprint.settings.working_directory.clone().unwrap_or_default();
        Self {
            key,
            home,
            blueprint: Mutex::new(Arc::new(blueprint)),
            deleted: CancellationToken::new(),
            tasks,
            loading: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                link: None,
                create_time: String::new(),
                update_time: String::new(),
                title: String::new(),
                working_directory,
                stored: Stored::No,
                abandoned: false,
                autopilot: false,
                last_heard: Instant::now(),
                replay: Replay::default(),
                queue: Queue::new(max_queued),
                current: None,
                hub: Hub::default(),
                requests: Requests::default(),
                approvals: Approvals::default(),
                cursor: None,
                last_event: String::new(),
                before_turn: String::new(),
                kept: None,
                gap: None,
            }),
        }
    }

    /// One that the CLI has stored, and that has been found again.
    pub(super) fn found(self, entry: Entry) -> Self {
        let mut state = self.lock();
        state.stored = if entry.unstored { Stored::No } else { Stored::Yes };
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

    pub(super) fn redraw(&self, blueprint: Blueprint) {
        *self.blueprint.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(blueprint);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
            (_, true) if state.requests.is_waiting() => SessionState::Waiting,
            (_, true) => SessionState::Running,
            (Some(_), false) => SessionState::Idle,
            (None, false) => SessionState::Unloaded,
        };
        Summary {
            id: self.id().clone(),
            model: blueprint.settings.model.clone().unwrap_or_default(),
            labels: blueprint.labels.clone(),
            owner: blueprint.owner.clone(),
            state: doing,
            title: state.title.clone(),
            create_time: state.create_time.clone(),
            update_time: state.update_time.clone(),
            working_directory: state.working_directory.clone(),
            profile: blueprint.profile.as_ref().map(|profile| profile.name.clone()).unwrap_or_default(),
        }
    }

    /// The link that it is attached to.
    pub(super) fn attached(&self) -> Option<Arc<Link>> {
        self.lock().link.clone()
    }

    /// Whether the agent goes on if the link is lost.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().kept.is_some()
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.lock().link.is_some()
    }

    /// How many turns are in the queue, the running one included.
    pub(super) fn queued(&self) -> usize {
        self.lock().queue.count()
    }
}

/// What the CLI tells.
impl Session {
    /// Takes in the parameters of a `session.event` of this session. False: they make no sense.
    pub(super) fn hear(self: &Arc<Self>, kind: &str, params: &[u8]) -> bool {
        if !self.wants(kind) {
            return true;
        }
        // A provider may quote the key in its complaints, which are told to whoever uses the session.
        let redacted = may_quote_a_secret(kind)
            .then(|| self.blueprint().settings.redact(&String::from_utf8_lossy(params)));
        let event = event::parse(redacted.as_ref().map_or(params, String::as_bytes));
        let makes_sense = event.is_some();
        if let Some(event) = event {
            self.apply(&Arc::new(event));
        }
        makes_sense
    }

    /// An event of this kind was too large to be taken in: who wants it hears that something is missing.
    pub(super) fn missed(&self, kind: &str) {
        let state = self.lock();
        state.hub.cut_off(kind, state.audience(kind));
    }

    fn wants(&self, kind: &str) -> bool {
        let mut state = self.lock();
        state.last_heard = Instant::now();
        event::is_known(kind) || state.hub.wants(kind, state.audience(kind))
    }

    fn apply(self: &Arc<Self>, event: &Arc<Event>) {
        let mut state = self.lock();
        match &mut state.gap {
            Some(gap) => gap.hold(event.clone()),
            None => self.apply_to(&mut state, event),
        }
    }

    pub(super) fn apply_to(self: &Arc<Self>, state: &mut State, event: &Arc<Event>) {
        let (rest, event) = state.replay.admit(event);
        for event in rest.into_iter().chain(event) {
            state.note(&event);
            let was_waiting = state.requests.is_waiting();
            let todo = self.to_do(state, &event);
            let update = state.publish(self.id(), event, todo.is_asked());
            self.take_up(state, todo, &update);
            if let Some(current) = &mut state.current {
                current.hear(&update.event);
            }
            if state.requests.is_waiting() != was_waiting {
                state.changed();
            }
            state.conclude();
        }
    }

    /// The link is gone. With a keeper link the agent goes on; without one the CLI ends what ran, and only a turn that waits
    /// for an answer it takes up again.
    pub(super) fn link_lost(&self, link: LinkId, problem: &str) {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|attached| attached.id() != link) {
            return;
        }
        state.link = None;
        // A turn that has not been sent yet loses nothing: it is sent on the new link.
        if state.kept.is_some() && state.current.as_deref().is_some_and(Current::is_sent) {
            state.open_gap();
            if let Some(current) = &mut state.current {
                current.adrift(problem);
            }
            return;
        }
        state.hub.link_lost();
        let survives = state.requests.outlive_link();
        if let Some(current) = &mut state.current {
            if survives && current.is_under_way() {
                current.adrift(problem);
            } else {
                current.cut(problem);
            }
        }
        state.conclude();
    }
}

impl State {
    /// From now on it is not heard all that happens in the turn.
    pub(super) fn open_gap(&mut self) {
        self.gap = Some(Gap::since(&self.before_turn));
    }

    fn note(&mut self, event: &Event) {
        // The CLI's events are not strictly in the order of their times.
        if self.last_event < event.timestamp {
            self.last_event.clone_from(&event.timestamp);
        }
        // That somebody attached to it is no news of the conversation.
        let is_news = !matches!(event.payload, Payload::SessionResume(_));
        if is_news && !event.ephemeral && !event.timestamp.is_empty() {
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
            Payload::SessionModeChanged(changed) => {
                self.autopilot = event::text(changed, "newMode") == "autopilot"
            }
            Payload::UserMessage(_) => self.stored = self.stored.max(Stored::Perhaps),
            Payload::SessionShutdown(_) => self.link = None,
            Payload::SessionIdle(_) => {
                self.replay.at_rest();
                if self.stored == Stored::Perhaps {
                    self.stored = Stored::Yes;
                }
            }
            _ => {}
        }
    }

    /// Those who hear of an event of this kind, if it is not for everybody.
    fn audience(&self, kind: &str) -> Audience {
        let running = self.current.as_deref().filter(|current| current.can_have(kind));
        Audience::Turn(running.map(Current::ticket))
    }

    /// Tells the readers of an event.
    fn publish(&mut self, session: &SessionId, event: Arc<Event>, asks: bool) -> Update {
        // A repeated system message is sent as a stored event, but is not stored (observed).
        if !event.ephemeral && !event.id.is_empty() && event.kind != "system.message" {
            self.cursor = Some(Cursor::after(session, &event.id));
        }
        let request = asks || answer::completed(&event.payload).is_some();
        let audience = if request { Audience::Everybody } else { self.audience(&event.kind) };
        let update = Update { event, cursor: self.cursor.clone(), asks };
        self.hub.publish(&update, audience);
        update
    }

    /// A request is about to be answered: only from now on is the agent's silence its own.
    pub(super) fn answering(&mut self) {
        self.last_heard = Instant::now();
        self.changed();
    }

    /// Whoever runs the turn has to look at it.
    fn changed(&self) {
        if let Some(current) = &self.current {
            current.signals().changed.notify_one();
        }
    }

    /// Tells how the running turn has ended, if it has and nobody was told.
    pub(super) fn conclude(&mut self) {
        let Some(current) = &mut self.current else { return };
        let Some(outcome) = current.take_outcome() else { return };
        let ticket = current.ticket();
        let outcome = match outcome {
            Ok(mut result) => {
                result.cursor.clone_from(&self.cursor);
                Ok(Arc::new(result))
            }
            Err(error) => Err(Arc::new(self.complete(error))),
        };
        self.requests.withdraw_all();
        self.hub.turn_ended(ticket, &outcome);
    }

    /// Adds what the turn does not know.
    fn complete(&self, mut error: TurnError) -> TurnError {
        error.remains.cursor.clone_from(&self.cursor);
        error.remains.open_requests = self.requests.ids();
        error
    }

    /// A reader, which first of all hears of the requests that are open.
    pub(super) fn subscribe(&mut self, scope: Scope, filter: Filter) -> Subscriber<Outcome> {
        let subscriber = self.hub.subscribe(scope, filter);
        self.requests.updates().for_each(|update| subscriber.push(update));
        subscriber
    }

    /// After the last stored event; `None` if the session was not loaded yet.
    pub(super) fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
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
        Rest::since(state.last_heard, state.link.is_some(), state.stored != Stored::No, state.queue.is_busy())
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
        if let Some(current) = state.current.as_mut().filter(|current| current.ticket() == ticket) {
            // Concluded it is, unless the task that ran it has come to grief.
            current.fail(TurnCause::Interrupted("the server could not go on with it".into()));
            state.abandoned |= current.is_abandoned();
            state.conclude();
            state.current = None;
            state.replay.at_rest();
        }
        wake_up(state.queue.leave(ticket));
    }

    /// A turn is given up before its time has come.
    pub(super) fn give_up(&self, ticket: Ticket, cause: TurnCause) {
        let mut state = self.lock();
        let error = state.complete(TurnError::not_delivered(cause));
        state.hub.turn_ended(ticket, &Err(Arc::new(error)));
    }

    /// The session now belongs to this turn.
    pub(super) fn begin(&self, ticket: Ticket, schema: Option<Schema>) -> Signals {
        let current = Current::new(ticket, schema);
        let signals = current.signals().clone();
        let mut state = self.lock();
        state.last_heard = Instant::now();
        state.before_turn = state.last_event.clone();
        state.current = Some(Box::new(current));
        signals
    }

    /// From here on the CLI may have the prompt.
    pub(super) fn sending(&self) {
        // The silence until now was not the agent's: the turn may have waited for the CLI.
        let mut state = self.lock();
        state.last_heard = Instant::now();
        // Whoever went on was stopped when the session was attached. What goes on from now on is this turn.
        state.abandoned = false;
        drop(state);
        self.with_current(Current::sending);
    }

    /// The CLI does not have the session loaded, and so not the prompt.
    pub(super) fn not_sent(&self) {
        self.unloaded();
        self.not_taken();
    }

    /// The CLI surely does not have the prompt.
    pub(super) fn not_taken(&self) {
        self.with_current(Current::not_sent);
    }

    /// The CLI has the prompt, which it got on this link.
    pub(super) fn accepted(&self, message_id: String, link: LinkId) {
        let mut state = self.lock();
        state.stored = state.stored.max(Stored::Perhaps);
        let lost = state.link.as_ref().is_none_or(|attached| attached.id() != link);
        if let Some(current) = &mut state.current {
            current.accepted(message_id);
            // The news of the loss came while it was not known whether the prompt had arrived.
            if lost {
                current.cut(LINK_LOST);
            }
        }
        state.conclude();
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

    /// Another prompt is to be sent into the turn that runs: which one it is, on which link, and what is heard of it. `None`:
    /// there is none, or it is too late.
    pub(super) fn steer(&self, filter: &Filter) -> Option<(Ticket, Arc<Link>, Subscriber<Outcome>)> {
        let mut state = self.lock();
        let link = state.link.clone()?;
        let current = state.current.as_mut()?;
        let ticket = current.ticket();
        current.steer().then(|| (ticket, link, state.subscribe(Scope::Turn(ticket), filter.clone())))
    }

    /// What came of a prompt that was sent into a turn.
    pub(super) fn steered(&self, ticket: Ticket, message_id: Option<String>) {
        self.with_current(|current| {
            if current.ticket() == ticket {
                current.steered(message_id);
            }
        });
    }

    /// The turn whose connection was lost goes on, or not.
    pub(super) fn landed(&self, goes_on: bool) {
        self.with_current(|current| current.landed(goes_on));
    }

    /// Whether the agent may be at work on the turn although nothing is awaited of it.
    pub(super) fn may_go_on(&self) -> bool {
        self.lock().current.as_deref().is_some_and(Current::is_abandoned)
    }

    /// Asks for the end of the running turn. `None`: none runs. The id is empty while the prompt is on its way.
    pub(super) fn abort(&self) -> Option<String> {
        self.lock().current.as_ref()?.abort()
    }

    /// What would be told to a caller that stops waiting for a turn now, while the turn goes on.
    pub(super) fn snapshot(&self, ticket: Ticket, cause: TurnCause) -> TurnError {
        let state = self.lock();
        let current = state.current.as_ref().filter(|current| current.ticket() == ticket);
        state.complete(match current {
            Some(current) => current.error(cause),
            None => TurnError::not_delivered(cause),
        })
    }

    /// How the running turn stands, and when the session last showed a sign of life. `None`: no turn runs.
    pub(super) fn progress(&self) -> Option<(Progress, Instant)> {
        let state = self.lock();
        let waiting = state.requests.is_waiting();
        state.current.as_ref().map(|current| (Progress { waiting, ..current.progress() }, state.last_heard))
    }

    fn with_current(&self, act: impl FnOnce(&mut Current)) {
        let mut state = self.lock();
        if let Some(current) = &mut state.current {
            act(current);
        }
        state.conclude();
    }

    /// The session is deleted: its turns end, and its readers hear of it.
    pub(super) fn gone(&self) {
        self.deleted.cancel();
        self.lock().hub.gone();
    }
}

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
