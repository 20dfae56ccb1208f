//! The order of the rooms and of their files, which the compiler does not check.
//!
//! A room uses only what stands below it, and so does a part of the session room; only some rooms know some crates, and no files use
//! each other in a circle. What is seen are names: a method that is called on a value of another file's type is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Ident, ItemMod, ItemUse, Macro, UseTree, Visibility,
    visit::{self, Visit},
};

/// The rooms, from the ground up.
const ROOMS: &[&str] = &[
    "lock", "fnv", "seldom", "budget", "jsonrpc", "copilot", "identity", "backend", "store", "session",
    "grpc", "app",
];

/// The parts of the session room, from the ground up.
const SESSION: &[&str] = &[
    "turnstile",
    "id",
    "cursor",
    "summary",
    "blueprint",
    "turn",
    "error",
    "fanout",
    "asks",
    "cleanup",
    "roots",
    "models",
    "listing",
    "live",
    "registry",
    "idempotency",
    "others",
    "callers",
    "prompt",
    "sessions",
    "calls",
];

/// What only some rooms know: the beginnings of crates' and modules' names, and the rooms.
const PRIVATE: &[(&[&str], &[&str])] = &[
    (&["tonic", "prost"], &["grpc"]),
    (&["tokio::net", "std::net", "socket2"], &["identity", "backend", "grpc", "app"]),
    (&["ring", "rustls", "tokio_rustls"], &["identity", "grpc"]),
    (&["hickory_resolver"], &["backend"]),
    (&["x509_cert"], &["grpc"]),
    (&["sqlx"], &["store"]),
    (&["clap", "tracing_subscriber"], &["app"]),
    (&["toml"], &["identity", "app"]),
];

#[test]
fn a_room_uses_only_what_stands_below_it() {
    let sources = Source::all();
    let wrong = sources.iter().flat_map(|source| {
        source.violations().into_iter().map(|what| format!("{}: {what}", source.path.display()))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
    let rooms: BTreeSet<_> = sources.iter().filter_map(Source::room).collect();
    assert_eq!(rooms, ROOMS.iter().copied().collect(), "a room without a place, or a place without a room");
}

#[test]
fn only_the_lowest_room_knows_framing() {
    for source in Source::all() {
        // Those who come with HTTP/1 are answered in its words.
        let is_home = source.room() == Some("jsonrpc") || source.path.ends_with("grpc/opening.rs");
        let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let knows = code.into_iter().any(|line| line.to_ascii_lowercase().contains("content-length"));
        assert!(is_home || !knows, "{}", source.path.display());
    }
}

#[test]
fn a_part_of_the_session_room_uses_only_what_stands_below_it() {
    let sources = Source::all();
    assert_eq!(upward(&sources), Vec::<String>::new());
    let parts: BTreeSet<_> = sources.iter().filter_map(Source::part).collect();
    assert_eq!(parts, SESSION.iter().copied().collect(), "a part without a place, or a place without a part");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    assert_eq!(circles(&Source::all()), Vec::<String>::new());
}

/// A violation goes unseen only if these do.
#[test]
fn what_breaks_the_order_is_found() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        assert_eq!(Source::new(path.into(), text.into()).violations(), expected, "{text}");
    };
    check("session/mod.rs", "use crate::grpc::status;", &["grpc"]);
    check("session/mod.rs", "use crate::{backend::{Link, process}, grpc::pb, session::Turn};", &["grpc"]);
    check("session/mod.rs", "use crate::{app, self as all, grpc as g};", &["app", "grpc"]);
    check("session/mod.rs", "fn f() { other! { a(crate::grpc::status::of(b)) } }", &["grpc"]);
    check("jsonrpc/peer.rs", "fn f() { crate::copilot::event::peek(b\"\"); }", &["copilot"]);
    check("jsonrpc/peer.rs", "use crate :: /* hidden */ backend;", &["backend"]);
    check("jsonrpc/peer.rs", "mod tests { use super::super::super::backend; }", &["backend"]);
    check("backend/link.rs", "pub(in crate::session) fn f() {}", &[]);
    check("backend/mod.rs", "use super::session::Turn;", &["session"]);
    check("backend.rs", "use super::{session, copilot};", &["session"]);
    check("backend/process/output.rs", "use super::super::super::app::Config;", &["app"]);
    check("app/config.rs", "use crate::{grpc, session, backend, copilot, jsonrpc, app};", &[]);
    check("session/registry.rs", "use super::error;\nuse crate::session::id;", &[]);
    check(
        "session/registry.rs",
        "// use crate::grpc;\n/* crate::grpc */ const S: &str = \"crate::grpc\";",
        &[],
    );
    check("session/registry.rs", "use tonic::Status;", &["tonic"]);
    check("app/mod.rs", "const S: Option<prost_types::Struct> = None;", &["prost_types"]);
    check("copilot/mod.rs", "use tokio::{net::TcpStream, sync};", &["tokio::net"]);
    check("copilot/mod.rs", "use my::tonic; const TONICS: u8 = 1;", &[]);
    check("grpc/mod.rs", "use tonic::Status; use prost::Message;", &[]);
}

