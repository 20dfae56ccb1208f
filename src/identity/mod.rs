//! Who calls: what a call brings becomes a [`Caller`], or is refused in words.
//!
//! A call may bring a bearer token of the token file, a JWT of an issuer, a client certificate, the identity header of a proxy,
//! or a user id of this machine. [`Identities`] takes exactly one of them for the caller.
//!
//! This room knows credentials and nothing else: no gRPC, no sessions, no store, and not where the configuration comes from. Who
//! may do what is decided above it.
//!
//! Read: `caller`, `refused` and `presented`, the words; `identities`, which decides between the ways; then each way in a file
//! of its own: `tokens`, `jwt` with `algorithm`, `keys`, `jwks` and `fetch`, `certificates` with `pattern`, `forwarded`, `unix`;
//! and `failures`, which slows those who guess.
//!
//! Tests: in these files, `identity/tests`, and the fuzz target `identity`.

mod algorithm;
mod caller;
mod certificates;
mod digest;
mod failures;
mod fetch;
mod file;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod identities;
mod jwks;
mod jwt;
mod keys;
mod new_token;
mod pattern;
mod presented;
mod refused;
mod settings;
mod tokens;
mod unix;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use caller::{BadSubject, BadTenant, Caller, Means, Role, Roles, Subject, TenantName};
pub use certificates::Rule;
pub use fetch::{Authorities, Endpoint};
pub use identities::Identities;
pub use jwks::Source;
pub use jwt::{Issuer, TenantFrom};
pub use keys::KeySet;
pub use new_token::{NewToken, new_token};
pub use pattern::Pattern;
pub use presented::{CertificateNames, Presented};
pub use refused::Refused;
pub use settings::Settings;
pub use tokens::{TokenFile, Tokens};
pub use unix::User;
