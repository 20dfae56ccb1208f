//! What is told of a session.

use std::collections::BTreeMap;

use super::id::SessionId;
use crate::store::{SessionRecord, Time};

/// What is told of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: SessionId,
    /// Its model, if it was chosen.
    pub model: String,
    /// How much that thinks, if it was chosen.
    pub reasoning_effort: String,
    /// What it is doing.
    pub state: SessionState,
    /// Its owner's notes.
    pub labels: BTreeMap<String, String>,
    /// Whose it is, in its creator's own terms; empty if nobody said so.
    pub owner: String,
    /// Its title.
    pub title: String,
    /// When it was created.
    pub create_time: Time,
    /// When it last changed: when its last turn came to rest, or something else was changed in it.
    pub update_time: Time,
    /// Where it works.
    pub working_directory: String,
    /// The operator's profile that it is under; empty if none.
    pub profile: String,
}

impl Summary {
    /// How many bytes it takes at most in a message.
    pub(super) fn weight(&self) -> usize {
        let labels = self.labels.iter().map(|(name, value)| name.len() + value.len() + PER_FIELD);
        let texts = [
            self.id.as_str(),
            &self.model,
            &self.reasoning_effort,
            &self.owner,
            &self.title,
            &self.working_directory,
            &self.profile,
        ];
        2 * PER_TIME + labels.sum::<usize>() + texts.iter().map(|text| text.len() + PER_FIELD).sum::<usize>()
    }

    /// What is told of a session by its record; `None` if its id cannot be one of ours.
    pub(super) fn of(record: SessionRecord) -> Option<Self> {
        let SessionRecord { id, facts, create_time, update_time, .. } = record;
        Some(Self {
            id: SessionId::parse(&id).ok()?,
            model: facts.model,
            reasoning_effort: facts.reasoning_effort,
            state: SessionState::Unloaded,
            labels: facts.labels,
            owner: facts.owner,
            title: facts.title,
            create_time,
            update_time,
            working_directory: facts.working_directory,
            profile: facts.profile,
        })
    }
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Loaded, and nothing to do.
    Idle,
    /// Busy.
    Running,
    /// Busy, and waiting for an answer of its callers.
    Waiting,
    /// Stored only.
    Unloaded,
}

impl SessionState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Unloaded => "unloaded",
        }
    }
}

/// What a field takes in a message beside its text, those around it included.
const PER_FIELD: usize = 12;

/// What a time takes in a message at most.
const PER_TIME: usize = 24;
