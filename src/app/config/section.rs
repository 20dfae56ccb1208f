//! A table of the TOML file: its values are taken out as they are read, and what nobody has read is a mistake.
//!
//! The parts of the configuration that stand in tables have neither flags nor variables.

use std::path::PathBuf;

use toml::{Table, Value};
use zeroize::Zeroizing;

use crate::{
    app::settings::{Mistake, Origin, Values, unknown},
    copilot::Secret,
};

/// A table of the file.
pub(super) struct Section<'v, 'e> {
    values: &'v mut Values<'e>,
    file: PathBuf,
    path: String,
    pub(super) rest: Table,
    known: Vec<String>,
}

impl<'v, 'e> Section<'v, 'e> {
    /// A table of the file, whose keys are shown below `path`.
    pub(super) fn new(values: &'v mut Values<'e>, file: PathBuf, path: String, rest: Table) -> Self {
        Self { values, file, path, rest, known: Vec::new() }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.into());
        self.rest.remove(key)
    }

    /// Notes those of these keys that are missing.
    pub(super) fn require(&mut self, keys: &[&str]) {
        for key in keys.iter().filter(|key| !self.rest.contains_key(**key)).collect::<Vec<_>>() {
            self.refuse(key, "is missing", None);
        }
    }

    /// Notes a mistake in the value of a key, which is shown only if it is given.
    pub(super) fn refuse(&mut self, key: &str, problem: impl Into<String>, shown: Option<&str>) {
        let mistake = Mistake::new(self.origin(&format!("{}.{key}", self.path)), problem);
        self.values.note(match shown {
            Some(text) => mistake.of(text),
            None => mistake,
        });
    }

    /// Notes a mistake in the table itself.
    pub(super) fn refuse_itself(&mut self, problem: impl Into<String>) {
        self.values.note(Mistake::new(self.origin(&self.path), problem));
    }

    fn origin(&self, key: &str) -> Origin {
        Origin::Key { file: self.file.clone(), key: key.into() }
    }

    /// Reads a value that may be shown.
    pub(super) fn text<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        parse(&text).map_err(|problem| self.refuse(key, problem, Some(&text))).ok()
    }

    /// Reads a value that may hold a secret.
    pub(super) fn hidden<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
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

    /// Reads an array of strings, whose entries are not shown.
    pub(super) fn list<T>(&mut self, key: &str, entry: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
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

    /// Reads a table.
    pub(super) fn table(&mut self, key: &str) -> Option<Section<'_, 'e>> {
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
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(Section<'_, 'e>) -> T,
    ) -> Option<Vec<T>> {
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

    /// Reads a secret from the file or the variable that is named.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        self.secret_as(key, |text| Ok(Secret::new(text)))
    }

    /// Reads a value of more than one secret, from the file or the variable that is named. `parse` must not quote the text.
    pub(super) fn secret_as<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
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

    /// Reads the file that a key names.
    pub(super) fn read(&mut self, key: &str, path: &str) -> Option<Zeroizing<String>> {
        let text = self.values.env().read(path.as_ref()).map(Zeroizing::new);
        text.map_err(|error| self.refuse(key, format!("the file cannot be read: {error}"), None)).ok()
    }

    /// Notes the keys that nobody has read.
    pub(super) fn done(mut self) {
        for (key, _) in std::mem::take(&mut self.rest) {
            let problem = unknown("key", &key, self.known.iter().cloned());
            self.refuse(&key, problem, None);
        }
    }
}
