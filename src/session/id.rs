//! Who a session is: its id, and whose it is.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::store::SessionRecord;

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
    /// It begins with what marks a tenant's sessions in the CLI.
    #[error("a session id does not begin with t_, {MARK} hexadecimal digits and _")]
    Marked,
}

impl SessionId {
    /// Reads an id.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        match text {
            "" => Err(BadId::Empty),
            _ if !text.bytes().all(allowed) => Err(BadId::Character),
            _ if text.len() > MAX_ID => Err(BadId::TooLong),
            _ if is_marked(text) => Err(BadId::Marked),
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

/// Whose sessions are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The tenant of a server that asks nobody who he is.
    pub const ONLY: Self = Self(None);

    /// The tenant of this name; the empty name is that of [`ONLY`](Self::ONLY).
    pub fn named(name: &str) -> Self {
        Self((!name.is_empty()).then(|| name.into()))
    }

    /// Its name in the store.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// What the ids by which the CLI knows its sessions begin with.
    fn mark(&self) -> Option<String> {
        let hash = Sha256::digest(self.0.as_ref()?.as_bytes());
        let hex: String = hash.iter().take(MARK / 2).map(|byte| format!("{byte:02x}")).collect();
        Some(format!("t_{hex}_"))
    }
}

/// How many hexadecimal digits a tenant's mark has.
const MARK: usize = 32;

/// Whether an id begins as those do by which the CLI knows the sessions of a named tenant.
fn is_marked(id: &str) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    id.strip_prefix("t_").is_some_and(|rest| {
        rest.as_bytes().get(MARK) == Some(&b'_') && rest.as_bytes()[..MARK].iter().all(is_digit)
    })
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

    /// The session of a record, if its id is one.
    pub(super) fn of_record(record: &SessionRecord) -> Option<Self> {
        Some(Self::new(Tenant::named(&record.tenant), SessionId::parse(&record.id).ok()?))
    }

    /// The id by which a CLI is to know it if it is new: different keys have different ones. A copy has one that the CLI has chosen.
    pub fn new_cli_id(&self) -> Arc<str> {
        match self.tenant.mark() {
            Some(mark) => format!("{mark}{}", self.id).into(),
            None => self.id.0.clone(),
        }
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
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
        let mark = "0123456789abcdef".repeat(2);
        check(&format!("t_{mark}_x"), Err(BadId::Marked));
        for text in [format!("t_{mark}"), format!("t_{mark}x_"), format!("T_{mark}_x"), "t_".into()] {
            check(&text, Ok(()));
        }
    }

    #[test]
    fn the_cli_knows_different_sessions_by_different_ids_that_it_accepts() {
        let of = |tenant: &str, id: &str| {
            SessionKey::new(Tenant::named(tenant), SessionId::parse(id).unwrap()).new_cli_id()
        };
        assert_eq!(&*of("", "a"), "a");
        let longest = "x".repeat(MAX_ID);
        let all = [
            of("", "a"),
            of("one", "a"),
            of("two", "a"),
            of("one", "b"),
            of("One", "a"),
            of("one", &longest),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        for id in &all[1..] {
            // So that no session without a tenant's name has it.
            assert_eq!(
                SessionId::parse(id).err(),
                Some(if id.len() > MAX_ID { BadId::TooLong } else { BadId::Marked })
            );
            assert!(id.len() < 200 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        }
    }
}
