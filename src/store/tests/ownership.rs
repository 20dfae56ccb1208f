//! Who owns a session, and what a process may write that does not any more. On PostgreSQL, which several share.

use proptest::prelude::*;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{
    super::{lease::Title, *},
    *,
};

async fn run(place: &Place, sql: &str) {
    let Location::Postgres { url, .. } = &place.location else { panic!("it is a file") };
    PgConnection::connect(url.expose()).await.unwrap().execute(sql).await.unwrap();
}

async fn taken(store: &Store, id: &str) -> (SessionRecord, bool) {
    match store.take("t", id).await.unwrap() {
        Taken::Ours { record, was_left } => (*record, was_left),
        other => panic!("it is not ours: {other:?}"),
    }
}

fn retitled(title: &str) -> Changes {
    Changes { title: Some(title.into()), ..Changes::default() }
}

#[tokio::test]
async fn a_session_is_its_makers_until_that_lets_go_or_is_dead() {
    let place = Place::postgres().await;
    let (a, b) = (place.open_as("a").await, place.open_as("b").await);
    let made = make(&a, "s").await;
    assert!(matches!(a.owner_of("t", "s").await.unwrap(), Owner::Us));
    let Owner::Node(owner) = b.owner_of("t", "s").await.unwrap() else { panic!("it is nobody's") };
    assert_eq!((&owner.incarnation, owner.address.as_str()), (a.incarnation(), "a:1"));
    assert!(
        matches!(b.take("t", "s").await.unwrap(), Taken::Theirs(node) if node.incarnation == *a.incarnation())
    );
    a.let_go(made).await.unwrap();
    assert!(matches!(b.owner_of("t", "s").await.unwrap(), Owner::Nobody));
    let (record, was_left) = taken(&b, "s").await;
    assert!(!was_left);
    assert_eq!(record.node.as_ref(), Some(b.incarnation()));
    assert!(matches!(a.take("t", "s").await.unwrap(), Taken::Theirs(_)));
    b.close().await;
    let (record, was_left) = taken(&a, "s").await;
    assert!(was_left);
    assert_eq!(record.ownership.uid, made.uid);
    assert!(matches!(a.take("t", "none").await.unwrap(), Taken::Gone));
    assert!(matches!(a.owner_of("t", "none").await.unwrap(), Owner::Gone));
}

