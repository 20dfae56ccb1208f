//! The state of a backend, set by its supervisor and read by its users.

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
    health::{Eligibility, Stats},
    link::Link,
};
use crate::copilot::version::Identity;

/// The state of a backend.
#[derive(Debug, Clone)]
pub enum State {
    /// The CLI is being started or connected to.
    Connecting,
    /// The CLI is connected and answers.
    Ready(Arc<Link>),
    /// The CLI is down for now.
    Down {
        /// Why.
        problem: String,
    },
    /// The CLI is of a version that cannot be used.
    Incompatible {
        /// Why.
        problem: String,
        /// The version and protocol that the CLI reports.
        cli: Identity,
    },
}

impl State {
    /// The link, as one that is in use.
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

/// What a backend and its supervisor share, beside the state.
#[derive(Debug)]
pub(super) struct Shared {
    /// Since when there is no link, if there is none.
    pub(super) missing_since: Mutex<Instant>,
    /// Notified when a link is asked for and there is none.
    pub(super) wanted: Notify,
    pub(super) keeper: Mutex<Option<Arc<Link>>>,
    pub(super) admission: Admission,
    pub(super) eligibility: Arc<Eligibility>,
    pub(super) stats: Mutex<Stats>,
    /// Number of CLIs that were replaced and still run.
    pub(super) retiring: AtomicUsize,
    /// Permits to move sessions to this CLI from the one that it has replaced.
    pub(super) moves: Semaphore,
}

impl Shared {
    pub(super) fn new(admission: Admission, eligibility: Eligibility) -> Self {
        Self {
            missing_since: Mutex::new(Instant::now()),
            wanted: Notify::new(),
            keeper: Mutex::default(),
            admission,
            eligibility: Arc::new(eligibility),
            stats: Mutex::default(),
            retiring: AtomicUsize::default(),
            moves: Semaphore::new(MOVES),
        }
    }
}

/// How many sessions move at once from a CLI to the one that has replaced it. Closing a session and loading it takes as much
/// CPU time as some turns: if all moved at once, all would wait for that.
const MOVES: usize = 2;

/// How long a missing link is waited for. A CLI that was ended is mostly there again within a second or two; if it is not,
/// callers should not be kept waiting.
pub const GRACE: Duration = Duration::from_secs(5);
