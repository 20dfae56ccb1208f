//! Calls that may be repeated: by their `request_id` a repetition is known, and gets what the first one gets.
//!
//! The store has them for a day. Here the last [`MAX_REMEMBERED`] of them are remembered, for [`REMEMBERED`], so that a repetition
//! joins a turn that still runs.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    error::Error,
    fanout::{Item, Subscriber},
    id::{SessionKey, Tenant},
    live::{Claimed, Session},
    summary::{SessionState, Summary},
    turn::{Outcome, SharedDeadline, Ticket},
    turnstile::Turnstile,
};
use crate::lock::lock;

/// How many requests are remembered.
pub(super) const MAX_REMEMBERED: usize = 1_000;

/// For how long at most.
pub(super) const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// A request's id, and what tells its content from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// The id.
    pub id: String,
    /// A hash of all that was requested.
    pub fingerprint: u64,
}

/// Where a request id is looked for: that of a turn in its session, that of a new session with its tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Create(Tenant, String),
    Send(SessionKey, String),
}

impl Key {
    /// The field of the request that has the id.
    fn field(&self) -> &'static str {
        match self {
            Self::Create(..) => "request_id",
            Self::Send(..) => "prompt.request_id",
        }
    }
}

/// The requests that are remembered. `T` is what is known of one.
#[derive(Debug)]
pub(super) struct Idempotency<T> {
    entries: Mutex<Entries<T>>,
    turns: Turnstile<Key>,
}

#[derive(Debug)]
struct Entries<T> {
    by_key: HashMap<Key, (u64, T)>,
    /// Oldest first.
    ages: VecDeque<(Instant, Key)>,
}

impl<T> Default for Idempotency<T> {
    fn default() -> Self {
        let entries = Entries { by_key: HashMap::new(), ages: VecDeque::new() };
        Self { entries: Mutex::new(entries), turns: Turnstile::default() }
    }
}

impl<T: Clone> Idempotency<T> {
    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        // Whole after every statement that matters: an age without its entry is skipped.
        lock(&self.entries)
    }

    /// Waits until no other call with this key is between looking it up and putting it in.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(super) async fn turn(&self, key: &Key) -> OwnedMutexGuard<()> {
        self.turns.pass(key).await
    }

    /// What is known of this request. One that `is_current` does not think worth repeating is not.
    ///
    /// # Errors
    /// If it is known for another content.
    pub(super) fn find(
        &self,
        key: &Key,
        fingerprint: u64,
        is_current: impl FnOnce(&T) -> bool,
    ) -> Result<Option<T>, Error> {
        let mut entries = self.lock();
        entries.expire(usize::MAX);
        match entries.by_key.get(key) {
            Some((known, entry)) if is_current(entry) => match *known == fingerprint {
                true => Ok(Some(entry.clone())),
                false => Err(Error::RequestIdTaken { field: key.field() }),
            },
            _ => Ok(None),
        }
    }

    /// The first that this is about, with its id.
    pub(super) fn find_where(&self, is_it: impl Fn(&Key, &T) -> bool) -> Option<(Key, T)> {
        let entries = self.lock();
        let found = entries.by_key.iter().find(|(key, (_, entry))| is_it(key, entry));
        found.map(|(key, (_, entry))| (key.clone(), entry.clone()))
    }

    /// Remembers what has become of a request.
    pub(super) fn insert(&self, key: Key, fingerprint: u64, entry: T) {
        let mut entries = self.lock();
        entries.forget(&key);
        entries.expire(MAX_REMEMBERED);
        entries.ages.push_back((Instant::now(), key.clone()));
        entries.by_key.insert(key, (fingerprint, entry));
    }
}

/// Whose a request is that this process does not remember.
#[derive(Debug)]
pub(super) enum Claim {
    /// This process's, to be done from now on; with what was noted of it when it was begun before.
    Ours(Arc<Claimed>, Option<String>),
    /// It is done: what came of it.
    Ended(String),
}

