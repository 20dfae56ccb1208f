//! Finding the Copilot CLI's executable. It looks at files and runs nothing.
//!
//! The CLI comes in two forms, which serve the same protocol with the same flags.
//!
//! The *Node CLI* is npm's `@github/copilot`. It installs two things that can be run: the CLI itself, a binary with Node in it,
//! in a package for each platform, and `copilot`, a link to a script that needs Node and runs the binary as its child. The
//! script dies at once of a signal that the CLI would have used to save its sessions, so wherever the script is found, the
//! binary is taken.
//!
//! The *native runtime* is the part of npm's `@github/copilot-sdk` that the official SDKs start, in a package for each
//! platform: `copilot-runtime`, with a library beside it and more of the package around it. See [`native`].
//!
//! Tests: `discover/tests.rs`, `tests/integration/forms.rs`.

mod native;
mod places;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

pub use native::Unfit;
pub use places::Places;
pub(super) use places::{Fitness, fitness};

use places::{PLATFORMS, is_executable, on_path};

/// The form of a CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The server that the official SDKs start, without Node.
    Native,
    /// The CLI that people use at a terminal.
    Node,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Node => "node",
        })
    }
}

/// The form that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The native runtime, or the Node CLI where that is not installed.
    Auto,
    /// One form, and no other.
    Only(Form),
}

impl Wanted {
    fn takes(self, form: Form) -> bool {
        matches!(self, Self::Auto) || self == Self::Only(form)
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Only(Form::Native)),
            "node" => Ok(Self::Only(Form::Node)),
            other => Err(format!("{other:?} is neither auto nor native nor node")),
        }
    }
}

/// A CLI that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its executable.
    pub path: PathBuf,
    /// Its form.
    pub form: Form,
    /// A note for the operator: it is not the one that was looked for first, or not the only one.
    pub remark: Option<String>,
}

/// Finds the CLI's executable.
///
/// Without a given path, each form is looked for in the folders of `PATH`, then in `node_modules` of each root in turn. Of the
/// Node CLI the platform's binary comes first; where npm's script is found, the binary that it would run is taken.
///
/// # Errors
/// [`NotFound`] if there is none of the wanted form, or it cannot be run. The message says what mends it.
pub fn find(wanted: Wanted, places: &Places<'_>) -> Result<Found, NotFound> {
    if let Some(given) = places.given {
        return find_given(wanted, given);
    }
    let native = native::candidates(places);
    let node: Vec<_> = node_candidates(places).collect();
    let mut unfit = None;
    if wanted.takes(Form::Native)
        && let Some(first) = native.iter().find(|path| path.exists())
    {
        match native::check(first) {
            Ok(path) => {
                let other = on_path(places.env_path, "copilot").find(|path| is_executable(path));
                let both = wanted == Wanted::Auto
                    && on_path(places.env_path, native::PROGRAM).any(|it| it == *first);
                let remark = other.filter(|_| both).map(|other| {
                    format!("the Node CLI is on the PATH, too ({}); --cli=node chooses that", other.display())
                });
                return Ok(Found { path, form: Form::Native, remark });
            }
            Err(problem) => unfit = Some(problem),
        }
    }
    if wanted.takes(Form::Node)
        && let Some(found) = node.iter().find(|path| is_executable(path))
    {
        let path = behind_script(found).unwrap_or_else(|| found.clone());
        let remark = unfit.map(|unfit| format!("{unfit}. Until then the Node CLI serves"));
        return Ok(Found { path, form: Form::Node, remark });
    }
    if let Some(unfit) = unfit {
        return Err(unfit.into());
    }
    let native = native.into_iter().filter(|_| wanted.takes(Form::Native));
    let node = node.into_iter().filter(|_| wanted.takes(Form::Node));
    Err(NotFound::Nowhere { wanted, looked: native.chain(node).collect() })
}

fn find_given(wanted: Wanted, given: &Path) -> Result<Found, NotFound> {
    let form = if native::is_one(given) { Form::Native } else { Form::Node };
    match fitness(given) {
        Fitness::Missing => Err(NotFound::GivenMissing(given.to_owned())),
        _ if !wanted.takes(form) => Err(NotFound::GivenOther { path: given.to_owned(), form }),
        Fitness::NotExecutable => Err(NotFound::GivenNotExecutable(given.to_owned())),
        Fitness::Executable if form == Form::Node => Ok(Found { path: given.to_owned(), form, remark: None }),
        Fitness::Executable => Ok(Found { path: native::check(given)?, form, remark: None }),
    }
}

/// Why there is no CLI to run. Each variant calls for another action of the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The path that the operator gave leads nowhere.
    #[error("no file at {}: correct --cli-path, or leave it out to have the Copilot CLI searched for", .0.display())]
    GivenMissing(PathBuf),
    /// The path that the operator gave is a folder, or has no execute permission.
    #[error(
        "{} is not an executable file: let --cli-path name the `copilot` or `copilot-runtime` program, or chmod +x it",
        .0.display()
    )]
    GivenNotExecutable(PathBuf),
    /// The path that the operator gave is of another form than the operator wants.
    #[error("{} is the {form} form of the Copilot CLI: leave out --cli, or let --cli-path name the other form", path.display())]
    GivenOther {
        /// The path.
        path: PathBuf,
        /// Its form.
        form: Form,
    },
    /// The native runtime is there, but cannot be run.
    #[error("{0}")]
    Unfit(#[from] Unfit),
    /// No path that was tried is an executable file.
    #[error(
        "no Copilot CLI found: run `{}` in the repository, or name the program with --cli-path. Looked at:{}",
        install(*wanted),
        Listed(looked)
    )]
    Nowhere {
        /// The form that was wanted.
        wanted: Wanted,
        /// Every path that was tried, in order.
        looked: Vec<PathBuf>,
    },
}

/// The command that installs the wanted form.
fn install(wanted: Wanted) -> String {
    match wanted {
        Wanted::Only(Form::Node) => "npm ci".into(),
        Wanted::Auto | Wanted::Only(Form::Native) => "npm ci --omit=dev".into(),
    }
}

fn node_candidates(places: &Places<'_>) -> impl Iterator<Item = PathBuf> {
    let in_roots = places.roots.iter().flat_map(|root| {
        let modules = root.join("node_modules");
        let packages = modules.join("@github");
        let binaries = PLATFORMS.iter().map(move |name| packages.join(format!("copilot-{name}/copilot")));
        binaries.chain([modules.join(".bin/copilot")])
    });
    on_path(places.env_path, "copilot").chain(in_roots)
}

/// The binary that npm's script would run: its package is next to the script's (as in a repository), or inside it (as with `npm
/// install --global`).
fn behind_script(copilot: &Path) -> Option<PathBuf> {
    let script =
        copilot.canonicalize().ok().filter(|path| path.ends_with("@github/copilot/npm-loader.js"))?;
    let package = script.parent()?;
    [package.parent()?.to_owned(), package.join("node_modules/@github")]
        .into_iter()
        .flat_map(|packages| {
            PLATFORMS.iter().map(move |name| packages.join(format!("copilot-{name}/copilot")))
        })
        .find(|binary| is_executable(binary))
}

struct Listed<'a>(&'a [PathBuf]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|path| write!(f, "\n  {}", path.display()))
    }
}

#[cfg(test)]
mod tests;
