//! `copilot-grpc store`: the store is checked, and sessions are taken out of it and into it.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use copilot_grpc::store::{
    Config, Facts, FolderWrite, Location, Node, Ownership, SealKey, Sealer, SessionRecord, Settling, Store,
    Time, archive, context,
    folder::{Limits, Tracker},
};
use copilot_grpc::{copilot::Secret, grpc::pb::CreateSessionRequest};
use rustix::process::Signal;
use scripted_model::{ModelServer, Reply, Request};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{self, facade::wait, state::State};

/// A server's state directory, with its store.
struct Server {
    dir: TempDir,
    /// The store's settings; by default it is in the state directory.
    flags: Vec<String>,
    location: Location,
}

const NODE: &str = "node-1";

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(dir.path().join("store.db"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.path().join("node"), NODE).unwrap();
        Self { dir, flags: Vec::new(), location }
    }

    /// One whose store is a PostgreSQL database.
    async fn on_postgres() -> Self {
        let url = test_postgres::shared().database().await;
        let flags = vec![format!("--store-url={url}")];
        Self { flags, location: Location::Postgres { url: Secret::new(url), password: None }, ..Self::new() }
    }

    async fn store(&self) -> Store {
        let location = self.location.clone();
        let time_limit = Duration::from_secs(10);
        let node = Node {
            name: NODE.into(),
            address: String::new(),
            version: "1.2.3".into(),
            lease: Duration::from_secs(60),
            is_command: true,
        };
        Store::open(Config { location, node, time_limit, alone: false }).await.unwrap()
    }

    fn folder(&self, home: &str, session: &str) -> PathBuf {
        self.dir.path().join(home).join("session-state").join(session)
    }

    /// Makes a session with a folder in this home, or without one.
    async fn session(&self, store: &Store, id: &str, home: Option<&str>) -> Ownership {
        let node = if home.is_some() { NODE } else { "" };
        let facts = Facts {
            cli_id: id.into(),
            title: format!("The title of {id}"),
            labels: [("team".into(), "a".into())].into(),
            settings: "{\"model\":\"m\"}".into(),
            has_message: home.is_some(),
            home: home.unwrap_or_default().into(),
            home_disk: node.into(),
            ..Facts::default()
        };
        if let Some(home) = home {
            write_folder(&self.folder(home, id), id);
        }
        store.create("", id, &facts, Time(1_700_000_000_000_001)).await.unwrap()
    }

    async fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_copilot-grpc"))
            .arg("store")
            .args(args)
            .arg("--state-dir")
            .arg(self.dir.path())
            .args(&self.flags)
            .env_clear()
            .output()
            .await
            .unwrap()
    }

    /// Runs the command, which succeeds, and gives its output.
    async fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command, which fails, and gives its output and its error.
    async fn fails(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    async fn find(&self, id: &str) -> Option<SessionRecord> {
        let store = self.store().await;
        let found = store.find("", id).await.unwrap();
        store.close().await;
        found
    }

    /// A path for a file.
    fn file(&self) -> String {
        self.dir.path().join("exported").to_str().unwrap().to_owned()
    }
}

fn write_folder(folder: &Path, id: &str) {
    fs::create_dir_all(folder.join("files")).unwrap();
    fs::write(folder.join("events.jsonl"), format!("{{\"sessionId\":\"{id}\"}}\n")).unwrap();
    fs::write(folder.join("files/notes"), "notes").unwrap();
    fs::write(folder.join("inuse.1.lock"), "").unwrap();
}

/// Writes a folder to the archive, and again with another event.
async fn archive_folder(store: &Store, session: Ownership, folder: &Path) {
    let mut tracker = Tracker::new(folder, None);
    let mut after = None;
    for event in ["", "{\"n\":2}\n"] {
        let events = folder.join("events.jsonl");
        fs::write(&events, fs::read_to_string(&events).unwrap() + event).unwrap();
        let changes = tracker.changes(&Limits::default()).unwrap();
        let write = FolderWrite {
            after,
            data: archive::encode(&changes.ops),
            manifest: changes.manifest.encode(),
            is_snapshot: after.is_none(),
        };
        tracker.commit(changes);
        store.settle(session, &Settling { folder: Some(write), ..Settling::default() }).await.unwrap();
        after = store.folder_head(session.uid).await.unwrap().map(|head| head.seq);
    }
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let read = |name: &str| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap());
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["events.jsonl", "files"]);
    ["events.jsonl", "files/notes"].map(read).into()
}

