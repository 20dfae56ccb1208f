//! Who a session is: its id, and whose it is.

use std::{fmt, sync::Arc};

/// The longest id. The CLI makes it a folder's name, of which 255 bytes are too long (observed); half of that leaves
/// room for a tenant's mark.
pub const MAX_ID: usize = 128;

/// A session's id, as its owner knows it: 1 to 128 of `A-Z a-z 0-9 _ -`, which is what the CLI accepts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

/// The text is no session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// It is empty.
    #[error("a session id is required")]
    Empty,
    /// It is too long.
    #[error("a session id has at most {MAX_ID} characters")]
    TooLong,
    /// It has a character that is not allowed.
    #[error("a session id consists of A-Z a-z 0-9 _ and -")]
    Character,
}

impl SessionId {
    /// Reads an id.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        match text {
            "" => Err(BadId::Empty),
            _ if !text.bytes().all(allowed) => Err(BadId::Character),
            _ if text.len() > MAX_ID => Err(BadId::TooLong),
            _ => Ok(Self(text.into())),
        }
    }

    /// A new one that nobody else has.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose sessions are meant. Without authentication there is one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant(());

impl Tenant {
    /// The tenant of a server that authenticates nobody.
    pub const ONLY: Self = Self(());

    /// Its name in the store.
    pub fn as_str(self) -> &'static str {
        ""
    }
}

/// A session, of all that there are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    tenant: Tenant,
    id: SessionId,
}

impl SessionKey {
    /// The session of `tenant` with this id.
    pub fn new(tenant: Tenant, id: SessionId) -> Self {
        Self { tenant, id }
    }

    /// The session that the CLI knows by this id, if it can be one of ours.
    pub fn from_cli_id(cli_id: &str) -> Option<Self> {
        SessionId::parse(cli_id).ok().map(|id| Self::new(Tenant::ONLY, id))
    }

    /// The id by which the CLI knows it: different keys have different ones.
    pub fn cli_id(&self) -> &str {
        self.id.as_str()
    }

    /// The same, for who keeps it.
    pub fn shared_cli_id(&self) -> Arc<str> {
        self.id.0.clone()
    }

    /// Whose it is.
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// Its owner's id for it.
    pub fn id(&self) -> &SessionId {
        &self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_the_cli_accepts() {
        let check = |text: &str, expected: Result<(), BadId>| {
            assert_eq!(SessionId::parse(text).map(|id| assert_eq!(id.as_str(), text)), expected, "{text:?}");
        };
        check("a", Ok(()));
        check("My_session-2", Ok(()));
        check(&"x".repeat(MAX_ID), Ok(()));
        check(&"x".repeat(MAX_ID + 1), Err(BadId::TooLong));
        check("", Err(BadId::Empty));
        for text in ["a b", "a.b", "a/b", "..", "a:b", "a@b", "é", "a\0", "a\n"] {
            check(text, Err(BadId::Character));
        }
        check(SessionId::random().as_str(), Ok(()));
    }
}
