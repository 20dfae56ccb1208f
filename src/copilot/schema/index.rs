//! The index of a schema: its parts, and where its references lead.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use serde_json::Value;

/// Keywords whose value is no schema, whatever it looks like.
const CONSTANTS: &[&str] =
    &["enum", "const", "dependentRequired", "required", "$vocabulary", "discriminator"];

/// Keywords that say nothing about an answer.
const NOTES: &[&str] = &["default", "examples", "example"];

/// Keywords that hold schemas by names that the caller chooses.
const MAPS: &[&str] =
    &["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// The role of a value in a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A part of the schema, if it is an object, or a list of parts. Unknown values count as parts: a reference may lead there.
    Part,
    /// Parts by name.
    Map,
    /// A value that is no part and has none.
    Constant,
    /// A value that is no part and has none, and that may be left out.
    Note,
}

impl Role {
    /// The role of the value of this keyword, or name, in a value of this role.
    pub(super) fn of(self, keyword: &str) -> Self {
        match self {
            Self::Map => Self::Part,
            Self::Part if CONSTANTS.contains(&keyword) => Self::Constant,
            Self::Part if NOTES.contains(&keyword) => Self::Note,
            Self::Part if MAPS.contains(&keyword) => Self::Map,
            other => other,
        }
    }
}

/// The parts of a schema, and what they are within.
pub(super) struct Index<'a> {
    /// All objects that may be a part of the schema.
    pub(super) parts: Vec<&'a Value>,
    is_part: HashSet<*const Value>,
    /// The range of the parts within each part, itself included, in the order in which they are written.
    within: HashMap<*const Value, Range<usize>>,
    /// The resource that each part is in: the nearest one around it that has an id.
    resource_of: HashMap<*const Value, &'a Value>,
    resources: Vec<(&'a str, &'a Value)>,
    anchors: Vec<(&'a str, &'a Value)>,
    /// The published meta-schema that the schema is written for.
    dialect: Option<&'a str>,
}

impl<'a> Index<'a> {
    /// Indexes a schema. The error says what the schema may not have.
    pub(super) fn of(root: &'a Value) -> Result<Self, String> {
        let mut index = Self {
            parts: Vec::new(),
            is_part: HashSet::new(),
            within: HashMap::new(),
            resource_of: HashMap::new(),
            resources: Vec::new(),
            anchors: Vec::new(),
            dialect: root.get("$schema").and_then(Value::as_str),
        };
        index.add(root, Role::Part, root)?;
        Ok(index)
    }

