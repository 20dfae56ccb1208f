//! What the agent asks its callers. Pure.
//!
//! Tests: in the files, and `tests/integration/asks.rs`.

mod approvals;
mod pending;

pub(in crate::session) use approvals::Approvals;
pub(in crate::session) use pending::{Answered, Asks};
