//! Runs one turn: waits for its time in the session, and for the CLI to have room for it, sends the prompt, watches the clock,
//! and brings the session to rest again.
//!
//! A turn has a task from the moment it is accepted until the next one may start. The task outlives the call where it
//! must: an agent that was given up has to be stopped, and its `session.idle` awaited, before the next prompt is sent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    backend::{self, Link, admission::Entry},
    copilot::{
        Message, Rejection, Schema,
        method::{Send, Sent},
    },
    session::{
        live::{Archive, Claimed, Owed, Place, SMALL_CALL, Session, Stopped},
        registry::Registry,
        turn::{
            Delivery, Outcome, Progress, SharedDeadline, Signals, Ticket, ToFinish, TurnCause, TurnResult,
            recorded, schema,
        },
    },
    store::{self, Ended, Store},
};

/// After so much silence the CLI is asked whether it is still busy: its `session.idle` may have been lost.
const WATCHDOG: Duration = Duration::from_secs(5);

/// The same while only that idle is awaited: the next turn waits for it.
const SETTLE_CHECK: Duration = Duration::from_millis(500);

/// How long a session may take to come to rest. After that the next turn is sent to it regardless.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// The pause before a session whose agent goes on is tried to be loaded again.
const RELOAD_PAUSE: Duration = Duration::from_millis(200);

/// How often what is new in a session's folder goes into the archive while a turn runs.
const ARCHIVE_EVERY: Duration = Duration::from_secs(5);

/// The pause before an answer is recorded once more.
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// How long the caller of a turn that is given up before its deadline waits for its prompt to be withdrawn.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(1);

/// Runs one turn.
pub(super) struct Runner {
    pub(super) registry: Arc<Registry>,
    pub(super) session: Arc<Session>,
    /// Its part in what the CLI does at once, to be held until the session has come to rest.
    pub(super) entry: Entry,
    /// The request that it is, if it may be repeated.
    pub(super) request: Option<Arc<Claimed>>,
    pub(super) message: Message,
    /// Whether the agent goes on by itself until it has done what it was told.
    pub(super) autopilot: bool,
    /// What the answer must look like.
    pub(super) schema: Option<Schema>,
    /// When the turn is given up.
    pub(super) deadline: Arc<SharedDeadline>,
    /// How long the agent may be silent while no tool runs.
    pub(super) inactivity: Option<Duration>,
    /// Cancelled when the caller has gone.
    pub(super) caller_gone: CancellationToken,
    /// Cancelled when somebody has it stopped, whether it runs or waits.
    pub(super) aborted: CancellationToken,
    /// Cancelled when the server cannot wait any longer.
    pub(super) shutdown: CancellationToken,
    /// To be cancelled when the CLI has the prompt.
    pub(super) delivered: CancellationToken,
    /// Held while its end is on the way to the store: what comes of that decides how it has ended.
    pub(super) recording: Mutex<()>,
}

impl Runner {
    /// Runs the turn that holds `ticket`, whose time comes when `granted` fires.
    pub(super) async fn run(self, ticket: Ticket, granted: oneshot::Receiver<()>) {
        let _place = Place::new(self.session.clone(), ticket);
        // Only the turn that has the session can be asked to end; until then nobody knows of these.
        let waiting = Signals::default();
        if let Err(cause) = self.unless_stopped(&waiting, async { drop(granted.await) }).await {
            return self.record_failure(Some(Err(self.session.give_up(ticket, cause))));
        }
        match self.run_in_its_time(ticket).await {
            Some(answer) => self.owe(answer),
            None => self.record_failure(self.session.told(ticket)),
        }
    }

    /// Gives an answer that has not been recorded, because its callers could not wait for that any longer.
    async fn run_in_its_time(&self, ticket: Ticket) -> Option<TurnResult> {
        // It has its session while it waits for the CLI, so that it can be stopped like one that runs.
        let turn = self.session.begin(ticket, self.schema.clone(), self.request.is_some());
        if let Err(cause) = self.unless_stopped(&turn, self.entry.admitted()).await {
            self.session.conclude(cause);
            return None;
        }
        let mut link = self.deliver(&turn).await?;
        let mut unrecorded = None;
        if let Err(cause) = self.unless_stopped(&turn, self.agent_ends(&mut link, &turn)).await.flatten() {
            // It has run, and must not be run again.
            unrecorded = self.session.to_record();
            self.give_up(&link, cause).await;
        }
        self.settle(&turn).await;
        unrecorded
    }

