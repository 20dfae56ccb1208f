//! Undoes the CLI's repetitions. Pure.
//!
//! A CLI that falls some thousand events behind with a session starts to repeat the session's deltas from its memory,
//! with their ids, between the ones that are new (observed: an answer of 20,000 deltas at full speed came as 37,000). What
//! is read from its memory after a lost link may have been told before, too. So an event whose id was seen is dropped. The
//! new ones among the repeated may be out of order too, so from the first repetition on the deltas of that message are
//! held back, and the rest of its text is given when the whole message comes; of one that the model's output limit has cut
//! that is what the model said, for it never comes as a message. The text of the deltas then is the message's text, each
//! piece once.
//!
//! It is remembered beyond the end of a turn, because a repetition may come in the next one. Between turns that is some
//! hundred bytes: the messages that were finished, and the latest of the other events.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    sync::Arc,
};

use foldhash::quality::RandomState;

use crate::copilot::{
    Event,
    event::{self, AssistantMessageDelta, AssistantReasoningDelta, Payload},
};

/// How many ids are remembered while the agent works; after that the older ones are forgotten, and the worst is a repeated
/// event.
const MAX_SEEN: usize = 1_000_000;

/// How many finished messages and other events are remembered beyond that: what the CLI repeats is what it told lately.
const LATEST: usize = 32;

/// What of a session's events has been seen. Events and messages are known by hashes of their ids. Those are random enough for
/// sets and maps as they are: a delta costs two hashes, of its own id and its message's.
#[derive(Debug, Default)]
pub(in crate::session) struct Dedup {
    hasher: RandomState,
    /// Boxed, because at rest there is nothing of it.
    work: Option<Box<Work>>,
    /// Messages of which nothing more can come.
    finished: Latest,
    /// Events that are not pieces of messages.
    latest: Latest,
}

/// What has been seen since the agent last rested.
#[derive(Debug, Default)]
struct Work {
    /// All events.
    seen: HashSet<u64, BuildHasherDefault<Hashed>>,
    /// Messages that are being written.
    texts: HashMap<u64, Text, BuildHasherDefault<Hashed>>,
}

/// The hash of a key that is a hash.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are hashes");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A message that is being written.
#[derive(Debug, Default)]
struct Text {
    /// What was passed on.
    passed_on: String,
    /// Whether its deltas are held back by now.
    held: Option<Held>,
}

/// Of which message, and of whose, deltas are held back.
#[derive(Debug)]
struct Held {
    message: String,
    agent: Option<String>,
}

/// The latest of some things, by their hashes.
#[derive(Debug, Default)]
struct Latest(VecDeque<u64>);

impl Latest {
    fn push(&mut self, hash: u64) {
        if self.0.len() == LATEST {
            self.0.pop_front();
        }
        self.0.push_back(hash);
    }

    fn contains(&self, hash: u64) -> bool {
        self.0.contains(&hash)
    }
}

impl Dedup {
    /// What is to be made of an event: the rest of a text, if it was held back, and the event itself, if it is new.
    pub(in crate::session) fn admit(
        &mut self,
        event: &Arc<Event>,
    ) -> (Option<Arc<Event>>, Option<Arc<Event>>) {
        let piece = piece(&event.payload);
        let repeated = !self.is_new(&event.id, matches!(piece, Some((_, Piece::Delta(_)))));
        let (rest, admitted) = match piece {
            Some((message, Piece::Delta(text))) => (None, self.delta(event, message, text, repeated)),
            Some((message, Piece::Whole(text))) if !repeated => (self.rest(event, message, text), true),
            None if !repeated => (self.rest_of_cut(event), true),
            _ => (None, !repeated),
        };
        (rest, admitted.then(|| event.clone()))
    }

    /// Whether an event of this id has come.
    pub(in crate::session) fn has_seen(&self, id: &str) -> bool {
        let id = self.hasher.hash_one(id);
        self.work.as_ref().is_some_and(|work| work.seen.contains(&id)) || self.latest.contains(id)
    }

