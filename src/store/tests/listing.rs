//! Lists, page by page, against a list that is made by hand; and how long pages take.

use std::cmp::Reverse;

use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use tokio::time::Instant;

use super::{super::*, *};

on_both! {
    pages_together_are_the_whole_list_in_each_order
    conditions_hold_together
}

/// Makes sessions with times and ids in different orders, and some of one time.
async fn many(store: &Store) -> Vec<SessionRecord> {
    for n in 0..60_i64 {
        let (owner, profile) = (format!("o{}", n % 3), format!("p{}", n % 2));
        let mut labels = labels([("all", "yes"), ("third", &(n % 3).to_string())]);
        if n % 5 == 0 {
            labels.insert("fifth".into(), "☃".into());
        }
        let facts = Facts { owner, profile, labels, ..Facts::default() };
        let id = format!("{}{n}", if n % 2 == 0 { "a" } else { "B" });
        let uid = store.create("t", &id, &facts, Time(n / 4 * 10)).await.unwrap();
        let update_time = Some(Time(1000 - n / 3));
        store.change(uid, &Changes { update_time, ..Changes::default() }).await.unwrap();
        store.create("other", &id, &facts, Time(n)).await.unwrap();
    }
    let mut all = Vec::new();
    for n in 0..60 {
        let id = format!("{}{n}", if n % 2 == 0 { "a" } else { "B" });
        all.push(store.find("t", &id).await.unwrap().unwrap());
    }
    all
}

/// What a query should find, all of it.
fn expected(all: &[SessionRecord], query: &Query) -> Vec<SessionRecord> {
    let has = |range: Range, time: Time| {
        range.from.is_none_or(|from| time >= from) && range.until.is_none_or(|until| time < until)
    };
    let fits = |record: &&SessionRecord| {
        query.labels.iter().all(|(name, value)| record.facts.labels.get(name) == Some(value))
            && query.owner.as_ref().is_none_or(|owner| record.facts.owner == *owner)
            && query.profile.as_ref().is_none_or(|profile| record.facts.profile == *profile)
            && has(query.created, record.create_time)
            && has(query.updated, record.update_time)
    };
    let mut found: Vec<_> = all.iter().filter(fits).cloned().collect();
    match query.order {
        Order::Newest => found.sort_by_key(|it| Reverse((it.create_time, it.id.clone()))),
        Order::Oldest => found.sort_by_key(|it| (it.create_time, it.id.clone())),
        Order::LatestChange => found.sort_by_key(|it| Reverse((it.update_time, it.id.clone()))),
        Order::EarliestChange => found.sort_by_key(|it| (it.update_time, it.id.clone())),
    }
    found
}

/// What a query finds, in pages.
async fn found(store: &Store, query: &Query) -> Vec<SessionRecord> {
    let (mut query, mut all) = (query.clone(), Vec::new());
    loop {
        let page = store.list(&query).await.unwrap();
        assert!(page.len() <= query.limit);
        let Some(last) = page.last() else { return all };
        let time = match query.order {
            Order::Newest | Order::Oldest => last.create_time,
            Order::LatestChange | Order::EarliestChange => last.update_time,
        };
        query.after = Some((time, last.id.clone()));
        all.extend(page);
    }
}

const ORDERS: [Order; 4] = [Order::Newest, Order::Oldest, Order::LatestChange, Order::EarliestChange];

async fn pages_together_are_the_whole_list_in_each_order(place: Place) {
    let store = place.open().await;
    let all = many(&store).await;
    for order in ORDERS {
        for limit in [7, 60, 1000] {
            for labels in [BTreeMap::new(), labels([("all", "yes")])] {
                let query = Query { tenant: "t".into(), labels, order, limit, ..Query::default() };
                assert_eq!(found(&store, &query).await, expected(&all, &query), "{query:?}");
            }
        }
    }
    let nobody = Query { tenant: "nobody".into(), limit: 10, ..Query::default() };
    assert_eq!(store.list(&nobody).await, Ok(Vec::new()));
}

