//! Users of this machine, known by the ids that the kernel tells of the other end of a Unix socket. Pure.

use super::{
    caller::{Caller, Means, Roles, Subject, TenantName},
    refused::Refused,
};

/// Who a user of this machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id of the user. Each may come once.
    pub uid: u32,
    /// The tenant.
    pub tenant: TenantName,
    /// The subject.
    pub subject: Subject,
    /// The roles.
    pub roles: Roles,
}

/// Who the user with an id is.
///
/// # Errors
/// [`Refused::Unknown`] if nobody is.
pub(super) fn caller(users: &[User], uid: u32) -> Result<Caller, Refused> {
    let user = users.iter().find(|user| user.uid == uid).ok_or(Refused::Unknown)?;
    let (tenant, subject) = (user.tenant.clone(), user.subject.clone());
    Ok(Caller { tenant, subject, roles: user.roles, by: Means::UnixUser })
}
