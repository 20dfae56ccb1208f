//! With PostgreSQL, the disk of a server may be lost: what was answered is in the archive.

use std::time::Duration;

use copilot_grpc::grpc::pb::{CloseSessionRequest, ErrorReason, ForkSessionRequest};
use tokio::time::sleep;
use tonic::Code;

use super::installation::{
    Engine, Installation, create, get, history, listed, loaded_in, lose, script, send, send_named,
};
use crate::support::{check, soon};

#[tokio::test]
async fn histories_outlive_the_disk_and_turns_go_on_with_the_whole_conversation() {
    let installation = Installation::new(Engine::Postgres, script).await;
    let mut said: Vec<String> = Vec::new();
    let ids = ["a", "b", "c", "silent"];
    for life in 0..3 {
        let server = installation.start().await;
        let mut client = server.client().await;
        if life == 0 {
            for id in ids {
                create(&mut client, id).await;
            }
        }
        for n in 0..3 {
            said.push(format!("{life}.{n}"));
            for id in &ids[..3] {
                let answer = send(&mut client, id, said.last().unwrap()).await.unwrap();
                assert_eq!(answer.content, format!("prompts: {}", said.join(", ")));
            }
        }
        installation.lose_disk_of(server).await;
    }
    let server = installation.start().await;
    let mut client = server.client().await;
    assert_eq!(listed(&mut client).await, ids);
    for id in &ids[..3] {
        let told = history(&mut client, id).await.unwrap();
        let prompts: Vec<_> = told.iter().filter_map(|line| line.strip_prefix("> ")).collect();
        assert_eq!((prompts, told.len()), (said.iter().map(String::as_str).collect(), 2 * said.len()));
    }
    assert_eq!(history(&mut client, "silent").await.unwrap(), Vec::<String>::new());
    assert_eq!(send(&mut client, "silent", "first").await.unwrap().content, "prompts: first");
}

#[tokio::test]
async fn a_long_turn_goes_into_the_archive_while_it_runs() {
    let installation = Installation::new(Engine::Postgres, script).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    let before = installation.archived("s").await;
    let mut sender = client.clone();
    let hanging = tokio::spawn(async move { send(&mut sender, "s", "hang").await });
    soon("the archive", async {
        while installation.archived("s").await == before {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    installation.lose_disk_of(server).await;
    hanging.await.unwrap().unwrap_err();
    let server = installation.start().await;
    let mut client = server.client().await;
    let prompts = history(&mut client, "s").await.unwrap();
    assert_eq!(prompts.iter().filter(|line| line.starts_with("> ")).collect::<Vec<_>>(), ["> one", "> hang"]);
}

#[tokio::test]
async fn a_fork_that_nobody_has_spoken_in_outlives_the_disk() {
    let installation = Installation::new(Engine::Postgres, script).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    let request = ForkSessionRequest { session_id: "s".into(), ..Default::default() };
    let copy = client.fork_session(request).await.unwrap().into_inner().session.unwrap().session_id;
    installation.lose_disk_of(server).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    assert_eq!(history(&mut client, &copy).await.unwrap(), ["> one", "prompts: one"]);
    assert_eq!(send(&mut client, &copy, "two").await.unwrap().content, "prompts: one, two");
}

#[tokio::test]
async fn what_moved_between_clis_before_the_disk_was_lost_is_there_too() {
    let installation = Installation::new(Engine::Postgres, script).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    send(&mut client, "s", "one").await.unwrap();
    client.close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap();
    send(&mut client, "s", "two").await.unwrap();
    let home = loaded_in(&mut client).await;
    installation.keep_down();
    lose(&server, &mut client, &home).await;
    assert_eq!(send(&mut client, "s", "three").await.unwrap().content, "prompts: one, two, three");
    installation.lose_disk_of(server).await;
    installation.let_up();
    let server = installation.start().await;
    let mut client = server.client().await;
    assert_eq!(send(&mut client, "s", "four").await.unwrap().content, "prompts: one, two, three, four");
}

#[tokio::test]
async fn without_an_archive_a_lost_disk_is_told_and_nothing_is_made_up() {
    let installation = Installation::new(Engine::Postgres, script).await.flag("--archive=off");
    let server = installation.start().await;
    let mut client = server.client().await;
    create(&mut client, "s").await;
    // What comes of a request with an id is recorded before it is answered.
    send_named(&mut client, "s", "r", "one").await.unwrap();
    installation.lose_disk_of(server).await;
    let server = installation.start().await;
    let mut client = server.client().await;
    assert_eq!(get(&mut client, "s").await.unwrap().session_id, "s");
    let lost = send(&mut client, "s", "two").await.unwrap_err();
    // It is known, and yet it cannot go on: it must not begin anew as if nothing had been said.
    check(&lost, Code::Unavailable, ErrorReason::BackendUnavailable);
}
