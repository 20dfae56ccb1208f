//! Callers that mean ill, or behave as if they did, keep nobody else from being served.
//!
//! What takes more than half a minute is ignored by `make test`, and run by `make abuse`.

#![allow(clippy::print_stdout, reason = "what was measured is worth to be seen: make abuse shows it")]

mod floods;
mod silence;
mod stalled;