#[tokio::test]
async fn the_next_process_of_a_node_takes_at_once_what_the_one_before_had() {
    let place = Place::postgres().await;
    let first = place.open_as("a").await;
    make(&first, "s").await;
    let kept = first.incarnation().clone();
    // As after kill -9: its connections are gone, its lease is not.
    run(&place, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").await;
    run(&place, "UPDATE nodes SET lease_until = lease_until + 1000000").await;
    std::mem::forget(first);
    let second = Store::open(place.config("a")).await;
    // The first one may have its lock back by then; then it lives, and is told of.
    if let Ok(second) = second {
        assert_eq!(second.incarnation().number, kept.number + 1);
        assert!(taken(&second, "s").await.1);
    }
}

#[tokio::test]
async fn a_process_that_has_lost_a_session_writes_nothing_more_for_it() {
    let place = Place::postgres().await;
    let (a, b) = (place.open_as("a").await, place.open_as("b").await);
    let old = make(&a, "s").await;
    let key = RequestKey { tenant: "t".into(), scope: Scope::Session(old.uid), id: "r".into() };
    a.begin(&key, 1, None, None).await.unwrap();
    a.let_go(old).await.unwrap();
    let new = taken(&b, "s").await.0.ownership;
    assert_eq!(a.change(old, &retitled("old")).await, Err(Error::Fenced));
    assert_eq!(a.set_credentials(old, Some(b"x")).await, Err(Error::Fenced));
    assert_eq!(a.set_credentials(old, None).await, Ok(()));
    assert_eq!(a.sent(&key, old).await, Err(Error::Fenced));
    assert_eq!(a.let_go(old).await, Err(Error::Fenced));
    assert_eq!(a.delete(old).await, Err(Error::Fenced));
    let write = FolderWrite { after: None, data: b"d".to_vec(), manifest: Vec::new(), is_snapshot: true };
    let settling = Settling { folder: Some(write), ..Settling::default() };
    assert_eq!(a.settle(old, &settling).await, Err(Error::Fenced));
    assert_eq!(b.folder_head(new.uid).await, Ok(None));
    b.change(new, &retitled("new")).await.unwrap();
    // Also after it has come back to the same process.
    b.let_go(new).await.unwrap();
    taken(&a, "s").await;
    assert_eq!(a.change(old, &retitled("old")).await, Err(Error::Fenced));
    assert_eq!(a.find("t", "s").await.unwrap().unwrap().facts.title, "new");
    let newest = a.find("t", "s").await.unwrap().unwrap().ownership;
    assert_eq!(a.delete(newest).await, Ok(true));
    assert_eq!(a.change(newest, &retitled("gone")).await, Err(Error::Gone));
}

#[tokio::test]
async fn a_process_whose_lease_has_run_out_takes_nothing_and_loses_what_it_has() {
    let place = Place::postgres().await;
    let (a, b) = (place.open_as("a").await, place.open_as("b").await);
    let old = make(&a, "s").await;
    make(&b, "other").await;
    b.let_go(b.find("t", "other").await.unwrap().unwrap().ownership).await.unwrap();
    run(&place, "UPDATE nodes SET lease_until = 1 WHERE node = 'a'").await;
    assert!(matches!(a.take("t", "other").await, Err(Error::Unavailable { .. })));
    assert!(taken(&b, "s").await.1);
    assert_eq!(a.change(old, &retitled("old")).await, Err(Error::Fenced));
}

#[tokio::test]
async fn in_a_file_nothing_is_taken_and_no_fence_changes() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    let made = make(&store, "s").await;
    let (record, was_left) = taken(&store, "s").await;
    assert_eq!((record.ownership, record.node, was_left), (made, None, false));
    store.let_go(made).await.unwrap();
    store.change(made, &retitled("still")).await.unwrap();
    assert!(store.holds(made) && !store.is_shared());
}

