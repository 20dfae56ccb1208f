//! One reader: its queue, which the hub fills and the reader empties.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Filter, Item, Lagged, Scope, Update};
use crate::{
    copilot::{Event, event::Payload},
    session::queue::Ticket,
};

/// From how many waiting events on deltas are joined: a reader that is this far behind shows bursts anyway.
pub(super) const JOIN_FROM: usize = 64;

/// How large a joined delta may become, in bytes. Well below the 4 MiB that most gRPC clients accept in a message.
pub(super) const MAX_JOINED: usize = 256 * 1024;

/// How many events may wait for a reader.
pub(super) const MAX_EVENTS: usize = 8192;

/// How many bytes of events may wait for a reader, as JSON. Above the largest frames that a turn usually has, so that
/// a single large event does not end a stream.
pub(super) const MAX_BYTES: usize = 32 * 1024 * 1024;

/// A reader, as the hub has it.
#[derive(Debug)]
pub(super) struct Shared<E> {
    pub(super) scope: Scope,
    pub(super) filter: Filter,
    /// Whether somebody is there who reads it.
    pub(super) present: bool,
    queue: Mutex<Queue<E>>,
    wake: Notify,
}

impl<E> Shared<E> {
    pub(super) fn new(scope: Scope, filter: Filter, present: bool, queue: Queue<E>) -> Self {
        Self { scope, filter, present, queue: Mutex::new(queue), wake: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<E>> {
        // Nothing that holds the lock can panic half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, push: impl FnOnce(&mut Queue<E>)) {
        let mut queue = self.queue();
        if queue.end.is_none() {
            push(&mut queue);
        }
        drop(queue);
        self.wake.notify_one();
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.queue().dropped
    }
}

/// What waits for a reader.
#[derive(Debug)]
pub(super) struct Queue<E> {
    pub(super) items: VecDeque<Item<E>>,
    bytes: usize,
    /// What comes after all of them, and stays.
    end: Option<Item<E>>,
    /// Whether nobody will read it.
    dropped: bool,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0, end: None, dropped: false }
    }
}

impl<E> Queue<E> {
    pub(super) fn push(&mut self, update: &Update) {
        if self.join(update) {
            return;
        }
        let weight = update.event.weight;
        let fits = self.items.len() < MAX_EVENTS && self.bytes + weight <= MAX_BYTES;
        if fits || self.items.is_empty() {
            self.bytes += weight;
            self.items.push_back(Item::Update(update.clone()));
        } else {
            self.end(Item::Lagged(Lagged));
        }
    }

    pub(super) fn end(&mut self, end: Item<E>) {
        self.end.get_or_insert(end);
    }

    /// Appends a delta to the one that waits last, if it is of the same message.
    fn join(&mut self, update: &Update) -> bool {
        if self.items.len() < JOIN_FROM {
            return false;
        }
        let Some(Item::Update(last)) = self.items.back_mut() else { return false };
        let Some(text) = continuation(&last.event, &update.event) else { return false };
        // The first time this copies the event, which others may hold; from then on it is our own.
        let event = Arc::make_mut(&mut last.event);
        event.weight += text.len();
        self.bytes += text.len();
        match &mut event.payload {
            Payload::AssistantMessageDelta(delta) => delta.delta_content.push_str(text),
            Payload::AssistantReasoningDelta(delta) => delta.delta_content.push_str(text),
            _ => {}
        }
        last.cursor.clone_from(&update.cursor);
        last.encoded = None;
        true
    }
}

/// The text of `next`, if it continues the delta `last`, and the two together are not too large.
fn continuation<'a>(last: &Event, next: &'a Event) -> Option<&'a str> {
    let (same, text) = match (&last.payload, &next.payload) {
        (Payload::AssistantMessageDelta(last), Payload::AssistantMessageDelta(next)) => {
            (last.message_id == next.message_id, &next.delta_content)
        }
        (Payload::AssistantReasoningDelta(last), Payload::AssistantReasoningDelta(next)) => {
            (last.reasoning_id == next.reasoning_id, &next.delta_content)
        }
        _ => return None,
    };
    (same && last.agent_id == next.agent_id && last.weight + text.len() <= MAX_JOINED).then_some(text)
}

/// A reader's end of a subscription.
#[derive(Debug)]
pub struct Subscriber<E> {
    shared: Arc<Shared<E>>,
}

impl<E> Drop for Subscriber<E> {
    fn drop(&mut self) {
        // Nobody will read what is queued, or anything more.
        let mut queue = self.shared.queue();
        *queue = Queue { end: Some(Item::Lagged(Lagged)), dropped: true, ..Queue::default() };
    }
}

impl<E: Clone> Subscriber<E> {
    pub(super) fn of(shared: Arc<Shared<E>>) -> Self {
        Self { shared }
    }

    /// A subscription to nothing.
    pub fn nothing() -> Self {
        Self::with(Queue::default())
    }

    /// A subscription to a turn that has ended.
    pub fn ended(ticket: Ticket, outcome: E) -> Self {
        Self::with(Queue { end: Some(Item::TurnEnded(ticket, outcome)), ..Queue::default() })
    }

    fn with(queue: Queue<E>) -> Self {
        Self::of(Arc::new(Shared::new(Scope::Session, Filter::NOTHING, true, queue)))
    }

    /// Puts an event at the end of its queue, if it is wanted.
    pub fn push(&self, update: &Update) {
        if self.shared.filter.wants_update(update) {
            self.shared.push(|queue| queue.push(update));
        }
    }

    /// The next item; after the last one, the last one again.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Item<E> {
        loop {
            if let Some(item) = self.ready() {
                return item;
            }
            // `notify_one` leaves a permit, so what is published between the look and the wait is not missed.
            self.shared.wake.notified().await;
        }
    }

    /// The next item, if there is one by now.
    pub fn ready(&mut self) -> Option<Item<E>> {
        let mut queue = self.shared.queue();
        let Some(item) = queue.items.pop_front() else { return queue.end.clone() };
        if let Item::Update(update) = &item {
            queue.bytes -= update.event.weight;
        }
        Some(item)
    }

    /// The next item that waits to be read, which stays where it is.
    pub fn peek(&self) -> Option<Item<E>> {
        self.shared.queue().items.front().cloned()
    }

    /// How it ended, if it has; what waits to be read before that is left where it is.
    pub fn end(&self) -> Option<Item<E>> {
        self.shared.queue().end.clone()
    }
}
