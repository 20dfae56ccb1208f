//! Tests of the archive: chunks, and folders made from them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::store::folder::{self, Limits, Manifest, Op, RelativePath, Tracker};

fn path(text: &[u8]) -> RelativePath {
    RelativePath::parse(text).unwrap()
}

fn ops() -> Vec<Op> {
    vec![
        Op::Remove { path: path(b"old") },
        Op::Folder { path: path(b"files") },
        Op::Put { path: path(b"events.jsonl"), data: "{}\n".repeat(100).into() },
        Op::Put { path: path(b"files/\xff\n"), data: "".into() },
        Op::Append { path: path(b"plan.md"), from: 1 << 40, data: "more".into() },
    ]
}

#[test]
fn a_chunk_is_read_as_it_was_written() {
    for ops in [ops(), vec![]] {
        assert_eq!(decode(&encode(&ops)), Ok(ops));
    }
    let repeated = encode(&ops());
    assert!(repeated.len() < 200, "it is compressed: {}", repeated.len());
}

#[test]
fn bytes_that_are_cut_or_flipped_are_no_chunk() {
    let chunk = encode(&ops());
    for len in 0..chunk.len() {
        let corrupt = decode(&chunk[..len]).unwrap_err();
        assert!(matches!(corrupt, Corrupt::NotAChunk | Corrupt::Checksum), "{len}: {corrupt:?}");
    }
    for at in 0..chunk.len() {
        for bit in 0..8 {
            let mut flipped = chunk.clone();
            flipped[at] ^= 1 << bit;
            assert!(decode(&flipped).is_err(), "{at} {bit}");
        }
    }
    assert_eq!(decode(b"CGA\x02").unwrap_err(), Corrupt::NotAChunk);
    let mut newer = chunk;
    newer[3] = 2;
    assert_eq!(decode(&newer).unwrap_err(), Corrupt::Version(2));
}

#[test]
fn forged_chunks_are_refused() {
    for (plain, expected) in [
        (&b"\x04\x02\0\0\0.."[..], "a path leads elsewhere"),
        (b"\x04\x02\0\0\0/a", "a path leads elsewhere"),
        (b"\x04\x04\0\0\0a/..", "a path leads elsewhere"),
        (b"\x04\0\0\0\0", "a path leads elsewhere"),
        (b"\x04\xff\xff\xff\xffa", "an operation is cut"),
        (b"\x01\x01\0\0\0a\xff\xff\xff\xff\xff\xff\xff\xffdata", "an operation is cut"),
        (b"\x09\x01\0\0\0a", "it has an unknown operation"),
    ] {
        assert_eq!(decode(&forged(0, plain.len() as u64, plain)), Err(Corrupt::Malformed(expected)));
    }
    // A small chunk that says it is large, and one that is.
    let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    assert_eq!(decode(&forged(1, 1 << 20, &zeros)), Err(Corrupt::Malformed("its length is another")));
    assert_eq!(decode(&forged(1, MAX_BYTES + 1, &zeros)), Err(Corrupt::TooLarge));
    let many = b"\x03\x01\0\0\0a".repeat(1 << 19);
    assert_eq!(decode(&forged(0, many.len() as u64, &many)), Err(Corrupt::TooLarge));
    assert_eq!(decode(&forged(2, 0, b"")), Err(Corrupt::Malformed("it is compressed in an unknown way")));
    assert_eq!(decode(&forged(1, 5, b"hello")), Err(Corrupt::Malformed("it cannot be decompressed")));
}

#[test]
fn a_snapshot_is_wanted_when_chunks_are_many_or_large() {
    assert!(!wants_snapshot(1, 50_000, 0));
    assert!(!wants_snapshot(64, 2_000_000, 1_000_000));
    assert!(wants_snapshot(65, 0, 1_000_000));
    assert!(wants_snapshot(2, 2_000_001, 1_000_000));
}

