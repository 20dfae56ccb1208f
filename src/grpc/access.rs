//! What a call may see and do: whose it is, which its identity decides.
//!
//! A tenant's sessions are that tenant's alone: the key of a session begins with its tenant, so no id of another's leads anywhere. In a
//! tenant, a user has the sessions that it owns, and a tenant's admin all of them. To who may not see a session it does not exist.

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tonic::{Extensions, Status};

use super::{convert::Checks, pb, status};
use crate::session::{Error, Listing, RequestId, SessionId, SessionKey, Sessions, Tenant};

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

/// That of a call of which nobody has said whose it is. No caller has this subject.
static NOBODY: LazyLock<Access> = LazyLock::new(|| Access {
    tenant: Tenant::named("\0"),
    subject: Some("\0".into()),
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
    pub(super) async fn session(&self, sessions: &Sessions, id: SessionId) -> Result<SessionKey, Status> {
        let key = SessionKey::new(self.tenant.clone(), id);
        let Some(subject) = self.only_of() else { return Ok(key) };
        match sessions.owner(&key).await {
            Ok(Some(owner)) if *owner == **subject => Ok(key),
            Ok(_) => Err(status::of(&Error::NotFound(key.id().clone()))),
            Err(error) => Err(status::of(&error)),
        }
    }

    /// A session that a call makes, or has already.
    ///
    /// # Errors
    /// If it is another's.
    pub(super) async fn free_or_own(&self, sessions: &Sessions, id: SessionId) -> Result<SessionKey, Status> {
        let key = SessionKey::new(self.tenant.clone(), id);
        let Some(subject) = self.only_of() else { return Ok(key) };
        match sessions.owner(&key).await {
            Ok(Some(owner)) if *owner != **subject => Err(status::of(&Error::Exists(key.id().clone()))),
            Ok(_) => Ok(key),
            Err(error) => Err(status::of(&error)),
        }
    }

    /// Whose a new session is: the caller's, unless it says otherwise and may.
    pub(super) fn owner_of_new(&self, named: String) -> Result<String, Status> {
        match (self.only_of(), &self.subject) {
            (Some(subject), _) if named.is_empty() || *named == **subject => Ok(subject.to_string()),
            (Some(_), _) => {
                let mut checks = Checks::default();
                checks.wrong("owner", "is you, unless you are an admin of your tenant: leave it out");
                Err(checks
                    .done(None::<()>)
                    .map_err(status::invalid)
                    .err()
                    .unwrap_or_else(|| Status::internal("")))
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