#[tokio::test]
async fn a_store_in_which_all_fits_has_no_problems() {
    let server = Server::new();
    let store = server.store().await;
    server.session(&store, "empty", None).await;
    server.session(&store, "one", Some("cli-0")).await;
    let two = server.session(&store, "two", Some("cli-1")).await;
    archive_folder(&store, two, &server.folder("cli-1", "two")).await;
    // It comes back from the archive.
    fs::remove_dir_all(server.folder("cli-1", "two")).unwrap();
    store.close().await;
    let told = server.succeeds(&["check"]).await;
    assert!(told.starts_with("3 sessions, 1 of them on this disk, 1 in the archive with "), "{told}");
}

#[tokio::test]
async fn each_problem_is_a_line_and_there_is_an_exit_code() {
    let mut server = Server::new();
    let key = |byte: &str| SealKey::parse(&format!("{}A=", byte.repeat(42))).unwrap();
    let store = server.store().await;
    let mut uids = BTreeMap::new();
    for id in ["fine", "settings", "lost", "damaged", "short", "sealed"] {
        uids.insert(id, server.session(&store, id, Some("cli-0")).await);
    }
    let change = copilot_grpc::store::Changes { settings: Some("{".into()), ..Default::default() };
    store.change(uids["settings"], &change).await.unwrap();
    fs::remove_dir_all(server.folder("cli-0", "lost")).unwrap();
    let write = |after, data| FolderWrite { after, data, manifest: Vec::new(), is_snapshot: true };
    let settling = Settling { folder: Some(write(None, b"garbage".to_vec())), ..Settling::default() };
    store.settle(uids["damaged"], &settling).await.unwrap();
    archive_folder(&store, uids["short"], &server.folder("cli-0", "short")).await;
    let head = store.folder_head(uids["short"].uid).await.unwrap().unwrap();
    let first = store.folder(uids["short"].uid).await.unwrap().swap_remove(0);
    let only = FolderWrite { after: Some(head.seq), data: first, manifest: head.manifest, is_snapshot: true };
    store.settle(uids["short"], &Settling { folder: Some(only), ..Settling::default() }).await.unwrap();
    let sealed = Sealer::new(key("B"), []).seal(&context("", "sealed"), b"secret");
    store.set_credentials(uids["sealed"], Some(&sealed)).await.unwrap();
    store.close().await;
    write_folder(&server.folder("cli-1", "stray"), "stray");
    let keys = server.dir.path().join("keys");
    fs::write(&keys, format!("{}=\n", "A".repeat(43))).unwrap();
    server.flags = vec![format!("--seal-key-file={}", keys.display())];

    let (told, error) = server.fails(&["check"]).await;
    assert_eq!(error, "copilot-grpc: problems: 6\n");
    let lines: BTreeMap<_, _> =
        told.lines().filter_map(|line| line.strip_prefix("session ")?.split_once(": ")).collect();
    let expected = ["damaged", "lost", "sealed", "settings", "short", "stray"];
    assert_eq!(lines.keys().copied().collect::<Vec<_>>(), expected, "{told}");
    assert_eq!(lines["settings"], "its settings cannot be read");
    assert!(lines["lost"].ends_with("cli-0/session-state/lost is not there"), "{told}");
    assert!(lines["damaged"].starts_with("its archive has no list"), "{told}");
    assert!(lines["short"].contains("another folder than the one that was archived"), "{told}");
    assert!(lines["sealed"].starts_with("its credentials cannot be opened"), "{told}");
    assert_eq!(lines["stray"], "it has a folder in cli-1, and is not in the store");
    assert!(told.contains("\n6 sessions, 5 of them on this disk, 2 in the archive"), "{told}");
}

