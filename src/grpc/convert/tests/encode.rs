//! What callers are told.

use std::{collections::BTreeMap, sync::Arc};

use pb::session_event::Payload as Pb;
use prost_types::Timestamp;
use tonic::{Code, Status};

use super::{super::encode::*, *};
use crate::{
    grpc::pb,
    session::{
        Delivery, Remains, SessionState, Summary, ToolCall, TurnCause, TurnError, TurnResult, Usage,
        hub::{Cursor, Update},
    },
};

fn told(event: Event) -> pb::SessionEvent {
    Update::new(Arc::new(event), None).into()
}

fn milliseconds_of(milliseconds: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }
}

/// The kinds of event that have a field of their own: data as the CLI sends it, and what becomes of it.
fn events() -> Vec<(&'static str, Json, Pb)> {
    let command = || fields([("command", text("ls"))]);
    let completed = || Pb::RequestCompleted(pb::RequestCompleted { request_id: "r".into() });
    vec![
        (
            "user.message",
            json!({"content": "hi", "transformedContent": "<current_datetime>…", "messageId": "m",
                "attachments": [], "delivery": "idle", "interactionId": "i"}),
            Pb::UserMessage(pb::UserMessage { message_id: "m".into(), content: "hi".into() }),
        ),
        (
            "assistant.message",
            json!({"messageId": "a", "content": "", "originatingMessageId": "m", "model": "gpt",
                "outputTokens": 7, "interactionId": "i", "turnId": "0", "toolRequests": [
                    {"toolCallId": "c", "name": "bash", "arguments": {"command": "ls"}, "type": "function"}]}),
            Pb::AssistantMessage(pb::AssistantMessage {
                message_id: "a".into(),
                content: String::new(),
                originating_message_id: "m".into(),
                model: "gpt".into(),
                tool_requests: vec![pb::ToolRequest {
                    tool_call_id: "c".into(),
                    name: "bash".into(),
                    arguments: Some(command()),
                }],
            }),
        ),
        (
            "assistant.message_delta",
            json!({"messageId": "a", "deltaContent": "He", "parentToolCallId": "p"}),
            Pb::AssistantMessageDelta(pb::AssistantMessageDelta {
                message_id: "a".into(),
                text: "He".into(),
            }),
        ),
        (
            "assistant.reasoning",
            json!({"reasoningId": "r", "content": "hm"}),
            Pb::AssistantReasoning(pb::AssistantReasoning { reasoning_id: "r".into(), content: "hm".into() }),
        ),
        (
            "assistant.reasoning_delta",
            json!({"reasoningId": "r", "deltaContent": "h"}),
            Pb::AssistantReasoningDelta(pb::AssistantReasoningDelta {
                reasoning_id: "r".into(),
                text: "h".into(),
            }),
        ),
        (
            "assistant.turn_start",
            json!({"turnId": "0", "interactionId": "i"}),
            Pb::AssistantTurnStart(pb::AssistantTurnStart { turn_id: "0".into() }),
        ),
        (
            "assistant.turn_end",
            json!({"turnId": "0"}),
            Pb::AssistantTurnEnd(pb::AssistantTurnEnd { turn_id: "0".into() }),
        ),
        (
            "assistant.turn_retry",
            json!({"turnId": "0", "reason": "rate_limit", "model": "gpt"}),
            Pb::AssistantTurnRetry(pb::AssistantTurnRetry {
                turn_id: "0".into(),
                reason: "rate_limit".into(),
                model: "gpt".into(),
            }),
        ),
        (
            "assistant.usage",
            json!({"model": "gpt", "inputTokens": 1, "outputTokens": 2, "cacheReadTokens": 3,
                "cacheWriteTokens": 4, "reasoningTokens": 5, "cost": 0.5, "duration": 250, "initiator": "u",
                "finishReason": "tool_calls", "contentFilterTriggered": false}),
            Pb::AssistantUsage(pb::AssistantUsage {
                model: "gpt".into(),
                input_tokens: 1,
                output_tokens: 2,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                reasoning_tokens: 5,
                cost: 0.5,
                duration: Some(milliseconds_of(250)),
                finish_reason: pb::FinishReason::ToolOnly.into(),
            }),
        ),
        (
            "tool.execution_start",
            json!({"toolCallId": "c", "toolName": "bash", "arguments": {"command": "ls"}}),
            Pb::ToolExecutionStart(pb::ToolExecutionStart {
                tool_call_id: "c".into(),
                name: "bash".into(),
                arguments: Some(command()),
            }),
        ),
        (
            "tool.execution_partial_result",
            json!({"toolCallId": "c", "partialOutput": "a.txt"}),
            Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
                tool_call_id: "c".into(),
                partial_output: "a.txt".into(),
                message: String::new(),
            }),
        ),
        (
            "tool.execution_progress",
            json!({"toolCallId": "c", "progressMessage": "half"}),
            Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
                tool_call_id: "c".into(),
                partial_output: String::new(),
                message: "half".into(),
            }),
        ),
        (
            "tool.execution_complete",
            json!({"toolCallId": "c", "success": true, "toolTelemetry": {},
                "result": {"content": "a.txt", "detailedContent": "a.txt\n"}}),
            Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
                tool_call_id: "c".into(),
                success: true,
                content: "a.txt".into(),
                error_message: String::new(),
            }),
        ),
        (
            "permission.requested",
            json!({"requestId": "p", "permissionRequest": {"kind": "shell", "toolCallId": "c"},
                "promptRequest": {}, "agentMode": "interactive"}),
            Pb::PermissionRequested(pb::PermissionRequested {
                request_id: "p".into(),
                kind: "shell".into(),
                tool_call_id: "c".into(),
                details: Some(fields([("kind", text("shell")), ("toolCallId", text("c"))])),
                awaits_answer: false,
                subject: String::new(),
            }),
        ),
        (
            "permission.completed",
            json!({"requestId": "p", "toolCallId": "c", "result": {"kind": "approved"}}),
            Pb::PermissionCompleted(pb::PermissionCompleted {
                request_id: "p".into(),
                tool_call_id: "c".into(),
                outcome: "approved".into(),
            }),
        ),
        (
            "external_tool.requested",
            json!({"requestId": "r", "sessionId": "s", "toolCallId": "c", "toolName": "look",
                "arguments": {"command": "ls"}, "workingDirectory": "/w"}),
            Pb::ToolCallRequested(pb::ToolCallRequested {
                request_id: "r".into(),
                tool_call_id: "c".into(),
                name: "look".into(),
                arguments: Some(command()),
            }),
        ),
        ("external_tool.completed", json!({"requestId": "r"}), completed()),
        (
            "user_input.requested",
            json!({"requestId": "r", "question": "Which?", "choices": ["a", "b"], "allowFreeform": false,
                "toolCallId": "c"}),
            Pb::UserInputRequested(pb::UserInputRequested {
                request_id: "r".into(),
                question: "Which?".into(),
                choices: vec!["a".into(), "b".into()],
                allow_freeform: false,
                tool_call_id: "c".into(),
            }),
        ),
        ("user_input.completed", json!({"requestId": "r", "answer": "a", "wasFreeform": false}), completed()),
        (
            "elicitation.requested",
            json!({"requestId": "r", "elicitationSource": "el", "message": "Please fill",
                "requestedSchema": {"type": "object"}}),
            Pb::ElicitationRequested(pb::ElicitationRequested {
                request_id: "r".into(),
                message: "Please fill".into(),
                schema: Some(fields([("type", text("object"))])),
                url: String::new(),
                source: "el".into(),
            }),
        ),
        (
            "elicitation.completed",
            json!({"requestId": "r", "action": "accept", "content": {"n": 1}}),
            completed(),
        ),
        (
            "exit_plan_mode.requested",
            json!({"requestId": "r", "summary": "short", "planContent": "# Plan", "toolCallId": "c",
                "actions": ["autopilot", "interactive", "exit_only"], "recommendedAction": "interactive"}),
            Pb::ExitPlanRequested(pb::ExitPlanRequested {
                request_id: "r".into(),
                summary: "short".into(),
                plan: "# Plan".into(),
                actions: vec!["autopilot".into(), "interactive".into(), "exit_only".into()],
                recommended_action: "interactive".into(),
            }),
        ),
        (
            "exit_plan_mode.completed",
            json!({"requestId": "r", "approved": true, "selectedAction": "interactive"}),
            completed(),
        ),
        (
            "session.title_changed",
            json!({"title": "Files"}),
            Pb::SessionTitleChanged(pb::SessionTitleChanged { title: "Files".into() }),
        ),
        (
            "session.compaction_start",
            json!({"trigger": "threshold"}),
            Pb::SessionCompactionStart(pb::SessionCompactionStart { trigger: "threshold".into() }),
        ),
        (
            "session.compaction_complete",
            json!({"success": true, "preCompactionTokens": 90, "postCompactionTokens": 9}),
            Pb::SessionCompactionComplete(pb::SessionCompactionComplete {
                success: true,
                error_message: String::new(),
                tokens_before: 90,
                tokens_after: 9,
            }),
        ),
        (
            "session.warning",
            json!({"warningType": "subscription", "message": "careful"}),
            Pb::SessionWarning(pb::SessionWarning {
                r#type: "subscription".into(),
                message: "careful".into(),
            }),
        ),
        (
            "session.error",
            json!({"errorType": "rate_limit", "message": "slow down", "statusCode": 429,
                "errorCode": "too_many", "originatingMessageId": "m", "stack": "at x"}),
            Pb::SessionError(pb::SessionError {
                r#type: "rate_limit".into(),
                message: "slow down".into(),
                status_code: 429,
                error_code: "too_many".into(),
            }),
        ),
        (
            "session.idle",
            json!({"aborted": true, "mode": "interactive"}),
            Pb::SessionIdle(pb::SessionIdle { aborted: true }),
        ),
        (
            "abort",
            json!({"reason": "user_initiated"}),
            Pb::Abort(pb::Abort { reason: "user_initiated".into() }),
        ),
    ]
}

