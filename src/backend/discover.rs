//! Where the Copilot CLI is: looks at files, runs nothing.
//!
//! `npm install @github/copilot` leaves two things that can be run: the CLI itself, a native binary in a package per
//! platform, and `copilot`, a link to a script that needs Node and runs the binary as its child. The script dies at once
//! of a signal that the CLI would have used to save its sessions, so the binary is taken wherever the script is found.

use std::{
    env,
    ffi::OsStr,
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Finds the CLI's executable.
///
/// A path that the operator gave (`flag`) is taken or refused, never replaced. Otherwise: `copilot` in the folders of
/// `env_path` (the value of `PATH`), then in `node_modules` of each root in turn, the platform's binary first. Where that is
/// npm's script, the binary that it would run.
pub fn find(flag: Option<&Path>, env_path: Option<&OsStr>, roots: &[PathBuf]) -> Result<PathBuf, NotFound> {
    if let Some(given) = flag {
        return match fitness(given) {
            Fitness::Executable => Ok(given.to_owned()),
            Fitness::Missing => Err(NotFound::GivenMissing(given.to_owned())),
            Fitness::NotExecutable => Err(NotFound::GivenNotExecutable(given.to_owned())),
        };
    }
    let looked: Vec<PathBuf> = on_path(env_path).chain(in_roots(roots)).collect();
    match looked.iter().find(|path| fitness(path) == Fitness::Executable) {
        Some(found) => Ok(behind_script(found).unwrap_or_else(|| found.clone())),
        None => Err(NotFound::Nowhere { looked }),
    }
}

/// Why there is no CLI to run, and what the operator can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The path that the operator gave leads nowhere.
    #[error("no file at {}: correct --cli-path, or leave it out to have the Copilot CLI searched for", .0.display())]
    GivenMissing(PathBuf),
    /// The path that the operator gave is a folder, or has no execute permission.
    #[error("{} is not an executable file: let --cli-path name the `copilot` binary, or chmod +x it", .0.display())]
    GivenNotExecutable(PathBuf),
    /// None of these is an executable file.
    #[error(
        "no Copilot CLI found: run `npm ci` in the repository, or name the `copilot` binary with --cli-path. \
         Looked at:{}",
        Listed(looked)
    )]
    Nowhere {
        /// Every path that was tried, in order.
        looked: Vec<PathBuf>,
    },
}

/// Whether a path can be run as a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    Executable,
    Missing,
    NotExecutable,
}

pub(super) fn fitness(path: &Path) -> Fitness {
    // Follows links: one that leads nowhere is missing.
    match path.metadata() {
        Ok(file) if file.is_file() && file.permissions().mode() & ANY_EXECUTE != 0 => Fitness::Executable,
        Ok(_) => Fitness::NotExecutable,
        Err(_) => Fitness::Missing,
    }
}

/// Execute permission for owner, group or others.
const ANY_EXECUTE: u32 = 0o111;

fn on_path(env_path: Option<&OsStr>) -> impl Iterator<Item = PathBuf> {
    // An empty or relative entry means "wherever I was started", where anybody may have put a `copilot`.
    env_path
        .map(|path| env::split_paths(path).collect::<Vec<_>>())
        .into_iter()
        .flatten()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("copilot"))
}

fn in_roots(roots: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    roots.iter().flat_map(|root| {
        let modules = root.join("node_modules");
        let packages = modules.join("@github");
        let binaries = PLATFORMS.iter().map(move |name| packages.join(format!("copilot-{name}/copilot")));
        binaries.chain([modules.join(".bin/copilot")])
    })
}

/// The binary that npm's script would run: its package is installed next to the script's (as in a repository), or inside it
/// (as with `npm install --global`).
fn behind_script(copilot: &Path) -> Option<PathBuf> {
    let script =
        copilot.canonicalize().ok().filter(|path| path.ends_with("@github/copilot/npm-loader.js"))?;
    let package = script.parent()?;
    [package.parent()?.to_owned(), package.join("node_modules/@github")]
        .into_iter()
        .flat_map(|packages| {
            PLATFORMS.iter().map(move |name| packages.join(format!("copilot-{name}/copilot")))
        })
        .find(|binary| fitness(binary) == Fitness::Executable)
}

