//! Stores that do not open, and what is said then.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use tokio::{net::TcpListener, time::Instant};

use super::{super::*, *};

/// Runs SQL beside the store.
async fn run(place: &Place, sql: &str) {
    match &place.location {
        Location::Sqlite(path) => {
            let url = format!("sqlite://{}", path.display());
            SqliteConnection::connect(&url).await.unwrap().execute(sql).await.unwrap();
        }
        Location::Postgres { url, .. } => {
            PgConnection::connect(url.expose()).await.unwrap().execute(sql).await.unwrap();
        }
    }
}

fn path_of(place: &Place) -> PathBuf {
    match &place.location {
        Location::Sqlite(path) => path.clone(),
        Location::Postgres { .. } => panic!("it has no path"),
    }
}

on_both! {
    a_newer_store_is_refused
    another_programs_database_is_refused
}

async fn a_newer_store_is_refused(place: Place) {
    place.open().await.close().await;
    run(
        &place,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (7, 'new', true, '', 0)",
    )
    .await;
    assert_eq!(place.refusal().await, OpenError::Newer { found: 7, known: 1 });
}

async fn another_programs_database_is_refused(place: Place) {
    if let Location::Sqlite(path) = &place.location {
        fs::File::create(path).unwrap();
    }
    run(&place, "CREATE TABLE sessions (theirs text)").await;
    let error = place.refusal().await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_is_for_one_server_at_a_time() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    let error = place.refusal().await;
    assert!(matches!(&error, OpenError::InUse { problem } if problem.contains("store.db")), "{error:?}");
    make(&store, "s").await;
    store.close().await;
    assert_eq!(place.open().await.count("t").await, Ok(1));
}

#[tokio::test]
async fn a_file_is_its_owners_alone() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    make(&store, "s").await;
    for suffix in ["", "-wal", ".lock"] {
        let path = format!("{}{suffix}", path_of(&place).display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
}

/// A file of some size, closed in good order.
async fn filled(place: &Place) {
    let store = place.open().await;
    for n in 0..50 {
        let facts = Facts { settings: "x".repeat(2_000), ..Facts::default() };
        store.create("t", &n.to_string(), &facts, Time(n)).await.unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_stays_as_it_is() {
    let cut = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2 / 4096 * 4096).unwrap();
    };
    let cut_within_a_page = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
    };
    let garbage = |path: &Path| fs::write(path, "this is no database at all").unwrap();
    let short = |path: &Path| fs::write(path, "SQLite").unwrap();
    let beginning_alone = |path: &Path| fs::write(path, b"SQLite format 3\0").unwrap();
    let holes = |path: &Path| {
        let mut content = fs::read(path).unwrap();
        let middle = content.len() / 2 / 4096 * 4096;
        content[middle..middle + 3 * 4096].fill(0xa5);
        fs::write(path, content).unwrap();
    };
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage<'_>); 6] = [
        ("cut", &cut),
        ("cut within a page", &cut_within_a_page),
        ("garbage", &garbage),
        ("short", &short),
        ("its beginning alone", &beginning_alone),
        ("holes", &holes),
    ];
    for (name, damage) in damages {
        let place = Place::sqlite().await;
        filled(&place).await;
        let path = path_of(&place);
        damage(&path);
        let before = fs::read(&path).unwrap();
        let Err(error) = Store::open(place.config("node")).await else { panic!("{name}: it opens") };
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error:?}");
        assert!(fs::read(&path).unwrap() == before, "{name}: it was written to");
        // The lock is free again: the error is the same.
        assert_eq!(place.refusal().await, error);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: PathBuf| Place { location: Location::Sqlite(path), _folder: None };
    let error = at(folder.path().join("nowhere/store.db")).refusal().await;
    assert!(matches!(error, OpenError::Failed { .. }), "{error:?}");
    fs::create_dir(folder.path().join("store.db")).unwrap();
    let error = at(folder.path().join("store.db")).refusal().await;
    assert!(matches!(error, OpenError::Failed { .. }), "{error:?}");
    // Root may write everywhere but there.
    let error = at("/proc/store.db".into()).refusal().await;
    assert!(matches!(error, OpenError::Failed { .. } | OpenError::ReadOnly { .. }), "{error:?}");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
    let error = Store::open(at(folder.path().join("other.db")).config("node")).await.err();
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || matches!(error, Some(OpenError::ReadOnly { .. })), "{error:?}");
}

#[tokio::test]
async fn a_file_that_a_killed_server_left_is_opened_with_all_that_was_written() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    make(&store, "s").await;
    // Copied while it is open, it is as a killed server leaves it: with its log.
    let copy = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("{}{suffix}", path_of(&place).display());
        fs::copy(&name, copy.path().join(format!("store.db{suffix}"))).unwrap();
    }
    let copy = Place { location: Location::Sqlite(copy.path().join("store.db")), _folder: Some(copy) };
    assert_eq!(copy.open().await.count("t").await, Ok(1));
    // What was cut in the log is lost, and what came before it is not.
    store.close().await;
    let store = place.open().await;
    make(&store, "later").await;
    let log = format!("{}-wal", path_of(&place).display());
    let copy = tempfile::tempdir().unwrap();
    fs::copy(path_of(&place), copy.path().join("store.db")).unwrap();
    let mut cut = fs::read(log).unwrap();
    cut.truncate(cut.len() - 100);
    fs::File::create(copy.path().join("store.db-wal")).unwrap().write_all(&cut).unwrap();
    let copy = Place { location: Location::Sqlite(copy.path().join("store.db")), _folder: Some(copy) };
    assert_eq!(copy.open().await.count("t").await, Ok(1));
}

