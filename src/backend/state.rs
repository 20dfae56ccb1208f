//! How a backend is, as its supervisor says and its users see.

use std::{
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    admission::Admission,
    error::Error,
    health::{Marks, Vitals},
    link::Link,
};
use crate::copilot::version::Identity;

/// How a backend is.
#[derive(Debug, Clone)]
pub enum State {
    /// Being started or connected to.
    Connecting,
    /// Connected, and answering.
    Ready(Arc<Link>),
    /// Down for now.
    Down {
        /// Why.
        problem: String,
    },
    /// Of a version that cannot be used.
    Incompatible {
        /// Why.
        problem: String,
        /// What it says that it is.
        cli: Identity,
    },
}

impl State {
    /// The link for who is about to use it.
    pub(super) fn to_call_on(&self) -> Result<Arc<Link>, Error> {
        match self {
            Self::Ready(link) => Ok(link.in_use()),
            Self::Connecting => Err(Error::Unavailable { problem: "it is starting".into() }),
            Self::Down { problem } => Err(Error::Unavailable { problem: problem.clone() }),
            Self::Incompatible { problem, .. } => Err(Error::Incompatible { problem: problem.clone() }),
        }
    }

    /// The link, if there is one.
    pub fn link(&self) -> Option<&Arc<Link>> {
        match self {
            Self::Ready(link) => Some(link),
            Self::Connecting | Self::Down { .. } | Self::Incompatible { .. } => None,
        }
    }
}

/// What a backend and its supervisor both know.
#[derive(Debug)]
pub(super) struct Shared {
    /// Since when there is no link, where there is none.
    pub(super) missing_since: Mutex<Instant>,
    /// Told when a link is asked for and there is none.
    pub(super) wanted: Notify,
    pub(super) keeper: Mutex<Option<Arc<Link>>>,
    pub(super) admission: Admission,
    pub(super) marks: Arc<Marks>,
    pub(super) vitals: Mutex<Vitals>,
    /// How many CLIs go on to the end of their turns, because another one has taken their place.
    pub(super) retiring: AtomicUsize,
    /// What sessions need to move to this CLI from one whose place it has taken.
    pub(super) moves: Semaphore,
}

impl Shared {
    pub(super) fn new(admission: Admission, marks: Marks) -> Self {
        Self {
            missing_since: Mutex::new(Instant::now()),
            wanted: Notify::new(),
            keeper: Mutex::default(),
            admission,
            marks: Arc::new(marks),
            vitals: Mutex::default(),
            retiring: AtomicUsize::default(),
            moves: Semaphore::new(MOVES),
        }
    }
}

/// How many sessions move at once from a CLI to the one that has taken its place. Closing one and loading it takes as much CPU time
/// as some turns: if all moved at once, all would wait for that.
const MOVES: usize = 2;

/// How long a link that is missing is waited for. A CLI that was ended is mostly there again within a second or two; one that
/// is not is no reason to keep callers waiting.
pub const GRACE: Duration = Duration::from_secs(5);
