//! Runs one turn: waits for its time, sends the prompt, watches the clock, and brings the session to rest again.
//!
//! A turn has a task from the moment it is accepted until the next one may start. The task outlives the call where it
//! must: an agent that was given up has to be stopped, and its `session.idle` awaited, before the next prompt is sent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    current::{Outcome, Signals},
    error::{TurnCause, TurnError},
    hub::Publisher,
    live::{Place, Session},
    queue::Ticket,
    registry::Registry,
};
use crate::{
    backend::{self, Backend, Link},
    copilot::{
        Message, Rejection,
        method::{Abort, IsProcessing, Processing, Send, Sent},
    },
};

/// After so much silence the CLI is asked whether it is still busy: its `session.idle` may have been lost.
const WATCHDOG: Duration = Duration::from_secs(5);

/// The same while only that idle is awaited: the next turn waits for it.
const SETTLE_CHECK: Duration = Duration::from_millis(500);

/// How long a session may take to come to rest. After that the next turn is sent to it regardless.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// How long small calls to the CLI may take; it answers them within milliseconds.
const SMALL_CALL: Duration = Duration::from_secs(10);

/// A moment, and how long it was until then.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// The moment that comes after so much time. More than a year is taken as a year.
    pub fn after(after: Duration) -> Self {
        let after = after.min(Duration::from_secs(365 * 24 * 3600));
        Self { at: Instant::now() + after, after }
    }

    /// The later of two.
    pub(super) fn later(self, other: Self) -> Self {
        if self.at >= other.at { self } else { other }
    }

    /// Resolves at that moment.
    pub async fn passed(self) -> TurnCause {
        sleep_until(self.at).await;
        TurnCause::Timeout(self.after)
    }
}

/// Runs one turn.
pub(super) struct Runner {
    pub(super) registry: Arc<Registry>,
    pub(super) session: Arc<Session>,
    pub(super) backend: Backend,
    pub(super) message: Message,
    /// When the turn is given up.
    pub(super) deadline: Deadline,
    /// How long the agent may be silent while no tool runs.
    pub(super) inactivity: Option<Duration>,
    /// Cancelled when the caller has gone.
    pub(super) caller_gone: CancellationToken,
    /// Cancelled when the server cannot wait any longer.
    pub(super) shutdown: CancellationToken,
}

impl Runner {
    /// Runs the turn that holds `ticket`, whose time comes when `granted` fires.
    pub(super) async fn run(
        self,
        ticket: Ticket,
        granted: oneshot::Receiver<()>,
        publisher: Publisher<Outcome>,
    ) {
        let _place = Place::new(self.session.clone(), ticket);
        // Only the turn that has the session can be asked to end; until then nobody knows of these.
        let waiting = Signals::default();
        if let Err(cause) = self.unless_stopped(&waiting, async { drop(granted.await) }).await {
            return publisher.finish(Err(Arc::new(TurnError::not_delivered(cause))));
        }
        let turn = self.session.begin(ticket, publisher);
        let Some(link) = self.deliver(&turn).await else { return };
        if let Err(cause) = self.unless_stopped(&turn, self.agent_ends(&link, &turn)).await.flatten() {
            self.session.conclude(cause);
        }
        self.settle(&link, &turn).await;
    }

    /// Does something, unless there is a reason first to give the turn up.
    async fn unless_stopped<T>(&self, turn: &Signals, act: impl Future<Output = T>) -> Result<T, TurnCause> {
        tokio::select! {
            // What is done is done: a result beats a reason to stop that comes at the same moment.
            biased;
            done = act => Ok(done),
            () = self.session.deleted().cancelled() => Err(TurnCause::Deleted),
            () = turn.abort.cancelled() => Err(TurnCause::Aborted),
            () = self.caller_gone.cancelled() => Err(TurnCause::Cancelled),
            () = self.shutdown.cancelled() => Err(TurnCause::Draining),
            timeout = self.deadline.passed() => Err(timeout),
        }
    }

