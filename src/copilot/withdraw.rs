//! Withdrawing what the CLI was told to do: prompts that wait in its queue, and compactions.
//!
//! A prompt that is sent while the session is busy, with another client's turn or with a compaction, waits in the CLI's queue,
//! and runs whatever its sender has been told meanwhile. `session.metadata.isProcessing` reports neither what waits nor a
//! compaction (observed on 1.0.85 to 1.0.102).

use serde::{Deserialize, Serialize};

use super::method::methods;

methods! {
    PendingItems<'_> => "session.queue.pendingItems" -> Pending;
    RemoveQueued<'_> => "session.queue.removeAt" -> Removed;
    AbortCompaction<'_> => "session.history.abortManualCompaction" -> Aborted;
}

/// Asks for the items in a loaded session's queue.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingItems<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`PendingItems`].
#[derive(Debug, Deserialize)]
pub struct Pending {
    /// The items, next one first.
    pub items: Vec<Item>,
}

/// An item in a session's queue.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its id in the queue, which no other item gets.
    pub id: String,
    /// The id of its message, as `session.send` returned it.
    pub message_id: Option<String>,
}

/// Removes an item from a session's queue.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveQueued<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The item.
    pub id: &'a str,
}

/// The answer to [`RemoveQueued`].
#[derive(Debug, Deserialize)]
pub struct Removed {
    /// Whether the item was there: if not, it runs, or is over.
    pub removed: bool,
}

/// Ends a compaction that was asked for. The call of `session.history.compact` then fails.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortCompaction<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`AbortCompaction`].
#[derive(Debug, Deserialize)]
pub struct Aborted {
    /// Whether there was a compaction.
    pub aborted: bool,
}