/// An arrow upward in the session room goes unseen only if these do.
#[test]
fn what_breaks_the_order_in_the_session_room_is_found() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        let files = [
            ("session/mod.rs", "mod calls; mod live; mod turn; pub use calls::Prompt; pub use turn::Usage;"),
            ("session/calls/mod.rs", "mod send; pub use send::Prompt;"),
            ("session/calls/send.rs", ""),
            ("session/live/mod.rs", "mod gap; mod home; pub(in crate::session) use gap::Gap;"),
            ("session/live/gap.rs", ""),
            ("session/turn/mod.rs", "mod outcome; pub use outcome::Usage;"),
            ("session/turn/outcome.rs", ""),
            (path, text),
        ];
        let sources = files.iter().map(|(path, text)| Source::new((*path).into(), (*text).into()));
        assert_eq!(upward(&sources.collect::<Vec<_>>()), expected, "{text}");
    };
    let (home, send) = ("session/live/home.rs", &["session/live/home.rs uses session/calls/send.rs"]);
    check(home, "use crate::session::calls::Prompt;", send);
    check(home, "use crate::session::Prompt;", send);
    check(home, "use super::super::calls::send::Prompt;", send);
    check(home, "fn f() { crate::session::calls::send::f() }", send);
    check(home, "use super::Gap; use crate::session::{Usage, turn};", &[]);
    check(home, "#[cfg(test)] mod tests { use crate::session::Prompt; }", &[]);
    check(
        "session/turn/queue.rs",
        "use crate::session::live;",
        &["session/turn/queue.rs uses session/live/mod.rs"],
    );
    check("session/calls/watch.rs", "use super::send::Prompt; use crate::session::{live::Gap, turn};", &[]);
    check("grpc/service.rs", "use crate::session::{Prompt, Usage};", &[]);
}

/// A circle goes unseen only if these do.
#[test]
fn circles_are_found_through_doors_and_names_and_those_of_tests_are_none() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let sources = files.iter().map(|(path, text)| Source::new((*path).into(), (*text).into()));
        assert_eq!(circles(&sources.collect::<Vec<_>>()), expected, "{files:?}");
    };
    let door = ("backend/mod.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B;");
    let c = ("backend/c.rs", "use super::{A, B};");
    check(&[door, c, ("backend/a.rs", "use super::B;"), ("backend/b.rs", "")], &[]);
    check(
        &[door, c, ("backend/a.rs", "use super::B;"), ("backend/b.rs", "use crate::backend::A;")],
        &["backend/a.rs uses backend/b.rs", "backend/b.rs uses backend/a.rs"],
    );
    check(
        &[
            door,
            ("backend/a.rs", "use super::b; fn f() { b::g() }"),
            ("backend/b.rs", "fn g() { super::a::f() }"),
        ],
        &["backend/a.rs uses backend/b.rs", "backend/b.rs uses backend/a.rs"],
    );
    check(
        &[
            door,
            ("backend/a.rs", "#[cfg(test)] mod tests { use super::super::B; }"),
            ("backend/b.rs", "use super::A;"),
        ],
        &[],
    );
}

/// A file below `src`.
struct Source {
    path: PathBuf,
    text: String,
    /// Its module, from the crate's root.
    module: Vec<String>,
    names: Vec<Name>,
}

/// A path that stands in a file.
#[derive(Debug)]
struct Name {
    /// In which module it stands; files may have modules in them.
    within: Vec<String>,
    path: Vec<String>,
    kind: Kind,
    in_tests: bool,
}

#[derive(Debug, PartialEq)]
enum Kind {
    /// It is imported, under this name, and perhaps for others.
    Use {
        name: String,
        is_public: bool,
    },
    Other,
}

