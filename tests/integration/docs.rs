//! The README and the book can be believed: commands give the answers that stand there, programs run, links lead somewhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use scripted_model::ModelServer;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    programs::{go_client, go_tools, python, root},
    server::Server,
    soon,
};

#[tokio::test]
async fn the_commands_of_the_readme_give_the_answers_that_stand_there() {
    let tools = go_tools().await;
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = Server::start(&model).await;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let steps: Vec<_> = blocks(&readme, "console").iter().flat_map(|block| steps(block)).collect();
    assert!(steps.len() >= 3, "{steps:?}");
    for (command, expected) in steps {
        let command = command.replace("localhost:50051", server.address());
        let said = run(Command::new("bash").args(["-c", &command]).env("PATH", &path)).await;
        let (expected, is_whole) = match expected.strip_suffix("...\n") {
            Some(beginning) => (beginning, false),
            None => (expected.as_str(), true),
        };
        let said = said.lines().map(steady).collect::<Vec<_>>();
        let expected = expected.lines().map(steady).collect::<Vec<_>>();
        let compared = if is_whole { &said[..] } else { &said[..expected.len().min(said.len())] };
        assert_eq!(compared, expected, "{command}");
    }
}

#[tokio::test]
async fn the_program_in_python_of_the_readme_runs() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("readme.py");
    runs("python", &program, |code| code, Command::new(python().await).arg(&program)).await;
}

#[tokio::test]
async fn the_program_in_go_of_the_readme_runs() {
    go_client().await;
    let module = root().join("target/go/src/github.com/copilot-grpc/copilot-grpc/clients/go");
    let folder = module.join("readme");
    fs::create_dir_all(&folder).unwrap();
    let around = |code: String| {
        format!(
            r#"package main

import (
	"context"
	"fmt"
	"log"
	"time"

	pb "github.com/copilot-grpc/copilot-grpc/clients/go/copilot_grpc/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {{
{code}
}}
"#
        )
    };
    let mut go = Command::new("go");
    go.args(["run", "./readme"]).current_dir(&module).env("GOCACHE", root().join("target/go/cache"));
    runs("go", &folder.join("main.go"), around, &mut go).await;
}

#[tokio::test]
async fn the_program_in_typescript_of_the_readme_runs() {
    // Below the repository, where Node finds the packages.
    let folder = TempDir::new_in(root().join("target")).unwrap();
    let plugin = root().join("node_modules/.bin/protoc-gen-es");
    let template = serde_json::json!({"version": "v2", "plugins": [{
        "local": plugin, "out": folder.path().join("gen"), "opt": ["target=js", "import_extension=js"],
    }]});
    let mut buf = Command::new(root().join("node_modules/.bin/buf"));
    run(buf.current_dir(root()).args(["generate", "--template", &template.to_string()])).await;
    // What stands there is JavaScript, too, which Node 20 can read.
    let program = folder.path().join("readme.mjs");
    runs("ts", &program, |code| code, Command::new("node").arg(&program)).await;
}

/// Runs the README's program in a language, in front of a server with the demo model.
async fn runs(language: &str, file: &Path, around: impl FnOnce(String) -> String, program: &mut Command) {
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = Server::start(&model).await;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let [code] = &blocks(&readme, language)[..] else { panic!("one program in {language}") };
    fs::write(file, around(code.replace("localhost:50051", server.address()))).unwrap();
    let said = run(program).await;
    assert!(said.contains("You said: hello. I am a demo model"), "{said}");
}

/// What a program prints.
async fn run(program: &mut Command) -> String {
    let output = soon("its end", program.stdin(Stdio::null()).kill_on_drop(true).output()).await.unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The code blocks of a language.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut rest = text;
    let mut found = Vec::new();
    while let Some((_, after)) = rest.split_once(&format!("\n```{language}\n")) {
        let (block, after) = after.split_once("\n```\n").unwrap();
        found.push(format!("{block}\n"));
        rest = after;
    }
    found
}

/// The commands of a block, each with what it prints.
fn steps(block: &str) -> Vec<(String, String)> {
    let block = block.replace("\\\n", "");
    let steps = block.split("$ ").skip(1).map(|step| step.split_once('\n').unwrap());
    steps.map(|(command, said)| (command.into(), said.into())).collect()
}

/// A line without what is another one each time or in each place: ids, times, folders, models.
fn steady(line: &str) -> String {
    let changing = ["createTime", "updateTime", "workingDirectory", "model", "messageId", "eventId"];
    let is_changing = changing.iter().any(|name| line.trim_start().starts_with(&format!("\"{name}\"")));
    let line = line.split(" finish within ").next().unwrap();
    if is_changing { line.split(':').next().unwrap().into() } else { line.trim_end().into() }
}

/// All Markdown files of the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["docs", "tests", ".github", "examples"].map(|name| root().join(name)).into();
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    found.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The text of a page without its code blocks.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    text.split("\n```").step_by(2).collect()
}

/// The anchors that headings have on a forge.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        })
        .collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_that_are_there() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = prose(&page);
        for target in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
        {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_there = file.exists() && (anchor.is_empty() || anchors(&file).contains(anchor));
            if !is_there {
                dead.push(format!("{}: {target}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert_eq!(dead, Vec::<String>::new());
}

#[test]
fn every_page_of_the_book_is_in_its_index() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for page in
        pages().into_iter().filter_map(|page| Some(page.strip_prefix(root().join("docs")).ok()?.to_owned()))
    {
        let is_there = page == Path::new("README.md") || index.contains(&format!("({})", page.display()));
        assert!(is_there, "{}", page.display());
    }
}

/// Words that others have taken the place of; docs/contributing/glossary.md has both.
const OLD_WORDS: [&str; 17] = [
    "adrift",
    "blow",
    "card",
    "catalogue",
    "deaf",
    "ear",
    "face",
    "foremost",
    "hearing",
    "janitor",
    "landed",
    "lane",
    "replay",
    "shelf",
    "stock",
    "story",
    "vitals",
];

/// Those of them that the session room still uses for its lists, and the test of its order, until sessions are in a store.
const OF_LISTS: [&str; 6] = ["card", "catalogue", "face", "foremost", "shelf", "stock"];

#[test]
fn nobody_uses_the_old_words() {
    let mut folders = vec![root().join("src"), root().join("tests/integration"), root().join("proto")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            // That part goes when sessions are in a store, and this file has all of the words.
            if path == root().join("src/session/catalogue") || path.ends_with("integration/docs.rs") {
                continue;
            }
            let has_lists =
                path.starts_with(root().join("src/session")) || path.ends_with("integration/architecture.rs");
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for (number, line) in text.lines().enumerate() {
                let line = line.to_lowercase();
                let mut words = line.split(|c: char| !c.is_alphabetic());
                if let Some(word) =
                    words.find(|word| OLD_WORDS.contains(word) && !(has_lists && OF_LISTS.contains(word)))
                {
                    found.push(format!(
                        "{}:{}: {word}",
                        path.strip_prefix(root()).unwrap().display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}
