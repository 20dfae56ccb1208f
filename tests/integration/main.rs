//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod abuse;
mod admission;
mod architecture;
mod cleanup;
mod connections;
mod converse;
mod delivery;
mod discovery;
mod errors;
mod fault_suite;
mod faults;
mod freezes;
mod history;
mod links;
mod listing;
mod models;
mod modes;
mod neighbours;
mod overload;
mod placement;
mod pool;
mod process;
mod profiles;
mod prompts;
mod readme;
mod recycling;
mod repeats;
mod requests;
mod restarts;
mod rolling;
mod serve;
mod sessions;
mod settings;
mod standing;
mod support;
mod turns;
mod watching;
