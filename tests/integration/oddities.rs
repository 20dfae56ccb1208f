//! No turn waits for ever on an event in an unexpected form, or on a request that nobody can answer.

use std::{sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, McpServer, PermissionEffect, Prompt, SendAndWaitRequest, ToolResult,
    TurnResult, UserInput, UserInputAsked,
    ask_answer::Answer,
    mcp_server::{Http, Stdio, Transport},
    session_event::Payload,
    tool_result::Content,
};
use scripted_model::{Reply, Request};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Streamed, TestFacade, Watcher, on_everything, prompt, wait, wait_with, watching},
    fake_cli::FakeCli,
    real_cli::RealCli,
    soon,
};

/// Asks a question without choices, and says what came of it.
fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        ("ask", None) => Reply::tool_call("ask_user", json!({"question": "Which?"})),
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

/// A session in which everything is asked.
fn asking(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        permission_policy: on_everything(PermissionEffect::Ask),
        user_input: true,
        exit_plan: true,
        ..Default::default()
    }
}

/// Sends, on a task of its own.
fn send(facade: &Arc<TestFacade>, request: SendAndWaitRequest) -> JoinHandle<Result<TurnResult, Status>> {
    let facade = facade.clone();
    tokio::spawn(async move { facade.send_and_wait(request).await })
}

async fn question(watcher: &mut Watcher) -> UserInputAsked {
    let asked = |event: &Payload| match event {
        Payload::UserInputAsked(asked) => Some(asked.clone()),
        _ => None,
    };
    watcher.find(asked).await
}

#[tokio::test]
async fn a_question_without_choices_is_asked_and_answered() {
    let cli = RealCli::start(script).await;
    let facade = Arc::new(cli.facade().await);
    facade.client().create_session(asking("s")).await.unwrap();
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let turn = send(&facade, wait("s", "ask"));
    let asked = question(&mut watcher).await;
    assert_eq!((&*asked.question, asked.choices.len(), asked.allow_freeform), ("Which?", 0, true));
    let answer = Answer::UserInput(UserInput { answer: "blue".into(), ..Default::default() });
    facade.respond("s", &asked.ask_id, answer).await.unwrap();
    let answer = soon("the turn", turn).await.unwrap().unwrap();
    assert_eq!(answer.content, "It said: User responded: blue");
}

#[tokio::test]
async fn a_question_without_choices_that_nobody_answers_is_over_after_the_ask_timeout() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let ask_timeout = Some(Duration::from_millis(300).try_into().unwrap());
    let request = CreateSessionRequest { ask_timeout, ..asking("s") };
    facade.client().create_session(request).await.unwrap();
    let answer = soon("the turn", facade.send("s", "ask")).await.unwrap();
    assert!(answer.content.starts_with("It said: "), "{}", answer.content);
}

/// Requests that do not say what they ask for, or that callers are not asked; by which method they are refused, and how.
fn refused() -> Vec<(&'static str, Value, &'static str, Value)> {
    let cannot = "the request could not be read: it does not say what it asks for";
    let failed = json!({"result": {"textResultForLlm": cannot, "resultType": "failure"}});
    let no = json!({"response": {"answer": "", "wasFreeform": true, "dismissed": true}});
    let user_input = "session.ui.handlePendingUserInput";
    let permission = "session.permissions.handlePendingPermissionRequest";
    let tool = "session.tools.handlePendingToolCall";
    let rejected = json!({"result": {"kind": "reject", "feedback": cannot}});
    let cancelled = json!({"result": {"action": "cancel"}});
    vec![
        ("user_input.requested", json!({"question": null}), user_input, no.clone()),
        ("user_input.requested", json!({"question": ["Which?"], "choices": 7}), user_input, no.clone()),
        ("user_input.requested", json!({}), user_input, no),
        ("permission.requested", json!({"permissionRequest": null}), permission, rejected.clone()),
        ("permission.requested", json!({"permissionRequest": {"kind": 7}}), permission, rejected),
        ("external_tool.requested", json!({"toolName": {}, "arguments": null}), tool, failed),
        ("elicitation.requested", json!({"message": 7}), "session.ui.handlePendingElicitation", cancelled),
        ("sampling.requested", json!({"serverName": 7}), "session.ui.handlePendingSampling", json!({})),
        (
            "session_limits_exhausted.requested",
            json!({"usedAiCredits": "many"}),
            "session.ui.handlePendingSessionLimitsExhausted",
            json!({"response": {"action": "cancel"}}),
        ),
        (
            "auto_mode_switch.requested",
            json!({"errorCode": null}),
            "session.ui.handlePendingAutoModeSwitch",
            json!({"response": "no"}),
        ),
        (
            "mcp.oauth_required",
            json!({"serverName": "web"}),
            "session.mcp.oauth.handlePendingRequest",
            json!({"result": {"kind": "cancelled"}}),
        ),
        (
            "mcp.headers_refresh_required",
            json!({"serverName": "web"}),
            "session.mcp.headers.handlePendingHeadersRefreshRequest",
            json!({"result": {"kind": "none"}}),
        ),
        (
            "command.execute",
            json!({"command": "/x", "args": null}),
            "session.commands.handlePendingCommand",
            json!({"error": "no client of this session carries out commands"}),
        ),
    ]
}

