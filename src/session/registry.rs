//! The sessions that the facade knows, and the door through which the CLI's events reach them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use foldhash::quality::RandomState;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use tracing::warn;

use super::{
    error::Error,
    id::{SessionKey, Tenant},
    live::Session,
};
use crate::{
    backend::{BackendId, Link, LinkId, Sink},
    copilot::event,
    jsonrpc::Cause,
    lock::lock,
};

/// The sessions that the facade knows.
#[derive(Debug)]
pub(super) struct Registry {
    max_sessions: usize,
    known: Mutex<Known>,
}

/// The sessions, in both maps or in none.
#[derive(Debug, Default)]
struct Known {
    /// By the id that the CLI knows them by. Each event looks for its session here.
    slots: HashMap<Arc<str>, Slot, RandomState>,
    /// That id of each.
    cli_ids: HashMap<SessionKey, Arc<str>, RandomState>,
}

impl Known {
    fn of(&self, key: &SessionKey) -> Option<&Slot> {
        self.slots.get(self.cli_ids.get(key)?)
    }

    fn has(&self, session: &Session) -> bool {
        self.slots.contains_key(session.cli_id()) || self.cli_ids.contains_key(session.key())
    }

    fn insert(&mut self, slot: Slot) {
        let (key, cli_id) = (slot.session.key().clone(), slot.session.shared_cli_id());
        self.cli_ids.insert(key, cli_id.clone());
        self.slots.insert(cli_id, slot);
    }

    fn is(&self, session: &Arc<Session>) -> bool {
        self.slots.get(session.cli_id()).is_some_and(|slot| Arc::ptr_eq(&slot.session, session))
    }

    fn remove(&mut self, session: &Session) {
        self.slots.remove(session.cli_id());
        self.cli_ids.remove(session.key());
    }
}

#[derive(Debug)]
struct Slot {
    session: Arc<Session>,
    /// Whether it is still being created: it hears its events, and nobody finds it.
    reserved: bool,
    /// Whether it is there only so that nobody takes up what is about to be deleted or moved. It is reserved, too.
    held: bool,
}

impl Registry {
    pub(super) fn new(max_sessions: usize) -> Arc<Self> {
        Arc::new(Self { max_sessions, known: Mutex::default() })
    }

    /// What hears one CLI.
    pub(super) fn sink(self: &Arc<Self>, backend: BackendId) -> Arc<dyn Sink> {
        Arc::new(Incoming { registry: self.clone(), backend })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing between the two maps can panic.
        lock(&self.known)
    }

    /// Takes the session's id before the CLI hears of it: its first events may come ahead of the CLI's answer.
    pub(super) fn reserve(self: &Arc<Self>, session: Arc<Session>) -> Result<Reservation, Error> {
        let mut known = self.lock();
        if known.has(&session) {
            return Err(Error::Exists(session.id().clone()));
        }
        if known.slots.len() >= self.max_sessions {
            return Err(Error::TooManySessions { limit: self.max_sessions });
        }
        known.insert(Slot { session: session.clone(), reserved: true, held: false });
        Ok(Reservation { registry: self.clone(), session, kept: false })
    }

    /// Keeps a stored session from being taken up, until this is dropped. `None`: somebody has taken it up. It does not count
    /// as a known one: at the limit of those, others can be deleted.
    pub(super) fn hold(self: &Arc<Self>, blank: Arc<Session>) -> Option<Reservation> {
        let mut known = self.lock();
        if known.has(&blank) {
            return None;
        }
        known.insert(Slot { session: blank.clone(), reserved: true, held: true });
        Some(Reservation { registry: self.clone(), session: blank, kept: false })
    }

