//! What is wrong with a field, and how much of what others have written goes into an error.

/// A field of a request that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) description: String,
}

/// How much of a name or id that comes from elsewhere goes into an error.
pub(super) const MAX_NAME: usize = 64;

/// The beginning of `text`, at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
