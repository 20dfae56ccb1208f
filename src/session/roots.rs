//! The folders that requests may name paths in.
//!
//! Paths are of the CLI's machine, which may not be this one. What is here is looked at: links are followed, and a file has
//! to be one that ends. What is not here is judged by its name. Of a path outside nothing is looked at, and the refusal is
//! the same whether there is something or not.
//!
//! What is promised is what was there when the request came. Who can write in a root, as an agent with a shell can, may put
//! something else there afterwards: then walls around the CLI have to hold. A session keeps the folders it was created with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use tokio::task::spawn_blocking;

use super::{blueprint::Excess, error::Error};
use crate::copilot::{Attachment, McpServer, McpTransport, Settings};

/// The largest file that can be attached, in bytes. The CLI reads it whole.
const MAX_FILE: u64 = 10 * 1024 * 1024;

/// What the kernel makes up: files of no size that never end, or do something when they are read.
const MADE_UP: &[&str] = &["/dev", "/proc", "/sys"];

/// The folders that requests may name paths in.
#[derive(Debug, Clone, Default)]
pub struct Roots(Arc<[PathBuf]>);

/// A path in a request.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    field: String,
    path: PathBuf,
    is_file: bool,
}

impl Wanted {
    fn folder(field: impl Into<String>, path: &str) -> Self {
        Self { field: field.into(), path: path.into(), is_file: false }
    }
}

impl Roots {
    /// These folders, by their absolute paths.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self(folders.into())
    }

    /// Whether a request may name these paths.
    pub(super) async fn admit(&self, wanted: Vec<Wanted>) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let roots = self.clone();
        // Disks may be slow, and more so those of the network.
        let excesses = spawn_blocking(move || roots.excesses(wanted)).await;
        match excesses.as_deref() {
            Ok([]) => Ok(()),
            Ok(excesses) => Err(Error::Denied(excesses.to_vec())),
            Err(_) => Err(Error::Draining),
        }
    }

    fn excesses(&self, wanted: Vec<Wanted>) -> Vec<Excess> {
        let excess = |Wanted { field, path, is_file }| {
            let allowed = match self.resolved(&path) {
                None => OUTSIDE.to_owned(),
                Some(place) if is_file && !may_be_attached(&place) => {
                    format!("must be a regular file of {MAX_FILE} bytes at most")
                }
                Some(_) => return None,
            };
            Some(Excess { field, allowed })
        };
        wanted.into_iter().filter_map(excess).collect()
    }

    /// Where a path leads, if it is in one of the folders: by its name and, as far as it is here, by where its links lead.
    fn resolved(&self, path: &Path) -> Option<PathBuf> {
        // Where `..` leads depends on links, and no honest path needs it.
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let is_in = |path: &Path, root: &PathBuf| path.starts_with(root);
        let real: Vec<_> =
            self.0.iter().map(|root| fs::canonicalize(root).unwrap_or_else(|_| root.clone())).collect();
        if !self.0.iter().chain(&real).any(|root| is_in(path, root)) {
            return None;
        }
        let place = real_place(path)?;
        real.iter().any(|root| is_in(&place, root)).then_some(place)
    }
}

/// What is said of each path outside.
const OUTSIDE: &str = "must be in a folder that the operator has opened for requests (roots)";

/// A path with the links in it followed, as far as it is here. `None`: a link leads nowhere, or cannot be followed.
fn real_place(path: &Path) -> Option<PathBuf> {
    let here = path.ancestors().find(|part| fs::symlink_metadata(part).is_ok())?;
    let rest = path.strip_prefix(here).ok()?;
    let real = fs::canonicalize(here).ok()?;
    Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

/// Whether a file may be attached: it is a regular one and not too large, or it is not here.
fn may_be_attached(place: &Path) -> bool {
    if MADE_UP.iter().any(|folder| place.starts_with(folder)) {
        return false;
    }
    fs::metadata(place).map_or(true, |file| file.is_file() && file.len() <= MAX_FILE)
}

/// The paths in a session's settings.
pub(super) fn in_settings(settings: &Settings) -> Vec<Wanted> {
    let each = |field: &'static str, paths: &[String]| -> Vec<_> {
        let wanted = paths.iter().enumerate();
        wanted.map(|(n, path)| Wanted::folder(format!("{field}[{n}]"), path)).collect()
    };
    let options = settings.options.as_deref();
    let work = settings.working_directory.iter().map(|path| Wanted::folder("working_directory", path));
    let skills = settings.skills.iter().flat_map(|skills| each("skills.directories", &skills.directories));
    let more =
        options.iter().flat_map(|options| each("additional_directories", &options.additional_directories));
    let output = options.and_then(|options| options.large_output.as_ref()?.output_dir.as_ref());
    let output = output.map(|path| Wanted::folder("large_output.output_directory", path));
    work.chain(skills).chain(more).chain(output).chain(in_servers(&settings.mcp_servers)).collect()
}

