use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::{
    native::{PROGRAM, head_of_this_machine},
    *,
};

const AUTO: Wanted = Wanted::Auto;
const NATIVE: Wanted = Wanted::Only(Form::Native);
const NODE: Wanted = Wanted::Only(Form::Node);

/// A folder with files in it; a name that ends in `*` is executable.
fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in files {
        let path = dir.path().join(name.trim_end_matches('*'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, head_of_this_machine()).unwrap();
        let mode = if name.ends_with('*') { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    dir
}

/// The Node CLI of this platform.
fn node() -> String {
    format!("node_modules/@github/copilot-{}/copilot", PLATFORMS[0])
}

/// The package of the native runtime, and the path of the program in it.
fn package(platform: &str) -> (String, String) {
    (format!("node_modules/@github/copilot-sdk-{platform}"), format!("prebuilds/{platform}/{PROGRAM}"))
}

/// Puts the native runtime into a folder, and returns its program.
fn install_native(root: &Path, version: &str) -> PathBuf {
    install_native_of(PLATFORMS[0], root, version)
}

/// Puts the native runtime of another platform into a folder, and returns its program.
fn install_native_of(platform: &str, root: &Path, version: &str) -> PathBuf {
    let (package, program) = package(platform);
    let (package, program) = (root.join(&package), root.join(package).join(program));
    for part in ["ripgrep", "definitions"] {
        fs::create_dir_all(package.join(part)).unwrap();
    }
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(package.join("package.json"), format!("{{\"version\": \"{version}\"}}")).unwrap();
    fs::write(program.with_file_name("runtime.node"), "library").unwrap();
    fs::write(&program, head_of_this_machine()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// What is found with `bin` on the PATH and the roots `a` and `b`.
fn look(wanted: Wanted, dir: &Path) -> Result<Found, NotFound> {
    let at = |name: &str| dir.join(name);
    let env_path = env::join_paths([at("empty"), at("bin")]).unwrap();
    find(wanted, &Places { given: None, env_path: Some(&env_path), roots: &[at("a"), at("b")] })
}

fn look_given(wanted: Wanted, path: &Path) -> Result<Found, NotFound> {
    find(wanted, &Places { given: Some(path), ..Places::default() })
}

/// Checks which of `files` is found.
fn check(files: &[&str], expected: &str) {
    let dir = tree(files);
    let found = look(AUTO, dir.path()).unwrap();
    assert_eq!((found.path, found.form, found.remark), (dir.path().join(expected), Form::Node, None));
}

#[test]
fn path_comes_first_then_each_roots_binary_then_its_script() {
    let (a, b) = (format!("a/{}", node()), format!("b/{}", node()));
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
    let beside = format!("lib/{}", node());
    let inside = format!("lib/node_modules/@github/copilot/{}", node());
    let check = |binary: Option<&str>, expected: &str| {
        let binary = binary.map(|name| format!("{name}*"));
        let dir = tree(&[&format!("{script}*"), "bin/node", binary.as_deref().unwrap_or("other")]);
        let root = dir.path().canonicalize().unwrap();
        symlink(root.join(script), root.join("bin/copilot")).unwrap();
        assert_eq!(look(NODE, &root).unwrap().path, root.join(expected));
    };
    check(Some(&beside), &beside);
    check(Some(&inside), &inside);
    check(None, "bin/copilot");
}

#[test]
fn what_cannot_be_run_is_passed_over() {
    let b = format!("b/{}", node());
    check(&["bin/copilot", &format!("a/{}", node()), &format!("{b}*")], &b);
    check(&["bin/copilot/copilot*", &format!("{b}*")], &b);
}

#[test]
fn the_native_runtime_is_taken_where_it_is_installed_and_the_other_form_where_that_is_wanted() {
    let dir = tree(&[&format!("b/{}*", node())]);
    let native = install_native(&dir.path().join("b"), "1.0.14").canonicalize().unwrap();
    let found = |form, path| Ok(Found { path, form, remark: None });
    assert_eq!(look(AUTO, dir.path()), found(Form::Native, native.clone()));
    assert_eq!(look(NATIVE, dir.path()), found(Form::Native, native.clone()));
    assert_eq!(look(NODE, dir.path()), found(Form::Node, dir.path().join("b").join(node())));
    assert_eq!(look_given(AUTO, &native), found(Form::Native, native));
}

#[test]
fn packages_for_each_c_library_are_found() {
    for platform in PLATFORMS {
        let dir = tree(&[]);
        let native = install_native_of(platform, &dir.path().join("a"), "1.0.14").canonicalize().unwrap();
        assert_eq!(look(AUTO, dir.path()).unwrap().path, native);
    }
    let dir = tree(&[]);
    install_native_of("win32-x64", &dir.path().join("a"), "1.0.14");
    assert!(matches!(look(AUTO, dir.path()), Err(NotFound::Nowhere { .. })));
}

#[test]
fn a_link_on_the_path_leads_to_the_package() {
    let dir = tree(&["bin/copilot*"]);
    let native = install_native(&dir.path().join("lib"), "1.0.15-preview.4").canonicalize().unwrap();
    symlink(&native, dir.path().join("bin").join(PROGRAM)).unwrap();
    let found = look(AUTO, dir.path()).unwrap();
    assert_eq!((&found.path, found.form), (&native, Form::Native));
    // Both are there: it is said which one is not taken, and how it would be.
    let remark = found.remark.unwrap();
    assert!(remark.contains("bin/copilot") && remark.contains("--cli=node"), "{remark}");
    assert_eq!(look(NATIVE, dir.path()).unwrap().remark, None);
}

/// A fault of a native runtime: how to cause it, and words of the message about it.
type Fault = (fn(&Path), &'static [&'static str]);

const FAULTS: &[Fault] = &[
    (
        |it| fs::remove_file(it.with_file_name("runtime.node")).unwrap(),
        &["half installed", "runtime.node", "npm install"],
    ),
    (
        |it| fs::write(it.with_file_name("runtime.node"), "").unwrap(),
        &["half installed", "runtime.node", "npm install"],
    ),
    (
        |it| fs::remove_dir(it.ancestors().nth(3).unwrap().join("ripgrep")).unwrap(),
        &["half installed", "ripgrep", "npm install"],
    ),
    (
        |it| fs::set_permissions(it, fs::Permissions::from_mode(0o644)).unwrap(),
        &["not an executable file", "chmod +x"],
    ),
    (|it| fs::write(it, [7; 100]).unwrap(), &["another platform", "npm install"]),
    (
        |it| {
            fs::write(it.ancestors().nth(3).unwrap().join("package.json"), r#"{"version": "1.0.13"}"#)
                .unwrap()
        },
        &["1.0.13", "1.0.14 is needed", "npm install @github/copilot-sdk-"],
    ),
];

#[test]
fn a_native_runtime_that_cannot_be_run_is_told_of_with_what_mends_it() {
    for (number, (spoil, words)) in FAULTS.iter().enumerate() {
        let dir = tree(&[]);
        let native = install_native(&dir.path().join("a"), "1.0.14");
        spoil(&native);
        let told = |text: &str| {
            assert!(
                words.iter().all(|word| text.contains(word)) && text.contains(PROGRAM),
                "fault {number}: {text}"
            );
        };
        for refused in [look(AUTO, dir.path()), look(NATIVE, dir.path()), look_given(NATIVE, &native)] {
            match refused {
                // A path that was given has an error of its own for this.
                Err(NotFound::GivenNotExecutable(path)) => assert_eq!(path, native),
                refused => told(&refused.unwrap_err().to_string()),
            }
        }
        // Where the Node CLI is there, it serves, and the message is its remark.
        let copilot = dir.path().join("bin/copilot");
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(&copilot, "").unwrap();
        fs::set_permissions(&copilot, fs::Permissions::from_mode(0o755)).unwrap();
        let found = look(AUTO, dir.path()).unwrap();
        assert_eq!((found.path, found.form), (copilot, Form::Node));
        told(&found.remark.unwrap());
    }
}

#[test]
fn a_given_path_is_never_replaced() {
    let dir = tree(&["bin/copilot*", "given", "good*"]);
    let at = |name: &str| dir.path().join(name);
    let look = |name| look_given(AUTO, &at(name)).map(|found| found.path);
    assert_eq!(look("good"), Ok(at("good")));
    assert_eq!(look("absent"), Err(NotFound::GivenMissing(at("absent"))));
    assert_eq!(look("given"), Err(NotFound::GivenNotExecutable(at("given"))));
    assert_eq!(look("bin"), Err(NotFound::GivenNotExecutable(at("bin"))));
    let other = look_given(NATIVE, &at("good")).unwrap_err();
    assert_eq!(other, NotFound::GivenOther { path: at("good"), form: Form::Node });
}

#[test]
fn a_vain_search_says_where_it_looked_and_what_to_do() {
    let root = tree(&[]);
    let (package, program) = package(PLATFORMS[0]);
    let native = format!("{package}/{program}");
    let search = |wanted| {
        let places = Places {
            env_path: Some(OsStr::new("/nowhere/bin")),
            roots: &[root.path().to_owned()],
            ..Places::default()
        };
        find(wanted, &places).unwrap_err().to_string()
    };
    let check = |wanted, told: &[&str], not_told: &[&str]| {
        let error = search(wanted);
        told.iter().for_each(|part| assert!(error.contains(part), "{part} is not in {error}"));
        not_told.iter().for_each(|part| assert!(!error.contains(part), "{part} is in {error}"));
    };
    let node = [&*node(), ".bin/copilot", "/nowhere/bin/copilot\n"];
    let native = [&*native, "/nowhere/bin/copilot-runtime"];
    check(AUTO, &[&node[..], &native, &["npm ci", "--cli-path"]].concat(), &[]);
    check(NATIVE, &native, &node);
    check(NODE, &node, &native);
}

#[test]
fn relative_entries_of_path_are_not_searched() {
    let looked = |env_path| find(AUTO, &Places { env_path, ..Places::default() });
    let nowhere = Err(NotFound::Nowhere { wanted: AUTO, looked: vec![] });
    assert_eq!(looked(Some(OsStr::new(":.:bin"))), nowhere);
    assert_eq!(looked(None), nowhere);
}