    /// Takes a stored session up. If another call was faster, it is that one's. `None`: it is held.
    pub(super) fn adopt(&self, session: Session) -> Result<Option<Arc<Session>>, Error> {
        let mut known = self.lock();
        if let Some(slot) = known.of(session.key()) {
            return Ok((!slot.held).then(|| slot.session.clone()));
        }
        if known.slots.len() >= self.max_sessions {
            return Err(Error::TooManySessions { limit: self.max_sessions });
        }
        let session = Arc::new(session);
        known.insert(Slot { session: session.clone(), reserved: false, held: false });
        Ok(Some(session))
    }

    /// Lets nobody find a session any more, nor take it up again until this is dropped: what still runs in it is being stopped. `None`: it
    /// is not known.
    pub(super) fn give_up(self: &Arc<Self>, session: &Arc<Session>) -> Option<Reservation> {
        let mut known = self.lock();
        if !known.is(session) {
            return None;
        }
        let slot = known.slots.get_mut(session.cli_id())?;
        (slot.reserved, slot.held) = (true, true);
        Some(Reservation { registry: self.clone(), session: session.clone(), kept: false })
    }

    pub(super) fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let known = self.lock();
        let slot = known.of(key).filter(|slot| !slot.reserved)?;
        Some(slot.session.clone())
    }

    /// Whether a session is just being created.
    pub(super) fn is_making(&self, key: &SessionKey) -> bool {
        self.lock().of(key).is_some_and(|slot| slot.reserved && !slot.held)
    }

    /// Whether a stored session may be about to be deleted.
    pub(super) fn is_held(&self, key: &SessionKey) -> bool {
        self.lock().of(key).is_some_and(|slot| slot.held)
    }

    /// Whether a CLI's session of this id is known, or held.
    pub(super) fn has_cli_id(&self, cli_id: &str) -> bool {
        self.lock().slots.get(cli_id).is_some_and(|slot| !slot.reserved || slot.held)
    }

    /// All sessions, whosever they are.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.all_that(|_| true)
    }

    /// The sessions of a tenant.
    pub(super) fn all_of(&self, tenant: &Tenant) -> Vec<Arc<Session>> {
        self.all_that(|session| session.key().tenant() == tenant)
    }

    fn all_that(&self, counts: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let known = self.lock();
        let found = known.slots.values().filter(|slot| !slot.reserved && counts(&slot.session));
        found.map(|slot| slot.session.clone()).collect()
    }

    /// The session is deleted: its turns end, and nobody finds it.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        session.is_deleted();
        self.remove(session);
    }

    /// Nobody finds the session any more.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        let mut known = self.lock();
        if known.is(session) {
            known.remove(session);
        }
    }

    /// Takes a stored session, which could not be loaded, to be unknown again, unless somebody else has it by now. The caller
    /// holds it once.
    pub(super) fn release(&self, session: &Arc<Session>) {
        let mut known = self.lock();
        // With the registry's own; and it gives out no others meanwhile.
        if known.is(session) && Arc::strong_count(session) == 2 {
            known.remove(session);
        }
    }

    pub(super) fn load(&self) -> Load {
        self.load_of(|_| true)
    }

    /// How much there is to do on one CLI.
    pub(super) fn load_on(&self, backend: BackendId) -> Load {
        self.load_of(|session| session.is_in(backend))
    }

    fn load_of(&self, counts: impl Fn(&Session) -> bool) -> Load {
        let known = self.lock();
        known.slots.values().filter(|slot| counts(&slot.session)).fold(Load::default(), |load, slot| {
            let turns = slot.session.queued();
            Load {
                turns: load.turns + turns,
                running: load.running + usize::from(turns > 0),
                loaded: load.loaded + usize::from(slot.session.is_loaded()),
                known: load.known + usize::from(!slot.reserved),
            }
        })
    }
}

/// Hears what one CLI tells. Only its own sessions are meant: another CLI may know one by the same id.
struct Incoming {
    registry: Arc<Registry>,
    backend: BackendId,
}