/// The paths in MCP servers.
pub(super) fn in_servers(servers: &BTreeMap<String, McpServer>) -> Vec<Wanted> {
    let folders = servers.iter().filter_map(|(name, server)| match &server.transport {
        McpTransport::Stdio { cwd: Some(cwd), .. } => {
            Some(Wanted::folder(format!("mcp_servers[{name:?}].stdio.working_directory"), cwd))
        }
        McpTransport::Stdio { cwd: None, .. } | McpTransport::Http(_) | McpTransport::Sse(_) => None,
    });
    folders.collect()
}

/// The paths in attachments. That of a selection is a name for its text, which the caller brings.
pub(super) fn in_attachments(attachments: &[Attachment]) -> Vec<Wanted> {
    let wanted = attachments.iter().enumerate().filter_map(|(n, attachment)| match attachment {
        Attachment::File { path, .. } => Some(Wanted {
            field: format!("prompt.attachments[{n}].file.path"),
            path: path.into(),
            is_file: true,
        }),
        Attachment::Directory { path, .. } => {
            Some(Wanted::folder(format!("prompt.attachments[{n}].directory.path"), path))
        }
        Attachment::Selection { .. } | Attachment::Blob { .. } => None,
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn is_in(roots: &[&Path], path: impl AsRef<Path>, is_file: bool) -> Result<(), String> {
        let roots = Roots::new(roots.iter().map(|root| root.to_path_buf()).collect());
        let wanted = Wanted { field: "f".into(), path: path.as_ref().into(), is_file };
        match roots.excesses(vec![wanted]).pop() {
            None => Ok(()),
            Some(Excess { field, allowed }) => Err(format!("{field}: {allowed}")),
        }
    }

    #[test]
    fn a_path_is_in_a_root_by_its_name_and_by_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        for folder in [&root, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "text").unwrap();
        }
        let link = |name: &str, to: &Path| symlink(to, root.join(name)).unwrap();
        link("within", &root.join("file"));
        link("out", &outside);
        link("dangling", &outside.join("missing"));
        // A root by another name.
        let alias = folder.path().join("alias");
        symlink(&root, &alias).unwrap();
        let fits = |path: &str| assert_eq!(is_in(&[&root], root.join(path), true), Ok(()), "{path}");
        ["file", "within", "missing", "missing/deeper"].into_iter().for_each(fits);
        assert_eq!(is_in(&[&alias], alias.join("file"), true), Ok(()));
        assert_eq!(is_in(&[&alias], root.join("file"), true), Ok(()));
        assert_eq!(is_in(&[&root], &root, false), Ok(()));
        assert_eq!(is_in(&[&outside, &root], root.join("file"), true), Ok(()));
        // The same words, whether there is something or not.
        for path in
            ["out/file", "out/missing", "dangling", "../outside/file", "../outside/missing", "x/../file"]
        {
            assert_eq!(is_in(&[&root], root.join(path), true), Err(format!("f: {OUTSIDE}")), "{path}");
        }
        for path in [outside.join("file"), outside.join("missing"), "/".into(), folder.path().join("root2")] {
            assert_eq!(is_in(&[&root], &path, false), Err(format!("f: {OUTSIDE}")), "{path:?}");
        }
        assert_eq!(is_in(&[], root.join("file"), true), Err(format!("f: {OUTSIDE}")));
        // On another machine there is but the name.
        let far = Path::new("/far/away");
        assert_eq!(is_in(&[far], "/far/away/file", true), Ok(()));
        assert!(is_in(&[far], "/far/away2", true).is_err() && is_in(&[far], "/far/away/../x", true).is_err());
    }

    #[test]
    fn what_never_ends_cannot_be_attached() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let path = |name: &str| root.join(name);
        assert!(std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        symlink(path("fifo"), path("link")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        fs::File::create(path("large")).unwrap().set_len(MAX_FILE + 1).unwrap();
        fs::File::create(path("largest")).unwrap().set_len(MAX_FILE).unwrap();
        for name in ["fifo", "link", "socket", "large", ""] {
            let refused = is_in(&[&root], path(name), true).unwrap_err();
            assert!(refused.contains("regular file"), "{name}: {refused}");
        }
        assert_eq!(is_in(&[&root], path("largest"), true), Ok(()));
        // However much is opened.
        for path in ["/proc/kmsg", "/proc/self/environ", "/dev/zero", "/dev/null", "/sys/kernel/debug/x"] {
            assert!(is_in(&[Path::new("/")], path, true).is_err(), "{path}");
        }
        assert_eq!(is_in(&[Path::new("/")], "/", false), Ok(()));
    }
}
