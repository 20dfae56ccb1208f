//! JWTs of an issuer whose keys are in a file.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{signer::key_set, *};

/// An issuer with three keys, and a server that takes its tokens.
struct World {
    identities: Identities,
    rsa: Signer,
    p256: Signer,
    ed25519: Signer,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Issuer)) -> Self {
        let (rsa, p256, ed25519) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, key_set(&[rsa.jwk("rsa"), p256.jwk("p256"), ed25519.jwk("ed")])).unwrap();
        let mut issuer = issuer(&path);
        change(&mut issuer);
        let identities = Identities::start(Settings { issuers: vec![issuer], ..Settings::default() });
        Self { identities, rsa, p256, ed25519, path, _folder: folder }
    }

    /// What becomes of the claims, signed well.
    async fn claims(&self, claims: &Value) -> Result<Caller, Refused> {
        bearer(&self.identities, &self.ed25519.token(&json!({"alg": "EdDSA", "kid": "ed"}), claims)).await
    }
}

#[tokio::test]
async fn a_token_of_the_issuer_is_its_subject_by_each_algorithm() {
    let world = World::new();
    let signers = [
        ("RS256", "rsa", &world.rsa),
        ("PS256", "rsa", &world.rsa),
        ("ES256", "p256", &world.p256),
        ("EdDSA", "ed", &world.ed25519),
    ];
    for (algorithm, id, signer) in signers {
        let token = signer.token(&json!({"alg": algorithm, "kid": id, "typ": "JWT"}), &claims());
        let caller = bearer(&world.identities, &token).await.unwrap();
        assert_eq!((caller.tenant.as_str(), caller.subject.as_str()), ("acme", "bob"), "{algorithm}");
        assert_eq!(caller.by, means("https://issuer.example"));
        // Verified before, and so by another path.
        assert_eq!(bearer(&world.identities, &token).await.unwrap(), caller);
        let without_id = signer.token(&json!({"alg": algorithm}), &claims());
        assert_eq!(told(bearer(&world.identities, &without_id).await), who("acme", "bob"), "{algorithm}");
        // One letter of each part changed.
        for at in [token.find('.').unwrap() + 5, token.len() - 5] {
            let mut wrong = token.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let found = bearer(&world.identities, std::str::from_utf8(&wrong).unwrap()).await;
            assert!(
                matches!(found, Err(Refused::Unknown | Refused::Malformed(_) | Refused::WrongIssuer)),
                "{found:?}"
            );
        }
    }
}

#[tokio::test]
async fn claims_are_checked_and_what_is_wrong_is_told() {
    let world = World::new();
    let check = async |change: fn(&mut Value), expected: Result<(String, String), Refused>| {
        let mut claims = claims();
        change(&mut claims);
        assert_eq!(told(world.claims(&claims).await), expected, "{claims}");
    };
    let malformed = |text| Err(Refused::Malformed(text));
    check(|_| {}, who("acme", "bob")).await;
    check(|c| c["exp"] = json!(from_now(-30)), who("acme", "bob")).await;
    check(|c| c["exp"] = json!(from_now(-90)), Err(Refused::Expired)).await;
    check(|c| c["exp"] = json!(1.5), Err(Refused::Expired)).await;
    check(|c| _ = c.as_object_mut().unwrap().remove("exp"), malformed("the token has no expiry (exp)")).await;
    let no_time = "a time in the token (exp, nbf) is no number of seconds since 1970";
    check(|c| c["exp"] = json!("tomorrow"), malformed(no_time)).await;
    check(|c| c["exp"] = json!(-1), malformed(no_time)).await;
    check(|c| c["exp"] = json!(1e300), malformed(no_time)).await;
    check(|c| c["nbf"] = json!(from_now(30)), who("acme", "bob")).await;
    check(|c| c["nbf"] = json!(from_now(120)), Err(Refused::NotYetValid)).await;
    check(|c| c["nbf"] = json!([]), malformed(no_time)).await;
    check(|c| c["aud"] = json!(["other", "copilot"]), who("acme", "bob")).await;
    check(|c| c["aud"] = json!("other"), Err(Refused::WrongAudience)).await;
    check(|c| c["aud"] = json!([]), Err(Refused::WrongAudience)).await;
    check(|c| _ = c.as_object_mut().unwrap().remove("aud"), Err(Refused::WrongAudience)).await;
    check(|c| c["iss"] = json!("https://other.example"), Err(Refused::WrongIssuer)).await;
    check(|c| c["iss"] = json!(["https://issuer.example"]), malformed("the token names no issuer (iss)"))
        .await;
    let no_tenant = "the token names no tenant in the claim that is configured";
    check(|c| c["org"] = json!("acme"), malformed(no_tenant)).await;
    let bad_tenant =
        "the tenant in the token is not 1 to 64 of a-z 0-9 - _ . that begin with a letter or a digit";
    for (odd, expected) in [
        (json!(1), no_tenant),
        (json!(["acme"]), no_tenant),
        (json!("Acme"), bad_tenant),
        (json!("../acme"), bad_tenant),
        (json!("acme\u{0}"), bad_tenant),
        (json!("аcme"), bad_tenant),
        (json!(""), bad_tenant),
    ] {
        let mut claims = claims();
        claims["org"]["name"] = odd;
        assert_eq!(told(world.claims(&claims).await), malformed(expected), "{claims}");
    }
    let bad_subject = "the subject in the token is not 1 to 256 characters without control characters";
    check(|c| c["sub"] = json!("a\nb"), malformed(bad_subject)).await;
    check(|c| c["sub"] = json!(7), malformed("the token names no subject in the claim that is configured"))
        .await;
}

