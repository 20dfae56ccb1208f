//! The queue of a session, and the turn that has it: who is next, what is sent, how it ends.

use std::sync::{Arc, atomic::Ordering};

use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::session::{Session, Stored};
use crate::{
    backend::{Link, LinkId},
    copilot::{Json, Schema, method::FileChange, schema::Unfit},
    session::{
        cleanup::Rest,
        error::Error,
        fanout::{Filter, Scope, Subscriber},
        turn::{
            Active, Deadline, Outcome, Progress, Signals, Ticket, ToFinish, TurnCause, TurnError, TurnResult,
            UNLOADED,
        },
    },
};

/// What cut a turn whose link was lost right after its prompt had arrived.
const LINK_LOST: &str = "the connection to the Copilot CLI was lost";

impl Session {
    /// Waits in the queue for a moment in which no turn runs.
    ///
    /// # Cancel safety
    /// Dropping it leaves the queue.
    pub(in crate::session) async fn place(self: &Arc<Self>, deadline: Deadline) -> Result<Place, Error> {
        let (ticket, granted) = self.join()?;
        let place = Place { session: self.clone(), ticket };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(self.not_here()),
            _ = granted => Ok(place),
            cause = deadline.passed() => Err(Error::Turn(Arc::new(TurnError::not_delivered(cause)))),
        }
    }

    /// A place in the queue, if nobody has one.
    pub(in crate::session) fn try_place(self: &Arc<Self>) -> Option<Place> {
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
    pub(in crate::session) fn rest(&self) -> Rest {
        let state = self.lock();
        Rest::since(state.last_heard, state.link.is_some(), state.queue.is_busy())
    }

    /// Joins the queue. The receiver fires when it is this turn's time.
    pub(in crate::session) fn join(&self) -> Result<(Ticket, oneshot::Receiver<()>), Error> {
        let (wake, granted) = oneshot::channel();
        let mut state = self.lock();
        let waiting = state.queue.count().saturating_sub(1);
        let (ticket, woken) =
            state.queue.join(wake).map_err(|_| Error::QueueFull { session: self.id().clone(), waiting })?;
        wake_up(woken);
        Ok((ticket, granted))
    }

    /// Leaves the queue; if it was this one's time, the next one is woken.
    pub(in crate::session) fn leave(&self, ticket: Ticket) {
        let mut state = self.lock();
        if let Some(current) = state.current.as_mut().filter(|current| current.ticket() == ticket) {
            // Concluded it is, unless the task that ran it has come to grief.
            current.fail(TurnCause::Interrupted("the server could not go on with it".into()));
            state.abandoned |= current.is_abandoned();
            state.conclude();
            state.current = None;
            state.beginning = None;
            state.dedup.at_rest();
        }
        wake_up(state.queue.leave(ticket));
    }

    /// A turn is given up before its time has come.
    pub(in crate::session) fn give_up(&self, ticket: Ticket, cause: TurnCause) -> Arc<TurnError> {
        let mut state = self.lock();
        let error = Arc::new(state.complete(TurnError::not_delivered(cause)));
        state.hub.turn_ended(ticket, &Err(error.clone()));
        error
    }

    /// The session now belongs to this turn.
    pub(in crate::session) fn begin(
        &self,
        ticket: Ticket,
        schema: Option<Schema>,
        repeatable: bool,
    ) -> Signals {
        let promised = repeatable || self.is_archived_first();
        let follows_files = self.blueprint().settings.may_change_files();
        let mut state = self.lock();
        let current = Active::new(ticket, schema, follows_files, promised, state.last_event.clone());
        let signals = current.signals().clone();
        state.last_heard = Instant::now();
        state.current = Some(Box::new(current));
        signals
    }

    /// From here on the CLI may have the prompt.
    pub(in crate::session) fn sending(&self) {
        // The silence until now was not the agent's: the turn may have waited for the CLI.
        let mut state = self.lock();
        state.last_heard = Instant::now();
        // Whoever went on was stopped when the session was attached. What goes on from now on is this turn.
        state.abandoned = false;
        drop(state);
        self.with_current(Active::sending);
    }

    /// The CLI does not have the session loaded, and so not the prompt.
    pub(in crate::session) fn not_sent(&self) {
        self.unloaded();
        self.not_taken();
    }

    /// The CLI surely does not have the prompt.
    pub(in crate::session) fn not_taken(&self) {
        self.with_current(Active::not_sent);
    }

    /// The CLI has the prompt, which it got on this link.
    pub(in crate::session) fn accepted(&self, message_id: String, link: LinkId) {
        let mut state = self.lock();
        state.stored = state.stored.max(Stored::Perhaps);
        let lost = state.link.as_ref().is_none_or(|attached| attached.id() != link);
        if let Some(current) = &mut state.current {
            current.accepted(message_id);
            // The news of the loss came while it was not known whether the prompt had arrived.
            if lost && !current.progress().closed {
                current.cut(LINK_LOST);
            }
        }
        state.conclude();
    }

    /// Whether the CLI has the prompt will never be known.
    pub(in crate::session) fn unacknowledged(&self) {
        self.with_current(Active::unacknowledged);
    }

    /// The CLI says that the session does nothing.
    pub(in crate::session) fn found_idle(&self) {
        self.lock().at_work_on = None;
        self.with_current(Active::found_idle);
    }

    /// The prompt of the turn was taken back from the CLI's queue.
    pub(in crate::session) fn withdrawn(&self, cause: TurnCause) {
        self.with_current(|current| current.withdrawn(cause));
    }

    /// Whether what the agent is at work on is another client's, and the prompt of the turn waits behind it.
    pub(in crate::session) fn another_runs(&self) -> bool {
        let state = self.lock();
        let queued = state.current.as_deref().and_then(Active::queued_message);
        queued.is_some_and(|ours| state.at_work_on.as_deref().is_some_and(|message| message != ours))
    }

    /// The turn's message, if it may wait in the CLI's queue.
    pub(in crate::session) fn queued_message(&self) -> Option<String> {
        self.lock().current.as_deref().and_then(Active::queued_message).map(str::to_owned)
    }

    /// The CLI says that it does not have the session loaded.
    pub(in crate::session) fn found_unloaded(&self) {
        self.unloaded();
        self.with_current(|current| current.cut(UNLOADED));
    }

    /// Ends the turn for its caller. The first conclusion counts.
    pub(in crate::session) fn conclude(&self, cause: TurnCause) {
        self.with_current(|current| current.fail(cause));
    }

    /// Another prompt is to be sent into the turn that runs: which one it is, on which link, and what is heard of it. `None`:
    /// there is none, or it is too late.
    pub(in crate::session) fn steer(&self, filter: &Filter) -> Option<(Ticket, Link, Subscriber<Outcome>)> {
        let mut state = self.lock();
        let link = state.link.clone()?;
        let current = state.current.as_mut()?;
        let ticket = current.ticket();
        current.steer().then(|| (ticket, link, state.subscribe(Scope::Turn(ticket), filter.clone())))
    }

    /// What came of a prompt that was sent into a turn.
    pub(in crate::session) fn steered(&self, ticket: Ticket, message_id: Option<String>) {
        self.with_current(|current| {
            if current.ticket() == ticket {
                current.steered(message_id);
            }
        });
    }

    /// What is to be found out of the running turn, which was answered, before its callers are told.
    pub(in crate::session) fn to_finish(&self) -> Option<ToFinish> {
        self.lock().current.as_ref()?.to_finish()
    }

    /// It was found out.
    pub(in crate::session) fn finished(&self, answer: Option<Result<Json, Unfit>>, files: Vec<FileChange>) {
        self.with_current(|current| current.finished(answer, files));
    }

    /// The answer of the running turn that is to be recorded before its callers are told.
    pub(in crate::session) fn to_record(&self) -> Option<TurnResult> {
        let state = self.lock();
        let answer = state.current.as_deref()?.to_record()?;
        Some(TurnResult { cursor: state.cursor.clone(), ..answer.clone() })
    }

    /// It was recorded, or could not be.
    pub(in crate::session) fn recorded(&self, recorded: Result<(), TurnCause>) {
        self.with_current(|current| current.recorded(recorded));
    }

    /// What the callers of a turn were told that is promised to outlast this process.
    pub(in crate::session) fn told(&self, ticket: Ticket) -> Option<Outcome> {
        self.lock().current.as_mut().filter(|current| current.ticket() == ticket)?.take_told()
    }

    /// The turn whose connection was lost goes on, or not.
    pub(in crate::session) fn reconnected(&self, goes_on: bool) {
        self.with_current(|current| current.reconnected(goes_on));
    }

    /// Whether the agent may be at work on the turn although nothing is awaited of it.
    pub(in crate::session) fn may_go_on(&self) -> bool {
        self.lock().current.as_deref().is_some_and(Active::is_abandoned)
    }

    /// Asks for the end of the running turn, or compaction; with `only` of the turn with this id. `None`: none runs. The id is
    /// empty while the prompt is on its way, and of a compaction.
    pub(in crate::session) fn abort(&self, only: Option<&str>) -> Option<String> {
        let state = self.lock();
        match (&state.compaction, only) {
            (Some(_), Some(_)) => None,
            (Some(compaction), None) => {
                compaction.cancel();
                Some(String::new())
            }
            (None, only) => state.current.as_ref().filter(|current| current.is_turn(only))?.abort(),
        }
    }

    /// What ran may go on although nothing is awaited of it: it is stopped when the session is loaded again.
    pub(in crate::session) fn abandoned(&self) {
        self.lock().abandoned = true;
    }

    /// A compaction has the session's place from now on. Cancelled when it is to end.
    pub(in crate::session) fn compacting(&self) -> CancellationToken {
        let stop = CancellationToken::new();
        self.lock().compaction = Some(Box::new(stop.clone()));
        stop
    }

    /// It is over.
    pub(in crate::session) fn compacted(&self) {
        self.lock().compaction = None;
    }

    /// What would be told to a caller that stops waiting for a turn now, while the turn goes on.
    pub(in crate::session) fn snapshot(&self, ticket: Ticket, cause: TurnCause) -> TurnError {
        let state = self.lock();
        let current = state.current.as_ref().filter(|current| current.ticket() == ticket);
        state.complete(match current {
            Some(current) => current.error(cause),
            None => TurnError::not_delivered(cause),
        })
    }

    /// How the running turn stands, and when the session last showed a sign of life. `None`: no turn runs.
    pub(in crate::session) fn progress(&self) -> Option<(Progress, Instant)> {
        let state = self.lock();
        let waiting = state.asks.is_waiting();
        state.current.as_ref().map(|current| (Progress { waiting, ..current.progress() }, state.last_heard))
    }

    fn with_current(&self, act: impl FnOnce(&mut Active)) {
        let mut state = self.lock();
        if let Some(current) = &mut state.current {
            act(current);
        }
        state.conclude();
    }

    /// The session is deleted: its turns end, and its readers hear of it.
    pub(in crate::session) fn is_deleted(&self) {
        self.gone.cancel();
        self.lock().hub.gone();
    }

    /// The session is another server's by now, or nobody's: its turns end, and its readers hear of it.
    pub(in crate::session) fn has_gone_elsewhere(&self) {
        // One that is deleted stays so.
        if !self.gone.is_cancelled() {
            self.has_moved.store(true, Ordering::Release);
        }
        self.is_deleted();
        // Here, and not when its task comes to it: by then the agent may have told that it was stopped.
        self.with_current(|current| current.fail_unless_through(self.why_gone()));
    }
}

/// A place in a session's queue; dropping it leaves the queue, whatever happens to the task.
#[derive(Debug)]
pub(in crate::session) struct Place {
    session: Arc<Session>,
    ticket: Ticket,
}

impl Place {
    pub(in crate::session) fn new(session: Arc<Session>, ticket: Ticket) -> Self {
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
