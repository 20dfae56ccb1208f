//! Fan-out: one publisher, any number of subscribers, each with a queue of its own that its reader empties at leisure.
//!
//! The publisher is the task that reads the CLI's connection, and it never waits. So a queue that grows is first kept
//! short by joining text deltas of the same message into one, which loses nothing; and if that is not enough, it is
//! closed with [`Lagged`]. No other event is joined or dropped.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::copilot::{Event, event::Payload};

/// From how many waiting events on deltas are joined: a reader that is this far behind shows bursts anyway.
const JOIN_FROM: usize = 64;

/// How large a joined delta may become, in bytes. Well below the 4 MiB that most gRPC clients accept in a message.
const MAX_JOINED: usize = 256 * 1024;

/// How many events may wait for a reader.
const MAX_EVENTS: usize = 8192;

/// How many bytes of events may wait for a reader, as JSON. Above the largest frames that a turn usually has, so that
/// a single large event does not end a stream.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Which events a subscriber wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// None: only the end.
    Nothing,
    /// Exactly these kinds.
    Kinds(&'static [&'static str]),
    /// Those that match one of the patterns: a kind, or its beginning and a `*`.
    Patterns(Vec<String>),
}

impl Filter {
    /// Whether events of this kind are wanted.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Kinds(kinds) => kinds.contains(&kind),
            Self::Patterns(patterns) => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => kind == pattern,
            }),
        }
    }
}

/// Not every event could be given: the reader fell too far behind, or an event was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<E> {
    /// An event.
    Event(Arc<Event>),
    /// The last item: how it ended.
    End(E),
    /// The last item: the rest cannot be given.
    Lagged(Lagged),
}

/// Makes a subscription: the publisher's end, and the reader's.
pub fn subscription<E>(filter: Filter) -> (Publisher<E>, Subscriber<E>) {
    let shared = Arc::new(Shared { filter, queue: Mutex::default(), wake: Notify::new() });
    (Publisher { shared: shared.clone() }, Subscriber { shared })
}

#[derive(Debug)]
struct Shared<E> {
    filter: Filter,
    queue: Mutex<Queue<E>>,
    wake: Notify,
}

impl<E> Shared<E> {
    fn queue(&self) -> MutexGuard<'_, Queue<E>> {
        // Nothing that holds the lock can panic half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Queue<E> {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    end: Option<Result<E, Lagged>>,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { events: VecDeque::new(), bytes: 0, end: None }
    }
}

/// The publisher's end of a subscription.
#[derive(Debug)]
pub struct Publisher<E> {
    shared: Arc<Shared<E>>,
}

impl<E> Publisher<E> {
    /// Whether the subscriber wants events of this kind.
    pub fn wants(&self, kind: &str) -> bool {
        self.shared.filter.matches(kind)
    }

    /// Queues an event, if it is wanted. Never waits.
    pub fn publish(&self, event: &Arc<Event>) {
        if self.wants(&event.kind) {
            self.shared.queue().push(event);
            self.shared.wake.notify_one();
        }
    }

    /// Ends the subscription where an event cannot be given: what was queued before is still read first.
    pub fn cut_off(&self) {
        self.shared.queue().end.get_or_insert(Err(Lagged));
        self.shared.wake.notify_one();
    }

    /// Queues the end. What was queued before is still read first; what comes later is ignored.
    pub fn finish(&self, end: E) {
        let mut queue = self.shared.queue();
        if queue.end.is_none() {
            queue.end = Some(Ok(end));
        }
        drop(queue);
        self.shared.wake.notify_one();
    }
}

impl<E> Queue<E> {
    fn push(&mut self, event: &Arc<Event>) {
        if self.end.is_some() || self.join(event) {
            return;
        }
        let fits = self.events.len() < MAX_EVENTS && self.bytes + event.weight <= MAX_BYTES;
        if fits || self.events.is_empty() {
            self.bytes += event.weight;
            self.events.push_back(event.clone());
        } else {
            self.end = Some(Err(Lagged));
        }
    }

