//! Turns: accepted, joined, steered, stopped; and what else callers do with a session that runs.

use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    once::Begin,
    runner::Runner,
    turn_handle::Turn,
    watch::{From, Watch},
};
use crate::{
    copilot::method::{Send, Sent},
    session::{
        blueprint::Credentials,
        callers::Caller,
        error::Error,
        fanout::{Filter, Scope, Subscriber},
        id::SessionKey,
        idempotency::{Accepted, Claim, Key, RequestId, Share},
        live::{Claimed, Response, Session, stop_whatever_runs},
        prompt::Prompt,
        roots,
        sessions::Sessions,
        turn::{Deadline, Delivery, Remains, SharedDeadline, Spent, TurnCause, TurnError, recorded},
    },
    store::{self, RequestKey},
};

impl Sessions {
    /// Accepts a prompt into the session's queue, or into the turn that runs. Its turn runs on a task of its own; dropping
    /// the [`Turn`] ends it, unless it is detached. A repeated request joins the turn of the first one, or gets its outcome.
    ///
    /// # Cancel safety
    /// The prompt is accepted or it is not; if it is, and nobody waits for it, its turn ends like a dropped one.
    pub async fn send(&self, key: &SessionKey, prompt: Prompt) -> Result<Turn, Error> {
        self.refuse_if_draining()?;
        self.inner.roots.admit(roots::in_attachments(&prompt.message.attachments)).await?;
        let session = self.known(key, Credentials::default()).await?;
        if prompt.message.steering
            && let Some(turn) = self.steer(&session, &prompt).await?
        {
            return Ok(turn);
        }
        match prompt.request.clone() {
            None => self.accept(session, prompt, None).map(|(turn, _)| turn),
            Some(request) => self.send_once(session, request, prompt).await,
        }
    }

    /// Accepts a prompt that may be repeated, or joins the turn of the first one.
    async fn send_once(
        &self,
        session: Arc<Session>,
        request: RequestId,
        prompt: Prompt,
    ) -> Result<Turn, Error> {
        let RequestId { id, fingerprint } = request;
        let key = Key::Send(session.key().clone(), id.clone());
        let (deadline, filter, caller) = (prompt.deadline, prompt.filter.clone(), prompt.caller.clone());
        // An earlier call may have delivered it.
        let too_late = |cause| {
            let (delivery, remains) = (Delivery::Unknown, Remains::default());
            Error::Turn(Arc::new(TurnError { cause, delivery, remains }))
        };
        // One at a time; the store knows of those that other processes have.
        let turn = tokio::select! {
            turn = self.inner.accepted.turn(&key) => turn,
            cause = deadline.passed() => return Err(too_late(cause)),
        };
        // What an earlier session of this id was sent is none of this one's.
        let (now, mut share) = (session.clone(), None);
        let is_current = |accepted: &Accepted| {
            share = accepted.hold().filter(|_| Arc::ptr_eq(&accepted.session, &now));
            share.is_some()
        };
        if let Some(accepted) = self.inner.accepted.find(&key, fingerprint, is_current)? {
            let joined = join(&accepted, share.flatten(), deadline, filter);
            self.keep_until_left(caller, &accepted, &joined);
            return Ok(joined);
        }
        let Some(uid) = session.uid() else { return Err(Error::NotFound(session.id().clone())) };
        let stored = RequestKey {
            tenant: session.key().tenant().as_str().into(),
            scope: store::Scope::Session(uid),
            id,
        };
        let begun = tokio::select! {
            begun = self.begun(&stored, fingerprint, Begin::Turn(prompt.source.as_deref())) => begun?,
            cause = deadline.passed() => return Err(too_late(cause)),
        };
        let claimed = match begun {
            Claim::Ours(claimed, _) => claimed,
            Claim::Ended(outcome) => {
                let outcome =
                    recorded::read(&outcome).ok_or_else(|| Error::Unreadable(session.id().clone()))?;
                return Ok(Turn::ended(session, outcome, deadline));
            }
        };
        // One that is not accepted is in nobody's hand, and so begun anew by the next call.
        let accepted_turn = self.accept_request(session, prompt, fingerprint, key, claimed)?;
        drop(turn);
        Ok(accepted_turn)
    }