/// A session's folder and its archive.
struct Session {
    dir: tempfile::TempDir,
    tracker: Tracker,
    chunks: Vec<Vec<u8>>,
}

impl Session {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tracker = Tracker::new(dir.path().join("x"), None);
        fs::create_dir(tracker.folder()).unwrap();
        Self { dir, tracker, chunks: Vec::new() }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("y")
    }

    fn archive(&mut self) {
        let changes = self.tracker.changes(&Limits::default()).unwrap();
        self.chunks.push(encode(&changes.ops));
        self.tracker.commit(changes);
    }

    fn snapshot(&mut self) {
        let changes = self.tracker.snapshot(&Limits::default()).unwrap();
        self.chunks = vec![encode(&changes.ops)];
        self.tracker.commit(changes);
    }

    fn restart(&mut self) {
        let manifest = Manifest::decode(&self.tracker.manifest().encode()).unwrap();
        self.tracker = Tracker::new(self.tracker.folder(), Some(manifest));
    }

    /// Puts a file where it may not fit.
    fn write(&self, name: &[u8], data: &[u8], append: bool) {
        let name = Path::new(OsStr::from_bytes(name));
        let mut on_the_way = self.tracker.folder().to_owned();
        for part in name.parent().unwrap() {
            on_the_way.push(part);
            if on_the_way.is_file() {
                fs::remove_file(&on_the_way).unwrap();
            }
        }
        fs::create_dir_all(&on_the_way).unwrap();
        let path = self.tracker.folder().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        }
        let mut file =
            OpenOptions::new().create(true).append(append).write(true).truncate(!append).open(path).unwrap();
        file.write_all(data).unwrap();
    }

    fn remove(&self, name: &[u8]) {
        let path = self.tracker.folder().join(OsStr::from_bytes(name));
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// All that is in a folder: files with their content, and folders.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![folder.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, is_dir) = (entry.path(), entry.file_type().unwrap().is_dir());
            let content = (!is_dir).then(|| fs::read(&path).unwrap());
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            if is_dir {
                ahead.push(path);
            }
        }
    }
    found
}

fn with_history() -> Session {
    let mut session = Session::new();
    for n in 0..3 {
        session.write(b"events.jsonl", format!("{{\"n\":{n}}}\n").as_bytes(), true);
        session.write(format!("files/{n}").as_bytes(), b"data", false);
        session.archive();
    }
    session
}

#[test]
fn a_folder_comes_back_from_its_chunks() {
    let session = with_history();
    let archived = session.tracker.manifest();
    assert_eq!(verify(&session.chunks, Some(&archived)), Ok(archived.clone()));
    assert_eq!(restore(&session.chunks, Some(&archived), &session.target()), Ok(archived));
    assert_eq!(tree(&session.target()), tree(session.tracker.folder()));
}

#[test]
fn an_archive_that_is_not_whole_leaves_the_folder_as_it_was() {
    let session = with_history();
    let archived = session.tracker.manifest();
    fs::create_dir(session.target()).unwrap();
    fs::write(session.target().join("old"), "old").unwrap();
    let before = tree(&session.target());
    let refused = |chunks: &[Vec<u8>]| {
        let error = restore(chunks, Some(&archived), &session.target()).unwrap_err();
        assert_eq!(tree(&session.target()), before);
        assert_eq!(verify(chunks, Some(&archived)), Err(error.clone()));
        error
    };
    let [first, second, third] = &session.chunks[..] else { panic!() };
    assert_eq!(refused(&[]), RestoreError::Empty);
    let cut = third[..third.len() - 1].to_vec();
    assert_eq!(
        refused(&[first.clone(), second.clone(), cut]),
        RestoreError::Corrupt { chunk: 2, problem: Corrupt::Checksum }
    );
    let gap = |chunk| RestoreError::Gap { chunk, path: path(b"events.jsonl") };
    assert_eq!(refused(&[first.clone(), third.clone()]), gap(1));
    assert_eq!(refused(&[second.clone(), third.clone()]), gap(0));
    assert_eq!(refused(&[first.clone(), second.clone(), second.clone()]), gap(2));
    assert_eq!(refused(&[first.clone(), second.clone()]), RestoreError::Differs, "the last is missing");
}

