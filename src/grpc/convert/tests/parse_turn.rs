//! Prompts, and the events that their callers want.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    grpc::pb,
    session::{
        Deadline, Prompt,
        fanout::{Filter, Kinds},
    },
};

/// A prompt that nothing is wrong with.
fn request() -> pb::Prompt {
    pb::Prompt { text: "p".into(), ..Default::default() }
}

fn deadline(limit: Option<Duration>) -> Deadline {
    Deadline::after(limit.unwrap_or(Duration::from_secs(600)))
}

/// The result of parsing a prompt: the prompt, or the fields that are wrong.
fn parse(prompt: pb::Prompt) -> Result<Prompt, String> {
    asked(|checks| checks.prompt(Some(prompt), Filter::NOTHING, deadline)).map(Option::unwrap)
}

#[test]
fn all_that_is_wrong_with_a_prompt_is_said_at_once() {
    let named = asked(|checks| {
        checks.filter("event_types", vec![String::new()], false);
        let wrong = pb::Prompt {
            attachments: vec![pb::Attachment::default()],
            mode: 9,
            agent_mode: 9,
            timeout: Some(Default::default()),
            inactivity_timeout: Some(Default::default()),
            on_disconnect: 9,
            response_schema_json: "{}".into(),
            request_headers: BTreeMap::from([("a b".into(), String::new())]),
            request_id: "a b".into(),
            ..Default::default()
        };
        checks.prompt(Some(wrong), Filter::NOTHING, deadline);
    });
    let mut named: Vec<_> = named.as_ref().unwrap_err().split(' ').collect();
    named.sort_unstable();
    let expected = [
        "event_types[0]",
        "prompt.agent_mode",
        "prompt.attachments[0].kind",
        "prompt.inactivity_timeout",
        "prompt.mode",
        "prompt.on_disconnect",
        "prompt.request_headers",
        "prompt.request_id",
        "prompt.response_schema_json",
        "prompt.text",
        "prompt.timeout",
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_prompt_is_not_empty_and_not_changed() {
    let check = |prompt: &str, expected: Result<&str, &str>| {
        let request = pb::Prompt { text: prompt.into(), ..request() };
        let asked = parse(request).map(|prompt| prompt.message.prompt);
        assert_eq!(asked, expected.map(String::from).map_err(String::from), "{prompt:?}");
    };
    check("hi", Ok("hi"));
    check("  hi\n", Ok("  hi\n"));
    for empty in ["", " ", "\n\t ", "\u{a0}\u{2003}"] {
        check(empty, Err("prompt.text"));
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
    // Not written as it should be, and clear nevertheless.
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
    check(3, Err("prompt.on_disconnect"));
    check(-1, Err("prompt.on_disconnect"));
}

#[test]
fn events_are_chosen_by_name_or_by_its_beginning() {
    let check = |patterns: &[&str], expected: Result<Kinds, &str>| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let kinds = asked(|checks| checks.filter("event_types", patterns, false).kinds);
        assert_eq!(kinds, expected.map_err(String::from));
    };
    let chosen =
        |patterns: &[&str]| Ok(Kinds::Patterns(patterns.iter().map(|it| (*it).to_owned()).collect()));
    check(&[], Ok(Kinds::Exactly(DEFAULT_EVENTS)));
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
            mime_type: "TEXT/plain".into(),
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
    let request_headers = BTreeMap::from([("x-tenant".into(), "blue".into())]);
    let request = pb::Prompt { attachments, request_headers, ..request() };
    let message = parse(request).unwrap().message;
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
    assert_eq!(serde_json::to_value(message).unwrap(), expected);
}

#[test]
fn attachments_that_cannot_be_right_are_named() {
    use pb::attachment::{Blob, Directory, File, Kind, Position, Selection};
    let refused = |attachments: Vec<pb::Attachment>, fields: &str| {
        let refused = parse(pb::Prompt { attachments, ..request() });
        assert_eq!(refused.unwrap_err(), fields);
    };
    let blob = |bytes: usize, mime_type: &str| {
        let (data, mime_type) = (vec![0; bytes], mime_type.into());
        attachment(Kind::Blob(Blob { data, mime_type, display_name: String::new() }))
    };
    let selection = Selection { start: Some(Position { line: 1, character: 0 }), ..Default::default() };
    refused(vec![pb::Attachment::default()], "prompt.attachments[0].kind");
    refused(
        vec![blob(1, "text/plain"), blob(0, "")],
        "prompt.attachments[1].blob.data prompt.attachments[1].blob.mime_type",
    );
    refused(vec![attachment(Kind::File(File::default()))], "prompt.attachments[0].file.path");
    let relative = Directory { path: "src".into(), display_name: String::new() };
    refused(vec![attachment(Kind::Directory(relative))], "prompt.attachments[0].directory.path");
    refused(
        vec![attachment(Kind::Selection(selection))],
        "prompt.attachments[0].selection.end prompt.attachments[0].selection.file_path prompt.attachments[0].selection.text",
    );
    refused(vec![blob(MAX_ATTACHED, "a/b"), blob(1, "a/b")], "prompt.attachments");
    refused((0..=MAX_ATTACHMENTS).map(|_| blob(1, "a/b")).collect(), "prompt.attachments");
    let request_headers = BTreeMap::from([("a b".to_owned(), String::new())]);
    let refused = parse(pb::Prompt { request_headers, ..request() });
    assert_eq!(refused.unwrap_err(), "prompt.request_headers");
}

#[test]
fn a_prompt_that_says_no_more_is_one_for_the_queue() {
    let prompt = parse(request()).unwrap();
    assert_eq!(serde_json::to_value(&prompt.message).unwrap(), json!({"prompt": "p"}));
    assert!(!prompt.message.steering && !prompt.autopilot && !prompt.detached);
    assert!(prompt.schema.is_none() && prompt.request.is_none() && prompt.inactivity.is_none());
}

#[test]
fn a_prompt_waits_for_its_turn_or_joins_the_one_that_runs() {
    let check = |mode: i32, expected: Result<Option<&str>, &str>| {
        let message = parse(pb::Prompt { mode, ..request() }).map(|prompt| prompt.message);
        let steering = message.as_ref().map(|message| message.steering);
        assert_eq!(steering, expected.map(|mode| mode.is_some()).map_err(String::from).as_ref().copied());
        if let (Ok(message), Ok(expected)) = (message, expected) {
            let sent = serde_json::to_value(message).unwrap();
            assert_eq!(sent.get("mode").and_then(Json::as_str), expected, "{mode}");
        }
    };
    check(pb::SendMode::Unspecified.into(), Ok(None));
    check(pb::SendMode::Enqueue.into(), Ok(None));
    check(pb::SendMode::Immediate.into(), Ok(Some("immediate")));
    check(77, Err("prompt.mode"));
    check(-1, Err("prompt.mode"));
}

#[test]
fn the_agents_mode_is_one_that_the_cli_knows() {
    let check = |mode: i32, expected: Result<(Option<&str>, bool), &str>| {
        let parsed = parse(pb::Prompt { agent_mode: mode, ..request() });
        let parsed = parsed.map(|prompt| (prompt.message.agent_mode, prompt.autopilot));
        let expected = expected.map(|(mode, autopilot)| (mode.map(String::from), autopilot));
        assert_eq!(parsed, expected.map_err(String::from), "{mode}");
    };
    check(pb::AgentMode::Unspecified.into(), Ok((None, false)));
    check(pb::AgentMode::Interactive.into(), Ok((None, false)));
    check(pb::AgentMode::Plan.into(), Ok((Some("plan"), false)));
    check(pb::AgentMode::Autopilot.into(), Ok((Some("autopilot"), true)));
    check(77, Err("prompt.agent_mode"));
    check(-1, Err("prompt.agent_mode"));
}

#[test]
fn what_joins_a_running_turn_has_neither_a_schema_nor_an_autopilot_of_its_own() {
    let schema = || json!({"type": "object"}).to_string();
    let immediate = |request: pb::Prompt| pb::Prompt { mode: pb::SendMode::Immediate.into(), ..request };
    let with_schema = pb::Prompt { response_schema_json: schema(), ..request() };
    let in_autopilot = pb::Prompt { agent_mode: pb::AgentMode::Autopilot.into(), ..request() };
    let planning = pb::Prompt { agent_mode: pb::AgentMode::Plan.into(), ..request() };
    let refused = |request| parse(immediate(request)).unwrap_err();
    assert_eq!(refused(with_schema.clone()), "prompt.response_schema_json");
    assert_eq!(refused(in_autopilot.clone()), "prompt.agent_mode");
    assert!(parse(immediate(planning)).is_ok());
    assert!(parse(with_schema).is_ok() && parse(in_autopilot).is_ok());
}

#[test]
fn a_schema_for_the_answer_goes_to_the_model_and_is_kept_to_check_it() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let with = |schema: &Json| {
        let response_schema_json = schema.to_string();
        parse(pb::Prompt { response_schema_json, ..request() })
    };
    let prompt = with(&schema).unwrap();
    let format = json!({"type": "json_schema", "jsonSchema": {"name": "response", "schema": schema}});
    assert_eq!(serde_json::to_value(&prompt.message).unwrap()["responseFormat"], format);
    assert!(prompt.schema.is_some());
    for bad in [
        json!({}),
        json!({"type": "array"}),
        json!({"type": "object", "required": "n"}),
        json!({"type": "object", "properties": {"n": {"type": "int"}}}),
        json!({"type": "object", "properties": {"n": {"$ref": "file:///etc/passwd"}}}),
    ] {
        assert_eq!(with(&bad).unwrap_err(), "prompt.response_schema_json", "{bad}");
    }
}

#[test]
fn a_request_id_is_short_and_visible() {
    let check = |id: &str, expected: Result<Option<&str>, &str>| {
        let asked = asked(|checks| checks.request_id("request_id", id, &request()).map(|request| request.id));
        assert_eq!(asked, expected.map(|id| id.map(String::from)).map_err(String::from), "{id:?}");
    };
    let longest = "x".repeat(MAX_REQUEST_ID);
    check("", Ok(None));
    check("3f2c-9", Ok(Some("3f2c-9")));
    check("!~", Ok(Some("!~")));
    check(&longest, Ok(Some(&longest)));
    check(&"x".repeat(MAX_REQUEST_ID + 1), Err("request_id"));
    for bad in [" ", "a b", "a\n", "\u{7f}", "é"] {
        check(bad, Err("request_id"));
    }
}

#[test]
fn a_request_is_known_by_all_of_its_content() {
    let known = |request: &pb::Prompt| {
        asked(|checks| checks.request_id("request_id", &request.request_id, request)).unwrap().unwrap()
    };
    let headers: BTreeMap<_, _> = (0..32).map(|n| (format!("x-{n}"), n.to_string())).collect();
    let one = pb::Prompt {
        request_id: "once".into(),
        request_headers: headers.clone(),
        response_schema_json: json!({"type": "object", "a": 1, "b": 2}).to_string(),
        ..request()
    };
    // Written in another order it is an equal prompt.
    let same = pb::Prompt { request_headers: headers.into_iter().rev().collect(), ..one.clone() };
    assert_eq!(known(&one), known(&same));
    let others = [
        pb::Prompt { text: "q".into(), ..one.clone() },
        pb::Prompt { request_headers: BTreeMap::new(), ..one.clone() },
        pb::Prompt { response_schema_json: String::new(), ..one.clone() },
        pb::Prompt { timeout: Some(Default::default()), ..one.clone() },
        pb::Prompt { agent_mode: pb::AgentMode::Plan.into(), ..one.clone() },
        pb::Prompt { on_disconnect: pb::OnDisconnect::Continue.into(), ..one.clone() },
    ];
    for other in others {
        assert_ne!(known(&one).fingerprint, known(&other).fingerprint, "{other:?}");
    }
}

#[test]
fn events_of_sub_agents_are_wanted_unless_they_are_excluded() {
    let main = wire(json!({"type": "abort", "data": {}}));
    let helper = wire(json!({"type": "abort", "agentId": "helper", "data": {}}));
    let check = |exclude_sub_agents, expected: [bool; 2]| {
        let filter =
            asked(|checks| checks.filter("event_types", vec!["*".into()], exclude_sub_agents)).unwrap();
        assert_eq!([filter.wants(&main), filter.wants(&helper)], expected);
    };
    check(false, [true, true]);
    check(true, [true, false]);
}

#[test]
fn a_prompt_is_required() {
    assert_eq!(asked(|checks| checks.prompt(None, Filter::NOTHING, deadline)).unwrap_err(), "prompt");
}

#[test]
fn a_heartbeat_interval_is_none_or_between_a_second_and_a_day() {
    let check = |interval: Option<(i64, i32)>, expected: Result<Option<u64>, &str>| {
        let interval = interval.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
        let asked = asked(|checks| checks.heartbeat("heartbeat_interval", interval));
        assert_eq!(asked, expected.map(|it| it.map(Duration::from_secs)).map_err(String::from));
    };
    check(None, Ok(Some(30)));
    check(Some((0, 0)), Ok(None));
    check(Some((1, 0)), Ok(Some(1)));
    check(Some((86_400, 0)), Ok(Some(86_400)));
    for wrong in
        [(0, 1), (0, 999_999_999), (-1, 0), (0, -1), (86_401, 0), (i64::MAX, 0), (i64::MIN, i32::MIN)]
    {
        check(Some(wrong), Err("heartbeat_interval"));
    }
}

#[test]
fn the_size_of_events_is_large_enough_for_their_ids() {
    let check = |size: i32, expected: Result<usize, &str>| {
        let asked = asked(|checks| checks.max_event_size("max_event_size", size, 1 << 21));
        assert_eq!(asked, expected.map_err(String::from), "{size}");
    };
    check(0, Ok(DEFAULT_EVENT_SIZE));
    check(4096, Ok(4096));
    check(1 << 21, Ok(1 << 21));
    for wrong in [1, 4095, (1 << 21) + 1, -1, i32::MIN] {
        check(wrong, Err("max_event_size"));
    }
}
