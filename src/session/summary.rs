//! What is told of a session.

use std::collections::BTreeMap;

use super::id::SessionId;

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
    /// When it was created; RFC 3339.
    pub create_time: String,
    /// When it last changed; RFC 3339.
    pub update_time: String,
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
            &self.create_time,
            &self.update_time,
            &self.working_directory,
            &self.profile,
        ];
        labels.sum::<usize>() + texts.iter().map(|text| text.len() + PER_FIELD).sum::<usize>()
    }

    pub(super) fn outline(&self) -> Outline<'_> {
        Outline {
            id: self.id.as_str(),
            state: self.state,
            create_time: &self.create_time,
            update_time: &self.update_time,
        }
    }
}

/// What tells a session's place in a list. Lent: of most sessions nothing else is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline<'a> {
    pub(super) id: &'a str,
    pub(super) state: SessionState,
    pub(super) create_time: &'a str,
    pub(super) update_time: &'a str,
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
