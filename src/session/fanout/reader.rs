//! One reader: its queue, which the hub fills and the reader empties.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use tokio::sync::Notify;

use super::{
    filter::Filter,
    update::{End, Item, Lagged, Scope, Update},
};
use crate::{
    budget::{Budget, Charge, Entry, Holder, LEAST},
    copilot::{Event, event::Payload},
    lock::lock,
    session::{cursor::Cursor, turn::Ticket},
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

/// In which steps what a reader holds is counted. One that keeps up never holds as much, and so never touches what all count
/// together.
const STEP: usize = 4 * 1024;

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

impl<E: End> Shared<E> {
    pub(super) fn new(scope: Scope, filter: Filter, present: bool, queue: Queue<E>) -> Self {
        Self { scope, filter, present, queue: Mutex::new(queue), wake: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<E>> {
        // Nothing that holds the lock can panic half-way.
        lock(&self.queue)
    }

    pub(super) fn push(self: &Arc<Self>, push: impl FnOnce(&mut Queue<E>)) {
        let mut queue = self.queue();
        if queue.end.is_none() {
            push(&mut queue);
            self.count(&mut queue);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Has what the queue holds counted, where that differs by a step from what is; and is among those that can be ended once
    /// it was behind by much, be it by what it shares.
    fn count(self: &Arc<Self>, queue: &mut Queue<E>) {
        if queue.own.abs_diff(queue.charge.bytes()) > STEP {
            let bytes = if queue.own <= STEP { 0 } else { queue.own.next_multiple_of(STEP) };
            queue.charge.set(bytes);
        }
        if queue.bytes.max(queue.own) >= LEAST && queue.entry.is_none() {
            let holder: Weak<Self> = Arc::downgrade(self);
            queue.entry = Some(queue.charge.budget().enter(holder));
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.queue().dropped
    }
}

impl<E: End> Holder for Shared<E> {
    /// What it shares included, by which it is as far behind as by what is its own.
    fn held(&self) -> usize {
        let queue = self.queue();
        queue.bytes.max(queue.own)
    }

    fn end(&self) {
        let mut queue = self.queue();
        let cleared = Queue::new(queue.charge.budget());
        let (dropped, last) = (queue.dropped, queue.last.take());
        let was = std::mem::replace(
            &mut *queue,
            Queue { end: Some(Item::Lagged(Lagged)), dropped, last, ..cleared },
        );
        drop(queue);
        drop(was);
        self.wake.notify_one();
    }
}

/// What waits for a reader.
#[derive(Debug)]
pub(super) struct Queue<E> {
    /// What was read of the history for it, which comes before all else.
    history: VecDeque<Update>,
    /// The events that it was given from the history, and that may come once more.
    given: HashSet<String>,
    items: VecDeque<Item<E>>,
    /// The weight of the events among the items.
    bytes: usize,
    /// About how many bytes there are of all this, without what others hold as well.
    own: usize,
    /// What of that is counted.
    charge: Charge,
    /// Once it was behind by so much that it may have to be ended.
    entry: Option<Entry>,
    /// Where to go on from after what was taken last.
    last: Option<Cursor>,
    /// What comes after all of them, and stays.
    end: Option<Item<E>>,
    /// Whether nobody will read it.
    dropped: bool,
}

impl<E: End> Queue<E> {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            history: VecDeque::new(),
            given: HashSet::new(),
            items: VecDeque::new(),
            bytes: 0,
            own: 0,
            charge: budget.charge(0),
            entry: None,
            last: None,
            end: None,
            dropped: false,
        }
    }

    pub(super) fn push(&mut self, update: &Update) {
        if self.join(update) {
            return;
        }
        self.tell(Item::Update(update.clone()));
    }

    /// Queues an item, unless that is too much.
    pub(super) fn tell(&mut self, item: Item<E>) {
        let weight = weight(&item);
        let fits = self.items.len() < MAX_EVENTS && self.bytes + weight <= MAX_BYTES;
        if fits || self.items.is_empty() {
            self.bytes += weight;
            self.own += own_of(&item);
            self.items.push_back(item);
        } else {
            self.end(Item::Lagged(Lagged));
        }
    }

    fn pop(&mut self) -> Option<Item<E>> {
        let item = self.items.pop_front()?;
        self.bytes -= weight(&item);
        self.own -= own_of(&item);
        if let Item::Update(update) = &item {
            self.took(update);
        }
        Some(item)
    }

    fn took(&mut self, update: &Update) {
        // Most have the cursor of the one before.
        if self.last != update.cursor && update.cursor.is_some() {
            self.last.clone_from(&update.cursor);
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
        self.own -= own(last);
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
        last.shared = None;
        self.own += own(last);
        true
    }
}

/// What an item counts against the limit of its queue.
fn weight<E: End>(item: &Item<E>) -> usize {
    match item {
        Item::Update(update) => update.event.weight,
        Item::TurnEnded(_, outcome) => outcome.weight(),
        Item::LinkLost | Item::Reloaded | Item::Gone | Item::Lagged(_) => 0,
    }
}

/// About how many bytes it takes there.
fn own_of<E: End>(item: &Item<E>) -> usize {
    match item {
        Item::Update(update) => own(update),
        Item::TurnEnded(..) | Item::LinkLost | Item::Reloaded | Item::Gone | Item::Lagged(_) => {
            size_of::<Item<E>>() + weight(item)
        }
    }
}

/// The same of an event.
fn own(update: &Update) -> usize {
    let place = size_of::<Update>();
    match update.shared {
        Some(_) => place,
        None => place + size_of::<Event>() + room(&update.event),
    }
}

/// About how many bytes an event holds. One that others were joined to has room for more of them.
fn room(event: &Event) -> usize {
    let text = match &event.payload {
        Payload::AssistantMessageDelta(delta) => delta.delta_content.capacity(),
        Payload::AssistantReasoningDelta(delta) => delta.delta_content.capacity(),
        _ => 0,
    };
    event.weight.max(text)
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
pub struct Subscriber<E: End> {
    shared: Arc<Shared<E>>,
}

impl<E: End> Drop for Subscriber<E> {
    fn drop(&mut self) {
        // Nobody will read what is queued, or anything more.
        self.shared.end();
        self.shared.queue().dropped = true;
    }
}

impl<E: End> Subscriber<E> {
    pub(super) fn of(shared: Arc<Shared<E>>) -> Self {
        Self { shared }
    }

    /// A subscription to nothing.
    pub fn nothing() -> Self {
        Self::with(Queue::new(&Budget::default()))
    }

    /// A subscription to a turn that has ended.
    pub fn ended(ticket: Ticket, outcome: E) -> Self {
        let end = Some(Item::TurnEnded(ticket, outcome));
        Self::with(Queue { end, ..Queue::new(&Budget::default()) })
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
        let Some(item) = queue.pop() else { return queue.end.clone() };
        self.shared.count(&mut queue);
        Some(item)
    }

    /// How it ended, if it has; what waits to be read before that is left where it is.
    pub fn end(&self) -> Option<Item<E>> {
        self.shared.queue().end.clone()
    }

    /// Where to go on from after what was taken last, if that is known.
    pub fn last(&self) -> Option<Cursor> {
        self.shared.queue().last.clone()
    }
}

/// The history of a session, for a reader that wants it as well: it is held where the rest is, so that it is let go of with
/// the rest.
impl<E: End> Subscriber<E> {
    /// Events of the history were read: these, of which those with an update are wanted. One that lags has no use for them.
    pub(in crate::session) fn read(&self, events: Vec<(String, Option<Update>)>) {
        let mut queue = self.shared.queue();
        if matches!(queue.end, Some(Item::Lagged(_))) {
            return;
        }
        for (id, update) in events {
            queue.own += of_id(&id) + update.as_ref().map_or(0, own);
            queue.given.insert(id);
            queue.history.extend(update);
        }
        self.shared.count(&mut queue);
    }

    /// The next event of the history. `None`: there is no more of it, for now.
    pub(in crate::session) fn earlier(&mut self) -> Option<Update> {
        let mut queue = self.shared.queue();
        let update = queue.history.pop_front()?;
        queue.own -= own(&update);
        queue.took(&update);
        self.shared.count(&mut queue);
        Some(update)
    }

    /// Whether this event was among those that were read, and has not come once more. Then it has now.
    pub(in crate::session) fn comes_again(&mut self, id: &str) -> bool {
        let mut queue = self.shared.queue();
        let comes_again = queue.given.remove(id);
        queue.own -= if comes_again { of_id(id) } else { 0 };
        comes_again
    }

    /// Whether this event was among those that were read.
    pub(in crate::session) fn was_read(&self, id: &str) -> bool {
        self.shared.queue().given.contains(id)
    }

    /// None of the events that were read will come once more.
    pub(in crate::session) fn forget_what_was_read(&mut self) {
        let mut queue = self.shared.queue();
        let given = std::mem::take(&mut queue.given);
        queue.own -= given.iter().map(|id| of_id(id)).sum::<usize>();
        self.shared.count(&mut queue);
    }

    /// Of what has happened since it was subscribed, drops all up to the last event that was read: also deltas, which belong
    /// before events that were read.
    pub(in crate::session) fn drop_what_was_read(&mut self) {
        let mut queue = self.shared.queue();
        let was_read =
            |item: &Item<E>| matches!(item, Item::Update(it) if queue.given.contains(&it.event.id));
        let until = queue.items.iter().take_while(|item| matches!(item, Item::Update(_))).collect::<Vec<_>>();
        let last = until.into_iter().rposition(was_read);
        for _ in 0..last.map_or(0, |last| last + 1) {
            let last = queue.last.clone();
            queue.pop();
            queue.last = last;
        }
        self.shared.count(&mut queue);
    }
}

/// About how many bytes an id takes in a set.
fn of_id(id: &str) -> usize {
    2 * size_of::<String>() + id.len()
}
