//! JSON that passes through as it was written, with the order of its names, its numbers and all.
//!
//! Tests: in this file, and `tests/integration/contract.rs`.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// One JSON value, as it was written. Nothing but its syntax was checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Takes a text that is one JSON value, of any depth.
    pub fn new(text: String) -> serde_json::Result<Self> {
        RawValue::from_string(text).map(Self)
    }

    /// Takes a text that is one JSON value on which all parsers agree: at most [`Self::MAX_DEPTH`] levels deep, no name twice
    /// in an object, no number that is too large for a double. The error says what is wrong, and where.
    pub fn strict(text: String) -> serde_json::Result<Self> {
        let mut reader = serde_json::Deserializer::from_str(&text);
        Strict { depth_left: Self::MAX_DEPTH }.deserialize(&mut reader)?;
        reader.end()?;
        Self::new(text)
    }

    /// How many lists and objects may be within each other in a value that is taken strictly. Parsers give up at some depth,
    /// many at 128.
    pub const MAX_DEPTH: usize = 100;

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Parses it as a value of this type; `None` if it is not one.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.as_str()).ok()
    }

    /// The text in a field; empty if there is none.
    pub fn text(&self, field: &str) -> Cow<'_, str> {
        /// A text, borrowed where it has no escapes.
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let fields: Option<HashMap<Cow<'_, str>, &RawValue>> = serde_json::from_str(self.as_str()).ok();
        let text = fields.and_then(|fields| serde_json::from_str(fields.get(field)?.get()).ok());
        text.map(|Text(text)| text).unwrap_or_default()
    }
}

/// Reads JSON to check it, and keeps nothing.
struct Strict {
    depth_left: usize,
}

impl Strict {
    fn deeper<E: de::Error>(&self) -> Result<usize, E> {
        let too_deep = || E::custom(format_args!("more than {} levels deep", Json::MAX_DEPTH));
        self.depth_left.checked_sub(1).ok_or_else(too_deep)
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth_left = self.deeper()?;
        while items.next_element_seed(Strict { depth_left })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let depth_left = self.deeper()?;
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if names.contains(&name) {
                return Err(de::Error::custom(format_args!("the name {name:?} is twice in one object")));
            }
            names.insert(name);
            fields.next_value_seed(Strict { depth_left })?;
        }
        Ok(())
    }
}

/// The default is `null`.
impl Default for Json {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl From<&RawValue> for Json {
    fn from(json: &RawValue) -> Self {
        Self(json.to_owned())
    }
}

impl From<Json> for String {
    fn from(Json(json): Json) -> Self {
        Box::<str>::from(json).into()
    }
}

#[cfg(test)]
impl From<serde_json::Value> for Json {
    fn from(json: serde_json::Value) -> Self {
        serde_json::from_value(json).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_and_written_as_it_is() {
        let text = r#"{"z": 1234567890123456789, "a": 1.0, "b": "\u00e9\/", "a": [ ]}"#;
        #[derive(Serialize, Deserialize)]
        struct Holder {
            json: Json,
        }
        let holder = format!(r#"{{"json":{text}}}"#);
        let read: Holder = serde_json::from_str(&holder).unwrap();
        assert_eq!(read.json.as_str(), text);
        assert_eq!(serde_json::to_string(&read).unwrap(), holder);
        assert_eq!(String::from(read.json), text);
    }

    #[test]
    fn what_everybody_reads_the_same_is_taken_and_nothing_else() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let good = [
            r#" {"a": {"a": 1}, "b": [1, "a", null, true, -1.5e300, 123456789012345678901234567890]} "#,
            "null",
            "\"\"",
            &nested(Json::MAX_DEPTH),
        ];
        for good in good {
            assert_eq!(Json::strict(good.into()).unwrap().as_str(), good.trim());
        }
        let bad = [
            ("", "EOF"),
            ("NaN", "expected value"),
            ("-Infinity", "invalid number"),
            ("{} {}", "trailing characters"),
            ("{'a': 1}", "key must be a string"),
            ("1e999", "out of range"),
            (r#"["\ud83d"]"#, "hex escape"),
            (r#"{"a": 1, "b": {"c": 1, "\u0063": 2}}"#, r#"the name "c" is twice in one object"#),
            (&nested(Json::MAX_DEPTH + 1), "more than 100 levels deep"),
            (&nested(10_000), "more than 100 levels deep"),
        ];
        for (bad, why) in bad {
            let error = Json::strict(bad.into()).unwrap_err().to_string();
            assert!(error.contains(why), "{bad:.50}: {error}");
        }
    }

    #[test]
    fn a_text_is_found_among_fields() {
        let json = Json::new(r#"{"a": "x", "b": "\"", "c": 1}"#.into()).unwrap();
        assert!(matches!(json.text("a"), Cow::Borrowed("x")));
        assert_eq!(json.text("b"), "\"");
        assert_eq!(json.text("c"), "");
        assert_eq!(json.text("d"), "");
        assert_eq!(Json::default().text("a"), "");
    }
}
