//! Turns that nobody has to wait for: submitted, looked at, listed. The store has each for a day, with what came of it; while it
//! runs, the server that owns its session knows more.

use tracing::debug;

use std::sync::Arc;

use super::send::beside;
use crate::{
    session::{
        blueprint::Credentials,
        error::Error,
        id::{SessionId, SessionKey},
        idempotency::{Accepted, Key},
        prompt::{Prompt, PromptReader},
        sessions::Sessions,
        summary::SessionState,
        turn::{Deadline, Outcome, TurnCause, TurnError, recorded},
    },
    store::{RequestKey, RequestRecord, RequestState, Scope, Time, Uid, context},
};

/// A turn, as it stands.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The id of the request that it is.
    pub request_id: String,
    /// What the CLI calls its message, if that is known.
    pub message_id: Option<String>,
    /// How it stands.
    pub state: SubmittedState,
    /// When it was accepted.
    pub create_time: Time,
    /// When its state last changed, as far as the store knows.
    pub update_time: Time,
}

/// How a turn stands.
#[derive(Debug, Clone)]
pub enum SubmittedState {
    /// It waits for its time.
    Queued,
    /// The agent is at work on it.
    Running,
    /// The agent waits for an answer.
    Waiting,
    /// It has ended.
    Ended(Outcome),
}

/// What a turn is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnName {
    /// The id of its request.
    Request(String),
    /// What the CLI calls its message.
    Message(String),
}

/// After which turn a page of them begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnPlace {
    /// When it was accepted.
    pub create_time: Time,
    /// The id of its request.
    pub request_id: String,
}

/// How prompts are stored: as they are, or sealed, because they have headers, which may be secret.
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

impl Sessions {
    /// Sets how prompts are read that are stored.
    pub fn read_prompts_by(&self, reader: PromptReader) {
        // A server is set up once.
        let _ = self.inner.prompts.set(reader);
    }

    /// Accepts a turn that goes on without its caller, and is run by another server if this one dies before it is sent. It has a request
    /// id and a source.
    ///
    /// # Cancel safety
    /// It is accepted or it is not.
    pub async fn submit(&self, key: &SessionKey, mut prompt: Prompt) -> Result<Submitted, Error> {
        let request_id = prompt.request.as_ref().map(|request| request.id.clone()).unwrap_or_default();
        prompt.source = prompt.source.take().and_then(|source| self.storable(key, &prompt, source));
        let (this, session) = (self.clone(), key.clone());
        // On a task of its own, because one that was half accepted when its caller left would be run some day.
        let sent = self.inner.means.tasks.spawn(async move { this.send(&session, prompt).await });
        sent.await.map_err(|_| Error::Draining)??.detach();
        self.turn(key, &TurnName::Request(request_id), None).await
    }

