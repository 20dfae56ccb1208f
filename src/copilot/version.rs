//! Versions of the CLI, and what older ones lack.

use std::fmt;

/// The version of the JSON-RPC protocol that the facade speaks. All CLIs from 1.0.60 to 1.0.102 speak it.
pub const PROTOCOL: u32 = 3;

/// A CLI's version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// One of these numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `1.0.102` or `1.0.84-4`; `None` if it is anything else.
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

/// What a CLI of this version lacks, in words for the operator. Source: cli-protocol.md, section 14.
pub fn missing_features(version: &str) -> Vec<String> {
    let Some(version) = Version::parse(version) else {
        return vec![format!("unknown version {version:?}: the service may not be complete")];
    };
    FEATURES
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|(since, what)| format!("{what} (since {since})"))
        .collect()
}

const FEATURES: &[(Version, &str)] = &[
    (Version::new(1, 0, 86), "message ids on events: answers are matched to prompts by their order"),
    (Version::new(1, 0, 86), "client metadata: labels and settings of sessions are lost with this server"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_say_what_they_lack() {
        let check = |version, missing| assert_eq!(missing_features(version).len(), missing, "{version}");
        check("1.0.102", 0);
        check("1.0.86", 0);
        check("1.0.84-4", 2);
        check("1.0.60", 2);
        check("1.1.0", 0);
        check("nightly", 1);
    }
}
