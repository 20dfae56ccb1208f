//! Tests of the turn that has its session.

use serde_json::{Value, json};

use super::*;
use crate::{copilot::event, session::turn::queue::Queue};

fn current(schema: Option<Schema>) -> Active {
    Active::new(Queue::new(1).join(()).unwrap().0, schema, false, false, String::new())
}

fn hear(current: &mut Active, kind: &str, data: Value) {
    let event = json!({"sessionId": "s", "event": {"type": kind, "id": "e", "data": data}});
    current.hear(&Arc::new(event::parse(event.to_string().as_bytes()).unwrap()));
}

/// A turn that the agent has taken up.
fn running(schema: Option<Schema>) -> Active {
    let mut current = current(schema);
    current.sending();
    current.accepted("m".into());
    hear(&mut current, "user.message", json!({"content": "?", "messageId": "m"}));
    current
}

/// A turn that the agent has answered.
fn answered(schema: Option<Schema>, answer: &str) -> Result<TurnResult, Box<TurnError>> {
    let mut current = running(schema);
    let message = json!({"messageId": "a", "content": answer, "originatingMessageId": "m"});
    hear(&mut current, "assistant.message", message);
    assert!(!current.progress().concluded);
    hear(&mut current, "session.idle", json!({}));
    if let Some((schema, answer)) = current.to_finish().and_then(|left| left.check) {
        assert!(!current.progress().concluded && !current.steer() && current.abort().is_none());
        current.finished(Some(schema.read(&answer)), Vec::new());
    }
    assert!(current.progress().concluded && current.progress().settled);
    let outcome = current.take_outcome().unwrap();
    assert!(current.take_outcome().is_none());
    outcome.map_err(Box::new)
}

fn schema() -> Option<Schema> {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    Some(Schema::new(&schema.into()).unwrap())
}

