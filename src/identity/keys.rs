//! The public keys of an issuer: a JSON Web Key Set (RFC 7517), and the check of a signature. Pure.
//!
//! A key is bound to its kind: no header of a token makes an RSA key into something else. Signatures are checked by ring, as TLS
//! does it; `jsonwebtoken` has no backend of ring, and with its own thirty crates more would be trusted.

use std::{collections::HashMap, fmt, sync::Mutex, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;

use super::{
    algorithm::{Algorithm, Kind},
    caller::Caller,
    digest::Digest,
};
use crate::lock::lock;

/// The public keys of an issuer, and which tokens they have been found to be good for.
pub struct KeySet {
    keys: Vec<Key>,
    /// Tokens whose signatures are good, with their callers, until they expire. They go with the keys. To look one up takes a tenth
    /// of the time or less that a signature takes, and it can be done for a peer that has to wait.
    verified: Mutex<HashMap<Digest, (SystemTime, Caller)>>,
}

/// The largest set, in bytes. Large issuers have some 10 KiB.
pub(super) const MAX_SET: usize = 256 << 10;
/// The most keys in a set.
const MAX_KEYS: usize = 64;
/// How many verified tokens are remembered: some megabytes.
const MAX_VERIFIED: usize = 10_000;

/// A public key.
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that it is for, if it says so.
    only: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// A point, or the 32 bytes of Ed25519.
    Bytes(Vec<u8>),
}

/// A key as it is written. Everything else in it is left alone: certificates too, whose chains nobody here verifies.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that are not for signatures, or of a kind that is not used here, are left out.
    ///
    /// # Errors
    /// In words, if it is longer than 256 KiB, has another form, more than 64 keys, or none that can be used.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        if json.len() > MAX_SET {
            return Err(format!("the key set is longer than {} KiB", MAX_SET >> 10));
        }
        let Ok(set) = serde_json::from_slice::<Jwks>(json) else {
            return Err("it is no JSON Web Key Set, such as {\"keys\": [...]}".into());
        };
        let count = set.keys.len();
        if count > MAX_KEYS {
            return Err(format!("the key set has {count} keys: {MAX_KEYS} are allowed"));
        }
        let keys: Vec<_> =
            set.keys.into_iter().filter_map(|jwk| Key::read(serde_json::from_value(jwk).ok()?)).collect();
        if keys.is_empty() {
            return Err(format!("none of the {count} keys in the set can be used"));
        }
        Ok(Self { keys, verified: Mutex::default() })
    }

    /// Whether there is a key for tokens with this header.
    pub(super) fn has(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.find(algorithm, id).is_some()
    }

    /// Whether a signature is good: made of this message, by the one key that the header means.
    pub(super) fn verifies(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.find(algorithm, id).is_some_and(|key| key.verifies(algorithm, message, signature))
    }

    /// The one key that fits. If there are several, it is not clear which one is meant, and there is none.
    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&Key> {
        let fits = |key: &&Key| {
            key.kind == algorithm.kind()
                && key.only.is_none_or(|only| only == algorithm)
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        let mut keys = self.keys.iter().filter(fits);
        keys.next().filter(|_| keys.next().is_none())
    }

    /// The caller of a token that was verified with these keys before, unless it has expired.
    pub(super) fn known(&self, token: Digest, now: SystemTime) -> Option<Caller> {
        lock(&self.verified).get(&token).filter(|(until, _)| now < *until).map(|(_, caller)| caller.clone())
    }

    /// Remembers a token that was verified with these keys.
    pub(super) fn remember(&self, token: Digest, until: SystemTime, caller: Caller, now: SystemTime) {
        let mut verified = lock(&self.verified);
        if verified.len() >= MAX_VERIFIED {
            verified.retain(|_, (until, _)| now < *until);
        }
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(token, (until, caller));
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.kind))).finish()
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Self> {
        let is_for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !is_for_signatures {
            return None;
        }
        let number = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |size: usize| {
            let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
            (x.len() == size && y.len() == size).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let (kind, material) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (number(&jwk.n)?, number(&jwk.e)?);
                let (n, e) = (without_zeros(&n), without_zeros(&e));
                // What ring takes: 2048 to 8192 bits.
                if !(256..=1024).contains(&n.len()) {
                    return None;
                }
                (Kind::Rsa, Material::Rsa(RsaPublicKeyComponents { n: n.to_vec(), e: e.to_vec() }))
            }
            ("EC", Some("P-256")) => (Kind::P256, Material::Bytes(point(32)?)),
            ("EC", Some("P-384")) => (Kind::P384, Material::Bytes(point(48)?)),
            ("OKP", Some("Ed25519")) => {
                (Kind::Ed25519, Material::Bytes(number(&jwk.x).filter(|key| key.len() == 32)?))
            }
            _ => return None,
        };
        // A key for an algorithm that is not known here is for none of ours.
        let only = match jwk.alg.as_deref() {
            Some(name) => Some(name.parse::<Algorithm>().ok().filter(|only| only.kind() == kind)?),
            None => None,
        };
        Some(Self { id: jwk.kid, kind, only, material })
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters| match &self.material {
            Material::Rsa(key) => key.verify(parameters, message, signature).is_ok(),
            Material::Bytes(_) => false,
        };
        let other = |verification: &'static dyn VerificationAlgorithm| match &self.material {
            Material::Bytes(key) => {
                UnparsedPublicKey::new(verification, key).verify(message, signature).is_ok()
            }
            Material::Rsa(_) => false,
        };
        match algorithm {
            Algorithm::Rs256 => rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => other(&ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => other(&ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => other(&ED25519),
        }
    }
}

