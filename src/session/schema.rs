//! What an answer must look like, where its caller wants JSON. Pure.

use std::{fmt, sync::Arc};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// A JSON schema that answers are checked with. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Validator>);

impl Schema {
    /// Makes a checker of a schema; the error says what is wrong with it.
    pub fn new(schema: &Value) -> Result<Self, String> {
        // Of the two engines for patterns the one whose time is linear: they are the caller's.
        jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map(|validator| Self(Arc::new(validator)))
            .map_err(|error| error.to_string())
    }

    /// Reads an answer; the error says where it is not what it must be.
    pub(super) fn read(&self, answer: &str) -> Result<Value, String> {
        let json =
            serde_json::from_str(unfenced(answer)).map_err(|error| format!("it is no JSON: {error}"))?;
        let problem = self
            .0
            .iter_errors(&json)
            .next()
            .map(|error| format!("at {:?}: {}", error.instance_path().to_string(), error.masked()));
        problem.map_or(Ok(json), Err)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// The text without the code fence that some models put around JSON.
fn unfenced(answer: &str) -> &str {
    let answer = answer.trim();
    let inside = answer.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inside.map_or(answer, |rest| rest.strip_prefix("json").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_if_it_is_json_of_the_schema() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let schema = Schema::new(&schema).unwrap();
        let check = |answer: &str, expected: Result<Value, &str>| match (schema.read(answer), expected) {
            (Ok(json), Ok(expected)) => assert_eq!(json, expected),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
            (got, expected) => panic!("{got:?} and not {expected:?}"),
        };
        check(r#" {"n": 3} "#, Ok(json!({"n": 3})));
        check("```json\n{\"n\": 3}\n```", Ok(json!({"n": 3})));
        check("```\n{\"n\": 3}```", Ok(json!({"n": 3})));
        check("three", Err("no JSON"));
        check("{}", Err("required"));
        check(r#"{"n": "three"}"#, Err("/n"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_answer() {
        let schema = Schema::new(&json!({"properties": {"n": {"type": "integer"}}})).unwrap();
        let problem = schema.read(r#"{"n": "a secret"}"#).unwrap_err();
        assert!(!problem.contains("secret"), "{problem}");
    }
}
