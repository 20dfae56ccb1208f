//! The order of the rooms, which the compiler does not check: a room uses only what stands below it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from the ground up.
const ROOMS: &[&str] = &["jsonrpc", "copilot", "backend", "session", "grpc", "app"];

/// What only some rooms know: the beginnings of crates' and modules' names, and the rooms.
const PRIVATE: &[(&[&str], &[&str])] = &[
    (&["tonic", "prost"], &["grpc"]),
    (&["tokio::net", "std::net", "socket2"], &["backend", "grpc", "app"]),
    (&["clap", "toml", "tracing_subscriber"], &["app"]),
];

#[test]
fn a_room_uses_only_what_stands_below_it() {
    let mut rooms = Vec::new();
    let violations: Vec<_> = sources()
        .into_iter()
        .flat_map(|(path, text)| {
            let Some(file) = File::of(&path) else { return Vec::new() };
            rooms.push(file.room.clone());
            violations(&file, &text).into_iter().map(|what| format!("{}: {what}", path.display())).collect()
        })
        .collect();
    assert_eq!(violations, Vec::<String>::new());
    rooms.sort_unstable();
    rooms.dedup();
    let mut expected = ROOMS.to_vec();
    expected.sort_unstable();
    assert_eq!(rooms, expected, "a room without a place in the order, or a place without a room");
}

#[test]
fn only_the_lowest_room_knows_framing() {
    for (path, text) in sources() {
        // Those who come with HTTP/1 are answered in its words.
        let is_home =
            File::of(&path).is_some_and(|file| file.room == "jsonrpc") || path.ends_with("grpc/opening.rs");
        let code = code_of(&text, Strings::Keep).to_ascii_lowercase();
        assert!(is_home || !code.contains("content-length"), "{}", path.display());
    }
}

/// A violation goes unseen only if these do.
#[test]
fn what_breaks_the_order_is_found() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        assert_eq!(violations(&File::of(Path::new(path)).unwrap(), text), expected, "{text}");
    };
    check("session/mod.rs", "use crate::grpc::status;", &["grpc"]);
    check("session/mod.rs", "use crate::{backend::{Link, process}, grpc::pb, session::Turn};", &["grpc"]);
    check(
        "session/mod.rs",
        "use crate::{\n    app,\n    self as all,\n    {grpc as g},\n};",
        &["app", "grpc"],
    );
    check("jsonrpc/peer.rs", "fn f() { crate::copilot::event::peek(b\"\"); }", &["copilot"]);
    check("jsonrpc/peer.rs", "use crate :: /* hidden */ backend;", &["backend"]);
    check("backend/link.rs", "pub(in crate::session) fn f() {}", &["session"]);
    check("backend/mod.rs", "use super::session::Turn;", &["session"]);
    check("backend.rs", "use super::{session, copilot};", &["session"]);
    check("backend/process/output.rs", "use super::super::super::app::Config;", &["app"]);
    check("app/config.rs", "use crate::{grpc, session, backend, copilot, jsonrpc, app};", &[]);
    check("session/hub.rs", "use super::error;\nuse crate::session::key;", &[]);
    check(
        "session/hub.rs",
        "// use crate::grpc;\n/* crate::grpc */ /// [`crate::grpc`]\nlet s = \"crate::grpc\";",
        &[],
    );
    check("session/hub.rs", "let s = r#\"crate::grpc \" \"#; let c = '\"'; crate::app::run();", &["app"]);
    check("session/hub.rs", "use tonic::Status;", &["tonic"]);
    check("app/mod.rs", "let s: prost_types::Struct;", &["prost_types"]);
    check("copilot/mod.rs", "use tokio::{net::TcpStream, sync};", &["tokio::net"]);
    check("copilot/mod.rs", "let tonics = 1; use my::tonic;", &[]);
    check("grpc/mod.rs", "use tonic::Status; use prost::Message;", &[]);
}

/// A file of a room.
struct File {
    room: String,
    /// How many `super` lead from it to the crate.
    depth: usize,
}

