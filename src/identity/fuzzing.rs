//! What `fuzz/` needs of this room: all that reads bytes of strangers, and whether anybody is let in by them.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use super::{Algorithm, Issuer, KeySet, Source, TenantFrom, Tokens, digest::Digest, forwarded, jwt::Jwt};

/// The key of RFC 8037, appendix A.2, and an issuer whose tokens it would sign.
static ISSUER: LazyLock<(Issuer, KeySet)> = LazyLock::new(|| {
    let keys = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let issuer = Issuer {
        issuer: "i".into(),
        audiences: vec!["a".into()],
        source: Source::File("/keys".into()),
        algorithms: Algorithm::ALL.into(),
        skew: Duration::ZERO,
        tenant: TenantFrom::Claim("t".into()),
        subject_claim: "sub".into(),
        roles_claim: Some("r".into()),
        roles: BTreeMap::new(),
    };
    (issuer, KeySet::parse(keys).expect("the key is one"))
});

/// Reads bytes as each kind of credential. Whether they let somebody in, which they must not.
pub fn lets_in(bytes: &[u8]) -> bool {
    let now = std::time::SystemTime::now();
    let _ = (forwarded::names(bytes), KeySet::parse(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let by_file = Tokens::parse(text).is_ok_and(|tokens| tokens.caller(Digest::of(bytes), now).is_some());
    let (issuer, keys) = &*ISSUER;
    by_file || Jwt::parse(text).is_ok_and(|jwt| issuer.caller(&jwt, keys, now).is_ok())
}
