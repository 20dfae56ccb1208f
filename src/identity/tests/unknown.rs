//! Bytes that nobody gave let nobody in, and make nothing panic.

use proptest::{collection::vec, option, prelude::*};

use super::{signer::key_set, *};

/// Bytes that are like credentials, and others.
fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    let like = prop_oneof![
        vec(any::<u8>(), 0..200),
        "(Bearer )?[A-Za-z0-9_.=-]{0,80}".prop_map(String::into_bytes),
        "Bearer eyJhbGciOiJFZERTQSJ9\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}"
            .prop_map(String::into_bytes),
        r#"((URI|DNS|Hash|Subject|By)="?[a-z:/.*]{0,20}"?[;,]?){0,4}"#.prop_map(String::into_bytes),
    ];
    option::of(like)
}

/// What the fuzzer begins with.
#[test]
fn the_seeds_of_the_fuzzer_let_nobody_in() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/identity");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
    assert_eq!(seeds.len(), 5);
    assert!(!seeds.iter().any(|seed| fuzzing::lets_in(&std::fs::read(seed).unwrap())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_of_strangers_let_anybody_in(
        all in vec((bytes(), bytes(), option::of(any::<String>()), option::of(1..u32::MAX)), 1..20),
        has_proxy in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, key_set(&[Signer::ed25519().jwk("ed")])).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (file, _) = token_file(&folder.path().join("tokens.toml"), "acme");
            let rule = Rule { name: "a.acme.example".parse().unwrap(), tenant: tenant("acme"), subject: None, roles: Roles::default() };
            let identities = Identities::start(Settings {
                tokens: Some(file),
                issuers: vec![issuer(&path)],
                certificates: vec![rule],
                trusted_proxies: vec!["proxy.example.com".parse().unwrap()],
                users: vec![User { uid: 0, tenant: tenant("acme"), subject: Subject::parse("root").unwrap(), roles: Roles::default() }],
            });
            for (authorization, forwarded, name, uid) in &all {
                let (proxy, own) = (names("proxy.example.com"), name.as_deref().map(names));
                let presented = Presented {
                    authorization: authorization.as_deref(),
                    forwarded_client_cert: forwarded.as_deref(),
                    certificate: if has_proxy { Some(&proxy) } else { own.as_ref() },
                    uid: *uid,
                    from: FROM,
                };
                assert!(identities.identify(&presented).await.is_err(), "{presented:?}");
            }
        });
    }
}