impl Source {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![root.clone()];
        let mut sources = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    sources.push(Self::new(path.strip_prefix(&root).unwrap().to_owned(), text));
                }
            }
        }
        assert!(sources.len() > 30, "{}", sources.len());
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    fn new(path: PathBuf, text: String) -> Self {
        let mut module: Vec<_> =
            path.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs").to_owned()).collect();
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&&**last)) {
            module.pop();
        }
        let is_test = module.iter().any(|part| part == "tests");
        let mut reader = Reader { within: module.clone(), in_tests: is_test, names: Vec::new() };
        reader.visit_file(
            &syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        );
        Self { path, text, module, names: reader.names }
    }

    /// `None`: it belongs to no room.
    fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// The part of the session room that it belongs to. `None`: it is the room's door, or in another room.
    fn part(&self) -> Option<&str> {
        self.module.get(1).filter(|_| self.room() == Some("session")).map(String::as_str)
    }

    /// The rooms and crates that it must not use, and does.
    fn violations(&self) -> Vec<String> {
        let Some(room) = self.room() else { return Vec::new() };
        let place = |room: &str| ROOMS.iter().position(|other| *other == room);
        let mut found = Vec::new();
        for name in &self.names {
            match name.absolute() {
                Some(path) => {
                    let other = path.first().map_or(room, String::as_str);
                    if place(other) > place(room) {
                        found.push(other.to_owned());
                    }
                }
                // A room's tests may play whoever it speaks with.
                None if self.path.iter().any(|part| part == "tests") => {}
                None => found.extend(name.private_part(room)),
            }
        }
        found
    }
}

impl Name {
    /// The path from the crate's root, where it says so itself.
    fn absolute(&self) -> Option<Vec<String>> {
        let supers = self.path.iter().take_while(|part| *part == "super").count();
        let (base, rest) = match self.path.first()?.as_str() {
            "crate" => (&[][..], &self.path[1..]),
            "self" => (&self.within[..], &self.path[1..]),
            "super" => (&self.within[..self.within.len().checked_sub(supers)?], &self.path[supers..]),
            _ => return None,
        };
        Some([base, rest].concat())
    }

    /// The beginning of a path that is a crate or module of others, or of a crate's family (`prost`, `prost_types`).
    fn private_part(&self, room: &str) -> Option<String> {
        let path = self.path.join("::");
        let mut private =
            PRIVATE.iter().filter(|(_, homes)| !homes.contains(&room)).flat_map(|(names, _)| *names);
        private.find_map(|name| match path.strip_prefix(name)?.chars().next() {
            None | Some(':') => Some((*name).to_owned()),
            Some('_') => Some(self.path[0].clone()),
            Some(_) => None,
        })
    }
}

/// Collects the paths of a file.
struct Reader {
    within: Vec<String>,
    in_tests: bool,
    names: Vec<Name>,
}

impl Reader {
    fn add(&mut self, path: Vec<String>, kind: Kind) {
        self.names.push(Name { within: self.within.clone(), path, kind, in_tests: self.in_tests });
    }

    fn add_use(&mut self, tree: &UseTree, path: &[String], is_public: bool) {
        let with = |ident: &Ident| [path, &[ident.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(tree) => return self.add_use(&tree.tree, &with(&tree.ident), is_public),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.add_use(tree, path, is_public));
            }
            UseTree::Glob(_) => (path.to_vec(), "*".into()),
            UseTree::Rename(tree) if tree.ident == "self" => (path.to_vec(), tree.rename.to_string()),
            UseTree::Rename(tree) => (with(&tree.ident), tree.rename.to_string()),
            UseTree::Name(tree) if tree.ident == "self" => {
                (path.to_vec(), path.last().cloned().unwrap_or_default())
            }
            UseTree::Name(tree) => (with(&tree.ident), tree.ident.to_string()),
        };
        self.add(path, Kind::Use { name, is_public });
    }
}

/// Whether something is there in tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|what| what == "test")
    })
}

impl Visit<'_> for Reader {
    fn visit_item(&mut self, item: &syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        let before = self.in_tests;
        self.in_tests |= is_for_tests(attributes);
        visit::visit_item(self, item);
        self.in_tests = before;
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        self.within.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.within.pop();
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    /// Who may see an item is no use of it.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        // One of a single part may be a variable; if not, it was imported.
        if path.segments.len() > 1 {
            self.add(path.segments.iter().map(|part| part.ident.to_string()).collect(), Kind::Other);
        }
        visit::visit_path(self, path);
    }

    /// Of what a macro is given only the paths can be read.
    fn visit_macro(&mut self, call: &Macro) {
        let tokens = call.tokens.to_string();
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == ' ';
        for run in tokens.split(|c| !is_part(c)).filter(|run| run.contains("::")) {
            // `a b :: c d`: what is joined by `::` is a path.
            let joined = run.replace(" :: ", "::");
            for path in joined.split(' ').filter(|word| word.contains("::")) {
                self.add(
                    path.split("::").filter(|part| !part.is_empty()).map(Into::into).collect(),
                    Kind::Other,
                );
            }
        }
        visit::visit_macro(self, call);
    }
}

