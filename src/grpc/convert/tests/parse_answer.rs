//! Answers to asks.

use super::*;
use crate::{
    copilot::{
        Answer,
        answer::{Decision, Elicited, Image, PlanDecision, ToolResult, ToolResultType, UserInput},
    },
    grpc::pb::{self, ask_answer::Answer as Pb, tool_result::Content},
};

/// The result of parsing an answer: the answer and whether it is for all asks of its kind, or the fields that are wrong.
fn parse(answer: Pb) -> Result<(Answer, bool), String> {
    let answer = Some(pb::AskAnswer { answer: Some(answer) });
    refused_or(|checks| checks.answer(answer))
}

fn refused_or(
    answer: impl FnOnce(&mut Checks) -> Option<crate::session::Response>,
) -> Result<(Answer, bool), String> {
    asked(answer).map(|response| {
        let response = response.expect("nothing was wrong with it");
        (response.answer, response.for_session)
    })
}

#[track_caller]
fn check(answer: Pb, expected: Result<Answer, &str>) {
    assert_eq!(parse(answer), expected.map(|answer| (answer, false)).map_err(String::from));
}

fn permission(decision: i32, feedback: &str) -> Pb {
    Pb::Permission(pb::PermissionAnswer { decision, feedback: feedback.into() })
}

fn tool_result(content: Option<Content>, images: Vec<pb::ToolImage>) -> Pb {
    Pb::ToolResult(pb::ToolResult { content, images })
}

fn image(bytes: usize, mime_type: &str) -> pb::ToolImage {
    pb::ToolImage { data: vec![0; bytes], mime_type: mime_type.into(), description: "a dot".into() }
}

fn user_input(answer: &str, skipped: bool) -> Pb {
    Pb::UserInput(pb::UserInput { answer: answer.into(), skipped })
}

fn elicitation(action: i32, content: Option<&Json>) -> Pb {
    let content_json = content.map(Json::to_string).unwrap_or_default();
    Pb::Elicitation(pb::Elicitation { action, content_json })
}

fn plan(approved: bool, action: &str, feedback: &str) -> Pb {
    Pb::ExitPlan(pb::ExitPlan { approved, action: action.into(), feedback: feedback.into() })
}

#[test]
fn an_answer_is_required() {
    for nothing in [None, Some(pb::AskAnswer { answer: None })] {
        assert_eq!(refused_or(|checks| checks.answer(nothing)), Err("answer".into()));
    }
}

#[test]
fn a_permission_is_given_once_or_for_the_session_or_refused_with_a_reason() {
    use pb::PermissionDecision::*;
    let reject = |feedback: &str| Answer::Permission(Decision::Reject { feedback: feedback.into() });
    let approve = || Answer::Permission(Decision::ApproveOnce);
    check(permission(Allow.into(), ""), Ok(approve()));
    assert_eq!(parse(permission(AllowForSession.into(), "")), Ok((approve(), true)));
    check(permission(Deny.into(), "not here"), Ok(reject("not here")));
    // Without a reason the CLI would end the turn.
    check(permission(Deny.into(), ""), Ok(reject("it was refused")));
    for decision in [0, 77, -1] {
        check(permission(decision, ""), Err("answer.permission.decision"));
    }
}

#[test]
fn a_tool_has_come_to_text_to_json_or_to_nothing() {
    let result = |text: &str, result_type| {
        let text_result_for_llm = text.into();
        Answer::ToolResult(ToolResult { text_result_for_llm, result_type, binary_results_for_llm: vec![] })
    };
    let success = |text| Ok(result(text, ToolResultType::Success));
    let failure = |text| Ok(result(text, ToolResultType::Failure));
    let said = |content| tool_result(Some(content), vec![]);
    check(said(Content::Text("fine".into())), success("fine"));
    check(said(Content::Text(String::new())), success(""));
    for json in ["3", "\"a\"", "null", r#"{"b": [1, null], "a": 12345678901234567890.0}"#] {
        check(said(Content::ResultJson(json.into())), success(json));
    }
    for wrong in ["", "{", "NaN", "{} {}", r#"{"a": 1, "a": 2}"#] {
        check(said(Content::ResultJson(wrong.into())), Err("answer.tool_result.result_json"));
    }
    check(said(Content::Error("broken".into())), failure("broken"));
    check(said(Content::Error(String::new())), failure("the tool has failed"));
    check(tool_result(None, vec![]), Err("answer.tool_result.content"));
}

