//! The algorithms by which JWTs may be signed. Pure.
//!
//! All of them are asymmetric. With `HS256` whoever knows the issuer's public key could sign, if it were taken for a secret; with
//! `none` everybody could. So neither can be written down here.

use std::str::FromStr;

/// An algorithm by which a JWT may be signed (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

/// The kind of key that an algorithm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 9] = [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, EdDsa];

    /// Those that an issuer may use if nothing else is configured: what issuers use in fact.
    pub const USUAL: [Self; 4] = [Rs256, Ps256, Es256, EdDsa];

    /// Its name in the header of a JWT.
    pub fn as_str(self) -> &'static str {
        match self {
            Rs256 => "RS256",
            Rs384 => "RS384",
            Rs512 => "RS512",
            Ps256 => "PS256",
            Ps384 => "PS384",
            Ps512 => "PS512",
            Es256 => "ES256",
            Es384 => "ES384",
            EdDsa => "EdDSA",
        }
    }

    /// The kind of key that it takes.
    pub(super) fn kind(self) -> Kind {
        match self {
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => Kind::Rsa,
            Es256 => Kind::P256,
            Es384 => Kind::P384,
            EdDsa => Kind::Ed25519,
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        known.ok_or_else(|| format!("write some of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}
