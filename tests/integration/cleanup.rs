//! Sessions that are idle, old or too many are closed or deleted by themselves, and no others.
//!
//! On the real CLI, and on a FakeCli where time is what counts.

use std::time::Duration;

use copilot_grpc::{
    grpc::pb::{
        CleanupStatus, CreateSessionRequest, ErrorReason, GetServerInfoRequest, ListSessionsRequest,
        SessionState,
    },
    store::{Changes, Time},
};
use scripted_model::Reply;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Setup, TestFacade, wait},
    fake_cli::FakeCli,
    real_cli::RealCli,
    soon,
};

/// Echoes; takes five seconds where the prompt says so.
async fn real() -> RealCli {
    RealCli::start(|request| match request.prompt() {
        "slow" => Reply::chunks(["a ", "b ", "c ", "d"]).every(Duration::from_millis(1300)),
        prompt => Reply::text(format!("You said: {prompt}")),
    })
    .await
}

/// A facade that looks often.
async fn start(setup: Setup, flags: &[&str]) -> TestFacade {
    let setup = setup.flag("--cleanup-interval=50ms");
    flags.iter().fold(setup, |setup, flag| setup.flag(*flag)).start().await
}

async fn state(facade: &TestFacade, id: &str) -> Result<SessionState, Status> {
    Ok(facade.get(id).await?.state())
}

async fn listed(facade: &TestFacade) -> Vec<String> {
    let page = facade.client().list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    page.sessions.into_iter().map(|session| session.session_id).collect()
}

async fn status(facade: &TestFacade) -> Option<CleanupStatus> {
    facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().cleanup
}

