//! What is missing of a session's events while its link is lost.

use std::sync::Arc;

use crate::copilot::Event;

/// What is missing since a link was lost.
#[derive(Debug)]
pub(in crate::session) struct Gap {
    /// From when on events may not have been heard. Events are not strictly in the order of their times, so those that were
    /// heard are told by their ids.
    pub(super) since: String,
    /// What was told on the new link before the gap was filled.
    pub(super) held: Vec<Arc<Event>>,
}

impl Gap {
    pub(in crate::session) fn since(timestamp: &str) -> Self {
        Self { since: timestamp.to_owned(), held: Vec::new() }
    }

    /// Keeps an event until the gap is filled.
    pub(in crate::session) fn hold(&mut self, event: Arc<Event>) {
        self.held.push(event);
    }
}