    /// Accepts a prompt that may be repeated into the session's queue.
    pub(super) fn accept_request(
        &self,
        session: Arc<Session>,
        prompt: Prompt,
        fingerprint: u64,
        key: Key,
        claimed: Arc<Claimed>,
    ) -> Result<Turn, Error> {
        let caller = prompt.caller.clone();
        let (turn, accepted) = self.accept(session, prompt, Some(claimed))?;
        self.keep_until_left(caller, &accepted, &turn);
        self.inner.accepted.insert(key, fingerprint, accepted);
        Ok(turn)
    }

    /// Lets a turn go on when the server is lost that forwards its caller's call: the caller asks for it again. It keeps the caller's
    /// part in the turn until the caller leaves.
    fn keep_until_left(&self, caller: Option<Arc<Caller>>, accepted: &Accepted, turn: &Turn) {
        let (Some(caller), Some(part)) = (caller, turn.gone.clone()) else { return };
        let mut rest = beside(accepted, turn.deadline);
        self.inner.means.tasks.spawn(async move {
            tokio::select! {
                () = caller.left() => {}
                _ = rest.outcome() => {}
            }
            drop(part);
        });
    }

    /// Accepts a prompt into the session's queue.
    fn accept(
        &self,
        session: Arc<Session>,
        prompt: Prompt,
        claimed: Option<Arc<Claimed>>,
    ) -> Result<(Turn, Accepted), Error> {
        let Prompt {
            mut message,
            autopilot,
            schema,
            deadline,
            inactivity,
            detached,
            filter,
            request,
            source: _,
            caller: _,
        } = prompt;
        // Only into a turn that runs; now there is none.
        message.steering = false;
        let entry = match session.backend().admission().take() {
            Ok(entry) => entry,
            Err(full) => {
                let other = session.go_where_there_is_room().ok_or(Error::Overloaded(full))?;
                other.admission().take().map_err(Error::Overloaded)?
            }
        };
        let (ticket, granted) = session.join()?;
        let repeatable = request.is_some();
        let (subscriber, ending) = {
            let mut state = session.lock();
            let ending = if repeatable { state.hub.remember(ticket) } else { Subscriber::nothing() };
            (state.subscribe(Scope::Turn(ticket), filter), ending)
        };
        let (caller_gone, delivered) = (CancellationToken::new(), CancellationToken::new());
        let aborted = CancellationToken::new();
        let own_limit = Deadline::after(self.inner.limits.turn_timeout);
        let limit = if detached { deadline.later(own_limit) } else { deadline };
        let limit = Arc::new(SharedDeadline::new(limit));
        let runner = Runner {
            registry: self.inner.registry.clone(),
            session: session.clone(),
            entry,
            request: claimed,
            message,
            autopilot,
            schema,
            deadline: limit.clone(),
            inactivity,
            caller_gone: caller_gone.clone(),
            aborted: aborted.clone(),
            shutdown: self.inner.shutdown.clone(),
            delivered: delivered.clone(),
            recording: Mutex::default(),
        };
        self.inner.means.tasks.spawn(runner.run(ticket, granted));
        let gone = (!detached).then(|| Arc::new(caller_gone.drop_guard()));
        // Somebody who has more time may join.
        let keeps_deadline = !detached && !repeatable;
        let accepted = Accepted {
            session: session.clone(),
            ticket,
            ending: Arc::new(ending),
            deadline: limit,
            gone: gone.as_ref().map(Arc::downgrade),
            delivered: delivered.clone(),
            aborted,
        };
        let subscriber = Some(subscriber);
        Ok((Turn { session, ticket, subscriber, deadline, keeps_deadline, gone, delivered }, accepted))
    }

    /// Sends a prompt into the turn that runs. `None`: none does.
    async fn steer(&self, session: &Arc<Session>, prompt: &Prompt) -> Result<Option<Turn>, Error> {
        let Some((ticket, link, subscriber)) = session.steer(&prompt.filter) else { return Ok(None) };
        let (said, sent) = oneshot::channel();
        let (task, message) = (session.clone(), prompt.message.clone());
        // On a task of its own: the turn has to hear what came of it.
        self.inner.means.tasks.spawn(async move {
            let send = Send { session_id: task.cli_id(), message: &message };
            let sent = task.call(&link, &send).await;
            task.steered(ticket, sent.as_ref().ok().map(|Sent { message_id }| message_id.clone()));
            // It fails if the caller has gone.
            let _ = said.send(sent.map(|_| ()));
        });
        let turn = Turn {
            session: session.clone(),
            ticket,
            subscriber: Some(subscriber),
            deadline: prompt.deadline,
            keeps_deadline: false,
            gone: None,
            delivered: CancellationToken::new(),
        };
        match sent.await {
            Ok(Ok(())) => {
                turn.delivered.cancel();
                Ok(Some(turn))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Turn(Arc::new(TurnError::not_delivered(TurnCause::Draining)))),
        }
    }