    /// Appends a delta to the one that waits last, if it is of the same message.
    fn join(&mut self, event: &Arc<Event>) -> bool {
        if self.events.len() < JOIN_FROM {
            return false;
        }
        let Some(last) = self.events.back_mut() else { return false };
        let Some(text) = continuation(last, event) else { return false };
        // The first time this copies the event, which others may hold; from then on it is our own.
        let last = Arc::make_mut(last);
        last.weight += text.len();
        self.bytes += text.len();
        match &mut last.payload {
            Payload::AssistantMessageDelta(delta) => delta.delta_content.push_str(text),
            Payload::AssistantReasoningDelta(delta) => delta.delta_content.push_str(text),
            _ => {}
        }
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

/// The reader's end of a subscription.
#[derive(Debug)]
pub struct Subscriber<E> {
    shared: Arc<Shared<E>>,
}

impl<E> Drop for Subscriber<E> {
    fn drop(&mut self) {
        // Nobody will read what is queued, or anything more.
        let mut queue = self.shared.queue();
        queue.events.clear();
        queue.end = Some(Err(Lagged));
    }
}

impl<E: Clone> Subscriber<E> {
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

    fn ready(&mut self) -> Option<Item<E>> {
        let mut queue = self.shared.queue();
        if let Some(event) = queue.events.pop_front() {
            queue.bytes -= event.weight;
            return Some(Item::Event(event));
        }
        match queue.end.as_ref()? {
            Ok(end) => Some(Item::End(end.clone())),
            Err(lagged) => Some(Item::Lagged(*lagged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::copilot::event::{AssistantMessageDelta, Idle};

    use super::*;

    const USUAL: Filter = Filter::Kinds(&["assistant.message_delta", "session.idle"]);

    fn event(kind: &str, payload: Payload, weight: usize) -> Arc<Event> {
        Arc::new(Event {
            id: "1".into(),
            timestamp: String::new(),
            agent_id: None,
            ephemeral: true,
            kind: kind.into(),
            payload,
            weight,
        })
    }

    fn delta(message: &str, text: &str) -> Arc<Event> {
        let delta = AssistantMessageDelta { message_id: message.into(), delta_content: text.into() };
        event("assistant.message_delta", Payload::AssistantMessageDelta(delta), 100)
    }

    fn idle() -> Arc<Event> {
        event("session.idle", Payload::SessionIdle(Idle::default()), 50)
    }

    async fn drain(subscriber: &mut Subscriber<&'static str>) -> (usize, String, Item<&'static str>) {
        let (mut events, mut text) = (0, String::new());
        loop {
            match subscriber.next().await {
                Item::Event(event) => {
                    events += 1;
                    if let Payload::AssistantMessageDelta(delta) = &event.payload {
                        text.push_str(&delta.delta_content);
                    }
                }
                end => return (events, text, end),
            }
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_fewer_deltas_and_all_of_the_text() {
        let (publisher, mut subscriber) = subscription(USUAL);
        let words: Vec<_> = (0..100_000).map(|n| format!("{n} ")).collect();
        for word in &words {
            publisher.publish(&delta("m", word));
        }
        publisher.publish(&idle());
        publisher.finish("done");
        let (events, text, end) = drain(&mut subscriber).await;
        assert!(events < 100, "{events} events");
        assert_eq!(text, words.concat());
        assert_eq!(end, Item::End("done"));
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_gets_every_delta_as_it_is() {
        let (publisher, mut subscriber) = subscription::<&str>(USUAL);
        for n in 0..1_000 {
            let sent = delta("m", &n.to_string());
            publisher.publish(&sent);
            assert_eq!(subscriber.next().await, Item::Event(sent));
        }
    }

    #[tokio::test]
    async fn deltas_of_different_messages_are_not_joined() {
        let (publisher, mut subscriber) = subscription(USUAL);
        for n in 0..1_000 {
            publisher.publish(&delta(if n % 2 == 0 { "a" } else { "b" }, "x"));
        }
        publisher.finish("done");
        assert_eq!(drain(&mut subscriber).await.0, 1_000);
    }

    #[tokio::test]
    async fn a_joined_delta_does_not_change_what_other_subscribers_see() {
        let (slow, _slow_reader) = subscription::<&str>(USUAL);
        let (fast, mut fast_reader) = subscription::<&str>(USUAL);
        for _ in 0..=JOIN_FROM {
            let sent = delta("m", "x");
            slow.publish(&sent);
            fast.publish(&sent);
            assert_eq!(fast_reader.next().await, Item::Event(delta("m", "x")));
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_for_events_that_cannot_be_joined_is_told_so_after_what_fitted() {
        let (publisher, mut subscriber) = subscription(USUAL);
        for _ in 0..MAX_EVENTS + 10 {
            publisher.publish(&idle());
        }
        publisher.finish("done");
        let (events, _, end) = drain(&mut subscriber).await;
        assert_eq!((events, end), (MAX_EVENTS, Item::Lagged(Lagged)));
    }

    #[tokio::test]
    async fn the_bytes_that_wait_are_bounded_but_a_single_large_event_passes() {
        let (publisher, mut subscriber) = subscription(USUAL);
        let huge = event("session.idle", Payload::SessionIdle(Idle::default()), MAX_BYTES + 1);
        publisher.publish(&huge);
        publisher.publish(&idle());
        publisher.finish("done");
        let (events, _, end) = drain(&mut subscriber).await;
        assert_eq!((events, end), (1, Item::Lagged(Lagged)));
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (publisher, mut subscriber) = subscription(USUAL);
        let reader = tokio::spawn(async move { subscriber.next().await });
        tokio::task::yield_now().await;
        publisher.finish("done");
        assert_eq!(reader.await.unwrap(), Item::End("done"));
    }

    #[test]
    fn filters_choose_by_kind() {
        let patterns =
            |patterns: &[&str]| Filter::Patterns(patterns.iter().map(|p| (*p).to_owned()).collect());
        let check = |filter: &Filter, kind: &str, expected: bool| {
            assert_eq!(filter.matches(kind), expected, "{kind}")
        };
        check(&Filter::Nothing, "session.idle", false);
        check(&USUAL, "session.idle", true);
        check(&USUAL, "system.message", false);
        check(&USUAL, "model.call_start", false);
        check(&patterns(&["*"]), "model.call_start", true);
        check(&patterns(&["tool.*", "abort"]), "tool.execution_start", true);
        check(&patterns(&["tool.*", "abort"]), "abort", true);
        check(&patterns(&["tool.*", "abort"]), "aborted", false);
    }
}