/// Some issuers write numbers with a zero in front (RFC 7518, section 6.3.1.1), which ring refuses.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed25519(id: &str) -> serde_json::Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn parse(json: &serde_json::Value) -> Result<KeySet, String> {
        KeySet::parse(json.to_string().as_bytes())
    }

    #[test]
    fn keys_that_are_not_for_this_are_left_out() {
        let mut for_encryption = ed25519("enc");
        for_encryption["use"] = json!("enc");
        let mut for_another = ed25519("other");
        for_another["alg"] = json!("RS256");
        let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "secret"});
        let small = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
        let odd = json!({"kty": 1});
        let set = parse(&json!({"keys": [for_encryption, for_another, secret, small, odd, ed25519("good")]}))
            .unwrap();
        assert!(set.has(Algorithm::EdDsa, Some("good")));
        assert!(set.has(Algorithm::EdDsa, None), "it is the only one");
        assert!(!set.has(Algorithm::Rs256, None));
        assert!(!set.has(Algorithm::EdDsa, Some("enc")));
    }

    #[test]
    fn a_token_without_a_key_id_needs_a_set_with_one_key_that_fits() {
        let set = parse(&json!({"keys": [ed25519("a"), ed25519("b")]})).unwrap();
        assert!(!set.has(Algorithm::EdDsa, None));
        assert!(set.has(Algorithm::EdDsa, Some("b")));
        let twice = parse(&json!({"keys": [ed25519("a"), ed25519("a")]})).unwrap();
        assert!(!twice.has(Algorithm::EdDsa, Some("a")), "which one is meant?");
    }

    #[test]
    fn what_is_no_key_set_is_refused_in_words() {
        let check = |json: &[u8], expected: &str| {
            let problem = KeySet::parse(json).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check(b"", "no JSON Web Key Set");
        check(b"<html>", "no JSON Web Key Set");
        check(br#"{"keys": {}}"#, "no JSON Web Key Set");
        check(br#"{"keys": []}"#, "none of the 0 keys");
        check(br#"{"keys": [{"kty": "oct", "k": "AA"}]}"#, "none of the 1 keys");
        check(&vec![b' '; MAX_SET + 1], "longer than 256 KiB");
        let many = json!({"keys": (0..65).map(|n| ed25519(&n.to_string())).collect::<Vec<_>>()});
        check(many.to_string().as_bytes(), "65 keys");
    }
}