/// Waits until it has been looked once more, from beginning to end.
async fn another_run(facade: &TestFacade) {
    soon("two runs", async {
        for _ in 0..2 {
            let before = status(facade).await.unwrap().last_run_time;
            while status(facade).await.unwrap().last_run_time == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
}

/// Waits until a session is deleted. While that is under way, the CLI says that it is gone before the list does.
async fn gone(facade: &TestFacade, id: &str) {
    soon("the deletion", async {
        while state(facade, id).await.is_ok() || listed(facade).await.iter().any(|listed| listed == id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    check(&state(facade, id).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn an_idle_session_is_closed_and_goes_on_when_it_is_used() {
    let cli = real().await;
    let facade = start(cli.setup(), &["--close-idle-after=300ms"]).await;
    facade.create("s").await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    soon("the closing", async {
        while state(&facade, "s").await.unwrap() != SessionState::Unloaded {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(soon("a turn", facade.send("s", "two")).await.unwrap().content, "You said: two");
    let status = status(&facade).await.unwrap();
    assert!(status.closed >= 1 && status.deleted == 0 && !status.dry_run, "{status:?}");
}

#[tokio::test]
async fn an_idle_session_is_deleted_and_one_that_runs_is_not() {
    let cli = real().await;
    // Longer than a busy machine takes between two calls.
    let facade = start(cli.setup(), &["--delete-idle-after=4s"]).await;
    facade.create("idle").await;
    soon("a turn", facade.send("idle", "one")).await.unwrap();
    facade.create("busy").await;
    // Longer than it may be idle.
    let turn = soon("a turn", facade.send_and_wait(wait("busy", "slow"))).await.unwrap();
    assert_eq!(turn.content, "a b c d");
    gone(&facade, "idle").await;
    gone(&facade, "busy").await;
    assert_eq!(listed(&facade).await, Vec::<String>::new());
    assert_eq!(status(&facade).await.unwrap().deleted, 2);
}

#[tokio::test]
async fn of_too_many_stored_sessions_those_go_that_were_idle_longest_also_after_a_restart() {
    let cli = real().await;
    let facade = cli.facade().await;
    for id in ["a", "b", "c"] {
        facade.create(id).await;
    }
    for id in ["b", "c", "a"] {
        soon("a turn", facade.send(id, "one")).await.unwrap();
    }
    facade.stop().await;
    let facade = start(cli.setup(), &["--max-stored-sessions=1"]).await;
    gone(&facade, "b").await;
    gone(&facade, "c").await;
    assert_eq!(listed(&facade).await, ["a"]);
    another_run(&facade).await;
    assert_eq!(soon("a turn", facade.send("a", "two")).await.unwrap().content, "You said: two");
    assert_eq!(status(&facade).await.unwrap().deleted, 2);
}

#[tokio::test]
async fn a_profiles_sessions_live_as_long_as_it_says_also_after_a_restart() {
    let cli = real().await;
    let file = NamedTempFile::new().unwrap();
    let config = format!("--config={}", file.path().display());
    std::fs::write(file.path(), "[profiles.brief]").unwrap();
    let facade = start(cli.setup(), &[&config]).await;
    assert_eq!(status(&facade).await, None);
    facade.create("other").await;
    let brief =
        CreateSessionRequest { session_id: "s".into(), profile: "brief".into(), ..Default::default() };
    facade.client().create_session(brief).await.unwrap();
    for id in ["other", "s"] {
        soon("a turn", facade.send(id, "one")).await.unwrap();
    }
    facade.stop().await;
    std::fs::write(file.path(), "[profiles.brief]\nmax_session_age = '1s'").unwrap();
    let facade = start(cli.setup(), &[&config]).await;
    gone(&facade, "s").await;
    another_run(&facade).await;
    assert_eq!(listed(&facade).await, ["other"]);
}

#[tokio::test]
async fn a_dry_run_does_nothing() {
    let cli = FakeCli::start().await;
    cli.has("stored", false, true);
    let flags = ["--delete-idle-after=1ms", "--close-idle-after=1ms", "--cleanup-dry-run"];
    let facade = start(cli.setup(), &flags).await;
    facade.has("stored", &cli.address(), "").await;
    facade.create("loaded").await;
    another_run(&facade).await;
    let status = status(&facade).await.unwrap();
    assert_eq!((status.closed, status.deleted, status.dry_run), (0, 0, true));
    assert_eq!((cli.count("session.delete"), cli.count("session.detach")), (0, 0));
}

#[tokio::test]
async fn what_another_program_has_made_is_left_alone() {
    let cli = FakeCli::start().await;
    for id in ["theirs", "ours"] {
        cli.has(id, false, true);
    }
    let facade = start(cli.setup(), &["--delete-after-age=1ms"]).await;
    facade.has("ours", &cli.address(), "").await;
    gone(&facade, "ours").await;
    another_run(&facade).await;
    assert_eq!(cli.called("session.delete", 1).await["sessionId"], "ours");
    assert_eq!(cli.count("session.delete"), 1);
}

#[tokio::test]
async fn a_session_that_changes_between_decision_and_act_stays() {
    let cli = FakeCli::start().await;
    cli.manual("session.delete");
    let facade = cli.setup().start().await;
    for id in ["a", "b"] {
        cli.has(id, false, true);
        facade.has(id, &cli.address(), "").await;
    }
    facade.stop().await;
    let facade = start(cli.setup(), &["--delete-idle-after=1ms"]).await;
    // Both are idle for too long when the first is deleted. Meanwhile another server uses the second.
    let first = soon("a deletion", cli.next("session.delete")).await;
    let other = if first.params["sessionId"] == "a" { "b" } else { "a" };
    let store = facade.facade.sessions().store();
    let record = store.find("", other).await.unwrap().unwrap();
    let changes = Changes { update_time: Time::parse("2999-01-01T00:00:00Z"), ..Changes::default() };
    store.change(record.ownership, &changes).await.unwrap();
    cli.automatic("session.delete");
    first.answer_as_usual().await;
    another_run(&facade).await;
    assert_eq!(listed(&facade).await, [other]);
    assert_eq!(cli.count("session.delete"), 1);
}

#[tokio::test]
async fn one_in_which_another_client_of_the_cli_has_something_running_stays() {
    let cli = FakeCli::start().await;
    let facade = start(cli.setup(), &["--delete-after-age=1ms"]).await;
    cli.has("s", true, true);
    cli.busy("s", true);
    facade.has("s", &cli.address(), "").await;
    another_run(&facade).await;
    assert_eq!((cli.count("session.delete"), listed(&facade).await), (0, vec!["s".to_owned()]));
    cli.busy("s", false);
    gone(&facade, "s").await;
}

#[tokio::test]
async fn one_that_could_not_be_deleted_is_counted_and_tried_again() {
    let cli = FakeCli::start().await;
    cli.has("s", false, true);
    cli.manual("session.delete");
    let facade = start(cli.setup(), &["--delete-after-age=1ms"]).await;
    facade.has("s", &cli.address(), "").await;
    soon("a deletion", cli.next("session.delete")).await.refuse(-32603, "disk on fire").await;
    cli.automatic("session.delete");
    gone(&facade, "s").await;
    let status = status(&facade).await.unwrap();
    assert_eq!((status.failed, status.deleted), (1, 1));
}
