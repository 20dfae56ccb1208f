//! Wrong fields of a request, and how much of a foreign text goes into an error.

/// A field of a request that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) description: String,
}

/// The longest part of a foreign name or id that goes into an error, in bytes.
pub(super) const MAX_NAME: usize = 64;

/// The beginning of `text`, at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
