//! When keys are fetched, and what becomes of it when they cannot be; and what an issuer's server may answer.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::{advance, sleep},
};

use super::*;
use crate::{identity::algorithm::Algorithm::EdDsa, lock::lock};

/// A source that a test plays.
#[derive(Clone, Default)]
struct Played {
    answers: Arc<Mutex<VecDeque<Result<Bytes, String>>>>,
    fetches: Arc<AtomicUsize>,
    takes: Duration,
}

impl Fetch for Played {
    fn pauses(&self) -> (Duration, Duration) {
        (INTERVAL, PAUSE)
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        self.fetches.fetch_add(1, SeqCst);
        sleep(self.takes).await;
        lock(&self.answers).pop_front().unwrap_or_else(|| Err("it is down".into()))
    }
}

impl Played {
    fn answers(self, answer: Result<Bytes, String>) -> Self {
        lock(&self.answers).push_back(answer);
        self
    }

    fn start(&self) -> (Jwks, JoinHandle<()>) {
        let (jwks, work) = Jwks::new(self.clone(), "issuer".into());
        (jwks, tokio::spawn(work))
    }

    fn count(&self) -> usize {
        self.fetches.load(SeqCst)
    }
}

fn key_set(ids: &[&str]) -> Bytes {
    let key = |id: &&str| json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    json!({"keys": ids.iter().map(key).collect::<Vec<_>>()}).to_string().into()
}

