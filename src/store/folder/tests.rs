//! Tests of folders on disk.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    process::{Uid, getuid},
    thread::set_thread_res_uid,
};
use tempfile::TempDir;

use super::{limits::Why, *};

/// Two homes of CLIs, with a session in the first.
struct Homes {
    dir: TempDir,
}

impl Homes {
    fn new() -> Self {
        let homes = Self { dir: tempfile::tempdir().unwrap() };
        homes.write("events.jsonl", "{\"a\":1}\n{\"b\":2}\n");
        homes.write("workspace.yaml", "id: x\n");
        homes.write("files/notes.txt", "notes");
        homes
    }

    fn from(&self) -> PathBuf {
        self.dir.path().join("one/session-state/x")
    }

    fn to(&self) -> PathBuf {
        self.dir.path().join("two/session-state/x")
    }

    fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let path = self.from().join(name.as_ref());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn append(&self, name: &str, content: &str) {
        let mut file = OpenOptions::new().append(true).open(self.from().join(name)).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    fn copy(&self) -> Result<Copied, Error> {
        copy(&self.from(), &self.to(), &Limits::default())
    }
}

/// All files with their content.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![folder.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                ahead.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn path(text: &str) -> RelativePath {
    RelativePath::parse(text.as_bytes()).unwrap()
}

fn left_out(told: &[LeftOut]) -> Vec<(&str, Why)> {
    let mut told: Vec<_> = told.iter().map(|one| (one.path.as_str(), one.why)).collect();
    told.sort_by_key(|one| one.0);
    told
}

#[test]
fn a_folder_is_copied_whole_and_for_its_owner_only() {
    let homes = Homes::new();
    fs::create_dir(homes.from().join("checkpoints")).unwrap();
    fs::set_permissions(homes.from().join("files/notes.txt"), Permissions::from_mode(0o755)).unwrap();
    let copied = homes.copy().unwrap();
    assert_eq!((copied.files, copied.bytes, copied.left_out), (3, 27, vec![]));
    assert_eq!(files(&homes.to()), files(&homes.from()));
    assert!(homes.to().join("checkpoints").is_dir());
    let mode = |name: &str| fs::metadata(homes.to().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("files"), mode("files/notes.txt")), (0o700, 0o700, 0o600));
    let modified = |folder: PathBuf| fs::metadata(folder.join("events.jsonl")).unwrap().modified().unwrap();
    assert_eq!(modified(homes.from()), modified(homes.to()));
    assert_eq!(size(&homes.to()), Ok(27));
}

#[test]
fn what_belongs_to_the_process_and_what_is_no_file_stays_behind() {
    let homes = Homes::new();
    for name in ["inuse.12.lock", "inuse.12.hold", ".session.lock"] {
        homes.write(name, "");
    }
    symlink("/etc/passwd", homes.from().join("files/link")).unwrap();
    symlink("/etc", homes.from().join("etc")).unwrap();
    let _socket = UnixListener::bind(homes.from().join("socket")).unwrap();
    homes.append("events.jsonl", "{\"c\":");
    homes.write("files/data.jsonl", "{\"of\":\"the agent\"}");
    let copied = homes.copy().unwrap();
    assert_eq!(
        left_out(&copied.left_out),
        [("etc", Why::Link), ("files/link", Why::Link), ("socket", Why::Special)]
    );
    let there = files(&homes.to());
    let expected = ["events.jsonl", "files/data.jsonl", "files/notes.txt", "workspace.yaml"];
    assert_eq!(there.keys().collect::<Vec<_>>(), expected);
    assert_eq!(there["events.jsonl"], "{\"a\":1}\n{\"b\":2}\n", "the last line is not finished");
    assert_eq!(there["files/data.jsonl"], "{\"of\":\"the agent\"}", "this one is not the CLI's");
}

#[test]
fn a_copy_takes_the_place_of_what_was_there() {
    let homes = Homes::new();
    fs::create_dir_all(homes.to().join("old")).unwrap();
    fs::write(homes.to().join("old/file"), "old").unwrap();
    homes.copy().unwrap();
    assert_eq!(files(&homes.to()), files(&homes.from()));
    assert_eq!(names(homes.to().parent().unwrap()), [".copilot-grpc", "x"]);
    assert_eq!(names(&homes.to().with_file_name(".copilot-grpc")), [""; 0], "nothing is left aside");
}

#[test]
fn a_link_in_the_place_is_replaced_and_not_followed() {
    let homes = Homes::new();
    let other = homes.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::create_dir_all(homes.to().parent().unwrap()).unwrap();
    symlink(&other, homes.to()).unwrap();
    homes.copy().unwrap();
    assert_eq!(files(&homes.to()), files(&homes.from()));
    assert_eq!(names(&other), [""; 0]);
    assert!(!homes.to().is_symlink());
}