#[tokio::test]
async fn two_servers_of_one_name_are_not_both_served() {
    let place = Place::postgres().await;
    let config = |seconds| {
        let mut config = place.config("a");
        config.node.lease = Duration::from_secs(seconds);
        config
    };
    // Its lease is renewed every third of a second, by which it shows that it lives.
    let first = Store::open(config(1)).await.unwrap();
    let error = Store::open(config(1)).await.unwrap_err();
    assert!(matches!(&error, OpenError::InUse { problem } if problem.contains("node_name")), "{error}");
    first.close().await;
    Store::open(config(1)).await.unwrap().close().await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_is_lost_and_had_again_when_the_store_is_back() {
    let place = Place::postgres().await;
    let mut config = place.config("a");
    config.node.lease = Duration::from_secs(1);
    let store = Store::open(config).await.unwrap();
    let mut lease = store.lease();
    let made = make(&store, "s").await;
    assert!(store.holds(made));
    run(&place, "ALTER TABLE nodes RENAME TO elsewhere").await;
    lease.wait_for(Option::is_none).await.unwrap();
    assert!(matches!(store.take("t", "s").await, Err(Error::Unavailable { .. })));
    run(&place, "ALTER TABLE elsewhere RENAME TO nodes").await;
    lease.wait_for(Option::is_some).await.unwrap();
    // What it had before is to be taken anew.
    assert!(!store.holds(made));
    assert!(store.holds(taken(&store, "s").await.0.ownership));
}

#[tokio::test]
async fn each_node_sees_what_the_others_have_to_do() {
    let place = Place::postgres().await;
    let (a, b) = (place.open_as("a").await, place.open_as("b").await);
    let load = Load { role: Role::Draining, sessions: 3, turns: 2, room: 7 };
    a.announce(load);
    let mut neighbours = b.neighbours();
    loop {
        let nodes = b.nodes().await.unwrap();
        if nodes.iter().any(|node| node.incarnation == *a.incarnation() && node.load == load) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    b.announce(load);
    let seen = neighbours.wait_for(|seen| seen.nodes.len() == 2).await.unwrap().clone();
    assert!(seen.lease_of(a.incarnation()).is_some());
    let names: Vec<_> = seen.nodes.iter().map(|node| node.incarnation.node.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    a.close().await;
    let nodes = b.nodes().await.unwrap();
    assert_eq!(nodes[0].lease, Duration::ZERO);
}

/// Something that happens to a session, by one of two processes.
#[derive(Debug, Clone, Copy)]
enum Event {
    Take(bool),
    LetGo(bool),
    Write(bool),
    Die(bool),
    Live(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0..5, any::<bool>()).prop_map(|(kind, who)| match kind {
        0 => Event::Take(who),
        1 => Event::LetGo(who),
        2 => Event::Write(who),
        3 => Event::Die(who),
        _ => Event::Live(who),
    });
    prop::collection::vec(event, 1..40)
}

#[test]
fn the_store_keeps_to_the_rules_that_were_checked() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (place, stores) = runtime.block_on(async {
        let place = Place::postgres().await;
        let stores = [place.open_as("a").await, place.open_as("b").await];
        (place, stores)
    });
    let count = std::cell::Cell::new(0);
    proptest!(ProptestConfig::with_cases(24), |(events in events())| {
        count.set(count.get() + 1);
        runtime.block_on(follow(&place, &stores, &format!("s{}", count.get()), &events))?;
    });
}

/// Lets the same happen to a session in the store and to one by the rules.
async fn follow(place: &Place, stores: &[Store; 2], id: &str, events: &[Event]) -> Result<(), TestCaseError> {
    let own = |who: bool| &stores[usize::from(who)];
    let made = make(&stores[0], id).await;
    let mut title = Title { owner: Some(false), fence: made.fence };
    let mut held = [Some(made.fence), None];
    let mut alive = [true, true];
    for who in [false, true] {
        live(place, own(who), true).await;
    }
    for event in events {
        match *event {
            Event::Take(who) => {
                let may = alive[usize::from(who)] && title.take(who, |owner| alive[usize::from(*owner)]);
                let took = matches!(own(who).take("t", id).await, Ok(Taken::Ours { .. }));
                prop_assert_eq!(took, may, "{:?} of {:?}", event, events);
                if may {
                    held[usize::from(who)] = Some(title.fence);
                }
            }
            Event::LetGo(who) => {
                let Some(fence) = held[usize::from(who)] else { continue };
                let went = own(who).let_go(Ownership { fence, ..made }).await.is_ok();
                prop_assert_eq!(went, title.let_go(fence), "{:?} of {:?}", event, events);
            }
            Event::Write(who) => {
                let Some(fence) = held[usize::from(who)] else { continue };
                let wrote = own(who).change(Ownership { fence, ..made }, &retitled("x")).await;
                prop_assert_eq!(wrote.is_ok(), title.admits(fence), "{:?} of {:?}", event, events);
            }
            Event::Die(who) | Event::Live(who) => {
                let is_alive = matches!(event, Event::Live(_));
                alive[usize::from(who)] = is_alive;
                live(place, own(who), is_alive).await;
            }
        }
    }
    Ok(())
}

/// Gives a process a long lease, or ends it.
async fn live(place: &Place, store: &Store, is_alive: bool) {
    let until = if is_alive { i64::MAX / 2 } else { 1 };
    run(
        place,
        &format!("UPDATE nodes SET lease_until = {until} WHERE node = '{}'", store.incarnation().node),
    )
    .await;
}
