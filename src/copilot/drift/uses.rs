//! All that the facade uses of the CLI: each method with the fields that it sends and reads, each event with those that it
//! reads.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Value, json};

use crate::copilot::{
    Attachment, Json, Message, Method, Secret,
    answer::{self, Elicited, PlanDecision, ToolResult, UserInput},
    event::samples,
    method,
    settings::EmptyOptions,
    withdraw,
};

/// The place of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Parameters,
    Result,
    Event,
}

impl Side {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Parameters | Self::Result => "method",
            Self::Event => "event",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parameters => "parameter",
            Self::Result => "result",
            Self::Event => "field",
        })
    }
}

/// The fields of one method or event that are used. In a path `[]` stands for the elements of a list, `*` for the values of a
/// map.
pub(super) struct Used {
    pub(super) subject: &'static str,
    pub(super) side: Side,
    pub(super) paths: BTreeSet<Vec<String>>,
}

/// Methods that the schemas do not describe (1.0.85 to 1.0.89-7): only the CLI itself can tell (`make test-versions`).
const UNDESCRIBED: &[&str] = &[
    "session.create",
    "session.delete",
    "session.detach",
    "session.getMetadata",
    "session.list",
    "session.resume",
    "status.get",
];

/// Events, and fields of events and methods, that the schemas do not describe: they were observed, or are of a type that others
/// share.
const UNDESCRIBED_PARTS: &[(&str, &str)] = &[
    ("session.autopilot_stopped", ""),
    ("session.error", "originatingMessageId"),
    ("session.ui.handlePendingUserInput", "response.dismissed"),
    ("assistant.turn_start", "reason"),
    ("assistant.turn_end", "reason"),
];

/// All that is used and described.
pub(super) fn uses() -> Vec<Used> {
    let events = samples().into_iter().map(|(subject, _, data)| {
        let mut paths = BTreeSet::new();
        collect_paths(&data, &mut Vec::new(), &mut paths);
        Used { subject, side: Side::Event, paths }
    });
    let all = methods().into_iter().flatten().chain(events);
    let described = all.filter(|used| !UNDESCRIBED_PARTS.contains(&(used.subject, "")));
    described
        .map(|mut used| {
            used.paths.retain(|path| !UNDESCRIBED_PARTS.contains(&(used.subject, &*path.join("."))));
            used
        })
        .collect()
}

/// The names of the described methods, read from the source.
pub(super) fn methods_in_the_source() -> Vec<&'static str> {
    let sources =
        [include_str!("../method.rs"), include_str!("../withdraw.rs"), include_str!("../answer.rs")];
    let lines = sources.into_iter().flat_map(str::lines);
    // The entries of `methods!` and `answers!`.
    let names = lines.filter_map(|line| line.split_once("=> \"")?.1.split_once('"'));
    let names =
        names.filter(|(_, rest)| rest.starts_with(';') || rest.starts_with(" -> ")).map(|(name, _)| name);
    names.filter(|name| !UNDESCRIBED.contains(name)).collect()
}

fn methods() -> Vec<[Used; 2]> {
    let (session_id, request_id) = ("s", "r");
    let secret = Secret::new("secret");
    let message = message(&secret);
    let text = || "text".to_owned();
    let client_info = method::ClientInfo { extension_name: "name", extension_version: "version" };
    let limits = answer::LimitsExhausted::Cancel;
    let refusal = answer::McpRefusal::Cancelled;
    let plan = PlanDecision { approved: true, selected_action: Some(text()), feedback: Some(text()) };
    let image = answer::Image { data: text(), mime_type: text(), description: text() };
    let result = ToolResult { binary_results_for_llm: vec![image], ..ToolResult::failure("no") };
    vec![
        call(&method::Connect { token: Some(&secret), client_info }),
        call(&method::Ping {}),
        call(&method::ValidateTools { session_id }),
        call(&method::UpdateOptions { session_id, options: EmptyOptions::default() }),
        call(&method::Send { session_id, message: &message }),
        call(&method::Abort { session_id }),
        call(&method::SetMode { session_id, mode: "plan" }),
        call(&method::IsProcessing { session_id }),
        call(&method::Index { metadata_limit: 0 }),
        call(&method::GetSnapshot { session_id }),
        call(&method::Compact { session_id }),
        call(&method::Fork { session_id, to_event_id: Some("e") }),
        call(&method::ListRewindPoints { session_id }),
        call(&method::PreviewRewind { session_id, event_id: "e" }),
        call(&method::Rewind { session_id, event_id: "e", mode: "conversation" }),
        call(&method::ListModels { git_hub_token: Some(&secret) }),
        call(&method::ReadPersistedEvents { session_id, cursor: Some("c"), max: 1 }),
        call(&method::SwitchModel { session_id, model_id: "m", reasoning_effort: Some("low") }),
        call(&method::GetModel { session_id }),
        call(&method::SetName { session_id, name: "n" }),
        call(&method::UpdateClientMetadata { session_id, set: BTreeMap::from([("k", text())]) }),
        call(&method::GetClientMetadata { session_ids: &["s"], keys: &["k"] }),
        call(&method::ReadEventLog { session_id, cursor: Some("c"), max: 1, include_ephemeral: true }),
        call(&method::RegisterInterest { session_id, event_type: "t" }),
        call(&withdraw::PendingItems { session_id }),
        call(&withdraw::RemoveQueued { session_id, id: "i" }),
        call(&withdraw::AbortCompaction { session_id }),
        call(&answer::AnswerPermission {
            session_id,
            request_id,
            result: &answer::Decision::Reject { feedback: text() },
        }),
        call(&answer::AnswerToolCall { session_id, request_id, result: &result }),
        call(&answer::AnswerUserInput { session_id, request_id, response: &UserInput::none() }),
        call(&answer::AnswerElicitation {
            session_id,
            request_id,
            result: &Elicited::Accept { content: Some(json!({}).into()) },
        }),
        call(&answer::AnswerExitPlan { session_id, request_id, response: &plan }),
        call(&answer::AnswerLimitsExhausted { session_id, request_id, response: &limits }),
        call(&answer::AnswerAutoModeSwitch { session_id, request_id, response: "no" }),
        call(&answer::AnswerMcpLogin { session_id, request_id, result: &refusal }),
        call(&answer::AnswerMcpHeaders { session_id, request_id, result: &refusal }),
        call(&answer::AnswerCommand { session_id, request_id, error: "no" }),
        call(&answer::RefuseSampling { session_id, request_id }),
    ]
}