#[test]
fn a_folder_that_is_a_link_is_not_read() {
    let homes = Homes::new();
    let link = homes.dir.path().join("link");
    symlink(homes.from(), &link).unwrap();
    assert!(matches!(copy(&link, &homes.to(), &Limits::default()), Err(Error::Io { doing: "open", .. })));
    assert!(matches!(Tracker::new(link, None).changes(&Limits::default()), Err(Error::Io { .. })));
}

#[test]
fn a_copy_that_fails_leaves_what_was_there() {
    let homes = Homes::new();
    homes.copy().unwrap();
    let before = files(&homes.to());
    homes.append("events.jsonl", "{\"c\":3}\n");
    let failed = fill(&homes.to(), |staged| {
        staged.directory.create(&path("half")).unwrap();
        Err::<(), _>(Error::Missing { path: "half".into() })
    });
    assert_eq!(failed, Err(Error::Missing { path: "half".into() }));
    assert_eq!(files(&homes.to()), before);
    let limits = Limits { max_bytes: 20, ..Limits::default() };
    let too_large = Error::TooLarge { path: homes.from(), bytes: 24, limit: 20 };
    assert_eq!(copy(&homes.from(), &homes.to(), &limits), Err(too_large));
    assert_eq!(files(&homes.to()), before);
    let nothing = homes.dir.path().join("nothing");
    assert_eq!(copy(&nothing, &homes.to(), &limits), Err(Error::Missing { path: nothing }));
    assert_eq!(files(&homes.to()), before);
}

#[test]
fn what_a_copy_that_died_has_left_is_cleared() {
    let homes = Homes::new();
    let aside = homes.to().with_file_name(".copilot-grpc");
    let left = |name: &str| {
        fs::create_dir_all(aside.join(name)).unwrap();
        fs::write(aside.join(name).join("old"), "old").unwrap();
    };
    left("x.new");
    homes.copy().unwrap();
    assert_eq!(files(&homes.to()), files(&homes.from()));
    assert_eq!(names(&aside), [""; 0]);

    // It died between the two steps that it takes where folders cannot change places.
    fs::remove_dir_all(homes.to()).unwrap();
    for name in ["x.old", "x.new", "y.gone", "z.new"] {
        left(name);
    }
    tidy(homes.to().parent().unwrap()).unwrap();
    assert_eq!(files(&homes.to()).into_keys().collect::<Vec<_>>(), ["old"]);
    assert_eq!(names(&aside), [""; 0]);
    tidy(&homes.dir.path().join("nothing")).unwrap();
}

#[test]
fn a_removed_folder_is_gone_with_all_that_was_in_it() {
    let homes = Homes::new();
    assert_eq!(remove(&homes.from()), Ok(true));
    assert_eq!(remove(&homes.from()), Ok(false));
    assert_eq!(names(homes.from().parent().unwrap()), [".copilot-grpc"]);
    assert_eq!(names(&homes.from().with_file_name(".copilot-grpc")), [""; 0]);
    assert_eq!(size(&homes.from()), Err(Error::Missing { path: homes.from() }));
    assert_eq!(remove(&homes.dir.path().join("no/such")), Ok(false));
    assert!(!homes.dir.path().join("no").exists(), "nothing is made to remove nothing");
}

#[test]
fn names_need_not_be_text() {
    let homes = Homes::new();
    for name in [&b"\xff\xfe"[..], b"new\nline", b"files/\xe4", b" ", b"-rf", b"files/..."] {
        homes.write(OsStr::from_bytes(name), "odd");
    }
    assert_eq!(homes.copy().unwrap().files, 9);
    assert_eq!(files(&homes.to()), files(&homes.from()));
    let changes = changes(&homes.from(), &Manifest::default(), &Limits::default()).unwrap();
    assert_eq!(changes.manifest.files.len(), 9);
}

#[test]
fn what_is_over_a_limit_is_left_out_but_never_the_events() {
    let homes = Homes::new();
    homes.write("files/large", [0; 101]);
    homes.write("files/a", [0; 60]);
    homes.write("files/b", [0; 60]);
    homes.write("events.jsonl", [b'\n'; 150]);
    let limits = Limits { max_file: 100, max_files: 10, max_bytes: 250 };
    let copied = copy(&homes.from(), &homes.to(), &limits).unwrap();
    assert_eq!(left_out(&copied.left_out), [("files/b", Why::Full), ("files/large", Why::TooLarge)]);
    assert_eq!((copied.files, copied.bytes), (4, 221));
}

