//! Each request, event and value, and what it is converted to. This file has what these tests have in common.

mod encode;
mod parse_answer;
mod parse_list;
mod parse_options;
mod parse_session;
mod parse_turn;

use serde_json::{Value as Json, json};

use super::parse::*;
use crate::{
    copilot::{Event, event},
    session::SessionId,
};

/// A secret that must not be in an error.
const SECRET: &str = "hunter2";

fn wire(event: Json) -> Event {
    event::parse(json!({"sessionId": "s", "event": event}).to_string().as_bytes()).unwrap()
}

fn session_id() -> SessionId {
    SessionId::parse("s").unwrap()
}

/// The result of one check: the fields that are wrong, or the value.
fn asked<T>(ask: impl FnOnce(&mut Checks) -> T) -> Result<T, String> {
    let mut checks = Checks::default();
    let value = ask(&mut checks);
    checks.done(Some(value)).map_err(|violations| {
        let named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        named.join(" ")
    })
}

#[test]
fn nothing_comes_of_a_value_that_is_missing_or_wrong() {
    assert_eq!(Checks::default().done::<()>(None), Err(vec![]));
    assert_eq!(Checks::default().done(Some(1)), Ok(1));
    let mut checks = Checks::default();
    checks.wrong("field", "no");
    assert!(checks.done(Some(1)).is_err());
}

#[test]
fn a_session_id_is_checked() {
    let check = |id: &str, expected: Result<&str, &str>| {
        let asked = asked(|checks| checks.session_id(id)).map(|id| id.unwrap().to_string());
        assert_eq!(asked, expected.map(String::from).map_err(String::from), "{id:?}");
    };
    check("My_session-1", Ok("My_session-1"));
    for bad in ["", "a b", "../x", &"x".repeat(129)] {
        check(bad, Err("session_id"));
    }
}

#[test]
fn a_schema_has_to_be_one() {
    let check = |schema: Json, expected: &str| {
        let mut checks = Checks::default();
        checks.json_schema("schema", schema.to_string());
        let said = checks.done(Some(())).err().unwrap_or_default();
        let said: Vec<_> = said.iter().map(|wrong| wrong.description.as_str()).collect();
        assert!(said.concat().contains(expected) && said.is_empty() == expected.is_empty(), "{said:?}");
    };
    check(json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}), "");
    check(json!({}), "\"type\": \"object\"");
    check(json!({"type": "string"}), "\"type\": \"object\"");
    check(
        json!({"type": "object", "properties": {"a": {"type": "nonsense"}}}),
        "cannot be used as a JSON schema",
    );
    check(
        json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}),
        "cannot be used as a JSON schema",
    );
}

#[test]
fn json_has_to_be_json_that_everybody_reads_the_same() {
    let check = |text: &str, expected: &str| {
        let mut checks = Checks::default();
        let json = checks.json("field_json", text.into());
        let said = checks.done(json.as_ref()).map(|json| json.as_str().to_owned());
        match said {
            Ok(json) => assert_eq!(json, expected),
            Err(said) => {
                let [wrong] = &said[..] else { panic!("{said:?}") };
                assert!(wrong.field == "field_json" && wrong.description.contains(expected), "{wrong:?}");
            }
        }
    };
    let kept = r#"{"z": 1234567890123456789, "a": [1.0, "\u00e9"]}"#;
    check(kept, kept);
    check("", "is required");
    check(" \n", "is required");
    check("{\"a\": NaN}", "expected value at line 1 column 7");
    check("{\"a\": 1} x", "trailing characters");
    check("{\"a\": 1, \"a\": 2}", "twice in one object");
    check(&("[".repeat(10_000) + &"]".repeat(10_000)), "more than 100 levels deep");
}
