//! The native runtime: `prebuilds/PLATFORM/copilot-runtime` in npm's package `@github/copilot-sdk-PLATFORM`.
//!
//! It has no `--version` and reports little when something of its package is missing: a library, or the programs that its tools
//! run. So the package is checked before the runtime is started.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::places::{Fitness, PLATFORMS, Places, fitness, on_path};
use crate::copilot::version::Version;

/// The name of its program.
pub(super) const PROGRAM: &str = "copilot-runtime";

/// The library beside the program, which is most of the runtime.
const LIBRARY: &str = "runtime.node";

/// The package version that the repository pins, and that is to be installed where none fits.
const PINNED: &str = "1.0.15-preview.4";

/// The oldest package version that the service was tried with.
const FLOOR: Version = Version::new(1, 0, 14);

/// A native runtime that cannot be run, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the native runtime at {} {reason}: {}", path.display(), remedy(path, reason))]
pub struct Unfit {
    /// The path of its program.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a native runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has no execute permission, or is no file.
    #[error("is not an executable file")]
    NotExecutable,
    /// A part of its package is not there.
    #[error("is only half installed ({0} is missing)")]
    Incomplete(PathBuf),
    /// It is for another kind of machine.
    #[error("is for another platform")]
    Foreign,
    /// It is older than what is needed.
    #[error("is of package version {0}, and {FLOOR} is needed")]
    TooOld(String),
}

fn remedy(path: &Path, reason: &Reason) -> String {
    let package = PLATFORMS.first().unwrap_or(&"PLATFORM");
    match reason {
        Reason::NotExecutable => format!("chmod +x {}", path.display()),
        Reason::Incomplete(_) | Reason::Foreign | Reason::TooOld(_) => {
            format!("npm install @github/copilot-sdk-{package}@{PINNED}")
        }
    }
}

/// The paths where it may be, in order of preference.
pub(super) fn candidates(places: &Places<'_>) -> Vec<PathBuf> {
    let in_roots = places.roots.iter().flat_map(|root| {
        let packages = root.join("node_modules/@github");
        PLATFORMS
            .iter()
            .map(move |name| packages.join(format!("copilot-sdk-{name}/prebuilds/{name}/{PROGRAM}")))
    });
    on_path(places.env_path, PROGRAM).chain(in_roots).collect()
}

/// Whether a program is a native runtime, usable or not, by its name or by the library beside it.
pub(super) fn is_one(path: &Path) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.file_name().is_some_and(|name| name == PROGRAM) || real.with_file_name(LIBRARY).exists()
}

/// The real path of the program, if its package is complete and it can run here.
pub(super) fn check(path: &Path) -> Result<PathBuf, Unfit> {
    let unfit = |reason| Unfit { path: path.to_owned(), reason };
    if fitness(path) != Fitness::Executable {
        return Err(unfit(Reason::NotExecutable));
    }
    // A program on the PATH is mostly a link; the package is where it leads.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match missing_part(&real) {
        Some(part) => return Err(unfit(Reason::Incomplete(part))),
        None if is_foreign(&real) => return Err(unfit(Reason::Foreign)),
        None => {}
    }
    match package_version(&real) {
        Some(version) if Version::parse(&version).is_none_or(|version| version < FLOOR) => {
            Err(unfit(Reason::TooOld(version)))
        }
        _ => Ok(real),
    }
}

/// The root of the package that a program is in.
fn package(program: &Path) -> Option<&Path> {
    program.ancestors().nth(3)
}

/// The first part of the package that the program needs and that is missing or empty.
fn missing_part(program: &Path) -> Option<PathBuf> {
    let is_missing =
        |part: &PathBuf| fs::metadata(part).map_or(true, |part| part.is_file() && part.len() == 0);
    let around = package(program)
        .map(|package| ["package.json", "ripgrep", "definitions"].map(|part| package.join(part)));
    [program.with_file_name(LIBRARY)].into_iter().chain(around.into_iter().flatten()).find(is_missing)
}

fn package_version(program: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let text = fs::read(package(program)?.join("package.json")).ok()?;
    Some(serde_json::from_slice::<Package>(&text).ok()?.version)
}

/// Whether the program is certainly for another kind of machine: another operating system's format, or another processor.
fn is_foreign(program: &Path) -> bool {
    let mut head = [0; 20];
    if File::open(program).and_then(|mut file| file.read_exact(&mut head)).is_err() {
        return false;
    }
    match PLATFORM_HEAD {
        Some((magic, at, machine)) => !head.starts_with(magic) || head[at..at + machine.len()] != *machine,
        None => false,
    }
}

/// The magic bytes of this machine's programs, and the offset and bytes that tell the processor: ELF's `e_machine` (elf(5)),
/// Mach-O's `cputype`.
const PLATFORM_HEAD: Option<(&[u8], usize, &[u8])> = {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        Some((b"\x7fELF", 18, &[62, 0]))
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        Some((b"\x7fELF", 18, &[183, 0]))
    } else if cfg!(all(target_os = "macos", target_arch = "x86_64")) {
        Some((b"\xcf\xfa\xed\xfe", 4, &[7, 0, 0, 1]))
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        Some((b"\xcf\xfa\xed\xfe", 4, &[12, 0, 0, 1]))
    } else {
        None
    }
};

/// The first bytes of a program for this machine.
#[cfg(test)]
pub(super) fn head_of_this_machine() -> Vec<u8> {
    let mut head = vec![0; 64];
    if let Some((magic, at, machine)) = PLATFORM_HEAD {
        head[..magic.len()].copy_from_slice(magic);
        head[at..at + machine.len()].copy_from_slice(machine);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_is_what_is_installed() {
        let package = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/package.json")).unwrap();
        let pinned: serde_json::Value = serde_json::from_str(&package).unwrap();
        for (name, version) in pinned["optionalDependencies"].as_object().unwrap() {
            assert!(name.starts_with("@github/copilot-sdk-"), "{name}");
            assert_eq!(version, PINNED, "{name}");
        }
    }
}
