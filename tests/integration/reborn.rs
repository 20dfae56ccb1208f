//! Nothing of a deleted session reaches the one that is made anew under its id; on the real CLI.

use std::{sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, DeleteSessionRequest, ErrorReason, PermissionEffect, SessionState,
};
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::Code;

use crate::support::{
    check,
    facade::{Streamed, TestFacade, on_everything},
    real_cli::RealCli,
    soon,
};

const TIMES: usize = 100;

/// What the old session is at when it is deleted.
const PURSUITS: [&str; 4] = ["slow", "tool", "question", "hang"];

fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        ("slow", _) => Reply::chunks((0..1_000).map(|n| format!("{n} "))).every(Duration::from_millis(10)),
        ("tool", None) => Reply::tool_call("bash", json!({"command": "sleep 60", "description": "sleep"})),
        ("question", None) => Reply::tool_call("ask_user", json!({"question": "which?", "choices": ["a"]})),
        ("hang", _) => Reply::hang(),
        (prompt, _) => Reply::text(format!("You said: {prompt}")),
    }
}

fn request(resume: bool) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:bash".into()],
        user_input: true,
        permission_policy: on_everything(PermissionEffect::Allow),
        resume_if_exists: resume,
        ..Default::default()
    }
}

async fn create(facade: &TestFacade, resume: bool) {
    let created = soon("a creation", facade.client().create_session(request(resume))).await.unwrap();
    assert!(!created.into_inner().resumed);
}

/// Waits until the old session is at work on its prompt, or until its question is asked.
async fn at_work(facade: &TestFacade, cli: &RealCli, calls: usize, pursuit: &str) {
    let asked = |seen: &[scripted_model::Call]| seen.len() > calls;
    soon("the model is asked", cli.model.wait_for(asked)).await;
    if pursuit == "question" {
        soon("a question", async {
            while facade.get("s").await.unwrap().state() != SessionState::Waiting {}
        })
        .await;
    }
}

#[tokio::test]
async fn of_a_hundred_sessions_that_are_made_anew_under_the_id_of_a_deleted_one_no_turn_is_aborted() {
    let cli = RealCli::start(script).await;
    let facade = Arc::new(cli.facade().await);
    create(&facade, false).await;
    for n in 0..TIMES {
        let pursuit = PURSUITS[n % PURSUITS.len()];
        let calls = cli.model.calls().len();
        let streams = [pursuit, "queued"].map(|prompt| {
            let facade = facade.clone();
            tokio::spawn(async move { Streamed::read(facade.stream("s", prompt).await.unwrap()).await })
        });
        at_work(&facade, &cli, calls, pursuit).await;
        let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
        soon("a deletion", facade.client().delete_session(delete)).await.unwrap();
        create(&facade, n % 2 == 0).await;
        // Several turns, since the old one's stopping took its time.
        for turn in 0..2 {
            let prompt = format!("{n}.{turn}");
            let result = soon("a turn of the new session", facade.send("s", &prompt)).await;
            let result = result.unwrap_or_else(|status| panic!("turn {prompt} after {pursuit}: {status:?}"));
            assert_eq!(result.content, format!("You said: {prompt}"));
        }
        for stream in streams {
            let end = soon("the end of an old turn", stream).await.unwrap().end;
            check(&end.unwrap_err(), Code::Aborted, ErrorReason::TurnAborted);
        }
    }
}
