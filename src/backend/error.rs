//! Why a call to the CLI has no result.

use std::{sync::Arc, time::Duration};

use crate::{
    copilot::{
        Method as _, Rejection,
        method::{Abort, Compact, Delete},
    },
    jsonrpc::Cause,
};

/// Why a call to the CLI has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no link. Nothing was sent.
    #[error("the Copilot CLI is not available: {problem}")]
    Unavailable {
        /// Why there is none.
        problem: String,
    },
    /// The CLI speaks another protocol. Nothing was sent.
    #[error("{problem}")]
    Incompatible {
        /// The problem, and what to do.
        problem: String,
    },
    /// The link broke during the call.
    #[error("the connection to the Copilot CLI was lost: {cause}")]
    Lost {
        /// The cause of the loss.
        cause: Arc<Cause>,
        /// Whether the CLI may have got the call.
        written: bool,
    },
    /// There was no answer in time. The CLI may have got the call.
    #[error("the Copilot CLI did not answer {method} within {after:?}{}", hint(method))]
    Timeout {
        /// The method that was called.
        method: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The CLI refused.
    #[error("{0}")]
    Rejected(Rejection),
    /// The answer is larger than the limit.
    #[error("the Copilot CLI's answer to {method} has {size} bytes, more than max_frame_size")]
    TooLarge {
        /// The method that was called.
        method: &'static str,
        /// The answer's size in bytes.
        size: usize,
    },
    /// The answer does not follow the protocol.
    #[error("the Copilot CLI's answer to {method} makes no sense: {problem}")]
    Protocol {
        /// The method that was called.
        method: &'static str,
        /// The problem.
        problem: String,
    },
    /// Too many calls are waiting for the CLI. Nothing was sent.
    #[error("too many calls are waiting for the Copilot CLI")]
    Overloaded,
}

/// Methods that the CLI 1.0.102 never answers when one meets the other in a session, over another connection. It is well in all
/// other respects (observed).
pub(super) const NEVER_ANSWERED: [&str; 2] = [Delete::NAME, "session.resume"];

/// Methods that get no answer when an agent or a compaction does not stop, which concerns that session alone.
pub(super) const OF_ONE_SESSION: [&str; 2] = [Abort::NAME, Compact::NAME];

/// What a missing answer to a method may mean, for the end of the error's text.
fn hint(method: &str) -> &'static str {
    if NEVER_ANSWERED.contains(&method) {
        ". If another server loaded or deleted the session at that moment, the CLI is stuck with it, and with no other, \
         until it is restarted"
    } else {
        ""
    }
}

impl Error {
    /// Whether the CLI may have got the call.
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Incompatible { .. } | Self::Rejected(_) | Self::Overloaded => {
                false
            }
            Self::Lost { written, .. } => *written,
            Self::Timeout { .. } | Self::TooLarge { .. } | Self::Protocol { .. } => true,
        }
    }
}
