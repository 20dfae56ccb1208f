//! Between the contract's messages and the session room's types: [`parse`] for what comes in, [`encode`] for what goes out,
//! [`json`] for what is JSON in both.

mod encode;
mod json;
mod parse;

pub use parse::Defaults;

pub(super) use encode::{
    MAX_NAME, cleanup, failure, history_token, model, session, stored_event, turn_failure, turn_result,
};
pub(super) use parse::Checks;

#[cfg(test)]
mod tests;
