//! A turn: its state machine, its place in the queue, its outcome and its deadline. It knows neither sessions nor readers.
//!
//! Tests: `turn/machine/tests/`, in the files, and `tests/integration/turns.rs`, `tests/integration/answers.rs`.

mod active;
mod machine;
mod queue;
pub(in crate::session) mod schema;
mod spent;
mod writing;

pub use active::Outcome;
pub use machine::{Ending, MAX_ARGUMENTS, Remains, ToolCall, Turn, TurnResult, Usage};
pub use queue::{Full, Queue, Ticket};
pub use spent::Spent;

pub(in crate::session) use active::{Current, Progress, Signals, ToFinish, UNLOADED};
