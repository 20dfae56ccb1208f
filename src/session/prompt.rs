//! A prompt, and what its caller expects.

use std::{fmt, sync::Arc, time::Duration};

use super::{callers::Caller, fanout::Filter, idempotency::RequestId, turn::Deadline};
use crate::copilot::{Message, Schema};

/// A prompt, and what its caller expects.
#[derive(Debug)]
pub struct Prompt {
    /// What to say.
    pub message: Message,
    /// Whether the agent goes on by itself until it has done what it was told.
    pub autopilot: bool,
    /// What the answer must look like.
    pub schema: Option<Schema>,
    /// When the caller wants to hear.
    pub deadline: Deadline,
    /// How long the agent may be silent while no tool runs, and nobody is asked.
    pub inactivity: Option<Duration>,
    /// Whether the turn goes on without its caller.
    pub detached: bool,
    /// The events that the caller wants.
    pub filter: Filter,
    /// By what the request is known if it is repeated.
    pub request: Option<RequestId>,
    /// What the prompt can be read from again, of a turn that nobody waits for.
    pub source: Option<Vec<u8>>,
    /// The caller, if another server forwards its call.
    pub caller: Option<Arc<Caller>>,
}

/// Reads a prompt again that is stored.
#[derive(Clone)]
pub struct PromptReader(Arc<Read>);

type Read = dyn Fn(&[u8]) -> Option<Prompt> + Send + Sync;

impl PromptReader {
    /// One that reads prompts in this way.
    pub fn new(read: impl Fn(&[u8]) -> Option<Prompt> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The prompt; `None`: it cannot be read.
    pub(super) fn read(&self, source: &[u8]) -> Option<Prompt> {
        (self.0)(source)
    }
}

impl fmt::Debug for PromptReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PromptReader")
    }
}
