//! What happens in a session, told to any number of readers: which of it each wants, and what comes only once.
//!
//! Tests: `fanout/hub/tests.rs`, `fanout/dedup.rs`, and `tests/integration/faults/reading.rs`.

mod dedup;
pub(in crate::session) mod hub;
mod reader;

pub use hub::{Audience, Cursor, End, Filter, Hub, Item, Kinds, Lagged, Scope, Together, Update};
pub use reader::Subscriber;

pub(in crate::session) use dedup::Replay;
