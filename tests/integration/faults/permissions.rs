//! A permission that the agent asks for is decided by the session's rules, whatever its form and whether or not a turn runs.
//!
//! On the FakeCli, which asks in forms that the real one seldom uses. The top-level `asks` shows the real CLI.

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, PermissionEffect, PermissionPolicy, PermissionRule, session_event::Payload,
};
use serde_json::{Value, json};

use super::{allow, goes_on};
use crate::support::{facade::Streamed, fake_cli::FakeCli, soon};

#[tokio::test]
async fn a_rule_sees_a_command_that_has_half_an_emoji_in_it() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let rule = |pattern: &str, effect: PermissionEffect| PermissionRule {
        kind: "shell".into(),
        pattern: pattern.into(),
        effect: effect.into(),
    };
    let rules = vec![rule("rm *", PermissionEffect::Deny), rule("", PermissionEffect::Allow)];
    let permission_policy = Some(PermissionPolicy { rules });
    let request = CreateSessionRequest { session_id: "s".into(), permission_policy, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    for (nth, (command, decision)) in [("rm it", "reject"), ("ls it", "approve-once")].into_iter().enumerate()
    {
        let request = format!(r#"{{"kind":"shell","fullCommandText":"{command} \ud83d"}}"#);
        let data = format!(r#"{{"requestId":"r{nth}","permissionRequest":{request}}}"#);
        cli.raw_event("s", "permission.requested", &data).await;
        let answer = cli.called("session.permissions.handlePendingPermissionRequest", nth + 1).await;
        assert_eq!(answer["result"]["kind"], decision, "{answer}");
    }
}

#[tokio::test]
async fn permissions_are_answered_by_policy_also_while_no_turn_runs() {
    const ANSWER: &str = "session.permissions.handlePendingPermissionRequest";
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        permission_policy: Some(allow("shell")),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    let ask = async |id: &str, kind: &str, more: Value| {
        let mut data = json!({"requestId": id, "permissionRequest": {"kind": kind, "toolCallId": "t1"}});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cli.event("s", "permission.requested", data).await;
    };
    ask("r1", "shell", json!({})).await;
    let answer1 = cli.called(ANSWER, 1).await;
    assert_eq!(answer1, json!({"sessionId": "s", "requestId": "r1", "result": {"kind": "approve-once"}}));

    let stream = facade.stream("s", "p").await.unwrap();
    let turn = cli.begin().await;
    ask("r2", "shell", json!({"resolvedByHook": true})).await;
    ask("r3", "write", json!({})).await;
    let answer2 = cli.called(ANSWER, 2).await;
    assert_eq!((&answer2["requestId"], &answer2["result"]["kind"]), (&json!("r3"), &json!("reject")));
    assert!(answer2["result"]["feedback"].as_str().unwrap().contains("write"), "{answer2}");
    let completed = json!({"requestId": "r3", "toolCallId": "t1", "result": {"kind": "denied-by-rules"}});
    turn.event("permission.completed", completed).await;
    turn.finish(&["fine"]).await;
    let streamed = soon("the end", Streamed::read(stream)).await;
    let asked = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
        Payload::PermissionAsked(asked) => Some((asked.ask_id.as_str(), asked.kind.as_str())),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [("r2", "shell"), ("r3", "write")]);
    assert_eq!(streamed.end.unwrap().content, "fine");
    goes_on(&cli, &facade).await;
    assert_eq!(cli.count(ANSWER), 2);
}
