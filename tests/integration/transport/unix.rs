//! A Unix socket beside the port: for the users that may, and for nobody else.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use tokio::process::Command;

use super::{logged, server};
use crate::support::{
    fake_cli::FakeCli,
    server::{PROGRAM, text},
    soon, until,
};

/// Another user than the tests'.
const NOBODY: u32 = 65534;

const REFUSED: &str = "clients of other users were refused (listen_unix_users)";

/// A folder that everybody may enter.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Asks a server for its health, as this user.
async fn health(socket: &Path, user: Option<u32>) -> Output {
    let mut command = match user {
        None => Command::new(PROGRAM),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), "--clear-groups", "--"]).arg(PROGRAM);
            command
        }
    };
    command.arg("health").arg(format!("--server=unix:{}", socket.display())).current_dir("/");
    soon("health", command.kill_on_drop(true).output()).await.unwrap()
}

/// Whether this test can be somebody else. Where it counts, it is.
fn is_root() -> bool {
    assert!(geteuid().is_root() || std::env::var("CI").as_deref() != Ok("true"), "it needs root");
    geteuid().is_root()
}

#[tokio::test]
async fn the_servers_own_user_is_served_and_the_socket_goes_with_the_server() {
    let folder = folder();
    let socket = folder.path().join("grpc");
    // One that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let cli = FakeCli::start().await;
    let mut server = server(&cli, &[format!("--listen-unix={}", socket.display())]).await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let healthy = health(&socket, None).await;
    assert_eq!(text(&healthy.stdout), "SERVING\n", "{healthy:?}");
    // A second server does not take it away.
    let second = std::process::Command::new(PROGRAM)
        .args(["--cli-url=127.0.0.1:1", "--listen=127.0.0.1:0", "--state-dir"])
        .arg(folder.path().join("state"))
        .arg(format!("--listen-unix={}", socket.display()))
        .output()
        .unwrap();
    assert!(
        !second.status.success() && text(&second.stderr).contains("another server listens there"),
        "{second:?}"
    );
    server.signal(Signal::TERM);
    soon("the end", server.child.wait()).await.unwrap();
    assert!(!socket.exists());
    let gone = health(&socket, None).await;
    assert!(!gone.status.success());
}

#[tokio::test]
async fn a_user_who_may_not_connect_is_refused_whatever_the_mode_of_the_file() {
    if !is_root() {
        eprintln!("SKIPPED, NOT SHOWN: only root can be another user");
        return;
    }
    let folder = folder();
    let socket = folder.path().join("grpc");
    let cli = FakeCli::start().await;
    let server = server(&cli, &[format!("--listen-unix={}", socket.display())]).await;
    let told = health(&socket, Some(NOBODY)).await;
    assert!(!told.status.success() && text(&told.stderr).contains("Permission denied"), "{told:?}");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let told = health(&socket, Some(NOBODY)).await;
    assert!(!told.status.success(), "{told:?}");
    assert_eq!(logged(&server, REFUSED, 1).await["uid"], NOBODY);
    assert!(health(&socket, None).await.status.success());
}

#[tokio::test]
async fn a_user_who_is_named_is_served_and_others_are_not() {
    if !is_root() {
        eprintln!("SKIPPED, NOT SHOWN: only root can be another user");
        return;
    }
    let folder = folder();
    let socket = folder.path().join("grpc");
    let cli = FakeCli::start().await;
    let flags = [format!("--listen-unix={}", socket.display()), format!("--listen-unix-users={NOBODY}")];
    let server = server(&cli, &flags).await;
    let served = health(&socket, Some(NOBODY)).await;
    assert_eq!(text(&served.stdout), "SERVING\n", "{served:?}");
    assert!(!health(&socket, None).await.status.success());
    until("it is told of", || server.times(REFUSED) == 1).await;
}
