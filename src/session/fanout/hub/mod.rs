//! Fan-out: what happens in a session, told to any number of readers, each with a queue of its own that it empties at
//! leisure: a [`reader`](super::reader).
//!
//! It is told by the task that reads the CLI's connection, which never waits. So a queue that grows is first kept
//! short by joining text deltas of the same message into one, which loses nothing; and if that is not enough, it is
//! closed with [`Lagged`]. No other event is joined or dropped. What all queues of the server hold has a [`Budget`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;

use super::reader::{Queue, Shared, Subscriber};
use crate::{
    budget::{Budget, Charge},
    copilot::Event,
    session::{id::SessionId, turn::Ticket},
};

/// Which events a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of which kinds.
    pub kinds: Kinds,
    /// Whether those of sub-agents are among them.
    pub sub_agents: bool,
}

/// Kinds of event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kinds {
    /// None.
    Nothing,
    /// Exactly these.
    Exactly(&'static [&'static str]),
    /// Those that match one of the patterns: a kind, or its beginning and a `*`.
    Patterns(Vec<String>),
}

impl Filter {
    /// No event, only how it ends.
    pub const NOTHING: Self = Self { kinds: Kinds::Nothing, sub_agents: false };

    /// Whether events of this kind can be wanted.
    pub fn wants_kind(&self, kind: &str) -> bool {
        match &self.kinds {
            Kinds::Nothing => false,
            Kinds::Exactly(kinds) => kinds.contains(&kind),
            Kinds::Patterns(patterns) => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => kind == pattern,
            }),
        }
    }

    /// Whether this event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        (self.sub_agents || event.agent_id.is_none()) && self.wants_kind(&event.kind)
    }

    /// Whether this is wanted. A request of a sub-agent's is one to the callers as any other.
    pub(super) fn wants_update(&self, update: &Update) -> bool {
        self.wants(&update.event) || update.asks && self.wants_kind(&update.event.kind)
    }
}

/// Where a reader may go on from: after the last event up to here that is stored. Cheap to clone.
///
/// For callers it is an opaque text. It names an event of a session, so it is good for as long as the event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// The place after this event.
    pub fn after(session: &SessionId, event_id: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(format!("1 {session} {event_id}")).into())
    }

    /// As callers are told it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The event that a caller's cursor of this session names; `None` if it is none.
    pub fn event_id(text: &str, session: &SessionId) -> Option<String> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let event_id = text.strip_prefix("1 ")?.strip_prefix(session.as_str())?.strip_prefix(' ')?;
        (!event_id.is_empty()).then(|| event_id.to_owned())
    }
}

/// An event, and where to go on from once it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The event.
    pub event: Arc<Event>,
    /// Where to go on from; `None` as long as nothing of the session is stored.
    pub cursor: Option<Cursor>,
    /// Whether it is a request that waits for an answer of the session's callers.
    pub asks: bool,
    /// Where several readers get it: what they share.
    pub shared: Option<Arc<Together>>,
}

impl Update {
    /// An event that is no request.
    pub fn new(event: Arc<Event>, cursor: Option<Cursor>) -> Self {
        Self { event, cursor, asks: false, shared: None }
    }
}

/// What several readers of an event share. The event counts against the budget once, for as long as one of them has it.
#[derive(Debug)]
pub struct Together {
    encoded: OnceLock<Bytes>,
    _charge: Charge,
}

impl Together {
    /// The event's encoding, which whoever needs it first makes for all.
    pub fn encoded(&self, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.encoded.get_or_init(encode).clone()
    }
}

impl PartialEq for Together {
    /// By what all have of it.
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

/// Not every event could be given: the reader fell too far behind, or an event was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<E> {
    /// An event.
    Update(Update),
    /// A turn has ended; for a reader of this turn, the last item.
    TurnEnded(Ticket, E),
    /// The connection to the CLI was lost; the session has to be loaded again.
    LinkLost,
    /// The session was loaded again: stored events may have been missed.
    Reloaded,
    /// The last item: the session is gone.
    Gone,
    /// The last item: the rest cannot be given.
    Lagged(Lagged),
}

/// What a reader hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that happens in the session.
    Session,
    /// One turn, and what the session asks its callers meanwhile.
    Turn(Ticket),
}

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Those who hear of all that happens, and those of the turn that runs, if one does.
    Turn(Option<Ticket>),
    /// All readers of the session.
    Everybody,
}

impl Audience {
    fn includes(self, scope: Scope) -> bool {
        match (self, scope) {
            (Self::Everybody, _) | (_, Scope::Session) => true,
            (Self::Turn(running), Scope::Turn(ticket)) => running == Some(ticket),
        }
    }
}

/// How a turn ends, as readers are told it.
pub trait End: Clone + fmt::Debug + Send + Sync + 'static {
    /// About how many bytes it takes.
    fn weight(&self) -> usize;
}

