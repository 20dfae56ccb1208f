//! The steps of the hot path, one by one, on the recorded turn: what the micro-benchmarks and the instruction counts run.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use copilot_grpc::{
    copilot::event,
    grpc::pb::SessionEvent,
    jsonrpc::{
        frame::{Decoder, Item},
        message::{self, Incoming},
    },
    session::fanout::Update,
};
use prost::Message as _;

use crate::recording::{Recording, Values};

/// The recorded turn as bytes, with so many deltas.
pub fn turn(deltas: usize) -> Vec<u8> {
    let recording = Recording::load();
    let values = Values {
        request_id: "7",
        session: "bench-0",
        turn: 1,
        event: 0,
        prompt: "a prompt",
        text: "a piece of the answer ",
        answer: "the answer",
    };
    let (first, end) = (recording.deltas.start, recording.deltas.end);
    let order =
        (0..first).chain((0..2 * deltas - 1).map(|at| first + at % 2)).chain(end..recording.messages.len());
    let mut out = Vec::new();
    for (event, number) in order.enumerate() {
        recording.messages[number].push(&mut out, &Values { event: event as u64, ..values });
    }
    out
}

/// The bodies in it.
pub fn bodies(stream: &[u8]) -> Vec<Bytes> {
    let (mut decoder, mut buffer, mut bodies) =
        (Decoder::new(usize::MAX), BytesMut::from(stream), Vec::new());
    while let Ok(Some(item)) = decoder.decode(&mut buffer) {
        if let Item::Body(body) = item {
            bodies.push(body.take());
        }
    }
    bodies
}

/// Finds the frames.
pub fn frames(buffer: &mut BytesMut) -> usize {
    let (mut decoder, mut count) = (Decoder::new(usize::MAX), 0);
    while let Ok(Some(_)) = decoder.decode(buffer) {
        count += 1;
    }
    count
}

/// Reads an envelope, as of a message that somebody wants.
pub fn envelope(body: &Bytes) -> Option<Bytes> {
    match message::parse(&message::repair(body.clone())) {
        Ok(Incoming::Notification { params, .. }) => Some(params),
        _ => None,
    }
}

/// Looks at an event, as long as nobody wants it.
pub fn peek(params: &[u8]) -> bool {
    event::peek(params).is_some_and(|peek| event::is_known(peek.kind()))
}

/// Reads an event.
pub fn parse(params: &[u8]) -> Option<event::Event> {
    event::parse(params)
}

/// Encodes an event as a caller is told it.
pub fn encode(event: event::Event) -> Vec<u8> {
    SessionEvent::from(Update::new(Arc::new(event), None)).encode_to_vec()
}
