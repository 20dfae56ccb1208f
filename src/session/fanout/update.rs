//! What readers get, and of what it is news.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    budget::Charge,
    copilot::{Event, method::FileChange},
    session::{
        cursor::Cursor,
        turn::{Outcome, Ticket, TurnResult},
    },
};

/// An event, and where to go on from once it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The event.
    pub event: Arc<Event>,
    /// Where to go on from; `None` as long as nothing of the session is stored.
    pub cursor: Option<Cursor>,
    /// Whether it is a request that waits for an answer of the session's callers.
    pub asks: bool,
    /// Where several readers get it: what they share.
    pub shared: Option<Arc<Together>>,
}

impl Update {
    /// An event that is no request.
    pub fn new(event: Arc<Event>, cursor: Option<Cursor>) -> Self {
        Self { event, cursor, asks: false, shared: None }
    }
}

/// What several readers of an event share. The event counts against the budget once, for as long as one of them has it.
#[derive(Debug)]
pub struct Together {
    encoded: OnceLock<Bytes>,
    _charge: Charge,
}

impl Together {
    /// One that counts as much as this charge.
    pub(super) fn new(charge: Charge) -> Self {
        Self { encoded: OnceLock::new(), _charge: charge }
    }

    /// The event's encoding, which whoever needs it first makes for all.
    pub fn encoded(&self, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.encoded.get_or_init(encode).clone()
    }
}

impl PartialEq for Together {
    /// By what all have of it.
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

/// Not every event could be given: the reader fell too far behind, or an event was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<E> {
    /// An event.
    Update(Update),
    /// A turn has ended; for a reader of this turn, the last item.
    TurnEnded(Ticket, E),
    /// The connection to the CLI was lost; the session has to be loaded again.
    LinkLost,
    /// The session was loaded again: stored events may have been missed.
    Reloaded,
    /// The last item: the session is gone.
    Gone,
    /// The last item: the rest cannot be given.
    Lagged(Lagged),
}

/// What a reader hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that happens in the session.
    Session,
    /// One turn, and what the session asks its callers meanwhile.
    Turn(Ticket),
}

/// How a turn ends, as readers are told it.
pub trait End: Clone + fmt::Debug + Send + Sync + 'static {
    /// About how many bytes it takes.
    fn weight(&self) -> usize;
}

impl End for Outcome {
    fn weight(&self) -> usize {
        // The tools' arguments came in events, which count by themselves.
        size_of::<TurnResult>()
            + match self {
                Ok(result) => result.content.len() + result.files_changed.len() * size_of::<FileChange>(),
                Err(error) => error.remains.partial.len(),
            }
    }
}