    /// A turn that has a request id, as it stands; or, with `wait`, when it has ended, by then at the latest.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn turn(
        &self,
        key: &SessionKey,
        name: &TurnName,
        wait: Option<Deadline>,
    ) -> Result<Submitted, Error> {
        let id = key.id();
        let mut tries = 0..2;
        loop {
            tries.next();
            let live = self.accepted(key, name);
            if let (Some((_, accepted)), Some(deadline)) = (&live, wait) {
                // At the deadline it is told how it stands.
                let _ = beside(accepted, deadline).outcome().await;
            }
            let uid = match self.inner.registry.find(key).and_then(|session| session.uid()) {
                Some(uid) => uid,
                None => {
                    self.record_here(key).await?.ok_or_else(|| Error::NotFound(id.clone()))?.ownership.uid
                }
            };
            let stored = match name {
                TurnName::Message(message) => self.store().request_of_message(uid, message).await?,
                TurnName::Request(request) => self.stored_request(key, uid, request).await?,
            };
            let stored = match (stored, &live) {
                (None, Some((Key::Send(_, request), _))) => self.stored_request(key, uid, request).await?,
                (stored, _) => stored,
            };
            let Some((request_id, record)) = stored else { return Err(Error::NoSuchTurn(id.clone())) };
            let is_left =
                !record.state.is_ended() && live.is_none() && !self.has_in_hand(key, uid, &request_id);
            // Whoever takes the session runs the turn, or closes it.
            if is_left && !tries.is_empty() && self.inner.registry.find(key).is_none() {
                match self.known(key, Credentials::default()).await {
                    Ok(_) => continue,
                    Err(error @ (Error::Moved(_) | Error::Store(_))) => return Err(error),
                    Err(error) => debug!(session = %id, %error, "a turn that was left waits"),
                }
            }
            return self.as_it_stands(id, request_id, record, live.as_ref().map(|(_, accepted)| accepted));
        }
    }

    /// A page of a session's turns that have request ids, the latest first.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn turns(
        &self,
        key: &SessionKey,
        after: Option<&TurnPlace>,
        limit: usize,
    ) -> Result<(Vec<Submitted>, Option<TurnPlace>), Error> {
        let id = key.id();
        let record = self.record_here(key).await?.ok_or_else(|| Error::NotFound(id.clone()))?;
        let after = after.map(|place| (place.create_time, place.request_id.as_str()));
        let mut found = self.store().requests(record.ownership.uid, after, limit + 1).await?;
        let is_more = found.len() > limit;
        found.truncate(limit);
        let mut turns = Vec::new();
        for (request_id, record) in found {
            let live = self.accepted(key, &TurnName::Request(request_id.clone()));
            turns.push(self.as_it_stands(
                id,
                request_id,
                record,
                live.as_ref().map(|(_, accepted)| accepted),
            )?);
        }
        let last = turns.last().filter(|_| is_more);
        let next =
            last.map(|last| TurnPlace { create_time: last.create_time, request_id: last.request_id.clone() });
        Ok((turns, next))
    }

    /// Stops a turn by the id of its request, whether it runs or waits. `None`: it has ended. The id of its message is empty where that
    /// is not known.
    pub async fn abort_request(&self, key: &SessionKey, request_id: &str) -> Result<Option<String>, Error> {
        let name = TurnName::Request(request_id.to_owned());
        let turn = self.turn(key, &name, None).await?;
        if let SubmittedState::Ended(_) = turn.state {
            return Ok(None);
        }
        let Some((_, accepted)) = self.accepted(key, &name) else { return Ok(None) };
        accepted.aborted.cancel();
        Ok(Some(turn.message_id.unwrap_or_default()))
    }

    /// A turn that this process has accepted, and remembers.
    fn accepted(&self, key: &SessionKey, name: &TurnName) -> Option<(Key, Accepted)> {
        self.inner.accepted.find_where(|of, accepted| match (of, name) {
            (Key::Send(session, request), TurnName::Request(id)) => session == key && request == id,
            (Key::Send(session, _), TurnName::Message(id)) => {
                session == key && accepted.message_id().is_some_and(|message| message == *id)
            }
            (Key::Create(..), _) => false,
        })
    }

    async fn stored_request(
        &self,
        key: &SessionKey,
        uid: Uid,
        id: &str,
    ) -> Result<Option<(String, RequestRecord)>, Error> {
        let found = self.store().request(&request_key(key, uid, id)).await?;
        Ok(found.map(|record| (id.to_owned(), record)))
    }

    fn has_in_hand(&self, key: &SessionKey, uid: Uid, id: &str) -> bool {
        self.inner.means.claims.has(&request_key(key, uid, id))
    }

    /// A turn, by what is stored of it and what this process knows.
    fn as_it_stands(
        &self,
        session: &SessionId,
        request_id: String,
        record: RequestRecord,
        live: Option<&Accepted>,
    ) -> Result<Submitted, Error> {
        let in_hand = record.is_alive;
        let unreadable = || Error::Unreadable(session.clone());
        let stored = match (record.state.is_ended(), &record.result) {
            (true, Some(result)) => Some(recorded::read(result).ok_or_else(unreadable)?),
            (true, None) => return Err(unreadable()),
            (false, _) => None,
        };
        let ended = stored.or_else(|| live.and_then(Accepted::outcome));
        let message_id = match &ended {
            Some(Ok(result)) => Some(result.message_id.clone()),
            Some(Err(error)) => error.remains.message_id.clone(),
            None => live.and_then(Accepted::message_id),
        };
        let state = match (ended, live) {
            (Some(outcome), _) => SubmittedState::Ended(outcome),
            (None, Some(live)) => match live.state() {
                None => SubmittedState::Queued,
                Some(SessionState::Waiting) => SubmittedState::Waiting,
                Some(_) => SubmittedState::Running,
            },
            (None, None) if record.state == RequestState::Accepted && !record.has_prompt && !in_hand => {
                SubmittedState::Ended(Err(Arc::new(TurnError::not_delivered(TurnCause::Interrupted(
                    "nobody has it in hand any more, and only its caller can send it again".into(),
                )))))
            }
            (None, None) if record.state == RequestState::Accepted => SubmittedState::Queued,
            (None, None) => SubmittedState::Running,
        };
        let (create_time, update_time) = (record.create_time, record.update_time);
        Ok(Submitted { request_id, message_id, state, create_time, update_time })
    }

    /// What is stored of a prompt; `None`: it has headers, which may be secret, and there is no key to seal them with.
    fn storable(&self, key: &SessionKey, prompt: &Prompt, source: Vec<u8>) -> Option<Vec<u8>> {
        if prompt.message.request_headers.is_empty() {
            return Some([&[PLAIN], &source[..]].concat());
        }
        let sealer = self.inner.means.sealer.as_ref()?;
        let sealed = sealer.seal(&context(key.tenant().as_str(), key.id().as_str()), &source);
        Some([&[SEALED], &sealed[..]].concat())
    }

    /// A prompt that is stored; `None`: it cannot be read.
    pub(super) async fn stored_prompt(
        &self,
        session: &SessionKey,
        key: &RequestKey,
    ) -> Result<Option<Prompt>, Error> {
        let Some(stored) = self.store().prompt(key).await? else { return Ok(None) };
        let source = match stored.split_first() {
            Some((&PLAIN, source)) => Some(source.to_vec()),
            Some((&SEALED, sealed)) => {
                let context = context(session.tenant().as_str(), session.id().as_str());
                self.inner
                    .means
                    .sealer
                    .as_ref()
                    .and_then(|sealer| sealer.open(&context, sealed).ok().map(|plain| plain.to_vec()))
            }
            _ => None,
        };
        Ok(source.and_then(|source| self.inner.prompts.get()?.read(&source)))
    }
}

fn request_key(key: &SessionKey, uid: Uid, id: &str) -> RequestKey {
    RequestKey { tenant: key.tenant().as_str().into(), scope: Scope::Session(uid), id: id.into() }
}