async fn find(jwks: &Jwks, id: &str) -> Result<(), Refused> {
    jwks.with(|keys| keys.has(EdDsa, Some(id))).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_id_is_looked_for_at_most_once_in_thirty_seconds() {
    let source = Played::default().answers(Ok(key_set(&["a"]))).answers(Ok(key_set(&["a", "b"])));
    let (jwks, _task) = source.start();
    assert_eq!(find(&jwks, "a").await, Ok(()));
    for _ in 0..100 {
        assert_eq!(find(&jwks, "b").await, Err(Refused::Unknown), "it was fetched a moment ago");
    }
    assert_eq!(source.count(), 1);
    advance(PAUSE).await;
    assert_eq!(find(&jwks, "b").await, Ok(()));
    for _ in 0..100 {
        assert_eq!(find(&jwks, "c").await, Err(Refused::Unknown));
    }
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_who_need_a_fetch_wait_for_one_and_none_takes_it_along() {
    let source = Played { takes: Duration::from_secs(3), ..Played::default() }.answers(Ok(key_set(&["a"])));
    let (jwks, _task) = source.start();
    // This one leaves.
    assert!(tokio::time::timeout(Duration::from_secs(1), find(&jwks, "a")).await.is_err());
    let all = (0..50).map(|_| find(&jwks, "a"));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_fetched_again_stays_for_a_day() {
    let source = Played::default().answers(Ok(key_set(&["a"])));
    let (jwks, _task) = source.start();
    assert_eq!(find(&jwks, "a").await, Ok(()));
    sleep(LONGEST_USE - PAUSE).await;
    assert_eq!(find(&jwks, "a").await, Ok(()));
    assert_eq!(find(&jwks, "b").await, Err(Refused::Unknown));
    sleep(2 * PAUSE).await;
    assert_eq!(find(&jwks, "a").await, Err(Refused::Unavailable));
    assert!(jwks.now().is_none());
    let _ = source.clone().answers(Ok(key_set(&["b"])));
    sleep(PAUSE + Duration::from_secs(1)).await;
    assert_eq!(find(&jwks, "b").await, Ok(()));
    assert_eq!(find(&jwks, "a").await, Err(Refused::Unknown), "it was withdrawn meanwhile");
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_every_ten_minutes_and_bad_sets_change_nothing() {
    let source = Played::default()
        .answers(Ok(key_set(&["a"])))
        .answers(Ok("<html>".into()))
        .answers(Ok(key_set(&["b"])));
    let (jwks, _task) = source.start();
    assert_eq!(find(&jwks, "a").await, Ok(()));
    sleep(INTERVAL + Duration::from_secs(1)).await;
    assert_eq!(source.count(), 2);
    assert_eq!(find(&jwks, "a").await, Ok(()), "what came is no key set");
    sleep(PAUSE).await;
    assert_eq!(find(&jwks, "b").await, Ok(()));
    assert_eq!(find(&jwks, "a").await, Err(Refused::Unknown));
}

#[tokio::test(start_paused = true)]
async fn without_keys_nobody_waits_twice() {
    let source = Played::default();
    let (jwks, _task) = source.start();
    assert_eq!(find(&jwks, "a").await, Err(Refused::Unavailable));
    assert_eq!(find(&jwks, "a").await, Err(Refused::Unavailable));
    assert_eq!(source.count(), 1);
}

/// A server that gives each connection the same bytes, and what it is fetched as.
async fn served(answer: Vec<u8>, url: impl FnOnce(u16) -> String) -> Result<Bytes, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let count = stream.read(&mut request).await.unwrap();
        assert!(request[..count].starts_with(b"GET /keys?a=b HTTP/1.1\r\nhost: "));
        if answer.is_empty() {
            // Slow: it never answers, and never closes.
            std::future::pending::<()>().await;
        }
        // Whoever has enough may have left.
        let _ = stream.write_all(&answer).await;
    });
    let fetcher = Fetcher::new(url(port).parse().unwrap(), None).unwrap();
    let fetched = fetcher.fetch(MAX_SET).await;
    server.abort();
    fetched
}

fn here(port: u16) -> String {
    format!("http://127.0.0.1:{port}/keys?a=b")
}

#[tokio::test]
async fn a_server_is_believed_only_if_it_answers_well() {
    let with = |head: &str, body: &[u8]| [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat();
    let check =
        async |answer: Vec<u8>, expected: Result<&str, &str>| match (served(answer, here).await, expected) {
            (Ok(body), Ok(expected)) => assert_eq!(body, expected.as_bytes()),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        };
    check(with("200 OK", b"{}"), Ok("{}")).await;
    check(with("404 Not Found", b"{}"), Err("404")).await;
    check(with("302 Found\r\nlocation: http://127.0.0.1:1/", b""), Err("redirects are not followed")).await;
    check(with("200 OK", &vec![b' '; MAX_SET + 1]), Err("longer than 256 KiB")).await;
    check(b"nonsense\r\n\r\n".to_vec(), Err("does not answer in HTTP")).await;
    let gone = Fetcher::new("http://127.0.0.1:1/".parse().unwrap(), None).unwrap();
    assert!(gone.fetch(MAX_SET).await.unwrap_err().contains("cannot be reached"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up_after_five_seconds() {
    assert_eq!(served(Vec::new(), here).await, Err("it took longer than 5s".into()));
}

#[tokio::test]
async fn a_private_authority_is_believed_where_it_is_configured() {
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            crypto::ring::default_provider,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        },
    };
    let chain = CertificateDer::from_pem_slice(include_bytes!("../../../tests/fixtures/identity/server.pem"))
        .unwrap();
    let key =
        PrivateKeyDer::from_pem_slice(include_bytes!("../../../tests/fixtures/identity/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").await;
            let _ = stream.shutdown().await;
        }
    });
    let url: Endpoint = format!("https://localhost:{port}/").parse().unwrap();
    let authority = Authorities::parse(include_bytes!("../../../tests/fixtures/identity/ca.pem")).unwrap();
    let known = Fetcher::new(url.clone(), Some(authority)).unwrap().fetch(MAX_SET).await;
    assert_eq!(known, Ok(Bytes::from("{}")));
    let unknown = Fetcher::new(url, None).unwrap().fetch(MAX_SET).await;
    assert!(unknown.unwrap_err().contains("cannot be reached"));
    server.abort();
}

#[test]
fn keys_are_fetched_over_https_or_from_this_machine() {
    for good in [
        "https://a.example/keys",
        "https://10.0.0.1:8443/",
        "http://localhost:1/x",
        "http://127.0.0.2/",
        "http://[::1]:80/",
    ] {
        assert!(good.parse::<Endpoint>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "/keys",
        "http://a.example/",
        "http://10.0.0.1/",
        "ftp://localhost/",
        "https://u:p@a/",
        "https://",
        "http://localhost.evil/",
    ] {
        assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
    }
}