#[tokio::test]
async fn a_request_that_nobody_can_answer_is_refused_at_once_and_the_turn_goes_on() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    facade.create("s").await;
    for (_, _, method, _) in refused() {
        cli.manual(method);
    }
    for (n, (kind, mut data, method, expected)) in refused().into_iter().enumerate() {
        let sending = send(&facade, wait("s", "p"));
        let turn = cli.begin().await;
        let id = format!("r{n}");
        data["requestId"] = id.as_str().into();
        cli.event("s", kind, data.clone()).ephemeral().await;
        let call = cli.next(method).await;
        let mut answer = json!({"sessionId": "s", "requestId": id});
        answer.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!(call.params, answer, "{kind} {data}");
        call.answer(json!({"success": true})).await;
        turn.finish(&["done"]).await;
        assert_eq!(soon("the turn", sending).await.unwrap().unwrap().content, "done");
    }
}

#[tokio::test]
async fn arguments_that_nobody_here_looks_into_may_be_as_deep_as_they_like() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let sending = send(&facade, wait("s", "p"));
    let turn = cli.begin().await;
    let deep = "[".repeat(300) + &"]".repeat(300);
    let data = format!(r#"{{"requestId":"r","toolCallId":"c","toolName":"t","arguments":{deep}}}"#);
    cli.raw_event("s", "external_tool.requested", &data).ephemeral().await;
    let call = |event: &Payload| match event {
        Payload::ToolCallAsked(asked) => Some(asked.clone()),
        _ => None,
    };
    let asked = watcher.find(call).await;
    assert_eq!((&*asked.name, asked.arguments_json), ("t", deep));
    let answer = "session.tools.handlePendingToolCall";
    cli.manual(answer);
    let result = ToolResult { content: Some(Content::Text("fine".into())), ..Default::default() };
    let responding = facade.respond("s", &asked.ask_id, Answer::ToolResult(result));
    let answering = async {
        let call = cli.next(answer).await;
        assert_eq!(call.params["requestId"], "r");
        call.answer(json!({"success": true})).await;
    };
    let (responded, ()) = tokio::join!(responding, answering);
    responded.unwrap();
    turn.finish(&["done"]).await;
    assert_eq!(soon("the turn", sending).await.unwrap().unwrap().content, "done");
}

#[tokio::test]
async fn a_request_without_an_id_does_not_stop_the_inactivity_timeout() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    facade.create("s").await;
    let inactivity_timeout = Some(Duration::from_millis(300).try_into().unwrap());
    for kind in
        ["user_input.requested", "permission.requested", "external_tool.requested", "sampling.requested"]
    {
        let sending = send(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("p") }));
        let turn = cli.begin().await;
        turn.event(kind, json!({"requestId": null, "question": "Which?"})).ephemeral().await;
        let silent = soon("the end", sending).await.unwrap().unwrap_err();
        check(&silent, Code::DeadlineExceeded, ErrorReason::TurnInactive);
        facade.at_rest().await;
    }
}