#[tokio::test]
async fn roles_come_from_the_names_that_are_configured_and_others_mean_nothing() {
    let world = World::new();
    for (roles, is_admin) in [
        (json!(["admin", "root", 7]), true),
        (json!("read admin"), true),
        (json!(["operator", "tenant_admin"]), false),
        (json!("administrator"), false),
        (json!({"admin": true}), false),
    ] {
        let mut claims = claims();
        claims["roles"] = roles;
        let caller = world.claims(&claims).await.unwrap();
        assert_eq!(caller.roles.has(Role::TenantAdmin), is_admin, "{claims}");
        assert!(caller.roles.has(Role::User) && !caller.roles.has(Role::Operator));
    }
}

#[tokio::test]
async fn a_claims_name_may_have_dots_itself_and_a_tenant_may_be_fixed() {
    let world = World::with(|issuer| {
        issuer.tenant = TenantFrom::Name(tenant("fixed"));
        issuer.subject_claim = "https://example.com/user.id".into();
    });
    let mut claims = claims();
    claims["https://example.com/user"] = json!({"id": "carol"});
    assert_eq!(told(world.claims(&claims).await), who("fixed", "carol"));
    claims["https://example.com/user.id"] = json!("dave");
    assert_eq!(told(world.claims(&claims).await), who("fixed", "dave"));
}

