//! The operator's profiles: the tables `[profiles.NAME]` of the TOML file, and all mistakes in them.
//!
//! They have neither flags nor variables. Keys and tokens are not in them: they name a file or a variable, which is read once,
//! here.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use toml::{Table, Value};
use zeroize::Zeroizing;

use super::text::{DURATION, any, base_url, headers, one_of, tokens, tool, within};
use crate::{
    app::settings::{Mistake, Origin, Values, unknown},
    copilot::{Provider, Secret, SystemMessage},
    session::{Effect, PERMISSION_KINDS, Policy, Profile, Rule},
};

/// The range of the ages of sessions. One that is closed before its first turn ends is useless, except in tests; a thousand
/// years are for ever.
pub(super) const AGES: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// The profiles of the file.
pub(super) fn profiles(values: &mut Values<'_>) -> Vec<Profile> {
    let Some((file, tables)) = values.profiles() else { return Vec::new() };
    let mut profiles = Vec::new();
    for (name, value) in tables {
        let mut section = Section::new(values, file.clone(), format!("profiles.{name}"), Table::new());
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
            section.refuse_itself("a profile's name consists of 1 to 64 of A-Z a-z 0-9 _ and -");
        }
        match value {
            Value::Table(table) => {
                section.rest = table;
                profiles.push(profile(section, name));
            }
            other => section.refuse_itself(format!("this is a TOML {}: write a table", other.type_str())),
        }
    }
    profiles
}

fn profile(mut section: Section<'_, '_>, name: String) -> Profile {
    let policy = policy(&mut section);
    let profile = Profile {
        provider: section.table("provider").map(|section| Arc::new(provider(section))),
        github_token: section.secret("github_token"),
        models: section.list("models", any).unwrap_or_default(),
        available_tools: section.list("available_tools", tool),
        excluded_tools: section.list("excluded_tools", tool).unwrap_or_default(),
        policy,
        system_message: section.system_message(),
        max_session_age: section.text("max_session_age", within(AGES, DURATION)),
        max_session_idle: section.text("max_session_idle", within(AGES, DURATION)),
        name,
    };
    section.done();
    profile
}

fn provider(mut section: Section<'_, '_>) -> Provider {
    if !section.rest.contains_key("base_url") {
        section.refuse("base_url", "is missing: write where the provider's API is", None);
    }
    let provider = Provider {
        kind: section.text("type", one_of(&["openai", "azure", "anthropic"])),
        wire_api: section.text("wire_api", one_of(&["completions", "responses"])),
        transport: section.text("transport", one_of(&["http", "websockets"])),
        // A URL can carry a password or a key, so it is not shown.
        base_url: section.hidden("base_url", base_url).unwrap_or_default(),
        api_key: section.secret("api_key"),
        bearer_token: section.secret("bearer_token"),
        azure_api_version: section.text("azure_api_version", any),
        headers: section.secret_as("headers", headers).unwrap_or_default(),
        model_id: section.text("model_id", any),
        wire_model: section.text("wire_model", any),
        max_prompt_tokens: section.text("max_prompt_tokens", tokens),
        max_output_tokens: section.text("max_output_tokens", tokens),
    };
    section.done();
    provider
}

/// The permission policy: the kinds that are allowed, or rules.
fn policy(section: &mut Section<'_, '_>) -> Option<Policy> {
    let has = |key| section.rest.contains_key(key);
    if has("allow_permissions") && has("permissions") {
        section.refuse("permissions", "write either this or allow_permissions", None);
    }
    let allowed = section.list("allow_permissions", one_of(PERMISSION_KINDS));
    let rules = section.tables("permissions", rule);
    rules
        .map(|rules| Policy::new(rules.into_iter().flatten().collect()))
        .or_else(|| allowed.map(|kinds| Policy::allowing(&kinds)))
}

