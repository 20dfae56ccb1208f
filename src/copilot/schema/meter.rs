//! The meter: counts the work of a validator from inside, by a keyword that runs before each part of a schema.
//!
//! When the allowed work is done it unwinds the validator, which has no other way to stop. No panic is reported.

use std::{
    collections::HashMap,
    hint::black_box,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value, json};

use super::index::is_published;

/// The name of the keyword. Its value is the cost of a visit.
pub(super) const METER: &str = "copilot-grpc:meter";

/// The units of work for checking an answer. A unit is 10 to 100 ns.
pub(super) const JUDGING: u64 = 500_000;

/// The units of work for explaining what is wrong with an answer: each mistake may be a message that is held.
pub(super) const EXPLAINING: u64 = 25_000;

/// The number of parts of a schema that are compiled. A part that is referred to counts once.
pub(super) const COMPILING: u64 = 200_000;

/// The stack that the validator may use, in bytes. Honest recursion needs some KiB for each level of the answer.
pub(super) const MAX_STACK: usize = 7 * 1024 * 1024;

/// The work that a validator may still do.
#[derive(Debug, Default)]
pub(super) struct Work {
    left: AtomicU64,
    /// The stack pointer when the work began.
    stack: AtomicUsize,
}

impl Work {
    /// Allows this many units of work from now on, on this thread.
    pub(super) fn allow(&self, units: u64) {
        self.left.store(units, Relaxed);
        self.stack.store(stack_pointer(), Relaxed);
    }

    fn spend(&self, units: u64) {
        let left = self.left.load(Relaxed);
        let too_deep = self.stack.load(Relaxed).abs_diff(stack_pointer()) > MAX_STACK;
        if left < units || too_deep {
            self.left.store(0, Relaxed);
            resume_unwind(Box::new(Spent));
        }
        self.left.store(left - units, Relaxed);
    }
}

/// The payload with which a validator is unwound.
struct Spent;

/// The address of the end of the stack, roughly.
fn stack_pointer() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(black_box(&here)).addr()
}

/// The costs of a visit of one part of a schema, in units.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Costs {
    /// For the visit itself.
    visit: u64,
    /// For each item or property.
    item: u64,
    /// For each 64 bytes of a text, or of the names of properties.
    text: u64,
    /// For each value below.
    deep: u64,
    /// For each 256 pairs of items.
    pairs: u64,
}

impl Costs {
    /// The costs of a part with these keywords. `states` are those of all patterns, `applied` is how many parts apply to the
    /// same place.
    pub(super) fn of(keywords: &Map<String, Value>, states: &HashMap<&str, u64>, applied: u64) -> Self {
        let mut costs = Self { visit: 1, item: 1, text: 1, deep: 0, pairs: 0 };
        let states = |pattern: &str| states.get(pattern).copied().unwrap_or_default();
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("pattern", Value::String(pattern)) => costs.text += states(pattern),
                ("patternProperties", Value::Object(patterns)) => {
                    costs.item += count(patterns.len());
                    costs.text += patterns.keys().map(|pattern| states(pattern)).sum::<u64>();
                }
                ("enum" | "const", constants) => costs.visit += count(weight(constants)) / 32,
                ("uniqueItems", _) => (costs.deep, costs.pairs) = (costs.deep + 1, 1),
                // References are followed without a visit, but not further than parts apply.
                ("$ref", Value::String(reference)) if is_published(reference) => costs.deep += PUBLISHED,
                ("$ref" | "$dynamicRef" | "$recursiveRef", _) => costs.visit += applied / 16,
                ("format", _) => costs.text += 64,
                // For each of them, all that applies may be visited.
                ("unevaluatedProperties" | "unevaluatedItems", _) => costs.item += applied.div_ceil(4),
                (_, Value::Array(each)) => costs.visit += count(each.len()) / 8,
                (_, Value::Object(each)) => costs.visit += count(each.len()) / 8,
                _ => {}
            }
        }
        costs
    }

    /// The costs as the keyword's value.
    pub(super) fn to_json(self) -> Value {
        json!([self.visit, self.item, self.text, self.deep, self.pairs])
    }

    fn read(value: &Value) -> Self {
        let cost = |n| value.get(n).and_then(Value::as_u64).unwrap_or(u64::MAX);
        Self { visit: cost(0), item: cost(1), text: cost(2), deep: cost(3), pairs: cost(4) }
    }

    fn visit(self, instance: &Value) -> u64 {
        let texts = |len: usize| self.text.saturating_mul(count(len)).div_ceil(64);
        let items = |len: usize| self.item.saturating_mul(count(len));
        let shallow = match instance {
            Value::String(text) => texts(text.len()),
            Value::Array(each) => {
                let pairs = count(each.len()).saturating_mul(count(each.len())) / 256;
                items(each.len()).saturating_add(self.pairs.saturating_mul(pairs))
            }
            Value::Object(fields) => {
                items(fields.len()).saturating_add(texts(fields.keys().map(String::len).sum()))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        };
        let below = if self.deep > 0 { self.deep.saturating_mul(count(weight(instance))) } else { 0 };
        self.visit.saturating_add(shallow).saturating_add(below)
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// The cost of a published meta-schema for each value that it checks. It has no meter.
const PUBLISHED: u64 = 32;

/// Counts the visits of one part of a schema.
#[derive(Debug)]
pub(super) struct Meter {
    costs: Costs,
    work: Arc<Work>,
}

impl Meter {
    /// The meter with these costs.
    pub(super) fn new(costs: &Value, work: &Arc<Work>) -> Self {
        work.spend(1);
        Self { costs: Costs::read(costs), work: work.clone() }
    }
}

impl<'i> Keyword<'i> for Meter {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        self.work.spend(self.costs.visit(instance));
        Ok(())
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        self.work.spend(self.costs.visit(instance));
        true
    }
}

/// The weight of JSON: the number of its values, and a sixteenth of its text.
fn weight(json: &Value) -> usize {
    1 + match json {
        Value::String(text) => text.len() / 16,
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() / 16 + weight(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
