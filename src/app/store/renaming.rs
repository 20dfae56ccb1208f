//! A session's folder under another id. The CLI has the id in two of its files, and takes the one in the first event for the
//! session's (observed on 1.0.89-7): a folder with another name alone cannot be used.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::{
    archive::{self, Corrupt},
    folder::{Op, RelativePath, path::EVENTS},
};

const WORKSPACE: &str = "workspace.yaml";

/// Why a folder cannot get another id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRenamed {
    #[error("the session cannot get another id: its first event does not name the one that it has")]
    NoId,
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// The chunks of a folder, under another id.
pub(super) fn renamed(chunks: &[Vec<u8>], from: &str, to: &str) -> Result<Vec<Vec<u8>>, NotRenamed> {
    // How much longer files have become.
    let mut longer = BTreeMap::<RelativePath, u64>::new();
    let mut shorter = BTreeMap::<RelativePath, u64>::new();
    let renamed = chunks.iter().map(|chunk| {
        let mut ops = archive::decode(chunk)?;
        for op in &mut ops {
            match op {
                Op::Put { path, data } => {
                    let changed = match path.as_bytes() {
                        name if name == EVENTS.as_bytes() => Some(in_events(data, from, to)?),
                        name if name == WORKSPACE.as_bytes() => in_workspace(data, from, to),
                        _ => None,
                    };
                    if let Some(changed) = changed {
                        let (old, new) = (data.len() as u64, changed.len() as u64);
                        longer.insert(path.clone(), new.saturating_sub(old));
                        shorter.insert(path.clone(), old.saturating_sub(new));
                        *data = changed;
                    } else {
                        longer.remove(path);
                        shorter.remove(path);
                    }
                }
                Op::Append { path, from, .. } => {
                    let number = |of: &BTreeMap<_, u64>| of.get(path).copied().unwrap_or_default();
                    *from = (*from + number(&longer)).saturating_sub(number(&shorter));
                }
                Op::Folder { .. } | Op::Remove { .. } => {}
            }
        }
        Ok(archive::encode(&ops))
    });
    renamed.collect()
}

/// The first event tells the id.
fn in_events(data: &Bytes, from: &str, to: &str) -> Result<Bytes, NotRenamed> {
    let end = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let (first, rest) = data.split_at(end);
    let first = std::str::from_utf8(first).map_err(|_| NotRenamed::NoId)?;
    let field = |id: &str| format!("\"sessionId\":\"{id}\"");
    if !first.contains(&field(from)) {
        return Err(NotRenamed::NoId);
    }
    Ok([first.replacen(&field(from), &field(to), 1).as_bytes(), rest].concat().into())
}

/// A line tells the id.
fn in_workspace(data: &Bytes, from: &str, to: &str) -> Option<Bytes> {
    let text = std::str::from_utf8(data).ok()?;
    let line = format!("id: {from}");
    let lines = text.split('\n').map(|each| if each == line { format!("id: {to}") } else { each.to_owned() });
    Some(lines.collect::<Vec<_>>().join("\n").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::folder::Manifest;

    fn put(path: &str, data: &'static str) -> Op {
        Op::Put { path: RelativePath::parse(path.as_bytes()).unwrap(), data: data.into() }
    }

    fn append(path: &str, from: u64, data: &'static str) -> Op {
        Op::Append { path: RelativePath::parse(path.as_bytes()).unwrap(), from, data: data.into() }
    }

    const FIRST: &str = "{\"data\":{\"sessionId\":\"one\"}}\n";

    #[test]
    fn the_id_is_changed_where_the_cli_reads_it_and_nowhere_else() {
        for (to, first, workspace) in [
            ("second", "{\"data\":{\"sessionId\":\"second\"}}\n", "a: 1\nid: second\nname: id: one\n"),
            ("x", "{\"data\":{\"sessionId\":\"x\"}}\n", "a: 1\nid: x\nname: id: one\n"),
        ] {
            let said = "{\"said\":\"\\\"sessionId\\\":\\\"one\\\"\",\"sessionId\":\"one\"}\n";
            let chunks = [
                vec![put("workspace.yaml", "a: 1\nid: one\nname: id: one\n"), put("events.jsonl", FIRST)],
                vec![append("events.jsonl", 29, said)],
                vec![append("workspace.yaml", 27, "b: 2\n"), put("files/events.jsonl", FIRST)],
            ];
            let renamed = renamed(&chunks.map(|ops| archive::encode(&ops)), "one", to).unwrap();
            let events: Vec<_> = renamed.iter().map(|chunk| archive::decode(chunk).unwrap()).collect();
            let expected = [
                vec![put("workspace.yaml", workspace), put("events.jsonl", first)],
                vec![append("events.jsonl", first.len() as u64, said)],
                vec![
                    append("workspace.yaml", workspace.len() as u64, "b: 2\n"),
                    put("files/events.jsonl", FIRST),
                ],
            ];
            assert_eq!(events, expected);
            let whole = archive::verify(&renamed, None).unwrap();
            assert_ne!(whole, Manifest::default());
        }
    }

    #[test]
    fn a_session_that_does_not_say_its_id_cannot_get_another() {
        let chunk = archive::encode(&[put("events.jsonl", "{}\n{\"sessionId\":\"one\"}\n")]);
        assert_eq!(renamed(&[chunk], "one", "two"), Err(NotRenamed::NoId));
        assert_eq!(renamed(&[b"CGA".to_vec()], "one", "two"), Err(NotRenamed::Corrupt(Corrupt::NotAChunk)));
    }
}