#[test]
fn a_folder_of_too_many_files_is_not_walked_to_its_end() {
    let homes = Homes::new();
    for n in 0..3000 {
        homes.write(format!("files/{n:04}"), "");
    }
    let limits = Limits { max_files: 10, ..Limits::default() };
    let changes = changes(&homes.from(), &Manifest::default(), &limits).unwrap();
    let (manifest, told) = (changes.manifest, changes.left_out);
    assert_eq!(manifest.files.len() + manifest.folders.len(), 10);
    assert!(
        manifest.files.contains_key(&path("events.jsonl"))
            && manifest.files.contains_key(&path("workspace.yaml"))
    );
    assert_eq!(told.iter().map(|one| one.why).collect::<Vec<_>>(), [Why::TooMany]);
}

#[test]
fn of_many_that_are_left_out_only_some_are_told() {
    let homes = Homes::new();
    for n in 0..300 {
        symlink("nowhere", homes.from().join(format!("files/{n}"))).unwrap();
    }
    assert_eq!(homes.copy().unwrap().left_out.len(), 100);
}

#[test]
fn a_path_that_is_too_deep_is_left_out() {
    let homes = Homes::new();
    homes.write(vec!["d"; 32].join("/"), "deepest");
    homes.write(format!("{}/d", vec!["e"; 32].join("/")), "too deep");
    let copied = homes.copy().unwrap();
    assert_eq!(copied.left_out.iter().map(|one| one.why).collect::<Vec<_>>(), [Why::TooDeep]);
    assert_eq!(copied.files, 4);
}

/// A tracker of a session whose folder the store has.
fn tracked(homes: &Homes) -> Tracker {
    let mut tracker = Tracker::new(homes.from(), None);
    let changes = tracker.changes(&Limits::default()).unwrap();
    tracker.commit(changes);
    assert_eq!(ops(&tracker), []);
    tracker
}

fn ops(tracker: &Tracker) -> Vec<Op> {
    let changes = tracker.changes(&Limits::default()).unwrap();
    assert_eq!(changes.bytes, changes.manifest.bytes());
    changes.ops
}

fn put(name: &str, data: &'static str) -> Op {
    Op::Put { path: path(name), data: data.into() }
}

fn append(name: &str, from: u64, data: &'static str) -> Op {
    Op::Append { path: path(name), from, data: data.into() }
}

fn gone(name: &str) -> Op {
    Op::Remove { path: path(name) }
}

#[test]
fn the_first_changes_are_all_of_the_folder() {
    let homes = Homes::new();
    let folder = Op::Folder { path: path("files") };
    let all = [
        folder,
        put("events.jsonl", "{\"a\":1}\n{\"b\":2}\n"),
        put("workspace.yaml", "id: x\n"),
        put("files/notes.txt", "notes"),
    ];
    assert_eq!(ops(&Tracker::new(homes.from(), None)), all);
    let snapshot = tracked(&homes).snapshot(&Limits::default()).unwrap();
    assert_eq!(snapshot.ops, all);
}

#[test]
fn a_turn_costs_what_it_has_added() {
    let homes = Homes::new();
    let mut tracker = tracked(&homes);
    homes.append("events.jsonl", "{\"c\":3}\n{\"d\":");
    homes.write("workspace.yaml", "id: y\n");
    let expected = [append("events.jsonl", 16, "{\"c\":3}\n"), put("workspace.yaml", "id: y\n")];
    assert_eq!(ops(&tracker), expected, "the last line is not finished");
    assert_eq!(ops(&tracker), expected, "the store has not taken it");
    tracker.commit(tracker.changes(&Limits::default()).unwrap());
    homes.append("events.jsonl", "4}\n");
    assert_eq!(ops(&tracker), [append("events.jsonl", 24, "{\"d\":4}\n")]);
}

#[test]
fn a_log_that_was_written_anew_is_not_taken_for_one_that_has_grown() {
    let homes = Homes::new();
    let tracker = tracked(&homes);
    let longer = "{\"a\":1}\n{\"z\":2}\n{\"c\":3}\n";
    homes.write("events.jsonl", longer);
    assert_eq!(ops(&tracker), [put("events.jsonl", longer)]);
    homes.write("events.jsonl", "{\"a\":1}\n");
    assert_eq!(ops(&tracker), [put("events.jsonl", "{\"a\":1}\n")]);
    // Another file of its name that goes on from it.
    fs::remove_file(homes.from().join("events.jsonl")).unwrap();
    homes.write("events.jsonl", "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n");
    assert_eq!(ops(&tracker), [append("events.jsonl", 16, "{\"c\":3}\n")]);
}

#[test]
fn a_change_of_the_same_length_is_seen_at_once() {
    let homes = Homes::new();
    let tracker = tracked(&homes);
    homes.write("files/notes.txt", "NOTES");
    assert_eq!(ops(&tracker), [put("files/notes.txt", "NOTES")]);
}

