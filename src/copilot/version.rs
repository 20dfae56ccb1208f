//! The CLIs that can be used, by their version and the protocol that they speak.
//!
//! Tests: in this file, and `tests/integration/faults/handshake.rs`.

use std::fmt;

/// The version of the JSON-RPC protocol that the facade speaks. All CLIs from 1.0.60 to 1.0.102 speak it.
pub const PROTOCOL: u32 = 3;

/// The oldest CLI that is used: the runtime in the official SDK 1.0.14. CLIs from it on have all that the facade calls (their
/// schemas, and `make test-versions`); with older ones things fail in silence.
pub const FLOOR: Version = Version::new(1, 0, 85);

/// The version of a CLI: its three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The version of these numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Parses `1.0.102` or `1.0.84-4`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let release = text.split('-').next()?;
        let mut parts = release.split('.').map(|part| part.parse().ok());
        let version = Self::new(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version and protocol that a CLI reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its version; empty if it does not say.
    pub version: String,
    /// The version of its protocol, if it says so.
    pub protocol: Option<u32>,
}

impl Identity {
    /// Checks whether the CLI can be used. One whose version is no number, such as a private build, is tried.
    ///
    /// # Errors
    /// If it is older than [`FLOOR`], or speaks another protocol; each says what to do.
    pub fn check(&self) -> Result<(), Unusable> {
        let version = Version::parse(&self.version);
        match (version, self.protocol) {
            (Some(version), _) if version < FLOOR => Err(Unusable::Old { version: self.version.clone() }),
            (_, Some(PROTOCOL)) => Ok(()),
            (_, Some(protocol)) if protocol > PROTOCOL => {
                Err(Unusable::Ahead { version: self.version.clone(), protocol })
            }
            (_, protocol) => Err(Unusable::Behind { protocol }),
        }
    }
}

/// Why a CLI cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is older than [`FLOOR`].
    #[error("it is of version {version}, and {FLOOR} is needed at least: {NEWER}")]
    Old {
        /// Its version.
        version: String,
    },
    /// It speaks a newer protocol than the facade.
    #[error(
        "it ({version}) speaks protocol {protocol}, and this server {PROTOCOL}: install a newer copilot-grpc, or a Copilot CLI \
         that speaks protocol {PROTOCOL}, as 1.0.102 does"
    )]
    Ahead {
        /// The CLI's version.
        version: String,
        /// The version of its protocol.
        protocol: u32,
    },
    /// It speaks an older protocol, or does not say which.
    #[error("it speaks protocol {}, and {PROTOCOL} is needed: {NEWER}", told(*protocol))]
    Behind {
        /// The version of its protocol.
        protocol: Option<u32>,
    },
}

const NEWER: &str =
    "install a newer one, npm's @github/copilot from 1.0.85 on or the official SDK's runtime from 1.0.14 on";

fn told(protocol: Option<u32>) -> String {
    protocol.map_or("of an unknown version".to_owned(), |version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cli_is_used_from_the_floor_on_if_it_speaks_our_protocol() {
        let check = |version: &str, protocol| Identity { version: version.into(), protocol }.check();
        for version in ["1.0.85", "1.0.85-3", "1.0.89-7", "1.0.102", "1.1.0", "2.0.0", "nightly", ""] {
            assert_eq!(check(version, Some(3)), Ok(()), "{version}");
        }
        for version in ["1.0.84-4", "1.0.81", "1.0.0", "0.0.403"] {
            for protocol in [None, Some(2), Some(3), Some(4)] {
                assert_eq!(check(version, protocol), Err(Unusable::Old { version: version.into() }));
            }
        }
        let version = "1.2.0".to_owned();
        assert_eq!(check("1.2.0", Some(4)), Err(Unusable::Ahead { version, protocol: 4 }));
        assert_eq!(check("1.2.0", Some(2)), Err(Unusable::Behind { protocol: Some(2) }));
        assert_eq!(check("", None), Err(Unusable::Behind { protocol: None }));
    }

    #[test]
    fn the_advice_fits() {
        let said = |version: &str, protocol| {
            Identity { version: version.into(), protocol }.check().unwrap_err().to_string()
        };
        let old = said("1.0.81", Some(3));
        assert!(old.contains("1.0.81, and 1.0.85 is needed") && old.contains("install a newer one"), "{old}");
        let ahead = said("1.3.0", Some(4));
        assert!(
            ahead.contains("(1.3.0) speaks protocol 4") && ahead.contains("newer copilot-grpc"),
            "{ahead}"
        );
        let behind = said("", Some(2));
        assert!(
            behind.contains("protocol 2, and 3 is needed") && behind.contains(&FLOOR.to_string()),
            "{behind}"
        );
    }
}
