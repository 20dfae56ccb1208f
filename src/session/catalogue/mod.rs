//! The sessions that CLIs have stored: found, remembered for a moment, and listed in order.
//!
//! Tests: in the files, and `tests/integration/listing.rs`.

mod cache;
mod foremost;
mod query;
mod source;
mod stored;

pub use query::{Listing, Order, Page, PageToken, Selection, SessionState, Span, Summary};

pub(in crate::session) use cache::Catalogue;
pub(in crate::session) use foremost::{Foremost, Listed};
pub(in crate::session) use query::Outline;
pub(in crate::session) use source::{NOTES_AT_ONCE, Shelf, Stock, is_ours, note, outline};
pub(in crate::session) use stored::{Stored, find, records, stored_in, stored_summary};
