//! The features that a CLI lacks with a method. A CLI is asked which methods it has, by [`Probe`]; its version is no proof.
//!
//! Tests: `tests/integration/faults/handshake.rs`.

use serde::Serialize;

use super::{Method, answer, method, withdraw};

/// The methods for one session, each with what it is needed for. The other methods are needed for any service at all.
pub const FEATURES: &[(&str, &str)] = &[
    (method::ValidateTools::NAME, "refusing tools whose names the agent has already"),
    (method::UpdateOptions::NAME, "sessions: none can be created or loaded"),
    (method::Abort::NAME, "stopping turns"),
    (method::SetMode::NAME, "agent_mode"),
    (method::IsProcessing::NAME, "ending turns of whose end nothing was told"),
    (method::GetMetadata::NAME, "loading stored sessions"),
    (method::GetSnapshot::NAME, "telling a session from another one of its id"),
    (method::Compact::NAME, "CompactSession"),
    (withdraw::AbortCompaction::NAME, "stopping compactions"),
    (method::Fork::NAME, "ForkSession"),
    (method::ListRewindPoints::NAME, "ListRewindPoints"),
    (method::PreviewRewind::NAME, "files_changed of turns, and validate_only in RewindSession"),
    (method::Rewind::NAME, "RewindSession"),
    (method::ReadPersistedEvents::NAME, "ListEvents, and watching from a cursor"),
    (method::SwitchModel::NAME, "other models in UpdateSession"),
    (method::GetModel::NAME, "other models in UpdateSession"),
    (method::SetName::NAME, "titles in UpdateSession"),
    (method::Detach::NAME, "CloseSession, and moving sessions between CLIs"),
    (method::UpdateClientMetadata::NAME, "keeping labels and settings of sessions"),
    (method::GetClientMetadata::NAME, "labels and settings of stored sessions"),
    (method::ReadEventLog::NAME, "turns that outlast a lost connection"),
    (method::RegisterInterest::NAME, "asking the caller"),
    (withdraw::PendingItems::NAME, "withdrawing prompts"),
    (withdraw::RemoveQueued::NAME, "withdrawing prompts"),
    (answer::AnswerPermission::NAME, "answering permissions"),
    (answer::AnswerToolCall::NAME, "the caller's own tools"),
    (answer::AnswerUserInput::NAME, "answering the agent's questions"),
    (answer::AnswerElicitation::NAME, "answering questions of MCP servers"),
    (answer::AnswerExitPlan::NAME, "answering plans"),
    (answer::AnswerLimitsExhausted::NAME, "refusing to go on beyond a limit"),
    (answer::AnswerAutoModeSwitch::NAME, "refusing to change the mode"),
    (answer::AnswerMcpLogin::NAME, "refusing logins of MCP servers"),
    (answer::AnswerMcpHeaders::NAME, "refusing headers for MCP servers"),
    (answer::AnswerCommand::NAME, "refusing commands"),
    (answer::RefuseSampling::NAME, "refusing MCP servers the model"),
];

/// The parameters of a probe for a method: a session that nobody has, so that nothing is done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe<'a> {
    /// An id that no session has.
    pub session_id: &'a str,
}
