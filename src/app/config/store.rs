//! The settings of the store: where sessions live, what is archived of them, and with which keys their credentials are sealed.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use zeroize::Zeroizing;

use super::text::{BYTES, DURATION, KIB, MIB, within};
use crate::{
    app::settings::{Mistake, Origin, STORE_PASSWORD, Values},
    copilot::Secret,
    session::Archive,
    store::{SealKey, Sealer},
};

pub use crate::store::Location as StoreLocation;

/// Where sessions live, and in which bounds.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where the store is.
    pub location: StoreLocation,
    /// How long each call to the store may take.
    pub time_limit: Duration,
    /// The largest stored folder of a session, in bytes.
    pub max_session_size: u64,
    /// The largest file of a session's folder that is stored, in bytes.
    pub max_session_file_size: u64,
}

/// A shorter limit than a network needs would fail every call; who waits for a minute has given up.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// An ordinary session has 1 MiB after some hundred turns. A folder may be written in one piece, and PostgreSQL takes no value
/// of 1 GiB.
const SESSION_SIZES: RangeInclusive<usize> = MIB..=512 * MIB;
/// With less than 64 KiB the history of an ordinary session would be left out.
const FILE_SIZES: RangeInclusive<usize> = 64 * KIB..=512 * MIB;

/// The name of the file in the state directory.
const FILE: &str = "store.db";

const URL: &str = "store_url";
const PASSWORD_FILE: &str = "store_password_file";

/// Where sessions live. `state_dir` is `None` if it is wrong, which has been noted.
pub(super) fn store(values: &mut Values<'_>, state_dir: Option<&PathBuf>) -> Option<StoreSettings> {
    let location = location(values, state_dir);
    let time_limit = values.read("store_timeout", within(TIMEOUTS, DURATION));
    let max_session_size = values.read("max_session_size", within(SESSION_SIZES, BYTES));
    let max_session_file_size = values.read("max_session_file_size", within(FILE_SIZES, BYTES));
    let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    Some(StoreSettings {
        location: location?,
        time_limit: time_limit?,
        max_session_size: number(max_session_size?),
        max_session_file_size: number(max_session_file_size?),
    })
}

fn location(values: &mut Values<'_>, state_dir: Option<&PathBuf>) -> Option<StoreLocation> {
    if values.origin(URL).is_none() {
        if values.origin(PASSWORD_FILE).is_some() {
            values
                .refuse(PASSWORD_FILE, "a password is only for the database at store_url: set store_url too");
        }
        return Some(StoreLocation::Sqlite(state_dir?.join(FILE)));
    }
    let url = values.hidden(URL, postgres_url);
    let password = password(values);
    let url = url?;
    if password_in(&url).is_some() {
        if matches!(values.origin(URL), Some(Origin::Flag(_))) {
            let problem = "everybody on this machine can see the password of a flag: put it into a file \
                           (store_password_file), or give the URL by its variable or in the TOML file";
            values.refuse(URL, problem);
        }
        if password.is_some() {
            let problem =
                format!("there is a password in {PASSWORD_FILE} or {STORE_PASSWORD}, too: give one");
            values.refuse(URL, problem);
        }
    }
    Some(StoreLocation::Postgres { url: Secret::new(url), password })
}

/// The password, from its file or else its variable. It has no flag, which everybody could see.
fn password(values: &mut Values<'_>) -> Option<Secret> {
    if values.origin(PASSWORD_FILE).is_none() {
        return values.hidden_variable(STORE_PASSWORD, |text| Ok(Secret::new(text)));
    }
    let path = values.path(PASSWORD_FILE)?;
    // The path is not shown: somebody may have taken the setting for the password itself.
    match values.env().read(&path).map(Zeroizing::new) {
        Ok(text) if text.trim().is_empty() => {
            values.refuse(PASSWORD_FILE, "the file is empty: write the password into it")
        }
        Ok(text) => return Some(Secret::new(text.trim())),
        Err(error) => values.refuse(PASSWORD_FILE, format!("the file cannot be read: {error}")),
    }
    None
}

