//! Pages, and places in a history.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{super::encode::history_token, *};
use crate::{
    grpc::pb,
    session::{Cursor, From, HistoryPlace, PageToken, Selection, SessionState},
    store::{Order, Range, Time},
};

#[test]
fn sessions_are_selected_by_labels_and_states_that_can_be() {
    let labels = || BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    let states = {
        use pb::SessionState::*;
        [Unloaded, Idle, Waiting, Running, Idle]
    };
    let asked_for =
        |states: Vec<i32>| pb::ListSessionsRequest { labels: labels(), states, ..Default::default() };
    let listing = asked(|checks| checks.listing(asked_for(states.map(i32::from).to_vec()))).unwrap();
    let expected = Selection {
        labels: labels(),
        states: vec![
            SessionState::Idle,
            SessionState::Running,
            SessionState::Waiting,
            SessionState::Unloaded,
        ],
        ..Selection::default()
    };
    assert_eq!((listing.wanted, listing.order, listing.size), (expected, Order::Newest, DEFAULT_PAGE));
    for bad in [0, 77] {
        let refused = asked(|checks| checks.listing(asked_for(vec![bad])).size);
        assert_eq!(refused, Err("states[0]".into()));
    }
}

#[test]
fn sessions_are_selected_by_times_that_can_be_and_ordered_in_known_ways() {
    let check = |request: pb::ListSessionsRequest, expected: Result<(Selection, Order), &str>| {
        let parsed = asked(|checks| {
            let listing = checks.listing(request);
            (listing.wanted, listing.order)
        });
        assert_eq!(parsed, expected.map_err(str::to_owned));
    };
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let range = |from: &str, until: &str| Range { from: Time::parse(from), until: Time::parse(until) };
    let request = pb::ListSessionsRequest {
        owner: "ann".into(),
        created_after: time(0, 0),
        created_before: time(1, 500_000_001),
        updated_after: time(-62_135_596_800, 0),
        updated_before: time(253_402_300_799, 0),
        order_by: "update_time desc".into(),
        ..Default::default()
    };
    let wanted = Selection {
        owner: Some("ann".into()),
        created: range("1970-01-01T00:00:00Z", "1970-01-01T00:00:01.500001Z"),
        updated: Range { from: Some(Time(-62_135_596_800_000_000)), ..range("", "9999-12-31T23:59:59Z") },
        ..Selection::default()
    };
    check(request, Ok((wanted, Order::LatestChange)));
    for (request, field) in [
        (pb::ListSessionsRequest { created_before: time(0, -1), ..Default::default() }, "created_before"),
        (pb::ListSessionsRequest { updated_after: time(i64::MAX, 0), ..Default::default() }, "updated_after"),
        (pb::ListSessionsRequest { order_by: "title".into(), ..Default::default() }, "order_by"),
        (pb::ListSessionsRequest { order_by: "CREATE_TIME".into(), ..Default::default() }, "order_by"),
    ] {
        check(request, Err(field));
    }
}

#[test]
fn a_page_has_a_size_within_bounds() {
    let check = |size: i32, expected: Result<usize, &str>| {
        assert_eq!(asked(|checks| checks.page_size(size)), expected.map_err(String::from), "{size}");
    };
    check(0, Ok(50));
    check(1, Ok(1));
    check(1000, Ok(1000));
    check(1001, Ok(1000));
    check(i32::MAX, Ok(1000));
    check(-1, Err("page_size"));
    check(i32::MIN, Err("page_size"));
}

#[test]
fn a_page_token_is_one_of_ours_or_empty() {
    let request = |token: &str| pb::ListSessionsRequest { page_token: token.into(), ..Default::default() };
    let token_of = |request| asked(|checks| checks.listing(request).after);
    assert_eq!(token_of(request("")), Ok(None));
    let token =
        PageToken::decode(&URL_SAFE_NO_PAD.encode("4 C cbf29ce484222325 1763909336393000 a")).unwrap();
    let encoded = token.encode();
    assert_eq!(token_of(request(&encoded)), Ok(Some(token)));
    for bad in ["x", "!!!", " ", &encoded[1..]] {
        assert_eq!(token_of(request(bad)), Err("page_token".into()), "{bad:?}");
    }
    // Of another list.
    let other = pb::ListSessionsRequest { owner: "ann".into(), ..request(&encoded) };
    assert_eq!(token_of(other), Err("page_token".into()));
    let other = pb::ListSessionsRequest { order_by: "create_time".into(), ..request(&encoded) };
    assert_eq!(token_of(other), Err("page_token".into()));
}

#[test]
fn a_place_in_a_history_survives_its_journey_and_serves_its_own_session_only() {
    let place = HistoryPlace { cursor: "whatever the CLI says".into(), event_id: "e-1".into() };
    let token = history_token(&session_id(), Some(place.clone()));
    assert_eq!(asked(|checks| checks.history_token("s", &token)), Ok(Some(place)));
    assert_eq!(asked(|checks| checks.history_token("t", &token)), Err("page_token".into()));
    assert_eq!(history_token(&session_id(), None), "");
}

#[test]
fn a_session_is_watched_from_now_from_its_beginning_or_from_a_place_of_its_own() {
    let check = |cursor: &str, from_beginning, expected: Result<From, &str>| {
        let asked = asked(|checks| checks.from(Some(&session_id()), cursor, from_beginning));
        assert_eq!(asked, expected.map_err(String::from), "{cursor:?}");
    };
    let cursor = Cursor::after(&session_id(), "e 1");
    check("", false, Ok(From::Now));
    check("", true, Ok(From::Beginning));
    check(cursor.as_str(), false, Ok(From::After("e 1".into())));
    check(cursor.as_str(), true, Err("from_beginning"));
    let others = Cursor::after(&SessionId::parse("s2").unwrap(), "e");
    let nowhere = Cursor::after(&session_id(), "");
    for bad in ["x", " ", "!!!", others.as_str(), nowhere.as_str(), &cursor.as_str()[4..]] {
        check(bad, false, Err("cursor"));
    }
    // Without a valid session id nobody knows whose the cursor would be.
    assert_eq!(asked(|checks| checks.from(None, cursor.as_str(), false)), Err("cursor".into()));
}
