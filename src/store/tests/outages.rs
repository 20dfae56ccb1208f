//! Stores that go away, and come back.

use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use test_postgres::{Options, Postgres};
use tokio::{sync::watch, time::timeout};

use super::{
    super::{connection::Failure, postgres::LOCK, *},
    *,
};

async fn here(availability: &mut watch::Receiver<Availability>) {
    let is_here = availability.wait_for(Availability::is_here);
    timeout(LIMIT, is_here).await.expect("it comes back in time").unwrap();
}

async fn away(availability: &mut watch::Receiver<Availability>) {
    let is_away = availability.wait_for(|availability| !availability.is_here());
    timeout(LIMIT, is_away).await.expect("it is seen in time").unwrap();
}

fn is_unavailable<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
}

/// A store on a server of its own.
async fn on_own(time_limit: Duration, alone: bool) -> (Postgres, Place, Store) {
    let server = Postgres::start(Options::Fast);
    let place = Place::at(&server.database().await);
    let store = Store::open(Config { time_limit, alone, ..place.config("node") }).await.unwrap();
    (server, place, store)
}

#[tokio::test]
async fn a_store_that_is_stopped_is_away_until_it_is_back_and_keeps_all() {
    let (server, _place, store) = on_own(LIMIT, true).await;
    let mut availability = store.availability();
    let uid = make(&store, "s").await;
    for round in 0..2 {
        server.stop();
        is_unavailable(store.change(uid, &Changes::default()).await);
        away(&mut availability).await;
        // While it is away, calls fail at once.
        is_unavailable(store.find("t", "s").await);
        is_unavailable(store.create("t", "new", &Facts::default(), Time(1)).await);
        server.start_again();
        here(&mut availability).await;
        store.change(uid, &Changes { bytes: Some(round), ..Changes::default() }).await.unwrap();
        assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts.bytes, round);
    }
    assert_eq!(store.count("t").await, Ok(1));
}

#[tokio::test]
async fn a_store_that_was_restarted_unseen_answers_reads_all_the_same() {
    let (server, _place, store) = on_own(LIMIT, false).await;
    make(&store, "s").await;
    // All connections are used, so that many are broken.
    futures_util::future::join_all((0..20).map(|_| store.count("t"))).await;
    server.stop();
    server.start_again();
    let read = futures_util::future::join_all((0..20).map(|_| store.count("t"))).await;
    assert!(read.iter().all(|count| *count == Ok(1)), "{read:?}");
}

#[tokio::test]
async fn a_store_that_stops_answering_is_away_in_time() {
    let (server, _place, store) = on_own(Duration::from_secs(2), false).await;
    let mut availability = store.availability();
    let uid = make(&store, "s").await;
    server.pause();
    let changes = Changes { title: Some("new".into()), ..Changes::default() };
    is_unavailable(timeout(LIMIT, store.change(uid, &changes)).await.expect("it has a time limit"));
    is_unavailable(store.find("t", "s").await);
    let problem = match &*availability.borrow() {
        Availability::Away { problem, .. } => problem.clone(),
        Availability::Here => panic!("it is away"),
    };
    assert_eq!(problem, "it did not answer within 2s");
    server.resume();
    here(&mut availability).await;
    store.change(uid, &changes).await.unwrap();
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts.title, "new");
}

#[tokio::test]
async fn a_lock_that_another_holds_costs_one_call_and_not_the_store() {
    let place = Place::postgres().await;
    let store =
        Store::open(Config { time_limit: Duration::from_secs(1), ..place.config("node") }).await.unwrap();
    let (uid, other) = (make(&store, "s").await, make(&store, "other").await);
    let Location::Postgres { url, .. } = &place.location else { panic!() };
    let mut holder = PgConnection::connect(url.expose()).await.unwrap();
    holder.execute("BEGIN; UPDATE sessions SET title = 'held' WHERE id = 's'").await.unwrap();
    is_unavailable(store.change(uid, &Changes::default()).await);
    store.change(other, &Changes::default()).await.unwrap();
    holder.execute("COMMIT").await.unwrap();
    store.change(uid, &Changes::default()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_dropped_goes_on_and_disturbs_no_other() {
    for place in [Place::sqlite().await, Place::postgres().await] {
        let store = place.open().await;
        for n in 0..50 {
            let (id, facts) = (n.to_string(), Facts { labels: labels([("a", "b")]), ..Facts::default() });
            let make = store.create("t", &id, &facts, Time(1));
            // Polled a few times, and dropped.
            let _ = timeout(Duration::from_micros(n * 20), make).await;
        }
        let uid = make(&store, "s").await;
        store.change(uid, &Changes::default()).await.unwrap();
        assert!(store.availability().borrow().is_here());
    }
}

#[tokio::test]
async fn a_server_whose_claim_was_taken_is_away_until_it_has_it_again() {
    let place = Place::postgres().await;
    let store = Store::open(Config { alone: true, ..place.config("node") }).await.unwrap();
    let mut availability = store.availability();
    let Location::Postgres { url, .. } = &place.location else { panic!() };
    let mut other = PgConnection::connect(url.expose()).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = \
               (SELECT oid FROM pg_database WHERE datname = current_database())";
    other.execute(end).await.unwrap();
    other.execute(format!("SELECT pg_advisory_lock({LOCK})").as_str()).await.unwrap();
    away(&mut availability).await;
    let error = store.count("t").await.unwrap_err();
    assert!(error.to_string().contains("another copilot-grpc"), "{error}");
    other.close().await.unwrap();
    here(&mut availability).await;
    assert_eq!(store.count("t").await, Ok(0));
}

#[tokio::test]
async fn a_full_file_refuses_what_is_new_and_gives_what_is_old() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    make(&store, "s").await;
    store.close().await;
    // SQLite's own limit of a connection is the writer's here: its file is as large as it may be.
    let Location::Sqlite(path) = &place.location else { panic!() };
    let url = format!("sqlite://{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    connection.execute("PRAGMA max_page_count = 1").await.unwrap();
    let error = sqlx::query("INSERT INTO credentials SELECT uid, zeroblob(1000000) FROM sessions")
        .execute(&mut connection)
        .await
        .unwrap_err();
    let failure = Failure::from(error);
    assert!(matches!(failure, Failure::Away(_)), "{failure:?}");
    connection.close().await.unwrap();
    assert_eq!(place.open().await.count("t").await, Ok(1));
}

#[tokio::test]
async fn a_store_whose_last_handle_is_dropped_lets_go() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    let mut availability = store.availability();
    drop(store);
    // Its runner is gone with its last task, and with it the lock.
    assert!(timeout(LIMIT, async { while availability.changed().await.is_ok() {} }).await.is_ok());
    place.open().await;
}