#[tokio::test]
async fn a_turn_ends_with_its_last_event_in_whatever_form_that_comes() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    facade.create("s").await;
    for idle in ["null", "{}", r#"{"aborted":null,"mode":null}"#, r#"{"aborted":0}"#, "[]"] {
        let sending = send(&facade, wait("s", "p"));
        let turn = cli.begin().await;
        turn.message("done").await;
        cli.raw_event("s", "session.idle", idle).ephemeral().await;
        assert_eq!(soon(idle, sending).await.unwrap().unwrap().content, "done");
    }
    for error in [json!({}), json!({"message": {"text": "no"}, "statusCode": "500", "errorType": null})] {
        let sending = send(&facade, wait("s", "p"));
        let turn = cli.begin().await;
        let mut data = error.clone();
        data["originatingMessageId"] = turn.id.as_str().into();
        turn.event("session.error", data).await;
        soon("the failure", sending).await.unwrap().unwrap_err();
        turn.idle().await;
        facade.at_rest().await;
    }
}

/// The warnings among some events.
fn warnings<'a>(events: impl IntoIterator<Item = &'a Payload>) -> Vec<(String, String)> {
    let warnings = events.into_iter().filter_map(|event| match event {
        Payload::SessionWarning(warning) => Some((warning.r#type.clone(), warning.message.clone())),
        _ => None,
    });
    warnings.collect()
}

#[tokio::test]
async fn an_mcp_server_that_does_not_start_is_a_warning() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let stdio = Stdio { command: "/no/such/command".into(), ..Default::default() };
    let server = McpServer { transport: Some(Transport::Stdio(stdio)), ..Default::default() };
    let mcp_servers = [("broken".to_owned(), server)].into();
    let request = CreateSessionRequest { session_id: "s".into(), mcp_servers, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let streamed = soon("the turn", Streamed::read(facade.stream("s", "hi").await.unwrap())).await;
    assert_eq!(streamed.end.unwrap().content, "You said: hi");
    let told = warnings(streamed.events.iter().filter_map(|event| event.payload.as_ref()));
    let [(kind, message)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(kind, "mcp_server_not_started");
    assert!(message.contains("\"broken\"") && message.contains("No such file"), "{message}");
    let watched = watcher.find(|event| warnings([event]).pop()).await;
    assert_eq!(&watched.1, message);
}

#[tokio::test]
async fn why_an_mcp_server_does_not_start_is_told_once_and_without_secrets() {
    let cli = FakeCli::start().await;
    let facade = Arc::new(cli.setup().start().await);
    let headers = [("authorization".to_owned(), "Bearer s3cret-t0ken".to_owned())].into();
    let http = Http { url: "http://127.0.0.1:9/mcp".into(), headers, ..Default::default() };
    let server = McpServer { transport: Some(Transport::Http(http)), ..Default::default() };
    let mcp_servers = [("web".to_owned(), server)].into();
    facade
        .client()
        .create_session(CreateSessionRequest { session_id: "s".into(), mcp_servers, ..Default::default() })
        .await
        .unwrap();
    for _ in 0..2 {
        let reading = async { Streamed::read(facade.stream("s", "p").await.unwrap()).await };
        let playing = async {
            let turn = cli.begin().await;
            let status = |status: &str, error: Value| {
                let data = json!({"serverName": "web", "status": status, "error": error});
                turn.event("session.mcp_server_status_changed", data).ephemeral()
            };
            status("pending", json!(null)).await;
            status("failed", json!("401 for Bearer s3cret-t0ken")).await;
            status("pending", json!(7)).await;
            status("needs-auth", json!(null)).await;
            turn.finish(&["done"]).await;
        };
        let (streamed, ()) = soon("the turn", async { tokio::join!(reading, playing) }).await;
        let told = warnings(streamed.events.iter().filter_map(|event| event.payload.as_ref()));
        let [(_, message)] = told.as_slice() else { panic!("{told:?}") };
        assert!(message.ends_with("401 for [redacted]"), "{message}");
    }
}