    /// The agent rests: nothing more can come of the messages that it was writing.
    pub(in crate::session) fn at_rest(&mut self) {
        let Some(work) = self.work.take() else { return };
        for (message, _) in work.texts {
            self.finished.push(message);
        }
    }

    /// Whether no event of this id has come; from now on one has. What has no id is never seen again.
    fn is_new(&mut self, id: &str, is_delta: bool) -> bool {
        if id.is_empty() {
            return true;
        }
        let id = self.hasher.hash_one(id);
        if self.latest.contains(id) {
            return false;
        }
        let seen = &mut self.work.get_or_insert_default().seen;
        if !seen.insert(id) {
            return false;
        }
        if seen.len() > MAX_SEEN {
            seen.clear();
            seen.insert(id);
        }
        if !is_delta {
            self.latest.push(id);
        }
        true
    }

    /// Whether the rest of a text is to come.
    pub(in crate::session) fn is_holding(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.texts.values().any(|text| text.held.is_some()))
    }

    /// Whether a delta is passed on.
    fn delta(&mut self, event: &Event, id: &str, delta: &str, repeated: bool) -> bool {
        let message = self.hasher.hash_one(id);
        let texts = &mut self.work.get_or_insert_default().texts;
        let text = match texts.get_mut(&message) {
            Some(text) => text,
            None if self.finished.contains(message) => return false,
            None => texts.entry(message).or_default(),
        };
        if repeated && text.held.is_none() {
            text.held = Some(Held { message: id.to_owned(), agent: event.agent_id.clone() });
        }
        if text.held.is_none() {
            text.passed_on.push_str(delta);
        }
        text.held.is_none()
    }

    /// The rest of a message's text, if its deltas were held back. None, too, if what was passed on is not its
    /// beginning: what went wrong before the first repetition cannot be called back.
    fn rest(&mut self, event: &Event, message: &str, whole: &str) -> Option<Arc<Event>> {
        let hash = self.hasher.hash_one(message);
        self.finished.push(hash);
        let text = self.work.as_mut()?.texts.remove(&hash)?;
        text.held.as_ref()?;
        let rest = whole.strip_prefix(text.passed_on.as_str()).filter(|rest| !rest.is_empty())?.to_owned();
        let payload = match event.payload {
            Payload::AssistantReasoning(_) => Payload::AssistantReasoningDelta(AssistantReasoningDelta {
                reasoning_id: message.into(),
                delta_content: rest,
            }),
            _ => Payload::AssistantMessageDelta(AssistantMessageDelta {
                message_id: message.into(),
                delta_content: rest,
            }),
        };
        Some(told_late(event, payload))
    }

    /// The rest of a message's text, if its deltas were held back, and the event is what the model said, which was cut.
    fn rest_of_cut(&mut self, event: &Event) -> Option<Arc<Event>> {
        let whole = event::model_message(event)?;
        let texts = &mut self.work.as_mut()?.texts;
        let (hash, rest) = texts.iter().find_map(|(hash, text)| {
            let is_theirs = text.held.as_ref()?.agent == event.agent_id;
            Some((*hash, whole.strip_prefix(text.passed_on.as_str())?)).filter(|_| is_theirs)
        })?;
        let Held { message, .. } = texts.remove(&hash)?.held?;
        self.finished.push(hash);
        let delta = AssistantMessageDelta { message_id: message, delta_content: rest.to_owned() };
        (!rest.is_empty()).then(|| told_late(event, Payload::AssistantMessageDelta(delta)))
    }
}

/// The rest of a text, as it is told ahead of what made it known.
fn told_late(event: &Event, payload: Payload) -> Arc<Event> {
    let kind = match payload {
        Payload::AssistantReasoningDelta(_) => "assistant.reasoning_delta",
        _ => "assistant.message_delta",
    };
    Arc::new(Event { kind: kind.into(), payload, ephemeral: true, ..event.clone() })
}