#[test]
fn every_default_event_has_a_field_of_its_own() {
    let events = events();
    for kind in DEFAULT_EVENTS {
        let (_, data, expected) = events
            .iter()
            .find(|(name, ..)| name == kind)
            .unwrap_or_else(|| panic!("{kind} has no row in events()"));
        let event = wire(json!({"type": kind, "id": "e", "data": data}));
        assert_eq!(told(event).payload.as_ref(), Some(expected), "{kind}");
    }
    for (kind, ..) in events {
        assert!(DEFAULT_EVENTS.contains(&kind), "{kind} is not sent by default");
    }
}

#[test]
fn what_an_event_does_not_say_is_empty() {
    let check = |kind: &str, data: Json, expected: Pb| {
        let event = wire(json!({"type": kind, "data": data}));
        assert_eq!(told(event).payload, Some(expected), "{kind}");
    };
    check(
        "user.message",
        json!({"content": "hi"}),
        Pb::UserMessage(pb::UserMessage { content: "hi".into(), ..Default::default() }),
    );
    check(
        "assistant.message",
        json!({"messageId": "a", "content": "hi"}),
        Pb::AssistantMessage(pb::AssistantMessage {
            message_id: "a".into(),
            content: "hi".into(),
            ..Default::default()
        }),
    );
    check("session.idle", json!({}), Pb::SessionIdle(pb::SessionIdle::default()));
    check(
        "tool.execution_complete",
        json!({"toolCallId": "c", "success": false, "error": {"message": "denied", "code": "x"}}),
        Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
            tool_call_id: "c".into(),
            error_message: "denied".into(),
            ..Default::default()
        }),
    );
    check(
        "permission.requested",
        json!({"requestId": "p", "permissionRequest": {}}),
        Pb::PermissionRequested(pb::PermissionRequested {
            request_id: "p".into(),
            details: Some(Struct::default()),
            ..Default::default()
        }),
    );
    check(
        "external_tool.requested",
        json!({"requestId": "r", "toolCallId": "c", "toolName": "look"}),
        Pb::ToolCallRequested(pb::ToolCallRequested {
            request_id: "r".into(),
            tool_call_id: "c".into(),
            name: "look".into(),
            arguments: Some(Struct::default()),
        }),
    );
    check(
        "user_input.requested",
        json!({"requestId": "r", "question": "Why?"}),
        Pb::UserInputRequested(pb::UserInputRequested {
            request_id: "r".into(),
            question: "Why?".into(),
            allow_freeform: true,
            ..Default::default()
        }),
    );
    // As the CLI tells of a question that is answered elsewhere.
    check(
        "elicitation.requested",
        json!({"requestId": "r", "elicitationSource": "el", "mode": "url", "message": "Sign in",
            "url": "https://example.com", "elicitationId": "el1"}),
        Pb::ElicitationRequested(pb::ElicitationRequested {
            request_id: "r".into(),
            message: "Sign in".into(),
            schema: None,
            url: "https://example.com".into(),
            source: "el".into(),
        }),
    );
    check(
        "exit_plan_mode.requested",
        json!({"requestId": "r", "summary": "short"}),
        Pb::ExitPlanRequested(pb::ExitPlanRequested {
            request_id: "r".into(),
            summary: "short".into(),
            ..Default::default()
        }),
    );
}

