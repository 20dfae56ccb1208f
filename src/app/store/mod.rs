//! `store`: looks after the store while no server runs: checks it, and takes a session out of it or into it.
//!
//! Tests: `tests/integration/store_command.rs`.

mod check;
mod export;
mod file;
mod homes;
mod import;
mod renaming;
mod run;

pub use run::{Action, run};