#[tokio::test]
async fn a_session_goes_from_one_installation_to_another() {
    let (from, to) = (Server::new(), Server::new());
    let store = from.store().await;
    from.session(&store, "one", Some("cli-1")).await;
    store.close().await;
    let file = from.file();
    from.succeeds(&["export", "one", &file]).await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, error) = from.fails(&["export", "one", &file]).await;
    assert!(error.contains("exists"), "{error}");

    to.succeeds(&["import", &file]).await;
    let (old, new) = (from.find("one").await.unwrap(), to.find("one").await.unwrap());
    assert_eq!((new.create_time, new.update_time), (old.create_time, old.update_time));
    let home = Facts { home: "cli-0".into(), home_disk: NODE.into(), ..old.facts };
    assert_eq!(new.facts, home);
    let expected = files(&to.folder("cli-0", "one"));
    assert_eq!(expected["events.jsonl"], "{\"sessionId\":\"one\"}\n");
    to.succeeds(&["check"]).await;

    // Its place is taken, here by another.
    write_folder(&to.folder("cli-0", "one"), "other");
    let (_, error) = to.fails(&["import", &file]).await;
    assert!(error.contains("is there already"), "{error}");
    to.succeeds(&["import", &file, "--as", "two"]).await;
    assert_eq!(files(&to.folder("cli-0", "two"))["events.jsonl"], "{\"sessionId\":\"two\"}\n");
    to.succeeds(&["import", &file, "--replace"]).await;
    assert_eq!(files(&to.folder("cli-0", "one")), expected);
    to.succeeds(&["check"]).await;
    let (_, error) = to.fails(&["import", &file, "--as", "no/id"]).await;
    assert!(error.contains("is no session id"), "{error}");
}

#[tokio::test]
async fn a_session_of_another_node_is_exported_from_the_archive() {
    let (from, to) = (Server::new(), Server::new());
    let store = from.store().await;
    let one = from.session(&store, "one", Some("cli-0")).await;
    archive_folder(&store, one, &from.folder("cli-0", "one")).await;
    from.session(&store, "lost", Some("cli-0")).await;
    from.session(&store, "empty", None).await;
    store.close().await;
    fs::remove_dir_all(from.dir.path().join("cli-0")).unwrap();
    fs::write(from.dir.path().join("node"), "node-2").unwrap();
    let file = from.file();
    from.succeeds(&["export", "one", &file]).await;
    to.succeeds(&["import", &file]).await;
    assert_eq!(files(&to.folder("cli-0", "one"))["events.jsonl"], "{\"sessionId\":\"one\"}\n{\"n\":2}\n");

    let (_, error) = from.fails(&["export", "lost", "-"]).await;
    assert!(error.contains("neither in the archive nor on this disk"), "{error}");
    let (_, error) = from.fails(&["export", "nobody", "-"]).await;
    assert!(error.contains("there is no session nobody"), "{error}");
    fs::remove_file(&file).unwrap();
    from.succeeds(&["export", "empty", &file]).await;
    to.succeeds(&["import", &file]).await;
    assert!(!to.folder("cli-0", "empty").exists());
}

/// Says how much of the conversation it sees.
fn script(request: &Request) -> Reply {
    let users = request.messages.iter().filter(|message| message.role == "user");
    let prompts: Vec<_> = users.map(|message| message.content.rsplit('\n').next().unwrap()).collect();
    Reply::text(format!("prompts: {}", prompts.join(", ")))
}

#[tokio::test]
async fn a_conversation_goes_on_in_another_installation_under_another_id() {
    let model = ModelServer::start(script).await.unwrap();
    let server = support::server::Server::start(&model).await;
    let create = CreateSessionRequest { session_id: "one".into(), ..Default::default() };
    server.client().await.create_session(create).await.unwrap();
    server.client().await.send_and_wait(wait("one", "first")).await.unwrap();
    let from = server.stop(Signal::TERM).await;
    let (file, to) = (from.outer().join("exported"), Arc::new(State::default()));
    let store = async |args: &[&str], state: &State| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilot-grpc"));
        command.arg("store").args(args).arg(&file).args(state.flags().await).env_clear();
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    store(&["export", "one"], &from).await;
    store(&["import", "--as", "two"], &to).await;
    let server = support::server::Server::start_on(to, &model, &support::real_cli::path()).await;
    let turn = server.client().await.send_and_wait(wait("two", "second")).await.unwrap().into_inner();
    assert_eq!(turn.result.unwrap().content, "prompts: first, second");
}

