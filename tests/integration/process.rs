//! A CLI of our own, its guard and its tools leave nothing behind, whichever of them ends first.
//!
//! Shell scripts stand in for the CLI where it has to misbehave. Every process of a test carries the test's mark in its
//! environment, by which all of them are found in `/proc`, wherever they have gone.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers as well")]

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::real_cli;
use bytes::Bytes;
use copilot_grpc::{
    backend::process::{Exit, Process, Spec, StartError, Status, discover::Form},
    jsonrpc::{Handler, Options, Peer},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time,
};

const GUARD: &str = env!("CARGO_BIN_EXE_copilot-grpc");

/// Longer than any limit in the code under test.
const DEADLINE: Duration = Duration::from_secs(30);

/// A place for one CLI, and for its mark.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A CLI that runs `body` in a shell.
    fn script(&self, body: &str) -> Spec {
        let cli = self.at("cli");
        // Closed before it is run, or it would be "text file busy".
        let mut file = fs::File::create(&cli).unwrap();
        write!(file, "#!/bin/sh\n{body}\n").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        drop(file);
        self.spec(cli)
    }

    fn spec(&self, cli: PathBuf) -> Spec {
        Spec {
            cli,
            form: Form::Node,
            guard: GUARD.into(),
            home: self.at("home"),
            work_dir: self.at("work"),
            env: vec![("TEST_MARK".into(), self.dir.path().into())],
            start_timeout: DEADLINE,
        }
    }

    /// The processes of this test that are alive, with their command lines. The dead have no environment.
    fn alive(&self) -> HashMap<Pid, String> {
        let mark = format!("TEST_MARK={}", self.dir.path().display());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
                let environment = fs::read(entry.path().join("environ")).ok()?;
                environment.split(|byte| *byte == 0).find(|variable| *variable == mark.as_bytes())?;
                let arguments = fs::read(entry.path().join("cmdline")).ok()?;
                Some((pid, String::from_utf8_lossy(&arguments).replace('\0', " ")))
            })
            .collect()
    }

    async fn nothing_is_left(&self) {
        until("nothing is left", || self.alive().is_empty(), || format!("{:?}", self.alive())).await;
    }

    /// Waits until as many `sleep 300` run: the tools of [`STUBBORN_TOOLS`] have started.
    async fn tools_run(&self, count: usize) {
        let tools = || self.alive().values().filter(|line| line.starts_with("sleep 300")).count();
        until("the tools run", || tools() == count, || format!("{:?}", self.alive())).await;
    }
}

