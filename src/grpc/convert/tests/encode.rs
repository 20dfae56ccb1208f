//! Responses and events, as the contract has them.

use std::{collections::BTreeMap, sync::Arc};

use pb::session_event::Payload as Pb;
use prost_types::Timestamp;
use tonic::{Code, Status};

use super::{super::encode::*, *};
use crate::{
    copilot::method::FileChange,
    grpc::pb,
    session::{
        Cursor, Delivery, Remains, SessionState, Summary, ToolCall, TurnCause, TurnError, TurnResult, Usage,
        fanout::Update,
    },
    store::Time,
};

fn told(event: Event) -> pb::SessionEvent {
    session_event(Update::new(Arc::new(event), None), usize::MAX)
}

fn milliseconds_of(milliseconds: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }
}

/// The kinds of event that have a field of their own: the data as the CLI sends them, and the message.
fn events() -> Vec<(&'static str, Json, Pb)> {
    let command = || r#"{"command":"ls"}"#.to_owned();
    let completed = || Pb::AskCompleted(pb::AskCompleted { ask_id: "r".into() });
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
                    arguments_json: command(),
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
                "cacheWriteTokens": 4, "reasoningTokens": 5, "copilotUsage": {"totalNanoAiu": 7.4}, "duration": 250, "initiator": "u",
                "finishReason": "tool_calls", "contentFilterTriggered": false}),
            Pb::AssistantUsage(pb::AssistantUsage {
                model: "gpt".into(),
                input_tokens: 1,
                output_tokens: 2,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                reasoning_tokens: 5,
                nano_ai_credits: 7,
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
                arguments_json: command(),
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
                "result": {"content": "a.txt", "detailedContent": "a.txt\n", "structuredContent": {"n": 1}}}),
            Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
                tool_call_id: "c".into(),
                success: true,
                content: "a.txt".into(),
                error_message: String::new(),
                structured_content_json: r#"{"n":1}"#.into(),
            }),
        ),
        (
            "permission.requested",
            json!({"requestId": "p", "permissionRequest": {"kind": "shell", "toolCallId": "c"},
                "promptRequest": {}, "agentMode": "interactive"}),
            Pb::PermissionAsked(pb::PermissionAsked {
                ask_id: "p".into(),
                kind: "shell".into(),
                tool_call_id: "c".into(),
                details_json: r#"{"kind":"shell","toolCallId":"c"}"#.into(),
                awaits_answer: false,
                subject: String::new(),
            }),
        ),
        (
            "permission.completed",
            json!({"requestId": "p", "toolCallId": "c", "result": {"kind": "approved"}}),
            Pb::PermissionCompleted(pb::PermissionCompleted {
                ask_id: "p".into(),
                tool_call_id: "c".into(),
                outcome: "approved".into(),
            }),
        ),
        (
            "external_tool.requested",
            json!({"requestId": "r", "sessionId": "s", "toolCallId": "c", "toolName": "look",
                "arguments": {"command": "ls"}, "workingDirectory": "/w"}),
            Pb::ToolCallAsked(pb::ToolCallAsked {
                ask_id: "r".into(),
                tool_call_id: "c".into(),
                name: "look".into(),
                arguments_json: command(),
            }),
        ),
        ("external_tool.completed", json!({"requestId": "r"}), completed()),
        (
            "user_input.requested",
            json!({"requestId": "r", "question": "Which?", "choices": ["a", "b"], "allowFreeform": false,
                "toolCallId": "c"}),
            Pb::UserInputAsked(pb::UserInputAsked {
                ask_id: "r".into(),
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
            Pb::ElicitationAsked(pb::ElicitationAsked {
                ask_id: "r".into(),
                message: "Please fill".into(),
                schema_json: r#"{"type":"object"}"#.into(),
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
            Pb::ExitPlanAsked(pb::ExitPlanAsked {
                ask_id: "r".into(),
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
            "assistant.intent",
            json!({"intent": "Looking around"}),
            Pb::AssistantIntent(pb::AssistantIntent { intent: "Looking around".into() }),
        ),
        (
            "assistant.tool_call_delta",
            json!({"toolCallId": "c", "toolName": "bash", "toolType": "function", "inputDelta": "{\"com"}),
            Pb::AssistantToolCallDelta(pb::AssistantToolCallDelta {
                tool_call_id: "c".into(),
                name: "bash".into(),
                text: "{\"com".into(),
            }),
        ),
        (
            "subagent.started",
            json!({"toolCallId": "c", "agentName": "explore", "agentDisplayName": "Explorer",
                "agentDescription": "looks", "model": "gpt", "executionMode": "sync"}),
            Pb::SubAgentStarted(pb::SubAgentStarted {
                tool_call_id: "c".into(),
                name: "explore".into(),
                display_name: "Explorer".into(),
                description: "looks".into(),
                model: "gpt".into(),
            }),
        ),
        (
            "subagent.completed",
            json!({"toolCallId": "c", "agentName": "explore", "agentDisplayName": "Explorer", "model": "gpt",
                "totalToolCalls": 2, "totalTokens": 30, "durationMs": 250, "cancelled": true}),
            Pb::SubAgentCompleted(pb::SubAgentCompleted {
                tool_call_id: "c".into(),
                name: "explore".into(),
                display_name: "Explorer".into(),
                model: "gpt".into(),
                tool_calls: 2,
                tokens: 30,
                duration: Some(milliseconds_of(250)),
                cancelled: true,
            }),
        ),
        (
            "subagent.failed",
            json!({"toolCallId": "c", "agentName": "explore", "agentDisplayName": "Explorer",
                "error": "no", "durationMs": 250}),
            Pb::SubAgentFailed(pb::SubAgentFailed {
                tool_call_id: "c".into(),
                name: "explore".into(),
                display_name: "Explorer".into(),
                model: String::new(),
                error_message: "no".into(),
                duration: Some(milliseconds_of(250)),
            }),
        ),
        (
            "session.model_change",
            json!({"newModel": "large", "previousModel": "small", "reasoningEffort": null,
                "previousReasoningEffort": "low", "source": "sdk"}),
            Pb::SessionModelChanged(pb::SessionModelChanged {
                model: "large".into(),
                previous_model: "small".into(),
                reasoning_effort: String::new(),
                previous_reasoning_effort: "low".into(),
            }),
        ),
        (
            "session.mcp_server_status_changed",
            json!({"serverName": "el", "status": "failed", "error": "no such program"}),
            Pb::McpServerStatusChanged(pb::McpServerStatusChanged {
                server: "el".into(),
                status: "failed".into(),
                error_message: "no such program".into(),
            }),
        ),
        (
            "session.usage_info",
            json!({"tokenLimit": 100, "currentTokens": 50, "messagesLength": 3, "systemTokens": 20,
                "conversationTokens": 25, "toolDefinitionsTokens": 5}),
            Pb::SessionContextUsage(pb::SessionContextUsage {
                current_tokens: 50,
                token_limit: 100,
                messages: 3,
                system_tokens: 20,
                conversation_tokens: 25,
                tool_definitions_tokens: 5,
            }),
        ),
        (
            "session.truncation",
            json!({"tokenLimit": 100, "preTruncationTokensInMessages": 120, "preTruncationMessagesLength": 9,
                "postTruncationTokensInMessages": 80, "postTruncationMessagesLength": 5,
                "tokensRemovedDuringTruncation": 40, "messagesRemovedDuringTruncation": 4, "performedBy": "x"}),
            Pb::SessionTruncated(pb::SessionTruncated {
                tokens_removed: 40,
                messages_removed: 4,
                token_limit: 100,
            }),
        ),
        ("session.todos_changed", json!({}), Pb::SessionTodosChanged(pb::SessionTodosChanged {})),
        (
            "session.plan_changed",
            json!({"operation": "update"}),
            Pb::SessionPlanChanged(pb::SessionPlanChanged { operation: "update".into() }),
        ),
        (
            "session.background_tasks_changed",
            json!({}),
            Pb::SessionBackgroundTasksChanged(pb::SessionBackgroundTasksChanged {}),
        ),
        (
            "session.snapshot_rewind",
            json!({"upToEventId": "e9", "eventsRemoved": 12}),
            Pb::SessionRewound(pb::SessionRewound { event_id: "e9".into(), events_removed: 12 }),
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
    // Those that, as the contract says, have to be asked for by name.
    let only_by_name = [
        "assistant.tool_call_delta",
        "session.mcp_server_status_changed",
        "session.usage_info",
        "session.background_tasks_changed",
    ];
    for (kind, data, expected) in events {
        assert_ne!(DEFAULT_EVENTS.contains(&kind), only_by_name.contains(&kind), "{kind}");
        let event = wire(json!({"type": kind, "id": "e", "data": data}));
        assert_eq!(told(event).payload, Some(expected), "{kind}");
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
        Pb::PermissionAsked(pb::PermissionAsked {
            ask_id: "p".into(),
            details_json: "{}".into(),
            ..Default::default()
        }),
    );
    check(
        "external_tool.requested",
        json!({"requestId": "r", "toolCallId": "c", "toolName": "look"}),
        Pb::ToolCallAsked(pb::ToolCallAsked {
            ask_id: "r".into(),
            tool_call_id: "c".into(),
            name: "look".into(),
            arguments_json: "null".into(),
        }),
    );
    check(
        "user_input.requested",
        json!({"requestId": "r", "question": "Why?"}),
        Pb::UserInputAsked(pb::UserInputAsked {
            ask_id: "r".into(),
            question: "Why?".into(),
            allow_freeform: true,
            ..Default::default()
        }),
    );
    // As the CLI sends it for a question that is answered elsewhere.
    check(
        "elicitation.requested",
        json!({"requestId": "r", "elicitationSource": "el", "mode": "url", "message": "Sign in",
            "url": "https://example.com", "elicitationId": "el1"}),
        Pb::ElicitationAsked(pb::ElicitationAsked {
            ask_id: "r".into(),
            message: "Sign in".into(),
            schema_json: String::new(),
            url: "https://example.com".into(),
            source: "el".into(),
        }),
    );
    check(
        "exit_plan_mode.requested",
        json!({"requestId": "r", "summary": "short"}),
        Pb::ExitPlanAsked(pb::ExitPlanAsked {
            ask_id: "r".into(),
            summary: "short".into(),
            ..Default::default()
        }),
    );
}

#[test]
fn events_without_a_field_of_their_own_keep_all_of_their_data() {
    let check = |kind: &str, data: &str| {
        let event = format!(r#"{{"sessionId":"s","event":{{"type":"{kind}","id":"e","data":{data}}}}}"#);
        let event = event::parse(event.as_bytes()).unwrap();
        let expected = Pb::Other(pb::Other { r#type: kind.into(), data_json: data.into() });
        assert_eq!(told(event).payload, Some(expected), "{kind}");
    };
    check("brand.new", r#"{"z": 1234567890123456789, "y": "\u00e9", "half": "\ud83d", "x": [1.0]}"#);
    check("brand.new", "null");
    check("brand.new", &("[".repeat(10_000) + &"]".repeat(10_000)));
    for kind in [
        "sampling.requested",
        "session_limits_exhausted.requested",
        "auto_mode_switch.requested",
        "mcp.oauth_required",
        "mcp.headers_refresh_required",
        "command.execute",
        "session.start",
        "session.shutdown",
        "session.resume",
        "session.mode_changed",
        "session.task_complete",
        "session.autopilot_stopped",
    ] {
        check(kind, r#"{"reason": "x", "requestId": "r"}"#);
    }
    // A known kind with data that lack what it needs.
    check("tool.execution_start", r#"{"toolName": "yes"}"#);
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
        truncated: false,
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
        create_time: Time(1_000_000),
        update_time: Time(2_500_001),
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
            update_time: Some(Timestamp { seconds: 2, nanos: 500_001_000 }),
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
            nano_ai_credits: 5,
            model_calls: 6,
            model_milliseconds: 250.0,
        },
        tool_calls: vec![ToolCall {
            id: "c".into(),
            name: "bash".into(),
            arguments: Some(json!({"command": "ls"}).into()),
            success: Some(false),
        }],
        structured: Some(json!({"command": "ls"}).into()),
        files_changed: vec![FileChange {
            path: "/w/a".into(),
            change_type: "created".into(),
            lines_added: 2,
            lines_removed: 1,
        }],
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
            nano_ai_credits: 5,
            model_calls: 6,
            model_time: Some(milliseconds_of(250)),
        }),
        tool_calls: vec![pb::ToolCall {
            tool_call_id: "c".into(),
            name: "bash".into(),
            arguments_json: r#"{"command":"ls"}"#.into(),
            success: Some(false),
        }],
        cursor: cursor.as_str().into(),
        model: String::new(),
        structured_content_json: r#"{"command":"ls"}"#.into(),
        finish_reason: pb::FinishReason::Length.into(),
        files_changed: vec![pb::FileChange {
            path: "/w/a".into(),
            r#type: pb::FileChangeType::Created.into(),
            lines_added: 2,
            lines_removed: 1,
        }],
        truncated: false,
    };
    assert_eq!(turn_result(&result), expected);
    let calls = result.tool_calls.iter().map(|call| ToolCall { arguments: None, ..call.clone() });
    let (tool_calls, files_changed) = (calls.collect(), Vec::new());
    let result = TurnResult { structured: None, cursor: None, tool_calls, files_changed, ..result };
    let bare = turn_result(&result);
    assert_eq!((bare.structured_content_json.as_str(), bare.cursor.as_str()), ("", ""));
    assert_eq!((bare.tool_calls[0].arguments_json.as_str(), bare.truncated), ("", true));
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
            let told = session_event(Update { asks: awaits_answer, ..Update::new(event, None) }, usize::MAX);
            let Some(Pb::PermissionAsked(told)) = told.payload else { panic!("{told:?}") };
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
    let told = session_event(Update::new(event.clone(), cursor), usize::MAX);
    assert_eq!(Cursor::event_id(&told.cursor, &session).as_deref(), Some("e 1"));
    // An event of a stored history has a cursor of its own.
    let told = stored_event(&session, Arc::unwrap_or_clone(event), usize::MAX);
    assert_eq!(Cursor::event_id(&told.cursor, &session).as_deref(), Some("e 2"));
}

#[test]
fn a_failed_turn_says_what_waits_for_an_answer_and_where_to_go_on() {
    let cursor = Cursor::after(&session_id(), "e");
    let check = |requests: usize, cursor: Option<&Cursor>, shown: usize| {
        let open_asks = (0..requests).map(|n| n.to_string()).collect::<Vec<_>>();
        let remains = Remains { open_asks: open_asks.clone(), cursor: cursor.cloned(), ..Remains::default() };
        let cause = TurnCause::Aborted;
        let failure = turn_failure(&TurnError { cause, delivery: Delivery::Delivered, remains });
        assert_eq!(failure.open_asks, open_asks[..shown]);
        assert_eq!(failure.cursor, cursor.map(Cursor::as_str).unwrap_or_default());
    };
    check(0, None, 0);
    check(2, Some(&cursor), 2);
    check(MAX_OPEN_ASKS + 1, None, MAX_OPEN_ASKS);
}

#[test]
fn a_failure_within_a_stream_says_all_that_a_status_would() {
    let status = crate::grpc::status::lagged(None);
    let told = failure("prompt-1".into(), "ask-1".into(), crate::grpc::status::reason(&status), &status);
    assert_eq!((told.prompt_id.as_str(), told.ask_id.as_str()), ("prompt-1", "ask-1"));
    assert_eq!((told.code, told.message.as_str()), (i32::from(Code::ResourceExhausted), status.message()));
    assert_eq!(told.reason(), pb::ErrorReason::StreamLagged);
    let [info] = &told.details[..] else { panic!("{told:?}") };
    assert_eq!(info.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let bare = failure(
        String::new(),
        String::new(),
        pb::ErrorReason::Unspecified,
        &Status::new(Code::Internal, "boom"),
    );
    assert_eq!((bare.code, bare.message.as_str(), bare.details.len()), (13, "boom", 0));
}
