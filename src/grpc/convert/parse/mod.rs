//! Parses requests at the door. All that is wrong with one is reported at once, by field; nothing behind the door checks it
//! again.
//!
//! [`session`] is about what a session is made of, [`turn`] about prompts and streams, [`list`] about pages and places in a
//! history, [`answer`] about answers to asks, [`mime`] about the types of attachments.

mod answer;
mod list;
mod mime;
mod session;
mod turn;

use std::{collections::BTreeMap, str::FromStr};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::{
    copilot::{Json, Schema, Secret},
    grpc::violation::Violation,
    session::SessionId,
};

pub use session::Defaults;
pub(in crate::grpc) use turn::MAX_EVENT_SIZE;

#[cfg(test)]
pub(in crate::grpc) use {answer::*, list::*, session::*, turn::*};

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Checks(Vec<Violation>);

impl Checks {
    pub(in crate::grpc) fn wrong(&mut self, field: impl Into<String>, description: impl ToString) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// The value, or all that is wrong with the request.
    pub(in crate::grpc) fn done<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }

    pub(in crate::grpc) fn session_id(&mut self, id: &str) -> Option<SessionId> {
        self.session_id_in("session_id", id)
    }

    pub(in crate::grpc) fn session_id_in(&mut self, field: &str, id: &str) -> Option<SessionId> {
        SessionId::parse(id).map_err(|error| self.wrong(field, error)).ok()
    }

    /// Parses a JSON value. The error says where it is wrong, or where parsers would not agree on it.
    pub(super) fn json(&mut self, field: &str, text: String) -> Option<Json> {
        if text.trim().is_empty() {
            self.wrong(field, "is required: one JSON value");
            return None;
        }
        Json::strict(text).map_err(|error| self.wrong(field, format!("is not acceptable JSON: {error}"))).ok()
    }

    /// Parses a JSON schema that describes an object.
    pub(super) fn json_schema(&mut self, field: &str, text: String) -> Option<(Json, Schema)> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let json = self.json(field, text)?;
        if json.read().is_none_or(|Typed { r#type }| r#type != "object") {
            self.wrong(field, "must be a JSON schema with `\"type\": \"object\"`");
            return None;
        }
        let schema = Schema::new(&json);
        let schema =
            schema.map_err(|error| self.wrong(field, format!("cannot be used as a JSON schema: {error}")));
        Some((json, schema.ok()?))
    }

    pub(super) fn one_of(&mut self, field: &str, value: String, allowed: &[&str]) -> Option<String> {
        if !value.is_empty() && !allowed.contains(&value.as_str()) {
            self.wrong(field, format!("must be one of {}, or empty", allowed.join(", ")));
        }
        non_empty(value)
    }

    /// Parses a secret. The error does not quote it.
    pub(super) fn secret(&mut self, field: &str, value: String) -> Option<Secret> {
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.wrong(field, "must be visible ASCII without spaces, as it travels in an HTTP header");
        }
        non_empty(value).map(Secret::new)
    }

    pub(super) fn headers(
        &mut self,
        field: &str,
        headers: BTreeMap<String, String>,
    ) -> BTreeMap<String, Secret> {
        for (name, value) in &headers {
            if HeaderName::from_str(name).is_err() || HeaderValue::from_str(value).is_err() {
                self.wrong(field, format!("{name:?} is not a valid HTTP header, or its value is not"));
            }
        }
        headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
    }

    /// Checks that there is a text.
    pub(in crate::grpc) fn text(&mut self, field: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.wrong(field, "is required: it is empty or only white space");
        }
        text
    }
}

pub(in crate::grpc) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
