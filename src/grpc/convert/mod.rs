//! Conversion between the contract's messages and the session room's types: [`parse`] for requests, [`encode`] for responses.
//!
//! Tests: `convert/tests/`.

mod encode;
mod parse;

pub use parse::Defaults;

pub(super) use encode::{
    cleanup, failure, file_change, history_token, listed_turn, model, rewind_point, session, session_event,
    session_usage, stored_event, turn, turn_failure, turn_result, turn_token,
};
pub(super) use parse::{Checks, MAX_EVENT_SIZE};

#[cfg(test)]
mod tests;
