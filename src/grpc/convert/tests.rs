//! Each request, event and value, and what becomes of it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use pb::session_event::Payload as Pb;
use prost::Message as _;
use prost_types::{Struct, Timestamp, Value, value::Kind};
use serde_json::{Value as Json, json};

use super::{encode::*, json::*, parse::*};
use crate::{
    copilot::{Event, Provider, Secret, Section, Settings, SystemMessage, event},
    grpc::{pb, status::Violation},
    session::{
        Blueprint, HistoryPlace, Listing, Order, Policy, Profile, Profiles, Rule, Selection, SessionId,
        SessionState, Span, Summary, ToolCall, TurnResult, Usage, hub::Filter,
    },
};

/// What must not be seen in an error.
const SECRET: &str = "hunter2";

fn wire(event: Json) -> Event {
    event::parse(json!({"sessionId": "s", "event": event}).to_string().as_bytes()).unwrap()
}

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn milliseconds_of(milliseconds: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }
}

/// The kinds of event that have a field of their own: data as the CLI sends it, and what becomes of it.
fn events() -> Vec<(&'static str, Json, Pb)> {
    let command = || fields([("command", text("ls"))]);
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
                "cacheWriteTokens": 4, "reasoningTokens": 5, "cost": 0.5, "duration": 250, "initiator": "u"}),
            Pb::AssistantUsage(pb::AssistantUsage {
                model: "gpt".into(),
                input_tokens: 1,
                output_tokens: 2,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                reasoning_tokens: 5,
                cost: 0.5,
                duration: Some(milliseconds_of(250)),
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
        assert_eq!(session_event(&event).payload.as_ref(), Some(expected), "{kind}");
    }
    for (kind, ..) in events {
        assert!(DEFAULT_EVENTS.contains(&kind), "{kind} is not sent by default");
    }
}

#[test]
fn what_an_event_does_not_say_is_empty() {
    let check = |kind: &str, data: Json, expected: Pb| {
        let event = wire(json!({"type": kind, "data": data}));
        assert_eq!(session_event(&event).payload, Some(expected), "{kind}");
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
}

#[test]
fn events_without_a_field_of_their_own_keep_all_of_their_data() {
    let check = |kind: &str, data: Json, expected: Struct| {
        let event = wire(json!({"type": kind, "id": "e", "data": data}));
        let expected = Pb::Other(pb::Other { r#type: kind.into(), data: Some(expected) });
        assert_eq!(session_event(&event).payload, Some(expected), "{kind}");
    };
    check("brand.new", json!({"x": 1, "y": "z"}), fields([("x", number(1.0)), ("y", text("z"))]));
    check("brand.new", json!(null), Struct::default());
    check("session.start", json!({"version": 1}), fields([("version", number(1.0))]));
    check(
        "session.shutdown",
        json!({"shutdownType": "routine"}),
        fields([("shutdownType", text("routine"))]),
    );
    // A kind that we know, in a shape that we do not.
    check("session.idle", json!({"aborted": "yes"}), fields([("aborted", text("yes"))]));
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
        payload: Some(Pb::Abort(pb::Abort { reason: "x".into() })),
    };
    assert_eq!(session_event(&full), expected);
    let bare = session_event(&wire(json!({"type": "abort", "timestamp": "yesterday", "data": {}})));
    assert_eq!((bare.event_time, bare.agent_id.as_str(), bare.ephemeral), (None, "", false));
}

#[test]
fn json_becomes_a_struct_with_nothing_lost() {
    let check = |json: Json, expected: Struct| assert_eq!(object(&json), expected, "{json}");
    let null = || Value { kind: Some(Kind::NullValue(0)) };
    let list = |values| Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) };
    let nested = |fields| Value { kind: Some(Kind::StructValue(fields)) };
    let boolean = |value| Value { kind: Some(Kind::BoolValue(value)) };
    check(json!({}), fields([]));
    check(json!(null), fields([]));
    check(
        json!({"a": null, "b": true, "c": "ü"}),
        fields([("a", null()), ("b", boolean(true)), ("c", text("ü"))]),
    );
    check(
        json!({"n": [0, -1, 1.5, 1e300, 9_007_199_254_740_993_u64]}),
        fields([(
            "n",
            list(vec![
                number(0.0),
                number(-1.0),
                number(1.5),
                number(1e300),
                number(9_007_199_254_740_992.0),
            ]),
        )]),
    );
    check(
        json!({"a": [[], [null, {"b": [1]}]]}),
        fields([(
            "a",
            list(vec![list(vec![]), list(vec![null(), nested(fields([("b", list(vec![number(1.0)]))]))])]),
        )]),
    );
    check(json!({"": {"": {}}}), fields([("", nested(fields([("", nested(fields([])))])))]));
    // What is not an object.
    check(json!("ls"), fields([("value", text("ls"))]));
    check(json!([1, "a"]), fields([("value", list(vec![number(1.0), text("a")]))]));
    check(json!(false), fields([("value", boolean(false))]));
}

#[test]

