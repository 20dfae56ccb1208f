//! Request ids.

use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};

use super::{super::*, *};

on_both! {
    a_request_is_begun_once
    a_request_is_known_in_its_scope_and_tenant
    a_request_goes_on_to_its_end_and_no_further
    a_request_is_not_forgotten_whose_session_is_there
    a_request_that_its_process_left_behind_is_taken_over_once
    a_request_is_forgotten_after_a_day
    of_many_that_begin_one_request_one_is_first
}

fn key(scope: Scope, id: &str) -> RequestKey {
    RequestKey { tenant: "t".into(), scope, id: id.into() }
}

async fn known(store: &Store, key: &RequestKey) -> RequestRecord {
    match store.begin(key, 99, None, None).await.unwrap() {
        Begun::Known(record) => record,
        Begun::First => panic!("it is not known"),
    }
}

async fn a_request_is_begun_once(place: Place) {
    let store = place.open().await;
    let key = key(Scope::Create, "r");
    assert_eq!(store.begin(&key, -7, None, None).await, Ok(Begun::First));
    let record = known(&store, &key).await;
    assert_eq!(record.fingerprint, -7);
    assert_eq!(record.state, RequestState::Accepted);
    assert_eq!(&record.owner, store.incarnation());
    assert!(record.is_ours && record.is_alive);
    assert_eq!(record.result, None);
    assert!((record.update_time.0 - Time::now().0).abs() < 60_000_000, "{:?}", record.update_time);
    assert_eq!(store.request(&key).await, Ok(Some(record)));
    store.forget(&key).await.unwrap();
    assert_eq!(store.request(&key).await, Ok(None));
    assert_eq!(store.begin(&key, 8, None, None).await, Ok(Begun::First));
}

fn ended(key: &RequestKey, state: RequestState, result: Option<&str>) -> Ended {
    Ended { key: key.clone(), state, result: result.map(str::to_owned), message_id: Some("m".into()) }
}

async fn a_request_is_known_in_its_scope_and_tenant(place: Place) {
    let store = place.open().await;
    let (one, two) = (make(&store, "one").await, make(&store, "two").await);
    for scope in [Scope::Create, Scope::Session(one.uid), Scope::Session(two.uid)] {
        assert_eq!(store.begin(&key(scope, "r"), 1, None, None).await, Ok(Begun::First));
        let other = RequestKey { tenant: "other".into(), ..key(scope, "r") };
        assert_eq!(store.begin(&other, 1, None, None).await, Ok(Begun::First));
        assert_eq!(store.begin(&key(scope, "R"), 1, None, None).await, Ok(Begun::First));
    }
}

async fn a_request_is_not_forgotten_whose_session_is_there(place: Place) {
    let store = place.open().await;
    let made = async |id: &str, request: &str| {
        let facts = Facts { request: request.into(), ..Facts::default() };
        store.create("t", id, &facts, Time(1)).await.unwrap()
    };
    let key = key(Scope::Create, "r");
    store.begin(&key, 1, Some("s"), None).await.unwrap();
    let session = made("s", "r").await;
    store.forget(&key).await.unwrap();
    assert!(store.request(&key).await.unwrap().is_some());
    store.delete(session).await.unwrap();
    // One that another request has made is no reason.
    made("s", "other").await;
    store.forget(&key).await.unwrap();
    assert_eq!(store.request(&key).await, Ok(None));
}

async fn a_request_goes_on_to_its_end_and_no_further(place: Place) {
    let store = place.open().await;
    let session = make(&store, "s").await;
    let key = key(Scope::Session(session.uid), "r");
    assert_eq!(store.sent(&key, session).await, Err(Error::Gone));
    store.begin(&key, 1, None, None).await.unwrap();
    store.sent(&key, session).await.unwrap();
    assert_eq!(known(&store, &key).await.state, RequestState::Sent);
    // Also once more: its first answer may have been lost.
    for _ in 0..2 {
        store.end(&ended(&key, RequestState::Failed, Some("why"))).await.unwrap();
    }
    let record = known(&store, &key).await;
    assert!(record.state.is_ended());
    assert_eq!((record.state, record.result.as_deref()), (RequestState::Failed, Some("why")));
    assert_eq!(store.sent(&key, session).await, Err(Error::Conflict));
    for (state, result) in [(RequestState::Succeeded, Some("why")), (RequestState::Failed, Some("so"))] {
        assert_eq!(store.end(&ended(&key, state, result)).await, Err(Error::Conflict));
    }
    let own = store.incarnation().clone();
    assert_eq!(store.take_over(&key, &own).await, Ok(false));
}

