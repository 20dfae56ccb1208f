//! What goes with a prompt reaches the model: texts, selections, files, images, headers; on the real CLI.

use std::collections::BTreeMap;

use copilot_grpc::grpc::pb::{
    Attachment, Prompt, TurnResult,
    attachment::{Blob, Directory, File, Kind, Position, Selection},
};
use scripted_model::{Reply, Request};

use crate::support::{
    facade::{TestFacade, prompt, wait_with},
    real_cli::RealCli,
    soon,
};

async fn start() -> (RealCli, TestFacade) {
    let cli = RealCli::start(|_| Reply::text("fine")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    (cli, facade)
}

async fn send(facade: &TestFacade, kinds: Vec<Kind>) -> TurnResult {
    let attachments = kinds.into_iter().map(|kind| Attachment { kind: Some(kind) }).collect();
    let request = wait_with("s", Prompt { attachments, ..prompt("look at this") });
    soon("a turn", facade.send_and_wait(request)).await.unwrap()
}

/// The whole of what the model was last sent.
fn sent(cli: &RealCli) -> String {
    let asked: std::sync::Arc<Request> = cli.model.calls().last().unwrap().request.clone();
    asked.body["messages"].to_string()
}

fn blob(data: &[u8], mime_type: &str) -> Kind {
    Kind::Blob(Blob { data: data.into(), mime_type: mime_type.into(), display_name: "note".into() })
}

#[tokio::test]
async fn a_text_that_goes_with_a_prompt_is_read_by_the_model() {
    let (cli, facade) = start().await;
    send(&facade, vec![blob("The password is swordfish.".as_bytes(), "text/plain")]).await;
    assert!(sent(&cli).contains("The password is swordfish."), "{}", sent(&cli));
}

#[tokio::test]
async fn a_selection_is_read_by_the_model() {
    let (cli, facade) = start().await;
    let selection = Selection {
        file_path: "/src/main.rs".into(),
        text: "fn answer() -> u8 { 42 }".into(),
        start: Some(Position { line: 6, character: 0 }),
        end: Some(Position { line: 6, character: 24 }),
        display_name: String::new(),
    };
    send(&facade, vec![Kind::Selection(selection)]).await;
    assert!(sent(&cli).contains("fn answer() -> u8 { 42 }"), "{}", sent(&cli));
}

#[tokio::test]
async fn of_files_and_folders_the_model_is_told() {
    let (cli, facade) = start().await;
    let (elsewhere, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("notes.txt");
    std::fs::write(&file, "hello").unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let kinds = vec![
        Kind::File(File { path: path(&file), display_name: String::new() }),
        Kind::Directory(Directory { path: path(folder.path()), display_name: String::new() }),
    ];
    send(&facade, kinds).await;
    for place in [path(&file), path(folder.path())] {
        assert!(sent(&cli).contains(&place), "{place} is not in {}", sent(&cli));
    }
}

#[tokio::test]
async fn an_image_that_the_model_cannot_take_does_not_fail_the_turn() {
    let (_cli, facade) = start().await;
    let pixel: &[u8] = b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\0;";
    assert_eq!(send(&facade, vec![blob(pixel, "image/gif")]).await.content, "fine");
    assert_eq!(send(&facade, vec![blob(b"?", "application/x-unknown")]).await.content, "fine");
}

#[tokio::test]
async fn headers_of_a_prompt_reach_its_model_calls_and_no_others() {
    let (cli, facade) = start().await;
    let request_headers = BTreeMap::from([("x-tenant".into(), "blue".into())]);
    let request = wait_with("s", Prompt { request_headers, ..prompt("with a header") });
    soon("a turn", facade.send_and_wait(request)).await.unwrap();
    soon("a turn", facade.send("s", "without")).await.unwrap();
    let headers: Vec<_> =
        cli.model.calls().iter().map(|call| call.request.headers.get("x-tenant").cloned()).collect();
    assert_eq!(headers, [Some("blue".into()), None]);
}