    /// Gives the turn up. A prompt that waits in the CLI's queue is withdrawn before its caller hears of it, as far as there is
    /// time: then it never runs. If not, it is told that the CLI has it.
    async fn give_up(&self, link: &Link, cause: TurnCause) {
        let limit = self.deadline.get().at().min(Instant::now() + WITHDRAW_LIMIT);
        match timeout_at(limit, self.session.withdraw(link)).await {
            Ok(Ok(true)) => self.session.withdrawn(cause),
            Ok(Ok(false)) | Err(_) => self.session.conclude(cause),
            Ok(Err(error)) => {
                debug!(session = %self.session.id(), %error, "a prompt could not be withdrawn");
                self.session.conclude(cause);
            }
        }
    }

    /// Does something, unless there is a reason first to give the turn up.
    async fn unless_stopped<T>(&self, turn: &Signals, act: impl Future<Output = T>) -> Result<T, TurnCause> {
        let stopped = async {
            let why = self.why_stopped(turn).await;
            // Told as cut, it would be found answered.
            let _recorded = self.recording.lock().await;
            why
        };
        tokio::select! {
            // What is done is done: a result beats a reason to stop that comes at the same moment.
            biased;
            done = act => Ok(done),
            why = stopped => Err(why),
        }
    }

    /// Waits for a reason to give the turn up.
    async fn why_stopped(&self, turn: &Signals) -> TurnCause {
        tokio::select! {
            biased;
            () = self.session.gone().cancelled() => self.session.why_gone(),
            () = turn.abort.cancelled() => TurnCause::Aborted,
            () = self.aborted.cancelled() => TurnCause::Aborted,
            () = self.caller_gone.cancelled() => TurnCause::Cancelled,
            () = self.shutdown.cancelled() => TurnCause::Draining,
            timeout = self.deadline.passed() => timeout,
        }
    }

    /// Loads the session if need be, and sends the prompt. `None`: it was not delivered, and the turn is concluded; in all
    /// other cases the agent may be at work.
    async fn deliver(&self, turn: &Signals) -> Option<Arc<Link>> {
        let mut tries = 0..2;
        while tries.next().is_some() {
            let link = match self.unless_stopped(turn, self.prepare()).await.flatten() {
                Ok(link) => link,
                Err(TurnCause::Backend(error @ backend::Error::Lost { .. })) if !tries.is_empty() => {
                    debug!(session = %self.session.id(), %error, "the session is prepared again");
                    continue;
                }
                Err(cause) => {
                    let cause = self.session.explain(cause).await;
                    if let TurnCause::NotFound(_) = cause {
                        self.registry.forget(&self.session);
                    }
                    self.session.conclude(cause);
                    break;
                }
            };
            if let Err(cause) = self.unless_stopped(turn, self.note_sending()).await.flatten() {
                self.session.conclude(cause);
                break;
            }
            match self.send(&link, turn).await {
                Ok(Sent { message_id }) => {
                    self.session.accepted(message_id, link.id());
                    self.delivered.cancel();
                    return Some(link);
                }
                // It was not delivered, so it may be sent again.
                Err(error) if was_missed(&error) && !tries.is_empty() => {
                    debug!(session = %self.session.id(), %error, "the prompt is sent again");
                    self.session.not_sent();
                }
                Err(error) => {
                    // Where the link is lost, so is the agent, unless the keeper link keeps it going.
                    let lost = matches!(error, backend::Error::Lost { .. }) && !self.session.is_kept();
                    let delivered = error.may_have_been_delivered();
                    let cause = self.session.explain(error.into()).await;
                    self.session.conclude(cause);
                    if delivered {
                        self.session.unacknowledged();
                    } else {
                        self.session.not_taken();
                    }
                    return (delivered && !lost).then_some(link);
                }
            }
        }
        None
    }

    /// Loads the session, and puts it into the mode that the prompt is for.
    async fn prepare(&self) -> Result<Arc<Link>, TurnCause> {
        if !self.session.ownership().is_none_or(|ownership| self.store().holds(ownership)) {
            return Err(TurnCause::Moved(self.session.id().clone()));
        }
        let link = self.session.load().await?;
        self.session.set_autopilot(&link, self.autopilot).await?;
        self.session.begin_prompt().await;
        Ok(link)
    }

    /// Notes in the store that the CLI may have the prompt from now on, so that it is never sent again.
    async fn note_sending(&self) -> Result<(), TurnCause> {
        match &self.request {
            Some(request) => {
                let Some(ownership) = self.session.ownership() else { return Ok(()) };
                self.store().sent(request.key(), ownership).await.map_err(|error| self.fenced(error))
            }
            None => Ok(()),
        }
    }

    /// What an error of the store is to the turn. Where the session has changed hands, nothing more is done for it here.
    fn fenced(&self, error: store::Error) -> TurnCause {
        match error {
            store::Error::Fenced => {
                self.session.has_gone_elsewhere();
                self.session.why_gone()
            }
            error => TurnCause::Store(error),
        }
    }

    fn store(&self) -> &Store {
        &self.session.means.store
    }