fn deep_json_can_be_read_by_the_clients() {
    let deep = (0..60).fold(json!("x"), |inner, _| json!({"a": inner}));
    let event = session_event(&wire(json!({"type": "brand.new", "data": deep})));
    assert_eq!(pb::SessionEvent::decode(&*event.encode_to_vec()), Ok(event));
}

#[test]
fn a_session_is_told_as_it_is() {
    let summary = |state| Summary {
        id: SessionId::parse("s").unwrap(),
        model: "gpt".into(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        state,
        title: "Files".into(),
        create_time: "1970-01-01T00:00:01Z".into(),
        update_time: String::new(),
        working_directory: "/w".into(),
        owner: "ann".into(),
        profile: "team".into(),
    };
    let check = |state, expected: pb::SessionState| {
        let expected = pb::Session {
            session_id: "s".into(),
            model: "gpt".into(),
            state: expected.into(),
            title: "Files".into(),
            labels: HashMap::from([("team".into(), "blue".into())]),
            create_time: Some(Timestamp { seconds: 1, nanos: 0 }),
            update_time: None,
            working_directory: "/w".into(),
            owner: "ann".into(),
            profile: "team".into(),
        };
        assert_eq!(session(summary(state)), expected);
    };
    check(SessionState::Idle, pb::SessionState::Idle);
    check(SessionState::Running, pb::SessionState::Running);
    check(SessionState::Unloaded, pb::SessionState::Unloaded);
}

#[test]
fn a_result_is_told_whole() {
    let result = TurnResult {
        message_id: "m".into(),
        content: "x".repeat(100_000),
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
        model: String::new(),
    };
    assert_eq!(turn_result(&result), expected);
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

fn provider() -> pb::Provider {
    pb::Provider {
        r#type: "azure".into(),
        base_url: "https://api.example.com/v1".into(),
        api_key: SECRET.into(),
        bearer_token: "bearer".into(),
        wire_api: "responses".into(),
        headers: HashMap::from([("X-Team".into(), "a b".into())]),
        azure_api_version: "2026-01-01".into(),
        model_id: "gpt-5".into(),
        wire_model: "deployment".into(),
        max_prompt_tokens: 1000,
        max_output_tokens: 100,
    }
}

fn request() -> pb::CreateSessionRequest {
    pb::CreateSessionRequest {
        session_id: String::new(),
        profile: String::new(),
        model: "gpt".into(),
        provider: Some(provider()),
        github_token: "ghu_token".into(),
        system_message: Some(system_message(pb::SystemMessageMode::Append, "be brief", &[])),
        available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
        excluded_tools: vec!["builtin:task".into()],
        permission_policy: Some(pb::PermissionPolicy {
            rules: vec![rule("shell", pb::PermissionEffect::Deny), rule("*", pb::PermissionEffect::Allow)],
        }),
        labels: HashMap::from([("team".into(), "blue".into()), ("a/b.c_d-E".into(), String::new())]),
        working_directory: "/work".into(),
        reasoning_effort: "low".into(),
    }
}

fn system_message(
    mode: pb::SystemMessageMode,
    content: &str,
    sections: &[(&str, pb::SectionAction, &str)],
) -> pb::SystemMessage {
    let section = |(name, action, content): &(&str, pb::SectionAction, &str)| {
        (
            (*name).to_owned(),
            pb::SystemMessageSection { action: (*action).into(), content: (*content).into() },
        )
    };
    let sections = sections.iter().map(section).collect();
    pb::SystemMessage { mode: mode.into(), content: content.into(), sections }
}

#[test]
fn a_system_message_is_appended_replaced_or_customized() {
    use pb::{SectionAction as Do, SystemMessageMode as Mode};
    let content = || Some("text".to_owned());
    let parsed = |message| asked(|checks| checks.system_message(message));
    let customize = |content, sections: &[(&str, Section)]| SystemMessage::Customize {
        content,
        sections: sections.iter().map(|(name, section)| ((*name).into(), section.clone())).collect(),
    };
    assert_eq!(parsed(None), Ok(SystemMessage::default()));
    assert_eq!(parsed(Some(system_message(Mode::Append, "text", &[]))), Ok(customize(content(), &[])));
    let replaced = SystemMessage::Replace { content: "text".into() };
    assert_eq!(parsed(Some(system_message(Mode::Replace, "text", &[]))), Ok(replaced));
    let sections = [
        ("a", Do::Preserve, ""),
        ("b", Do::Remove, ""),
        ("c", Do::Replace, "x"),
        ("d", Do::Append, "x"),
        ("e", Do::Prepend, "x"),
    ];
    let text = || "x".to_owned();
    let expected = [
        ("a", Section::Preserve),
        ("b", Section::Remove),
        ("c", Section::Replace { content: text() }),
        ("d", Section::Append { content: text() }),
        ("e", Section::Prepend { content: text() }),
    ];
    assert_eq!(parsed(Some(system_message(Mode::Customize, "", &sections))), Ok(customize(None, &expected)));
    let refused = |message, fields: &str| assert_eq!(parsed(Some(message)), Err(fields.into()));
    refused(system_message(Mode::Unspecified, "text", &[]), "system_message.mode");
    refused(system_message(Mode::Append, " ", &[]), "system_message.content");
    refused(system_message(Mode::Replace, "", &[]), "system_message.content");
    refused(system_message(Mode::Append, "text", &sections[..1]), "system_message.sections");
    let section = |action| system_message(Mode::Customize, "", &[("a", action, "")]);
    refused(section(Do::Unspecified), "system_message.sections[\"a\"].action");
    refused(section(Do::Replace), "system_message.sections[\"a\"].content");
}

fn rule(kind: &str, effect: pb::PermissionEffect) -> pb::PermissionRule {
    pb::PermissionRule { kind: kind.into(), effect: effect.into() }
}

fn parse_all(request: pb::CreateSessionRequest, defaults: &Defaults) -> Result<Blueprint, Vec<Violation>> {
    let mut checks = Checks::default();
    let blueprint = checks.blueprint(request, defaults);
    checks.done(Some(blueprint))
}

fn parse(
    request: pb::CreateSessionRequest,
    defaults: &Defaults,
) -> Result<(Settings, Policy), Vec<Violation>> {
    parse_all(request, defaults).map(|blueprint| (blueprint.settings, blueprint.policy))
}

#[test]
fn labels_are_passed_on_and_it_is_noted_whose_provider_it_is() {
    let check = |request: pb::CreateSessionRequest, defaults: &Defaults, operators_provider| {
        assert_eq!(parse_all(request, defaults).unwrap().operators_provider, operators_provider);
    };
    let labels = parse_all(request(), &Defaults::default()).unwrap().labels;
    assert_eq!(labels, BTreeMap::from([("team".into(), "blue".into()), ("a/b.c_d-E".into(), String::new())]));
    let operator = Provider { base_url: "http://localhost".into(), ..Provider::default() };
    let defaults = Defaults { provider: Some(operator), model: Some("m".into()), ..Defaults::default() };
    check(request(), &defaults, false);
    check(pb::CreateSessionRequest::default(), &defaults, true);
    check(pb::CreateSessionRequest::default(), &Defaults::default(), false);
}

#[test]
fn sessions_are_selected_by_labels_and_states_that_can_be() {
    let labels = || HashMap::from([("team".to_owned(), "blue".to_owned())]);
    let state = |state: pb::SessionState| i32::from(state);
    let asked_for =
        |states: Vec<i32>| pb::ListSessionsRequest { labels: labels(), states, ..Default::default() };
    let states = vec![state(pb::SessionState::Unloaded), state(pb::SessionState::Idle)];
    let listing = asked(|checks| checks.listing(asked_for(states))).unwrap();
    let expected = Selection {
        labels: labels().into_iter().collect(),
        states: vec![SessionState::Idle, SessionState::Unloaded],
        ..Selection::default()
    };
    assert_eq!((listing.wanted, listing.order, listing.size), (expected, Order::Newest, DEFAULT_PAGE));
    for bad in [0, 77] {
        let refused = asked(|checks| checks.listing(asked_for(vec![bad])).size);
        assert_eq!(refused, Err("states[0]".into()));
    }
}

#[test]
fn sessions_are_selected_by_times_that_can_be_and_ordered_in_known_ways() {
    let check = |request: pb::ListSessionsRequest, expected: Result<(Selection, Order), &str>| {
        let parsed = asked(|checks| {
            let listing = checks.listing(request);
            (listing.wanted, listing.order)
        });
        assert_eq!(parsed, expected.map_err(str::to_owned));
    };
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let span = |from: &str, until: &str| Span { from: Some(from.into()), until: Some(until.into()) };
    let request = pb::ListSessionsRequest {
        owner: "ann".into(),
        created_after: time(0, 0),
        created_before: time(1, 500_000_000),
        updated_after: time(-62_135_596_800, 0),
        updated_before: time(253_402_300_799, 0),
        order_by: "update_time desc".into(),
        ..Default::default()
    };
    let wanted = Selection {
        owner: Some("ann".into()),
        created: span("1970-01-01T00:00:00Z", "1970-01-01T00:00:01.500Z"),
        updated: span("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        ..Selection::default()
    };
    check(request, Ok((wanted, Order::LatestChange)));
    for (request, field) in [
        (pb::ListSessionsRequest { created_before: time(0, -1), ..Default::default() }, "created_before"),
        (pb::ListSessionsRequest { updated_after: time(i64::MAX, 0), ..Default::default() }, "updated_after"),
        (pb::ListSessionsRequest { order_by: "title".into(), ..Default::default() }, "order_by"),
        (pb::ListSessionsRequest { order_by: "CREATE_TIME".into(), ..Default::default() }, "order_by"),
    ] {
        check(request, Err(field));
    }
}

#[test]
fn a_good_request_is_passed_on_whole() {
    let (settings, policy) = parse(request(), &Defaults::default()).unwrap();
    let expected = Settings {
        model: Some("gpt".into()),
        provider: Some(Provider {
            kind: Some("azure".into()),
            wire_api: Some("responses".into()),
            transport: None,
            base_url: "https://api.example.com/v1".into(),
            api_key: Some(Secret::new(SECRET)),
            bearer_token: Some(Secret::new("bearer")),
            azure_api_version: Some("2026-01-01".into()),
            headers: BTreeMap::from([("X-Team".into(), Secret::new("a b"))]),
            model_id: Some("gpt-5".into()),
            wire_model: Some("deployment".into()),
            max_prompt_tokens: Some(1000),
            max_output_tokens: Some(100),
        }),
        github_token: Some(Secret::new("ghu_token")),
        reasoning_effort: Some("low".into()),
        system_message: SystemMessage::Customize {
            content: Some("be brief".into()),
            sections: BTreeMap::new(),
        },
        available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
        excluded_tools: vec!["builtin:task".into()],
        ask_permission: true,
        working_directory: Some("/work".into()),
    };
    assert_eq!(settings, expected);
    let rules = [("shell", false), ("*", true)];
    let rules = rules.map(|(kind, allow)| Rule { kind: kind.into(), allow });
    assert_eq!(policy, Policy::new(rules.into()));
}

#[test]
fn what_a_request_does_not_say_is_left_to_the_cli() {
    let (settings, policy) = parse(pb::CreateSessionRequest::default(), &Defaults::default()).unwrap();
    assert_eq!((settings, policy), (Settings::default(), Policy::default()));
    let bare = pb::Provider { base_url: "http://localhost".into(), ..Default::default() };
    let request =
        pb::CreateSessionRequest { model: " gpt ".into(), provider: Some(bare), ..Default::default() };
    let (settings, _) = parse(request, &Defaults::default()).unwrap();
    let expected = Provider { base_url: "http://localhost".into(), ..Provider::default() };
    assert_eq!((settings.provider, settings.model.as_deref()), (Some(expected), Some("gpt")));
}

#[test]
fn defaults_apply_only_where_the_request_is_silent() {
    let defaults = Defaults {
        model: Some("default-model".into()),
        provider: Some(Provider { base_url: "http://default".into(), ..Provider::default() }),
        available_tools: vec!["default-tool".into()],
        policy: Policy::allowing(&["read".into()]),
    };
    let (settings, policy) = parse(pb::CreateSessionRequest::default(), &defaults).unwrap();
    assert_eq!(settings.model, defaults.model);
    assert_eq!(settings.provider, defaults.provider);
    assert_eq!(settings.available_tools, defaults.available_tools);
    assert_eq!((settings.ask_permission, &policy), (true, &defaults.policy));

    let (settings, policy) = parse(request(), &defaults).unwrap();
    let (own_settings, own_policy) = parse(request(), &Defaults::default()).unwrap();
    assert_eq!((settings, policy), (own_settings, own_policy));

    // A policy without rules is a policy, and denies everything.
    let silent = pb::CreateSessionRequest::default();
    let strict = pb::CreateSessionRequest { permission_policy: Some(Default::default()), ..silent.clone() };
    let (settings, policy) = parse(strict, &defaults).unwrap();
    assert_eq!((settings.ask_permission, policy), (false, Policy::default()));

    // The default model goes with the default provider, not with somebody's own.
    let own = pb::CreateSessionRequest { provider: Some(provider()), ..silent.clone() };
    let violations = parse(own, &defaults).unwrap_err();
    assert_eq!(violations[0].field, "model");
    let other_model = pb::CreateSessionRequest { model: "mine".into(), ..silent };
    let (settings, _) = parse(other_model, &defaults).unwrap();
    assert_eq!((settings.model.as_deref(), settings.provider), (Some("mine"), defaults.provider));
}

/// Spoils a good request, and expects that the field is named and no secret is told.
#[track_caller]
fn refuses(field: &str, spoil: impl Fn(&mut pb::CreateSessionRequest, &mut pb::Provider)) {
    let mut request = request();
    let mut provider = provider();
    spoil(&mut request, &mut provider);
    request.provider = request.provider.map(|_| provider);
    let violations = parse(request, &Defaults::default()).expect_err(field);
    let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(named, [field]);
    assert!(!violations[0].description.is_empty());
    assert!(!format!("{violations:?}").contains(SECRET), "{violations:?}");
}

#[test]
fn each_wrong_field_of_a_new_session_is_named_without_its_secret() {
    for model in ["", " \t"] {
        refuses("model", |request, _| request.model = model.into());
    }
    for token in ["hunter2 ", "hunter2\n", "hunter2\u{0}", " hunter2"] {
        refuses("github_token", |request, _| request.github_token = token.into());
        refuses("provider.api_key", |_, provider| provider.api_key = token.into());
        refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
    }
    for tool in ["", "*", "a b", "builtin:", "builtin:a*", "tool*", "é", "a/b"] {
        refuses("available_tools[1]", |request, _| request.available_tools[1] = tool.into());
    }
    for path in ["work", "./work", "~/work", " /work", "C:\\work"] {
        refuses("working_directory", |request, _| request.working_directory = path.into());
    }
    for kind in ["", "Shell", "shell*", "sh", "hook"] {
        refuses("permission_policy.rules[0].kind", |request, _| {
            let bad = rule(kind, pb::PermissionEffect::Allow);
            request.permission_policy = Some(pb::PermissionPolicy { rules: vec![bad] });
        });
    }
    for effect in [0, 3, -1] {
        refuses("permission_policy.rules[1].effect", |request, _| {
            let bad = pb::PermissionRule { kind: "*".into(), effect };
            let good = rule("read", pb::PermissionEffect::Allow);
            request.permission_policy = Some(pb::PermissionPolicy { rules: vec![good, bad] });
        });
    }
    for kind in ["OpenAI", "gemini", " openai", SECRET] {
        refuses("provider.type", |_, provider| provider.r#type = kind.into());
    }
    for wire_api in ["completion", "Responses", SECRET] {
        refuses("provider.wire_api", |_, provider| provider.wire_api = wire_api.into());
    }
    for url in [
        "",
        "api.example.com/v1",
        "//api.example.com",
        "/v1",
        "ftp://api.example.com",
        "https://",
        "https:///v1",
        "http://:80",
        "https://a b/v1",
        " https://api.example.com",
        "https://user:hunter2@api.example.com/v1",
        "https://hunter2@api.example.com/v1",
    ] {
        refuses("provider.base_url", |_, provider| provider.base_url = url.into());
    }
    for (name, value) in [("X Team", SECRET), ("", SECRET), ("é", SECRET), ("X-Team", "hunter2\r\nX-Evil: 1")]
    {
        refuses("provider.headers", |_, provider| {
            provider.headers = HashMap::from([(name.into(), value.into())]);
        });
    }
}

#[test]

fn a_secret_that_is_not_visible_ascii_is_refused() {
    for token in ["hunter2é", "hunter2\t", "\u{feff}hunter2", "hunter2…"] {
        refuses("github_token", |request, _| request.github_token = token.into());
        refuses("provider.api_key", |_, provider| provider.api_key = token.into());
        refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
    }
}

#[test]
fn good_urls_of_providers_are_taken() {
    for url in [
        "http://localhost",
        "http://localhost:8080/",
        "https://api.example.com/v1?api-version=1",
        "HTTPS://API.EXAMPLE.COM",
        "http://127.0.0.1:1234/v1",
        "http://[::1]:1234/v1",
        "https://host/a@b",
    ] {
        let mut request = request();
        request.provider = Some(pb::Provider { base_url: url.into(), ..provider() });
        let (settings, _) = parse(request, &Defaults::default()).expect(url);
        assert_eq!(settings.provider.unwrap().base_url, url);
    }
}

#[test]
fn all_that_is_wrong_with_a_new_session_is_said_at_once() {
    let request = pb::CreateSessionRequest {
        profile: String::new(),
        session_id: "a b".into(),
        model: String::new(),
        provider: Some(pb::Provider {
            r#type: "x".into(),
            wire_api: "x".into(),
            api_key: "a b".into(),
            bearer_token: "a b".into(),
            headers: HashMap::from([("a b".into(), String::new())]),
            ..Default::default()
        }),
        github_token: "a b".into(),
        system_message: Some(Default::default()),
        available_tools: vec![String::new(), "fine".into(), "*".into()],
        excluded_tools: vec!["*".into()],
        permission_policy: Some(pb::PermissionPolicy { rules: vec![Default::default()] }),
        labels: HashMap::from([("a b".into(), String::new())]),
        working_directory: "x".into(),
        reasoning_effort: String::new(),
    };
    let mut checks = Checks::default();
    let id = checks.session_id(&request.session_id);
    let blueprint = checks.blueprint(request, &Defaults::default());
    let violations = checks.done(id.zip(Some(blueprint))).unwrap_err();
    let mut named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
    named.sort();
    let expected = [
        "available_tools[0]",
        "available_tools[2]",
        "excluded_tools[0]",
        "github_token",
        "labels",
        "model",
        "permission_policy.rules[0].effect",
        "permission_policy.rules[0].kind",
        "provider.api_key",
        "provider.base_url",
        "provider.bearer_token",
        "provider.headers",
        "provider.type",
        "provider.wire_api",
        "session_id",
        "system_message.mode",
        "working_directory",
    ];
    assert_eq!(named, expected);
}

/// What one check says: the field that it refuses, or the value.
fn asked<T>(ask: impl FnOnce(&mut Checks) -> T) -> Result<T, String> {
    let mut checks = Checks::default();
    let value = ask(&mut checks);
    checks.done(Some(value)).map_err(|violations| {
        let named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        named.join(" ")
    })
}

#[test]
fn all_that_is_wrong_with_a_prompt_is_said_at_once() {
    let named = asked(|checks| {
        checks.event_types(vec![String::new()]);
        checks.session_id("");
        checks.duration("timeout", Some(Default::default()));
        checks.message(String::new(), Vec::new(), HashMap::new());
        checks.duration("inactivity_timeout", Some(Default::default()));
        checks.on_disconnect(9);
    });
    let expected = "event_types[0] session_id timeout prompt inactivity_timeout on_disconnect";
    assert_eq!(named, Err(expected.into()));
}

#[test]
fn nothing_comes_of_a_value_that_is_missing_or_wrong() {
    assert_eq!(Checks::default().done::<()>(None), Err(vec![]));
    assert_eq!(Checks::default().done(Some(1)), Ok(1));
    let mut checks = Checks::default();
    checks.wrong("field", "no");
    assert!(checks.done(Some(1)).is_err());
}

#[test]
fn a_prompt_is_not_empty_and_not_changed() {
    let check = |prompt: &str, expected: Result<&str, &str>| {
        let asked = asked(|checks| checks.message(prompt.into(), Vec::new(), HashMap::new()).prompt);
        assert_eq!(asked, expected.map(String::from).map_err(String::from), "{prompt:?}");
    };
    check("hi", Ok("hi"));
    check("  hi\n", Ok("  hi\n"));
    for empty in ["", " ", "\n\t ", "\u{a0}\u{2003}"] {
        check(empty, Err("prompt"));
    }
}

#[test]
fn a_duration_is_more_than_nothing() {
    let check = |seconds, nanos, expected: Option<Duration>| {
        let duration = prost_types::Duration { seconds, nanos };
        let expected = expected.map(Some).ok_or("timeout".to_owned());
        assert_eq!(asked(|checks| checks.duration("timeout", Some(duration))), expected, "{duration}");
    };
    check(1, 500_000_000, Some(Duration::from_millis(1500)));
    check(0, 1, Some(Duration::from_nanos(1)));
    check(315_576_000_000, 999_999_999, Some(LONGEST));
    // Not as it should be written, and clear nevertheless.
    check(1, -500_000_000, Some(Duration::from_millis(500)));
    check(0, 1_500_000_000, Some(Duration::from_millis(1500)));
    check(0, 0, None);
    check(0, -1, None);
    check(-1, 0, None);
    check(-1, 1_000_000_000, None);
    check(i64::MIN + 1, 0, None);
    assert_eq!(asked(|checks| checks.duration("timeout", None)), Ok(None));
}

#[test]

fn the_most_negative_duration_is_refused_too() {
    for (seconds, nanos) in [(i64::MIN, 0), (i64::MIN, i32::MIN)] {
        let duration = prost_types::Duration { seconds, nanos };
        let asked = asked(|checks| checks.duration("timeout", Some(duration)));
        assert_eq!(asked, Err("timeout".into()));
    }
}

#[tokio::test]

async fn a_huge_duration_can_be_added_to_a_moment() {
    for seconds in [315_576_000_000, i64::MAX] {
        let huge = prost_types::Duration { seconds, nanos: 0 };
        let duration = asked(|checks| checks.duration("inactivity_timeout", Some(huge))).unwrap().unwrap();
        assert!(tokio::time::Instant::now().checked_add(duration).is_some(), "{duration:?}");
    }
}

#[test]
fn only_who_says_so_leaves_a_turn_running() {
    let check = |choice: i32, expected: Result<bool, &str>| {
        let asked = asked(|checks| checks.on_disconnect(choice));
        assert_eq!(asked, expected.map_err(String::from), "{choice}");
    };
    check(pb::OnDisconnect::Unspecified.into(), Ok(false));
    check(pb::OnDisconnect::Abort.into(), Ok(false));
    check(pb::OnDisconnect::Continue.into(), Ok(true));
    check(3, Err("on_disconnect"));
    check(-1, Err("on_disconnect"));
}

#[test]
fn a_session_id_is_checked() {
    let check = |id: &str, expected: Result<&str, &str>| {
        let asked = asked(|checks| checks.session_id(id)).map(|id| id.unwrap().to_string());
        assert_eq!(asked, expected.map(String::from).map_err(String::from), "{id:?}");
    };
    check("My_session-1", Ok("My_session-1"));
    for bad in ["", "a b", "../x", &"x".repeat(129)] {
        check(bad, Err("session_id"));
    }
}

#[test]
fn a_page_has_a_size_within_bounds() {
    let check = |size: i32, expected: Result<usize, &str>| {
        assert_eq!(asked(|checks| checks.page_size(size)), expected.map_err(String::from), "{size}");
    };
    check(0, Ok(50));
    check(1, Ok(1));
    check(1000, Ok(1000));
    check(1001, Ok(1000));
    check(i32::MAX, Ok(1000));
    check(-1, Err("page_size"));
    check(i32::MIN, Err("page_size"));
}

#[test]
fn a_page_token_is_one_of_ours_or_empty() {
    let request = |token: &str| pb::ListSessionsRequest { page_token: token.into(), ..Default::default() };
    let token_of = |request| asked(|checks| checks.listing(request).after);
    assert_eq!(token_of(request("")), Ok(None));
    let one = |id: &str| Summary {
        id: SessionId::parse(id).unwrap(),
        model: String::new(),
        labels: BTreeMap::new(),
        state: SessionState::Idle,
        title: String::new(),
        create_time: "2026-11-23T14:28:56.393Z".into(),
        update_time: String::new(),
        working_directory: String::new(),
        owner: String::new(),
        profile: String::new(),
    };
    let (_, token) = Listing { size: 1, ..Listing::default() }.page(vec![one("a"), one("b")]);
    let encoded = token.as_ref().unwrap().encode();
    assert_eq!(token_of(request(&encoded)), Ok(token));
    for bad in ["x", "!!!", " ", &encoded[1..]] {
        assert_eq!(token_of(request(bad)), Err("page_token".into()), "{bad:?}");
    }
    // Of another list.
    let other = pb::ListSessionsRequest { owner: "ann".into(), ..request(&encoded) };
    assert_eq!(token_of(other), Err("page_token".into()));
    let other = pb::ListSessionsRequest { order_by: "create_time".into(), ..request(&encoded) };
    assert_eq!(token_of(other), Err("page_token".into()));
}

#[test]
fn events_are_chosen_by_name_or_by_its_beginning() {
    let check = |patterns: &[&str], expected: Result<Filter, &str>| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        assert_eq!(asked(|checks| checks.event_types(patterns)), expected.map_err(String::from));
    };
    let chosen = |patterns: &[&str]| {
        Ok(Filter::Patterns(patterns.iter().map(|pattern| (*pattern).to_owned()).collect()))
    };
    check(&[], Ok(Filter::Kinds(DEFAULT_EVENTS)));
    check(&["*"], chosen(&["*"]));
    check(&["abort", "tool.*", "brand.new"], chosen(&["abort", "tool.*", "brand.new"]));
    check(&[""], Err("event_types[0]"));
    check(&["abort", "*.message", "a b", "tool.**"], Err("event_types[1] event_types[2] event_types[3]"));
}

fn attachment(kind: pb::attachment::Kind) -> pb::Attachment {
    pb::Attachment { kind: Some(kind) }
}

#[test]
fn attachments_are_passed_on_as_the_cli_knows_them() {
    use pb::attachment::{Blob, Directory, File, Kind, Position, Selection};
    let place = |line, character| Some(Position { line, character });
    let attachments = vec![
        attachment(Kind::Blob(Blob {
            data: b"hi".into(),
            mime_type: "text/plain".into(),
            display_name: String::new(),
        })),
        attachment(Kind::File(File { path: "/w/a.rs".into(), display_name: String::new() })),
        attachment(Kind::Directory(Directory { path: "/w/src/".into(), display_name: "code".into() })),
        attachment(Kind::Selection(Selection {
            file_path: "lib/b.rs".into(),
            text: "fn b() {}".into(),
            start: place(1, 2),
            end: place(3, 4),
            display_name: String::new(),
        })),
    ];
    let message = asked(|checks| {
        checks.message("p".into(), attachments, HashMap::from([("x-tenant".into(), "blue".into())]))
    });
    let expected = json!({
        "prompt": "p",
        "attachments": [
            {"type": "blob", "data": "aGk=", "mimeType": "text/plain"},
            {"type": "file", "path": "/w/a.rs", "displayName": "a.rs"},
            {"type": "directory", "path": "/w/src/", "displayName": "code"},
            {
                "type": "selection", "filePath": "lib/b.rs", "displayName": "b.rs", "text": "fn b() {}",
                "selection": {"start": {"line": 1, "character": 2}, "end": {"line": 3, "character": 4}},
            },
        ],
        "requestHeaders": {"x-tenant": "blue"},
    });
    assert_eq!(serde_json::to_value(message.unwrap()).unwrap(), expected);
    let bare = asked(|checks| checks.message("p".into(), Vec::new(), HashMap::new())).unwrap();
    assert_eq!(serde_json::to_value(bare).unwrap(), json!({"prompt": "p"}));
}

#[test]
fn attachments_that_cannot_be_right_are_named() {
    use pb::attachment::{Blob, Directory, File, Kind, Position, Selection};
    let refused = |attachments: Vec<pb::Attachment>, fields: &str| {
        let message = asked(|checks| checks.message("p".into(), attachments, HashMap::new()));
        assert_eq!(message, Err(fields.into()));
    };
    let blob = |bytes: usize, mime_type: &str| {
        let (data, mime_type) = (vec![0; bytes], mime_type.into());
        attachment(Kind::Blob(Blob { data, mime_type, display_name: String::new() }))
    };
    let selection = Selection { start: Some(Position { line: 1, character: 0 }), ..Default::default() };
    refused(vec![pb::Attachment::default()], "attachments[0].kind");
    refused(
        vec![blob(1, "text/plain"), blob(0, "")],
        "attachments[1].blob.data attachments[1].blob.mime_type",
    );
    refused(vec![attachment(Kind::File(File::default()))], "attachments[0].file.path");
    let relative = Directory { path: "src".into(), display_name: String::new() };
    refused(vec![attachment(Kind::Directory(relative))], "attachments[0].directory.path");
    refused(
        vec![attachment(Kind::Selection(selection))],
        "attachments[0].selection.end attachments[0].selection.file_path attachments[0].selection.text",
    );
    refused(vec![blob(MAX_ATTACHED, "a/b"), blob(1, "a/b")], "attachments");
    refused((0..=MAX_ATTACHMENTS).map(|_| blob(1, "a/b")).collect(), "attachments");
    let headers = HashMap::from([("a b".to_owned(), String::new())]);
    let message = asked(|checks| checks.message("p".into(), Vec::new(), headers));
    assert_eq!(message, Err("request_headers".into()));
}

#[test]
fn json_survives_its_journey_through_a_struct() {
    let json = json!({"type": "object", "n": 3, "half": 0.5, "list": [null, true, {"deep": "text"}]});
    assert_eq!(from_struct(object(&json)), json);
    assert_eq!(from_struct(object(&json)).to_string(), json.to_string());
}

#[test]
fn a_schema_has_to_be_one() {
    let check = |schema: Json, expected: &str| {
        let mut checks = Checks::default();
        checks.json_schema("schema", object(&schema));
        let said = checks.done(Some(())).err().unwrap_or_default();
        let said: Vec<_> = said.iter().map(|wrong| wrong.description.as_str()).collect();
        assert!(said.concat().contains(expected) && said.is_empty() == expected.is_empty(), "{said:?}");
    };
    check(json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}), "");
    check(json!({}), "\"type\": \"object\"");
    check(json!({"type": "string"}), "\"type\": \"object\"");
    check(json!({"type": "object", "properties": {"a": {"type": "nonsense"}}}), "not a valid JSON schema");
    check(
        json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}),
        "not a valid JSON schema",
    );
}

