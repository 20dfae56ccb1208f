//! Every known kind of event, each of its fields in every form that it may come in.

use std::{
    borrow::Cow,
    mem::{Discriminant, discriminant},
};

use serde_json::{Value, json};

use super::super::{Payload, known_fields, lenient, parse};
use crate::copilot::{
    RequestKind,
    answer::{completed, requested},
};

/// The kinds with data of their own: whole data, and the field without which they mean nothing.
pub(in crate::copilot) fn samples() -> Vec<(&'static str, Option<&'static str>, Value)> {
    let round = json!({"turnId": "0", "reason": "rate_limit", "model": "m"});
    let completed = json!({"requestId": "r"});
    vec![
        ("user.message", None, json!({"content": "?", "messageId": "m"})),
        (
            "assistant.message",
            None,
            json!({"messageId": "a", "content": "hi", "originatingMessageId": "m", "model": "x",
                "toolRequests": [{"toolCallId": "c", "name": "bash", "arguments": {"a": 1}}]}),
        ),
        ("assistant.message_delta", Some("messageId"), json!({"messageId": "a", "deltaContent": "h"})),
        ("assistant.reasoning", None, json!({"reasoningId": "a", "content": "hm"})),
        ("assistant.reasoning_delta", Some("reasoningId"), json!({"reasoningId": "a", "deltaContent": "h"})),
        ("assistant.turn_start", None, round.clone()),
        ("assistant.turn_end", None, round.clone()),
        ("assistant.turn_retry", None, round),
        (
            "assistant.usage",
            None,
            json!({"model": "x", "inputTokens": 1, "outputTokens": 2, "cacheReadTokens": 3,
                "cacheWriteTokens": 4, "reasoningTokens": 5, "copilotUsage": {"totalNanoAiu": 7.5}, "duration": 6.5,
                "finishReason": "stop", "contentFilterTriggered": false}),
        ),
        (
            "tool.execution_start",
            Some("toolCallId"),
            json!({"toolCallId": "c", "toolName": "bash", "arguments": {"a": 1}}),
        ),
        (
            "tool.execution_partial_result",
            Some("toolCallId"),
            json!({"toolCallId": "c", "partialOutput": "half"}),
        ),
        (
            "tool.execution_progress",
            Some("toolCallId"),
            json!({"toolCallId": "c", "progressMessage": "soon"}),
        ),
        (
            "tool.execution_complete",
            Some("toolCallId"),
            json!({"toolCallId": "c", "success": true, "result": {"content": "done", "structuredContent": {}}, "error": {"message": "no"}}),
        ),
        (
            "permission.requested",
            Some("requestId"),
            json!({"requestId": "r", "permissionRequest": {"kind": "shell"}, "resolvedByHook": false}),
        ),
        (
            "permission.completed",
            Some("requestId"),
            json!({"requestId": "r", "toolCallId": "c", "result": {"kind": "approved"}}),
        ),
        (
            "external_tool.requested",
            Some("requestId"),
            json!({"requestId": "r", "toolCallId": "c", "toolName": "weather", "arguments": {"a": 1}}),
        ),
        ("external_tool.completed", Some("requestId"), completed.clone()),
        (
            "user_input.requested",
            Some("requestId"),
            json!({"requestId": "r", "question": "?", "choices": ["a"], "allowFreeform": true, "toolCallId": "c"}),
        ),
        ("user_input.completed", Some("requestId"), completed.clone()),
        (
            "elicitation.requested",
            Some("requestId"),
            json!({"requestId": "r", "message": "?", "requestedSchema": {}, "elicitationSource": "s", "url": "u"}),
        ),
        ("elicitation.completed", Some("requestId"), completed.clone()),
        (
            "exit_plan_mode.requested",
            Some("requestId"),
            json!({"requestId": "r", "summary": "s", "planContent": "p", "actions": ["interactive"],
                "recommendedAction": "interactive"}),
        ),
        ("exit_plan_mode.completed", Some("requestId"), completed.clone()),
        ("sampling.requested", Some("requestId"), completed.clone()),
        ("session_limits_exhausted.requested", Some("requestId"), completed.clone()),
        ("auto_mode_switch.requested", Some("requestId"), completed.clone()),
        ("mcp.oauth_required", Some("requestId"), completed.clone()),
        ("mcp.headers_refresh_required", Some("requestId"), completed.clone()),
        ("command.execute", Some("requestId"), completed),
        ("session.start", None, json!({"context": {"cwd": "/"}})),
        ("session.resume", None, json!({"resumeTime": "t"})),
        (
            "assistant.tool_call_delta",
            Some("toolCallId"),
            json!({"toolCallId": "c", "toolName": "bash", "inputDelta": "{"}),
        ),
        ("assistant.intent", None, json!({"intent": "to look"})),
        (
            "subagent.started",
            None,
            json!({"toolCallId": "c", "agentName": "a", "agentDisplayName": "A", "agentDescription": "d",
                "model": "m"}),
        ),
        (
            "subagent.completed",
            None,
            json!({"toolCallId": "c", "agentName": "a", "agentDisplayName": "A", "model": "m",
                "totalToolCalls": 1, "totalTokens": 2, "durationMs": 3, "cancelled": false}),
        ),
        (
            "subagent.failed",
            None,
            json!({"toolCallId": "c", "agentName": "a", "agentDisplayName": "A", "model": "m", "error": "e",
                "durationMs": 3}),
        ),
        (
            "session.usage_info",
            None,
            json!({"tokenLimit": 9, "currentTokens": 5, "messagesLength": 2, "systemTokens": 1,
                "conversationTokens": 3, "toolDefinitionsTokens": 1}),
        ),
        (
            "session.truncation",
            None,
            json!({"tokenLimit": 9, "tokensRemovedDuringTruncation": 3, "messagesRemovedDuringTruncation": 1}),
        ),
        ("session.todos_changed", None, json!({})),
        ("session.plan_changed", None, json!({"operation": "update"})),
        ("session.background_tasks_changed", None, json!({})),
        ("session.snapshot_rewind", None, json!({"upToEventId": "e", "eventsRemoved": 3})),
        ("session.title_changed", None, json!({"title": "T"})),
        ("session.mode_changed", None, json!({"newMode": "plan"})),
        (
            "session.mcp_server_status_changed",
            None,
            json!({"serverName": "s", "status": "failed", "error": "e"}),
        ),
        ("session.task_complete", None, json!({"summary": "s"})),
        ("session.autopilot_stopped", None, json!({"reason": "done"})),
        ("session.compaction_start", None, json!({"trigger": "threshold"})),
        (
            "session.compaction_complete",
            None,
            json!({"success": true, "error": "e", "preCompactionTokens": 9, "postCompactionTokens": 1}),
        ),
        ("session.warning", None, json!({"warningType": "w", "message": "hm"})),
        (
            "session.error",
            None,
            json!({"errorType": "query", "message": "no", "errorCode": "e", "statusCode": 500,
                "originatingMessageId": "m"}),
        ),
        (
            "session.model_change",
            None,
            json!({"newModel": "m", "previousModel": "l", "reasoningEffort": "low", "previousReasoningEffort": "high"}),
        ),
        ("session.shutdown", None, json!({"shutdownType": "routine"})),
        ("session.idle", None, json!({"aborted": false, "mode": "interactive"})),
        ("abort", None, json!({"reason": "user_initiated"})),
    ]
}

