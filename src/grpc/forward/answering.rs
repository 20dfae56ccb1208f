//! What forwarding has to know of the messages of an answer: as little as can be, so that what a newer server tells passes through.

use prost::Message;

use super::frame::GrpcFrame;

/// What forwarding has to know of a message of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Light {
    /// The id of its event, if it is one.
    pub(super) event_id: Option<String>,
    /// Whether that is not stored.
    pub(super) is_ephemeral: bool,
    /// The place after it, if it has one.
    pub(super) cursor: Option<String>,
    /// The prompt whose turn has ended, by `prompt_id`.
    pub(super) ended: Option<String>,
    /// Whether it says that the stream is open.
    pub(super) is_opened: bool,
}

/// Reads a message of WatchSession; `None`: it cannot be read.
pub(super) fn watching(frame: &GrpcFrame) -> Option<Light> {
    let Watching { event } = frame.decode()?;
    Some(event.map(Light::from).unwrap_or_default())
}

/// Reads a message of Converse; `None`: it cannot be read.
pub(super) fn conversing(frame: &GrpcFrame) -> Option<Light> {
    let Conversing { event, result, failure, opened } = frame.decode()?;
    let failed = failure.filter(|failure| failure.ask_id.is_empty()).map(|failure| failure.prompt_id);
    Some(Light {
        ended: result.map(|result| result.prompt_id).or(failed),
        is_opened: opened.is_some(),
        ..event.map(Light::from).unwrap_or_default()
    })
}

#[derive(Clone, PartialEq, Message)]
struct Watching {
    #[prost(message, optional, tag = "1")]
    event: Option<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Conversing {
    #[prost(message, optional, tag = "1")]
    event: Option<Event>,
    #[prost(message, optional, tag = "2")]
    result: Option<OfPrompt>,
    #[prost(message, optional, tag = "3")]
    failure: Option<Failed>,
    #[prost(message, optional, tag = "4")]
    opened: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(string, tag = "1")]
    event_id: String,
    #[prost(bool, tag = "4")]
    ephemeral: bool,
    #[prost(string, tag = "5")]
    cursor: String,
}

impl From<Event> for Light {
    fn from(event: Event) -> Self {
        Self {
            event_id: Some(event.event_id),
            is_ephemeral: event.ephemeral,
            cursor: Some(event.cursor).filter(|cursor| !cursor.is_empty()),
            ..Self::default()
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct OfPrompt {
    #[prost(string, tag = "1")]
    prompt_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Failed {
    #[prost(string, tag = "1")]
    prompt_id: String,
    #[prost(string, tag = "2")]
    ask_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::{self, converse_response::Payload};

    #[test]
    fn of_each_message_it_is_known_what_going_on_needs() {
        let event = pb::SessionEvent { event_id: "e".into(), cursor: "here".into(), ..Default::default() };
        let watched = pb::WatchSessionResponse {
            payload: Some(pb::watch_session_response::Payload::Event(event.clone())),
        };
        let here = || Light { event_id: Some("e".into()), cursor: Some("here".into()), ..Light::default() };
        assert_eq!(watching(&GrpcFrame::of(&watched)), Some(here()));
        let check = |payload, expected| {
            let message = pb::ConverseResponse { payload: Some(payload) };
            assert_eq!(conversing(&GrpcFrame::of(&message)), Some(expected));
        };
        let ended = |id: &str| Light { ended: Some(id.into()), ..Light::default() };
        check(Payload::Event(event), here());
        let result = pb::ConverseResult { prompt_id: "p".into(), result: Some(pb::TurnResult::default()) };
        check(Payload::Result(result), ended("p"));
        let failure = pb::ConverseFailure { prompt_id: "q".into(), ..Default::default() };
        check(Payload::Failure(failure.clone()), ended("q"));
        check(Payload::Failure(pb::ConverseFailure { ask_id: "a".into(), ..failure }), Light::default());
        let opened = pb::ConverseOpened { session: Some(pb::Session::default()) };
        check(Payload::Opened(opened), Light { is_opened: true, ..Light::default() });
        check(Payload::Heartbeat(pb::Heartbeat {}), Light::default());
    }
}
