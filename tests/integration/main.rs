//! The integration tests: one binary, so that it links once.

mod process;
mod serve;
mod sessions;
mod support;
mod turns;
