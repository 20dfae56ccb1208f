//! The messages of streams: an event that several readers get is encoded once for all of them.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::{convert::session_event, pb};
use crate::session::fanout::Update;

/// A message of `SendAndStream`.
pub type SendAndStreamResponse = Streamed<pb::SendAndStreamResponse>;

/// A message of `Converse`.
pub type ConverseResponse = Streamed<pb::ConverseResponse>;

/// A message of `WatchSession`.
pub type WatchSessionResponse = Streamed<pb::WatchSessionResponse>;

/// The number of the field that holds the event, in all of them.
const EVENT: u32 = 1;

/// A message of a stream.
#[derive(Debug)]
pub enum Streamed<M> {
    /// A message that is still to be encoded.
    Message(M),
    /// A message with nothing but this event, which is encoded already.
    Event(Bytes),
}

impl<M> Streamed<M> {
    /// A message with an event. If several readers get the event, it is encoded once; otherwise `wrap` puts it into a message.
    /// An event of more than `max_size` bytes is cut, for each reader by itself.
    pub(super) fn event(
        mut update: Update,
        max_size: usize,
        wrap: impl FnOnce(pb::SessionEvent) -> M,
    ) -> Self {
        if let Some(shared) = update.shared.take() {
            let whole = || session_event(update.clone(), usize::MAX).encode_to_vec().into();
            let event = shared.encoded(whole);
            if event.len() <= max_size {
                return Self::Event(event);
            }
        }
        Self::Message(wrap(session_event(update, max_size)))
    }
}

impl<M: Default> Default for Streamed<M> {
    fn default() -> Self {
        Self::Message(M::default())
    }
}

impl<M: Message + Default> Message for Streamed<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Message(message) => message.encode_raw(buf),
            Self::Event(event) => encoding::bytes::encode(EVENT, event, buf),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Event(event) => encoding::bytes::encoded_len(EVENT, event),
        }
    }

    /// Not used: the server decodes no message of a stream.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match self {
            Self::Message(message) => message.merge_field(tag, wire_type, buf, context),
            Self::Event(_) => encoding::skip_field(wire_type, tag, buf, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        budget::Budget,
        copilot::event,
        session::fanout::{Audience, End, Filter, Hub, Item, Kinds, Scope},
    };

    impl End for () {
        fn weight(&self) -> usize {
            0
        }
    }

    const MAX_SIZE: usize = 4096;

    fn watched(event: pb::SessionEvent) -> pb::WatchSessionResponse {
        pb::WatchSessionResponse { payload: Some(pb::watch_session_response::Payload::Event(event)) }
    }

    /// The messages that so many readers of one event are sent.
    fn told(readers: usize) -> Vec<WatchSessionResponse> {
        let event =
            r#"{"type":"abort","id":"e","timestamp":"2026-11-27T16:57:07.928Z","data":{"reason":"r"}}"#;
        let event = event::parse_stored(event).unwrap();
        let mut hub = Hub::<()>::new(Budget::default());
        let filter = Filter { kinds: Kinds::Exactly(&["abort"]), sub_agents: true };
        let mut readers: Vec<_> =
            (0..readers).map(|_| hub.subscribe(Scope::Session, filter.clone())).collect();
        hub.publish(&Update::new(event.into(), None), Audience::Everybody);
        let mut told = Vec::new();
        for reader in &mut readers {
            let Some(Item::Update(update)) = reader.ready() else { panic!("nothing was told") };
            told.push(Streamed::event(update, MAX_SIZE, watched));
        }
        told
    }

    #[test]
    fn readers_of_one_event_get_the_same_bytes_and_those_that_a_single_one_gets() {
        let [alone] = &told(1)[..] else { panic!() };
        assert!(matches!(alone, Streamed::Message(_)));
        let [Streamed::Event(one), Streamed::Event(other)] = &told(2)[..] else { panic!() };
        assert_eq!(one.as_ptr(), other.as_ptr());
        let shared = WatchSessionResponse::Event(one.clone());
        assert_eq!(shared.encoded_len(), alone.encoded_len());
        assert_eq!(shared.encode_to_vec(), alone.encode_to_vec());
    }

    #[test]
    fn an_event_is_the_same_field_of_every_stream() {
        let event = pb::SessionEvent { event_id: "e".into(), ..Default::default() };
        let encoded = || Bytes::from(event.encode_to_vec());
        let payload = Some(pb::send_and_stream_response::Payload::Event(event.clone()));
        let turns = pb::SendAndStreamResponse { payload }.encode_to_vec();
        assert_eq!(SendAndStreamResponse::Event(encoded()).encode_to_vec(), turns);
        let payload = Some(pb::converse_response::Payload::Event(event.clone()));
        let conversations = pb::ConverseResponse { payload }.encode_to_vec();
        assert_eq!(ConverseResponse::Event(encoded()).encode_to_vec(), conversations);
        let watchers = watched(event.clone()).encode_to_vec();
        assert_eq!(WatchSessionResponse::Event(encoded()).encode_to_vec(), watchers);
    }
}
