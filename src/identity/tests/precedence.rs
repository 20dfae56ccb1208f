//! Which of several credentials counts, and who is slowed.

use super::*;

/// A server that knows all ways but JWTs: a token of `acme`, certificates of `acme` and `other`, a proxy, a user.
struct World {
    identities: Identities,
    token: String,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = token_file(&folder.path().join("tokens.toml"), "acme");
        let rule = |name: &str, of: &str| Rule {
            name: name.parse().unwrap(),
            tenant: tenant(of),
            subject: Some(Subject::parse("ann").unwrap()),
            roles: Roles::default(),
        };
        let identities = Identities::start(Settings {
            tokens: Some(file),
            certificates: vec![
                rule("*.acme.example", "acme"),
                rule("*.other.example", "other"),
                rule("proxy.example.com", "other"),
            ],
            trusted_proxies: vec!["proxy.example.com".parse().unwrap()],
            users: vec![User {
                uid: 1000,
                tenant: tenant("acme"),
                subject: Subject::parse("ann").unwrap(),
                roles: Roles::default(),
            }],
            ..Settings::default()
        });
        Self { identities, token: format!("Bearer {}", new.token.expose()), _folder: folder }
    }
}

const NOT_HERE: Refused = Refused::Malformed("identity headers may not be set on this connection");

#[tokio::test]
async fn exactly_one_credential_counts() {
    let world = World::new();
    let (acme, other, proxy, stranger) =
        (names("a.acme.example"), names("a.other.example"), names("proxy.example.com"), names("a.b.example"));
    let check = async |presented: Presented<'_>, expected: Result<(String, String), Refused>| {
        assert_eq!(told(world.identities.identify(&presented).await), expected, "{presented:?}");
    };
    let nothing = Presented::default();
    let token = Some(world.token.as_bytes());
    let wrong: Option<&[u8]> = Some(b"Bearer wrong");
    let xfcc: Option<&[u8]> = Some(b"DNS=a.acme.example");
    let ann = || who("acme", "ann");
    check(nothing, Err(Refused::NoCredentials)).await;
    check(Presented { authorization: token, ..nothing }, ann()).await;
    check(Presented { certificate: Some(&acme), ..nothing }, ann()).await;
    check(Presented { certificate: Some(&stranger), ..nothing }, Err(Refused::Unknown)).await;
    check(Presented { uid: Some(1000), ..nothing }, ann()).await;
    check(Presented { uid: Some(0), ..nothing }, Err(Refused::Unknown)).await;
    // The token decides.
    check(Presented { authorization: wrong, certificate: Some(&acme), ..nothing }, Err(Refused::Unknown))
        .await;
    check(Presented { authorization: wrong, uid: Some(1000), ..nothing }, Err(Refused::Unknown)).await;
    check(Presented { authorization: token, certificate: Some(&stranger), ..nothing }, ann()).await;
    check(Presented { authorization: token, certificate: Some(&acme), ..nothing }, ann()).await;
    check(Presented { authorization: token, certificate: Some(&other), ..nothing }, Err(Refused::TwoTenants))
        .await;
    // A proxy tells of others, and is nobody itself.
    check(Presented { certificate: Some(&proxy), forwarded_client_cert: xfcc, ..nothing }, ann()).await;
    check(Presented { certificate: Some(&proxy), ..nothing }, Err(Refused::NoCredentials)).await;
    check(Presented { certificate: Some(&proxy), authorization: token, ..nothing }, ann()).await;
    let of_other: Option<&[u8]> = Some(b"DNS=a.acme.example,DNS=a.other.example");
    check(
        Presented { certificate: Some(&proxy), forwarded_client_cert: of_other, ..nothing },
        who("other", "ann"),
    )
    .await;
    check(
        Presented {
            certificate: Some(&proxy),
            forwarded_client_cert: of_other,
            authorization: token,
            ..nothing
        },
        Err(Refused::TwoTenants),
    )
    .await;
    let of_stranger: Option<&[u8]> = Some(b"DNS=a.b.example");
    check(
        Presented { certificate: Some(&proxy), forwarded_client_cert: of_stranger, ..nothing },
        Err(Refused::Unknown),
    )
    .await;
    // Nobody else may set the header, whatever else is good.
    check(Presented { forwarded_client_cert: xfcc, ..nothing }, Err(NOT_HERE)).await;
    check(Presented { certificate: Some(&acme), forwarded_client_cert: xfcc, ..nothing }, Err(NOT_HERE))
        .await;
    check(Presented { authorization: token, forwarded_client_cert: xfcc, ..nothing }, Err(NOT_HERE)).await;
    check(Presented { uid: Some(1000), forwarded_client_cert: xfcc, ..nothing }, Err(NOT_HERE)).await;
}

#[tokio::test]
async fn one_user_is_one_caller_by_each_way() {
    let world = World::new();
    let (certificate, proxy) = (names("a.acme.example"), names("proxy.example.com"));
    let nothing = Presented::default();
    let ways = [
        Presented { authorization: Some(world.token.as_bytes()), ..nothing },
        Presented { certificate: Some(&certificate), ..nothing },
        Presented {
            certificate: Some(&proxy),
            forwarded_client_cert: Some(b"DNS=a.acme.example"),
            ..nothing
        },
        Presented { uid: Some(1000), ..nothing },
    ];
    let mut means = Vec::new();
    for way in ways {
        let caller = world.identities.identify(&way).await.unwrap();
        assert_eq!(
            (caller.tenant, caller.subject, caller.roles),
            (tenant("acme"), Subject::parse("ann").unwrap(), Roles::default())
        );
        means.push(caller.by);
    }
    means.dedup();
    assert_eq!(means.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_guesses_waits_and_those_who_know_do_not() {
    let world = World::new();
    let elsewhere = Some("192.0.2.2".parse().unwrap());
    let call = async |authorization: &[u8], from| {
        let presented = Presented { authorization: Some(authorization), from, ..Presented::default() };
        world.identities.identify(&presented).await.map(|_| ())
    };
    for _ in 0..10 {
        assert_eq!(call(b"Bearer wrong", FROM).await, Err(Refused::Unknown));
    }
    let second = Duration::from_secs(1);
    let too_many = Err(Refused::TooManyFailures { retry_after: second });
    assert_eq!(call(b"Bearer wrong", FROM).await, too_many);
    assert_eq!(call(b"Bearer eyJhbGciOiJub25lIn0.e30.", FROM).await, too_many);
    assert_eq!(call(b"Basic wrong", FROM).await, too_many);
    assert_eq!(call(world.token.as_bytes(), FROM).await, Ok(()), "a good token at the same address");
    assert_eq!(call(b"Bearer wrong", elsewhere).await, Err(Refused::Unknown), "another address");
    let nothing = Presented { from: FROM, ..Presented::default() };
    assert_eq!(world.identities.identify(&nothing).await, Err(Refused::NoCredentials));
    tokio::time::advance(second).await;
    assert_eq!(call(b"Bearer wrong", FROM).await, Err(Refused::Unknown));
    assert_eq!(call(b"Bearer wrong", FROM).await, Err(Refused::TooManyFailures { retry_after: 2 * second }));
}
