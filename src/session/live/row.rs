//! A session's record in the store, as this process knows it. Pure.

use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicBool};

use super::{archived::Archived, claims::Claimed};
use crate::{
    session::blueprint::Blueprint,
    store::{Ended, Ownership},
};

/// A session's record in the store, as this process knows it.
#[derive(Debug, Default)]
pub(in crate::session) struct Row {
    /// Set when the record is made or taken.
    pub(super) ownership: OnceLock<Ownership>,
    /// What the store has. Held while it is written to, so that nothing older comes after something newer.
    pub(super) saved: tokio::sync::Mutex<Saved>,
    /// Whether a task is about to write.
    pub(super) is_owed: AtomicBool,
    /// What came of requests, and could not be written.
    pub(super) requests: Mutex<Vec<Owed>>,
}

/// What is owed to the store of a request, which is in hand until it is written.
#[derive(Debug, Clone)]
pub(in crate::session) struct Owed {
    pub(in crate::session) request: Arc<Claimed>,
    /// How it has ended; `None`: it is as if it had never been made.
    pub(in crate::session) ended: Option<Ended>,
}

#[derive(Debug, Default)]
pub(super) struct Saved {
    /// What the session was made of when it was written.
    pub(super) blueprint: Option<Arc<Blueprint>>,
    /// What is in the archive. Boxed, because without one there is none.
    pub(super) archived: Option<Box<Archived>>,
}
