//! Decides who calls: exactly one of the ways counts.
//!
//! The `authorization` header, if there is one, decides: a wrong token is refused, however good the certificate is. Else a trusted
//! proxy's word counts, else the client's certificate, else the user of the Unix socket. A token and a certificate of different
//! tenants are refused: one of them is not where it belongs.
//!
//! Who has failed too often waits. Meanwhile only credentials are looked at that are known to be good, or cost nothing to look at:
//! tokens of the file, JWTs that were verified before, certificates. So one wrong client does not lock out the others at its
//! address, and nobody can try more than the limit allows.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    caller::{Caller, Means},
    certificates,
    digest::Digest,
    failures::{Failures, Peer},
    forwarded,
    jwks::{Jwks, Opened},
    jwt::{Issuer, Jwt, MAX_TOKEN, WRONG_ALGORITHM},
    presented::{CertificateNames, Presented},
    refused::Refused,
    settings::Settings,
    tokens::{self, Tokens},
    unix,
};
use crate::lock::lock;

/// Who callers are, by all ways that are configured. Its tasks, which look at files and fetch keys, end when it is dropped.
pub struct Identities {
    settings: Settings,
    tokens: Arc<Mutex<Tokens>>,
    /// The keys of the issuers, in the order of the settings.
    keys: Vec<Jwks>,
    failures: Mutex<Failures>,
    _tasks: JoinSet<()>,
}

impl Identities {
    /// Begins to look after files and keys. Nothing is waited for: the first JWT waits for its issuer's keys.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(settings: Settings) -> Self {
        let mut tasks = JoinSet::new();
        let tokens = Arc::new(Mutex::new(Tokens::default()));
        if let Some(file) = &settings.tokens {
            *lock(&tokens) = file.tokens.clone();
            tasks.spawn(tokens::follow(file.path.clone(), tokens.clone()));
        }
        let keys = settings.issuers.iter().map(|issuer| {
            let (keys, work) = Jwks::new(Opened::from(issuer.source.clone()), issuer.issuer.clone());
            tasks.spawn(work);
            keys
        });
        let keys = keys.collect();
        Self { settings, tokens, keys, failures: Mutex::default(), _tasks: tasks }
    }

    /// Who calls, by what the call brings.
    ///
    /// It waits only for the keys of a JWT's issuer, while they are fetched, for 5 s at most.
    ///
    /// # Errors
    /// [`Refused`] says what is wrong, and has nothing of the credentials in it. A failure counts against the peer.
    ///
    /// # Cancel safety
    /// Dropping it counts nothing.
    pub async fn identify(&self, presented: &Presented<'_>) -> Result<Caller, Refused> {
        self.identify_at(presented, SystemTime::now()).await
    }

    pub(super) async fn identify_at(
        &self,
        presented: &Presented<'_>,
        now: SystemTime,
    ) -> Result<Caller, Refused> {
        let peer = Peer::of(presented.from, presented.uid);
        let waits = || peer.and_then(|peer| lock(&self.failures).wait(peer, Instant::now()));
        let wait = waits();
        let found = self.find(presented, now, wait.is_some()).await;
        match (found, peer) {
            (Err(refused), Some(peer)) if refused.is_failure() => {
                if let Some(retry_after) = wait {
                    return Err(Refused::TooManyFailures { retry_after });
                }
                lock(&self.failures).add(peer, Instant::now());
                Err(refused)
            }
            (found, _) => found,
        }
    }

    async fn find(
        &self,
        presented: &Presented<'_>,
        now: SystemTime,
        has_to_wait: bool,
    ) -> Result<Caller, Refused> {
        // Both are looked at also beside a token: they may contradict it.
        let certified = self.certified(presented)?;
        let Some(authorization) = presented.authorization else {
            return match (certified, presented.uid) {
                (Some(found), _) => found,
                (None, Some(uid)) => unix::caller(&self.settings.users, uid),
                (None, None) => Err(Refused::NoCredentials),
            };
        };
        let caller = self.bearer(authorization, now, has_to_wait).await?;
        match certified {
            Some(Ok(other)) if other.tenant != caller.tenant => Err(Refused::TwoTenants),
            _ => Ok(caller),
        }
    }

    /// Who the certificate is, the client's own or the one that a proxy tells; `None` if there is none.
    ///
    /// A proxy's own certificate is nobody's: otherwise all clients without one would be the proxy.
    fn certified(&self, presented: &Presented<'_>) -> Result<Option<Result<Caller, Refused>>, Refused> {
        let rules = &self.settings.certificates;
        let is_proxy = |names: &&CertificateNames| {
            self.settings.trusted_proxies.iter().any(|proxy| proxy.find(names).is_some())
        };
        let proxy = presented.certificate.filter(is_proxy);
        match (presented.forwarded_client_cert, proxy, presented.certificate) {
            (Some(_), None, _) => {
                Err(Refused::Malformed("identity headers may not be set on this connection"))
            }
            (Some(header), Some(_), _) => {
                let names = forwarded::names(header)?;
                Ok(Some(certificates::caller(rules, &names, Means::ForwardedCertificate)))
            }
            (None, Some(_), _) | (None, None, None) => Ok(None),
            (None, None, Some(names)) => Ok(Some(certificates::caller(rules, names, Means::Certificate))),
        }
    }

    async fn bearer(&self, header: &[u8], now: SystemTime, has_to_wait: bool) -> Result<Caller, Refused> {
        let token = token(header)?;
        let digest = Digest::of(token.as_bytes());
        if let Some(found) = lock(&self.tokens).caller(digest, now) {
            return found;
        }
        if let Some(caller) = self.keys.iter().find_map(|keys| keys.now()?.known(digest, now)) {
            return Ok(caller);
        }
        if has_to_wait || !token.contains('.') {
            return Err(Refused::Unknown);
        }
        let jwt = Jwt::parse(token)?;
        let (issuer, keys) = self.issuer(&jwt)?;
        if !issuer.algorithms.contains(&jwt.algorithm) {
            return Err(WRONG_ALGORITHM);
        }
        let keys = keys.with(|keys| keys.has(jwt.algorithm, jwt.key_id.as_deref())).await?;
        let (caller, until) = issuer.caller(&jwt, &keys, now)?;
        keys.remember(digest, until, caller.clone(), now);
        Ok(caller)
    }

    fn issuer(&self, jwt: &Jwt<'_>) -> Result<(&Issuer, &Jwks), Refused> {
        let mut issuers = self.settings.issuers.iter().zip(&self.keys);
        let name = jwt.issuer().ok_or(Refused::Malformed("the token names no issuer (iss)"))?;
        issuers.find(|(issuer, _)| *issuer.issuer == *name).ok_or(Refused::WrongIssuer)
    }
}

/// The token in the value of an `authorization` header.
fn token(header: &[u8]) -> Result<&str, Refused> {
    const FORM: Refused = Refused::Malformed("write the authorization header as `Bearer TOKEN`");
    const SCHEME: usize = "Bearer ".len();
    if header.len() > SCHEME + MAX_TOKEN {
        return Err(Refused::Malformed("the authorization header is longer than 16 KiB"));
    }
    let text = std::str::from_utf8(header).map_err(|_| FORM)?;
    let (scheme, token) = text.split_at_checked(SCHEME).ok_or(FORM)?;
    // RFC 6750, section 2.1: b64token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let is_good = scheme.eq_ignore_ascii_case("Bearer ") && !token.is_empty() && token.bytes().all(is_token);
    if is_good { Ok(token) } else { Err(FORM) }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("settings", &self.settings).finish_non_exhaustive()
    }
}
