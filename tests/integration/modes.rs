//! The agent goes about a prompt as its caller says: steered, by itself until it is done, in JSON; on the real CLI.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    AgentMode, CreateSessionRequest, ErrorReason, PermissionEffect, Prompt, SendMode,
};
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::Code;

use crate::support::{
    check,
    facade::{TestFacade, on_everything, prompt, wait_with},
    failure_of, fields_of,
    real_cli::RealCli,
    soon,
};

fn script(request: &Request) -> Reply {
    // A prompt in another mode begins with a notice of that.
    let prompt = request.prompt().rsplit('\n').next().unwrap();
    match (prompt, request.tool_result()) {
        ("complete", None) => Reply::tool_call("task_complete", json!({"summary": "all done"})),
        ("sleep", None) => {
            Reply::tool_call("bash", json!({"command": "sleep 1; echo slept", "description": "sleep"}))
        }
        ("slow", None) => Reply::text("a b c d e f g h i j").every(Duration::from_millis(150)),
        ("json", None) => Reply::text(r#"{"name": "Ada", "born": 1815}"#),
        ("wrong json", None) => Reply::text(r#"{"name": 7}"#),
        (prompt, _) => Reply::text(format!("You said: {prompt}")),
    }
}

async fn started() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: on_everything(PermissionEffect::Allow),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    (cli, facade)
}

/// A schema of a person with a name of this type.
fn person_with(name: &str) -> String {
    json!({"type": "object", "properties": {"name": {"type": name}}}).to_string()
}

/// A schema of a person with a name.
fn person() -> String {
    person_with("string")
}

#[tokio::test]
async fn an_answer_with_a_schema_is_json_that_matches_it() {
    let (cli, facade) = started().await;
    let request = |text: &str| wait_with("s", Prompt { response_schema_json: person(), ..prompt(text) });
    let answer = soon("a turn", facade.send_and_wait(request("json"))).await.unwrap();
    assert_eq!(answer.content, r#"{"name": "Ada", "born": 1815}"#);
    assert_eq!(answer.structured_content_json, answer.content);
    let format = &cli.model.calls()[0].request.body["response_format"];
    assert_eq!(
        (&format["type"], &format["json_schema"]["schema"]["type"]),
        (&json!("json_schema"), &json!("object"))
    );
    let mismatch = soon("a turn", facade.send_and_wait(request("wrong json"))).await.unwrap_err();
    check(&mismatch, Code::Internal, ErrorReason::ResponseMismatch);
    assert_eq!(failure_of(&mismatch).partial_content, r#"{"name": 7}"#);
    // The next prompt is free again.
    let answer = soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!((&*answer.content, &*answer.structured_content_json), ("You said: hello", ""));
    assert!(cli.model.calls()[2].request.body["response_format"].is_null());
}

#[tokio::test]
async fn a_wrong_schema_is_refused_before_anything_is_sent() {
    let (cli, facade) = started().await;
    let response_schema_json = person_with("nonsense");
    let request = wait_with("s", Prompt { response_schema_json, ..prompt("json") });
    let refused = facade.send_and_wait(request).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["prompt.response_schema_json"]);
    assert!(cli.model.calls().is_empty());
}

#[tokio::test]
async fn an_immediate_prompt_goes_into_the_running_turn_ahead_of_those_that_wait() {
    let (cli, facade) = started().await;
    let steer = || wait_with("s", Prompt { mode: SendMode::Immediate.into(), ..prompt("steered") });
    let all = async {
        let first = facade.send("s", "slow");
        let queued = async {
            cli.model.wait_for(|calls| calls.len() == 1).await;
            facade.send("s", "queued").await
        };
        let steering = async {
            cli.model.wait_for(|calls| calls.len() == 1).await;
            facade.send_and_wait(steer()).await
        };
        tokio::join!(first, queued, steering)
    };
    let (first, queued, steering) = soon("all", Box::pin(all)).await;
    assert_eq!(queued.unwrap().content, "You said: queued");
    let (first, steering) = (first.unwrap(), steering.unwrap());
    assert_eq!(first.content, "You said: steered");
    assert_eq!(steering, first);
    let prompts: Vec<_> = cli.model.calls().iter().map(|call| call.request.prompt().to_owned()).collect();
    assert_eq!(prompts, ["slow", "steered", "queued"]);
    // Where no turn runs it is like any other.
    let alone = soon("a turn", facade.send_and_wait(steer())).await.unwrap();
    assert_eq!(alone.content, "You said: steered");
}

#[tokio::test]
async fn an_immediate_prompt_reaches_a_turn_whose_tool_runs() {
    let (cli, facade) = started().await;
    let steer = wait_with("s", Prompt { mode: SendMode::Immediate.into(), ..prompt("steered") });
    let (first, steering) = soon("both", async {
        let first = facade.send("s", "sleep");
        let steering = async {
            cli.model.wait_for(|calls| calls.len() == 1).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            facade.send_and_wait(steer).await
        };
        tokio::join!(first, steering)
    })
    .await;
    let (first, steering) = (first.unwrap(), steering.unwrap());
    assert_eq!(steering, first);
    let calls = cli.model.calls();
    assert!(calls.iter().any(|call| call.request.prompt().contains("steered")));
}

#[tokio::test]
async fn the_agent_goes_on_by_itself_until_it_has_completed_its_task() {
    let (cli, facade) = started().await;
    let autopilot =
        |text: &str| wait_with("s", Prompt { agent_mode: AgentMode::Autopilot.into(), ..prompt(text) });
    let answer = soon("a turn", facade.send_and_wait(autopilot("complete"))).await.unwrap();
    assert_eq!((answer.content.as_str(), cli.model.calls().len()), ("all done", 1));
    // One that never says so is stopped by the CLI after five rounds more.
    let answer = soon("a turn", facade.send_and_wait(autopilot("never"))).await.unwrap();
    assert!(answer.content.starts_with("You said: "), "{}", answer.content);
    assert_eq!(cli.model.calls().len(), 1 + 6);
    // The next prompt is an ordinary one.
    let answer = soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!((answer.content.as_str(), cli.model.calls().len()), ("You said: hello", 8));
    assert!(cli.model.calls()[0].request.tools.contains(&"task_complete".to_owned()));
}

#[tokio::test]
async fn what_does_not_go_together_is_refused() {
    let (_cli, facade) = started().await;
    let immediate = || Prompt { mode: SendMode::Immediate.into(), ..prompt("x") };
    for (prompt, field) in [
        (Prompt { response_schema_json: person(), ..immediate() }, "prompt.response_schema_json"),
        (Prompt { agent_mode: AgentMode::Autopilot.into(), ..immediate() }, "prompt.agent_mode"),
        (Prompt { agent_mode: 77, ..prompt("x") }, "prompt.agent_mode"),
        (Prompt { mode: 77, ..prompt("x") }, "prompt.mode"),
    ] {
        let refused = facade.send_and_wait(wait_with("s", prompt)).await.unwrap_err();
        assert_eq!(fields_of(&refused), [field]);
    }
}