/// The store room checks the rest of the URL when it connects.
fn postgres_url(text: &str) -> Result<String, String> {
    const FORM: &str = "write a URL such as postgres://user@host:5432/database?sslmode=verify-full";
    match text.split_once("://") {
        Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {}
        Some(_) => return Err(format!("only PostgreSQL is known: {FORM}")),
        None => return Err(FORM.into()),
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("there is a space in it: {FORM}"));
    }
    Ok(text.into())
}

/// The password that a URL holds: `user:password@host`, or a parameter.
fn password_in(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (before, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let user = before.split('/').next()?.rsplit_once('@').map_or("", |(user, _)| user);
    let parameter = || parameters.split('&').find_map(|parameter| parameter.strip_prefix("password="));
    user.split_once(':').map(|(_, password)| password).or_else(parameter).filter(|text| !text.is_empty())
}

/// What is archived. By default the folders are archived where other machines can reach the archive.
pub(super) fn archive(values: &mut Values<'_>) -> Option<Archive> {
    const KEY: &str = "archive";
    let has_url = values.origin(URL).is_some();
    let default = if has_url { Archive::BeforeAnswer } else { Archive::Off };
    if values.origin(KEY).is_none() {
        return Some(default);
    }
    values.read(KEY, |text| match text {
        "off" => Ok(Archive::Off),
        "before_answer" | "after_answer" if !has_url => Err(format!(
            "without {URL} the archive would be on the disk that the folders are on: set {URL}, or write off"
        )),
        "before_answer" => Ok(Archive::BeforeAnswer),
        "after_answer" => Ok(Archive::AfterAnswer),
        _ => Err("write before_answer, after_answer or off".into()),
    })
}

/// The keys that credentials are sealed with: `None` if there is no file of keys, or if it is wrong, which is then noted.
pub(super) fn sealer(values: &mut Values<'_>) -> Option<Sealer> {
    const KEY: &str = "seal_key_file";
    const MAKE: &str = "make a key with `openssl rand -base64 32`";
    let origin = values.origin(KEY)?.clone();
    let path = values.path(KEY)?;
    let shown = path.to_string_lossy();
    if SealKey::parse(&shown).is_ok() {
        values.refuse(
            KEY,
            "this is a key, which others may have seen: make another, and name a file that holds it",
        );
        return None;
    }
    let problem = match values.env().read(&path).map(Zeroizing::new) {
        Ok(text) => match keys(&text) {
            Ok(sealer) => return Some(sealer),
            Err(problem) => format!("{problem}: {MAKE}"),
        },
        Err(error) => format!("the file cannot be read: {error}: {MAKE}, and write it into this file"),
    };
    values.note(Mistake::new(origin, problem).of(&shown));
    None
}

/// Reads one or two keys, one a line. An error has the line's number and nothing of the line.
fn keys(text: &str) -> Result<Sealer, String> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let key = SealKey::parse(line).map_err(|error| format!("line {} of the file: {error}", index + 1))?;
        keys.push(key);
    }
    let count = keys.len();
    let mut keys = keys.into_iter();
    match (count, keys.next()) {
        (1 | 2, Some(first)) => Ok(Sealer::new(first, keys)),
        (0, _) => Err("the file is empty".into()),
        _ => Err(format!(
            "the file has {count} keys: write one, or two to replace one (the first seals, both open)"
        )),
    }
}

/// What must not be shown of where the store is.
pub(super) fn secrets(location: &StoreLocation) -> Vec<Secret> {
    match location {
        StoreLocation::Sqlite(_) => Vec::new(),
        StoreLocation::Postgres { url, password } => {
            password_in(url.expose()).map(Secret::new).into_iter().chain(password.clone()).collect()
        }
    }
}