/// The forms in which a field may come; `None` is absent.
fn forms() -> Vec<Option<Value>> {
    vec![
        None,
        Some(Value::Null),
        Some(json!(7)),
        Some(json!(-1.5)),
        Some(json!(1e300)),
        Some(json!("text")),
        Some(json!("")),
        Some(json!({})),
        Some(json!({"a": [null]})),
        Some(json!([])),
        Some(json!([null, 7, "a", {}])),
        Some(json!(true)),
    ]
}

fn read(event: &Value) -> Payload {
    let params = json!({"sessionId": "s", "event": event}).to_string();
    let event = parse(params.as_bytes()).unwrap_or_else(|| panic!("{params} is no event"));
    event.payload
}

/// The effect of an event, beside its data.
fn effect(payload: &Payload) -> (Discriminant<Payload>, Option<String>, Option<String>) {
    let request = payload.request_id().map(Cow::into_owned);
    (discriminant(payload), request, completed(payload).map(ToOwned::to_owned))
}

#[test]
fn the_table_has_every_known_kind_and_every_field() {
    let samples = samples();
    let kinds: Vec<_> = samples.iter().map(|(kind, ..)| *kind).collect();
    for (kind, fields) in known_fields() {
        let (_, _, data) =
            samples.iter().find(|(other, ..)| *other == kind).unwrap_or_else(|| panic!("{kind}"));
        for field in fields {
            assert!(data.get(lenient::camel_case(field)).is_some(), "{kind} has no {field}");
        }
    }
    assert_eq!(kinds.len(), known_fields().len());
}

