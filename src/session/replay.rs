//! Undoes the CLI's repetitions. Pure.
//!
//! A CLI that falls some thousand events behind with a session starts to repeat the session's deltas from its memory,
//! with their ids, between the ones that are new (observed: an answer of 20,000 deltas at full speed came as 37,000).
//! So an event whose id was seen is dropped. The new ones among the repeated may be out of order too, so from the first
//! repetition on the deltas of that message are held back, and the rest of its text is given when the whole message
//! comes. The text of the deltas then is the message's text, each piece once.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use crate::copilot::{
    Event,
    event::{AssistantMessageDelta, AssistantReasoningDelta, Payload},
};

/// How many ids are remembered; after that it is forgotten which were seen, and the worst is a repeated delta.
const MAX_SEEN: usize = 1_000_000;

/// What of a turn's events has been seen.
#[derive(Debug, Default)]
pub(super) struct Replay {
    seen: HashSet<u64>,
    hasher: RandomState,
    texts: HashMap<Box<str>, Text>,
}

/// A message that is being written.
#[derive(Debug)]
enum Text {
    /// Its deltas are passed on; this is what they held so far.
    Flowing(String),
    /// Its deltas are held back; this is what was passed on.
    Held(String),
    /// It is complete.
    Complete,
}

impl Replay {
    /// What is to be made of an event: the rest of a text, if it was held back, and the event itself, if it is new.
    pub(super) fn admit(&mut self, event: &Arc<Event>) -> (Option<Arc<Event>>, Option<Arc<Event>>) {
        let repeated = !event.id.is_empty() && !self.remember(&event.id);
        let (rest, admitted) = match piece(&event.payload) {
            Some((message, Piece::Delta(text))) => (None, self.delta(message, text, repeated)),
            Some((message, Piece::Whole(text))) if !repeated => (self.rest(event, message, text), true),
            _ => (None, !repeated),
        };
        (rest, admitted.then(|| event.clone()))
    }

    /// Whether an event of this id has come.
    pub(super) fn has_seen(&self, id: &str) -> bool {
        self.seen.contains(&self.hasher.hash_one(id))
    }

    /// Whether the id is new.
    fn remember(&mut self, id: &str) -> bool {
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(self.hasher.hash_one(id))
    }

    /// Whether a delta is passed on.
    fn delta(&mut self, message: &str, delta: &str, repeated: bool) -> bool {
        let text = self.texts.entry(message.into()).or_insert_with(|| Text::Flowing(String::new()));
        match text {
            Text::Flowing(passed_on) if repeated => {
                *text = Text::Held(std::mem::take(passed_on));
                false
            }
            Text::Flowing(passed_on) => {
                passed_on.push_str(delta);
                true
            }
            Text::Held(_) | Text::Complete => false,
        }
    }

    /// The rest of a message's text, if its deltas were held back. None, too, if what was passed on is not its
    /// beginning: what went wrong before the first repetition cannot be called back.
    fn rest(&mut self, event: &Event, message: &str, whole: &str) -> Option<Arc<Event>> {
        let Some(Text::Held(passed_on)) = self.texts.insert(message.into(), Text::Complete) else {
            return None;
        };
        let rest = whole.strip_prefix(passed_on.as_str()).filter(|rest| !rest.is_empty())?.to_owned();
        let (kind, payload) = match event.payload {
            Payload::AssistantReasoning(_) => {
                let delta = AssistantReasoningDelta { reasoning_id: message.into(), delta_content: rest };
                ("assistant.reasoning_delta", Payload::AssistantReasoningDelta(delta))
            }
            _ => {
                let delta = AssistantMessageDelta { message_id: message.into(), delta_content: rest };
                ("assistant.message_delta", Payload::AssistantMessageDelta(delta))
            }
        };
        Some(Arc::new(Event { kind: kind.into(), payload, ephemeral: true, ..event.clone() }))
    }
}

/// A message, or a piece of it.
enum Piece<'a> {
    Delta(&'a str),
    Whole(&'a str),
}

fn piece(payload: &Payload) -> Option<(&str, Piece<'_>)> {
    match payload {
        Payload::AssistantMessageDelta(delta) => {
            Some((&delta.message_id, Piece::Delta(&delta.delta_content)))
        }
        Payload::AssistantReasoningDelta(delta) => {
            Some((&delta.reasoning_id, Piece::Delta(&delta.delta_content)))
        }
        Payload::AssistantMessage(message) => Some((&message.message_id, Piece::Whole(&message.content))),
        Payload::AssistantReasoning(reasoning) => {
            Some((&reasoning.reasoning_id, Piece::Whole(&reasoning.content)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::copilot::event::{AssistantMessage, Idle};

    use super::*;

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
        let mut replay = Replay::default();
        let (mut text, mut others) = (String::new(), 0);
        let admitted = events.iter().flat_map(|event| {
            let (rest, event) = replay.admit(event);
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
        let mut replay = Replay::default();
        for event in events {
            assert_eq!(replay.admit(&event), (None, Some(event)));
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

    #[test]
    fn deltas_after_their_message_are_dropped() {
        assert_eq!(admitted(&[delta(0), whole(1), delta(0), delta(1)]), ("0 ".into(), 1));
    }

    #[test]
    fn other_events_come_once_too() {
        let idle = event("i", "session.idle", Payload::SessionIdle(Idle::default()));
        assert_eq!(admitted(&[idle.clone(), idle]), (String::new(), 1));
    }
}
