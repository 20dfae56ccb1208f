//! Sessions' records and credentials.

use super::{super::*, *};

on_both! {
    a_record_is_found_as_it_was_made
    an_id_is_made_once_in_its_tenant
    a_change_changes_what_it_names_and_nothing_else
    a_change_of_a_deleted_session_is_refused_also_when_its_id_is_there_again
    the_time_of_a_change_never_goes_back
    a_deleted_session_leaves_nothing_behind
    records_outlast_a_restart
    odd_texts_are_stored
    of_many_that_make_one_session_one_does
}

fn full() -> Facts {
    Facts {
        owner: "o".into(),
        cli_id: "c".into(),
        request: "r".into(),
        profile: "p".into(),
        model: "m".into(),
        reasoning_effort: "high".into(),
        title: "Tïtle".into(),
        working_directory: "/w".into(),
        labels: labels([("a", "1"), ("b", "2")]),
        settings: r#"{"x":1}"#.into(),
        has_message: true,
        home: "cli-1".into(),
        home_disk: "n".into(),
        usage: "{}".into(),
        bytes: 12,
    }
}

async fn a_record_is_found_as_it_was_made(place: Place) {
    let store = place.open().await;
    let uid = store.create("t", "s", &full(), Time(5)).await.unwrap();
    let found = store.find("t", "s").await.unwrap().unwrap();
    let expected = SessionRecord {
        // Only who writes has to know of which lease it is.
        ownership: Ownership { life: 0, ..uid },
        node: store.owner().cloned(),
        tenant: "t".into(),
        id: "s".into(),
        facts: full(),
        create_time: Time(5),
        update_time: Time(5),
    };
    assert_eq!(found, expected);
    assert_eq!(store.find("other", "s").await.unwrap(), None);
    assert_eq!(store.count("t").await.unwrap(), 1);
    assert_eq!(store.count("other").await.unwrap(), 0);
}

async fn an_id_is_made_once_in_its_tenant(place: Place) {
    let store = place.open().await;
    for facts in [Facts::default(), full()] {
        let id = facts.owner.clone() + "s";
        store.create("t", &id, &facts, Time(1)).await.unwrap();
        assert_eq!(store.create("t", &id, &facts, Time(2)).await, Err(Error::Exists));
        store.create("other", &id, &facts, Time(1)).await.unwrap();
    }
}

async fn a_change_changes_what_it_names_and_nothing_else(place: Place) {
    let store = place.open().await;
    let uid = store.create("t", "s", &full(), Time(5)).await.unwrap();
    store.change(uid, &Changes::default()).await.unwrap();
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts, full());

    let changes = Changes { title: Some(String::new()), update_time: Some(Time(9)), ..Changes::default() };
    store.change(uid, &changes).await.unwrap();
    let found = store.find("t", "s").await.unwrap().unwrap();
    assert_eq!(found.facts, Facts { title: String::new(), ..full() });
    assert_eq!((found.create_time, found.update_time), (Time(5), Time(9)));

    let new = labels([("b", "3")]);
    let changes =
        Changes { labels: Some(new.clone()), bytes: Some(7), has_message: Some(false), ..Changes::default() };
    store.change(uid, &changes).await.unwrap();
    let found = store.find("t", "s").await.unwrap().unwrap();
    let expected =
        Facts { title: String::new(), labels: new.clone(), bytes: 7, has_message: false, ..full() };
    assert_eq!(found.facts, expected);
    // They are searched as they are shown.
    for (labels, count) in [(new, 1), (labels([("a", "1")]), 0), (BTreeMap::new(), 1)] {
        let query = Query { tenant: "t".into(), labels, limit: 10, ..Query::default() };
        assert_eq!(store.list(&query).await.unwrap().len(), count);
    }
    store.change(uid, &Changes { labels: Some(BTreeMap::new()), ..Changes::default() }).await.unwrap();
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts.labels, BTreeMap::new());
}

async fn a_change_of_a_deleted_session_is_refused_also_when_its_id_is_there_again(place: Place) {
    let store = place.open().await;
    let old = make(&store, "s").await;
    assert_eq!(store.delete(old).await, Ok(true));
    assert_eq!(store.delete(old).await, Ok(false));
    let new = make(&store, "s").await;
    assert_ne!(old, new);
    let changes = Changes { title: Some("late".into()), ..Changes::default() };
    assert_eq!(store.change(old, &changes).await, Err(Error::Gone));
    let changes = Changes { labels: Some(labels([("a", "b")])), ..changes };
    assert_eq!(store.change(old, &changes).await, Err(Error::Gone));
    assert_eq!(store.settle(old, &Settling { changes, ..Settling::default() }).await, Err(Error::Gone));
    assert_eq!(store.set_credentials(old, Some(b"x")).await, Err(Error::Gone));
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts, Facts::default());
    // The writer goes on after what it refused.
    store.change(new, &Changes::default()).await.unwrap();
}

