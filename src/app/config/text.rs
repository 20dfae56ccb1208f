//! Parsers of setting texts. An error says what to write instead, and does not quote the text.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Component, Path},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::copilot::Secret;

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

pub(super) fn any(text: &str) -> Result<String, String> {
    Ok(text.into())
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "write true or false".into())
}

pub(super) fn one_of(known: &[&str]) -> impl Fn(&str) -> Result<String, String> {
    move |text| {
        if known.contains(&text) {
            Ok(text.into())
        } else {
            Err(format!("write one of {}", known.join(", ")))
        }
    }
}

pub(super) fn list(
    text: &str,
    entry: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<String>, String> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry).collect()
}

pub(super) fn tool(name: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_:.*-".contains(c);
    if name.chars().all(is_allowed) {
        Ok(name.into())
    } else {
        Err("names of tools consist of letters, digits and _ : . * -, with commas between them".into())
    }
}

pub(super) fn absolute_path(path: &str) -> Result<String, String> {
    let path = Path::new(path);
    let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if is_plain {
        Ok(path.to_string_lossy().into_owned())
    } else {
        Err("write absolute paths of folders without `..`, with commas between them".into())
    }
}

/// A kind of value that has limits.
pub(super) struct Kind<T> {
    read: fn(&str) -> Option<T>,
    write: fn(&T) -> String,
    /// What to write, with examples.
    form: &'static str,
}

pub(super) const COUNT: Kind<usize> =
    Kind { read: |text| text.parse().ok(), write: usize::to_string, form: "a whole number" };

pub(super) const DURATION: Kind<Duration> = Kind {
    read: |text| humantime::parse_duration(text).ok(),
    write: |time| humantime::format_duration(*time).to_string(),
    form: "a time with its unit, such as 90s, 10m or 1h30m",
};

pub(super) const BYTES: Kind<usize> = Kind {
    read: |text| {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" => 1,
            "kib" => KIB,
            "mib" => MIB,
            "gib" => GIB,
            _ => return None,
        };
        number.parse::<usize>().ok()?.checked_mul(unit)
    },
    write: |size| match size {
        size if size % GIB == 0 => format!("{}GiB", size / GIB),
        size if size % MIB == 0 => format!("{}MiB", size / MIB),
        size => format!("{}KiB", size / KIB),
    },
    form: "a size in bytes, KiB or MiB, such as 65536 or 16MiB",
};

pub(super) fn within<T: PartialOrd>(
    limits: RangeInclusive<T>,
    kind: Kind<T>,
) -> impl FnOnce(&str) -> Result<T, String> {
    move |text| {
        let (from, to) = ((kind.write)(limits.start()), (kind.write)(limits.end()));
        let value = (kind.read)(text).filter(|value| limits.contains(value));
        value.ok_or_else(|| format!("write {}, from {from} to {to}", kind.form))
    }
}

pub(super) fn tokens(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "write a whole number of tokens, at least 1".into())
}

/// Parses an address to listen on, which is not looked up: names other than `localhost` may mean another machine tomorrow.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let local = |port: &str| port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = match text.strip_prefix("localhost:") {
        Some(port) => local(port),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| "write an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051".into())
}

pub(super) fn log_directives(text: &str) -> Result<String, String> {
    const FORM: &str =
        "write off, error, warn, info, debug or trace, or tracing directives such as info,h2=warn";
    // `EnvFilter` takes a word that is no level for a target: with `inof`, everything else would fall silent. (Spans, in
    // brackets, may contain commas and lone words.)
    let is_level = |word: &str| word.contains('=') || word.trim().parse::<LevelFilter>().is_ok();
    if text.contains('[') || text.split(',').all(is_level) {
        EnvFilter::try_new(text).map(|_| text.into()).map_err(|error| format!("{error}: {FORM}"))
    } else {
        Err(FORM.into())
    }
}

pub(super) fn base_url(text: &str) -> Result<String, String> {
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() && !rest.contains(char::is_whitespace) => rest,
        _ => return Err("write an http:// or https:// URL".into()),
    };
    // The CLI's fetch refuses them too (Fetch Standard, "new Request"), and a URL is shown where a `Secret` is not.
    if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
        Err("write no user or password into the URL: set COPILOT_PROVIDER_API_KEY or _HEADERS".into())
    } else {
        Ok(text.into())
    }
}

/// Parses lines of `Name: Value`. A literal `\n` separates them, too, for files and tools that cannot put a line break into a
/// value.
pub(super) fn headers(text: &str) -> Result<BTreeMap<String, Secret>, String> {
    let mut headers = BTreeMap::new();
    let lines = text.split('\n').flat_map(|line| line.split(r"\n")).map(str::trim);
    for (index, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        // The error has only the line's number: without its colon, a line may be nothing but the secret.
        let at = index + 1;
        let (name, value) = line.split_once(':').ok_or_else(|| format!("line {at} is not `Name: Value`"))?;
        // RFC 9110, section 5.6.2 (token) and section 5.5 (field values).
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(format!("line {at} does not begin with the name of a header"));
        }
        if value.contains(|c: char| c.is_control() && c != '\t') {
            return Err(format!("the value in line {at} contains control characters"));
        }
        if headers.keys().any(|other: &String| other.eq_ignore_ascii_case(name)) {
            return Err(format!("line {at} names a header for the second time"));
        }
        headers.insert(name.into(), Secret::new(value.trim()));
    }
    Ok(headers)
}
