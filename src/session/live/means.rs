//! What all sessions of a server share.

use std::{path::PathBuf, sync::Arc};

use tokio_util::task::TaskTracker;

use super::claims::Claims;
use crate::{
    backend::Pool,
    budget::Budget,
    store::{FolderLimits, Sealer, Store},
};

/// What all sessions of a server share.
#[derive(Debug)]
pub(in crate::session) struct Means {
    pub(in crate::session) pool: Pool,
    pub(in crate::session) store: Store,
    /// The requests that this process has in hand.
    pub(in crate::session) claims: Arc<Claims>,
    /// When the folders of sessions are written to the store.
    pub(in crate::session) archive: Archive,
    pub(in crate::session) folder_limits: FolderLimits,
    /// Seals the credentials of sessions; without it they are in memory only.
    pub(in crate::session) sealer: Option<Arc<Sealer>>,
    /// The disk that these homes are on: the id of `state_dir`.
    pub(in crate::session) disk: String,
    /// Where the homes of embedded CLIs are, by their names.
    pub(in crate::session) state_dir: PathBuf,
    /// Turns that may wait in one session.
    pub(in crate::session) max_queued_turns: usize,
    /// Of what readers hold.
    pub(in crate::session) budget: Budget,
    /// Turns, and whatever else must be finished before the server may go.
    pub(in crate::session) tasks: TaskTracker,
}

/// When what is new in a session's folder is written to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// Before a turn's caller gets the answer: what a caller has seen outlasts this machine.
    BeforeAnswer,
    /// After it.
    AfterAnswer,
    /// Never: sessions live on the CLIs' disks.
    Off,
}
