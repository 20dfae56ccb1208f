//! A session that the facade knows: what it was created with, who waits in its queue, which turn runs.
//!
//! All of its state is behind one lock that is held for moments only. At rest it is less than 2 KiB, and no task.
//! [`incoming`](super::incoming) is what it hears from the CLI, [`turns`](super::turns) its queue and the turn that runs.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{gap::Gap, means::Means, place::Home, row::Row};
use crate::{
    backend::{Link, LinkId},
    copilot::AgentFailure,
    lock::lock,
    session::{
        asks::{Approvals, Asks},
        blueprint::Blueprint,
        cursor::Cursor,
        error::Error,
        fanout::{Dedup, Hub},
        id::{SessionId, SessionKey},
        summary::{SessionState, Summary},
        turn::{Active, Outcome, Queue, Spent, TurnCause},
    },
    store::Time,
};

/// A session that the facade knows. [`loading`](super::loading) is how it gets into the CLI, and
/// [`asks`](super::asks) what the CLI asks.
#[derive(Debug)]
pub(in crate::session) struct Session {
    pub(super) key: SessionKey,
    /// The id by which the CLI knows it.
    cli_id: Arc<str>,
    pub(in crate::session) means: Arc<Means>,
    pub(super) home: Home,
    pub(super) row: Row,
    /// What it is made of. Its credentials may change; the rest does not.
    pub(super) blueprint: Mutex<Arc<Blueprint>>,
    /// Cancelled when the session is deleted, or another server's.
    pub(super) gone: CancellationToken,
    /// Whether it is another server's, or nobody's, rather than deleted.
    pub(super) has_moved: AtomicBool,
    /// Held while links are attached to the session or leave it, and while it is deleted: one at a time.
    pub(in crate::session) loading: tokio::sync::Mutex<()>,
    /// Held while a keeper link is to be attached to it after it was loaded.
    pub(in crate::session) keeping: Arc<tokio::sync::Mutex<()>>,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(in crate::session) struct State {
    /// The link that the session is attached to.
    pub(in crate::session) link: Option<Link>,
    /// Whether it is to be loaded anew all the same, because it is made of something else by now.
    pub(super) stale: bool,
    pub(in crate::session) create_time: Time,
    pub(in crate::session) update_time: Time,
    /// When the CLI says that it began: another session of its id has another time.
    pub(in crate::session) start_time: String,
    pub(in crate::session) title: String,
    pub(super) working_directory: String,
    pub(in crate::session) stored: Stored,
    /// How often it was made anew because the CLI had lost it with all that there was of it. What was heard before is in no
    /// history.
    pub(in crate::session) made_anew: u32,
    /// Whether the agent may still be at work on a turn that never came to rest: the CLI may not have noticed that the link was
    /// lost.
    pub(in crate::session) abandoned: bool,
    /// Whether the CLI has it in mode "autopilot".
    pub(in crate::session) autopilot: bool,
    pub(super) last_heard: Instant,
    /// What it has cost. Boxed, because at rest most sessions have had nothing yet.
    pub(in crate::session) spent: Option<Box<Spent>>,
    /// What has been heard.
    pub(in crate::session) dedup: Dedup,
    pub(super) queue: Queue<oneshot::Sender<()>>,
    /// Boxed, because it is large, and at rest there is none.
    pub(in crate::session) current: Option<Box<Active>>,
    /// The message that the agent is at work on, whoever sent it; empty if its id is not known.
    pub(in crate::session) at_work_on: Option<Box<str>>,
    /// Ends the compaction that has the session's place. Boxed, because that is rare.
    pub(in crate::session) compaction: Option<Box<CancellationToken>>,
    pub(in crate::session) hub: Hub<Outcome>,
    /// Held while a prompt is on its way and the agent not yet at work on it: see [`Session::begin_prompt`].
    pub(in crate::session) beginning: Option<OwnedMutexGuard<()>>,
    /// When it was last loaded while something was asked in it.
    pub(in crate::session) loaded_at: Option<Instant>,
    pub(in crate::session) asks: Asks,
    /// The MCP servers of which it was told, since the agent last rested, that they do not start.
    pub(super) unstarted: Vec<String>,
    /// What callers have approved for good.
    pub(in crate::session) approvals: Approvals,
    /// After the last stored event.
    pub(super) cursor: Option<Cursor>,
    /// When the latest event happened that was heard.
    pub(super) last_event: String,
    /// Why the last model call failed. It is only needed where the CLI does not say so itself. Boxed, because that is rare.
    pub(in crate::session) call_failed: Option<Box<AgentFailure>>,
    /// The keeper link that is attached to it.
    pub(in crate::session) kept: Option<LinkId>,
    /// What is missing, where the link was lost and the agent goes on. Boxed, because that is rare.
    pub(in crate::session) gap: Option<Box<Gap>>,
}

impl State {
    pub(in crate::session) fn doing(&self) -> SessionState {
        match (&self.link, self.queue.is_busy()) {
            (_, true) if self.asks.is_waiting() => SessionState::Waiting,
            (_, true) => SessionState::Running,
            (None, false) => SessionState::Unloaded,
            // Another client of the CLI has something running in it.
            (Some(_), false) if self.runs_for_others() => SessionState::Running,
            (Some(_), false) => SessionState::Idle,
        }
    }

