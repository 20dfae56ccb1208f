//! The chaos run: callers that note what they were told, faults at random, and at the end all that was told is there.
//!
//! Each run prints its seed. `CHAOS_SECONDS` and `CHAOS_SEED` make it longer, and choose the faults; `make chaos` runs it for ten minutes
//! on each engine.

pub(crate) mod caller;
mod faults;
pub(crate) mod ledger;
pub(crate) mod runs;
pub(crate) mod script;
