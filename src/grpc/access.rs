//! What a call may see and do: whose it is, which its identity decides.
//!
//! A tenant's sessions are that tenant's alone: the key of a session begins with its tenant, so no id of another's leads anywhere. In a
//! tenant, a user has the sessions that it owns, and a tenant's admin all of them. To who may not see a session it does not exist.

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tonic::Extensions;

use super::pb;
use crate::session::{Error, Excess, Listing, RequestId, SessionId, SessionKey, Sessions, Tenant};

/// What a call may see and do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) tenant: Tenant,
    /// Who calls; `None`: nobody was asked who he is, and all is everybody's.
    pub(super) subject: Option<Arc<str>>,
    pub(super) roles: Roles,
}

/// What a caller is beside a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Roles {
    /// Whether it has all sessions of its tenant.
    pub(super) tenant_admin: bool,
    /// Whether it may see what runs where.
    pub(super) operator: bool,
}

#[derive(Serialize, Deserialize)]
struct Written {
    tenant: String,
    subject: Option<String>,
    roles: Roles,
}

/// That of a call of which nobody has said whose it is. No tenant can have this name, and PostgreSQL takes it.
static NOBODY: LazyLock<Access> = LazyLock::new(|| Access {
    tenant: Tenant::named("-"),
    subject: Some("-".into()),
    roles: Roles::default(),
});

impl Access {
    /// That of all callers of a server that asks nobody who he is.
    pub(super) const EVERYBODY: Self =
        Self { tenant: Tenant::ONLY, subject: None, roles: Roles { tenant_admin: true, operator: true } };

    /// That of a call.
    pub(super) fn of(extensions: &Extensions) -> &Self {
        extensions.get().unwrap_or(&NOBODY)
    }

    /// The same, where the call is not decoded yet.
    pub(super) fn of_parts(extensions: &http::Extensions) -> &Self {
        extensions.get().unwrap_or(&NOBODY)
    }

    /// As servers tell each other for whom they forward a call.
    pub(super) fn write(&self) -> String {
        let Self { tenant, subject, roles } = self;
        let written = Written {
            tenant: tenant.as_str().into(),
            subject: subject.as_deref().map(Into::into),
            roles: *roles,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&written).unwrap_or_default())
    }

    /// Reads what [`write`](Self::write) has written.
    pub(super) fn read(written: &[u8]) -> Option<Self> {
        let Written { tenant, subject, roles } =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(written).ok()?).ok()?;
        Some(Self { tenant: Tenant::named(&tenant), subject: subject.map(Into::into), roles })
    }

    /// Whose sessions alone it may see.
    fn only_of(&self) -> Option<&Arc<str>> {
        self.subject.as_ref().filter(|_| !self.roles.tenant_admin)
    }

    /// Whether it may see what runs where.
    pub(super) fn is_operator(&self) -> bool {
        self.roles.operator
    }

    /// What a caller is told of himself.
    pub(super) fn tell(&self) -> pb::WhoAmIResponse {
        let Roles { tenant_admin, operator } = self.roles;
        let roles =
            [(true, pb::Role::User), (tenant_admin, pb::Role::TenantAdmin), (operator, pb::Role::Operator)];
        pb::WhoAmIResponse {
            tenant: self.tenant.as_str().into(),
            subject: self.subject.as_deref().unwrap_or_default().into(),
            roles: roles.into_iter().filter(|(has, _)| *has).map(|(_, role)| role.into()).collect(),
        }
    }

    /// A session that a call names.
    ///
    /// # Errors
    /// If it is not there for this caller.
    pub(super) async fn session(&self, sessions: &Sessions, id: SessionId) -> Result<SessionKey, Error> {
        let key = SessionKey::new(self.tenant.clone(), id);
        let Some(subject) = self.only_of() else { return Ok(key) };
        match sessions.owner(&key).await? {
            Some(owner) if *owner == **subject => Ok(key),
            _ => Err(Error::NotFound(key.id().clone())),
        }
    }

    /// A session that a call makes, or has already.
    ///
    /// # Errors
    /// If it is another's.
    pub(super) async fn free_or_own(&self, sessions: &Sessions, id: SessionId) -> Result<SessionKey, Error> {
        let key = SessionKey::new(self.tenant.clone(), id);
        let Some(subject) = self.only_of() else { return Ok(key) };
        match sessions.owner(&key).await? {
            Some(owner) if *owner != **subject => Err(Error::Exists(key.id().clone())),
            _ => Ok(key),
        }
    }

    /// Whose a new session is: the caller's, unless it says otherwise and may.
    ///
    /// # Errors
    /// If only an admin of the tenant may say so.
    pub(super) fn owner_of_new(&self, named: String) -> Result<String, Error> {
        match (self.only_of(), &self.subject) {
            (Some(subject), _) if named.is_empty() || *named == **subject => Ok(subject.to_string()),
            (Some(subject), _) => {
                let allowed = format!("may only be {subject}, or be left out");
                Err(Error::Denied(vec![Excess { field: "owner".into(), allowed }]))
            }
            (None, Some(subject)) if named.is_empty() => Ok(subject.to_string()),
            (None, _) => Ok(named),
        }
    }

    /// The id of a request to make a session, which is its caller's own.
    pub(super) fn request(&self, request: RequestId) -> RequestId {
        match &self.subject {
            Some(subject) => RequestId { id: format!("{subject}\n{}", request.id), ..request },
            None => request,
        }
    }

    /// What is listed of what is asked for; `None`: nothing of it.
    pub(super) fn listing(&self, mut listing: Listing) -> Option<Listing> {
        let Some(subject) = self.only_of() else { return Some(listing) };
        if listing.wanted.owner.as_ref().is_some_and(|owner| **owner != **subject) {
            return None;
        }
        listing.wanted.owner = Some(subject.to_string());
        Some(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann(tenant_admin: bool) -> Access {
        let roles = Roles { tenant_admin, operator: false };
        Access { tenant: Tenant::named("acme"), subject: Some("ann".into()), roles }
    }

    #[test]
    fn what_servers_tell_each_other_is_read_as_it_was_written() {
        for access in [ann(true), ann(false), Access::EVERYBODY, NOBODY.clone()] {
            assert_eq!(Access::read(access.write().as_bytes()), Some(access));
        }
        for broken in ["", "e30", "%", "bnVsbA"] {
            assert_eq!(Access::read(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn a_call_of_which_nobody_has_said_whose_it_is_is_nobodys() {
        let access = Access::of(&Extensions::new()).clone();
        assert_ne!(access.tenant, Tenant::ONLY);
        assert!(access.only_of().is_some() && !access.is_operator());
    }

    #[test]
    fn a_user_owns_what_it_makes_and_an_admin_says_who_does() {
        assert_eq!(ann(false).owner_of_new(String::new()).unwrap(), "ann");
        assert_eq!(ann(false).owner_of_new("ann".into()).unwrap(), "ann");
        assert!(matches!(ann(false).owner_of_new("bob".into()), Err(Error::Denied(_))));
        assert_eq!(ann(true).owner_of_new("bob".into()).unwrap(), "bob");
        assert_eq!(ann(true).owner_of_new(String::new()).unwrap(), "ann");
        assert_eq!(Access::EVERYBODY.owner_of_new("bob".into()).unwrap(), "bob");
    }
}
