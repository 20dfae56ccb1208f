//! The contract: `copilot.v1` over gRPC. The only room that knows tonic and prost.
//!
//! [`service`] has one short method for each RPC: parse, call the session room, encode. [`convert`] holds the parsing
//! and encoding, [`status`] makes every error a rich one, [`deadline`] reads the caller's, [`connection`] takes the clients.

pub mod client;
mod connection;
mod converse;
mod convert;
mod deadline;
mod health;
pub mod server;
mod service;
mod status;

pub use convert::Defaults;
pub use status::DOMAIN;

/// The generated types.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated from the proto files, which have their own linter"
)]
pub mod pb {
    tonic::include_proto!("copilot.v1");
}

/// The contract's descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/copilot_descriptor.bin"));