#[test]
fn an_answer_of_the_schema_comes_as_json_too() {
    let result = answered(schema(), r#"{"n": 3}"#).unwrap();
    assert_eq!(
        (&*result.content, result.structured),
        (r#"{"n": 3}"#, Some(Json::new(r#"{"n": 3}"#.into()).unwrap()))
    );
    let fenced = answered(schema(), "```json\n{\"n\": 3}\n```").unwrap();
    assert_eq!(fenced.structured, Some(Json::new(r#"{"n": 3}"#.into()).unwrap()));
    assert_eq!(answered(None, r#"{"n": 3}"#).unwrap().structured, None);
}

#[test]
fn an_answer_that_is_not_of_the_schema_is_a_failure_that_keeps_its_text() {
    for answer in ["three", "", "{}", r#"{"n": "three"}"#, "[3]", r#"{"n": 3} and that is it"#] {
        let error = answered(schema(), answer).unwrap_err();
        assert!(matches!(&error.cause, TurnCause::Mismatch(problem) if !problem.is_empty()), "{error:?}");
        assert_eq!((error.delivery, &*error.remains.partial), (Delivery::Delivered, answer));
    }
}

#[test]
fn an_answer_that_cannot_be_recorded_in_time_is_late_for_the_stores_sake_and_final_for_nobody() {
    let mut current = running(None);
    current.promised = true;
    let timeout = || TurnCause::Timeout(std::time::Duration::from_secs(1));
    assert!(current.error(timeout()).is_final());
    let message = json!({"messageId": "a", "content": "hi", "originatingMessageId": "m"});
    hear(&mut current, "assistant.message", message);
    hear(&mut current, "session.idle", json!({}));
    assert_eq!(current.to_record().unwrap().content, "hi");
    current.fail(timeout());
    let error = current.take_outcome().unwrap().unwrap_err();
    assert!(matches!(error.cause, TurnCause::Store(_)) && !error.is_final(), "{error:?}");
    assert_eq!((error.delivery, &*error.remains.partial), (Delivery::Delivered, "hi"));
}

#[test]
fn a_turn_that_is_given_up_is_told_of_that_and_not_of_how_its_agent_was_stopped() {
    let mut current = running(None);
    current.fail_unless_through(TurnCause::Deleted);
    hear(&mut current, "abort", json!({"reason": "user_initiated"}));
    hear(&mut current, "session.idle", json!({"aborted": true}));
    let error = current.take_outcome().unwrap().unwrap_err();
    assert!(matches!(error.cause, TurnCause::Deleted), "{error:?}");
    // Where the agent is through, its answer is what counts.
    let mut current = running(None);
    current.promised = true;
    hear(
        &mut current,
        "assistant.message",
        json!({"messageId": "a", "content": "hi", "originatingMessageId": "m"}),
    );
    hear(&mut current, "session.idle", json!({}));
    current.fail_unless_through(TurnCause::Deleted);
    current.recorded(Ok(()));
    assert_eq!(current.take_outcome().unwrap().unwrap().content, "hi");
}

#[test]
fn an_answer_that_is_being_checked_is_not_lost_with_its_connection() {
    let mut current = running(schema());
    let message = json!({"messageId": "a", "content": r#"{"n": 3}"#, "originatingMessageId": "m"});
    hear(&mut current, "assistant.message", message);
    hear(&mut current, "session.idle", json!({}));
    current.cut("lost");
    let (schema, answer) = current.to_finish().unwrap().check.unwrap();
    current.finished(Some(schema.read(&answer)), Vec::new());
    assert_eq!(
        current.take_outcome().unwrap().unwrap().structured,
        Some(Json::new(r#"{"n": 3}"#.into()).unwrap())
    );
    assert!(current.progress().settled);
}

#[test]
fn a_failure_of_the_agents_is_no_mismatch() {
    let mut current = running(schema());
    let error = json!({"errorType": "query", "message": "no", "originatingMessageId": "m"});
    hear(&mut current, "session.error", error);
    let outcome = current.take_outcome().unwrap();
    assert!(matches!(outcome.unwrap_err().cause, TurnCause::Agent(_)));
}

#[test]
fn nothing_is_sent_into_a_turn_that_is_over_or_about_to_be() {
    assert!(!current(None).steer());
    assert!(running(None).steer());
    let mut aborting = running(None);
    assert_eq!(aborting.abort().as_deref(), Some("m"));
    assert!(!aborting.steer());
    let mut given_up = running(None);
    given_up.fail(TurnCause::Cancelled);
    // The agent may still be at work on it.
    assert!(!given_up.steer() && given_up.abort().as_deref() == Some("m"));
    let mut disconnected = running(None);
    disconnected.disconnected("lost");
    assert!(!disconnected.steer());
    disconnected.reconnected(true);
    assert!(disconnected.steer());
}

#[test]
fn a_turn_ends_with_the_news_that_nothing_was_sent_into_it_after_all() {
    let mut current = running(None);
    hear(
        &mut current,
        "assistant.message",
        json!({"messageId": "a", "content": "hi", "originatingMessageId": "m"}),
    );
    assert!(current.steer());
    hear(&mut current, "session.idle", json!({}));
    assert!(!current.progress().concluded);
    current.steered(None);
    assert_eq!(current.take_outcome().unwrap().unwrap().content, "hi");
    assert!(current.progress().settled);
}

#[test]
fn a_turn_whose_connection_is_lost_goes_on_or_is_cut() {
    let mut current = running(None);
    current.disconnected("lost");
    assert!(current.progress().disconnected && !current.progress().concluded && current.is_under_way());
    current.reconnected(true);
    assert!(!current.progress().disconnected && !current.progress().concluded);
    current.disconnected("lost again");
    current.reconnected(false);
    let error = current.take_outcome().unwrap().unwrap_err();
    assert!(matches!(&error.cause, TurnCause::Interrupted(problem) if problem == "lost again"), "{error:?}");
    assert!(current.progress().settled && !current.progress().disconnected);
    // Of the tools that ran, none but those that have succeeded since is known to have ended.
    let mut with_tools = running(None);
    for call in ["a", "b"] {
        let start = json!({"toolCallId": call, "toolName": "bash", "arguments": {}});
        hear(&mut with_tools, "tool.execution_start", start);
    }
    with_tools.disconnected("lost");
    for (call, success) in [("a", true), ("b", false)] {
        let end = json!({"toolCallId": call, "success": success});
        hear(&mut with_tools, "tool.execution_complete", end);
    }
    with_tools.reconnected(false);
    let error = with_tools.take_outcome().unwrap().unwrap_err();
    let tools: Vec<_> = error.remains.running_tools.iter().map(|call| &*call.id).collect();
    assert_eq!(tools, ["b"]);
    // One that has ended for its callers has yet to come to rest.
    let mut concluded = running(None);
    concluded.fail(TurnCause::Aborted);
    concluded.disconnected("lost");
    assert!(concluded.progress().disconnected && !concluded.progress().settled);
    concluded.reconnected(false);
    assert!(concluded.progress().settled);
}
