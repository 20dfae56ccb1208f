//! No schema and no answer takes more than its time and its memory, and none makes us panic or overflow the stack.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use copilot_grpc::copilot::{Json, Schema};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fuzz_target!(|input: &[u8]| {
    let Ok((schema, answers)) = example(&mut Unstructured::new(input)) else { return };
    // As the server does it, with as much more stack as the sanitizer takes.
    let checking = std::thread::Builder::new().stack_size(8 * Schema::STACK).spawn(move || {
        let Ok(schema) = Schema::new(&Json::new(schema.to_string()).unwrap()) else { return };
        for answer in answers {
            let _ = schema.read(&answer.to_string());
        }
    });
    checking.unwrap().join().unwrap();
});

/// How many definitions there are.
const DEFINITIONS: usize = 6;

fn example(input: &mut Unstructured<'_>) -> Result<(Value, Vec<Value>)> {
    let mut schema = object(part(input, 4)?);
    if let Some(dialect) = input.choose(&[None, None, Some("http://json-schema.org/draft-07/schema#")])? {
        schema.insert("$schema".into(), json!(dialect));
    }
    let defs = (0..DEFINITIONS).map(|n| Ok((format!("d{n}"), part(input, 4)?)));
    schema.insert("$defs".into(), Value::Object(defs.collect::<Result<_>>()?));
    Ok((Value::Object(schema), (0..3).map(|_| answer(input, 8)).collect::<Result<_>>()?))
}

fn object(part: Value) -> Map<String, Value> {
    match part {
        Value::Object(keywords) => keywords,
        other => Map::from_iter([("not".into(), other)]),
    }
}

/// A part of a schema.
fn part(input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    if depth == 0 || input.is_empty() {
        return reference(input);
    }
    let mut keywords = Map::new();
    for _ in 0..input.int_in_range(1..=3)? {
        let (keyword, value) = keyword(input, depth - 1)?;
        keywords.insert(keyword.into(), value);
    }
    Ok(Value::Object(keywords))
}

fn reference(input: &mut Unstructured<'_>) -> Result<Value> {
    let to = input.int_in_range(0..=DEFINITIONS)?;
    Ok(match to {
        DEFINITIONS => json!({"$ref": input.choose(&["#", "#a", "x.json", "x.json#/items", "#/anyOf/0",
            "https://json-schema.org/draft/2020-12/schema"])?}),
        to => json!({"$ref": format!("#/$defs/d{to}")}),
    })
}

#[derive(Arbitrary)]
enum Form {
    Each,
    Named,
    One,
    Reference,
    Dynamic,
    Name,
    Id,
    Type,
    Pattern,
    Constants,
    Unique,
    Sizes,
    Required,
    Format,
}

fn keyword(input: &mut Unstructured<'_>, depth: usize) -> Result<(&'static str, Value)> {
    const NAMES: &[&str] = &["a", "b", "allOf", "enum"];
    Ok(match input.arbitrary()? {
        Form::Each => {
            let keyword = input.choose(&["anyOf", "allOf", "oneOf", "prefixItems"])?;
            let each = (0..input.int_in_range(1..=8)?).map(|_| part(input, depth));
            (keyword, Value::Array(each.collect::<Result<_>>()?))
        }
        Form::Named => {
            let keyword =
                input.choose(&["properties", "patternProperties", "dependentSchemas", "definitions"])?;
            let each = (0..input.int_in_range(1..=3)?)
                .map(|_| Ok(((*input.choose(NAMES)?).to_owned(), part(input, depth)?)));
            (keyword, Value::Object(each.collect::<Result<_>>()?))
        }
        Form::One => {
            let keyword = input.choose(&[
                "not",
                "if",
                "then",
                "else",
                "items",
                "contains",
                "propertyNames",
                "additionalProperties",
                "unevaluatedProperties",
                "unevaluatedItems",
                "default",
                "x-unknown",
            ])?;
            (keyword, part(input, depth)?)
        }
        Form::Reference => ("$ref", reference(input)?["$ref"].take()),
        Form::Dynamic => {
            (input.choose(&["$dynamicRef", "$recursiveRef"])?, json!(input.choose(&["#a", "#"])?))
        }
        Form::Name => (input.choose(&["$anchor", "$dynamicAnchor"])?, json!(input.choose(&["a", "b"])?)),
        Form::Id => ("$id", json!(input.choose(&["x.json", "https://x/x.json", "#a", "%78.json"])?)),
        Form::Type => ("type", json!(input.choose(&["object", "array", "string", "number"])?)),
        Form::Pattern => {
            let known = input.choose(&["^(a+)+$", "(a?){1,60}a{60}", "\\p{L}{1,30}", "(?=a)b"])?;
            let own: String = input.arbitrary()?;
            ("pattern", json!(if own.is_empty() { *known } else { own.as_str() }))
        }
        Form::Constants => {
            let keyword = input.choose(&["enum", "const"])?;
            let each = (0..input.int_in_range(1..=20)?).map(|_| answer(input, 2));
            (keyword, Value::Array(each.collect::<Result<_>>()?))
        }
        Form::Unique => ("uniqueItems", json!(true)),
        Form::Sizes => {
            let keyword =
                input.choose(&["minItems", "maxItems", "minProperties", "maxLength", "minContains"])?;
            (keyword, json!(input.int_in_range(0..=5_u8)?))
        }
        Form::Required => ("required", json!([input.choose(NAMES)?])),
        Form::Format => {
            ("format", json!(input.choose(&["regex", "email", "uri", "date-time", "idn-hostname"])?))
        }
    })
}

/// Something to check.
fn answer(input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    if depth == 0 || input.is_empty() {
        return Ok(json!({}));
    }
    Ok(match input.int_in_range(0..=6_u8)? {
        0 => json!(input.arbitrary::<i64>()?),
        1 => json!(input.arbitrary::<Option<bool>>()?),
        2 => json!("a".repeat(input.arbitrary::<u16>()?.into())),
        3 => json!(vec![input.arbitrary::<u8>()?; usize::from(input.arbitrary::<u8>()?) * 8]),
        4 => (0..input.int_in_range(0..=4)?).map(|_| answer(input, depth - 1)).collect::<Result<_>>()?,
        5 => {
            let name = *input.choose(&["a", "b", "allOf"])?;
            // Deep: that is where recursion costs.
            let below = answer(input, depth - 1)?;
            (0..input.int_in_range(1..=20)?).fold(below, |below, _| json!({name: below}))
        }
        _ => {
            let each = (0..input.int_in_range(0..=4)?)
                .map(|_| Ok(((*input.choose(&["a", "b", "enum"])?).to_owned(), answer(input, depth - 1)?)));
            Value::Object(each.collect::<Result<_>>()?)
        }
    })
}