/// The readers of a session.
#[derive(Debug)]
pub struct Hub<E> {
    readers: Vec<Arc<Shared<E>>>,
    budget: Budget,
}

impl<E: End> Hub<E> {
    /// Without readers. What they hold counts against the budget.
    pub fn new(budget: Budget) -> Self {
        Self { readers: Vec::new(), budget }
    }

    /// What readers may hold.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A new reader, which hears of what happens from now on.
    pub fn subscribe(&mut self, scope: Scope, filter: Filter) -> Subscriber<E> {
        self.add(scope, filter, true)
    }

    /// Remembers how a turn ends. Nobody is there who reads it, for now.
    pub fn remember(&mut self, ticket: Ticket) -> Subscriber<E> {
        self.add(Scope::Turn(ticket), Filter::NOTHING, false)
    }

    fn add(&mut self, scope: Scope, filter: Filter, present: bool) -> Subscriber<E> {
        self.prune();
        let shared = Arc::new(Shared::new(scope, filter, present, Queue::new(&self.budget)));
        self.readers.push(shared.clone());
        Subscriber::of(shared)
    }

    /// Whether anybody among them wants events of this kind.
    pub fn wants(&self, kind: &str, audience: Audience) -> bool {
        self.readers.iter().any(|reader| audience.includes(reader.scope) && reader.filter.wants_kind(kind))
    }

    /// Queues an event for those who want it. Never waits.
    pub fn publish(&self, update: &Update, audience: Audience) {
        let wants =
            |reader: &Arc<Shared<E>>| audience.includes(reader.scope) && reader.filter.wants_update(update);
        let mut wanting = self.readers.iter().filter(|reader| wants(reader));
        let Some(first) = wanting.next() else { return };
        match wanting.next() {
            None => first.push(|queue| queue.push(update)),
            Some(second) => {
                let shared = Update { shared: Some(self.together(&update.event)), ..update.clone() };
                for reader in [first, second].into_iter().chain(wanting) {
                    reader.push(|queue| queue.push(&shared));
                }
            }
        }
        self.budget.relieve();
    }

    fn together(&self, event: &Event) -> Arc<Together> {
        // It, and its encoding.
        let charge = self.budget.charge(size_of::<Event>() + 2 * event.weight);
        Arc::new(Together { encoded: OnceLock::new(), _charge: charge })
    }

    /// How many read all that happens in the session.
    pub fn watchers(&self) -> usize {
        self.readers.iter().filter(|reader| reader.scope == Scope::Session && !reader.is_dropped()).count()
    }

    /// An event of this kind cannot be given to those who want it: what was queued before is still read first.
    pub fn cut_off(&self, kind: &str, audience: Audience) {
        self.tell(audience, |reader| {
            if reader.filter.wants_kind(kind) {
                reader.push(|queue| queue.end(Item::Lagged(Lagged)));
            }
        });
    }

    /// A turn has ended.
    pub fn turn_ended(&mut self, ticket: Ticket, outcome: &E) {
        let ended = Item::TurnEnded(ticket, outcome.clone());
        self.readers.retain(|reader| match reader.scope {
            Scope::Session => {
                reader.push(|queue| queue.tell(ended.clone()));
                true
            }
            Scope::Turn(turn) if turn == ticket => {
                reader.push(|queue| queue.end(ended.clone()));
                false
            }
            Scope::Turn(_) => true,
        });
        self.prune();
    }

    /// The connection to the CLI was lost.
    pub fn link_lost(&mut self) {
        self.tell_watchers(|queue| queue.tell(Item::LinkLost));
    }

    /// The session was loaded again.
    pub fn reloaded(&mut self) {
        self.tell_watchers(|queue| queue.tell(Item::Reloaded));
    }

    /// The session is gone.
    pub fn gone(&mut self) {
        self.tell_watchers(|queue| queue.end(Item::Gone));
    }

    /// Whether anybody hears of this turn, or of the whole session.
    pub fn is_heard(&self, turn: Option<Ticket>) -> bool {
        let mut heard = self.readers.iter().filter(|reader| Audience::Turn(turn).includes(reader.scope));
        heard.any(|reader| reader.present && !reader.is_dropped())
    }

    fn tell_watchers(&mut self, tell: impl Fn(&mut Queue<E>)) {
        self.tell(Audience::Turn(None), |reader| reader.push(&tell));
        self.prune();
    }

    fn tell(&self, audience: Audience, tell: impl Fn(&Arc<Shared<E>>)) {
        self.readers.iter().filter(|reader| audience.includes(reader.scope)).for_each(tell);
    }

    /// Forgets readers that have gone. Most sessions at rest have none, and then no room for any either.
    fn prune(&mut self) {
        self.readers.retain(|reader| !reader.is_dropped());
        if self.readers.is_empty() {
            self.readers = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
