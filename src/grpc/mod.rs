//! The contract: `copilot.v1` over gRPC. The only room that knows tonic and prost.
//!
//! [`service`] has one short method for each RPC: parse, call the session room, encode. [`convert`] holds the parsing
//! and encoding, [`status`] makes every error a rich one, [`deadline`] reads the caller's, [`connection`] takes the clients.

pub mod client;
mod connection;
mod converse;
mod convert;
mod deadline;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
pub mod server;
mod service;
mod status;
pub mod streamed;

pub use convert::Defaults;
pub use status::DOMAIN;

macro_rules! generated {
    ($(#[$doc:meta])* $visibility:vis mod $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            missing_debug_implementations,
            unreachable_pub,
            clippy::all,
            clippy::unwrap_used,
            rustdoc::all,
            reason = "generated from the proto files, which have their own linter"
        )]
        $visibility mod $name {
            include!(concat!(env!("OUT_DIR"), $file));
        }
    };
}

generated! {
    /// The messages, and the client.
    pub mod pb, "/copilot.v1.rs"
}

generated! {
    /// The server, whose streams send what is [`streamed`].
    mod pb_server, "/server/copilot.v1.rs"
}

/// The contract's descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/copilot_descriptor.bin"));
