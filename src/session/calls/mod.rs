//! What callers do with sessions, one file a call or two; and the task that runs a turn.
//!
//! Tests: `tests/integration/`, in files of the calls' names.

mod cleanup;
mod compaction;
mod create;
mod explain;
mod handing_over;
mod history;
mod known;
mod lifecycle;
mod list;
mod models;
mod once;
mod placing;
mod rewind;
mod runner;
mod send;
mod submitted;
mod taking;
mod turn_handle;
mod watch;

pub use history::HistoryPlace;
pub use lifecycle::Change;
pub use placing::Whereabouts;
pub use rewind::SetBack;
pub use submitted::{Submitted, SubmittedState, TurnName, TurnPlace};
pub use turn_handle::{Told, Turn};
pub use watch::{From, Watch, Watched};
