//! SHA-256 hashes of credentials. Pure.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The SHA-256 hash of a credential. Compared in constant time, and never shown.
///
/// It may be the key of a `HashMap` with the standard hasher: the place in the map follows from a random key of this process, so
/// the time that a lookup takes tells nothing about the hashes in it.
#[derive(Clone, Copy, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    /// The hash of a credential.
    pub(super) fn of(credential: &[u8]) -> Self {
        Self(Sha256::digest(credential).into())
    }

    /// Reads 64 hexadecimal digits.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        if digits.len() != 32 || !rest.is_empty() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(digits) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
        }
        Some(Self(hash))
    }

    /// Its 64 hexadecimal digits.
    pub(super) fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Its bytes.
    pub(super) fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_hex(), known);
        assert_eq!(Digest::from_hex(known), Some(Digest::of(b"abc")));
        assert_eq!(Digest::from_hex(&known.to_uppercase()), Some(Digest::of(b"abc")));
        for bad in
            ["", "ba", &known[1..], &format!("{known}0"), &known.replace('b', "g"), &known.replace('b', "é")]
        {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
        assert_eq!(format!("{:?}", Digest::of(b"abc")), "[redacted]");
    }
}
