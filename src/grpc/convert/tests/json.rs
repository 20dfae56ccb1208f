//! JSON, and what becomes of it in a message.

use prost::Message as _;

use super::*;
use crate::{grpc::pb, session::hub::Update};

#[test]
fn json_becomes_a_struct_with_nothing_lost() {
    let check = |json: Json, expected: Struct| assert_eq!(object(&json), expected, "{json}");
    let null = || Value { kind: Some(Kind::NullValue(0)) };
    let list = |values| Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) };
    let nested = |fields| Value { kind: Some(Kind::StructValue(fields)) };
    let boolean = |value| Value { kind: Some(Kind::BoolValue(value)) };
    check(json!({}), fields([]));
    check(json!(null), fields([]));
    check(
        json!({"a": null, "b": true, "c": "ü"}),
        fields([("a", null()), ("b", boolean(true)), ("c", text("ü"))]),
    );
    check(
        json!({"n": [0, -1, 1.5, 1e300, 9_007_199_254_740_993_u64]}),
        fields([(
            "n",
            list(vec![
                number(0.0),
                number(-1.0),
                number(1.5),
                number(1e300),
                number(9_007_199_254_740_992.0),
            ]),
        )]),
    );
    check(
        json!({"a": [[], [null, {"b": [1]}]]}),
        fields([(
            "a",
            list(vec![list(vec![]), list(vec![null(), nested(fields([("b", list(vec![number(1.0)]))]))])]),
        )]),
    );
    check(json!({"": {"": {}}}), fields([("", nested(fields([("", nested(fields([])))])))]));
    // What is not an object.
    check(json!("ls"), fields([("value", text("ls"))]));
    check(json!([1, "a"]), fields([("value", list(vec![number(1.0), text("a")]))]));
    check(json!(false), fields([("value", boolean(false))]));
}

#[test]
fn deep_json_can_be_read_by_the_clients() {
    let deep = (0..60).fold(json!("x"), |inner, _| json!({"a": inner}));
    let event = wire(json!({"type": "brand.new", "data": deep}));
    let event = pb::SessionEvent::from(Update::new(event.into(), None));
    assert_eq!(pb::SessionEvent::decode(&*event.encode_to_vec()), Ok(event));
}

#[test]
fn json_survives_its_journey_through_a_struct() {
    let json = json!({"type": "object", "n": 3, "half": 0.5, "list": [null, true, {"deep": "text"}]});
    assert_eq!(from_struct(object(&json)), json);
    assert_eq!(from_struct(object(&json)).to_string(), json.to_string());
}