    /// Records an answer before its callers are told. With `before_answer` the archive is waited for as long as there is time: what a
    /// caller has seen is not to be lost. Otherwise a store that is away gets it when it is back.
    async fn record(&self, answer: TurnResult) -> Result<(), TurnCause> {
        let ended = self.ended_with(&answer);
        let error = loop {
            // The store has a limit for each call.
            let recorded = {
                let _recording = self.recording.lock().await;
                self.session.save(ended.clone()).await
            };
            match recorded {
                Ok(()) | Err(store::Error::Gone) => return Ok(()),
                Err(error @ store::Error::Fenced) => return Err(self.fenced(error)),
                Err(error) if !self.session.is_archived_first() => {
                    warn!(session = %self.session.id(), %error, "an answer is recorded when the store is back");
                    self.owe(answer);
                    return Ok(());
                }
                Err(error) if Instant::now() >= self.deadline.get().at() => break error,
                Err(error) => {
                    debug!(session = %self.session.id(), %error, "an answer is not in the archive yet")
                }
            }
            sleep(STORE_PAUSE).await;
        };
        self.owe(answer);
        Err(TurnCause::Store(error))
    }

    /// How its request has ended, if it may be repeated.
    fn ended_with(&self, answer: &TurnResult) -> Option<Ended> {
        Some(recorded::ended(self.request.as_ref()?.key(), &Ok(Arc::new(answer.clone()))))
    }

    /// Has an answer recorded when that can be done, if it may be asked for again.
    fn owe(&self, answer: TurnResult) {
        if let Some(request) = self.request.clone() {
            let ended = recorded::ended(request.key(), &Ok(Arc::new(answer)));
            self.session.owe(Owed { request, ended: Some(ended) });
        }
    }

