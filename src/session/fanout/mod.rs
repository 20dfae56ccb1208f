//! What happens in a session, told to any number of readers: which of it each wants, and what comes only once.
//!
//! Tests: `fanout/hub/tests.rs`, `fanout/dedup.rs`, and `tests/integration/faults/reading.rs`.

mod dedup;
mod filter;
mod hub;
mod reader;
mod update;

pub use filter::{Filter, Kinds};
pub use hub::{Audience, Hub};
pub use reader::Subscriber;
pub use update::{End, Item, Lagged, Scope, Together, Update};

pub(in crate::session) use dedup::Dedup;