#[tokio::test]
async fn with_postgresql_a_session_goes_into_the_archive_and_out_of_it_beside_a_server() {
    let (from, to, back) = (Server::new(), Server::on_postgres().await, Server::new());
    let store = from.store().await;
    from.session(&store, "one", Some("cli-1")).await;
    store.close().await;
    let file = from.file();
    from.succeeds(&["export", "one", &file]).await;
    let server = to.store().await;
    to.succeeds(&["import", &file]).await;
    let one = server.find("", "one").await.unwrap().unwrap();
    assert_eq!((one.facts.home.as_str(), one.facts.home_disk.as_str()), ("", ""));
    assert!(!to.dir.path().join("cli-0").exists());
    let told = to.succeeds(&["check"]).await;
    assert!(told.starts_with("1 sessions, 0 of them on this disk, 1 in the archive with "), "{told}");
    to.succeeds(&["import", &file, "--replace"]).await;
    to.succeeds(&["check"]).await;
    let again = to.file();
    to.succeeds(&["export", "one", &again]).await;
    back.succeeds(&["import", &again]).await;
    assert_eq!(
        files(&back.folder("cli-0", "one")),
        [("events.jsonl".into(), "{\"sessionId\":\"one\"}\n".into()), ("files/notes".into(), "notes".into())]
            .into()
    );
    let (_, error) = to.fails(&["import", &file]).await;
    assert!(error.contains("is there already"), "{error}");
    server.close().await;
}

#[tokio::test]
async fn a_file_that_is_damaged_changes_nothing() {
    let server = Server::new();
    let store = server.store().await;
    server.session(&store, "one", Some("cli-0")).await;
    store.close().await;
    let file = server.file();
    server.succeeds(&["export", "one", &file]).await;
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 40]).unwrap();
    let (_, error) = server.fails(&["import", &file, "--replace"]).await;
    assert!(error.contains("the file is cut or damaged"), "{error}");
    fs::write(&file, "PK").unwrap();
    let (_, error) = server.fails(&["import", &file, "--replace"]).await;
    assert!(error.contains("no session that copilot-grpc has exported"), "{error}");
    server.succeeds(&["check"]).await;
    assert!(server.folder("cli-0", "one").exists());
}

#[tokio::test]
async fn a_session_that_cannot_be_replaced_stays_as_it_is() {
    let (from, to) = (Server::new(), Server::new());
    for server in [&from, &to] {
        let store = server.store().await;
        server.session(&store, "one", Some("cli-1")).await;
        store.close().await;
    }
    let file = from.file();
    from.succeeds(&["export", "one", &file]).await;
    let record = to.find("one").await;
    // Where the new one is to go there is something else.
    let home = to.dir.path().join("cli-0");
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    fs::write(home.join("session-state"), "in the way").unwrap();
    to.fails(&["import", &file, "--replace"]).await;
    assert_eq!(to.find("one").await, record);
    assert!(to.folder("cli-1", "one").join("events.jsonl").exists());
    fs::remove_file(home.join("session-state")).unwrap();
    to.succeeds(&["check"]).await;
    to.succeeds(&["import", &file, "--replace"]).await;
    assert!(to.folder("cli-0", "one").exists() && !to.folder("cli-1", "one").exists());
    to.succeeds(&["check"]).await;
}

#[tokio::test]
async fn a_store_that_a_server_uses_or_that_is_not_there_is_left_alone() {
    let server = Server::new();
    let (_, error) = server.fails(&["check"]).await;
    assert!(error.contains("there is no store at"), "{error}");
    assert!(!server.dir.path().join("store.db").exists());
    let store = server.store().await;
    for args in [&["check"][..], &["export", "one", "-"], &["import", "/dev/null"]] {
        let (_, error) = server.fails(args).await;
        assert!(error.contains("another"), "{error}");
    }
    store.close().await;
}
