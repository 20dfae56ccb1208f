//! Lenient parsing of events. The CLI sends optional fields as `null` (observed), and releases change types; an event must have
//! its effect all the same. So a field that cannot be read counts as absent.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::copilot::json::Json;

/// The fields of an object, by their names on the wire.
pub(super) type Fields<'a> = HashMap<String, &'a RawValue>;

/// A type that can be read from JSON that is not exactly of it.
pub(super) trait Lenient: Sized {
    /// The names of its fields, if it has some.
    #[cfg(test)]
    const FIELDS: &'static [&'static str] = &[];

    /// Reads what can be read; `None` if that is nothing.
    fn lenient(json: &RawValue) -> Option<Self>;
}

/// Reads a field, by its name in Rust.
pub(super) fn field<T: Lenient + Default>(fields: &Fields<'_>, name: &str) -> T {
    fields.get(&camel_case(name)).and_then(|json| T::lenient(json)).unwrap_or_default()
}

/// The name of a field on the wire.
pub(super) fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default();
    words.fold(first.to_owned(), |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

/// Reads a field whose `null` means something else than its absence.
pub(super) fn told<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// Reads JSON that is exactly of its type.
pub(super) fn exact<T: DeserializeOwned>(json: &RawValue) -> Option<T> {
    serde_json::from_str(json.get()).ok()
}

/// Reads a number, or another value, that is written as a text.
fn written<T: std::str::FromStr>(json: &RawValue) -> Option<T> {
    exact::<String>(json)?.trim().parse().ok()
}

impl Lenient for Json {
    fn lenient(json: &RawValue) -> Option<Self> {
        (json.get() != "null").then(|| json.into())
    }
}

/// Reads strings only: the text may be an id, which has to be the CLI's own.
impl Lenient for String {
    fn lenient(json: &RawValue) -> Option<Self> {
        exact(json)
    }
}

impl Lenient for bool {
    fn lenient(json: &RawValue) -> Option<Self> {
        exact(json).or_else(|| written(json))
    }
}

impl Lenient for f64 {
    fn lenient(json: &RawValue) -> Option<Self> {
        exact(json).or_else(|| written(json)).filter(|number: &Self| number.is_finite())
    }
}

impl Lenient for i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a count may come as 12.0; what is too large saturates"
    )]
    fn lenient(json: &RawValue) -> Option<Self> {
        exact(json).or_else(|| written(json)).or_else(|| Some(f64::lenient(json)? as Self))
    }
}

impl Lenient for i32 {
    fn lenient(json: &RawValue) -> Option<Self> {
        i64::lenient(json)?.try_into().ok()
    }
}

impl<T: Lenient> Lenient for Option<T> {
    fn lenient(json: &RawValue) -> Option<Self> {
        Some(T::lenient(json))
    }
}

/// Reads the items that can be read.
impl<T: Lenient> Lenient for Vec<T> {
    fn lenient(json: &RawValue) -> Option<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get()).ok()?;
        Some(items.into_iter().filter_map(T::lenient).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lenient<T: Lenient>(json: Value) -> Option<T> {
        T::lenient(&serde_json::value::to_raw_value(&json).unwrap())
    }

    #[test]
    fn what_is_of_another_type_is_read_as_far_as_it_makes_sense() {
        assert_eq!(lenient::<i64>(json!(12.0)), Some(12));
        assert_eq!(lenient::<i64>(json!("12")), Some(12));
        assert_eq!(lenient::<i64>(json!("12.7")), Some(12));
        assert_eq!(lenient::<i64>(json!(u64::MAX)), Some(i64::MAX));
        assert_eq!(lenient::<i64>(json!("many")), None);
        assert_eq!(lenient::<i32>(json!(429)), Some(429));
        assert_eq!(lenient::<i32>(json!(1e12)), None);
        assert_eq!(lenient::<f64>(json!("1.5")), Some(1.5));
        assert_eq!(lenient::<f64>(json!("NaN")), None);
        assert_eq!(lenient::<bool>(json!("true")), Some(true));
        assert_eq!(lenient::<bool>(json!(1)), None);
        assert_eq!(lenient::<String>(json!(7)), None);
        assert_eq!(lenient::<Vec<String>>(json!(["a", 1, "b"])), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(lenient::<Option<String>>(json!(null)), Some(None));
    }

    #[test]
    fn fields_have_their_names_of_the_wire() {
        for (name, wire) in [("content", "content"), ("tool_call_id", "toolCallId"), ("a_b", "aB")] {
            assert_eq!(camel_case(name), wire);
        }
    }
}