    /// Loads the session if need be, and sends the prompt. `None`: it was not delivered, and the turn is concluded; in all
    /// other cases the agent may be at work.
    async fn deliver(&self, turn: &Signals) -> Option<Arc<Link>> {
        let mut tries = 0..2;
        while tries.next().is_some() {
            let link = match self.unless_stopped(turn, self.session.load(&self.backend)).await.flatten() {
                Ok(link) => link,
                Err(cause) => {
                    if let TurnCause::NotFound(_) = cause {
                        self.registry.forget(&self.session);
                    }
                    self.session.conclude(cause);
                    break;
                }
            };
            match self.send(&link, turn).await {
                Ok(Sent { message_id }) => {
                    self.session.accepted(message_id, link.id());
                    return Some(link);
                }
                // The CLI had unloaded it without a word: it was not delivered, so it may be sent again.
                Err(backend::Error::Rejected(Rejection::SessionNotFound)) if !tries.is_empty() => {
                    debug!(session = %self.session.id(), "the CLI had unloaded the session");
                    self.session.not_sent();
                }
                Err(error) => {
                    // Where the link is lost, so is the agent.
                    let lost = matches!(error, backend::Error::Lost { .. });
                    let at_work = error.may_have_been_delivered() && !lost;
                    self.session.conclude(error.into());
                    self.session.unacknowledged();
                    return at_work.then_some(link);
                }
            }
        }
        None
    }

    /// A prompt that is on its way cannot be called back: if the turn is given up meanwhile, its caller hears at once,
    /// but whether there is an agent to stop is known only when the CLI has answered.
    async fn send(&self, link: &Link, turn: &Signals) -> Result<Sent, backend::Error> {
        let prompt = Send { session_id: self.session.cli_id(), message: &self.message };
        self.session.sending();
        let mut sent = std::pin::pin!(self.session.call(link, &prompt));
        match self.unless_stopped(turn, sent.as_mut()).await {
            Ok(result) => result,
            Err(cause) => {
                self.session.conclude(cause);
                sent.await
            }
        }
    }

    /// Resolves when the turn is concluded; with an error if it should be, because the agent is silent for too long.
    async fn agent_ends(&self, link: &Link, turn: &Signals) -> Result<(), TurnCause> {
        let mut checked = Instant::now();
        loop {
            let Some((progress, last_heard)) = self.session.progress().filter(|(now, _)| !now.concluded)
            else {
                return Ok(());
            };
            let patience = self.inactivity.filter(|_| !progress.tool_running);
            if let Some(patience) = patience
                && last_heard.elapsed() >= patience
            {
                return Err(TurnCause::Inactive(patience));
            }
            let check_at = last_heard.max(checked) + WATCHDOG;
            let give_up_at = patience.map(|patience| last_heard + patience);
            tokio::select! {
                () = turn.changed.notified() => {}
                () = sleep_until(give_up_at.unwrap_or(check_at)), if give_up_at.is_some() => {}
                () = sleep_until(check_at) => {
                    checked = Instant::now();
                    // A CLI that is frozen does not answer this either.
                    let _ = timeout_at(give_up_at.unwrap_or(checked + SMALL_CALL), self.check(link)).await;
                }
            }
        }
    }

    /// Brings the session to rest, so that nothing which still comes can be taken for the next turn's.
    async fn settle(&self, link: &Link, turn: &Signals) {
        let limit = Instant::now() + SETTLE_LIMIT;
        while Instant::now() < limit {
            let Some((progress, _)) = self.session.progress().filter(|(now, _)| !now.settled) else { return };
            if progress.agent_running {
                let abort = Abort { session_id: self.session.cli_id() };
                if let Err(error) = link.call_within(SMALL_CALL, &abort).await {
                    debug!(session = %self.session.id(), %error, "the agent could not be stopped");
                }
            }
            // The answer to `session.abort` comes after the idle that it causes, so this mostly does not wait.
            if timeout(SETTLE_CHECK, turn.changed.notified()).await.is_err() {
                self.check(link).await;
            }
        }
        warn!(session = %self.session.id(), "the session did not come to rest; its next turn starts regardless");
    }

    /// Asks the CLI whether the session is still busy.
    async fn check(&self, link: &Link) {
        let question = IsProcessing { session_id: self.session.cli_id() };
        match link.call_within(SMALL_CALL, &question).await {
            Ok(Processing { processing: true }) => {}
            Ok(Processing { processing: false }) => self.session.found_idle(),
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => self.session.found_unloaded(),
            Err(error) => {
                debug!(session = %self.session.id(), %error, "the CLI does not say whether it is busy")
            }
        }
    }
}