/// The platform packages that can run here. npm installs the one for the machine's C library, which need not be the one
/// that this binary was linked with (a static musl build on Debian): so both.
const PLATFORMS: &[&str] = {
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

struct Listed<'a>(&'a [PathBuf]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|path| write!(f, "\n  {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with files in it; a name that ends in `*` is executable.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name.trim_end_matches('*'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            let mode = if name.ends_with('*') { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        dir
    }

    fn native() -> String {
        format!("node_modules/@github/copilot-{}/copilot", PLATFORMS[0])
    }

    /// Which of `files` is found with `bin` on the PATH and the roots `a` and `b`.
    fn check(files: &[&str], expected: &str) {
        let dir = tree(files);
        let at = |name: &str| dir.path().join(name);
        let env_path = env::join_paths([at("empty"), at("bin")]).unwrap();
        let found = find(None, Some(&env_path), &[at("a"), at("b")]);
        assert_eq!(found.as_deref(), Ok(at(expected).as_path()));
    }

    #[test]
    fn path_comes_first_then_each_roots_binary_then_its_script() {
        let (a, b) = (format!("a/{}", native()), format!("b/{}", native()));
        let (a_run, b_run) = (format!("{a}*"), format!("{b}*"));
        let a_script = "a/node_modules/.bin/copilot*";
        check(&["bin/copilot*", &a_run, &b_run], "bin/copilot");
        check(&[&a_run, &b_run, a_script], &a);
        check(&[a_script, &b_run], "a/node_modules/.bin/copilot");
        check(&[&b_run], &b);
    }

    #[test]
    fn npms_script_is_passed_through_to_its_binary() {
        let script = "lib/node_modules/@github/copilot/npm-loader.js";
        let beside = format!("lib/{}", native());
        let inside = format!("lib/node_modules/@github/copilot/{}", native());
        let check = |binary: Option<&str>, expected: &str| {
            let binary = binary.map(|name| format!("{name}*"));
            let dir = tree(&[&format!("{script}*"), "bin/node", binary.as_deref().unwrap_or("other")]);
            let root = dir.path().canonicalize().unwrap();
            std::os::unix::fs::symlink(root.join(script), root.join("bin/copilot")).unwrap();
            let found = find(None, Some(root.join("bin").as_os_str()), &[]);
            assert_eq!(found, Ok(root.join(expected)));
        };
        check(Some(&beside), &beside);
        check(Some(&inside), &inside);
        check(None, "bin/copilot");
    }

    #[test]
    fn what_cannot_be_run_is_passed_over() {
        let b = format!("b/{}", native());
        check(&["bin/copilot", &format!("a/{}", native()), &format!("{b}*")], &b);
        check(&["bin/copilot/copilot*", &format!("{b}*")], &b);
    }

    #[test]
    fn a_given_path_is_never_replaced() {
        let dir = tree(&["bin/copilot*", "given", "good*"]);
        let at = |name: &str| dir.path().join(name);
        let look = |name| find(Some(&at(name)), Some(at("bin").as_os_str()), &[]);
        assert_eq!(look("good"), Ok(at("good")));
        assert_eq!(look("absent"), Err(NotFound::GivenMissing(at("absent"))));
        assert_eq!(look("given"), Err(NotFound::GivenNotExecutable(at("given"))));
        assert_eq!(look("bin"), Err(NotFound::GivenNotExecutable(at("bin"))));
    }

    #[test]
    fn a_vain_search_says_where_it_looked_and_what_to_do() {
        let root = tree(&[]);
        let error =
            find(None, Some(OsStr::new("/nowhere/bin")), &[root.path().to_owned()]).unwrap_err().to_string();
        for part in ["npm ci", "--cli-path", "/nowhere/bin/copilot", &native(), ".bin/copilot"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn relative_entries_of_path_are_not_searched() {
        assert_eq!(find(None, Some(OsStr::new(":.:bin")), &[]), Err(NotFound::Nowhere { looked: vec![] }));
        assert_eq!(find(None, None, &[]), Err(NotFound::Nowhere { looked: vec![] }));
    }
}