#[test]
fn after_a_restart_only_what_has_changed_since_is_told() {
    let homes = Homes::new();
    let manifest = tracked(&homes).manifest();
    homes.append("events.jsonl", "{\"c\":3}\n");
    homes.append("files/notes.txt", " more");
    let tracker = Tracker::new(homes.from(), Some(Manifest::decode(&manifest.encode()).unwrap()));
    let expected = [append("events.jsonl", 16, "{\"c\":3}\n"), append("files/notes.txt", 5, " more")];
    assert_eq!(ops(&tracker), expected);
    assert_eq!(changes(&homes.from(), &manifest, &Limits::default()).unwrap().ops, expected);
}

#[test]
fn what_is_gone_is_removed_from_the_inside_out_before_all_else() {
    let homes = Homes::new();
    homes.write("a/b/c", "c");
    let tracker = tracked(&homes);
    fs::remove_dir_all(homes.from().join("a")).unwrap();
    homes.write("a", "now a file");
    fs::remove_file(homes.from().join("workspace.yaml")).unwrap();
    homes.write("workspace.yaml/now", "a folder");
    let expected = [
        gone("workspace.yaml"),
        gone("a/b/c"),
        gone("a/b"),
        gone("a"),
        Op::Folder { path: path("workspace.yaml") },
        put("a", "now a file"),
        put("workspace.yaml/now", "a folder"),
    ];
    assert_eq!(ops(&tracker), expected);
}

#[test]
fn a_folder_that_is_being_wiped_is_an_error_and_no_change() {
    let homes = Homes::new();
    let tracker = tracked(&homes);
    let events = homes.from().join("events.jsonl");
    fs::remove_file(&events).unwrap();
    let missing = Error::Missing { path: events };
    assert_eq!(tracker.changes(&Limits::default()).unwrap_err(), missing);
    assert_eq!(tracker.snapshot(&Limits::default()).unwrap_err(), missing);
    fs::remove_dir_all(homes.from()).unwrap();
    let missing = Error::Missing { path: homes.from() };
    assert_eq!(tracker.changes(&Limits::default()).unwrap_err(), missing);
}

#[test]
fn a_file_that_has_grown_over_the_limit_leaves_the_archive_with_a_word() {
    let homes = Homes::new();
    let tracker = tracked(&homes);
    homes.append("files/notes.txt", &"more".repeat(100));
    let changes = tracker.changes(&Limits { max_file: 100, ..Limits::default() }).unwrap();
    assert_eq!(changes.ops, [gone("files/notes.txt")]);
    assert_eq!(left_out(&changes.left_out), [("files/notes.txt", Why::TooLarge)]);
}

/// Runs it as somebody whom permissions keep out.
fn unprivileged(show: impl FnOnce() + Send + 'static) {
    let nobody = Uid::from_raw(65534);
    let shown = thread::spawn(move || {
        if getuid().is_root() {
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        show();
    });
    shown.join().unwrap();
}

#[test]
fn of_what_cannot_be_read_the_archive_keeps_what_it_has() {
    unprivileged(|| {
        let homes = Homes::new();
        homes.write("files/deep/more.txt", "more");
        homes.write("plan.md", "plan");
        let before = tracked(&homes).manifest();
        for (name, mode) in [("plan.md", 0o000), ("files/deep", 0o000), ("files", 0o600)] {
            let closed = homes.from().join(name);
            let open = fs::metadata(&closed).unwrap().permissions();
            fs::set_permissions(&closed, Permissions::from_mode(mode)).unwrap();
            let changes = changes(&homes.from(), &before, &Limits::default()).unwrap();
            assert_eq!((changes.ops, changes.manifest), (vec![], before.clone()), "{name}");
            assert!(changes.left_out.iter().all(|LeftOut { why, .. }| *why == Why::Unreadable));
            assert!(!changes.left_out.is_empty(), "{name}");
            fs::set_permissions(&closed, open).unwrap();
        }
    });
}

#[test]
fn links_that_come_after_the_walk_are_not_followed() {
    let homes = Homes::new();
    symlink("files", homes.from().join("link")).unwrap();
    symlink("events.jsonl", homes.from().join("again")).unwrap();
    let (top, _) = walk::walk(&homes.from(), &Limits::default()).unwrap();
    assert!(top.file(&path("files/notes.txt")).is_ok());
    assert!(top.file(&path("link/notes.txt")).is_err());
    assert!(top.file(&path("again")).is_err());
    assert!(top.create(&path("link/new")).is_err());
    assert!(top.append(&path("again")).is_err());
}
