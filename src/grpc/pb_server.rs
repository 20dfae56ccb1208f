//! The contract's server, as tonic generates it; the messages of its streams are [`streamed`](super::streamed) ones.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated from the proto files, which have their own linter"
)]

include!(concat!(env!("OUT_DIR"), "/server/copilot_grpc.v1.rs"));
