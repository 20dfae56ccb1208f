//! The limits of a schema, counted before anything is compiled.
//!
//! It counts the work at one place of an answer: `allOf`, `anyOf`, references and the like apply to the same place, and nine
//! definitions of eight references each make 134 million of them. What goes into the answer, such as `properties`, begins anew
//! there, so recursion is free here; the meter counts it over an answer.
//!
//! A schema that is accepted gets its meters: each part P becomes `{"allOf": [meter, P]}`, because the validator runs a custom
//! keyword last where it stands beside others.

use std::collections::{HashMap, HashSet};

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Value, json};

use super::{
    index::{Index, Role},
    meter::{Costs, METER},
};

/// How many parts of a schema may apply to one place of an answer.
const MAX_APPLIED: u64 = 10_000;

/// How many parts may apply to a place one through the other.
const MAX_CHAIN: usize = 100;

/// How many states the patterns of a schema may expand to.
const MAX_STATES: u64 = 100_000;

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// The memory that the largest pattern takes, in bytes. The states that are counted are much smaller.
pub(super) const MAX_PATTERN_BYTES: usize = 8 * 1024 * 1024;

/// The error for a schema that expands too far.
pub(super) const TOO_LARGE: &str =
    "it expands too far: use fewer references and alternatives within each other";

/// The schema with a meter in each part of it. The error says why the schema is refused.
pub(super) fn admit(schema: &Value) -> Result<Value, String> {
    let index = Index::of(schema)?;
    let mut count = Count { index: &index, counted: HashMap::new() };
    for part in &index.parts {
        count.applied(part, 0)?;
    }
    count.refuse_knots()?;
    let applied = count.counted;
    let states = states_of(&index.parts)?;
    Ok(Meters { index: &index, applied, states }.put(schema, Role::Part, true))
}

/// The keywords that refer to another part.
const REFERENCES: &[&str] = &["$ref", "$dynamicRef", "$recursiveRef"];

/// The keywords that depend on what other keywords have evaluated.
const UNEVALUATED: &[&str] = &["unevaluatedProperties", "unevaluatedItems"];

/// How many parts are visited to check such keywords.
const MAX_LOOKED_AT: u32 = 200_000;

/// Counts the parts that apply to one place of an answer.
struct Count<'a> {
    index: &'a Index<'a>,
    /// The count of each part. `None`: it is being counted.
    counted: HashMap<*const Value, Option<Applied>>,
}

/// How many parts apply to a place, and through how many others.
#[derive(Clone, Copy)]
struct Applied {
    parts: u64,
    chain: usize,
}

impl<'a> Count<'a> {
    fn applied(&mut self, part: &'a Value, depth: usize) -> Result<Applied, String> {
        let Value::Object(keywords) = part else { return Ok(Applied { parts: 1, chain: 1 }) };
        match self.counted.get(&std::ptr::from_ref(part)) {
            Some(Some(applied)) => return Ok(*applied),
            Some(None) => return Err("it refers to itself without going into the answer".into()),
            None if depth > MAX_CHAIN => return Err(TOO_LARGE.into()),
            None => {}
        }
        self.counted.insert(part, None);
        let mut all = Applied { parts: 1, chain: 1 };
        for (keyword, value) in keywords {
            for more in self.applies(part, keyword, value)? {
                let Applied { parts, chain } = self.applied(more, depth + 1)?;
                all = Applied { parts: all.parts.saturating_add(parts), chain: all.chain.max(chain + 1) };
            }
        }
        if all.parts > MAX_APPLIED || all.chain > MAX_CHAIN {
            return Err(TOO_LARGE.into());
        }
        self.counted.insert(part, Some(all));
        Ok(all)
    }

    /// Refuses a part with such a keyword if a reference beside it leads to what it is written in: the validator makes a cycle
    /// of the two, and never frees its memory (jsonschema 0.61).
    fn refuse_knots(&self) -> Result<(), String> {
        let mut left = MAX_LOOKED_AT;
        for part in &self.index.parts {
            let Some(keyword) = UNEVALUATED.iter().find(|keyword| part.get(**keyword).is_some()) else {
                continue;
            };
            let (mut seen, mut to_see) = (HashSet::new(), vec![*part]);
            while let Some(next) = to_see.pop() {
                left = left.checked_sub(1).ok_or(TOO_LARGE)?;
                let Value::Object(keywords) = next else { continue };
                if !std::ptr::eq(next, *part) && self.index.is_within(part, next) {
                    return Err(format!(
                        "`{keyword}` beside a reference to what it is written in: give the part that has it a name in `$defs`, \
                         and refer to that"
                    ));
                }
                for (keyword, value) in keywords {
                    let applied = self.applies(next, keyword, value)?;
                    to_see.extend(applied.into_iter().filter(|part| seen.insert(std::ptr::from_ref(*part))));
                }
            }
        }
        Ok(())
    }