#[test]
fn a_place_in_a_history_survives_its_journey_and_serves_its_own_session_only() {
    let id = SessionId::parse("s").unwrap();
    let place = HistoryPlace { cursor: "whatever the CLI says".into(), event_id: "e-1".into() };
    let token = history_token(&id, Some(place.clone()));
    assert_eq!(asked(|checks| checks.history_token("s", &token)), Ok(Some(place)));
    assert_eq!(asked(|checks| checks.history_token("t", &token)), Err("page_token".into()));
    assert_eq!(history_token(&id, None), "");
}

#[test]
fn a_title_is_short_and_of_one_line() {
    let check = |title: &str, expected: Option<&str>| {
        let session = pb::Session { title: title.into(), ..Default::default() };
        let mask = prost_types::FieldMask { paths: vec!["title".into()] };
        let changed = asked(|checks| checks.change(session, mask).title.unwrap());
        assert_eq!(changed, expected.map(str::to_owned).ok_or("session.title".into()), "{title:?}");
    };
    check(" A talk ", Some("A talk"));
    check(&"é".repeat(MAX_TITLE), Some(&"é".repeat(MAX_TITLE)));
    check(&"é".repeat(MAX_TITLE + 1), None);
    for bad in ["", "  ", "a\nb", "a\u{7}"] {
        check(bad, None);
    }
}

