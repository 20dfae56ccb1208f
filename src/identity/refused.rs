//! Why nobody is let in.

use std::time::Duration;

/// Why a call has no [`Caller`](super::Caller). No variant has anything of the credential in it, and none says how close a wrong
/// one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The call brings none: bring one.
    #[error(
        "credentials are required: send the header `authorization: Bearer TOKEN`, or show a client certificate"
    )]
    NoCredentials,
    /// What it brings has no form that is understood, as the text says: send it in another one.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is nobody's: wrong, withdrawn, or never given.
    #[error("the credentials are not known here")]
    Unknown,
    /// It was good and is too old: get a new one.
    #[error("the credentials have expired")]
    Expired,
    /// It will be good later.
    #[error("the credentials are not valid yet")]
    NotYetValid,
    /// The JWT is good, but for another service.
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// The JWT is of an issuer that is not configured.
    #[error("the token's issuer is not accepted here")]
    WrongIssuer,
    /// Two credentials of the call are good, and of different tenants: bring one.
    #[error("the token and the certificate name different tenants: bring one of them")]
    TwoTenants,
    /// Too much was wrong from there lately: wait.
    #[error("too many wrong credentials came from this address: try again later")]
    TooManyFailures {
        /// For how long wrong credentials are not looked at.
        retry_after: Duration,
    },
    /// Whether it is good cannot be told now, because the issuer's keys cannot be had: try again.
    #[error("the keys of the token's issuer cannot be had now: try again later")]
    Unavailable,
}

impl Refused {
    /// Whether this counts against the peer. What no guessing brings about does not.
    pub(super) fn is_failure(self) -> bool {
        match self {
            Self::Malformed(_)
            | Self::Unknown
            | Self::Expired
            | Self::NotYetValid
            | Self::WrongAudience
            | Self::WrongIssuer
            | Self::TwoTenants => true,
            Self::NoCredentials | Self::TooManyFailures { .. } | Self::Unavailable => false,
        }
    }
}