#[test]
fn images_of_a_tool_are_passed_on_within_bounds() {
    let said = |images| tool_result(Some(Content::Text("see".into())), images);
    let (answer, _) = parse(said(vec![image(1, "IMAGE/Png; q=1")])).unwrap();
    let Answer::ToolResult(result) = answer else { panic!("{answer:?}") };
    let expected = Image { data: "AA==".into(), mime_type: "image/png".into(), description: "a dot".into() };
    assert_eq!(result.binary_results_for_llm, [expected]);
    assert!(parse(said(vec![image(1, "image/png"); MAX_IMAGES])).is_ok());
    assert!(parse(said(vec![image(MAX_IMAGE_BYTES, "image/png")])).is_ok());
    let refused = |images, fields| check(said(images), Err(fields));
    refused(vec![image(1, "image/png"); MAX_IMAGES + 1], "answer.tool_result.images");
    refused(vec![image(MAX_IMAGE_BYTES, "image/png"), image(1, "image/png")], "answer.tool_result.images");
    refused(
        vec![image(1, "image/png"), image(0, "application/pdf")],
        "answer.tool_result.images[1].data answer.tool_result.images[1].mime_type",
    );
    refused(vec![image(1, "")], "answer.tool_result.images[0].mime_type");
}

#[test]
fn a_question_is_answered_or_skipped() {
    let said = |answer: &str| {
        Ok(Answer::UserInput(UserInput { answer: answer.into(), was_freeform: true, dismissed: false }))
    };
    check(user_input("blue", false), said("blue"));
    check(user_input(" blue\n", false), said(" blue\n"));
    check(user_input("", true), Ok(Answer::UserInput(UserInput::none())));
    for (answer, skipped) in [("", false), (" \n", false), ("blue", true)] {
        check(user_input(answer, skipped), Err("answer.user_input.answer"));
    }
}

#[test]
fn an_mcp_servers_question_is_answered_refused_or_left() {
    use pb::ElicitationAction::*;
    let form = json!({"n": 3, "list": ["a"]});
    let elicited = |elicited| Ok(Answer::Elicitation(elicited));
    check(
        elicitation(Accept.into(), Some(&form)),
        elicited(Elicited::Accept { content: Some(form.clone().into()) }),
    );
    check(elicitation(Accept.into(), None), elicited(Elicited::Accept { content: None }));
    check(elicitation(Decline.into(), None), elicited(Elicited::Decline));
    check(elicitation(Cancel.into(), Some(&form)), elicited(Elicited::Cancel));
    for action in [0, 77, -1] {
        check(elicitation(action, None), Err("answer.elicitation.action"));
    }
    for wrong in [json!([1]), json!("a"), json!(null)] {
        check(elicitation(Accept.into(), Some(&wrong)), Err("answer.elicitation.content_json"));
    }
}

#[test]
fn a_plan_is_approved_or_sent_back_with_a_reason() {
    let decided = |approved, action: Option<&str>, feedback: Option<&str>| {
        let (selected_action, feedback) = (action.map(String::from), feedback.map(String::from));
        Ok(Answer::ExitPlan(PlanDecision { approved, selected_action, feedback }))
    };
    check(plan(true, "", ""), decided(true, None, None));
    check(
        plan(true, "exit_only", "mind the tests"),
        decided(true, Some("exit_only"), Some("mind the tests")),
    );
    check(plan(false, "", "shorter"), decided(false, None, Some("shorter")));
    // Without a reason the CLI would end the turn.
    check(plan(false, "", ""), decided(false, None, Some("the plan was not approved")));
    check(plan(false, "interactive", ""), Err("answer.exit_plan.action"));
}