fn rule(mut section: Section<'_, '_>) -> Option<Rule> {
    let kinds: Vec<_> = PERMISSION_KINDS.iter().copied().chain(["*"]).collect();
    for key in ["kind", "effect"] {
        if !section.rest.contains_key(key) {
            section.refuse(key, "is missing", None);
        }
    }
    let kind = section.text("kind", one_of(&kinds));
    let pattern = section.text("pattern", any).unwrap_or_default();
    let effect = section.text("effect", effect);
    section.done();
    Some(Rule { kind: kind?, pattern, effect: effect? })
}

fn effect(text: &str) -> Result<Effect, String> {
    match text {
        "allow" => Ok(Effect::Allow),
        "ask" => Ok(Effect::Ask),
        "deny" => Ok(Effect::Deny),
        _ => Err("write one of allow, ask, deny".into()),
    }
}

/// A table of the file. Keys are taken out as they are read.
struct Section<'v, 'e> {
    values: &'v mut Values<'e>,
    file: PathBuf,
    path: String,
    rest: Table,
    known: Vec<String>,
}

impl<'v, 'e> Section<'v, 'e> {
    fn new(values: &'v mut Values<'e>, file: PathBuf, path: String, rest: Table) -> Self {
        Self { values, file, path, rest, known: Vec::new() }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.into());
        self.rest.remove(key)
    }

    fn refuse(&mut self, key: &str, problem: impl Into<String>, shown: Option<&str>) {
        let mistake = Mistake::new(self.origin(&format!("{}.{key}", self.path)), problem);
        self.values.note(match shown {
            Some(text) => mistake.of(text),
            None => mistake,
        });
    }

    fn refuse_itself(&mut self, problem: impl Into<String>) {
        self.values.note(Mistake::new(self.origin(&self.path), problem));
    }

    fn origin(&self, key: &str) -> Origin {
        Origin::Key { file: self.file.clone(), key: key.into() }
    }

    /// Reads a value that may be shown.
    fn text<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        parse(&text).map_err(|problem| self.refuse(key, problem, Some(&text))).ok()
    }

    /// Reads a value that may hold a secret.
    fn hidden<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        parse(&text).map_err(|problem| self.refuse(key, problem, None)).ok()
    }

    fn string(&mut self, key: &str) -> Option<String> {
        let problem = match self.take(key)? {
            Value::String(text) if text.trim().is_empty() => {
                "the value is empty: give one, or leave it out".into()
            }
            Value::String(text) => return Some(text.trim().to_owned()),
            Value::Integer(number) => return Some(number.to_string()),
            other => format!("this is a TOML {}: write a string", other.type_str()),
        };
        self.refuse(key, problem, None);
        None
    }

    fn list(&mut self, key: &str, entry: impl Fn(&str) -> Result<String, String>) -> Option<Vec<String>> {
        let Value::Array(items) = self.take(key)? else {
            self.refuse(key, "write an array of strings, such as [\"a\", \"b\"]", None);
            return None;
        };
        let texts = items.iter().map(|item| match item.as_str().map(str::trim) {
            Some("") | None => Err("every entry must be a string, and not empty".to_owned()),
            Some(text) => entry(text),
        });
        let texts: Result<_, String> = texts.collect();
        texts.map_err(|problem| self.refuse(key, problem, None)).ok()
    }

    fn table(&mut self, key: &str) -> Option<Section<'_, 'e>> {
        match self.take(key)? {
            Value::Table(table) => {
                let path = format!("{}.{key}", self.path);
                Some(Section::new(self.values, self.file.clone(), path, table))
            }
            other => {
                self.refuse(key, format!("this is a TOML {}: write a table", other.type_str()), None);
                None
            }
        }
    }

    /// Reads each table of an array.
    fn tables<T>(&mut self, key: &str, mut read: impl FnMut(Section<'_, 'e>) -> T) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(key)? else {
            self.refuse(
                key,
                "write an array of tables, such as [{ kind = \"shell\", effect = \"allow\" }]",
                None,
            );
            return None;
        };
        let mut all = Vec::new();
        for (n, item) in items.into_iter().enumerate() {
            let path = format!("{}.{key}[{n}]", self.path);
            match item {
                Value::Table(table) => {
                    all.push(read(Section::new(self.values, self.file.clone(), path, table)));
                }
                _ => self.refuse(&format!("{key}[{n}]"), "write a table", None),
            }
        }
        Some(all)
    }

    /// Reads the system message: a text, or a table with a text or a file, and with a mode.
    fn system_message(&mut self) -> Option<SystemMessage> {
        const KEY: &str = "system_message";
        if self.rest.get(KEY).is_some_and(Value::is_str) {
            let content = self.text(KEY, any);
            return content
                .map(|text| SystemMessage::Customize { content: Some(text), sections: Default::default() });
        }
        let mut section = self.table(KEY)?;
        let mode = section.text("mode", one_of(&["append", "replace"]));
        let text = section.text("text", any);
        let file = section.text("file", any);
        let content = match (text, file) {
            (Some(text), None) => Some(text),
            (None, Some(file)) => section.read("file", &file).map(|text| text.to_string()),
            (Some(_), Some(_)) => {
                section.refuse("file", "write either this or text", None);
                None
            }
            (None, None) => {
                section.refuse("text", "is missing: write the text, or the name of its file as file", None);
                None
            }
        };
        section.done();
        let content = content?;
        Some(match mode.as_deref() {
            Some("replace") => SystemMessage::Replace { content },
            _ => SystemMessage::Customize { content: Some(content), sections: Default::default() },
        })
    }

    /// Reads a secret from the file or the variable that is named.
    fn secret(&mut self, key: &str) -> Option<Secret> {
        self.secret_as(key, |text| Ok(Secret::new(text)))
    }

    /// Reads a value of more than one secret, from the file or the variable that is named. `parse` must not quote the text.
    fn secret_as<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (file, variable) = (format!("{key}_file"), format!("{key}_env"));
        if self.take(key).is_some() {
            let advice =
                format!("no secret stands in this file: name a file ({file}) or a variable ({variable})");
            self.refuse(key, advice, None);
        }
        let both = self.rest.contains_key(&file) && self.rest.contains_key(&variable);
        if both {
            self.refuse(&file, format!("write either this or {variable}"), None);
        }
        // The names are not shown: if somebody took the key for the secret itself, the secret must not be in the log.
        let (from, text) = match (self.string(&file), self.string(&variable)) {
            (Some(path), _) => {
                let text = self.read(&file, &path)?;
                (file, text)
            }
            (None, Some(name)) => match self.values.env().var(&name).map(std::ffi::OsString::into_string) {
                Some(Ok(text)) => (variable, Zeroizing::new(text)),
                Some(Err(_)) => {
                    self.refuse(&variable, "the variable is not UTF-8", None);
                    return None;
                }
                None => {
                    self.refuse(&variable, "there is no such environment variable", None);
                    return None;
                }
            },
            (None, None) => return None,
        };
        match text.trim() {
            "" => self.refuse(&from, "what it names is empty: write the secret into it", None),
            text => match parse(text) {
                Ok(value) => return Some(value),
                Err(problem) => self.refuse(&from, problem, None),
            },
        }
        None
    }

    fn read(&mut self, key: &str, path: &str) -> Option<Zeroizing<String>> {
        let text = self.values.env().read(path.as_ref()).map(Zeroizing::new);
        text.map_err(|error| self.refuse(key, format!("the file cannot be read: {error}"), None)).ok()
    }

    /// Notes the keys that nobody has read.
    fn done(mut self) {
        for (key, _) in std::mem::take(&mut self.rest) {
            let problem = unknown("key", &key, self.known.iter().cloned());
            self.refuse(&key, problem, None);
        }
    }
}
