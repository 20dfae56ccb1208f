//! JSON schemas of callers and MCP servers, and the check of answers against them. Pure.
//!
//! Schema and answer are both foreign, so neither may cost much. [`bounds`] refuses a schema that expands too far, before
//! anything is compiled. What an answer then costs depends on both: a recursive schema of a few lines can take the age of the
//! universe over an answer of a few lines. So each part of the schema gets a [`meter`], which counts the work and ends it when
//! it was enough. Nothing is ever fetched: references stay inside the schema, or lead to the published meta-schemas, which the
//! validator holds.
//!
//! Tests: `schema/tests.rs`, `tests/integration/bounds.rs`, and the fuzz target `schema`.

mod bounds;
mod index;
mod meter;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::Json;
use crate::lock::lock;

use meter::{COMPILING, EXPLAINING, JUDGING, METER, Meter, Work};

/// The largest schema, in bytes.
const MAX_TEXT: usize = 512 * 1024;

/// The longest answer that is checked, in bytes. Parsed, it takes up to 30 times as much memory.
const MAX_ANSWER: usize = 1024 * 1024;

/// A compiled JSON schema. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Checker>);

struct Checker {
    validator: Validator,
    work: Arc<Work>,
    /// Held while an answer is checked, because the work is counted in one place.
    checking: Mutex<()>,
}

/// Why an answer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The answer does not match the schema.
    #[error("{0}")]
    Mismatch(String),
    /// The check takes more work than is allowed.
    #[error("checking it takes more work than is allowed: simplify the schema, or ask for a shorter answer")]
    TooMuchWork,
}

impl Schema {
    /// Compiles a schema. The error says what is wrong with it.
    pub fn new(schema: &Json) -> Result<Self, String> {
        if schema.as_str().len() > MAX_TEXT {
            return Err(format!("it has more than {MAX_TEXT} bytes"));
        }
        let schema = serde_json::from_str(schema.as_str()).map_err(|error| error.to_string())?;
        let metered = bounds::admit(&schema)?;
        let work = Arc::new(Work::default());
        let counter = work.clone();
        work.allow(COMPILING);
        let compile = || {
            // Of the two engines for patterns this is the one in linear time: the patterns are foreign.
            jsonschema::options()
                .with_pattern_options(PatternOptions::regex().size_limit(bounds::MAX_PATTERN_BYTES))
                .with_keyword(METER, move |_, costs, _| Ok(Box::new(Meter::new(costs, &counter))))
                .build(&metered)
        };
        match catch_unwind(AssertUnwindSafe(compile)) {
            Ok(Ok(validator)) => Ok(Self(Arc::new(Checker { validator, work, checking: Mutex::default() }))),
            Ok(Err(error)) => Err(error.masked().to_string()),
            Err(_) => Err(bounds::TOO_LARGE.into()),
        }
    }

    /// Parses an answer, also one in a code fence, and returns its JSON as written. It takes up to 100 ms, and stack: see
    /// [`Self::STACK`].
    pub fn read(&self, answer: &str) -> Result<Json, Unfit> {
        let answer = unfenced(answer);
        if answer.len() > MAX_ANSWER {
            return Err(Unfit::TooMuchWork);
        }
        let no_json = |error: serde_json::Error| Unfit::Mismatch(format!("it is no JSON: {error}"));
        let json = Json::strict(answer.to_owned()).map_err(no_json)?;
        let value = serde_json::from_str(answer).map_err(no_json)?;
        self.check(&value).map(|()| json)
    }

    /// The stack that a thread needs to check answers, in bytes.
    pub const STACK: usize = meter::MAX_STACK + 1024 * 1024;

    fn check(&self, json: &Value) -> Result<(), Unfit> {
        let checker = &*self.0;
        let _checking = lock(&checker.checking);
        if checker.within(JUDGING, |validator| validator.is_valid(json)).ok_or(Unfit::TooMuchWork)? {
            return Ok(());
        }
        // An explanation takes memory, so there is less work for it.
        let said = checker
            .within(EXPLAINING, |validator| validator.validate(json).err().map(|error| describe(&error)));
        Err(Unfit::Mismatch(said.flatten().unwrap_or_else(|| "it does not match, in many ways".into())))
    }
}

impl Checker {
    /// Runs the validator; `None`: it took more work than that. The validator cannot be told to stop, so the meter unwinds it,
    /// which leaves it as it was.
    fn within<T>(&self, work: u64, act: impl FnOnce(&Validator) -> T) -> Option<T> {
        self.work.allow(work);
        catch_unwind(AssertUnwindSafe(|| act(&self.validator))).ok()
    }
}

fn describe(error: &jsonschema::ValidationError<'_>) -> String {
    format!("at {:?}: {}", error.instance_path().to_string(), error.masked())
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
mod tests;
