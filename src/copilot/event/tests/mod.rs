pub(in crate::copilot) mod oddities;

use serde_json::{Value, json};

use super::*;

fn params(event: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({"sessionId": "s", "event": event})).unwrap()
}

#[test]
fn a_peek_sees_session_and_kind() {
    let params = params(&json!({"id": "1", "data": {"type": "decoy"}, "type": "assistant.message_delta"}));
    let peek = peek(&params).unwrap();
    assert_eq!((&*peek.session_id, peek.kind()), ("s", "assistant.message_delta"));
    assert_eq!(super::peek(b"{}"), None);
    assert_eq!(super::peek(b"not json"), None);
}

#[test]
fn what_begins_as_the_cli_writes_it_is_not_read_further() {
    let check = |params: &str, expected: Option<(&str, &str)>| {
        let seen = skim(params.as_bytes());
        assert_eq!(seen.as_ref().map(|(peek, _)| (&*peek.session_id, peek.kind())), expected, "{params}");
    };
    check(r#"{"sessionId":"s","event":{"type":"a.b","data":{ not read"#, Some(("s", "a.b")));
    check(r#"{"sessionId":"s","event":{"type":"a.b""#, Some(("s", "a.b")));
    check(r#"{"sessionId":"s","event":{"type":"a.b"#, None);
    check(r#"{"sessionId":"s","event":{"type":"a\"b","data":{}}}"#, None);
    check(r#"{"sessionId":"\u0073","event":{"type":"a.b"}}"#, None);
    check(r#"{"sessionId":"s", "event":{"type":"a.b"}}"#, None);
    check(r#"{"sessionId":"s","event":{"id":"1","type":"a.b"}}"#, None);
}

#[test]
fn an_event_is_read_the_same_whether_its_kind_comes_first_or_not() {
    let data = r#""data":{"messageId":"m","deltaContent":"hi"},"id":"1","timestamp":"t","agentId":"a""#;
    let kind = r#""type":"assistant.message_delta""#;
    let read = |event: &str| parse(format!(r#"{{"sessionId":"s","event":{{{event}}}}}"#).as_bytes());
    let first = read(&format!("{kind},{data}"));
    assert!(matches!(first, Some(Event { payload: Payload::AssistantMessageDelta(_), .. })), "{first:?}");
    assert_eq!(first, read(&format!("{data},{kind}")));
}

#[test]
fn a_delta_is_read_the_same_whether_its_fields_come_as_usual_or_not() {
    for (kind, whole) in
        [("assistant.message_delta", "messageId"), ("assistant.reasoning_delta", "reasoningId")]
    {
        let data = format!(r#""type":"{kind}","data":{{"{whole}":"m","deltaContent":"\"\ud83d\ude00 é"}}"#);
        let usual = format!(r#"{{{data},"ephemeral":true,"id":"1","timestamp":"t","parentId":null}}"#);
        let other = format!(r#"{{{data},"id":"1","timestamp":"t","ephemeral":true}}"#);
        assert_eq!(delta(&other), None);
        let read = delta(&usual).map(|event| Event { weight: other.len(), ..event });
        assert_eq!(read, parse_stored(&other));
        assert!(read.is_some());
    }
    assert_eq!(delta(r#"{"type":"assistant.message","data":{"messageId":"m"}}"#), None);
}

#[test]
fn of_a_sessions_life_only_its_end_matters() {
    assert!(is_no_deletion(br#"{"type":"session.updated","sessionId":"s"}"#));
    for news in [&br#"{"type":"session.deleted","sessionId":"s"}"#[..], br#"{"sessionId":"s"}"#, b"{}"] {
        assert!(!is_no_deletion(news));
    }
}

#[test]
fn known_events_are_typed_and_all_others_pass_through() {
    let check = |kind: &str, data: Value, expected: Payload| {
        let event =
            parse(&params(&json!({"id": "1", "type": kind, "timestamp": "t", "data": data}))).unwrap();
        assert_eq!(event.payload, expected);
    };
    check(
        "assistant.message_delta",
        json!({"messageId": "m", "deltaContent": "hi", "new": 1}),
        Payload::AssistantMessageDelta(AssistantMessageDelta {
            message_id: "m".into(),
            delta_content: "hi".into(),
        }),
    );
    check("session.idle", json!({}), Payload::SessionIdle(Idle::default()));
    check("session.fresh", json!({"x": [1]}), Payload::Other(json!({"x": [1]}).into()));
    check("assistant.message_delta", json!({"messageId": 7}), Payload::Other(json!({"messageId": 7}).into()));
}

#[test]
fn an_event_without_data_is_an_event() {
    assert_eq!(
        parse(&params(&json!({"type": "new.kind"}))).unwrap().payload,
        Payload::Other(Json::default())
    );
    assert_eq!(parse(&params(&json!({"data": {}}))), None);
}