async fn conditions_hold_together(place: Place) {
    let store = place.open().await;
    let all = many(&store).await;
    let owner = || Some("o1".to_owned());
    let profile = || Some("p0".to_owned());
    let range =
        |from: Option<i64>, until: Option<i64>| Range { from: from.map(Time), until: until.map(Time) };
    let base = || Query { tenant: "t".into(), limit: 4, ..Query::default() };
    let queries = [
        Query { owner: owner(), ..base() },
        Query { profile: profile(), ..base() },
        Query { owner: owner(), profile: profile(), labels: labels([("fifth", "☃")]), ..base() },
        Query { labels: labels([("all", "yes"), ("fifth", "☃"), ("third", "0")]), ..base() },
        Query { labels: labels([("all", "no")]), ..base() },
        Query { created: range(Some(40), Some(90)), ..base() },
        Query { created: range(Some(40), None), labels: labels([("third", "2")]), ..base() },
        Query { updated: range(None, Some(990)), created: range(Some(20), None), ..base() },
        Query { updated: range(Some(985), Some(985)), ..base() },
        Query {
            owner: owner(),
            updated: range(Some(985), Some(995)),
            labels: labels([("third", "1")]),
            ..base()
        },
    ];
    for query in queries {
        for order in ORDERS {
            let query = Query { order, ..query.clone() };
            assert_eq!(found(&store, &query).await, expected(&all, &query), "{query:?}");
        }
    }
}

/// By hand: `cargo test --release --lib store::tests::listing::of_100_000 -- --ignored --nocapture`.
mod of_100_000 {
    use super::*;

    #[tokio::test]
    #[ignore = "it takes long; it prints how long"]
    async fn in_sqlite() {
        measured(Place::sqlite().await).await;
    }

    #[tokio::test]
    #[ignore = "it takes long; it prints how long"]
    async fn in_postgres() {
        measured(Place::postgres().await).await;
    }

    async fn measured(place: Place) {
        let store = place.open().await;
        fill(&place).await;
        let base = Query { tenant: "t".into(), limit: 1000, ..Query::default() };
        for order in ORDERS {
            let started = Instant::now();
            assert_eq!(found(&store, &Query { order, ..base.clone() }).await.len(), 100_000);
            println!("all, {order:?}: {:?}", started.elapsed());
        }
        let by_label = |labels| Query { labels, ..base.clone() };
        let queries = [
            by_label(labels([("all", "yes")])),
            by_label(labels([("tenth", "3")])),
            by_label(labels([("all", "yes"), ("tenth", "3")])),
            Query { order: Order::LatestChange, ..by_label(labels([("tenth", "3")])) },
            Query { order: Order::LatestChange, ..by_label(labels([("all", "yes")])) },
            Query { owner: Some("o7".into()), ..base.clone() },
        ];
        for query in queries {
            let (mut query, mut times) = (query, Vec::new());
            let mut pages = 0;
            loop {
                let started = Instant::now();
                let page = store.list(&query).await.unwrap();
                times.push(started.elapsed());
                pages += 1;
                let Some(last) = page.last() else { break };
                let by_creation = query.order == Order::Newest;
                let time = if by_creation { last.create_time } else { last.update_time };
                query.after = Some((time, last.id.clone()));
            }
            times.sort();
            println!(
                "{:?} {:?} {:?}: {pages} pages, p50 {:?}, longest {:?}",
                query.labels,
                query.owner,
                query.order,
                times[pages / 2],
                times[pages - 1]
            );
        }
    }

    async fn fill(place: &Place) {
        let numbers = match &place.location {
            Location::Sqlite(_) => {
                "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)"
            }
            Location::Postgres { .. } => "WITH numbers AS (SELECT n FROM generate_series(1, 100000) AS x(n))",
        };
        let labels = r#"'{"all":"yes","tenth":"' || (n % 10) || '"}'"#;
        let sessions = format!(
            "INSERT INTO sessions (tenant, id, owner, cli_id, request, profile, model, reasoning_effort, title, working_directory, labels, \
             settings, has_message, home, home_disk, usage, bytes, create_time, update_time, node, incarnation, fence) {numbers} \
             SELECT 't', 's' || n, 'o' || (n % 100), 's' || n, '', 'p', 'gpt', '', 'The title of session ' || n, '/work', {labels}, \
             '{{\"settings\":\"some of about a hundred bytes, as they are for most sessions that have few of their own\"}}', \
             1, 'cli-1', 'node', '{{}}', 1000, n * 1000, n * 7919 % 100000, '', 0, 1 FROM numbers"
        );
        let all = "INSERT INTO labels (tenant, name, value, create_time, id, uid) \
                   SELECT tenant, 'all', 'yes', create_time, id, uid FROM sessions";
        let tenth = "INSERT INTO labels (tenant, name, value, create_time, id, uid) SELECT tenant, 'tenth', \
                     CAST(create_time / 1000 % 10 AS text), create_time, id, uid FROM sessions";
        for sql in [&*sessions, all, tenth, "ANALYZE"] {
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
    }
}