/// A message, or a piece of it.
enum Piece<'a> {
    Delta(&'a str),
    Whole(&'a str),
}

fn piece(payload: &Payload) -> Option<(&str, Piece<'_>)> {
    let piece = match payload {
        Payload::AssistantMessageDelta(delta) => (&delta.message_id, Piece::Delta(&delta.delta_content)),
        Payload::AssistantReasoningDelta(delta) => (&delta.reasoning_id, Piece::Delta(&delta.delta_content)),
        Payload::AssistantMessage(message) => (&message.message_id, Piece::Whole(&message.content)),
        Payload::AssistantReasoning(reasoning) => (&reasoning.reasoning_id, Piece::Whole(&reasoning.content)),
        _ => return None,
    };
    // Messages of which nobody knows which they are, are not all the same one.
    let (id, piece) = piece;
    (!id.is_empty()).then_some((id, piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copilot::event::{AssistantMessage, Idle};

    fn event(id: &str, kind: &str, payload: Payload) -> Arc<Event> {
        Arc::new(Event {
            id: id.into(),
            timestamp: String::new(),
            agent_id: None,
            ephemeral: false,
            kind: kind.to_owned().into(),
            payload,
            weight: 1,
        })
    }

    /// The `n`th delta of a message.
    fn delta(n: u32) -> Arc<Event> {
        let delta = AssistantMessageDelta { message_id: "m".into(), delta_content: format!("{n} ") };
        event(&format!("d{n}"), "assistant.message_delta", Payload::AssistantMessageDelta(delta))
    }

    fn whole(count: u32) -> Arc<Event> {
        let content = (0..count).map(|n| format!("{n} ")).collect();
        let message = AssistantMessage { message_id: "m".into(), content, ..AssistantMessage::default() };
        event("whole", "assistant.message", Payload::AssistantMessage(message))
    }

    /// What comes out: the text of the deltas, and how many other events.
    fn admitted(events: &[Arc<Event>]) -> (String, usize) {
        let mut dedup = Dedup::default();
        let (mut text, mut others) = (String::new(), 0);
        let admitted = events.iter().flat_map(|event| {
            let (rest, event) = dedup.admit(event);
            rest.into_iter().chain(event)
        });
        for event in admitted {
            match &event.payload {
                Payload::AssistantMessageDelta(delta) => text.push_str(&delta.delta_content),
                _ => others += 1,
            }
        }
        (text, others)
    }

    #[test]
    fn what_is_not_repeated_passes_unchanged() {
        let events: Vec<_> = (0..100).map(delta).chain([whole(100)]).collect();
        let mut dedup = Dedup::default();
        for event in events {
            assert_eq!(dedup.admit(&event), (None, Some(event)));
        }
    }

    #[test]
    fn a_repetition_between_new_deltas_neither_doubles_nor_reorders_the_text() {
        let text: String = (0..100).map(|n| format!("{n} ")).collect();
        let check = |order: &[u32]| {
            let events: Vec<_> = order.iter().map(|n| delta(*n)).chain([whole(100)]).collect();
            assert_eq!(admitted(&events), (text.clone(), 1), "{order:?}");
        };
        let live = || 0..100;
        // As observed: two streams, the second one of which begins earlier.
        check(&live().flat_map(|n| if n < 50 { vec![n] } else { vec![n, n - 45] }).collect::<Vec<_>>());
        // As observed, rarely: then the first one jumps too, and the second one fills the gap.
        check(
            &[
                (0..50).collect(),
                vec![3],
                (50..60).collect(),
                (80..100).collect(),
                (4..100).collect::<Vec<_>>(),
            ]
            .concat(),
        );
        // The last ones come after all.
        check(&live().chain([99, 98]).collect::<Vec<_>>());
    }

    /// What the model said.
    fn said(agent: Option<&str>, text: &str) -> Arc<Event> {
        let said = serde_json::json!({"message": {"role": "assistant", "content": text}});
        let said = event(&format!("{agent:?} {text}"), event::MODEL_MESSAGE, Payload::Other(said.into()));
        Arc::new(Event { agent_id: agent.map(Into::into), ..Event::clone(&said) })
    }

    #[test]
    fn the_rest_of_a_message_that_was_cut_is_given_when_the_model_is_told_to_have_said_it() {
        let mut dedup = Dedup::default();
        for n in [0, 1] {
            dedup.admit(&delta(n));
        }
        assert!(!dedup.is_holding());
        for n in [0, 2] {
            assert_eq!(dedup.admit(&delta(n)), (None, None));
        }
        assert!(dedup.is_holding());
        for others in [said(Some("helper"), "0 1 2 "), said(None, "something else")] {
            assert_eq!(dedup.admit(&others), (None, Some(others.clone())));
        }
        let whole = said(None, "0 1 2 ");
        let (rest, event) = dedup.admit(&whole);
        let rest = rest.unwrap();
        assert_eq!((&*rest.kind, rest.ephemeral), ("assistant.message_delta", true));
        let expected = AssistantMessageDelta { message_id: "m".into(), delta_content: "2 ".into() };
        assert_eq!(rest.payload, Payload::AssistantMessageDelta(expected));
        assert_eq!((event, dedup.is_holding()), (Some(whole), false));
        assert_eq!(dedup.admit(&delta(3)), (None, None));
    }

    #[test]
    fn messages_of_which_nobody_knows_which_they_are_are_not_the_same_one() {
        let mut dedup = Dedup::default();
        for n in ["a", "b"] {
            let message = AssistantMessage { content: n.into(), ..AssistantMessage::default() };
            let message = event(n, "assistant.message", Payload::AssistantMessage(message));
            assert_eq!(dedup.admit(&message), (None, Some(message)));
        }
        let piece = AssistantMessageDelta { message_id: String::new(), delta_content: "c".into() };
        let piece = event("c", "assistant.message_delta", Payload::AssistantMessageDelta(piece));
        assert_eq!(dedup.admit(&piece), (None, Some(piece)));
    }

    #[test]
    fn deltas_after_their_message_are_dropped() {
        assert_eq!(admitted(&[delta(0), whole(1), delta(0), delta(1)]), ("0 ".into(), 1));
    }

    #[test]
    fn other_events_come_once_too() {
        let idle = event("i", "session.idle", Payload::SessionIdle(Idle::default()));
        assert_eq!(admitted(&[idle.clone(), idle]), (String::new(), 1));
    }

    #[test]
    fn what_is_repeated_after_the_agent_has_rested_is_dropped_too() {
        let idle = event("i", "session.idle", Payload::SessionIdle(Idle::default()));
        for turn in [vec![delta(0), delta(1), whole(2), idle.clone()], vec![delta(0), idle.clone()]] {
            let mut dedup = Dedup::default();
            for event in &turn {
                assert_eq!(dedup.admit(event), (None, Some(event.clone())));
            }
            dedup.at_rest();
            for event in turn.iter().chain([&delta(7)]) {
                assert_eq!(dedup.admit(event), (None, None));
            }
        }
    }

    #[test]
    fn what_is_remembered_of_a_session_at_rest_does_not_grow() {
        let mut dedup = Dedup::default();
        for n in 0..1000 {
            let message = AssistantMessage { message_id: n.to_string(), ..AssistantMessage::default() };
            dedup.admit(&event(&format!("e{n}"), "assistant.message", Payload::AssistantMessage(message)));
            dedup.at_rest();
        }
        assert_eq!((dedup.finished.0.len(), dedup.latest.0.len()), (LATEST, LATEST));
        assert!(dedup.work.is_none());
    }
}
