//! TLS: certificates from files, which may change while the server runs; whom it takes; and the other side, where it is a client.
//!
//! [`files`] reads them, [`set`] makes configurations of what they hold or says all that is wrong with them, and [`current`] has
//! the set that counts now. [`accept`] is the handshake with a client, whose certificate [`verifier`] checks, also for the
//! [`names`] that are allowed; [`certificate`] reads what stands in one. [`connect`] is the handshake with a server.
//!
//! Tests: in these files, and `tests/integration/transport/`.

mod accept;
mod certificate;
mod connect;
mod current;
mod files;
mod names;
mod set;
mod verifier;

pub(super) use accept::TlsClient;
pub(super) use connect::{Connector, LateRefusal, Unsafe};
pub use current::Tls;
pub use files::{Clients, Files, Problems, Serving, Trust};
pub use names::AllowedNames;
