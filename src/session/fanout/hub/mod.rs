//! Fan-out: what happens in a session, told to any number of readers, each with a queue of its own that it empties at
//! leisure: a [`reader`](super::reader).
//!
//! It is told by the task that reads the CLI's connection, which never waits. So a queue that grows is first kept
//! short by joining text deltas of the same message into one, which loses nothing; and if that is not enough, it is
//! closed with [`Lagged`]. No other event is joined or dropped. What all queues of the server hold has a [`Budget`].

use std::sync::Arc;

use super::{
    filter::Filter,
    reader::{Queue, Shared, Subscriber},
    update::{End, Item, Lagged, Scope, Together, Update},
};
use crate::{budget::Budget, copilot::Event, session::turn::Ticket};

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
        Arc::new(Together::new(charge))
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
