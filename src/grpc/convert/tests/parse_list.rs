//! Pages, and places in a history.

use std::collections::BTreeMap;

use super::*;
use crate::{
    grpc::pb,
    session::{From, Selection, SessionState, Summary, hub::Cursor},
};

#[test]
fn sessions_are_selected_by_labels_and_states_that_can_be() {
    let labels = || BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    let states = {
        use pb::SessionState::*;
        [Idle, Running, Waiting, Unloaded]
    };
    let selected = asked(|checks| checks.selection(labels(), states.map(i32::from).to_vec()));
    let expected = Selection {
        labels: labels(),
        states: vec![
            SessionState::Idle,
            SessionState::Running,
            SessionState::Waiting,
            SessionState::Unloaded,
        ],
    };
    assert_eq!(selected, Ok(expected));
    for bad in [0, 77] {
        let refused = asked(|checks| checks.selection(BTreeMap::new(), vec![bad]));
        assert_eq!(refused, Err("states[0]".into()));
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
    assert_eq!(asked(|checks| checks.page_token("")), Ok(None));
    let one = |id: &str| Summary {
        id: SessionId::parse(id).unwrap(),
        model: String::new(),
        labels: BTreeMap::new(),
        state: SessionState::Idle,
        title: String::new(),
        create_time: "2026-11-23T14:28:56.393Z".into(),
        update_time: String::new(),
        working_directory: String::new(),
        owner: String::new(),
    };
    let (_, token) = crate::session::page(vec![one("a"), one("b")], 1, None);
    let encoded = token.as_ref().unwrap().encode();
    assert_eq!(asked(|checks| checks.page_token(&encoded)), Ok(token));
    for bad in ["x", "!!!", " ", &encoded[1..]] {
        assert_eq!(asked(|checks| checks.page_token(bad)), Err("page_token".into()), "{bad:?}");
    }
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
    // Whose it would be is not known; the session's id is wrong as well.
    assert_eq!(asked(|checks| checks.from(None, cursor.as_str(), false)), Err("cursor".into()));
}