#[test]
fn a_file_that_changes_places_with_a_folder_is_restored() {
    let mut session = with_history();
    session.remove(b"files");
    session.write(b"files", b"a file", false);
    session.write(b"plan.md/a/b", b"a folder", false);
    session.archive();
    session.write(b"files/a", b"a folder", false);
    session.write(b"plan.md", b"a file", false);
    session.archive();
    restore(&session.chunks, Some(&session.tracker.manifest()), &session.target()).unwrap();
    assert_eq!(tree(&session.target()), tree(session.tracker.folder()));
}

#[test]
fn a_disk_that_cannot_be_written_is_told() {
    let session = with_history();
    let nowhere = Path::new("/proc/no/such/folder");
    let error = restore(&session.chunks, None, nowhere).unwrap_err();
    assert!(matches!(error, RestoreError::Folder(folder::Error::Missing { .. } | folder::Error::Io { .. })));
}

#[derive(Clone, Debug)]
enum Edit {
    Write(&'static [u8], Vec<u8>),
    Append(&'static [u8], Vec<u8>),
    Remove(&'static [u8]),
    Archive,
    Snapshot,
    Restart,
}

fn edit() -> impl Strategy<Value = Edit> {
    let files: &[&[u8]] = &[
        b"workspace.yaml",
        b"files",
        b"files/a",
        b"files/a/b",
        b"odd\xff\n",
        b"checkpoints/1/2/3",
        b"other.jsonl",
    ];
    let with_events: Vec<_> = files.iter().copied().chain([&b"events.jsonl"[..]]).collect();
    let data = || {
        prop_oneof![
            4 => vec(select(b"ab\n".to_vec()), 0..12),
            // Longer than what is compared of a log's end.
            1 => (1..3000_usize).prop_map(|len| b"line\n".repeat(len)),
        ]
    };
    prop_oneof![
        3 => (select(with_events.clone()), data()).prop_map(|(name, data)| Edit::Write(name, data)),
        6 => (select(with_events), data()).prop_map(|(name, data)| Edit::Append(name, data)),
        1 => select(files.to_vec()).prop_map(Edit::Remove),
        3 => Just(Edit::Archive),
        1 => Just(Edit::Snapshot),
        1 => Just(Edit::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_folder_its_archive_restores_it(edits in vec(edit(), 0..40)) {
        let mut session = Session::new();
        for edit in edits {
            match edit {
                Edit::Write(name, data) => session.write(name, &data, false),
                Edit::Append(name, data) => session.write(name, &data, true),
                Edit::Remove(name) => session.remove(name),
                Edit::Archive => session.archive(),
                Edit::Snapshot => session.snapshot(),
                Edit::Restart => session.restart(),
            }
        }
        session.archive();
        restore(&session.chunks, Some(&session.tracker.manifest()), &session.target()).unwrap();
        // Of the CLI's logs an unfinished line is not archived.
        let mut expected = tree(session.tracker.folder());
        for (name, content) in &mut expected {
            if let Some(content) = content.as_mut().filter(|_| name.extension() == Some(OsStr::new("jsonl"))) {
                content.truncate(memchr::memrchr(b'\n', content).map_or(0, |at| at + 1));
            }
        }
        prop_assert_eq!(tree(&session.target()), expected);
    }

    #[test]
    fn no_bytes_make_us_panic(bytes in vec(any::<u8>(), 0..200), method in 0..3_u8) {
        let _ = decode(&bytes);
        let _ = decode(&forged(method, bytes.len() as u64, &bytes));
    }
}
