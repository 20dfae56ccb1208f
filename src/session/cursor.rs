//! A place in a session's events, for callers to go on from.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::id::SessionId;

/// Where a reader may go on from: after the last event up to here that is stored. Cheap to clone.
///
/// For callers it is an opaque text. It names an event of a session, so it is good for as long as the event is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Cursor(Arc<str>);

impl From<String> for Cursor {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.as_str().to_owned()
    }
}

impl Cursor {
    /// The place after this event.
    pub fn after(session: &SessionId, event_id: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(format!("1 {session} {event_id}")).into())
    }

    /// As callers are told it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The event that a caller's cursor of this session names; `None` if it is none.
    pub fn event_id(text: &str, session: &SessionId) -> Option<String> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let event_id = text.strip_prefix("1 ")?.strip_prefix(session.as_str())?.strip_prefix(' ')?;
        (!event_id.is_empty()).then(|| event_id.to_owned())
    }
}
