//! Reading what is not as expected. The CLI sends optional fields as `null` (observed), and releases change types; an event
//! is to have its effect all the same. So a field that cannot be read counts as absent.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::FinishReason;

/// What can be read of JSON that is not exactly of its type.
pub(super) trait Lenient: Sized {
    /// Its fields, if it has some.
    #[cfg(test)]
    const FIELDS: &'static [&'static str] = &[];

    /// Reads what there is; `None` if that is nothing.
    fn lenient(json: &Value) -> Option<Self>;
}

/// A field, by its name in Rust.
pub(super) fn field<T: Lenient + Default>(fields: &Map<String, Value>, name: &str) -> T {
    fields.get(&camel_case(name)).and_then(T::lenient).unwrap_or_default()
}

/// A field's name on the wire.
pub(super) fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default();
    words.fold(first.to_owned(), |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

impl Lenient for Value {
    fn lenient(json: &Value) -> Option<Self> {
        Some(json.clone())
    }
}

/// Nothing else becomes a text: it may be an id, which has to be the CLI's own.
impl Lenient for String {
    fn lenient(json: &Value) -> Option<Self> {
        json.as_str().map(Self::from)
    }
}

impl Lenient for bool {
    fn lenient(json: &Value) -> Option<Self> {
        json.as_bool().or_else(|| json.as_str()?.parse().ok())
    }
}

impl Lenient for f64 {
    fn lenient(json: &Value) -> Option<Self> {
        let number = json.as_f64().or_else(|| json.as_str()?.trim().parse().ok());
        number.filter(|number: &Self| number.is_finite())
    }
}

impl Lenient for i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a count may come as 12.0; what is too large saturates"
    )]
    fn lenient(json: &Value) -> Option<Self> {
        json.as_i64()
            .or_else(|| json.as_str()?.trim().parse().ok())
            .or_else(|| Some(f64::lenient(json)? as Self))
    }
}

impl Lenient for i32 {
    fn lenient(json: &Value) -> Option<Self> {
        i64::lenient(json)?.try_into().ok()
    }
}

impl Lenient for FinishReason {
    fn lenient(json: &Value) -> Option<Self> {
        Self::deserialize(json).ok()
    }
}

impl<T: Lenient> Lenient for Option<T> {
    fn lenient(json: &Value) -> Option<Self> {
        Some(T::lenient(json))
    }
}

/// Without the items that cannot be read.
impl<T: Lenient> Lenient for Vec<T> {
    fn lenient(json: &Value) -> Option<Self> {
        Some(json.as_array()?.iter().filter_map(T::lenient).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_of_another_type_is_read_as_far_as_it_makes_sense() {
        assert_eq!(i64::lenient(&json!(12.0)), Some(12));
        assert_eq!(i64::lenient(&json!("12")), Some(12));
        assert_eq!(i64::lenient(&json!("12.7")), Some(12));
        assert_eq!(i64::lenient(&json!(u64::MAX)), Some(i64::MAX));
        assert_eq!(i64::lenient(&json!("many")), None);
        assert_eq!(i32::lenient(&json!(429)), Some(429));
        assert_eq!(i32::lenient(&json!(1e12)), None);
        assert_eq!(f64::lenient(&json!("1.5")), Some(1.5));
        assert_eq!(f64::lenient(&json!("NaN")), None);
        assert_eq!(bool::lenient(&json!("true")), Some(true));
        assert_eq!(bool::lenient(&json!(1)), None);
        assert_eq!(String::lenient(&json!(7)), None);
        assert_eq!(Vec::<String>::lenient(&json!(["a", 1, "b"])), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(Option::<String>::lenient(&json!(null)), Some(None));
    }

    #[test]
    fn fields_have_their_names_of_the_wire() {
        for (name, wire) in [("content", "content"), ("tool_call_id", "toolCallId"), ("a_b", "aB")] {
            assert_eq!(camel_case(name), wire);
        }
    }
}
