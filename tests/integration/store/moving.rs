//! A session moves to another CLI of its server when its own is lost, with all that was said in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use copilot_grpc::grpc::pb::{BackendStanding, CreateSessionRequest, ErrorReason};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::installation::{
    Client, all_ready, backends, create, create_with, history, loaded_in, lose, on_both, script, send,
};
use crate::support::{reason_of, soon};

#[tokio::test]
async fn a_session_goes_where_there_is_room_when_its_cli_has_none() {
    on_both(script, async |installation| {
        let installation = installation.flag("--max-running-turns=1").flag("--max-waiting-turns=0");
        let server = installation.start().await;
        let mut client = server.client().await;
        let ids: Vec<_> = (0..4).map(|n| format!("s{n}")).collect();
        for id in &ids {
            create(&mut client, id).await;
            assert_eq!(send(&mut client, id, "0").await.unwrap().content, "prompts: 0");
        }
        // Two of four are in one CLI of three; whichever they are, two turns at once find room.
        for id in &ids {
            let (mut other, slow) = (server.client().await, id.clone());
            let running = tokio::spawn(async move { send(&mut other, &slow, "slow").await });
            soon("the turn runs", async {
                while !backends(&mut client).await.iter().any(|backend| backend.running_turns > 0) {}
            })
            .await;
            for next in ids.iter().filter(|next| *next != id) {
                assert!(send(&mut client, next, "next").await.unwrap().content.ends_with("next"));
            }
            running.await.unwrap().unwrap();
        }
    })
    .await;
}

/// How long a session may be out of reach when its CLI is lost.
const MOVE: Duration = Duration::from_secs(2);

/// Sends a prompt as a caller does, who repeats what was surely not delivered.
async fn insist(client: &mut Client, id: &str, text: &str) -> String {
    let unavailable = ErrorReason::BackendUnavailable.as_str_name().trim_start_matches("ERROR_REASON_");
    let is_repeated = |status: &Status| reason_of(status) == unavailable;
    soon("an answer", async {
        loop {
            match send(client, id, text).await {
                Ok(result) => return result.content,
                Err(status) if is_repeated(&status) => sleep(Duration::from_millis(20)).await,
                Err(status) => panic!("{status:?}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_session_whose_cli_is_killed_answers_on_another_within_two_seconds() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        let mut said = vec!["0".to_owned()];
        send(&mut client, "s", "0").await.unwrap();
        let mut fastest = Duration::MAX;
        // A busy machine can be slow for a while.
        for n in 1..9 {
            let lost = loaded_in(&mut client).await;
            installation.keep_down();
            let began = Instant::now();
            lose(&server, &mut client, &lost).await;
            said.push(n.to_string());
            let answer = insist(&mut client, "s", &n.to_string()).await;
            fastest = fastest.min(began.elapsed());
            assert_eq!(answer, format!("prompts: {}", said.join(", ")));
            assert_ne!(loaded_in(&mut client).await, lost);
            installation.let_up();
            all_ready(&mut client).await;
            if n > 2 && fastest < MOVE {
                break;
            }
        }
        assert!(fastest < MOVE, "{:?}: it took {fastest:?} at best", installation.engine);
    })
    .await;
}

#[tokio::test]
async fn a_session_without_a_message_is_made_on_another_cli_when_its_own_is_lost() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        let request =
            CreateSessionRequest { session_id: "s".into(), model: "mine".into(), ..Default::default() };
        create_with(&mut client, request).await.unwrap();
        let lost = loaded_in(&mut client).await;
        installation.keep_down();
        lose(&server, &mut client, &lost).await;
        assert_eq!(insist(&mut client, "s", "first").await, "prompts: first");
        assert_eq!(installation.model.calls().pop().unwrap().request.model, "mine");
    })
    .await;
}

#[tokio::test]
async fn a_cli_that_comes_back_with_an_older_folder_gets_the_newer() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        let (mut said, mut homes) = (Vec::new(), Vec::new());
        // Three CLIs: after so many losses it has been in one of them twice.
        for n in 0..5 {
            said.push(n.to_string());
            let answer = insist(&mut client, "s", &n.to_string()).await;
            assert_eq!(answer, format!("prompts: {}", said.join(", ")), "in {homes:?}");
            all_ready(&mut client).await;
            homes.push(loaded_in(&mut client).await);
            installation.keep_down();
            lose(&server, &mut client, homes.last().unwrap()).await;
            // It has to move before its own is back.
            said.push(format!("{n} more"));
            insist(&mut client, "s", &format!("{n} more")).await;
            homes.push(loaded_in(&mut client).await);
            installation.let_up();
        }
        homes.dedup();
        let again = (0..homes.len()).any(|place| homes[..place].contains(&homes[place]));
        assert!(again, "it has never come back: {homes:?}");
        let told = history(&mut client, "s").await.unwrap();
        let prompts: Vec<_> = told.iter().filter_map(|line| line.strip_prefix("> ")).collect();
        assert_eq!(prompts, said);
    })
    .await;
}

#[tokio::test]
async fn a_session_leaves_a_cli_that_drains_with_its_next_turn() {
    on_both(script, async |installation| {
        let list = installation.file("drain", "");
        let installation = installation.flag(format!("--drain-file={}", list.display()));
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        send(&mut client, "s", "one").await.unwrap();
        let drained = loaded_in(&mut client).await;
        installation.file("drain", &drained);
        soon("it drains", async {
            let standing = BackendStanding::Draining;
            while !backends(&mut client).await.iter().any(|backend| backend.standing() == standing) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(send(&mut client, "s", "two").await.unwrap().content, "prompts: one, two");
        assert_ne!(loaded_in(&mut client).await, drained);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_too_large_for_the_archive_moves_with_its_session() {
    on_both(script, async |installation| {
        let installation = installation.flag("--max-session-file-size=64KiB");
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        send(&mut client, "s", "find me here").await.unwrap();
        let history = |path: &Path| path.ends_with("session-state/s/events.jsonl");
        let place =
            || installation.files_with("find me here").into_iter().find(|path| history(path)).unwrap();
        let large = |events: PathBuf| events.with_file_name("files").join("large");
        let before = large(place());
        fs::create_dir_all(before.parent().unwrap()).unwrap();
        fs::write(&before, "x".repeat(100 * 1024)).unwrap();
        let lost = loaded_in(&mut client).await;
        installation.keep_down();
        lose(&server, &mut client, &lost).await;
        insist(&mut client, "s", "and on").await;
        let after = large(place());
        assert_ne!(before, after);
        assert_eq!(fs::metadata(after).unwrap().len(), 100 * 1024);
        assert!(!before.exists(), "the old copy goes");
    })
    .await;
}