#[tokio::test]
async fn a_wrong_url_is_refused() {
    for url in [
        "",
        "sqlite://x",
        "mysql://u:hunter22@h/d",
        "postgres://u:hunter22@h:99999/d",
        "postgres://u:hunter22@[::/d",
        "postgres://u:hunter22@h/d?sslmode=sometimes",
        "postgres://u@h/d?sslmod=require",
        "postgres://u@h/d?sslmode=disable&passwort=hunter22",
        "postgres://u@h/d?hunter22",
        "hunter22",
    ] {
        let error = Place::at(url).refusal().await;
        assert!(matches!(error, OpenError::BadUrl { .. }), "{url}: {error:?}");
        assert!(!error.to_string().contains("hunter22"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:hunter22@{}/d", listener.local_addr().unwrap());
    drop(listener);
    let started = Instant::now();
    let error = Place::at(&url).refusal().await;
    assert!(matches!(&error, OpenError::Unreachable { problem } if problem.contains("refused")), "{error:?}");
    assert!(started.elapsed() < LIMIT / 2);
    assert!(!error.to_string().contains("hunter22"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::at(&format!("postgres://u@{}/d", listener.local_addr().unwrap()));
    let config = Config { time_limit: Duration::from_millis(200), ..place.config("node") };
    let error = Store::open(config).await.unwrap_err();
    // Opening is given more time than a call.
    let expected = OpenError::Unreachable { problem: "it did not answer within 5s".into() };
    assert_eq!(error, expected);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_otherwise_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::at(&format!("postgres://u@{}/d?sslmode=disable", listener.local_addr().unwrap()));
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let config = Config { time_limit: Duration::from_millis(200), ..place.config("node") };
    let (opened, _stream) = tokio::join!(Store::open(config), answer);
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let url = test_postgres::shared().guarded_database().await;
    let open = |password: Option<&str>| {
        let location = Location::Postgres { url: Secret::new(&*url), password: password.map(Secret::new) };
        Store::open(Place { location, _folder: None }.config("node"))
    };
    for password in [None, Some("hunter22")] {
        let error = open(password).await.unwrap_err();
        assert!(matches!(error, OpenError::Refused { .. }), "{error:?}");
        assert!(!error.to_string().contains("hunter22"));
    }
    open(Some(test_postgres::Postgres::PASSWORD)).await.unwrap();
    let url = url.replace("guarded@", &format!("guarded:{}@", test_postgres::Postgres::PASSWORD));
    assert_eq!(Place::at(&url).open().await.count("t").await, Ok(0));
}

#[tokio::test]
async fn a_database_that_is_missing_is_told() {
    let place = Place::at(&test_postgres::shared().url("postgres", "no_such_database"));
    let error = place.refusal().await;
    assert!(matches!(error, OpenError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_database_that_may_not_be_written_to_is_told() {
    let place = Place::postgres().await;
    place.open().await.close().await;
    let Location::Postgres { url, .. } = &place.location else { panic!() };
    let url = format!("{}&options=-c%20default_transaction_read_only%3Don", url.expose());
    let error = Place::at(&url).refusal().await;
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
    // One whose user may not make tables.
    let guarded = test_postgres::shared().guarded_database().await;
    let name = guarded.rsplit('/').next().unwrap().split('?').next().unwrap();
    let sql = format!("ALTER DATABASE {name} OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    test_postgres::shared().run(name, &sql).await;
    let url = guarded.replace("guarded@", &format!("guarded:{}@", test_postgres::Postgres::PASSWORD));
    let error = Place::at(&url).refusal().await;
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_with_sessions_on_its_own_disk_is_alone() {
    let place = Place::postgres().await;
    let open_as = |name, alone| Store::open(Config { alone, ..place.config(name) });
    let open = |alone| open_as("node", alone);
    let alone = open(true).await.unwrap();
    for other in [true, false] {
        let error = open(other).await.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    }
    // One that ends meanwhile is waited for.
    let (next, ()) = tokio::join!(open(true), alone.close());
    next.unwrap().close().await;
    let (one, two) = (open(false).await.unwrap(), open_as("other", false).await.unwrap());
    assert!(matches!(open(true).await, Err(OpenError::InUse { .. })));
    drop((one, two));
}

#[tokio::test]
async fn several_that_open_a_new_database_at_once_all_do() {
    let place = Place::postgres().await;
    let names: Vec<_> = (0..6).map(|n| format!("node{n}")).collect();
    let opened = futures_util::future::join_all(names.iter().map(|name| place.open_as(name))).await;
    for store in opened {
        assert_eq!(store.incarnation().number, 1);
    }
}
