//! The sessions that CLIs have stored: found, remembered for a moment, and listed in order.
//!
//! Tests: in the files, and `tests/integration/listing.rs`.

mod cache;
mod locate;
mod query;
mod source;

pub use query::{Listing, Order, Page, PageToken, Selection, Span};

pub(in crate::session) use cache::Catalogue;
pub(in crate::session) use locate::{Stored, find, records, stored_in, stored_summary};
pub(in crate::session) use query::{Foremost, Listed};
pub(in crate::session) use source::{NOTES_AT_ONCE, Shelf, Stock, is_ours, note, outline};
