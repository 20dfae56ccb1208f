//! The JSON schemas that the official SDK's platform packages carry: `api.schema.json` and `session-events.schema.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};

use super::uses::Side;

/// The schemas of one version of the CLI.
pub(super) struct Schemas {
    /// Each method's entry: `params` and `result`.
    methods: BTreeMap<String, Value>,
    /// The data of each kind of event.
    events: BTreeMap<String, Value>,
    /// The definitions that references lead to, of both files.
    definitions: BTreeMap<String, Value>,
}

impl Schemas {
    pub(super) fn read(folder: &Path) -> Self {
        let read = |name: &str| -> Value {
            let text = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            serde_json::from_slice(&text).unwrap()
        };
        let (api, events) = (read("api.schema.json"), read("session-events.schema.json"));
        let definitions =
            [&events, &api].into_iter().flat_map(|file| file["definitions"].as_object().unwrap());
        let definitions: BTreeMap<_, _> =
            definitions.map(|(name, schema)| (name.clone(), schema.clone())).collect();
        let mut methods = BTreeMap::new();
        collect_methods(&api, &mut methods);
        let events = definitions.values().filter_map(|schema| {
            let kind = schema.pointer("/properties/type/const")?.as_str()?;
            Some((kind.to_owned(), schema.pointer("/properties/data")?.clone()))
        });
        Self { methods, events: events.collect(), definitions }
    }

    pub(super) fn methods(&self) -> BTreeSet<&str> {
        self.methods.keys().map(String::as_str).collect()
    }

    pub(super) fn events(&self) -> BTreeSet<&str> {
        self.events.keys().map(String::as_str).collect()
    }

    /// A method's parameters or result, or an event's data.
    pub(super) fn of(&self, subject: &str, side: Side) -> Option<&Value> {
        match side {
            Side::Parameters => self.methods.get(subject).map(|method| &method["params"]),
            Side::Result => self.methods.get(subject).map(|method| &method["result"]),
            Side::Event => self.events.get(subject),
        }
    }

    /// Whether there is such a field. If a schema does not describe its fields, there may be.
    pub(super) fn has(&self, schema: &Value, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else { return true };
        let alternatives = self.alternatives(schema);
        let described = |schema: &&Value| {
            schema.get("properties").is_some()
                || schema.get("items").is_some()
                || schema.get("additionalProperties").is_some_and(Value::is_object)
        };
        if !alternatives.iter().any(described) {
            return true;
        }
        alternatives.into_iter().any(|schema| {
            let named = schema.get("properties").and_then(|fields| fields.get(first));
            let below = match first.as_str() {
                "[]" => schema.get("items"),
                _ => named.or_else(|| schema.get("additionalProperties").filter(|below| below.is_object())),
            };
            below.is_some_and(|below| self.has(below, rest))
        })
    }

    /// The fields of an object.
    pub(super) fn fields(&self, schema: &Value) -> BTreeSet<String> {
        let alternatives = self.alternatives(schema);
        let fields = alternatives.into_iter().filter_map(|schema| schema["properties"].as_object());
        fields.flat_map(|fields| fields.keys().cloned()).collect()
    }

    /// The fields that an object must have.
    pub(super) fn required(&self, schema: &Value) -> BTreeSet<String> {
        let alternatives = self.alternatives(schema);
        let required = alternatives.into_iter().filter_map(|schema| schema["required"].as_array());
        required.flatten().filter_map(|field| field.as_str().map(str::to_owned)).collect()
    }

    /// All schemas that a value of this schema may be described by: itself, those that it refers to, and its alternatives.
    fn alternatives<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let (mut found, mut next) = (vec![schema], 0);
        while let Some(schema) = found.get(next).copied() {
            next += 1;
            let reference = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            let referred = reference.and_then(|name| self.definitions.get(name));
            let parts = ["anyOf", "oneOf", "allOf"].iter().filter_map(|keyword| schema[keyword].as_array());
            for more in referred.into_iter().chain(parts.flatten()) {
                if !found.iter().any(|schema| std::ptr::eq(*schema, more)) {
                    found.push(more);
                }
            }
        }
        found
    }
}

/// Collects the methods of an API. They are nested by the parts of their names, and each has its full name.
fn collect_methods(api: &Value, methods: &mut BTreeMap<String, Value>) {
    let Value::Object(fields) = api else { return };
    if let Some(name) = fields.get("rpcMethod").and_then(Value::as_str) {
        methods.insert(name.to_owned(), api.clone());
    }
    fields.values().for_each(|below| collect_methods(below, methods));
}

/// The changes that another version may make.
impl Schemas {
    pub(super) fn remove_method(&mut self, name: &str) {
        self.methods.remove(name).unwrap();
    }

    pub(super) fn add_method(&mut self, name: &str) {
        self.methods.insert(name.into(), json!({}));
    }

    pub(super) fn remove_event(&mut self, kind: &str) {
        self.events.remove(kind).unwrap();
    }

    pub(super) fn add_event(&mut self, kind: &str) {
        self.events.insert(kind.into(), json!({}));
    }

    pub(super) fn rename(&mut self, definition: &str, field: &str, name: &str) {
        let fields = self.definitions.get_mut(definition).unwrap()["properties"].as_object_mut().unwrap();
        let schema = fields.remove(field).unwrap();
        fields.insert(name.into(), schema);
    }

    pub(super) fn require(&mut self, definition: &str, field: &str) {
        let schema = self.definitions.get_mut(definition).unwrap();
        schema["properties"][field] = json!({"type": "string"});
        schema["required"] = json!([field]);
    }
}
