//! What a stranger does: the commands of each page in docs/guide/clients, pasted in a folder with nothing but what is published.

use std::{env, fs, path::Path, time::Duration};

use scripted_model::ModelServer;
use tempfile::TempDir;
use tokio::{process::Command, time::Instant};

use super::{is_here, on_loopback, run, run_within, serving, tell};
use crate::{
    docs::blocks,
    support::{
        programs::{go_tools, root},
        server::PROGRAM,
    },
};

/// What is published.
const PUBLISHED: [&str; 5] = ["proto", "examples", "clients", "buf.yaml", "buf.gen.yaml"];

/// How long the commands of a page may take, which fetch and build.
const A_WHILE: Duration = Duration::from_secs(900);

/// A folder with what is published, as it is in the repository.
async fn published() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).args(PUBLISHED).current_dir(root());
    let listed = run(on_loopback(list)).await;
    assert_eq!(listed.status, Some(0), "{listed:#?}");
    // What is deleted and not yet committed is listed, too.
    for file in listed.out.lines().map(Path::new).filter(|file| root().join(file).exists()) {
        let copy = folder.path().join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(root().join(file), copy).unwrap();
    }
    folder
}

/// Pastes the commands of a page, if what builds its language is here, and gives what they printed.
async fn paste(page: &str) -> Option<String> {
    if !is_here(page).await {
        return None;
    }
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = serving(&model).await;
    let folder = published().await;
    let text = fs::read_to_string(root().join(format!("docs/guide/clients/{page}.md"))).unwrap();
    let commands = blocks(&text, "sh").concat().replace("127.0.0.1:50051", server.address());
    assert!(commands.contains(server.address()), "{page}: {commands}");
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &commands]).current_dir(folder.path()).env("PATH", path().await);
    // What the scripts have fetched and built already is not fetched and built again.
    let ours = root().join("target/clients");
    shell.env("CARGO_TARGET_DIR", ours.join("rust")).env("GOCACHE", root().join("target/go/cache"));
    shell.env("MAVEN_OPTS", format!("-Dmaven.repo.local={}", ours.join("java/repository").display()));
    let began = Instant::now();
    let ended = run_within(A_WHILE, on_loopback(shell)).await;
    assert_eq!(ended.status, Some(0), "{page}: {ended:#?}");
    tell(&format!("docs/guide/clients/{page}.md: its commands took {} s", began.elapsed().as_secs()));
    Some(ended.out)
}

/// With the tools in it that the pages use, as if they were installed.
async fn path() -> std::ffi::OsString {
    let ours = [
        root().join("target/clients/tools"),
        go_tools().await.to_owned(),
        root().join("node_modules/.bin"),
        Path::new(PROGRAM).parent().unwrap().to_owned(),
    ];
    let path = env::var_os("PATH").unwrap();
    env::join_paths(ours.into_iter().chain(env::split_paths(&path))).unwrap()
}

/// The commands of a page end in an answer that is streamed.
macro_rules! pages {
    ($($test:ident: $page:literal),* $(,)?) => {$(
        #[tokio::test]
        #[ignore = "it fetches and builds; `make test-clients` runs it"]
        async fn $test() {
            if let Some(out) = paste($page).await {
                assert!(out.contains("You said: hello"), "{out}");
            }
        }
    )*};
}

pages! {
    the_commands_of_the_page_for_cpp_end_in_an_answer: "cpp",
    the_commands_of_the_page_for_go_end_in_an_answer: "go",
    the_commands_of_the_page_for_java_end_in_an_answer: "java",
    the_commands_of_the_page_for_python_end_in_an_answer: "python",
    the_commands_of_the_page_for_ruby_end_in_an_answer: "ruby",
    the_commands_of_the_page_for_rust_end_in_an_answer: "rust",
    the_commands_of_the_page_for_typescript_end_in_an_answer: "typescript",
    the_commands_of_the_page_for_tools_end_in_an_answer: "tools",
}