impl<T> Entries<T> {
    /// Forgets those that are too old, and of the others the oldest, so that there are fewer than `limit`.
    fn expire(&mut self, limit: usize) {
        let too_old = |(since, _): &(Instant, Key)| since.elapsed() >= REMEMBERED;
        while self.ages.front().is_some_and(too_old) || self.ages.len() >= limit {
            if let Some((_, key)) = self.ages.pop_front() {
                self.by_key.remove(&key);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.by_key.remove(key).is_some() {
            self.ages.retain(|(_, aged)| aged != key);
        }
    }
}

/// A session that was, or is being, created.
pub(super) type Creation = watch::Receiver<Option<Result<Summary, Error>>>;

/// A turn that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) session: Arc<Session>,
    pub(super) ticket: Ticket,
    pub(super) ending: Arc<Subscriber<Outcome>>,
    pub(super) deadline: Arc<SharedDeadline>,
    /// What the callers hold who own the turn; a detached one has none.
    pub(super) gone: Option<Weak<DropGuard>>,
    /// Cancelled when the CLI has the prompt.
    pub(super) delivered: CancellationToken,
    /// To be cancelled to stop it, whether it runs or waits.
    pub(super) aborted: CancellationToken,
}

impl Accepted {
    /// How it ended, if it has.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.ending.end()? {
            Item::TurnEnded(_, outcome) => Some(outcome),
            _ => None,
        }
    }

    /// What the CLI calls its message, while it runs.
    pub(super) fn message_id(&self) -> Option<String> {
        let state = self.session.lock();
        let current = state.current.as_deref().filter(|current| current.ticket() == self.ticket)?;
        current.message_id().map(str::to_owned)
    }

    /// What its session does while it runs; `None`: it waits for its time.
    pub(super) fn state(&self) -> Option<SessionState> {
        let state = self.session.lock();
        state.current.as_deref().filter(|current| current.ticket() == self.ticket && current.is_sent())?;
        Some(state.doing())
    }

    /// What a repetition holds of it: its part in the turn, if it is one of the owners. `None`: the store knows what is to be done.
    pub(super) fn hold(&self) -> Option<Share> {
        match self.outcome() {
            Some(Ok(_)) => Some(None),
            Some(Err(error)) => error.is_final().then_some(None),
            None => match &self.gone {
                Some(gone) => gone.upgrade().map(Some),
                None => Some(None),
            },
        }
    }
}

/// What a caller holds of a turn that it owns; of others nothing.
pub(super) type Share = Option<Arc<DropGuard>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key::Create(Tenant::ONLY, id.into())
    }

    fn find(repeats: &Idempotency<u32>, id: &str, fingerprint: u64, new: u32) -> Result<u32, bool> {
        match repeats.find(&key(id), fingerprint, |entry| *entry != 0) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => {
                repeats.insert(key(id), fingerprint, new);
                Err(true)
            }
            Err(error) => {
                assert!(matches!(error, Error::RequestIdTaken { .. }));
                Err(false)
            }
        }
    }

    const FIRST: Result<u32, bool> = Err(true);
    const REFUSED: Result<u32, bool> = Err(false);

    #[tokio::test(start_paused = true)]
    async fn a_repetition_gets_what_the_first_one_got_and_another_request_is_refused() {
        let repeats = Idempotency::default();
        assert_eq!(find(&repeats, "a", 1, 10), FIRST);
        assert_eq!(find(&repeats, "a", 1, 20), Ok(10));
        assert_eq!(find(&repeats, "a", 2, 30), REFUSED);
        assert_eq!(find(&repeats, "b", 2, 40), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_worth_repeating_is_done_again() {
        let repeats = Idempotency::default();
        assert_eq!(find(&repeats, "a", 1, 0), FIRST);
        assert_eq!(find(&repeats, "a", 2, 5), FIRST);
        assert_eq!(find(&repeats, "a", 2, 6), Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_remembered_for_some_time_and_not_too_many() {
        let repeats = Idempotency::default();
        assert_eq!(find(&repeats, "old", 1, 10), FIRST);
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(find(&repeats, "old", 1, 20), FIRST);
        for n in 0..MAX_REMEMBERED {
            assert_eq!(find(&repeats, &n.to_string(), 1, 1), FIRST);
        }
        // To ask for the oldest is not to forget it.
        assert_eq!(find(&repeats, "0", 1, 2), Ok(1));
        assert_eq!(find(&repeats, "old", 1, 30), FIRST);
    }
}
