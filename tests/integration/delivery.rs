//! A prompt is sent again where it surely was not delivered, and never where it may have been; on the real CLI.
//!
//! The CLI or the wire to it breaks; a session whose agent was cut in the midst of its work goes on. What a FakeCli shows of
//! this is in `faults::delivery`.

use std::{collections::HashSet, sync::Arc};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, DeliveryState, ErrorReason, PermissionDecision, PermissionEffect, Tool, ToolResult,
    TurnResult, ask_answer::Answer, session_event::Payload, tool_result::Content,
};
use scripted_model::{Reply, Request};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{TestFacade, ask_id, decide, on_everything, watching},
    failure_of,
    proxy::Proxy,
    real_cli::LastingCli,
    soon, until,
};

fn script(request: &Request) -> Reply {
    if let Some(call) = dangling_call(request) {
        return Reply::status(400, format!("there must be a result of {call}"));
    }
    match (request.prompt(), request.tool_result()) {
        ("sleep", None) => {
            Reply::tool_call("bash", json!({"command": "sleep 60", "description": "sleep for long"}))
        }
        ("fetch", None) => Reply::tool_call("fetch", json!({})),
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

/// A call of a tool that has no result, with which OpenAI, for one, refuses a conversation for ever.
fn dangling_call(request: &Request) -> Option<String> {
    let messages = request.body["messages"].as_array().unwrap();
    let results: HashSet<_> =
        messages.iter().filter_map(|message| message["tool_call_id"].as_str()).collect();
    let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
    let mut ids = calls.filter_map(|call| call["id"].as_str());
    ids.find(|id| !results.contains(id)).map(str::to_owned)
}

/// A session whose tools have this effect, and a turn in it that has come to `begun`.
async fn at_work<T>(
    facade: &Arc<TestFacade>,
    session: &'static str,
    prompt: &'static str,
    effect: PermissionEffect,
    begun: impl Fn(&Payload) -> Option<T>,
) -> (T, JoinHandle<Result<TurnResult, Status>>) {
    let tool = Tool { name: "fetch".into(), description: "Fetches it.".into(), ..Default::default() };
    let request = CreateSessionRequest {
        session_id: session.into(),
        available_tools: vec!["builtin:bash".into()],
        tools: vec![tool],
        permission_policy: on_everything(effect),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    let watch = watching(session);
    let mut watcher = facade.watch(watch).await.unwrap();
    let turn = tokio::spawn({
        let facade = facade.clone();
        async move { facade.send(session, prompt).await }
    });
    (watcher.find(begun).await, turn)
}

#[tokio::test]
async fn a_session_whose_cli_died_in_the_midst_of_a_tool_call_goes_on() {
    let cli = LastingCli::start(script).await;
    let facade = Arc::new(cli.setup(cli.port).start().await);
    let started = |event: &Payload| matches!(event, Payload::ToolExecutionStart(_)).then_some(());
    // In one session the tool runs; in the others somebody has yet to run it, or to allow it.
    let ((), runs) = at_work(&facade, "runs", "sleep", PermissionEffect::Allow, started).await;
    let (call, waits) = at_work(&facade, "waits", "fetch", PermissionEffect::Allow, ask_id).await;
    let (permission, asks) = at_work(&facade, "asks", "sleep", PermissionEffect::Ask, ask_id).await;
    for session in ["runs", "waits", "asks"] {
        until("the call is on disk", || cli.has_stored(session, "tool.execution_start")).await;
    }
    cli.restart().await;

    let cut = soon("the end of the turn", runs).await.unwrap().unwrap_err();
    check(&cut, Code::Unavailable, ErrorReason::TurnInterrupted);
    let failure = failure_of(&cut);
    assert_eq!((failure.delivery(), failure.running_tools.len()), (DeliveryState::Delivered, 1));
    // Turns that wait for their callers go on, if the CLI is there again soon enough.
    facade.serving("").await;
    let fetched =
        Answer::ToolResult(ToolResult { content: Some(Content::Text("42".into())), ..Default::default() });
    let denied = decide(PermissionDecision::Deny);
    for (session, ask, answer, turn) in [("waits", call, fetched, waits), ("asks", permission, denied, asks)]
    {
        let taken = facade.respond(session, &ask, answer).await;
        match soon("the end of the turn", turn).await.unwrap() {
            Ok(result) => assert_eq!((taken.unwrap(), result.tool_calls.len()), ((), 1)),
            Err(cut) => check(&cut, Code::Unavailable, ErrorReason::TurnInterrupted),
        }
    }

    for session in ["runs", "waits", "asks"] {
        let answer = soon("the next turn", facade.send(session, "are you there?")).await.unwrap();
        assert_eq!(answer.content, "You said: are you there?");
    }
}

#[tokio::test]
async fn a_prompt_of_which_nothing_was_written_is_sent_again_and_one_that_was_begun_is_not() {
    let cli = LastingCli::start(script).await;
    let proxy = Proxy::start(cli.port).await;
    let facade = Arc::new(cli.setup(proxy.port).start().await);
    for session in ["begun", "behind"] {
        facade.create(session).await;
        soon("a turn", facade.send(session, "hello")).await.unwrap();
    }
    let send = |session: &'static str, prompt: String| {
        let facade = facade.clone();
        tokio::spawn(async move { facade.send(session, &prompt).await })
    };
    proxy.hold();
    // More than the sockets on the way take in.
    let begun = send("begun", "x".repeat(15 << 20));
    until("it is being written", || in_flight(&facade) > 1).await;
    let behind = send("behind", "and I?".into());
    until("the other is behind it", || in_flight(&facade) > 2).await;
    proxy.reset();
    let cut = soon("the end of the turn", begun).await.unwrap().unwrap_err();
    check(&cut, Code::Unavailable, ErrorReason::TurnInterrupted);
    assert_eq!(failure_of(&cut).delivery(), DeliveryState::Unknown);
    let answer = soon("the other turn", behind).await.unwrap().unwrap();
    assert_eq!(answer.content, "You said: and I?");
    let prompts: Vec<_> = cli.model.calls().iter().map(|call| call.request.prompt().len()).collect();
    assert_eq!(prompts, ["hello".len(), "hello".len(), "and I?".len()]);
}

/// How many calls wait for the CLI's answer. On a wire that is held a ping is soon one of them.
fn in_flight(facade: &TestFacade) -> usize {
    facade.facade.sessions().pool().all()[0].link().unwrap().in_flight()
}
