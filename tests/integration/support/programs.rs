//! Programs of other languages, as the repository's scripts make them.
//!
//! The first time it takes a while. Each is made once for all tests.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, sync::OnceCell};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the service's generated code.
pub(crate) async fn python() -> &'static Path {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    PYTHON.get_or_init(|| made_by("scripts/python")).await
}

/// The folder of Go's plugins for protoc, and of grpcurl.
pub(crate) async fn go_tools() -> &'static Path {
    static TOOLS: OnceCell<PathBuf> = OnceCell::const_new();
    TOOLS.get_or_init(|| made_by("scripts/go-tools")).await
}

/// A client in Go, the program in tests/fixtures/go.
pub(crate) async fn go_client() -> &'static Path {
    static CLIENT: OnceCell<PathBuf> = OnceCell::const_new();
    // The script makes these, too, and two that make one thing would be in each other's way.
    python().await;
    go_tools().await;
    CLIENT.get_or_init(|| made_by("scripts/go-client")).await
}

/// What a script makes, whose path it prints.
async fn made_by(script: &str) -> PathBuf {
    let made = Command::new(root().join(script)).stderr(Stdio::inherit()).output().await.unwrap();
    assert!(made.status.success(), "{script} has failed: {}", made.status);
    String::from_utf8(made.stdout).unwrap().trim().into()
}
