//! Which events a reader wants.

use super::update::Update;
use crate::copilot::Event;

/// Which events a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of which kinds.
    pub kinds: Kinds,
    /// Whether those of sub-agents are among them.
    pub sub_agents: bool,
}

/// Kinds of event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kinds {
    /// None.
    Nothing,
    /// Exactly these.
    Exactly(&'static [&'static str]),
    /// Those that match one of the patterns: a kind, or its beginning and a `*`.
    Patterns(Vec<String>),
}

impl Filter {
    /// No event, only how it ends.
    pub const NOTHING: Self = Self { kinds: Kinds::Nothing, sub_agents: false };

    /// Whether events of this kind can be wanted.
    pub fn wants_kind(&self, kind: &str) -> bool {
        match &self.kinds {
            Kinds::Nothing => false,
            Kinds::Exactly(kinds) => kinds.contains(&kind),
            Kinds::Patterns(patterns) => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => kind == pattern,
            }),
        }
    }

    /// Whether this event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        (self.sub_agents || event.agent_id.is_none()) && self.wants_kind(&event.kind)
    }

    /// Whether this is wanted. A request of a sub-agent's is one to the callers as any other.
    pub(super) fn wants_update(&self, update: &Update) -> bool {
        self.wants(&update.event) || update.asks && self.wants_kind(&update.event.kind)
    }
}