impl Drop for Scene {
    /// What a failed test has left must not outlive it.
    fn drop(&mut self) {
        for pid in self.alive().into_keys() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Starts a CLI that is ready when it has written a line.
async fn start(spec: &Spec) -> Result<Process, StartError> {
    let line = async |mut stdio: UnixStream| loop {
        match stdio.read_u8().await {
            Ok(b'\n') => return Some(()),
            Ok(_) => {}
            Err(_) => return None,
        }
    };
    Process::start(spec, line).await.map(|(process, ())| process)
}

/// Starts the real CLI, and shakes hands with it.
async fn start_real(spec: &Spec) -> Result<(Process, Peer), StartError> {
    let connect = async |stdio| {
        let peer = Peer::spawn(stdio, NoHandler, Options::default());
        let answer = peer.request("connect", &json!({})).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["protocolVersion"], 3, "{answer}");
        Some(peer)
    };
    Process::start(spec, connect).await
}

struct NoHandler;

impl Handler for NoHandler {
    fn notification(&mut self, _: &str, _: Bytes) {}
}

/// Looks again and again until `done`; panics with `state` when that takes too long.
async fn until(what: &str, done: impl Fn() -> bool, state: impl Fn() -> String) {
    let looking = async {
        while !done() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    if time::timeout(DEADLINE, looking).await.is_err() {
        panic!("not within {DEADLINE:?}: {what}; {}", state());
    }
}

fn number(pid: Option<u32>) -> Pid {
    Pid::from_raw(pid.unwrap().cast_signed()).unwrap()
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
}

const READY: &str = "echo 'it starts' >&2; echo ready; while :; do sleep 300; done";

/// As the agent's shell tool starts them: in sessions of their own. The second one ignores SIGTERM, and so does its child.
const STUBBORN_TOOLS: &str = "setsid sleep 300 & setsid sh -c 'trap \"\" TERM; sleep 300; sleep 300' &";

/// The number of `sleep 300` with [`STUBBORN_TOOLS`] and [`READY`].
const SLEEPS: usize = 3;

#[tokio::test]
async fn stop_ends_the_cli_and_its_tools() {
    let scene = Scene::new();
    let process = start(&scene.script(&format!("{STUBBORN_TOOLS} {READY}"))).await.unwrap();
    scene.tools_run(SLEEPS).await;
    assert_eq!(process.stop().await.status, Status::Signal(15));
    assert_eq!(scene.alive(), HashMap::new(), "right after stop");
}

#[tokio::test]
async fn a_cli_that_ignores_sigterm_is_killed() {
    let scene = Scene::new();
    let process = start(&scene.script(&format!("trap '' TERM; {STUBBORN_TOOLS} {READY}"))).await.unwrap();
    scene.tools_run(SLEEPS).await;
    assert_eq!(process.stop().await.status, Status::Signal(9));
    assert_eq!(scene.alive(), HashMap::new(), "right after stop");
}

#[tokio::test]
async fn a_cli_has_time_to_end_by_itself() {
    let scene = Scene::new();
    let script = "trap 'sleep 0.3; echo saved >&2; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let process = start(&scene.script(script)).await.unwrap();
    let exit = process.stop().await;
    assert_eq!(exit.status, Status::Code(3));
    assert_eq!(exit.last_lines.last().map(String::as_str), Some("saved"));
}

#[tokio::test]
async fn drop_ends_the_cli_and_its_tools() {
    let scene = Scene::new();
    let process = start(&scene.script(&format!("{STUBBORN_TOOLS} {READY}"))).await.unwrap();
    scene.tools_run(SLEEPS).await;
    drop(process);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn the_death_of_the_cli_ends_its_tools() {
    let scene = Scene::new();
    let mut process = start(&scene.script(&format!("{STUBBORN_TOOLS} {READY}"))).await.unwrap();
    scene.tools_run(SLEEPS).await;
    kill(number(process.cli_pid()));
    let exit = process.exited().await;
    assert_eq!(exit.status, Status::Signal(9));
    assert_eq!(exit.last_lines, ["it starts"]);
    assert_eq!(scene.alive(), HashMap::new(), "right after the exit was reported");
    assert_eq!(process.exited().await, exit, "when asked again");
}

#[tokio::test]
async fn the_death_of_the_facade_ends_the_cli_and_its_tools() {
    let scene = Scene::new();
    let spec = scene.script(&format!("{STUBBORN_TOOLS} {READY}"));
    // In the facade's place: a program that holds the other end of the guard's standard input and is killed.
    let mut facade = Command::new("sh")
        .args(["-c", r#"sleep 301 | "$0" guard -- "$1""#])
        .args([Path::new(GUARD), &spec.cli])
        .envs(spec.env)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    scene.tools_run(SLEEPS).await;
    let holder = scene.alive().into_iter().find(|(_, line)| line.starts_with("sleep 301")).unwrap().0;
    kill(holder);
    scene.nothing_is_left().await;
    assert_eq!(facade.wait().unwrap().code(), Some(128 + 15), "the exit code is the guard's");
}

#[tokio::test]
async fn a_signal_to_the_guard_ends_the_cli_and_its_tools() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        let mut process = start(&scene.script(&format!("{STUBBORN_TOOLS} {READY}"))).await.unwrap();
        scene.tools_run(SLEEPS).await;
        kill_process(guard_of(&process), signal).unwrap();
        assert_eq!(process.exited().await.status, Status::Signal(15), "{signal:?}");
        assert_eq!(scene.alive(), HashMap::new(), "{signal:?}");
    }
}

#[tokio::test]
async fn the_violent_death_of_the_guard_ends_the_cli() {
    let scene = Scene::new();
    let mut process = start(&scene.script("echo ready; exec sleep 300")).await.unwrap();
    kill(guard_of(&process));
    assert_eq!(process.exited().await.status, Status::Lost);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn giving_up_a_start_ends_what_was_started() {
    let scene = Scene::new();
    let spec = scene.script(&format!("{STUBBORN_TOOLS} while :; do sleep 300; done"));
    tokio::select! {
        _ = start(&spec) => panic!("it never gets ready"),
        () = scene.tools_run(SLEEPS) => {}
    }
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn a_later_cli_does_not_hold_the_lifeline_of_an_earlier_one() {
    let (scene, later) = (Scene::new(), Scene::new());
    let process = start(&scene.script(READY)).await.unwrap();
    let _other = start(&later.script(READY)).await.unwrap();
    drop(process);
    scene.nothing_is_left().await;
    assert!(!later.alive().is_empty());
}

#[tokio::test]
async fn the_other_end_closes_with_the_cli_whoever_else_holds_it() {
    let scene = Scene::new();
    // A tool that has the CLI's own streams, and lives for as long as the sweeping does not get at it.
    let script = "setsid sleep 300 & echo ready; read line; kill -9 $$";
    let greeted = async |mut stdio: UnixStream| {
        let mut ready = [0; 6];
        stdio.read_exact(&mut ready).await.ok().map(|_| stdio)
    };
    let (mut process, mut stdio) = Process::start(&scene.script(script), greeted).await.unwrap();
    scene.tools_run(1).await;
    stdio.write_all(b"now\n").await.unwrap();
    assert_eq!(stdio.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(process.exited().await.status, Status::Signal(9));
}

#[tokio::test]
async fn nothing_but_sockets_is_given_to_the_cli_which_nobody_else_can_open() {
    let scene = Scene::new();
    let process = start(&scene.script("echo ready; exec sleep 300")).await.unwrap();
    let cli = number(process.cli_pid());
    for descriptor in [0, 1] {
        let path = format!("/proc/{cli}/fd/{descriptor}");
        let target = fs::read_link(&path).unwrap();
        assert!(target.to_str().unwrap().starts_with("socket:"), "{target:?}");
        // Not even by the same user, who could open a pipe.
        let error = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NXIO.raw_os_error()), "{error}");
    }
}

#[tokio::test]
async fn orphans_are_reaped_while_the_cli_runs() {
    let scene = Scene::new();
    let orphans = "for i in 1 2 3; do sh -c 'setsid sleep 0.1 &'; done;";
    let process = start(&scene.script(&format!("{orphans} {READY}"))).await.unwrap();
    let guard = guard_of(&process);
    let children = || fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
    until("only the CLI is left", || children().split_ascii_whitespace().count() == 1, children).await;
}

#[tokio::test]
async fn a_cli_that_never_gets_ready_is_ended_with_its_tools() {
    let scene = Scene::new();
    let script = format!("{STUBBORN_TOOLS} echo waiting for a licence >&2; while :; do sleep 300; done");
    let spec = Spec { start_timeout: Duration::from_secs(1), ..scene.script(&script) };
    let error = start(&spec).await.unwrap_err();
    assert!(
        matches!(&error, StartError::NotReady { last_lines, .. } if last_lines == &["waiting for a licence"]),
        "{error}"
    );
    assert_eq!(scene.alive(), HashMap::new(), "right after the error");
}

#[tokio::test]
async fn a_cli_that_ends_early_is_quoted() {
    let scene = Scene::new();
    let error = start(&scene.script("echo 'no provider' >&2; exit 7")).await.unwrap_err();
    let quoted = Exit { status: Status::Code(7), last_lines: vec!["no provider".into()] };
    assert!(matches!(&error, StartError::Exited(exit) if exit == &quoted), "{error}");
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn a_cli_that_floods_its_log_with_garbage_still_gets_ready() {
    let scene = Scene::new();
    // An endless line, bytes that are not text, more than a pipe holds; before and after.
    let flood = r"(head -c 300000 /dev/zero; printf '\377\376\n'; head -c 300000 /dev/zero; echo) >&2;";
    let script = format!("{flood} echo ready; {flood} echo after the flood >&2; exit 0");
    let mut process = start(&scene.script(&script)).await.unwrap();
    let exit = process.exited().await;
    assert_eq!(exit.status, Status::Code(0));
    assert!(exit.last_lines.iter().any(|line| line == "after the flood"), "{exit:?}");
    assert!(exit.last_lines.iter().all(|line| line.len() <= 500));
}

#[tokio::test]
async fn a_path_that_cannot_be_run_is_refused() {
    let scene = Scene::new();
    let error = start(&scene.spec(scene.at("absent"))).await.unwrap_err();
    assert!(matches!(error, StartError::NotFound(_)), "{error}");

    let error = start(&scene.spec(scene.dir.path().into())).await.unwrap_err();
    assert!(matches!(error, StartError::NotExecutable(_)), "{error}");

    let spec = scene.script("");
    fs::write(&spec.cli, "#!/no/such/interpreter\n").unwrap();
    let error = start(&spec).await.unwrap_err();
    assert!(matches!(&error, StartError::Exited(exit) if exit.status == Status::Code(127)), "{error}");
    assert!(error.to_string().contains("cannot run"), "{error}");
}

#[tokio::test]
async fn the_cli_gets_its_folders_but_none_of_our_settings_and_no_token() {
    let scene = Scene::new();
    let mut spec = scene.script("");
    spec.env.push(("COPILOT_CONNECTION_TOKEN".into(), "secret".into()));
    spec.env.push(("COPILOT_GRPC_KEY".into(), "secret".into()));
    spec.env.push(("COPILOT_HOME".into(), "/elsewhere".into()));
    // All of the environment, not only the 20 lines that are kept.
    fs::write(&spec.cli, "#!/bin/sh\n(env; pwd) >$TEST_MARK/seen; echo ready; sleep 300\n").unwrap();
    let _process = start(&spec).await.unwrap();
    let seen = fs::read_to_string(scene.at("seen")).unwrap();
    let has = |line: String| assert!(seen.lines().any(|seen| seen == line), "{line} is not in {seen}");
    has(format!("COPILOT_HOME={}", scene.at("home").display()));
    has("COPILOT_DISABLE_KEYTAR=1".into());
    has("COPILOT_AUTO_UPDATE=false".into());
    has(scene.at("work").display().to_string());
    assert!(!seen.contains("COPILOT_GRPC_") && !seen.contains("COPILOT_CONNECTION_TOKEN"), "{seen}");
}

#[tokio::test]
async fn the_real_cli_shakes_hands_and_ends() {
    let cli = real_cli::path();
    for end in ["stop", "kill"] {
        let scene = Scene::new();
        let mut spec = scene.spec(cli.clone());
        spec.env.extend(provider());
        let (mut process, peer) = start_real(&spec).await.unwrap();
        let status = match end {
            "stop" => process.stop().await.status,
            _ => {
                kill(number(process.cli_pid()));
                process.exited().await.status
            }
        };
        assert_eq!(status, if end == "stop" { Status::Code(0) } else { Status::Signal(9) });
        assert_eq!(scene.alive(), HashMap::new(), "right after {end}");
        assert!(peer.closed().await.is_disconnect());
    }
}

#[tokio::test]
async fn npms_script_leaves_no_cli_behind() {
    let scene = Scene::new();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut spec = scene.spec(root.join("node_modules/.bin/copilot"));
    spec.env.extend(provider());
    let (process, _peer) = start_real(&spec).await.unwrap();
    assert!(scene.alive().len() >= 3, "guard, script and CLI: {:?}", scene.alive());
    process.stop().await;
    assert_eq!(scene.alive(), HashMap::new(), "right after stop");
}

/// The real CLI starts without an account, and this one is never asked.
fn provider() -> impl Iterator<Item = (OsString, OsString)> {
    let variables = [
        ("COPILOT_OFFLINE", "true"),
        ("COPILOT_PROVIDER_BASE_URL", "http://127.0.0.1:9/v1"),
        ("COPILOT_MODEL", "m"),
    ];
    variables.into_iter().map(|(name, value)| (name.into(), value.into()))
}

#[tokio::test]
async fn the_real_clis_complaint_reaches_the_operator() {
    let scene = Scene::new();
    // The native runtime has none: it starts without a provider, and refuses sessions.
    let mut spec = scene.spec(real_cli::pinned(Form::Node).path);
    spec.env.push(("COPILOT_OFFLINE".into(), "true".into()));
    spec.env.push(("COPILOT_PROVIDER_BASE_URL".into(), "".into()));
    let error = start_real(&spec).await.unwrap_err();
    assert!(matches!(&error, StartError::Exited(exit) if exit.status == Status::Code(1)), "{error}");
    assert!(error.to_string().contains("COPILOT_PROVIDER_BASE_URL"), "{error}");
}

/// The guard is the CLI's parent.
fn guard_of(process: &Process) -> Pid {
    let status = fs::read_to_string(format!("/proc/{}/status", number(process.cli_pid()))).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap()).unwrap()
}
