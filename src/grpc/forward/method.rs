//! The methods of the contract as forwarding sees them: where a request has its session's id, and what may be done again.

use super::{first::First, frame::GrpcFrame};
use crate::{
    grpc::pb::{self, converse_request::Payload},
    session::SessionId,
};

/// What forwarding has to know of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// It makes a session.
    Create,
    /// It is about a session; repeating it does no harm.
    Read,
    /// It is about a session, and may have been done when its answer is lost.
    Write,
    /// It begins a turn, and answers once.
    Turn,
    /// It begins a turn, and streams.
    TurnStream,
    /// It streams from a place on.
    Watch,
    /// It streams in both directions.
    Converse,
}

/// The whole request, of methods whose request has the session's id first.
#[derive(Clone, PartialEq, prost::Message)]
struct OfSession {
    #[prost(string, tag = "1")]
    session_id: String,
}

/// A request with a prompt.
#[derive(Clone, PartialEq, prost::Message)]
struct OfPrompt {
    #[prost(message, optional, tag = "2")]
    prompt: Option<RequestIdOfPrompt>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestIdOfPrompt {
    #[prost(string, tag = "10")]
    request_id: String,
}

impl Method {
    /// The method at a path; `None`: its calls are served by any server.
    pub(super) fn at(path: &str) -> Option<Self> {
        let method = path.strip_prefix("/copilot_grpc.v1.CopilotService/")?;
        Some(match method {
            "CreateSession" => Self::Create,
            "GetSession" | "ListRewindPoints" | "ListEvents" | "GetUsage" | "GetTurn" | "ListTurns"
            | "CloseSession" => Self::Read,
            "ResumeSession" | "UpdateSession" | "ForkSession" | "CompactSession" | "RewindSession"
            | "DeleteSession" | "Respond" | "AbortTurn" => Self::Write,
            "SendAndWait" | "SubmitTurn" => Self::Turn,
            "SendAndStream" => Self::TurnStream,
            "WatchSession" => Self::Watch,
            "Converse" => Self::Converse,
            _ => return None,
        })
    }

    /// The session that a request is about, as far as it can be read.
    pub(super) fn session(self, path: &str, first: &GrpcFrame) -> Option<SessionId> {
        let id = match self {
            Self::Converse => match first.decode::<pb::ConverseRequest>()?.payload? {
                Payload::Open(open) => open.session_id,
                _ => return None,
            },
            // The session of its first field.
            Self::Write if path.ends_with("/UpdateSession") => {
                first.decode::<pb::UpdateSessionRequest>()?.session?.session_id
            }
            Self::Create => {
                let request = first.decode::<pb::CreateSessionRequest>()?;
                return request.resume_if_exists.then(|| SessionId::parse(&request.session_id).ok())?;
            }
            _ => first.decode::<OfSession>()?.session_id,
        };
        SessionId::parse(&id).ok()
    }

    /// Whether a request may be done again whose answer is lost: it reads, or is known by its id.
    pub(super) fn may_go_again(self, first: &GrpcFrame) -> bool {
        match self {
            // Of a conversation it is known what was said in it.
            Self::Read | Self::Watch | Self::Converse => true,
            Self::Turn | Self::TurnStream => {
                let prompt = first.decode::<OfPrompt>().and_then(|request| request.prompt);
                prompt.is_some_and(|prompt| !prompt.request_id.is_empty())
            }
            Self::Create => {
                first.decode::<pb::CreateSessionRequest>().is_some_and(|it| !it.request_id.is_empty())
            }
            Self::Write => false,
        }
    }

    /// Whether a request is a turn, whose failure tells how far it came.
    pub(super) fn is_turn(self) -> bool {
        matches!(self, Self::Turn | Self::TurnStream)
    }

    /// Whether it answers with more than one message.
    pub(super) fn streams(self) -> bool {
        matches!(self, Self::TurnStream | Self::Watch | Self::Converse)
    }

    /// Whether its calls go on for as long as their callers like.
    pub(super) fn is_endless(self) -> bool {
        matches!(self, Self::Watch | Self::Converse)
    }
}

/// The request to watch a session further: after this cursor, or as it was asked for where nothing has come yet.
pub(super) fn watch_after(first: &First, cursor: Option<&str>) -> Option<First> {
    let Some(cursor) = cursor else { return Some(first.clone()) };
    let request = first.plain.decode::<pb::WatchSessionRequest>()?;
    let request = pb::WatchSessionRequest { cursor: cursor.to_owned(), from_beginning: false, ..request };
    Some(First::of(&request))
}