async fn a_request_that_its_process_left_behind_is_taken_over_once(place: Place) {
    let first = place.open().await;
    let session = make(&first, "s").await;
    let scope = Scope::Session(session.uid);
    let (key, done) = (key(scope, "r"), key(scope, "done"));
    for key in [&key, &done] {
        first.begin(key, 1, None, None).await.unwrap();
        first.sent(key, session).await.unwrap();
    }
    first.end(&ended(&done, RequestState::Succeeded, None)).await.unwrap();
    first.close().await;

    let second = place.open().await;
    let record = known(&second, &key).await;
    assert_eq!((record.state, record.is_ours, record.is_alive), (RequestState::Sent, false, false));
    assert_eq!(&record.owner, first.incarnation());
    assert_eq!(second.sent(&key, session).await, Err(Error::Conflict));
    second.forget(&key).await.unwrap();
    assert_eq!(second.take_over(&key, &record.owner).await, Ok(true));
    assert_eq!(second.take_over(&key, &record.owner).await, Ok(false));
    let record = known(&second, &key).await;
    assert_eq!((record.state, record.is_ours, record.is_alive), (RequestState::Accepted, true, true));
    assert_eq!(second.take_over(&done, first.incarnation()).await, Ok(false));
}

async fn a_request_is_forgotten_after_a_day(place: Place) {
    let store = place.open().await;
    let (old, new) = (key(Scope::Create, "old"), key(Scope::Create, "new"));
    for key in [&old, &new] {
        store.begin(key, 1, None, None).await.unwrap();
        store.end(&ended(key, RequestState::Succeeded, Some("then"))).await.unwrap();
    }
    let age = "UPDATE requests SET update_time = update_time - 86400000000 WHERE id = 'old'";
    match &place.location {
        Location::Sqlite(path) => {
            let url = format!("sqlite://{}", path.display());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            connection.execute(age).await.unwrap();
        }
        Location::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url.expose()).await.unwrap();
            connection.execute(age).await.unwrap();
        }
    }
    assert_eq!(store.request(&old).await, Ok(None));
    assert_eq!(store.begin(&old, 2, None, None).await, Ok(Begun::First));
    let record = known(&store, &old).await;
    assert_eq!((record.fingerprint, record.result), (2, None));
    assert_eq!(known(&store, &new).await.result.as_deref(), Some("then"));
}

async fn of_many_that_begin_one_request_one_is_first(place: Place) {
    let store = place.open().await;
    let key = key(Scope::Create, "r");
    let many = (0..20).map(|_| store.begin(&key, 1, None, None));
    let results = futures_util::future::join_all(many).await;
    assert_eq!(results.iter().filter(|result| **result == Ok(Begun::First)).count(), 1);
}

#[tokio::test]
async fn a_process_of_another_node_lives_as_long_as_its_lease_and_no_longer_than_its_next_start() {
    let place = Place::postgres().await;
    let (here, there) = (place.open_as("here").await, place.open_as("there").await);
    let key = key(Scope::Create, "r");
    there.begin(&key, 1, None, None).await.unwrap();
    let record = known(&here, &key).await;
    assert_eq!((record.is_ours, record.is_alive), (false, true));
    assert_eq!(record.owner.node, "there");
    there.close().await;
    assert!(!known(&here, &key).await.is_alive);
    let again = place.open_as("there").await;
    let record = known(&here, &key).await;
    assert_eq!((record.is_alive, record.owner.number), (false, 1));
    assert_eq!(again.incarnation().number, 2);
    assert_eq!(here.take_over(&key, &record.owner).await, Ok(true));
    let record = known(&again, &key).await;
    assert_eq!((record.is_ours, record.is_alive), (false, true));
}
