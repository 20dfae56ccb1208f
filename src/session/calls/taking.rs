//! A session that is not known here is taken: from nobody, or from a server that is dead. What that has left undone is closed
//! truthfully, or done.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::once::left_behind;
use crate::{
    session::{
        blueprint::{Blueprint, Credentials},
        error::Error,
        id::SessionKey,
        idempotency::Key,
        live::{Session, unsealed},
        registry::Reservation,
        sessions::Sessions,
        turn::recorded,
    },
    store::{Incarnation, Ownership, RequestKey, RequestState, Scope, SessionRecord, Taken},
};

/// A request of a session that is to be sent, and that its server has left undone.
struct LeftTurn {
    key: RequestKey,
    fingerprint: u64,
    owner: Incarnation,
}

impl Sessions {
    /// Takes up a session that is not known here, with these credentials, and else those that are sealed in the store. `None`:
    /// somebody else was faster, or holds it.
    pub(super) async fn take_up(
        &self,
        key: &SessionKey,
        credentials: Credentials,
    ) -> Result<Option<Arc<Session>>, Error> {
        let registry = &self.inner.registry;
        let _one = self.inner.takes.pass(key).await;
        if registry.find(key).is_some() || registry.is_held(key) {
            return Ok(None);
        }
        let (record, was_left) = self.take(key).await?;
        let ownership = record.ownership;
        let taken = async {
            let left = self.close_left_turns(key, &record).await?;
            let sealed = unsealed(&self.inner.means, key, ownership).await?;
            let blueprint = self.blueprint(key.id(), &record, sealed.with(credentials))?;
            let session = self.session_of(key.clone(), blueprint, &record)?;
            // What its server has left running in the CLI is stopped when the session is loaded.
            session.lock().abandoned = was_left;
            let Some(session) = registry.adopt(session)? else { return Ok(None) };
            self.check_lease(&session)?;
            for turn in left {
                self.run_left_turn(&session, turn).await;
            }
            Ok(Some(session))
        };
        let taken = taken.await;
        if taken.is_err() {
            // Another call, or server, may have what is missing.
            self.let_go_soon(ownership, None);
        }
        taken
    }

    /// Gives a session up that has just become known, if the lease was lost while it was taken.
    pub(super) fn check_lease(&self, session: &Arc<Session>) -> Result<(), Error> {
        if session.ownership().is_none_or(|ownership| self.store().holds(ownership)) {
            return Ok(());
        }
        session.has_gone_elsewhere();
        self.inner.registry.remove(session);
        Err(session.not_here())
    }

    /// Takes a session that is not known here, and keeps it from being taken up, for as long as the result is held. `None`: it is known
    /// here by now, or held by another call.
    pub(super) async fn hold(&self, key: &SessionKey) -> Result<Option<Held>, Error> {
        let registry = &self.inner.registry;
        let _one = self.inner.takes.pass(key).await;
        if registry.find(key).is_some() || registry.is_held(key) {
            return Ok(None);
        }
        let (record, _) = self.take(key).await?;
        let session = Arc::new(self.session_of(key.clone(), Blueprint::default(), &record)?);
        let reserved = registry.hold(session.clone());
        Ok(reserved.map(|reserved| Held { sessions: self.clone(), session, reserved: Some(reserved) }))
    }

    /// Takes a session. Says, too, whether a server had it that is dead.
    async fn take(&self, key: &SessionKey) -> Result<(Box<SessionRecord>, bool), Error> {
        match self.store().take(key.tenant().as_str(), key.id().as_str()).await? {
            Taken::Ours { record, was_left } => {
                if was_left {
                    info!(session = %key.id(), "a session is taken over from a server that is dead");
                }
                Ok((record, was_left))
            }
            Taken::Theirs(_) => Err(Error::Moved(key.id().clone())),
            Taken::Gone => Err(Error::NotFound(key.id().clone())),
        }
    }

    /// Closes the turns of a session that its server has left behind when they were sent, and gives those that are still to be sent, and
    /// that no caller would send again.
    async fn close_left_turns(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
    ) -> Result<Vec<LeftTurn>, Error> {
        let mut to_run = Vec::new();
        for (id, request) in self.store().left_requests(record.ownership.uid).await? {
            let key = RequestKey {
                tenant: key.tenant().as_str().into(),
                scope: Scope::Session(record.ownership.uid),
                id,
            };
            if request.is_ours && self.inner.means.claims.has(&key) {
                continue;
            }
            match request.state {
                RequestState::Sent => {
                    self.store().close_left(&key, &request.owner, &recorded::write(&left_behind())).await?;
                }
                RequestState::Accepted if request.has_prompt => to_run.push(LeftTurn {
                    key,
                    fingerprint: request.fingerprint.cast_unsigned(),
                    owner: request.owner,
                }),
                _ => {}
            }
        }
        Ok(to_run)
    }

    /// Runs a turn that its server has left undone. One that cannot be run for now is found again.
    async fn run_left_turn(&self, session: &Arc<Session>, left: LeftTurn) {
        let LeftTurn { key, fingerprint, owner } = left;
        let prompt = match self.stored_prompt(session.key(), &key).await {
            Ok(Some(prompt)) => prompt,
            Ok(None) => return warn!(session = %session.id(), "a prompt that is to be sent cannot be read"),
            Err(error) => return debug!(%error, "a turn that was left cannot be run yet"),
        };
        match self.store().take_over(&key, &owner).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return debug!(%error, "a turn that was left cannot be run yet"),
        }
        let claimed = self.inner.means.claims.claim(&key, true);
        let name = Key::Send(session.key().clone(), key.id);
        match self.accept_request(session.clone(), prompt, fingerprint, name, claimed) {
            Ok(turn) => turn.detach(),
            Err(error) => warn!(session = %session.id(), %error, "a turn that was left is not run"),
        }
    }

    /// Lets a session go that is not known here, in a task of its own; until then it is held, if it is.
    pub(super) fn let_go_soon(&self, ownership: Ownership, held: Option<Reservation>) {
        if !self.store().is_shared() {
            return;
        }
        let store = self.store().clone();
        self.inner.means.tasks.spawn(async move {
            if let Err(error) = store.let_go(ownership).await {
                debug!(%error, "a session that is not used is not let go");
            }
            drop(held);
        });
    }
}

/// A session that this server has taken, and that nobody takes up until this is dropped. Then it is let go.
pub(super) struct Held {
    sessions: Sessions,
    session: Arc<Session>,
    reserved: Option<Reservation>,
}

impl Held {
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ownership) = self.session.ownership().filter(|_| !self.session.gone().is_cancelled()) {
            self.sessions.let_go_soon(ownership, self.reserved.take());
        }
    }
}
