//! A session that is known here: what it hears, whose turn it is, how it gets into a CLI and out of it.
//!
//! Tests: `tests/integration/sessions.rs`, `tests/integration/links.rs`, `tests/integration/reborn.rs`.

mod archived;
mod archiving;
mod asks;
mod at_work;
mod claims;
mod deleting;
mod explain;
mod failover;
mod gap;
mod handing_over;
mod home;
mod incoming;
mod loading;
mod means;
mod place;
mod recording;
mod row;
mod sealed;
mod session;
mod turns;
mod written;

pub use asks::Response;
pub use means::Archive;

pub(in crate::session) use at_work::{SMALL_CALL, Stopped, is_busy, runs_for_others, stop_whatever_runs};
pub(in crate::session) use claims::Claimed;
pub(in crate::session) use failover::readable;
pub(in crate::session) use means::Means;
pub(in crate::session) use place::Home;
pub(in crate::session) use row::Owed;
pub(in crate::session) use sealed::unsealed;
pub(in crate::session) use session::Session;
pub(in crate::session) use turns::Place;
