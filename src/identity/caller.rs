//! Who calls: a subject of a tenant, with roles. Pure.
//!
//! Names are taken as they are or refused, and never normalised: two names that look alike must not become one.

use std::{fmt, str::FromStr, sync::Arc};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose sessions the call may reach.
    pub tenant: TenantName,
    /// Who of the tenant it is.
    pub subject: Subject,
    /// What the caller may do beyond its own sessions.
    pub roles: Roles,
    /// What has shown it.
    pub by: Means,
}

/// The longest name of a tenant, in characters.
const MAX_TENANT: usize = 64;
/// The longest subject, in characters.
const MAX_SUBJECT: usize = 256;

/// A tenant's name: 1 to 64 of `a-z 0-9 - _ .`, the first one a letter or a digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantName(Arc<str>);

/// The text is no tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's name is 1 to {MAX_TENANT} of a-z 0-9 - _ . and begins with a letter or a digit")]
pub struct BadTenant;

impl TenantName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`BadTenant`] for every other form; letters in capitals are refused, not changed.
    pub fn parse(text: &str) -> Result<Self, BadTenant> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins_well = text.bytes().next().is_some_and(is_plain);
        let is_good =
            text.len() <= MAX_TENANT && text.bytes().all(|byte| is_plain(byte) || b"-_.".contains(&byte));
        if begins_well && is_good { Ok(Self(text.into())) } else { Err(BadTenant) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who of a tenant calls: 1 to 256 characters without control characters. Nothing is read out of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

/// The text is no subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subject is 1 to {MAX_SUBJECT} characters, without control characters")]
pub struct BadSubject;

impl Subject {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`BadSubject`] if it is empty, too long, or has control characters or characters that steer how text is shown.
    pub fn parse(text: &str) -> Result<Self, BadSubject> {
        let is_good = (1..=MAX_SUBJECT).contains(&text.chars().take(MAX_SUBJECT + 1).count());
        if is_good && !text.chars().any(is_hidden) { Ok(Self(text.into())) } else { Err(BadSubject) }
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character is not printed: control characters, line and paragraph separators, and what turns the direction of a text,
/// by which one subject could look like another one in a log.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Both are shown as they are: they have no characters that could harm a log.
macro_rules! shown {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
shown!(TenantName, Subject);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Have sessions. Every caller has this role.
    User = 1,
    /// See and end all sessions of the tenant.
    TenantAdmin = 2,
    /// Look after the server, over all tenants.
    Operator = 4,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::User, Self::TenantAdmin, Self::Operator];

    /// Its name in files and claims.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::TenantAdmin => "tenant_admin",
            Self::Operator => "operator",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| format!("write some of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// The roles of a caller, as a set of bits. [`Role::User`] is always among them, also in the default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Whether a role is among them.
    pub fn has(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self(Role::User as u8)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Self {
        Self(roles.into_iter().fold(Self::default().0, |bits, role| bits | role as u8))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Role::ALL.into_iter().filter(|role| self.has(*role)).map(Role::as_str);
        f.debug_set().entries(names).finish()
    }
}

/// What has shown who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// A token of the token file.
    Token {
        /// Its name there.
        name: Option<Arc<str>>,
    },
    /// A JWT.
    Jwt {
        /// Who issued it.
        issuer: Arc<str>,
    },
    /// The client's certificate.
    Certificate,
    /// The client's certificate, as a trusted proxy has told it.
    ForwardedCertificate,
    /// The user of this machine whose process holds the Unix socket.
    UnixUser,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tenants_name_is_taken_as_it_is_or_refused() {
        let long = "a".repeat(MAX_TENANT);
        for good in ["a", "0", "acme", "acme.eu-west_1", &long, "a..b"] {
            assert_eq!(TenantName::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(MAX_TENANT + 1);
        let bad = [
            "", "Acme", "-a", ".a", "_a", "a b", "a/b", "..", "a\0", "a\n", "ä", "а", "a%2f", " a", "a ",
            &too_long,
        ];
        for bad in bad {
            assert_eq!(TenantName::parse(bad), Err(BadTenant), "{bad:?}");
        }
    }

    #[test]
    fn a_subject_is_any_text_that_can_be_shown() {
        let (longest, too_long) = ("☃".repeat(MAX_SUBJECT), "☃".repeat(MAX_SUBJECT + 1));
        for good in ["a", "auth0|5f7c", "Ann Example <ann@example.com>", "spiffe://a/b", &longest] {
            assert_eq!(Subject::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\0", "a\u{7f}", "a\u{202e}b", "\u{85}", &too_long] {
            assert_eq!(Subject::parse(bad), Err(BadSubject), "{bad:?}");
        }
    }

    #[test]
    fn every_caller_is_a_user() {
        assert!(Roles::default().has(Role::User) && !Roles::default().has(Role::Operator));
        let roles: Roles = [Role::Operator].into_iter().collect();
        assert!(roles.has(Role::User) && roles.has(Role::Operator) && !roles.has(Role::TenantAdmin));
        assert_eq!(format!("{roles:?}"), r#"{"user", "operator"}"#);
        assert_eq!("operator".parse(), Ok(Role::Operator));
        assert!("Operator".parse::<Role>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_is_unchanged(text in any::<String>()) {
            if let Ok(tenant) = TenantName::parse(&text) { prop_assert_eq!(tenant.as_str(), &text); }
            if let Ok(subject) = Subject::parse(&text) { prop_assert_eq!(subject.as_str(), &text); }
        }
    }
}
