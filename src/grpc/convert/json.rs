//! JSON as `google.protobuf.Struct` and back.

use std::collections::BTreeMap;

use prost_types::{Struct, Value, value::Kind};
use serde_json::{Map, Number, Value as Json};

/// How deep JSON may be until the rest is given as text: protobuf's readers give up at 100 messages within each other, of
/// which one level of JSON takes up to four.
pub(in crate::grpc) const MAX_DEPTH: usize = 20;

/// JSON as a Struct; what is not an object becomes one with the single field `value`.
pub(in crate::grpc) fn object(json: &Json) -> Struct {
    let fields = match json {
        Json::Object(fields) => fields.iter().map(|(name, json)| (name.clone(), value(json, 1))).collect(),
        Json::Null => BTreeMap::new(),
        other => BTreeMap::from([("value".to_owned(), value(other, 1))]),
    };
    Struct { fields }
}

pub(in crate::grpc) fn value(json: &Json, depth: usize) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(_) | Json::Object(_) if depth >= MAX_DEPTH => Kind::StringValue(json.to_string()),
        Json::Array(items) => {
            let values = items.iter().map(|item| value(item, depth + 1)).collect();
            Kind::ListValue(prost_types::ListValue { values })
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, json)| (name.clone(), value(json, depth + 1))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

/// A Struct as JSON.
pub(in crate::grpc) fn from_struct(object: Struct) -> Json {
    Json::Object(
        object.fields.into_iter().map(|(name, value)| (name, from_value(value))).collect::<Map<_, _>>(),
    )
}

/// A Value as JSON. It knows only doubles, but where JSON is meant whole numbers should look like some.
pub(in crate::grpc) fn from_value(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(number)) => whole(number)
            .map(Number::from)
            .or_else(|| Number::from_f64(number))
            .map_or(Json::Null, Json::Number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(from_value).collect()),
        Some(Kind::StructValue(object)) => from_struct(object),
    }
}

/// A number without a fraction, of a size up to which doubles hold all of them.
fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = (1_i64 << 53) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is small enough")]
    (number.fract() == 0.0 && number.abs() <= LIMIT).then_some(number as i64)
}