impl File {
    /// `None`: it belongs to no room.
    fn of(path: &Path) -> Option<Self> {
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
        let (last, folders) = parts.split_last()?;
        match (folders.first(), *last) {
            (None, "lib" | "main") => None,
            (None, room) => Some(Self { room: room.into(), depth: 1 }),
            (Some(room), last) => {
                let depth = folders.len() + usize::from(last != "mod");
                Some(Self { room: (*room).into(), depth })
            }
        }
    }

    fn may_use(&self, other: &str) -> bool {
        let place = |room| ROOMS.iter().position(|other| *other == room);
        // What is no room is the crate's own small change.
        place(other) <= place(&self.room)
    }
}

/// The rooms and crates that a file must not use, and does.
fn violations(file: &File, text: &str) -> Vec<String> {
    let code = code_of(text, Strings::Drop);
    let tokens = tokens_of(&code);
    let mut found = Vec::new();
    let supers = vec!["super"; file.depth].join("::");
    for path in paths(&tokens) {
        let from_root =
            path.strip_prefix("crate::").or_else(|| path.strip_prefix(&supers)?.strip_prefix("::"));
        if let Some(rest) = from_root {
            let room = rest.split("::").next().unwrap();
            if !file.may_use(room) {
                found.push(room.to_owned());
            }
            continue;
        }
        for (names, homes) in PRIVATE {
            if let Some(name) = names.iter().find_map(|name| private_part(&path, name))
                && !homes.contains(&file.room.as_str())
            {
                found.push(name.to_owned());
            }
        }
    }
    found
}

/// The beginning of `path` that is `name`, or a crate of its family (`prost`, `prost_types`).
fn private_part<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(name)?;
    match rest.chars().next() {
        None | Some(':') => Some(&path[..name.len()]),
        Some('_') => path.split("::").next(),
        Some(_) => None,
    }
}

/// All paths of two parts and more, with groups taken apart: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tokens: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // Not in the middle of a path.
        let begins = is_name(tokens[at]) && tokens.get(at + 1) == Some(&"::");
        if begins {
            at = path(tokens, at, "", &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that begins at `at`, and returns where it ends.
fn path(tokens: &[&str], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(at) {
            Some(&"{") if path.ends_with("::") || path.is_empty() || !prefix.is_empty() && path == prefix => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if is_name(tokens[at]) || tokens[at] == "{" {
                        self::path(tokens, at, &path, found)
                    } else {
                        at + 1
                    };
                }
                return at + 1;
            }
            Some(name) if is_name(name) => {
                path.push_str(name);
                at += 1;
                if tokens.get(at) != Some(&"::") {
                    found.push(path);
                    // `a as b`: the new name is no path.
                    return if tokens.get(at) == Some(&"as") { at + 2 } else { at };
                }
                path.push_str("::");
                at += 1;
            }
            // A glob, or the angle of a turbofish.
            _ => {
                found.push(path.trim_end_matches(':').to_owned());
                return at;
            }
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::`, and all other characters one by one.
fn tokens_of(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

#[derive(Clone, Copy, PartialEq)]
enum Strings {
    Keep,
    Drop,
}

/// A source without its comments, and perhaps without what is in its strings.
fn code_of(text: &str, strings: Strings) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let (length, keep) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), false)
        } else if let Some(length) = string(rest, after_name) {
            (length, strings == Strings::Keep)
        } else {
            (first.len_utf8(), true)
        };
        code.push_str(if keep { &rest[..length] } else { " " });
        rest = &rest[length..];
    }
    code
}

/// The length of the string or character with which `text` begins, if it does.
fn string(text: &str, after_name: bool) -> Option<usize> {
    let hashes = text.strip_prefix('r').filter(|_| !after_name).map(|rest| {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        (hashes, &rest[hashes..])
    });
    if let Some((hashes, body)) = hashes
        && let Some(body) = body.strip_prefix('"')
    {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - body.len();
        return Some(start + body.find(&end)? + end.len());
    }
    // A lifetime is no character: `'a` without an end.
    if let Some(body) = text.strip_prefix('\'') {
        let length =
            if body.starts_with('\\') { body[2..].find('\'')? + 2 } else { body.chars().next()?.len_utf8() };
        return body[length..].starts_with('\'').then_some(length + 2);
    }
    let body = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = body.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(end? + 2)
}

/// All sources, by their paths below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files
                    .push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 30, "{files:?}");
    files
}
