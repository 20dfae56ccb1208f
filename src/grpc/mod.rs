//! The contract: `copilot_grpc.v1` over gRPC. The only room that knows tonic and prost.
//!
//! [`service`] has one short method for each RPC: parse, call the session room, encode. [`convert`] holds the parsing and
//! encoding, [`codec`] the size of its buffers, and [`status`] makes every error a rich one. [`deadline`] reads the caller's
//! deadline and [`ending`] keeps it. [`listener`] accepts clients, also on a [`unix`] socket, [`tls`] shakes hands with them,
//! and [`opening`] reads the first bytes of each. [`connection`] is an open connection, over a [`socket`] of any kind. Its
//! [`frames`] are counted, as is what its client leaves [`unread`], and its [`transport`] says how the client is connected. The
//! [`gate`] lets nothing but calls through, and [`forward`] sends those on that are for another server. Streams have a
//! [`heartbeat`]. [`protoset`] is the contract for tools.

mod access;
pub mod client;
mod codec;
mod connection;
mod converse;
mod convert;
mod deadline;
mod ending;
mod forward;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod health;
mod heartbeat;
mod identify;
mod listener;
mod opening;
pub mod pb;
pub mod protoset;
pub mod server;
mod service;
mod socket;
mod status;
pub mod streamed;
pub mod tls;
mod transport;
mod unix;
mod unread;
mod violation;

pub use convert::Defaults;
pub use listener::listen;
pub use pb::DESCRIPTORS;
pub use status::DOMAIN;
pub use unix::UnixPort;
