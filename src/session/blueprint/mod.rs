//! What a session is made of: settings, credentials, the operator's profile and its ceiling, policy. Pure.
//!
//! Tests: in the files, and `tests/integration/profiles.rs`, `tests/integration/settings.rs`.

#[expect(clippy::module_inception, reason = "it is what the room is about")]
mod blueprint;
mod ceiling;
mod credentials;
mod policy;
mod profile;
mod record;

pub use blueprint::Blueprint;
pub use credentials::{Credentials, Missing, Unfit};
pub use policy::{Effect, KINDS, Policy, Rule};
pub use profile::{Excess, Profile, Profiles};

pub(in crate::session) use blueprint::DEFAULT_ASK_TIMEOUT;
pub(in crate::session) use record::{Record, Unusable};
