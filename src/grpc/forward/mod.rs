//! Calls for sessions that another server owns go there: over gRPC, as they are, one hop and never two.
//!
//! [`layer`] takes the calls in, and a [`call`] is served wherever its session is, and tried again where nothing was done. [`method`] knows
//! where a method's request has its session, and [`first`] reads that far. [`peers`] are the connections to the other servers, each
//! a [`sender`], and [`hop`] what is said on them beside the call itself. [`relay`] passes an answer on, and goes on with it elsewhere when its server
//! dies; [`conversation`] does that for Converse, whose caller speaks, too. [`node`] is what servers tell each other beside that.
//!
//! Tests: `tests/integration/nodes/`.

mod answering;
mod call;
mod conversation;
mod first;
mod frame;
mod hop;
mod layer;
mod method;
mod node;
mod peers;
mod relay;
mod sender;
mod trail;

pub(super) use hop::is_forwarded;
pub(super) use layer::Forwarding;
pub(super) use node::{Node, OtherServers};
pub(super) use peers::Peers;
