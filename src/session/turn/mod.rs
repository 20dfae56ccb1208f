//! A turn: its state machine, its place in the queue, its outcome and its deadline. It knows neither sessions nor readers.
//!
//! Tests: `turn/machine/tests/`, in the files, and `tests/integration/turns.rs`, `tests/integration/answers.rs`.

mod active;
mod deadline;
mod machine;
mod outcome;
mod queue;
pub(in crate::session) mod recorded;
pub(in crate::session) mod schema;
mod spent;
mod writing;

pub use deadline::Deadline;
pub use machine::{Ending, MAX_ARGUMENTS, Machine};
pub use outcome::{Delivery, Outcome, Remains, ToolCall, TurnCause, TurnError, TurnResult, Usage};
pub use queue::{Full, Queue, Ticket};
pub use spent::Spent;

pub(in crate::session) use active::{Active, Progress, Signals, ToFinish, UNLOADED};
pub(in crate::session) use deadline::SharedDeadline;
pub(in crate::session) use outcome::lost;
