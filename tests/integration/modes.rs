//! How the agent goes about a prompt: into the running turn, by a plan, by itself, in JSON; on the real CLI.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    AgentMode, CreateSessionRequest, ErrorReason, PermissionEffect, PermissionPolicy, PermissionRule,
    SendAndWaitRequest, SendMode,
};
use prost_types::{Struct, Value, value::Kind};
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::Code;

use crate::support::{
    check,
    facade::{TestFacade, wait},
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
    let rule =
        PermissionRule { kind: "*".into(), effect: PermissionEffect::Allow.into(), ..Default::default() };
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: Some(PermissionPolicy { rules: vec![rule] }),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    (cli, facade)
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn object(fields: &[(&str, Value)]) -> Value {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

/// A schema of a person with a name.
fn person() -> Struct {
    let properties = object(&[("name", object(&[("type", text("string"))]))]);
    let Some(Kind::StructValue(schema)) =
        object(&[("type", text("object")), ("properties", properties)]).kind
    else {
        unreachable!()
    };
    schema
}

#[tokio::test]
async fn an_answer_with_a_schema_is_json_that_matches_it() {
    let (cli, facade) = started().await;
    let request = |prompt: &str| SendAndWaitRequest { response_schema: Some(person()), ..wait("s", prompt) };
    let answer = soon("a turn", facade.send_and_wait(request("json"))).await.unwrap();
    assert_eq!(answer.content, r#"{"name": "Ada", "born": 1815}"#);
    assert_eq!(answer.structured_content.unwrap().fields["name"], text("Ada"));
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
    assert_eq!((answer.content.as_str(), answer.structured_content), ("You said: hello", None));
    assert!(cli.model.calls()[2].request.body["response_format"].is_null());
}

#[tokio::test]
async fn a_wrong_schema_is_refused_before_anything_is_sent() {
    let (cli, facade) = started().await;
    let mut schema = person();
    schema.fields.insert("properties".into(), object(&[("name", object(&[("type", text("nonsense"))]))]));
    let request = SendAndWaitRequest { response_schema: Some(schema), ..wait("s", "json") };
    let refused = facade.send_and_wait(request).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["response_schema"]);
    assert!(cli.model.calls().is_empty());
}

#[tokio::test]
async fn an_immediate_prompt_goes_into_the_running_turn_ahead_of_those_that_wait() {
    let (cli, facade) = started().await;
    let steer = || SendAndWaitRequest { mode: SendMode::Immediate.into(), ..wait("s", "steered") };
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
    let steer = SendAndWaitRequest { mode: SendMode::Immediate.into(), ..wait("s", "steered") };
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
        |prompt: &str| SendAndWaitRequest { agent_mode: AgentMode::Autopilot.into(), ..wait("s", prompt) };
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
    let immediate = || SendAndWaitRequest { mode: SendMode::Immediate.into(), ..wait("s", "x") };
    for (request, field) in [
        (SendAndWaitRequest { response_schema: Some(person()), ..immediate() }, "response_schema"),
        (SendAndWaitRequest { agent_mode: AgentMode::Autopilot.into(), ..immediate() }, "agent_mode"),
        (SendAndWaitRequest { agent_mode: 77, ..wait("s", "x") }, "agent_mode"),
        (SendAndWaitRequest { mode: 77, ..wait("s", "x") }, "mode"),
    ] {
        let refused = facade.send_and_wait(request).await.unwrap_err();
        assert_eq!(fields_of(&refused), [field]);
    }
}
