//! The places where programs are looked for, and whether a file can be run.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The places to look in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// The path that the operator gave: it is taken or refused, never replaced.
    pub given: Option<&'a Path>,
    /// The value of `PATH`.
    pub env_path: Option<&'a OsStr>,
    /// Folders in whose `node_modules` to look.
    pub roots: &'a [PathBuf],
}

/// Whether a path can be run as a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::process) enum Fitness {
    Executable,
    Missing,
    NotExecutable,
}

pub(in crate::backend::process) fn fitness(path: &Path) -> Fitness {
    // `metadata` follows links: one that leads nowhere is missing.
    match path.metadata() {
        Ok(file) if file.is_file() && file.permissions().mode() & ANY_EXECUTE != 0 => Fitness::Executable,
        Ok(_) => Fitness::NotExecutable,
        Err(_) => Fitness::Missing,
    }
}

pub(super) fn is_executable(path: &Path) -> bool {
    fitness(path) == Fitness::Executable
}

/// Execute permission for owner, group or others.
const ANY_EXECUTE: u32 = 0o111;

pub(super) fn on_path(env_path: Option<&OsStr>, program: &str) -> impl Iterator<Item = PathBuf> {
    // An empty or relative entry means the current directory, where anybody may have put a program.
    env_path
        .map(|path| env::split_paths(path).collect::<Vec<_>>())
        .into_iter()
        .flatten()
        .filter(|folder| folder.is_absolute())
        .map(move |folder| folder.join(program))
}

/// The platform packages that can run here. npm installs the one for the machine's C library, which need not be the one that
/// this binary was linked with (a static musl build on Debian), so both are listed.
pub(super) const PLATFORMS: &[&str] = {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        &["linux-x64", "linuxmusl-x64"]
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        &["linux-arm64", "linuxmusl-arm64"]
    } else if cfg!(all(target_os = "macos", target_arch = "x86_64")) {
        &["darwin-x64"]
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        &["darwin-arm64"]
    } else {
        &[]
    }
};
