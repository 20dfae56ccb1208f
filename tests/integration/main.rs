//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod admission;
mod answers;
mod architecture;
mod cleanup;
mod connections;
mod converse;
mod deadlines;
mod deletions;
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
mod oddities;
mod overload;
mod placement;
mod pool;
mod process;
mod profiles;
mod prompts;
mod providers;
mod readme;
mod reborn;
mod recycling;
mod repeats;
mod requests;
mod restarts;
mod rolling;
mod serve;
mod sessions;
mod settings;
mod standing;
mod stopping;
mod support;
mod turns;
mod watching;
mod withdrawing;
