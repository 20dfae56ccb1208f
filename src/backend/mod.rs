//! The Copilot CLIs: found or started, connected to, watched; and which of them a session belongs to.
//!
//! [`Backend`] is one CLI: its supervisor connects, waits for the end of the link, and connects again after a pause. [`Link`]
//! is one connection after its handshake. What the CLI sends by itself goes to a [`Sink`], which the session room provides;
//! this room knows no sessions. [`admission`] is how many turns a CLI runs at once, `health` whether it gets new sessions,
//! [`process`] the program itself. [`recycling`] replaces embedded CLIs that are old, large or worn. A [`Pool`] holds all CLIs
//! as they come and go.

pub mod admission;
#[expect(clippy::module_inception, reason = "it is what the room is about")]
mod backend;
mod config;
mod error;
mod health;
mod link;
mod names;
pub mod pool;
pub mod process;
pub mod recycling;
mod sink;
mod state;
mod supervisor;

pub use backend::{Backend, BackendId};
pub use config::{Config, Source};
pub use error::Error;
pub use health::{Ejection, ProcessStats, Standing, Stats};
pub use link::{Link, LinkId};
pub use names::{CLI_NAME, Names, Target};
pub use pool::{Group, Pool, Readiness, Setup};
pub use sink::Sink;
pub use state::{GRACE, State};
