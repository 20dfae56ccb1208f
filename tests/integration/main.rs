//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod discovery;
mod process;
mod serve;
mod sessions;
mod support;
mod turns;
