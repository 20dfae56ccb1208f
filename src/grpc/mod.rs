//! The contract: `copilot_grpc.v1` over gRPC. The only room that knows tonic and prost.
//!
//! [`service`] has one short method for each RPC: parse, call the session room, encode. [`convert`] holds the parsing and
//! encoding, [`codec`] has its buffers, [`status`] makes every error a rich one, [`deadline`] reads the caller's and [`ending`]
//! keeps it, [`listener`] takes the clients, [`opening`] hears what they say first, and a [`connection`] is theirs from then
//! on, whose [`frames`] are counted, as is what it leaves [`unread`]. The [`gate`] lets nothing but calls through. Streams have
//! a [`heartbeat`]. [`protoset`] is the contract for tools.

pub mod client;
mod codec;
mod connection;
mod converse;
mod convert;
mod deadline;
mod ending;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod health;
mod heartbeat;
mod listener;
mod opening;
pub mod protoset;
pub mod server;
mod service;
mod status;
pub mod streamed;
mod unread;

pub use convert::Defaults;
pub use listener::listen;
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
    pub mod pb, "/copilot_grpc.v1.rs"
}

/// One that says no more.
impl From<&str> for pb::Prompt {
    fn from(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

generated! {
    /// The server, whose streams send what is [`streamed`].
    mod pb_server, "/server/copilot_grpc.v1.rs"
}

/// The contract's descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.bin"));