async fn the_time_of_a_change_never_goes_back(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    for time in [7, 3] {
        store.change(uid, &Changes { update_time: Some(Time(time)), ..Changes::default() }).await.unwrap();
    }
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().update_time, Time(7));
}

async fn a_deleted_session_leaves_nothing_behind(place: Place) {
    let store = place.open().await;
    let uid = store.create("t", "s", &full(), Time(5)).await.unwrap();
    let other = make(&store, "other").await;
    let key =
        |uid: Ownership| RequestKey { tenant: "t".into(), scope: Scope::Session(uid.uid), id: "r".into() };
    let folder = FolderWrite { after: None, data: vec![1], manifest: vec![2], is_snapshot: true };
    for uid in [uid, other] {
        store.begin(&key(uid), 1, None, None).await.unwrap();
        store.set_credentials(uid, Some(b"sealed")).await.unwrap();
        let settling = Settling { folder: Some(folder.clone()), ..Settling::default() };
        store.settle(uid, &settling).await.unwrap();
    }
    assert_eq!(store.credentials(uid.uid).await.unwrap().as_deref(), Some(&b"sealed"[..]));
    assert_eq!(store.delete(uid).await, Ok(true));
    assert_eq!(store.find("t", "s").await, Ok(None));
    assert_eq!(store.credentials(uid.uid).await, Ok(None));
    assert_eq!(store.folder_head(uid.uid).await, Ok(None));
    assert_eq!(store.folder(uid.uid).await, Ok(Vec::new()));
    assert_eq!(store.request(&key(uid)).await, Ok(None));
    let query = Query { tenant: "t".into(), labels: labels([("a", "1")]), limit: 10, ..Query::default() };
    assert_eq!(store.list(&query).await, Ok(Vec::new()));

    assert!(store.request(&key(other)).await.unwrap().is_some());
    assert_eq!(store.folder(other.uid).await, Ok(vec![vec![1]]));
    store.set_credentials(other, Some(b"other")).await.unwrap();
    assert_eq!(store.credentials(other.uid).await.unwrap().as_deref(), Some(&b"other"[..]));
    store.set_credentials(other, None).await.unwrap();
    assert_eq!(store.credentials(other.uid).await, Ok(None));
}

async fn records_outlast_a_restart(place: Place) {
    let store = place.open().await;
    let uid = store.create("t", "s", &full(), Time(5)).await.unwrap();
    let first = store.incarnation().clone();
    store.close().await;
    assert!(matches!(store.find("t", "s").await, Err(Error::Unavailable { .. })));
    let store = place.open().await;
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().ownership.uid, uid.uid);
    assert_eq!(store.incarnation().number, first.number + 1);
    assert_eq!(store.incarnation().node, first.node);
}

async fn odd_texts_are_stored(place: Place) {
    let store = place.open().await;
    let long = "x".repeat(3_000_000);
    for text in ["", "'; DROP TABLE sessions; --", "☃\u{1F600}\n\t", "$1 {now} ? %s", &long] {
        let facts = Facts { title: text.into(), settings: text.into(), ..Facts::default() };
        let uid = store.create("t", "s", &facts, Time(1)).await.unwrap();
        assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts, facts);
        store.delete(uid).await.unwrap();
    }
    // Which PostgreSQL cannot store.
    let facts = Facts { title: "a\0b".into(), labels: labels([("l", "a\0b")]), ..Facts::default() };
    store.create("t", "s", &facts, Time(1)).await.unwrap();
    let found = store.find("t", "s").await.unwrap().unwrap();
    assert_eq!(found.facts.title, "a\u{fffd}b");
}

async fn of_many_that_make_one_session_one_does(place: Place) {
    let store = place.open().await;
    let facts = full();
    let many = (0..20).map(|_| store.create("t", "s", &facts, Time(1)));
    let results = futures_util::future::join_all(many).await;
    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    assert!(refused.into_iter().all(|result| result == Err(Error::Exists)));
}
