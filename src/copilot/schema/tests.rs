//! Schemas that cost too much are refused or given up, and honest ones are not.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::*;

fn compiled(schema: &Value) -> Result<Schema, String> {
    Schema::new(&schema.clone().into())
}

fn refusal(schema: &Value) -> String {
    compiled(schema).expect_err("it is refused")
}

fn fits(schema: &Value, answer: &Value) -> Result<(), Unfit> {
    compiled(schema).unwrap().check(answer)
}

/// Definitions that each have `fan_out` references to the next one, in a part that `holds` them.
fn definitions(fan_out: usize, depth: usize, holds: impl Fn(Vec<Value>) -> Value) -> Value {
    let level = |level: usize| {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        (format!("d{level}"), holds(vec![next; fan_out]))
    };
    let last = (format!("d{depth}"), json!({"required": ["never"]}));
    Value::Object((0..depth).map(level).chain([last]).collect::<Map<_, _>>())
}

fn bomb(keyword: &str, fan_out: usize, depth: usize) -> Value {
    let defs = definitions(fan_out, depth, |refs| json!({keyword: refs}));
    json!({"type": "object", "$ref": "#/$defs/d0", "$defs": defs})
}

/// The processor time of the calling thread so far.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// The processor time that a check may take. Without optimization all is many times slower.
const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 3000 } else { 100 });