#[test]
fn an_event_is_typed_and_has_its_effect_in_whatever_form_its_fields_come() {
    for (kind, identity, whole) in samples() {
        let expected = effect(&read(&json!({"type": kind, "id": "1", "timestamp": "t", "data": whole})));
        for field in whole.as_object().unwrap().keys() {
            for form in forms() {
                let mut data = whole.clone();
                match &form {
                    Some(form) => data[field] = form.clone(),
                    None => drop(data.as_object_mut().unwrap().remove(field)),
                }
                let payload = read(&json!({"type": kind, "id": "1", "timestamp": "t", "data": data}));
                let read = format!("{kind}.{field} = {form:?}: {payload:?}");
                if identity == Some(field.as_str()) {
                    let is_id = form.and_then(|form| Some(!form.as_str()?.is_empty())).unwrap_or(false);
                    assert_eq!(matches!(payload, Payload::Other(_)), !is_id, "{read}");
                } else {
                    assert!(!matches!(payload, Payload::Other(_)), "{read}");
                    assert_eq!(effect(&payload), expected, "{read}");
                }
            }
        }
    }
}

#[test]
fn an_event_is_typed_whatever_its_data_are_unless_it_has_to_say_of_what_it_tells() {
    for (kind, identity, _) in samples() {
        for data in forms() {
            let mut event = json!({"type": kind, "id": "1"});
            if let Some(data) = &data {
                event["data"] = data.clone();
            }
            let payload = read(&event);
            // A type with a single field may come as that field alone.
            let by_itself = data.as_ref().is_some_and(|data| *data == json!("text"));
            if !by_itself {
                assert_eq!(matches!(payload, Payload::Other(_)), identity.is_some(), "{kind}: {data:?}");
            }
        }
    }
}

#[test]
fn an_envelope_may_have_its_fields_in_any_form() {
    for (kind, _, data) in samples() {
        for field in ["id", "timestamp", "ephemeral", "parentId", "new", "agentId"] {
            for form in forms().into_iter().flatten() {
                let mut event = json!({"type": kind, "id": "1", "timestamp": "t", "data": data});
                event[field] = form.clone();
                let params = json!({"sessionId": "s", "event": event}).to_string();
                let event = parse(params.as_bytes()).unwrap();
                assert!(!matches!(event.payload, Payload::Other(_)), "{params}");
                // An event of an agent whose id cannot be read did not happen in the main agent.
                let is_main = field != "agentId" || form.is_null();
                assert_eq!(event.agent_id.is_none(), is_main, "{params}");
            }
        }
    }
}

#[test]
fn what_was_written_in_another_type_is_read_where_it_makes_sense() {
    let usage = read(&json!({"type": "assistant.usage", "data": {"inputTokens": 5.0, "outputTokens": "3",
            "copilotUsage": {"totalNanoAiu": "1.5"}}}));
    let Payload::AssistantUsage(usage) = usage else { panic!("{usage:?}") };
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.nano_ai_credits()), (Some(5), Some(3), 2));
    let tool = json!({"toolCallId": "c", "success": true, "result": "done", "error": "none"});
    let tool = read(&json!({"type": "tool.execution_complete", "data": tool}));
    let Payload::ToolExecutionComplete(tool) = tool else { panic!("{tool:?}") };
    assert_eq!(tool.result.unwrap().content.as_deref(), Some("done"));
    assert_eq!(tool.error.unwrap().message.as_deref(), Some("none"));
    let question = json!({"requestId": "r", "question": "?", "choices": ["a", 1, null, "b"]});
    let question = read(&json!({"type": "user_input.requested", "data": question}));
    let Payload::UserInputRequested(question) = question else { panic!("{question:?}") };
    assert_eq!(question.choices, ["a", "b"]);
}

#[test]
fn what_nobody_looks_into_may_be_as_deep_as_it_likes() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let data = format!(r#"{{"requestId":"r","toolCallId":"c","toolName":"weather","arguments":{deep}}}"#);
    let of_kind = |kind: &str| {
        let params = format!(r#"{{"sessionId":"s","event":{{"type":"{kind}","data":{data},"id":"1"}}}}"#);
        parse(params.as_bytes()).unwrap().payload
    };
    let request = of_kind("external_tool.requested");
    assert_eq!(requested(&request), Some((RequestKind::ToolCall, "r")));
    let Payload::ExternalToolRequested(call) = request else { panic!() };
    assert_eq!(call.arguments.as_str(), deep);
    let start = of_kind("tool.execution_start");
    assert!(matches!(&start, Payload::ToolExecutionStart(tool) if tool.arguments.as_str() == deep));
}