/// Which files of the session room use which of parts above theirs.
fn upward(sources: &[Source]) -> Vec<String> {
    let modules = Modules::new(sources);
    let place = |part: &str| SESSION.iter().position(|other| *other == part);
    let mut found = BTreeSet::new();
    for source in sources {
        let Some(part) = source.part() else { continue };
        for used in modules.used_by(source) {
            if used.part().is_some_and(|other| place(other) > place(part)) {
                found.insert(format!("{} uses {}", source.path.display(), used.path.display()));
            }
        }
    }
    found.into_iter().collect()
}

/// The files that use each other in circles, or are between two circles: who uses whom.
fn circles(sources: &[Source]) -> Vec<String> {
    let modules = Modules::new(sources);
    let mut uses: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        let used = modules.used_by(source).map(|used| &used.path).filter(|used| **used != source.path);
        uses.entry(&source.path).or_default().extend(used);
    }
    // Whoever uses nobody is in no circle, and neither is who is used by nobody.
    loop {
        let all = uses.keys().copied().collect::<BTreeSet<_>>();
        let used: BTreeSet<_> = uses.values().flatten().copied().collect();
        for used in uses.values_mut() {
            used.retain(|used| all.contains(used));
        }
        let before = uses.len();
        uses.retain(|path, others| !others.is_empty() && used.contains(path));
        if uses.len() == before {
            break;
        }
    }
    let lines = uses.iter().flat_map(|(path, others)| {
        others.iter().map(move |other| format!("{} uses {}", path.display(), other.display()))
    });
    lines.collect()
}

/// All modules that are files.
struct Modules<'a>(BTreeMap<Vec<String>, &'a Source>);

impl<'a> Modules<'a> {
    fn new(sources: &'a [Source]) -> Self {
        Self(sources.iter().map(|source| (source.module.clone(), source)).collect())
    }

    /// The files that a file uses, but for its tests.
    fn used_by(&self, source: &'a Source) -> impl Iterator<Item = &'a Source> {
        let names = source.names.iter().filter(|name| !name.in_tests);
        // What a door passes on it does not use.
        let names = names.filter(|name| !matches!(name.kind, Kind::Use { is_public: true, .. }));
        names.filter_map(|name| self.home_of(source, &name.within, &name.path, 0))
    }

    /// The file in which that is defined which `path` leads to, if it is one of the crate's.
    fn home_of(
        &self,
        source: &'a Source,
        within: &[String],
        path: &[String],
        depth: usize,
    ) -> Option<&'a Source> {
        let path = self.absolute(source, within, path, depth)?;
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let home = self.0[&path[..length]];
        let Some(item) = path.get(length) else { return Some(home) };
        // It may only be passed on from there, or be known there.
        let imports = home.names.iter().filter(|name| !name.in_tests);
        let import =
            imports.into_iter().find(|name| matches!(&name.kind, Kind::Use { name, .. } if name == item));
        let further = import.and_then(|import| self.home_of(home, &import.within, &import.path, depth + 1));
        Some(further.unwrap_or(home))
    }

    fn absolute(
        &self,
        source: &Source,
        within: &[String],
        path: &[String],
        depth: usize,
    ) -> Option<Vec<String>> {
        // Names that lead to themselves lead nowhere.
        if depth > 5 {
            return None;
        }
        let name = Name { within: within.to_vec(), path: path.to_vec(), kind: Kind::Other, in_tests: false };
        if let Some(path) = name.absolute() {
            return Some(path);
        }
        let (first, rest) = path.split_first()?;
        let child = [within, std::slice::from_ref(first)].concat();
        if self.0.contains_key(&child) {
            return Some([&child[..], rest].concat());
        }
        let import = source.names.iter().find(|name| {
            matches!(&name.kind, Kind::Use { name, .. } if name == first)
                && name.path != path
                && !name.in_tests
        })?;
        let import = self.absolute(source, &import.within, &import.path, depth + 1)?;
        Some([&import[..], rest].concat())
    }
}
