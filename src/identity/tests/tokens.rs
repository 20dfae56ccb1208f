//! Tokens of the token file.

use super::*;

#[tokio::test]
async fn a_token_of_the_file_is_its_subject_and_any_other_is_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (file, new) = token_file(&folder.path().join("tokens.toml"), "acme");
    let identities = Identities::start(Settings { tokens: Some(file), ..Settings::default() });
    let token = new.token.expose();
    assert!(token.starts_with("cgt_") && token.len() == 47, "{token}");
    let caller = bearer(&identities, token).await.unwrap();
    assert_eq!((caller.tenant.as_str(), caller.subject.as_str()), ("acme", "ann"));
    assert_eq!(caller.by, Means::Token { name: Some("laptop".into()) });
    let hash = digest::Digest::of(token.as_bytes()).to_hex();
    let (cut, longer) = (&token[..46], format!("{token}A"));
    for wrong in [cut, &longer, &token.to_lowercase(), &hash, "cgt_", "a.b", "a.b.c", "..."] {
        let found = bearer(&identities, wrong).await;
        assert!(matches!(found, Err(Refused::Unknown | Refused::Malformed(_))), "{wrong}: {found:?}");
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        &format!("Basic {token}"),
        token,
        &format!("Bearer  {token}"),
        &format!("Bearer {token} "),
    ] {
        let presented = Presented { authorization: Some(header.as_bytes()), ..Presented::default() };
        assert!(matches!(identities.identify(&presented).await, Err(Refused::Malformed(_))), "{header}");
    }
    let lower = format!("bearer {token}");
    let presented = Presented { authorization: Some(lower.as_bytes()), ..Presented::default() };
    assert_eq!(told(identities.identify(&presented).await), who("acme", "ann"));
    let huge = "a".repeat(1 << 20);
    assert_eq!(
        bearer(&identities, &huge).await,
        Err(Refused::Malformed("the authorization header is longer than 16 KiB"))
    );
    assert!(!format!("{identities:?} {new:?} {presented:?}").contains(&token[4..]), "secrets are not shown");
}

#[tokio::test]
async fn a_token_is_good_from_its_beginning_to_its_end() {
    let hash = |token: &str| digest::Digest::of(token.as_bytes()).to_hex();
    let table = |token: &str, more: &str| {
        format!("[[token]]\nsha256 = \"{}\"\ntenant = \"t\"\nsubject = \"s\"\n{more}\n", hash(token))
    };
    let text = [
        table("old", "expires = 2020-01-01T00:00:00Z"),
        table("new", "not_before = \"2999-01-01T00:00:00Z\""),
        table("now", "not_before = 2020-01-01T00:00:00Z\nexpires = \"2999-01-01T00:00:00Z\""),
    ];
    let tokens = Tokens::parse(&text.concat()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, text.concat()).unwrap();
    let identities =
        Identities::start(Settings { tokens: Some(TokenFile { path, tokens }), ..Settings::default() });
    assert_eq!(bearer(&identities, "old").await, Err(Refused::Expired));
    assert_eq!(bearer(&identities, "new").await, Err(Refused::NotYetValid));
    assert_eq!(told(bearer(&identities, "now").await), who("t", "s"));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_rotated_by_writing_the_file_and_a_bad_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let (file, old) = token_file(&path, "acme");
    let identities = Identities::start(Settings { tokens: Some(file), ..Settings::default() });
    let new =
        new_token(None, &tenant("acme"), &Subject::parse("ann").unwrap(), Roles::default(), None).unwrap();
    let is_good = async |token: &NewToken| bearer(&identities, token.token.expose()).await.is_ok();
    assert!(is_good(&old).await && !is_good(&new).await);
    std::fs::write(&path, format!("{}{}", old.table, new.table)).unwrap();
    within_five_seconds(async || is_good(&new).await).await;
    assert!(is_good(&old).await, "both are good for a while");
    for bad in ["[[token]]\ntenant = 1", "\u{0}", "[token]"] {
        std::fs::write(&path, bad).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(is_good(&old).await && is_good(&new).await);
    }
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(is_good(&old).await && is_good(&new).await, "a file that is gone is a mistake, too");
    std::fs::write(&path, &new.table).unwrap();
    within_five_seconds(async || !is_good(&old).await).await;
    assert!(is_good(&new).await);
    std::fs::write(&path, "").unwrap();
    within_five_seconds(async || !is_good(&new).await).await;
}

#[test]
fn all_mistakes_of_a_token_file_are_told_at_once_and_none_shows_a_value() {
    let hash = "0".repeat(64);
    let text = format!(
        r#"
        tokens = 1
        [[token]]
        sha256 = "cgt_hunter2hunter2"
        tenant = "Acme"
        subject = ""
        roles = ["root"]
        expires = "tomorrow"
        secret = "hunter2"
        [[token]]
        sha256 = "{hash}"
        tenant = 1
        subject = "s"
        name = ""
        roles = "user"
        not_before = 2027-01-01T00:00:00Z
        expires = 2026-01-01T00:00:00Z
        [[token]]
        [[token]]
        sha256 = "{hash}"
        tenant = "t"
        subject = "s"
        [[token]]
        sha256 = "{hash}"
        tenant = "t"
        subject = "s"
        "#
    );
    let mistakes = Tokens::parse(&text).unwrap_err();
    let keys: Vec<_> = mistakes.iter().map(|(key, _)| key.as_str()).collect();
    let expected = [
        "tokens",
        "token[0].sha256",
        "token[0].tenant",
        "token[0].subject",
        "token[0].roles",
        "token[0].expires",
        "token[0].secret",
        "token[1].name",
        "token[1].tenant",
        "token[1].roles",
        "token[1].expires",
        "token[2].sha256",
        "token[2].tenant",
        "token[2].subject",
        "token[4].sha256",
    ];
    assert_eq!(keys, expected);
    assert!(!format!("{mistakes:?}").contains("hunter2"));
    let not_toml = Tokens::parse("a = 1\nsha256 = hunter2").unwrap_err();
    assert_eq!(not_toml, [("token".to_owned(), "the file is not TOML: see line 2".to_owned())]);
}

#[test]
fn a_new_token_is_another_one_each_time_and_its_table_can_be_read() {
    let subject = Subject::parse("a \"quoted\" \\ name").unwrap();
    let roles = [Role::Operator].into_iter().collect();
    let expires = Some(std::time::SystemTime::now() + Duration::from_secs(60));
    let make = || new_token(Some("ci"), &tenant("t"), &subject, roles, expires).unwrap();
    let (one, other) = (make(), make());
    assert_ne!(one.token.expose(), other.token.expose());
    let tokens = Tokens::parse(&one.table).unwrap();
    let digest = digest::Digest::of(one.token.expose().as_bytes());
    let caller = tokens.caller(digest, std::time::SystemTime::now()).unwrap().unwrap();
    assert_eq!((caller.subject, caller.roles), (subject, roles));
}
