//! Where sessions live: their records, their folders' archives, request ids and what came of them, sealed credentials.
//!
//! It knows SQL and nothing of turns: settings, usage, results and manifests are opaque texts and bytes here. A [`Store`] is one
//! SQLite file, the default, or a PostgreSQL database; both have one set of tables and one set of statements. Every call has a
//! time limit, and no call waits while a lock is held.

pub mod archive;
mod connection;
mod copies;
mod credentials;
mod door;
mod error;
mod fence;
pub mod folder;
mod folders;
mod lease;
mod listing;
mod neighbours;
mod nodes;
mod ownership;
mod pool;
mod postgres;
mod record;
mod requests;
mod runner;
mod schema;
mod seal;
mod sessions;
mod sqlite;
mod statement;
mod term;
mod upkeep;

#[cfg(test)]
mod tests;

pub use copies::Copy;
pub use door::{Config, Location, Store};
pub use error::{Error, OpenError};
pub use folder::Limits as FolderLimits;
pub use neighbours::{Load, Neighbours, Node, NodeRecord, Role};
pub use ownership::{Owner, Taken};
pub use record::{
    Begun, Changes, Ended, Facts, FolderHead, FolderWrite, Incarnation, Order, Ownership, Query, Range,
    RequestKey, RequestRecord, RequestState, Scope, SessionRecord, Settling, Time, Uid,
};
pub use runner::{Availability, Engine};
pub use seal::{BadKey, SealError, SealKey, Sealer, context};