    /// Whether another client of the CLI has something running in it, as far as was heard.
    pub(in crate::session) fn runs_for_others(&self) -> bool {
        self.at_work_on.is_some() && !self.queue.is_busy()
    }

    /// The CLI does not have the session loaded for us any more.
    pub(in crate::session) fn unloaded(&mut self) {
        self.link = None;
        self.stale = false;
        self.at_work_on = None;
        self.beginning = None;
    }

    /// The CLI has the session loaded, as it is to be.
    pub(in crate::session) fn loaded(&mut self, link: &Link) {
        if self.asks.are_unsettled() {
            self.loaded_at = Some(Instant::now());
        }
        self.link = Some(link.at_rest());
        self.stale = false;
    }

    /// Whether the session can be used as it is on this link.
    pub(in crate::session) fn is_loaded_on(&self, link: LinkId) -> bool {
        !self.stale && self.link.as_ref().is_some_and(|attached| attached.id() == link)
    }
}

/// Whether the CLI has a session on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::session) enum Stored {
    /// It holds no message: such a session the CLI does not store.
    No,
    /// Its first turn has begun. A CLI that is killed in it may not have come to storing it (observed).
    Perhaps,
    /// It was found there, or a turn of it has ended.
    Yes,
}

impl Session {
    pub(in crate::session) fn new(
        key: SessionKey,
        cli_id: Arc<str>,
        blueprint: Blueprint,
        home: Home,
        means: Arc<Means>,
    ) -> Self {
        let working_directory = blueprint.settings.working_directory.clone().unwrap_or_default();
        Self {
            key,
            cli_id,
            home,
            row: Row::default(),
            blueprint: Mutex::new(Arc::new(blueprint)),
            gone: CancellationToken::new(),
            has_moved: AtomicBool::new(false),
            loading: tokio::sync::Mutex::default(),
            keeping: Arc::default(),
            state: Mutex::new(State {
                link: None,
                beginning: None,
                spent: None,
                loaded_at: None,
                stale: false,
                create_time: Time::default(),
                update_time: Time::default(),
                start_time: String::new(),
                title: String::new(),
                working_directory,
                stored: Stored::No,
                made_anew: 0,
                abandoned: false,
                autopilot: false,
                last_heard: Instant::now(),
                dedup: Dedup::default(),
                queue: Queue::new(means.max_queued_turns),
                current: None,
                at_work_on: None,
                compaction: None,
                hub: Hub::new(means.budget.clone()),
                asks: Asks::default(),
                unstarted: Vec::new(),
                approvals: Approvals::default(),
                cursor: None,
                last_event: String::new(),
                call_failed: None,
                kept: None,
                gap: None,
            }),
            means,
        }
    }

