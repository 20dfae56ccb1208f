//! JSON-RPC 2.0 over `Content-Length` frames, both ways on one byte stream.
//!
//! Knows nothing of Copilot and nothing of gRPC: the rooms above know what the methods mean.
//!
//! | file | what it is | uses |
//! |---|---|---|
//! | [`frame`] | bytes to bodies and back, pure | |
//! | [`message`] | bodies to messages and back, pure | `frame` |
//! | `pending` | the table of requests that wait for an answer, pure | |
//! | [`peer`] | the two tasks that own a connection, and the handle to them | all three |
//!
//! Only [`peer`] knows that there is a socket or a runtime; the others are values that tests and fuzzers feed
//! with bytes.
//!
//! Tests: in these files, `peer/tests.rs`, `tests/integration/faults/wire.rs`, and the fuzz targets `frame` and `message`.

pub mod frame;
pub mod message;
pub mod peer;
mod pending;

pub use message::ErrorObject;
pub use peer::{Cause, Error, Handler, Options, Peer, Reply};