#[test]
fn a_profiles_defaults_come_before_the_operators_and_its_provider_has_no_other_model() {
    let provider = |url: &str| Some(Provider { base_url: url.into(), ..Provider::default() });
    let operator = Defaults {
        model: Some("theirs".into()),
        provider: provider("http://operator"),
        available_tools: vec!["bash".into()],
        policy: Policy::allowing(&["shell".into()]),
    };
    let unchanged = operator.under(&Profile::default());
    assert_eq!((unchanged.model, unchanged.provider), (operator.model.clone(), operator.provider.clone()));
    assert_eq!((unchanged.available_tools, unchanged.policy), (vec!["bash".into()], operator.policy.clone()));
    let profile = Profile {
        provider: provider("http://profile"),
        available_tools: Some(vec![]),
        policy: Some(Policy::default()),
        ..Profile::default()
    };
    let changed = operator.under(&profile);
    assert_eq!((changed.model, changed.provider), (None, profile.provider.clone()));
    assert_eq!((changed.available_tools, changed.policy), (vec![], Policy::default()));
    let named = Profile { models: vec!["o*".into(), "o3".into()], ..Profile::default() };
    assert_eq!(operator.under(&named).model.as_deref(), Some("o3"));
}

#[test]
fn a_profile_that_there_is_not_is_refused_without_the_names_of_others() {
    let profiles = Profiles::new([Profile { name: "secret-team".into(), ..Profile::default() }], None);
    assert_eq!(asked(|checks| checks.profile("other", &profiles)), Err("profile".into()));
    assert_eq!(asked(|checks| checks.profile("", &profiles)), Ok(None));
    assert!(asked(|checks| checks.profile("secret-team", &profiles)).unwrap().is_some());
}
