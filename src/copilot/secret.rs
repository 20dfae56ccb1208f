//! Secrets: texts that must not be shown.
//!
//! Tests: in this file, and `tests/integration/faults/secrets.rs`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A token or key. Its memory is wiped when it is dropped, and neither `Debug` nor an error shows it.
///
/// It serializes as itself, because it has to reach the CLI, or to be sealed: nothing that holds one may be serialized to anywhere
/// else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The shortest text that is redacted, in bytes. A shorter one is hardly a secret, such as a header `x-tenant: 1`, and
/// replacing it would garble the text.
const SHORTEST: usize = 6;

const REDACTED: &str = "[redacted]";

/// Replaces all of these secrets in a text.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    let secrets = secrets.into_iter().map(Secret::expose).filter(|secret| secret.len() >= SHORTEST);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, REDACTED))
}

/// Replaces all of these secrets in a line that may have been cut off: at its end there may be the beginning of a secret.
pub fn redact_line<'a>(line: &str, secrets: impl IntoIterator<Item = &'a Secret> + Clone) -> String {
    let mut line = redact(line, secrets.clone());
    for secret in secrets {
        let beginnings = secret.expose().char_indices().map(|(at, _)| &secret.expose()[..at]);
        let cut =
            beginnings.filter(|cut| cut.len() >= SHORTEST && line.ends_with(cut)).max_by_key(|it| it.len());
        if let Some(cut) = cut {
            line.truncate(line.len() - cut.len());
            line.push_str(REDACTED);
        }
    }
    line
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_of_a_line_also_where_the_line_was_cut_within_it() {
        let secrets = [Secret::new("sk-0123456789"), Secret::new("short"), Secret::new("ghp_☃☃☃☃")];
        let check = |line: &str, expected: &str| assert_eq!(redact_line(line, &secrets), expected);
        check("key=sk-0123456789, again sk-0123456789", "key=[redacted], again [redacted]");
        check("key=sk-01234567", "key=[redacted]");
        check("key=sk-01", "key=sk-01");
        check("it was short", "it was short");
        check("token ghp_☃☃☃", "token [redacted]");
        check("", "");
    }

    #[test]
    fn debug_does_not_show_it() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[redacted]");
    }
}
