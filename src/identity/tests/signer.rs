//! Plays an issuer: signs tokens, and publishes its keys.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

pub(super) enum Signer {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    /// Signs with a secret, as nobody may.
    Hmac(Vec<u8>),
}

impl Signer {
    pub(super) fn rsa() -> Self {
        let pem = include_str!("../../../tests/fixtures/identity/rsa.pem");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(body).unwrap()).unwrap()))
    }

    pub(super) fn p256() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self::P256(key.unwrap())
    }

    pub(super) fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// Its public key, as a JSON Web Key.
    pub(super) fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "kid": id, "use": "sig", "n": BASE64.encode(n), "e": BASE64.encode(e)})
            }
            Self::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": BASE64.encode(x), "y": BASE64.encode(y)})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": BASE64.encode(key.public_key())})
            }
            Self::Hmac(_) => json!({}),
        }
    }

    /// A token with this header and these claims.
    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| BASE64.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        format!(
            "{message}.{}",
            BASE64.encode(self.sign(header["alg"].as_str().unwrap_or_default(), message.as_bytes()))
        )
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let random = SystemRandom::new();
                match algorithm {
                    "PS256" => key.sign(&RSA_PSS_SHA256, &random, message, &mut signature).unwrap(),
                    _ => key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap(),
                }
                signature
            }
            Self::P256(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Hmac(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
        }
    }
}

/// A key set of some keys.
pub(super) fn key_set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}
