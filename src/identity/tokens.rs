//! Bearer tokens whose hashes stand in a file, `token_file`, which is looked at every 2 s.
//!
//! The file has SHA-256 hashes, not tokens: who reads it, or a backup of it, cannot call. A slow hash such as Argon2 would add
//! nothing, because the tokens are random (256 bits, `copilot-grpc token new`): nobody can try them all, at whatever speed. It is for
//! passwords, and would cost each call what it costs those who guess.
//!
//! A new version of the file that has a mistake changes nothing: the tokens stay as they were, and the log has the mistakes once.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use tokio::time::{MissedTickBehavior, interval};
use toml::{Table, Value};
use tracing::{info, warn};

use super::{
    caller::{Caller, Means, Role, Roles, Subject, TenantName},
    digest::Digest,
    file,
    refused::Refused,
};
use crate::lock::lock;

/// A file of tokens, and what was in it when the configuration was read.
#[derive(Clone, Debug)]
pub struct TokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was in it.
    pub tokens: Tokens,
}

/// The tokens of a file, by their hashes.
#[derive(Clone, Default)]
pub struct Tokens(Arc<HashMap<Digest, Token>>);

#[derive(Debug)]
struct Token {
    caller: Caller,
    not_before: Option<SystemTime>,
    expires: Option<SystemTime>,
}

/// The largest file, in bytes: 10,000 tokens have 2 MiB.
const MAX_FILE: usize = 4 << 20;
/// The longest name of a token, in bytes. It stands in the log.
const MAX_NAME: usize = 64;

impl Tokens {
    /// Reads the text of a token file.
    ///
    /// # Errors
    /// All mistakes: for each the key, such as `token[0].tenant`, and what is wrong with it. None has a value of the file in it: one may
    /// be the token itself.
    pub fn parse(text: &str) -> Result<Self, Vec<(String, String)>> {
        let whole = |problem: String| vec![("token".to_owned(), problem)];
        if text.len() > MAX_FILE {
            return Err(whole(format!("the file is longer than {} MiB", MAX_FILE >> 20)));
        }
        let mut file = text.parse::<Table>().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            // The message of the parser may quote the line.
            whole(format!("the file is not TOML: see line {}", before.matches('\n').count() + 1))
        })?;
        let tables = match file.remove("token") {
            None => Vec::new(),
            Some(Value::Array(tables)) => tables,
            Some(_) => return Err(whole("write [[token]] above each token".into())),
        };
        let mut mistakes: Vec<_> = file
            .keys()
            .map(|key| (key.clone(), "unknown key: the file has [[token]] tables only".into()))
            .collect();
        let mut tokens = HashMap::new();
        for (n, table) in tables.into_iter().enumerate() {
            let mut fields = Fields { at: format!("token[{n}]"), table, mistakes: &mut mistakes };
            let Some((hash, token)) = fields.token() else { continue };
            if tokens.insert(hash, token).is_some() {
                fields.refuse("sha256", "stands above, too: write each token once");
            }
        }
        if mistakes.is_empty() { Ok(Self(Arc::new(tokens))) } else { Err(mistakes) }
    }

    /// Whose a token is; `None`: it is not in the file.
    pub(super) fn caller(&self, token: Digest, now: SystemTime) -> Option<Result<Caller, Refused>> {
        let token = self.0.get(&token)?;
        Some(if token.expires.is_some_and(|expires| now >= expires) {
            Err(Refused::Expired)
        } else if token.not_before.is_some_and(|from| now < from) {
            Err(Refused::NotYetValid)
        } else {
            Ok(token.caller.clone())
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// Puts the tokens of the file into `current`, whenever the file has changed. Never returns.
pub(super) async fn follow(path: PathBuf, current: Arc<Mutex<Tokens>>) {
    let mut ticks = interval(file::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        ticks.tick().await;
        let read = file::read(&path, MAX_FILE).await;
        if known.as_ref() == Some(&read) {
            continue;
        }
        match read.clone().and_then(parsed) {
            Ok(tokens) => {
                info!(file = %path.display(), tokens = tokens.0.len(), "the token file has been read");
                *lock(&current) = tokens;
            }
            Err(problem) => {
                warn!(file = %path.display(), problem, "the token file cannot be used: the tokens stay as they were")
            }
        }
        known = Some(read);
    }
}

fn parsed(bytes: Vec<u8>) -> Result<Tokens, String> {
    let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())?;
    let told = |mistakes: Vec<(String, String)>| {
        mistakes.iter().map(|(key, problem)| format!("{key}: {problem}")).collect::<Vec<_>>().join("; ")
    };
    Tokens::parse(&text).map_err(told)
}

/// The fields of one table. They are taken out as they are read.
struct Fields<'m> {
    at: String,
    table: Value,
    mistakes: &'m mut Vec<(String, String)>,
}

impl Fields<'_> {
    fn token(&mut self) -> Option<(Digest, Token)> {
        if !self.table.is_table() {
            self.mistakes.push((self.at.clone(), "write a table".into()));
            return None;
        }
        let name = self.read("name", |text| match text {
            "" => Err("is empty".into()),
            text if text.len() > MAX_NAME || text.chars().any(char::is_control) => {
                Err(format!("write at most {MAX_NAME} bytes, without control characters"))
            }
            text => Ok(Arc::from(text)),
        });
        let hash = self.required("sha256", |text| {
            let form = "write the 64 hexadecimal digits of the token's SHA-256 hash, never the token: see `copilot-grpc token new`";
            Digest::from_hex(text).ok_or_else(|| form.into())
        });
        let tenant =
            self.required("tenant", |text| TenantName::parse(text).map_err(|error| error.to_string()));
        let subject =
            self.required("subject", |text| Subject::parse(text).map_err(|error| error.to_string()));
        let roles = self.roles();
        let not_before = self.read("not_before", time);
        let expires = self.read("expires", time);
        if not_before.zip(expires).is_some_and(|(from, to)| from >= to) {
            self.refuse("expires", "is not after not_before");
        }
        let left = std::mem::replace(&mut self.table, Value::Boolean(false));
        for key in left.as_table().into_iter().flat_map(Table::keys) {
            self.refuse(key, "unknown key");
        }
        let caller = Caller { tenant: tenant?, subject: subject?, roles, by: Means::Token { name } };
        Some((hash?, Token { caller, not_before, expires }))
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.table.as_table_mut()?.remove(key)
    }

    fn refuse(&mut self, key: &str, problem: impl Into<String>) {
        self.mistakes.push((format!("{}.{key}", self.at), problem.into()));
    }

    fn read<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let parsed = match self.take(key)? {
            Value::String(text) => parse(&text),
            Value::Datetime(time) => parse(&time.to_string()),
            _ => Err("write a string".into()),
        };
        parsed.map_err(|problem| self.refuse(key, problem)).ok()
    }

    fn required<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if self.table.get(key).is_none() {
            self.refuse(key, "is missing");
            return None;
        }
        self.read(key, parse)
    }

    fn roles(&mut self) -> Roles {
        let Some(value) = self.take("roles") else { return Roles::default() };
        let roles = value.as_array().map(|roles| {
            roles
                .iter()
                .map(|role| role.as_str().unwrap_or_default().parse::<Role>())
                .collect::<Result<_, _>>()
        });
        match roles {
            Some(Ok(roles)) => roles,
            Some(Err(problem)) => {
                self.refuse("roles", problem);
                Roles::default()
            }
            None => {
                self.refuse("roles", "write an array of strings, such as [\"tenant_admin\"]");
                Roles::default()
            }
        }
    }
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|_| "write a time in UTC, such as 2027-01-31T00:00:00Z".into())
}