    /// What it is made of.
    pub(in crate::session) fn blueprint(&self) -> Arc<Blueprint> {
        lock(&self.blueprint).clone()
    }

    /// Changes what it is made of, while no turn runs. It takes effect when the session is loaded again, which is next.
    pub(in crate::session) fn rebuild(&self, blueprint: Blueprint) {
        self.redraw(blueprint);
        self.lock().stale = true;
    }

    pub(in crate::session) fn redraw(&self, blueprint: Blueprint) {
        *lock(&self.blueprint) = Arc::new(blueprint);
    }

    pub(in crate::session) fn lock(&self) -> MutexGuard<'_, State> {
        // Poisoned means that a bug was reported elsewhere; the state is valid after every statement.
        lock(&self.state)
    }

    pub(in crate::session) fn key(&self) -> &SessionKey {
        &self.key
    }

    pub(in crate::session) fn id(&self) -> &SessionId {
        self.key.id()
    }

    pub(in crate::session) fn cli_id(&self) -> &str {
        &self.cli_id
    }

    pub(in crate::session) fn shared_cli_id(&self) -> Arc<str> {
        self.cli_id.clone()
    }

    /// Cancelled when it is deleted, or another server's.
    pub(in crate::session) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Why a turn ends whose session is gone.
    pub(in crate::session) fn why_gone(&self) -> TurnCause {
        match self.has_moved.load(Ordering::Acquire) {
            true => TurnCause::Moved(self.id().clone()),
            false => TurnCause::Deleted,
        }
    }

    /// Why a call fails whose session is gone.
    pub(in crate::session) fn not_here(&self) -> Error {
        match self.has_moved.load(Ordering::Acquire) {
            true => Error::Moved(self.id().clone()),
            false => Error::NotFound(self.id().clone()),
        }
    }

    /// Where its tasks run.
    pub(in crate::session) fn tasks(&self) -> &TaskTracker {
        &self.means.tasks
    }

    pub(in crate::session) fn summary(&self) -> Summary {
        let blueprint = self.blueprint();
        let state = self.lock();
        Summary {
            id: self.id().clone(),
            model: blueprint.settings.model.clone().unwrap_or_default(),
            reasoning_effort: blueprint.settings.reasoning_effort.clone().unwrap_or_default(),
            labels: blueprint.labels.clone(),
            owner: blueprint.owner.clone(),
            state: state.doing(),
            title: state.title.clone(),
            create_time: state.create_time,
            update_time: state.update_time,
            working_directory: state.working_directory.clone(),
            profile: blueprint.profile.as_ref().map(|profile| profile.name.clone()).unwrap_or_default(),
        }
    }

    /// The link that it is attached to.
    pub(in crate::session) fn attached(&self) -> Option<Link> {
        self.lock().link.clone()
    }

    /// The same to be called on, if it is not lost.
    pub(in crate::session) fn reachable(&self) -> Option<Arc<Link>> {
        self.lock().link.as_ref().filter(|link| link.loss().is_none()).map(Link::in_use)
    }

    /// Whether the agent goes on if the link is lost.
    pub(in crate::session) fn is_kept(&self) -> bool {
        self.lock().kept.is_some()
    }

    pub(in crate::session) fn is_loaded(&self) -> bool {
        self.lock().link.is_some()
    }

    /// Ends readers that hold too much, of whatever session, if all together do.
    pub(in crate::session) fn relieve(&self) {
        let budget = self.lock().hub.budget().clone();
        budget.relieve();
    }

    /// How many turns are in the queue, the running one included.
    pub(in crate::session) fn queued(&self) -> usize {
        self.lock().queue.count()
    }
}
