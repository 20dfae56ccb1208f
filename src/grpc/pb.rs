//! The contract's messages, its client and its server, as prost and tonic generate them: the generated code's one door.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated from the proto files, which have their own linter"
)]

include!(concat!(env!("OUT_DIR"), "/copilot_grpc.v1.rs"));

/// The contract's server. Its streams send what is [`streamed`](super::streamed).
pub(super) mod server {
    include!(concat!(env!("OUT_DIR"), "/server/copilot_grpc.v1.rs"));
}

/// What servers that share a store ask each other.
pub(super) mod node {
    include!(concat!(env!("OUT_DIR"), "/copilot_grpc.node.v1.rs"));
}

/// The contract's descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.bin"));

/// A prompt with a text and nothing else.
impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}
