//! The Copilot CLI's vocabulary: its methods, its events, and what its errors mean. Pure; knows no sockets.
//!
//! Open-ended on purpose: every release of the CLI adds fields and events. Unknown fields are ignored, unknown events pass
//! through as [`event::Payload::Other`]. Facts of the protocol that are marked "observed" were seen on CLI 1.0.102.

pub mod answer;
#[cfg(test)]
mod drift;
pub mod event;
pub mod failure;
pub mod features;
mod json;
pub mod method;
pub mod schema;
mod secret;
pub mod settings;
pub mod version;
pub mod withdraw;

pub use answer::{Answer, RequestKind};
pub use event::Event;
pub use failure::{AgentFailure, Rejection};
pub use json::Json;
pub use method::{Attachment, Message, Method};
pub use schema::Schema;
pub use secret::{Secret, redact, redact_line};
pub use settings::{
    CustomAgent, InfiniteSession, LargeOutput, Limits, McpServer, McpTransport, ModelCapabilities,
    NamedProvider, Options, Provider, ProviderModel, Remote, Section, Settings, Skills, Supports,
    SystemMessage, Tool,
};