    /// Records how a turn has failed, if it may be repeated. One that never reached the CLI, or that its caller has left, is done anew;
    /// one that nobody would send again stays as it is where another server can run it, and else has failed.
    fn record_failure(&self, outcome: Option<Outcome>) {
        let Some(request) = &self.request else { return };
        let ended = match outcome {
            Some(Ok(_)) => return,
            // The answer is owed.
            Some(Err(error))
                if matches!(error.cause, TurnCause::Store(_)) && error.delivery != Delivery::NotDelivered =>
            {
                return;
            }
            Some(Err(error)) if request.is_submitted() && error.is_anothers() => return,
            Some(Err(error)) if request.is_submitted() || error.is_final() => {
                Some(recorded::ended(request.key(), &Err(error)))
            }
            Some(Err(_)) | None => None,
        };
        self.session.owe(Owed { request: request.clone(), ended });
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
    async fn agent_ends(&self, link: &mut Arc<Link>, turn: &Signals) -> Result<(), TurnCause> {
        let mut checked = Instant::now();
        let (archives, mut archive_at) =
            (self.session.means.archive != Archive::Off, Instant::now() + ARCHIVE_EVERY);
        loop {
            let Some((progress, last_heard)) = self.session.progress().filter(|(now, _)| !now.concluded)
            else {
                return Ok(());
            };
            if let Some(ToFinish { check, files_since }) = self.session.to_finish() {
                let files = match files_since {
                    Some(event) => tokio::select! {
                        files = self.session.files_changed(link, &event) => files,
                        // The answer is there, and is not to be late for them.
                        _ = self.deadline.passed() => Vec::new(),
                    },
                    None => Vec::new(),
                };
                let answer = match check {
                    Some((schema, answer)) => Some(schema::run(move || schema.read(&answer)).await),
                    None => None,
                };
                self.session.finished(answer, files);
                continue;
            }
            if let Some(answer) = self.session.to_record() {
                let written = tokio::select! {
                    written = self.session.until_written(link) => written,
                    cause = self.deadline.passed() => Err(cause),
                };
                let recorded = match written {
                    Ok(()) => self.record(answer).await,
                    Err(cause) => Err(cause),
                };
                self.session.recorded(recorded);
                continue;
            }
            if progress.closed {
                return Err(self.session.why_closed().await);
            }
            if progress.disconnected {
                if let Some(again) = self.take_up_again().await {
                    *link = again;
                }
                continue;
            }
            if progress.waiting {
                self.entry.step_aside();
            } else {
                self.entry.step_back();
            }
            let patience = self.inactivity.filter(|_| !progress.tool_running && !progress.waiting);
            if let Some(patience) = patience
                && last_heard.elapsed() >= patience
            {
                return Err(TurnCause::Inactive(patience));
            }
            let deadline = self.deadline.get();
            if progress.queued && Instant::now() >= deadline.withdraw_at() {
                return Err(deadline.timeout());
            }
            let check_at = last_heard.max(checked) + WATCHDOG;
            let withdraw_at = progress.queued.then(|| deadline.withdraw_at());
            let give_up_at =
                patience.map(|patience| last_heard + patience).into_iter().chain(withdraw_at).min();
            tokio::select! {
                () = turn.changed.notified() => {}
                () = sleep_until(archive_at), if archives => {
                    archive_at = Instant::now() + ARCHIVE_EVERY;
                    self.session.record_changed();
                }
                () = sleep_until(give_up_at.unwrap_or(check_at)), if give_up_at.is_some() => {}
                () = sleep_until(check_at) => {
                    checked = Instant::now();
                    // A CLI that is frozen does not answer this either.
                    let _ = timeout_at(give_up_at.unwrap_or(checked + SMALL_CALL), self.check(link)).await;
                }
            }
        }
    }

    /// The connection was lost while an answer was awaited: the CLI goes on with such a turn when the session is loaded again.
    async fn take_up_again(&self) -> Option<Arc<Link>> {
        let reconnected = async {
            let link = self.load_again().await?;
            let at_work = self.session.is_at_work(&link).await.ok()?;
            if !at_work {
                self.session.catch_up(&link).await;
            }
            at_work.then_some(link)
        };
        let reconnected = reconnected.await;
        self.session.reconnected(reconnected.is_some());
        debug!(session = %self.session.id(), goes_on = reconnected.is_some(), "a turn's connection was lost");
        reconnected
    }

    /// Loads the session again. The agent goes on as long as the keeper link is there, however long the CLI is out of reach.
    async fn load_again(&self) -> Option<Arc<Link>> {
        loop {
            match self.session.load().await {
                Ok(link) => return Some(link),
                Err(TurnCause::Backend(backend::Error::Unavailable { .. })) if self.session.is_kept() => {
                    sleep(RELOAD_PAUSE).await;
                }
                Err(_) => return None,
            }
        }
    }

    /// Brings the session to rest, so that nothing which still comes can be taken for the next turn's.
    async fn settle(&self, turn: &Signals) {
        let limit = Instant::now() + SETTLE_LIMIT;
        while Instant::now() < limit {
            let Some((progress, _)) = self.session.progress().filter(|(now, _)| !now.settled) else {
                return self.stop_what_was_cut().await;
            };
            if progress.disconnected {
                self.take_up_again().await;
                continue;
            }
            // Not the one that it began on: it may have gone on on another. Without one nothing of it goes on.
            let Some(link) = self.session.attached() else { return };
            // With the session went all that ran in it, and the CLI may have another of its id by now.
            if self.session.gone().is_cancelled() {
                return;
            }
            // Nobody waits for what is being stopped.
            self.entry.step_aside();
            if self.stop(&link, progress).await == Stopped::Stuck {
                return self.session.close_stuck().await;
            }
            // The answer to `session.abort` comes after the idle that it causes, so this mostly does not wait.
            if timeout(SETTLE_CHECK, turn.changed.notified()).await.is_err() {
                self.check(&link).await;
            }
        }
        warn!(session = %self.session.id(), "the session did not come to rest; its next turn starts regardless");
    }

    /// A turn that was cut counts as settled. Where the session was loaded again meanwhile, its agent may have gone on.
    async fn stop_what_was_cut(&self) {
        if self.session.may_go_on()
            && let Some(link) = self.session.attached()
        {
            self.session.stop_agent(&link).await;
        }
    }

    /// Stops what is left of the turn in the CLI: a prompt that waits is withdrawn, so that nothing of another client's is stopped
    /// that runs before it; what the agent is at work on is stopped.
    async fn stop(&self, link: &Link, progress: Progress) -> Stopped {
        if progress.queued && matches!(self.session.withdraw(link).await, Ok(true)) {
            // How it ended is told already.
            self.session.withdrawn(TurnCause::Cancelled);
            return Stopped::Answered;
        }
        if !progress.agent_running || self.session.another_runs() {
            return Stopped::Answered;
        }
        self.session.stop_agent(link).await
    }

    /// Asks the CLI whether it has anything to do for the turn. If not, it has ended, and what tells of its end was lost or is on
    /// its way: it is looked for in the CLI's memory.
    async fn check(&self, link: &Link) {
        match self.session.is_at_work(link).await {
            Ok(true) => {}
            Ok(false) => {
                if self.session.progress().is_some_and(|(progress, _)| !progress.concluded) {
                    self.session.catch_up(link).await;
                }
                self.session.found_idle();
            }
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => self.session.found_unloaded(),
            Err(error) => {
                debug!(session = %self.session.id(), %error, "the CLI does not say whether it is busy")
            }
        }
    }
}

/// Whether the CLI had unloaded the session without a word, or the link was lost before the prompt was written.
fn was_missed(error: &backend::Error) -> bool {
    matches!(
        error,
        backend::Error::Rejected(Rejection::SessionNotFound) | backend::Error::Lost { written: false, .. }
    )
}