impl Incoming {
    /// All sessions, those included that are being created.
    fn sessions(&self) -> Vec<Arc<Session>> {
        let known = self.registry.lock();
        let own = known.slots.values().filter(|slot| slot.session.is_in(self.backend));
        own.map(|slot| slot.session.clone()).collect()
    }

    /// The session that an event is for. Not the registry's lock but this handle is held while it hears it.
    fn session(&self, cli_id: &str) -> Option<Arc<Session>> {
        let known = self.registry.lock();
        let slot = known.slots.get(cli_id).filter(|slot| slot.session.is_in(self.backend))?;
        Some(slot.session.clone())
    }

    /// Forgets a session that another client has deleted, if `look` says that it has.
    fn forget_if<F>(&self, session: Arc<Session>, look: impl FnOnce(Arc<Session>) -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send,
    {
        let registry = self.registry.clone();
        session.tasks().clone().spawn(async move {
            if registry.find(session.key()).is_some() && look(session.clone()).await {
                // Its record first: who finds that would make the session anew.
                let erased = session.erase().await;
                registry.forget(&session);
                if let Err(error) = erased {
                    warn!(session = %session.id(), %error, "a session that another client has deleted is still in the store");
                }
            }
        });
    }
}

/// How many sessions leave a CLI at once: it has other things to do.
const LEAVING: usize = 4;

impl Sink for Incoming {
    fn session_event(&self, params: &[u8]) -> bool {
        let Some(peek) = event::peek(params) else { return false };
        let Some(session) = self.session(&peek.session_id) else { return true };
        let makes_sense = session.hear(peek.kind(), params);
        // The native runtime tells others of a deletion only in this way (seen on 1.0.89). What we have closed is being changed.
        if peek.kind() == event::SHUTDOWN && session.loading.try_lock().is_ok() {
            self.forget_if(session, async |session| session.was_closed_by_a_deletion().await);
        }
        makes_sense
    }

    fn event_dropped(&self, session_id: &str, kind: &str) {
        if let Some(session) = self.session(session_id) {
            session.missed(kind);
        }
    }

    fn loaded(&self) -> usize {
        self.sessions().iter().filter(|session| session.is_loaded()).count()
    }

    fn session_deleted(&self, session_id: &str) {
        // The news may be about an earlier session of this id: it is not ordered against the CLI's answers.
        if let Some(session) = self.session(session_id) {
            self.forget_if(session, async |session| session.is_gone_from_cli().await);
        }
    }

    fn keeper_up(&self) {
        let sessions = self.sessions();
        let Some(tasks) = sessions.first().map(|session| session.tasks().clone()) else { return };
        // One after the other: nothing waits for it, and the CLI has other things to do.
        tasks.spawn(async move {
            for session in sessions {
                session.keep_as_one_of_many().await;
            }
        });
    }

    fn keeper_lost(&self, link: LinkId) {
        self.sessions().iter().for_each(|session| session.keeper_lost(link));
    }

    fn let_go<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, bool> {
        let leaving = stream::iter(self.sessions()).map(async |session| session.evacuate(link).await);
        let all = leaving.buffer_unordered(LEAVING).fold(true, async |all, has_left| all && has_left);
        Box::pin(all)
    }

    fn link_lost(&self, link: LinkId, cause: &Arc<Cause>) {
        let sessions = self.sessions();
        let problem = format!("the connection to the Copilot CLI was lost: {cause}");
        for session in sessions {
            session.link_lost(link, &problem);
        }
    }
}

/// An id that is taken while its session is created. Dropping it gives the id back.
#[derive(Debug)]
pub(super) struct Reservation {
    registry: Arc<Registry>,
    session: Arc<Session>,
    kept: bool,
}

impl Reservation {
    /// The session exists: from now on it can be found.
    pub(super) fn keep(mut self) {
        self.kept = true;
        if let Some(slot) = self.registry.lock().slots.get_mut(self.session.cli_id()) {
            slot.reserved = false;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.forget(&self.session);
        }
    }
}

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
