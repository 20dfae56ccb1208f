//! Each kind of credential: right, wrong, expired, too early, meant for others, confused, rotated, reloaded; and which one counts.

mod jwts;
mod precedence;
mod signer;
mod tokens;
mod unknown;

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use super::*;
use signer::Signer;

/// An address.
const FROM: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

fn tenant(name: &str) -> TenantName {
    TenantName::parse(name).unwrap()
}

/// Tenant and subject, or why not.
fn told(found: Result<Caller, Refused>) -> Result<(String, String), Refused> {
    found.map(|caller| (caller.tenant.to_string(), caller.subject.to_string()))
}

fn who(tenant: &str, subject: &str) -> Result<(String, String), Refused> {
    Ok((tenant.to_owned(), subject.to_owned()))
}

/// A call with a bearer token, from nowhere in particular, so that no failure counts.
async fn bearer(identities: &Identities, token: &str) -> Result<Caller, Refused> {
    let header = format!("Bearer {token}");
    identities.identify(&Presented { authorization: Some(header.as_bytes()), ..Presented::default() }).await
}

/// An issuer whose keys are in a file.
fn issuer(path: &Path) -> Issuer {
    Issuer {
        issuer: "https://issuer.example".into(),
        audiences: vec!["copilot-grpc".into(), "copilot".into()],
        source: Source::File(path.into()),
        algorithms: Algorithm::USUAL.into(),
        skew: Duration::from_secs(60),
        tenant: TenantFrom::Claim("org.name".into()),
        subject_claim: "sub".into(),
        roles_claim: Some("roles".into()),
        roles: [("admin".to_owned(), Role::TenantAdmin)].into(),
    }
}

/// A token file with one token of a tenant.
fn token_file(path: &Path, tenant_name: &str) -> (TokenFile, NewToken) {
    let (tenant, subject) = (tenant(tenant_name), Subject::parse("ann").unwrap());
    let new = new_token(Some("laptop"), &tenant, &subject, Roles::default(), None).unwrap();
    std::fs::write(path, &new.table).unwrap();
    (TokenFile { path: path.into(), tokens: Tokens::parse(&new.table).unwrap() }, new)
}

/// Waits until something is so, for 5 s of the clock of the test at most.
async fn within_five_seconds(mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..50 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is not so after 5 s");
}

/// A claim's number of seconds since 1970, so many from now.
fn from_now(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

/// Claims of a good token.
fn claims() -> serde_json::Value {
    serde_json::json!({
        "iss": "https://issuer.example", "aud": "copilot-grpc", "sub": "bob", "exp": from_now(300), "org": {"name": "acme"},
    })
}

fn names(dns: &str) -> CertificateNames {
    CertificateNames { dns: vec![dns.into()], ..CertificateNames::default() }
}

fn means(issuer: &str) -> Means {
    Means::Jwt { issuer: Arc::from(issuer) }
}