#[test]
fn an_answer_is_read_if_it_is_json_of_the_schema() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let schema = compiled(&schema).unwrap();
    let check = |answer: &str, expected: Result<&str, &str>| match (schema.read(answer), expected) {
        (Ok(json), Ok(expected)) => assert_eq!(json.as_str(), expected),
        (Err(Unfit::Mismatch(problem)), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
        (got, expected) => panic!("{got:?} and not {expected:?}"),
    };
    check(r#" {"n": 3} "#, Ok(r#"{"n": 3}"#));
    check(
        "```json\n{\"z\": 1.0, \"n\": 1234567890123456789}\n```",
        Ok(r#"{"z": 1.0, "n": 1234567890123456789}"#),
    );
    check("```\n{\"n\": 3}```", Ok(r#"{"n": 3}"#));
    check(r#"{"n": "x", "n": 3}"#, Err("twice"));
    check("three", Err("no JSON"));
    check("{}", Err("required"));
    check(r#"{"n": "three"}"#, Err("/n"));
}

#[test]
fn what_is_wrong_is_said_without_the_answer() {
    let schema = compiled(&json!({"properties": {"n": {"type": "integer"}}})).unwrap();
    let problem = schema.read(r#"{"n": "a secret"}"#).unwrap_err().to_string();
    assert!(!problem.contains("secret"), "{problem}");
}

#[test]
fn a_schema_that_expands_too_far_is_refused_at_once() {
    for keyword in ["anyOf", "allOf", "oneOf"] {
        let bomb = bomb(keyword, 8, 9);
        let began = cpu();
        assert!(refusal(&bomb).contains("expands too far"), "{keyword}");
        let took = cpu() - began;
        assert!(took < Duration::from_millis(10), "{keyword}: {took:?}");
    }
}

#[test]
fn a_schema_that_expands_too_far_in_other_ways_is_refused_too() {
    let check = |schema: Value| assert!(refusal(&schema).contains("expands too far"), "{schema}");
    let in_place = |holds: fn(Vec<Value>) -> Value| {
        let defs = definitions(3, 12, holds);
        json!({"type": "object", "$ref": "#/$defs/d0", "$defs": defs})
    };
    check(in_place(|refs| json!({"if": refs[0], "then": refs[0], "else": refs[0]})));
    check(in_place(|refs| json!({"dependentSchemas": {"a": refs[0], "b": refs[0], "c": refs[0]}})));
    check(in_place(|refs| json!({"not": {"anyOf": refs}})));
    // Such a keyword goes through all of the schema, also where an answer has no properties.
    let mut unevaluated = bomb("anyOf", 8, 9);
    unevaluated["unevaluatedProperties"] = json!(false);
    check(unevaluated);
    // By names instead of places.
    let anchored = definitions(8, 9, |refs| json!({"anyOf": refs}));
    let mut text = anchored.to_string();
    for level in (0..=9).rev() {
        text = text.replace(&format!("#/$defs/d{level}"), &format!("#a{level}"));
        text =
            text.replace(&format!("\"d{level}\":{{"), &format!("\"d{level}\":{{\"$anchor\":\"a{level}\","));
    }
    let anchored: Value = serde_json::from_str(&text).unwrap();
    check(json!({"type": "object", "$ref": "#a0", "$defs": anchored}));
    let by_id =
        anchored.to_string().replace("\"$anchor\":\"a", "\"$id\":\"https://x/a").replace("\"#a", "\"a");
    let by_id: Value = serde_json::from_str(&by_id).unwrap();
    check(json!({"type": "object", "$id": "https://x/", "$ref": "a0", "$defs": by_id}));
    let dynamic = text.replace("$anchor", "$dynamicAnchor").replace("$ref", "$dynamicRef");
    let dynamic: Value = serde_json::from_str(&dynamic).unwrap();
    check(json!({"type": "object", "$dynamicRef": "#a0", "$defs": dynamic}));
    // A long chain would take the stack.
    let chain = bomb("allOf", 1, 5000);
    check(chain);
}

/// Shapes that the fuzzer found: their compiled form is never freed.
#[test]
fn a_schema_of_which_the_validator_would_make_a_knot_is_refused_and_the_same_with_names_is_not() {
    let knot =
        |schema: Value| assert!(refusal(&schema).contains("give the part that has it a name"), "{schema}");
    let taken = |schema: Value| assert_eq!(compiled(&schema).err(), None, "{schema}");
    let part = json!({"anyOf": [{"$ref": "#/$defs/d"}], "unevaluatedItems": {"$ref": "#/$defs/d"}});
    knot(json!({"$defs": {"d": {"patternProperties": {"a": part}}}, "$ref": "#/$defs/d"}));
    knot(json!({"$defs": {"d": {"prefixItems": [part]}}, "$ref": "#/$defs/d"}));
    let kid =
        json!({"allOf": [{"$ref": "#/$defs/d"}], "properties": {"x": {}}, "unevaluatedProperties": false});
    knot(
        json!({"$defs": {"d": {"type": "object", "properties": {"kids": {"items": kid}}}}, "$ref": "#/$defs/d"}),
    );
    knot(json!({"properties": {"kid": {"allOf": [{"$ref": "#"}], "unevaluatedProperties": false}}}));
    taken(json!({
        "$defs": {"d": {"type": "object", "properties": {"kids": {"items": {"$ref": "#/$defs/kid"}}}}, "kid": kid},
        "$ref": "#/$defs/d"
    }));
    taken(
        json!({"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}, "unevaluatedProperties": false}}, "$ref": "#/$defs/n"}),
    );
}

#[test]
fn a_schema_that_goes_in_a_circle_is_refused_and_a_recursive_one_is_not() {
    let circle = |schema: Value| assert!(refusal(&schema).contains("refers to itself"), "{schema}");
    circle(json!({"type": "object", "$ref": "#"}));
    circle(json!({"type": "object", "$ref": "#/$defs/a", "$defs": {
        "a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}
    }}));
    let tree = json!({"type": "object", "required": ["name"], "additionalProperties": false, "properties": {
        "name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}
    }});
    let mut answer = json!({"name": "leaf"});
    for _ in 0..60 {
        answer = json!({"name": "node", "children": [answer, {"name": "leaf"}]});
    }
    assert_eq!(fits(&tree, &answer), Ok(()));
    let problem = fits(&tree, &json!({"name": "n", "children": [{"name": "n", "children": [{}]}]}));
    assert!(matches!(problem, Err(Unfit::Mismatch(problem)) if problem.contains("/children/0/children/0")));
}

#[test]
fn a_schema_leads_nowhere_but_into_itself() {
    for reference in [
        "file:///etc/passwd",
        "http://127.0.0.1:1/schema",
        "https://example.com/schema",
        "other.json",
        "#/$defs/missing",
        "#/enum/0",
        "#/default",
        "#/properties/a/const",
        "#/type",
    ] {
        let schema = json!({
            "type": "object", "properties": {"a": {"const": {"type": "object"}}, "b": {"$ref": reference}},
            "enum": [{"a": 1}], "default": {"type": "object"},
        });
        assert!(refusal(&schema).contains("the reference"), "{reference}");
    }
    let foreign = json!({"$schema": "https://example.com/meta", "type": "object"});
    assert!(refusal(&foreign).contains("$schema"));
    let taken = json!({"$id": "https://json-schema.org/draft/2020-12/schema", "type": "object"});
    assert!(refusal(&taken).contains("$id"));
}

#[test]
fn a_schema_may_be_named_like_its_keywords_and_hold_published_ones() {
    let named = json!({"type": "object", "additionalProperties": false, "properties": {
        "enum": {"type": "integer"}, "const": {"type": "string"}, "$ref": {"type": "string"},
        "default": {"$ref": "#/properties/enum"}, "not": {"$ref": "#/properties/const"},
    }});
    assert_eq!(
        fits(&named, &json!({"enum": 1, "const": "c", "$ref": "#", "default": 2, "not": "c"})),
        Ok(())
    );
    assert!(fits(&named, &json!({"default": "c"})).is_err());
    let schemas = json!({"type": "object", "$ref": "https://json-schema.org/draft/2020-12/schema"});
    assert_eq!(fits(&schemas, &json!({"type": "object", "properties": {"a": {"minimum": 1}}})), Ok(()));
    assert!(fits(&schemas, &json!({"type": "object", "properties": {"a": {"minimum": "1"}}})).is_err());
    for draft in ["draft-04", "draft-06", "draft-07", "draft/2019-09"] {
        let schema = json!({"$schema": format!("http://json-schema.org/{draft}/schema#"), "type": "object",
            "definitions": {"n": {"type": "integer", "default": 1}}, "properties": {"n": {"$ref": "#/definitions/n"}}});
        assert_eq!(fits(&schema, &json!({"n": 1})), Ok(()), "{draft}");
        assert!(fits(&schema, &json!({"n": "1"})).is_err(), "{draft}");
    }
}

/// Published as <https://spec.openapis.org/oas/3.1/schema/2022-10-07>.
const OPENAPI: &str = include_str!("../../../tests/fixtures/openapi-3.1.json");

#[test]
fn hard_schemas_that_are_honest_are_taken() {
    let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
    let path = |n: usize| {
        let parameter = json!({"name": "id", "in": "query", "schema": {"type": "string"}});
        let responses =
            json!({"200": {"description": "fine", "content": {"application/json": {"schema": {}}}}});
        let get =
            json!({"operationId": format!("get{n}"), "parameters": [parameter], "responses": responses});
        (format!("/things/{n}"), json!({"get": get}))
    };
    let mut document = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"},
        "paths": (0..100).map(path).collect::<Map<_, _>>()});
    let schema = compiled(&openapi).unwrap();
    assert_eq!(schema.check(&document), Ok(()));
    document["paths"]["/things/42"]["get"]["responses"]["200"]["description"] = json!(1);
    assert!(matches!(schema.check(&document), Err(Unfit::Mismatch(_))));
    // 300 KB of what data models make, with references between them.
    let model = |n: usize| {
        let next = format!("#/$defs/Model{}", (n * 7 + 1) % 900);
        let body = json!({"type": "object", "required": ["id", "kind"], "properties": {
            "id": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$", "description": format!("the id of {n}")},
            "kind": {"enum": ["one", "two", format!("kind-{n}")]},
            "name": {"type": "string", "pattern": r"^[\p{L} ]{1,64}$"},
            "next": {"anyOf": [{"$ref": next}, {"type": "null"}]}, "tags": {"type": "array", "uniqueItems": true},
        }});
        (format!("Model{n}"), body)
    };
    let models: Map<_, _> = (0..900).map(model).collect();
    let large = json!({"type": "object", "$ref": "#/$defs/Model0", "$defs": models});
    assert!(large.to_string().len() > 300_000);
    let mut answer = json!({"id": "a", "kind": "one", "tags": ["a", "b"], "name": "Zoë"});
    for _ in 0..50 {
        answer = json!({"id": "b-1", "kind": "two", "next": answer});
    }
    assert_eq!(fits(&large, &answer), Ok(()));
}

#[test]
fn what_is_larger_than_any_schema_is_refused() {
    let large = json!({"type": "object", "description": "x".repeat(600 * 1024)});
    assert!(refusal(&large).contains("bytes"));
    for patterns in [
        vec!["((a{1,1000}){1,1000}){1,1000}".to_owned()],
        vec!["x".repeat(2000)],
        (0..200).map(|n| format!("^\\p{{L}}{{1,{n}}}$")).collect(),
    ] {
        let parts: Vec<_> = patterns.iter().map(|pattern| json!({"pattern": pattern})).collect();
        let problem = refusal(&json!({"type": "object", "properties": {"a": {"anyOf": parts}}}));
        assert!(problem.contains("pattern"), "{problem}");
    }
    // Patterns that take exponential time are refused, or take linear time.
    let backtracking = json!({"type": "object", "properties": {"a": {"pattern": "^(?=a)b\\1$"}}});
    assert!(!refusal(&backtracking).is_empty());
    let nested = json!({"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}});
    assert!(fits(&nested, &json!({"a": "a".repeat(50_000) + "!"})).is_err());
}

/// Eight alternatives at each level of the answer, of which each is one of eight at the next.
fn deep_bomb() -> (Value, Value) {
    let defs = definitions(8, 20, |refs| json!({"required": ["a"], "properties": {"a": {"anyOf": refs}}}));
    let schema = json!({"type": "object", "$ref": "#/$defs/d0", "$defs": defs});
    (schema, (0..20).fold(json!({}), |below, _| json!({"a": below})))
}

#[test]
fn an_answer_that_is_wrong_in_too_many_ways_is_wrong_still() {
    let again = vec![json!({"$ref": "#"}); 8];
    let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"anyOf": again}}});
    let answer = (0..20).fold(json!({}), |below, _| json!({"a": below}));
    let problem = fits(&schema, &answer);
    assert!(
        matches!(&problem, Err(Unfit::Mismatch(problem)) if problem.contains("many ways")),
        "{problem:?}"
    );
}

#[test]
fn a_check_that_takes_too_much_work_is_given_up() {
    let wide = |keyword: &str| {
        let parts: Vec<_> = (0..5000).map(|n| json!({"maximum": n})).collect();
        (
            json!({"type": "object", "properties": {"a": {"items": {keyword: parts}}}}),
            json!({"a": vec![-1; 5000]}),
        )
    };
    let large = json!({"type": "object", "properties": {"a": {"uniqueItems": true}}});
    let items: Vec<_> = (0..20_000).map(|n| json!({"n": n})).collect();
    let patterns: Vec<_> =
        (0..100).map(|n| json!({"pattern": format!("(x+x+)+{n}(a?){{1,100}}$")})).collect();
    let patterns = json!({"type": "object", "properties": {"a": {"not": {"anyOf": patterns}}}});
    for (schema, answer) in [
        deep_bomb(),
        wide("allOf"),
        (large, json!({"a": items})),
        (patterns, json!({"a": "x".repeat(500_000)})),
    ] {
        let schema = compiled(&schema).unwrap();
        let began = cpu();
        assert_eq!(schema.check(&answer), Err(Unfit::TooMuchWork));
        let took = cpu() - began;
        assert!(took < LIMIT, "{took:?}");
        // The schema can be used again.
        assert!(!matches!(schema.check(&json!({"a": {}})), Err(Unfit::TooMuchWork)));
    }
    let answer = format!(r#"{{"a": "{}"}}"#, "x".repeat(2 * MAX_ANSWER));
    assert_eq!(compiled(&json!({"type": "object"})).unwrap().read(&answer), Err(Unfit::TooMuchWork));
}

fn reference() -> impl Strategy<Value = Value> {
    (0..5_usize).prop_map(|n| json!({"$ref": format!("#/$defs/d{n}")}))
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c", "allOf", "enum"]).prop_map(str::to_owned)
}

/// Parts of schemas as an adversary might like them.
fn part() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => reference(),
        1 => Just(json!(true)),
        1 => Just(json!(false)),
        1 => select(vec!["object", "array", "string", "number"]).prop_map(|kind| json!({"type": kind})),
        1 => select(vec!["^(a+)+$", "(a?){1,50}a{50}", "\\p{L}{1,20}", "^a|b$"]).prop_map(|it| json!({"pattern": it})),
        1 => Just(json!({"uniqueItems": true})),
        1 => vec(name(), 1..40).prop_map(|names| json!({"enum": names})),
        1 => vec(name(), 1..4).prop_map(|names| json!({"required": names})),
        1 => (0..4_u8).prop_map(|n| json!({"minItems": n, "maxProperties": n, "minLength": n})),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        let some = || vec(inner.clone(), 1..9);
        prop_oneof![
            (select(vec!["anyOf", "allOf", "oneOf"]), some())
                .prop_map(|(keyword, parts)| json!({keyword: parts})),
            (
                select(vec!["not", "items", "additionalProperties", "contains", "propertyNames"]),
                inner.clone()
            )
                .prop_map(|(keyword, part)| json!({keyword: part})),
            (
                select(vec!["properties", "patternProperties", "dependentSchemas"]),
                vec((name(), inner.clone()), 1..4)
            )
                .prop_map(|(keyword, parts)| json!({keyword: parts.into_iter().collect::<Map<_, _>>()})),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| json!({"if": a, "then": b, "else": c})),
            (inner.clone(), reference(), any::<bool>()).prop_map(|(a, b, closed)| {
                json!({"allOf": [a, b], "unevaluatedProperties": closed, "unevaluatedItems": b})
            }),
        ]
    })
}

fn answer() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<u8>().prop_map(Value::from),
        name().prop_map(Value::from),
        (0..3000_usize).prop_map(|len| Value::from("a".repeat(len))),
        (0..400_usize).prop_map(|len| Value::from((0..len).collect::<Vec<_>>())),
    ];
    let tree = leaf.prop_recursive(6, 200, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((name(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    // Deep schemas are where recursion costs.
    (tree, 0..40_usize, name()).prop_map(|(tree, depth, name)| {
        (0..depth)
            .fold(tree, |below, level| if level % 3 == 2 { json!([below]) } else { json!({&name: below}) })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_takes_more_than_its_time_to_check(defs in vec(part(), 5), root in part(), answers in vec(answer(), 3)) {
        let defs: Map<_, _> = defs.into_iter().enumerate().map(|(n, part)| (format!("d{n}"), part)).collect();
        let began = cpu();
        let schema = compiled(&json!({"type": ["object", "array"], "allOf": [root], "$defs": defs}));
        prop_assert!(cpu() - began < LIMIT, "taking it took {:?}", cpu() - began);
        let Ok(schema) = schema else { return Ok(()) };
        for answer in answers {
            let began = cpu();
            let _ = schema.check(&answer);
            prop_assert!(cpu() - began < LIMIT, "checking took {:?}", cpu() - began);
        }
    }
}