#[test]
fn events_without_a_field_of_their_own_keep_all_of_their_data() {
    let check = |kind: &str, data: Json, expected: Struct| {
        let event = wire(json!({"type": kind, "id": "e", "data": data}));
        let expected = Pb::Other(pb::Other { r#type: kind.into(), data: Some(expected) });
        assert_eq!(told(event).payload, Some(expected), "{kind}");
    };
    check("brand.new", json!({"x": 1, "y": "z"}), fields([("x", number(1.0)), ("y", text("z"))]));
    check("brand.new", json!(null), Struct::default());
    check("session.start", json!({"version": 1}), fields([("version", number(1.0))]));
    check(
        "session.shutdown",
        json!({"shutdownType": "routine"}),
        fields([("shutdownType", text("routine"))]),
    );
    for kind in [
        "sampling.requested",
        "session_limits_exhausted.requested",
        "auto_mode_switch.requested",
        "mcp.oauth_required",
        "mcp.headers_refresh_required",
        "command.execute",
        "session.mcp_server_status_changed",
        "session.resume",
        "session.mode_changed",
        "session.task_complete",
        "session.autopilot_stopped",
    ] {
        check(kind, json!({"reason": "x"}), fields([("reason", text("x"))]));
    }
    // A kind that we know, which does not say of what it tells.
    check("tool.execution_start", json!({"toolName": "yes"}), fields([("toolName", text("yes"))]));
}

#[test]
fn the_envelope_says_when_where_and_whether_it_is_stored() {
    let full = wire(json!({"type": "abort", "id": "e", "timestamp": "2026-11-23T14:28:56.393Z",
        "agentId": "helper", "ephemeral": true, "parentId": null, "data": {"reason": "x"}}));
    let expected = pb::SessionEvent {
        event_id: "e".into(),
        event_time: Some(Timestamp { seconds: 1_795_444_136, nanos: 393_000_000 }),
        agent_id: "helper".into(),
        ephemeral: true,
        cursor: String::new(),
        payload: Some(Pb::Abort(pb::Abort { reason: "x".into() })),
    };
    assert_eq!(told(full), expected);
    let bare = told(wire(json!({"type": "abort", "timestamp": "yesterday", "data": {}})));
    assert_eq!((bare.event_time, bare.agent_id.as_str(), bare.ephemeral), (None, "", false));
}

#[test]
fn a_session_is_told_as_it_is() {
    let summary = |state| Summary {
        id: session_id(),
        model: "gpt".into(),
        reasoning_effort: "low".into(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        state,
        title: "Files".into(),
        create_time: "1970-01-01T00:00:01Z".into(),
        update_time: String::new(),
        working_directory: "/w".into(),
        owner: "alice".into(),
        profile: "team".into(),
    };
    let check = |state, expected: pb::SessionState| {
        let expected = pb::Session {
            session_id: "s".into(),
            model: "gpt".into(),
            reasoning_effort: "low".into(),
            state: expected.into(),
            title: "Files".into(),
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            create_time: Some(Timestamp { seconds: 1, nanos: 0 }),
            update_time: None,
            working_directory: "/w".into(),
            owner: "alice".into(),
            profile: "team".into(),
        };
        assert_eq!(session(summary(state)), expected);
    };
    check(SessionState::Idle, pb::SessionState::Idle);
    check(SessionState::Running, pb::SessionState::Running);
    check(SessionState::Waiting, pb::SessionState::Waiting);
    check(SessionState::Unloaded, pb::SessionState::Unloaded);
}

#[test]
fn a_result_is_told_whole() {
    let cursor = Cursor::after(&session_id(), "e");
    let result = TurnResult {
        message_id: "m".into(),
        content: "x".repeat(100_000),
        finish_reason: Some(crate::copilot::event::FinishReason::Length),
        model: None,
        usage: Usage {
            input_tokens: 1,
            output_tokens: 2,
            cache_read_tokens: 3,
            cache_write_tokens: 4,
            reasoning_tokens: 5,
            cost: 0.5,
            model_calls: 6,
            model_milliseconds: 250.0,
        },
        tool_calls: vec![ToolCall {
            id: "c".into(),
            name: "bash".into(),
            arguments: json!({"command": "ls"}),
            success: Some(false),
        }],
        structured: Some(json!({"command": "ls"})),
        cursor: Some(cursor.clone()),
    };
    let expected = pb::TurnResult {
        message_id: "m".into(),
        content: "x".repeat(100_000),
        usage: Some(pb::Usage {
            input_tokens: 1,
            output_tokens: 2,
            cache_read_tokens: 3,
            cache_write_tokens: 4,
            reasoning_tokens: 5,
            cost: 0.5,
            model_calls: 6,
            model_time: Some(milliseconds_of(250)),
        }),
        tool_calls: vec![pb::ToolCall {
            tool_call_id: "c".into(),
            name: "bash".into(),
            arguments: Some(fields([("command", text("ls"))])),
            success: Some(false),
        }],
        cursor: cursor.as_str().into(),
        model: String::new(),
        structured_content: Some(fields([("command", text("ls"))])),
        finish_reason: pb::FinishReason::Length.into(),
    };
    assert_eq!(turn_result(&result), expected);
    let bare = turn_result(&TurnResult { structured: None, cursor: None, ..result });
    assert_eq!((bare.structured_content, bare.cursor.as_str()), (None, ""));
}

#[test]
fn milliseconds_that_make_no_sense_are_none() {
    let check = |value: f64, seconds, nanos| {
        assert_eq!(milliseconds(value), prost_types::Duration { seconds, nanos }, "{value}");
    };
    check(0.0, 0, 0);
    check(0.5, 0, 500_000);
    check(61_250.0, 61, 250_000_000);
    for nonsense in [-1.0, f64::NAN, f64::INFINITY, 1e30] {
        check(nonsense, 0, 0);
    }
}

#[test]
fn a_permission_says_what_it_is_about_and_whether_somebody_has_to_answer() {
    let check = |request: Json, subject: &str| {
        let data = json!({"requestId": "p", "permissionRequest": request});
        for awaits_answer in [false, true] {
            let event = Arc::new(wire(json!({"type": "permission.requested", "data": data})));
            let told = pb::SessionEvent::from(Update { asks: awaits_answer, ..Update::new(event, None) });
            let Some(Pb::PermissionRequested(told)) = told.payload else { panic!("{told:?}") };
            assert_eq!((told.subject.as_str(), told.awaits_answer), (subject, awaits_answer), "{data}");
            assert_eq!(told.kind, request["kind"].as_str().unwrap());
        }
    };
    check(json!({"kind": "shell", "fullCommandText": "git log", "url": "https://x"}), "git log");
    check(json!({"kind": "write", "fileName": "/w/a", "path": "/x"}), "/w/a");
    check(json!({"kind": "read", "path": "/w/a"}), "/w/a");
    check(json!({"kind": "url", "url": "https://x", "fullCommandText": "curl"}), "https://x");
    check(json!({"kind": "mcp", "serverName": "el", "toolName": "el-echo"}), "el-echo");
    check(json!({"kind": "custom-tool", "toolName": "look"}), "look");
    check(json!({"kind": "memory", "fact": "x"}), "");
    check(json!({"kind": "shell"}), "");
}

#[test]
fn a_place_in_the_history_is_told_with_every_event_and_read_again() {
    let session = session_id();
    let event = Arc::new(wire(json!({"type": "abort", "id": "e 2", "ephemeral": true, "data": {}})));
    let cursor = Some(Cursor::after(&session, "e 1"));
    let told = pb::SessionEvent::from(Update::new(event.clone(), cursor));
    assert_eq!(Cursor::event_id(&told.cursor, &session).as_deref(), Some("e 1"));
    // An event of a stored history is a place of its own.
    let told = stored_event(&session, Arc::unwrap_or_clone(event));
    assert_eq!(Cursor::event_id(&told.cursor, &session).as_deref(), Some("e 2"));
}

#[test]
fn a_failed_turn_says_what_waits_for_an_answer_and_where_to_go_on() {
    let cursor = Cursor::after(&session_id(), "e");
    let check = |requests: usize, cursor: Option<&Cursor>, shown: usize| {
        let open_requests = (0..requests).map(|n| n.to_string()).collect::<Vec<_>>();
        let remains =
            Remains { open_requests: open_requests.clone(), cursor: cursor.cloned(), ..Remains::default() };
        let cause = TurnCause::Aborted;
        let failure = turn_failure(&TurnError { cause, delivery: Delivery::Delivered, remains });
        assert_eq!(failure.open_requests, open_requests[..shown]);
        assert_eq!(failure.cursor, cursor.map(Cursor::as_str).unwrap_or_default());
    };
    check(0, None, 0);
    check(2, Some(&cursor), 2);
    check(MAX_OPEN_REQUESTS + 1, None, MAX_OPEN_REQUESTS);
}

#[test]
fn a_failure_within_a_stream_says_all_that_a_status_would() {
    let status = crate::grpc::status::lagged(None);
    let told = failure("prompt-1".into(), "request-1".into(), &status);
    assert_eq!((told.prompt_id.as_str(), told.request_id.as_str()), ("prompt-1", "request-1"));
    assert_eq!((told.code, told.message.as_str()), (i32::from(Code::ResourceExhausted), status.message()));
    let [info] = &told.details[..] else { panic!("{told:?}") };
    assert_eq!(info.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let bare = failure(String::new(), String::new(), &Status::new(Code::Internal, "boom"));
    assert_eq!((bare.code, bare.message.as_str(), bare.details.len()), (13, "boom", 0));
}