/// A prompt with all that it may have.
fn message(secret: &Secret) -> Message {
    let text = || "text".to_owned();
    let position = method::Position { line: 0, character: 0 };
    let selection = method::Range { start: position, end: position };
    Message {
        prompt: text(),
        attachments: vec![
            Attachment::File { path: text(), display_name: text() },
            Attachment::Directory { path: text(), display_name: text() },
            Attachment::Selection { file_path: text(), display_name: text(), text: text(), selection },
            Attachment::Blob { data: text(), mime_type: text(), display_name: Some(text()) },
        ],
        request_headers: BTreeMap::from([("h".to_owned(), secret.clone())]),
        agent_mode: Some(text()),
        response_format: Some(method::ResponseFormat::JsonSchema { name: "n", schema: Json::default() }),
        steering: true,
    }
}

fn call<M: Method>(parameters: &M) -> [Used; 2] {
    let mut sent = BTreeSet::new();
    collect_paths(&serde_json::to_value(parameters).unwrap(), &mut Vec::new(), &mut sent);
    let read = RefCell::default();
    traced::<M::Output>(&read).unwrap_or_else(|error| panic!("the answer to {}: {error}", M::NAME));
    let used = |side, paths| Used { subject: M::NAME, side, paths };
    [used(Side::Parameters, sent), used(Side::Result, read.into_inner())]
}

/// Collects the paths to all fields of JSON.
fn collect_paths(json: &Value, path: &mut Vec<String>, paths: &mut BTreeSet<Vec<String>>) {
    let mut below = |name: &str, json: &Value| {
        path.push(name.to_owned());
        paths.insert(path.clone());
        collect_paths(json, path, paths);
        path.pop();
    };
    match json {
        Value::Object(fields) => fields.iter().for_each(|(name, json)| below(name, json)),
        Value::Array(items) => items.iter().for_each(|json| below("[]", json)),
        _ => {}
    }
}

/// Records the fields that a type reads.
fn traced<T: DeserializeOwned>(seen: &RefCell<BTreeSet<Vec<String>>>) -> Result<T, de::value::Error> {
    T::deserialize(Tracer { path: Vec::new(), seen })
}

/// The name by which serde_json asks for raw JSON.
const RAW: &str = "$serde_json::private::RawValue";

/// A deserializer that gives a type whatever it asks for, and records the names of the fields.
struct Tracer<'a> {
    path: Vec<String>,
    seen: &'a RefCell<BTreeSet<Vec<String>>>,
}

impl Tracer<'_> {
    fn below(&self, name: &str) -> Self {
        let path = [&self.path[..], &[name.to_owned()]].concat();
        self.seen.borrow_mut().insert(path.clone());
        Self { path, seen: self.seen }
    }
}

macro_rules! give {
    ($($method:ident => $visit:ident($value:expr),)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = de::value::Error;

    give! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(0),
        deserialize_i16 => visit_i16(0),
        deserialize_i32 => visit_i32(0),
        deserialize_i64 => visit_i64(0),
        deserialize_u8 => visit_u8(0),
        deserialize_u16 => visit_u16(0),
        deserialize_u32 => visit_u32(0),
        deserialize_u64 => visit_u64(0),
        deserialize_f32 => visit_f32(0.0),
        deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(de::value::SeqDeserializer::new([self.below("[]")].into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(de::value::MapDeserializer::new([("", self.below("*"))].into_iter()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let fields = fields.iter().map(|field| (StrDeserializer::new(field), self.below(field)));
        visitor.visit_map(de::value::MapDeserializer::new(fields))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match name {
            RAW => visitor.visit_map(de::value::MapDeserializer::new([(RAW, "null")].into_iter())),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any }
}

impl<'de> de::IntoDeserializer<'de> for Tracer<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
