//! JSON Web Tokens (RFC 7519, as RFC 8725 wants them used). Pure: keys and time are handed in.
//!
//! The header chooses among the keys of the issuer, and decides nothing else: keys and addresses of keys in it (`jwk`, `jku`,
//! `x5c`, `x5u`) are left alone, and `crit` is refused. Nothing is told about the claims before the signature has been found good.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{
    algorithm::Algorithm,
    caller::{Caller, Means, Role, Roles, Subject, TenantName},
    jwks::Source,
    keys::KeySet,
    refused::Refused,
};

/// Whose JWTs are taken, and how callers follow from them.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub issuer: Arc<str>,
    /// The names of this service, one of which must be in `aud`. At least one.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub source: Source,
    /// How its tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be from this one.
    pub skew: Duration,
    /// Which tenant its tokens are for.
    pub tenant: TenantFrom,
    /// The claim with the subject, as a path with dots.
    pub subject_claim: String,
    /// The claim with the roles: an array of names, or a text with spaces between them.
    pub roles_claim: Option<String>,
    /// What its names of roles mean here. Other names mean nothing.
    pub roles: BTreeMap<String, Role>,
}

/// Which tenant the tokens of an issuer are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantFrom {
    /// Always this one.
    Name(TenantName),
    /// The one in a claim, as a path with dots. Its value must be a tenant's name as it is.
    Claim(String),
}

/// The longest token, in bytes.
pub(super) const MAX_TOKEN: usize = 16 << 10;

/// A token whose signature has not been checked.
pub(super) struct Jwt<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    message: &'t [u8],
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

const NO_JWT: Refused = Refused::Malformed("the bearer token is no JWT");

impl<'t> Jwt<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Refused::Malformed`] for what is longer than 16 KiB, no JWT, has a critical extension, or an algorithm that is not asymmetric.
    pub(super) fn parse(token: &'t str) -> Result<Self, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Malformed("the bearer token is longer than 16 KiB"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(NO_JWT)?;
        let (header, claims) = message.split_once('.').ok_or(NO_JWT)?;
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| NO_JWT);
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| NO_JWT)?;
        if header.crit.is_some() {
            return Err(Refused::Malformed("the token has an extension (crit) that is not understood here"));
        }
        let algorithm = header.alg.parse().map_err(|_| WRONG_ALGORITHM)?;
        let claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| NO_JWT)?;
        let signature = decoded(signature)?;
        Ok(Self { algorithm, key_id: header.kid, message: message.as_bytes(), signature, claims })
    }

    /// Who is said to have issued it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }
}

/// That a token's algorithm is not among those of its issuer.
pub(super) const WRONG_ALGORITHM: Refused =
    Refused::Malformed("the token is signed with an algorithm that is not accepted here");

impl Issuer {
    /// Who a token of this issuer is, and when that ends.
    ///
    /// # Errors
    /// [`Refused::Unknown`] if the signature is not by one of the keys; after that, what is wrong with the claims.
    pub(super) fn caller(
        &self,
        jwt: &Jwt<'_>,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<(Caller, SystemTime), Refused> {
        if !self.algorithms.contains(&jwt.algorithm) {
            return Err(WRONG_ALGORITHM);
        }
        if !keys.verifies(jwt.algorithm, jwt.key_id.as_deref(), jwt.message, &jwt.signature) {
            return Err(Refused::Unknown);
        }
        let claims = &jwt.claims;
        if jwt.issuer() != Some(&self.issuer) {
            return Err(Refused::WrongIssuer);
        }
        let is_meant =
            |audience: &Value| audience.as_str().is_some_and(|name| self.audiences.iter().any(|a| a == name));
        let is_for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_meant),
            Some(one) => is_meant(one),
            None => false,
        };
        if !is_for_us {
            return Err(Refused::WrongAudience);
        }
        let expires = time(claims, "exp")?.ok_or(Refused::Malformed("the token has no expiry (exp)"))?;
        let until = expires.checked_add(self.skew).unwrap_or(expires);
        if now >= until {
            return Err(Refused::Expired);
        }
        let from = time(claims, "nbf")?.unwrap_or(UNIX_EPOCH);
        if now.checked_add(self.skew).is_some_and(|now| now < from) {
            return Err(Refused::NotYetValid);
        }
        let tenant = match &self.tenant {
            TenantFrom::Name(tenant) => tenant.clone(),
            TenantFrom::Claim(path) => {
                let name = find(claims, path).and_then(Value::as_str);
                let name = name
                    .ok_or(Refused::Malformed("the token names no tenant in the claim that is configured"))?;
                TenantName::parse(name).map_err(|_| Refused::Malformed(BAD_TENANT))?
            }
        };
        let subject = find(claims, &self.subject_claim).and_then(Value::as_str);
        let subject = subject
            .ok_or(Refused::Malformed("the token names no subject in the claim that is configured"))?;
        let subject = Subject::parse(subject).map_err(|_| Refused::Malformed(BAD_SUBJECT))?;
        let by = Means::Jwt { issuer: self.issuer.clone() };
        Ok((Caller { tenant, subject, roles: self.roles(claims), by }, until))
    }

    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        let claim = self.roles_claim.as_ref().and_then(|path| find(claims, path));
        let role = |name: &str| self.roles.get(name).copied();
        match claim {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).filter_map(role).collect(),
            Some(Value::String(names)) => names.split_ascii_whitespace().filter_map(role).collect(),
            _ => Roles::default(),
        }
    }
}

const BAD_TENANT: &str =
    "the tenant in the token is not 1 to 64 of a-z 0-9 - _ . that begin with a letter or a digit";
const BAD_SUBJECT: &str = "the subject in the token is not 1 to 256 characters without control characters";

/// A time in a claim: seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let time = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = time.and_then(|time| UNIX_EPOCH.checked_add(time));
    time.map(Some)
        .ok_or(Refused::Malformed("a time in the token (exp, nbf) is no number of seconds since 1970"))
}

/// The claim at a path with dots. A name that has dots itself, as `https://example.com/tenant`, is found, too.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    let deeper = |(at, _): (usize, &str)| find(claims.get(&path[..at])?.as_object()?, &path[at + 1..]);
    claims.get(path).or_else(|| path.match_indices('.').find_map(deeper))
}