#[tokio::test]
async fn no_header_lets_a_token_in_that_the_issuer_has_not_signed() {
    let world = World::new();
    let wrong_algorithm =
        Refused::Malformed("the token is signed with an algorithm that is not accepted here");
    let check = async |token: &str, expected: Refused| {
        assert_eq!(bearer(&world.identities, token).await, Err(expected), "{token}");
    };
    // No signature at all.
    for none in ["none", "None", "nOnE", ""] {
        let header = json!({"alg": none, "kid": "rsa"});
        check(&Signer::Hmac(vec![]).token(&header, &claims()), wrong_algorithm).await;
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        check(&format!("{}.{}.", part(&header), part(&claims())), wrong_algorithm).await;
    }
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    check(&format!("{}.{}.", part(&json!({"alg": "EdDSA", "kid": "ed"})), part(&claims())), Refused::Unknown)
        .await;
    // The public key as a secret, in the forms in which it is written.
    let rsa = world.rsa.jwk("rsa");
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
    let pem = include_bytes!("../../../tests/fixtures/identity/rsa.pem").to_vec();
    for secret in [modulus, pem, rsa.to_string().into_bytes(), vec![]] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let token =
                Signer::Hmac(secret.clone()).token(&json!({"alg": algorithm, "kid": "rsa"}), &claims());
            check(&token, wrong_algorithm).await;
        }
        check(
            &Signer::Hmac(secret).token(&json!({"alg": "RS256", "kid": "rsa"}), &claims()),
            Refused::Unknown,
        )
        .await;
    }
    // One key under the algorithm of another one.
    check(&world.p256.token(&json!({"alg": "RS256", "kid": "p256"}), &claims()), Refused::Unknown).await;
    check(&world.p256.token(&json!({"alg": "RS256", "kid": "rsa"}), &claims()), Refused::Unknown).await;
    check(&world.rsa.token(&json!({"alg": "ES256", "kid": "p256"}), &claims()), Refused::Unknown).await;
    check(&world.ed25519.token(&json!({"alg": "ES256", "kid": "ed"}), &claims()), Refused::Unknown).await;
    // Good signatures of RSA, by algorithms that are not configured.
    check(&world.rsa.token(&json!({"alg": "RS512", "kid": "rsa"}), &claims()), wrong_algorithm).await;
    // Keys of the attacker's own, in the header.
    let (own, unknown) = (Signer::ed25519(), Refused::Unknown);
    for (name, value) in [
        ("jwk", own.jwk("ed")),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/cert.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        for id in ["ed", "own", "../../etc/passwd", "' OR 1=1"] {
            let mut header = json!({"alg": "EdDSA", "kid": id});
            header[name] = value.clone();
            check(&own.token(&header, &claims()), unknown).await;
        }
    }
    let critical = json!({"alg": "EdDSA", "kid": "ed", "crit": ["exp"], "exp": 1});
    let extension = Refused::Malformed("the token has an extension (crit) that is not understood here");
    check(&world.ed25519.token(&critical, &claims()), extension).await;
}

#[tokio::test]
async fn what_is_no_token_or_too_long_is_refused_before_any_work() {
    let world = World::new();
    let mut large = claims();
    large["x"] = json!("x".repeat(16 << 10));
    assert!(matches!(world.claims(&large).await, Err(Refused::Malformed(text)) if text.contains("16 KiB")));
    let no_jwt = Err(Refused::Malformed("the bearer token is no JWT"));
    let good = world.ed25519.token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims());
    let parts: Vec<_> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    for bad in [
        format!("{header}.{body}"),
        format!("{good}.{signature}"),
        format!("{header}=.{body}.{signature}"),
        format!("{header}..{signature}"),
        format!("{body}.{body}.{signature}"),
        format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode("[1]")),
        format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode("[".repeat(5000))),
        format!("{}.{body}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","alg":"none"}"#)),
    ] {
        assert_eq!(bearer(&world.identities, &bad).await, no_jwt, "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_by_writing_the_file_and_a_withdrawn_key_lets_nobody_in() {
    let world = World::new();
    let next = Signer::ed25519();
    let old = world.ed25519.token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims());
    let new = next.token(&json!({"alg": "EdDSA", "kid": "next"}), &claims());
    let is_good = async |token: &str| bearer(&world.identities, token).await.is_ok();
    assert!(is_good(&old).await && !is_good(&new).await);
    std::fs::write(&world.path, key_set(&[world.ed25519.jwk("ed"), next.jwk("next")])).unwrap();
    within_five_seconds(async || is_good(&new).await).await;
    assert!(is_good(&old).await);
    std::fs::write(&world.path, "{").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(is_good(&old).await && is_good(&new).await, "a bad file changes nothing");
    std::fs::write(&world.path, key_set(&[next.jwk("next")])).unwrap();
    within_five_seconds(async || !is_good(&old).await).await;
    assert!(is_good(&new).await);
}

/// Tokens that others have made: RFC 7515, appendices A.2 and A.3, and RFC 8037, appendix A.4.
#[test]
fn the_signatures_of_the_standards_are_good() {
    let check = |algorithm: Algorithm, key: Value, token: &str| {
        let keys = KeySet::parse(key_set(&[key]).as_bytes()).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(keys.verifies(algorithm, None, message.as_bytes(), &signature), "{algorithm:?}");
        let other = message.replace('J', "K");
        assert!(!keys.verifies(algorithm, None, other.as_bytes(), &signature), "{algorithm:?}");
    };
    let claims =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    check(
        Algorithm::Es256,
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
        &format!(
            "eyJhbGciOiJFUzI1NiJ9.{claims}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
        ),
    );
    check(
        Algorithm::EdDsa,
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
}