    fn add(&mut self, value: &'a Value, role: Role, mut resource: &'a Value) -> Result<(), String> {
        match (value, role) {
            (_, Role::Constant | Role::Note) => Ok(()),
            (Value::Array(items), _) => items.iter().try_for_each(|item| self.add(item, role, resource)),
            (Value::Object(keywords), _) => {
                let first = self.parts.len();
                if role == Role::Part {
                    resource = self.add_part(value, resource)?;
                }
                keywords.iter().try_for_each(|(name, value)| self.add(value, role.of(name), resource))?;
                self.within.insert(value, first..self.parts.len());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Adds a part, and returns the resource that it is in.
    fn add_part(&mut self, part: &'a Value, resource: &'a Value) -> Result<&'a Value, String> {
        let text = |keyword: &str| part.get(keyword).and_then(Value::as_str);
        if let Some(schema) = text("$schema")
            && (!is_published(schema) || self.dialect != Some(schema))
        {
            return Err(format!(
                "`$schema` {schema:?} must be one that json-schema.org has published, and the same for all of it"
            ));
        }
        let is_old = self.dialect.is_some_and(|dialect| dialect.contains("draft-04"));
        let id = text(if is_old { "id" } else { "$id" });
        if let Some(id) = id.filter(|id| is_published(id) || id.contains('%')) {
            return Err(format!("`$id` {id:?} is not allowed: choose another"));
        }
        let (name, id) = match id {
            Some(id) if id.starts_with('#') => (id.strip_prefix('#'), None),
            id => (None, id),
        };
        let names = name.into_iter().chain(["$anchor", "$dynamicAnchor"].into_iter().filter_map(text));
        self.anchors.extend(names.map(|name| (name, part)));
        self.resources.extend(id.map(|id| (id, part)));
        let resource = if id.is_some() { part } else { resource };
        self.parts.push(part);
        self.is_part.insert(part);
        self.resource_of.insert(part, resource);
        Ok(resource)
    }

    /// Whether a part is written within another.
    pub(super) fn is_within(&self, part: &Value, other: &Value) -> bool {
        let place = |part: &Value| self.within.get(&std::ptr::from_ref(part));
        matches!((place(part), place(other)), (Some(part), Some(other)) if other.contains(&part.start))
    }

    /// The parts that a reference may lead to; none if it leads to a published meta-schema.
    pub(super) fn targets(&self, reference: &str, from: &'a Value) -> Result<Vec<&'a Value>, String> {
        if is_published(reference) {
            return Ok(Vec::new());
        }
        let unknown =
            || format!("the reference {reference:?} leads nowhere in this schema, and nothing is fetched");
        let (resources, fragment) = self.places(reference, from);
        let targets: Vec<_> = match decoded(fragment).ok_or_else(unknown)? {
            pointer if is_pointer(&pointer) => {
                resources.iter().filter_map(|resource| resource.pointer(&pointer)).collect()
            }
            name => {
                let named = self.anchors.iter().filter(|(anchor, _)| *anchor == name);
                named.map(|(_, part)| *part).collect()
            }
        };
        if targets.is_empty() {
            return Err(unknown());
        }
        let is_schema =
            |target: &&Value| target.is_boolean() || self.is_part.contains(&std::ptr::from_ref(*target));
        if targets.iter().all(is_schema) {
            Ok(targets)
        } else {
            Err(format!("the reference {reference:?} leads to what is no schema"))
        }
    }

    /// The resources that a reference may be in, and its fragment.
    fn places<'r>(&self, reference: &'r str, from: &'a Value) -> (Vec<&'a Value>, &'r str) {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        // Compared by the last part alone, because the reference may be relative to any resource: all candidates are taken.
        let same = |id: &str| !uri.contains('%') && last_part(id) == last_part(uri);
        let resources = match uri {
            "" => self.resource_of.get(&std::ptr::from_ref(from)).copied().into_iter().collect(),
            _ => self.resources.iter().filter(|(id, _)| same(id)).map(|(_, resource)| *resource).collect(),
        };
        (resources, fragment)
    }

    /// The reference to the same place in the schema with meters, where each part is within two others: see [`super::bounds`].
    pub(super) fn moved(&self, reference: &str, from: &'a Value) -> String {
        let (resources, fragment) = self.places(reference, from);
        let pointer = decoded(fragment).filter(|pointer| !pointer.is_empty() && is_pointer(pointer));
        let (Some(pointer), Some(resource), false) = (pointer, resources.first(), is_published(reference))
        else {
            return reference.to_owned();
        };
        let (mut at, mut role, mut path) = (*resource, Role::Part, String::new());
        for (depth, step) in pointer.split('/').skip(1).enumerate() {
            if depth > 0 && role == Role::Part && at.is_object() {
                path.push_str("/allOf/1");
            }
            path.push('/');
            path.push_str(&step.replace('%', "%25"));
            let name = step.replace("~1", "/").replace("~0", "~");
            if at.is_object() {
                role = role.of(&name);
            }
            let next = at.get(&name).or_else(|| at.get(name.parse::<usize>().ok()?));
            at = next.unwrap_or(&Value::Null);
        }
        let uri = reference.split_once('#').map_or(reference, |(uri, _)| uri);
        format!("{uri}#{path}")
    }
}

fn is_pointer(fragment: &str) -> bool {
    fragment.is_empty() || fragment.starts_with('/')
}

/// The last part of a URI's path.
fn last_part(uri: &str) -> &str {
    let path = uri.split(['#', '?']).next().unwrap_or(uri);
    path.rsplit(['/', ':']).next().unwrap_or(path)
}

/// A fragment of a URI as text.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(match byte {
            b'%' => u8::try_from(hex(rest.next())? * 16 + hex(rest.next())?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Whether a reference leads to a published meta-schema.
pub(super) fn is_published(reference: &str) -> bool {
    ["http://json-schema.org/", "https://json-schema.org/"].iter().any(|site| reference.starts_with(site))
}