    /// Stops what runs in a session: our turn, or compaction, or what another client of the CLI runs there; with `only` our
    /// turn with this id alone. Gives the message's id, empty where it is not known. `None`: nothing runs.
    pub async fn abort(&self, key: &SessionKey, only: Option<&str>) -> Result<Option<String>, Error> {
        let id = key.id();
        let Some(session) = self.inner.registry.find(key) else {
            let record = self.record_here(key).await?.ok_or_else(|| Error::NotFound(id.clone()))?;
            let Some(backend) = self.pool().at(&record.facts.home).filter(|_| only.is_none()) else {
                return Ok(None);
            };
            let link = backend.connected().await?;
            return Ok(stop_whatever_runs(&link, &record.facts.cli_id).await?.then(String::new));
        };
        let stopped = session.abort(only);
        if stopped.is_some() || only.is_some() {
            return Ok(stopped);
        }
        // While this place is held nothing of ours begins, and so nothing of ours is stopped by accident.
        match session.try_place() {
            Some(_place) => session.stop_others().await,
            None => Ok(None),
        }
    }

    /// What a session has cost; `None`: nothing yet.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn usage(&self, key: &SessionKey) -> Result<Option<Spent>, Error> {
        let id = key.id();
        match self.inner.registry.find(key) {
            Some(session) => Ok(session.lock().spent.as_deref().cloned()),
            None => {
                let record = self.record_here(key).await?.ok_or_else(|| Error::NotFound(id.clone()))?;
                Ok(Spent::read(&record.facts.usage))
            }
        }
    }

    /// Answers what a session asks its callers: the first answer counts.
    ///
    /// # Cancel safety
    /// Once polled, the answer is given whether anybody waits for it or not.
    pub async fn respond(&self, key: &SessionKey, request_id: &str, response: Response) -> Result<(), Error> {
        let id = key.id();
        match self.inner.registry.find(key) {
            Some(session) => session.respond(request_id, response).await,
            None if self.record_here(key).await?.is_some() => {
                Err(Error::NoSuchAsk { session: id.clone(), ask: request_id.to_owned() })
            }
            None => Err(Error::NotFound(id.clone())),
        }
    }

    /// Watches a session, which is loaded for it, until `closing` is cancelled.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session loaded.
    pub async fn watch(
        &self,
        key: &SessionKey,
        from: From,
        filter: Filter,
        closing: CancellationToken,
    ) -> Result<Watch, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let link = session.reach().await.map_err(|cause| session.not_loaded(cause))?;
        Watch::open(session, self.inner.limits.max_watchers, closing, link, from, filter).await
    }
}

/// A turn that was accepted before, for a caller that has as much of it as the first one.
fn join(accepted: &Accepted, gone: Share, deadline: Deadline, filter: Filter) -> Turn {
    accepted.deadline.extend(deadline);
    let mut turn = beside_with(accepted, deadline, filter);
    turn.gone = gone;
    turn
}

/// A turn that was accepted before, for somebody who only waits for its end.
pub(super) fn beside(accepted: &Accepted, deadline: Deadline) -> Turn {
    beside_with(accepted, deadline, Filter::NOTHING)
}

fn beside_with(accepted: &Accepted, deadline: Deadline, filter: Filter) -> Turn {
    let Accepted { session, ticket, .. } = accepted;
    let mut state = session.lock();
    // Turns end under the lock, so that none ends between the look and the subscription.
    let subscriber = match accepted.outcome() {
        Some(outcome) => Subscriber::ended(*ticket, outcome),
        None => state.subscribe(Scope::Turn(*ticket), filter),
    };
    drop(state);
    let session = session.clone();
    let (ticket, subscriber, delivered) = (*ticket, Some(subscriber), accepted.delivered.clone());
    Turn { session, ticket, subscriber, deadline, keeps_deadline: false, gone: None, delivered }
}
