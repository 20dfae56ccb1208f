//! When sessions are closed and deleted, and what of that was done. Pure.
//!
//! Tests: in the file, and `tests/integration/cleanup.rs`.

mod rules;

pub use rules::{Cleanup, Rules};

pub(in crate::session) use rules::{Act, Facts, Rest, decide, has_ages};