    /// The parts that a keyword applies to the same place.
    fn applies(&self, part: &'a Value, keyword: &str, value: &'a Value) -> Result<Vec<&'a Value>, String> {
        Ok(match (keyword, value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(each)) => each.iter().collect(),
            ("not" | "if" | "then" | "else", _) => vec![value],
            ("dependentSchemas" | "dependencies", Value::Object(each)) => each.values().collect(),
            (_, Value::String(reference)) if REFERENCES.contains(&keyword) => {
                self.index.targets(reference, part)?
            }
            _ => Vec::new(),
        })
    }
}

/// Puts meters into a schema.
struct Meters<'a> {
    index: &'a Index<'a>,
    applied: HashMap<*const Value, Option<Applied>>,
    states: HashMap<&'a str, u64>,
}

impl<'a> Meters<'a> {
    /// A copy with meters. The root gets none, because its dialect must be said there.
    fn put(&self, value: &'a Value, role: Role, is_root: bool) -> Value {
        let keywords = match (value, role) {
            (_, Role::Constant | Role::Note) => return value.clone(),
            (Value::Array(items), _) => {
                return items.iter().map(|item| self.put(item, role, false)).collect();
            }
            (Value::Object(keywords), _) => keywords,
            _ => return value.clone(),
        };
        // Notes are left out, and so is a meter of the caller's.
        let kept = keywords.iter().filter(|(keyword, _)| {
            role == Role::Map || (role.of(keyword) != Role::Note && *keyword != METER)
        });
        let metered: Map<_, _> = kept
            .map(|(keyword, inner)| match inner {
                Value::String(reference) if role == Role::Part && REFERENCES.contains(&keyword.as_str()) => {
                    (keyword.clone(), self.index.moved(reference, value).into())
                }
                inner => (keyword.clone(), self.put(inner, role.of(keyword), false)),
            })
            .collect();
        if role == Role::Map || is_root {
            return Value::Object(metered);
        }
        let applied = self.applied.get(&std::ptr::from_ref(value)).copied().flatten();
        let costs = Costs::of(keywords, &self.states, applied.map_or(1, |applied| applied.parts));
        json!({"allOf": [{METER: costs.to_json()}, metered]})
    }
}

/// The number of states that each pattern expands to.
fn states_of<'a>(parts: &[&'a Value]) -> Result<HashMap<&'a str, u64>, String> {
    let mut each = HashMap::new();
    let mut all = 0_u64;
    let patterns = parts.iter().flat_map(|part| {
        let own = part.get("pattern").and_then(Value::as_str);
        let named = part.get("patternProperties").and_then(Value::as_object);
        own.into_iter().chain(named.into_iter().flat_map(|named| named.keys().map(String::as_str)))
    });
    for pattern in patterns {
        if pattern.len() > MAX_PATTERN {
            return Err(format!("a pattern has more than {MAX_PATTERN} bytes"));
        }
        if !each.contains_key(pattern) {
            let states = states(pattern);
            each.insert(pattern, states);
            all = all.saturating_add(states);
        }
        if all > MAX_STATES {
            return Err("its patterns expand too far: use smaller repetitions and character classes".into());
        }
    }
    Ok(each)
}

/// The number of states that a pattern expands to. A pattern that cannot be parsed is not compiled either.
fn states(pattern: &str) -> u64 {
    let Ok(translated) = jsonschema_regex::to_rust_regex(pattern) else { return 1 };
    regex_syntax::parse(&translated).map_or(1, |hir| expanded(&hir))
}

fn expanded(hir: &Hir) -> u64 {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let sum = |parts: &[Hir]| parts.iter().map(expanded).fold(1, u64::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => count(literal.0.len()),
        HirKind::Class(Class::Unicode(class)) => count(class.ranges().len()),
        HirKind::Class(Class::Bytes(class)) => count(class.ranges().len()),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1);
            expanded(&repetition.sub).saturating_add(1).saturating_mul(times.into())
        }
        HirKind::Capture(capture) => expanded(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => sum(parts),
    }
}
