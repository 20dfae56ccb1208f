//! Sequences of events, and how a turn takes them.

mod answers;

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::*;
use crate::copilot::{event::FinishReason, failure::AgentCause};

/// The id that `session.send` returned for the turn.
const ME: &str = "turn-1";

/// The id of a turn that is not the one.
const OTHER: &str = "turn-2";

/// The id of a prompt that was sent into the turn.
const STEER: &str = "steer-1";

/// Something that the turn is told.
#[derive(Debug, Clone)]
enum Step {
    Event(Value),
    Accepted,
    FoundIdle,
    /// Another prompt is sent into the turn.
    Steer,
    /// What came of that: the id that the CLI gave it.
    Steered(Option<&'static str>),
}
use Step::{Accepted, FoundIdle, Steer, Steered};

fn event(kind: &str, data: Value) -> Step {
    Step::Event(json!({"type": kind, "id": "e", "timestamp": "2026-11-23T14:28:56.393Z", "data": data}))
}

/// The same event in a sub-agent.
fn sub(step: Step) -> Step {
    let Step::Event(mut event) = step else { return step };
    event["agentId"] = "helper".into();
    Step::Event(event)
}

fn user(turn: &str) -> Step {
    event("user.message", json!({"content": "?", "messageId": turn, "delivery": "idle"}))
}

fn message(turn: &str, content: &str) -> Step {
    event(
        "assistant.message",
        json!({"messageId": "a", "content": content, "originatingMessageId": turn, "model": "gpt"}),
    )
}

fn wish(turn: &str, content: &str) -> Step {
    let tool_requests = json!([{"toolCallId": "c1", "name": "bash", "arguments": {}, "type": "function"}]);
    event(
        "assistant.message",
        json!({"messageId": "w", "content": content, "originatingMessageId": turn, "toolRequests": tool_requests}),
    )
}

fn delta(message: &str, text: &str) -> Step {
    event("assistant.message_delta", json!({"messageId": message, "deltaContent": text}))
}

fn tool_starts(call: &str) -> Step {
    let data = json!({"toolCallId": call, "toolName": "bash", "arguments": {"command": "ls"}});
    event("tool.execution_start", data)
}

fn tool_ends(call: &str, success: bool) -> Step {
    event("tool.execution_complete", json!({"toolCallId": call, "success": success}))
}

fn usage(input: i64, output: i64) -> Step {
    event(
        "assistant.usage",
        json!({"model": "gpt", "inputTokens": input, "outputTokens": output, "cacheReadTokens": 2,
            "cacheWriteTokens": 3, "reasoningTokens": 4, "copilotUsage": {"totalNanoAiu": 5}, "duration": 250}),
    )
}

fn error(turn: Option<&str>) -> Step {
    let mut data = json!({"errorType": "rate_limit", "message": "429 slow down", "statusCode": 429});
    if let Some(turn) = turn {
        data["originatingMessageId"] = turn.into();
    }
    event("session.error", data)
}

fn failed() -> Ending {
    Ending::Failed(AgentFailure {
        cause: AgentCause::RateLimit,
        message: "429 slow down".into(),
        error_type: "rate_limit".into(),
        status_code: Some(429),
    })
}

fn failed_with(message: &str) -> Ending {
    Ending::Failed(AgentFailure::other(message))
}

fn idle() -> Step {
    event("session.idle", json!({}))
}

fn aborted_idle() -> Step {
    event("session.idle", json!({"aborted": true}))
}

fn autopilot_stopped() -> Step {
    event("session.autopilot_stopped", json!({"reason": "cap_reached", "requestId": "r"}))
}

fn task_complete(summary: &str) -> Step {
    event("session.task_complete", json!({"summary": summary, "success": true}))
}

/// What the CLI tells the agent by itself in mode "autopilot".
fn continuation() -> Step {
    event(
        "user.message",
        json!({"content": "", "messageId": "auto-1", "source": "autopilot", "delivery": "idle",
            "isAutopilotContinuation": true, "agentMode": "autopilot"}),
    )
}

fn autopilot_idle(aborted: bool) -> Step {
    event("session.idle", json!({"aborted": aborted, "mode": "autopilot"}))
}

fn abort() -> Step {
    event("abort", json!({"reason": "user_initiated"}))
}

fn shutdown() -> Step {
    event("session.shutdown", json!({"shutdownType": "routine"}))
}

fn noise() -> Step {
    event("model.call_start", json!({"turnId": "0"}))
}

/// A turn, and all endings that it reported.
#[derive(Debug, Default)]
struct Run {
    turn: Machine,
    endings: Vec<Ending>,
}

impl Run {
    fn step(&mut self, step: Step) {
        let ending = match step {
            Step::Event(event) => {
                let params = json!({"sessionId": "s", "event": event}).to_string();
                self.turn.apply(&Arc::new(event::parse(params.as_bytes()).unwrap()))
            }
            Accepted => self.turn.accepted(ME.into()),
            FoundIdle => self.turn.found_idle(),
            Steer => {
                assert!(self.turn.steer());
                None
            }
            Steered(id) => self.turn.steered(id.map(String::from)),
        };
        self.endings.extend(ending);
    }
}

fn run(steps: impl IntoIterator<Item = Step>) -> Run {
    let mut run = Run::default();
    steps.into_iter().for_each(|step| run.step(step));
    run
}

/// How the turn stands after its steps.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Running,
    /// Neither: its acknowledgement or its idle is awaited.
    Waiting,
    Settled,
}
use Then::{Running, Settled, Waiting};

#[track_caller]
fn check(steps: impl IntoIterator<Item = Step>, expected: &[Ending], then: Then) -> Run {
    let run = run(steps);
    assert_eq!(run.endings, expected);
    let state = (run.turn.is_running(), run.turn.is_settled());
    assert_eq!(state, (then == Running, then == Settled), "(is_running, is_settled)");
    run
}

#[track_caller]
fn answered(steps: impl IntoIterator<Item = Step>, content: &str) {
    assert_eq!(check(steps, &[Ending::Answered], Settled).turn.result().content, content);
}

#[test]
fn a_turn_is_answered_by_the_last_message_when_the_session_comes_to_rest() {
    let steps = [
        Accepted,
        noise(),
        user(ME),
        event("assistant.turn_start", json!({"turnId": "0"})),
        delta("a", "Hel"),
        delta("a", "lo"),
        usage(10, 2),
        message(ME, "Hello"),
        event("assistant.turn_end", json!({"turnId": "0"})),
        idle(),
    ];
    let before_rest = steps.iter().take(9).cloned();
    check(before_rest, &[], Running);
    let run = check(steps, &[Ending::Answered], Settled);
    let expected = TurnResult {
        message_id: ME.into(),
        content: "Hello".into(),
        finish_reason: None,
        model: Some("gpt".into()),
        usage: Usage {
            input_tokens: 10,
            output_tokens: 2,
            cache_read_tokens: 2,
            cache_write_tokens: 3,
            reasoning_tokens: 4,
            nano_ai_credits: 5,
            model_calls: 1,
            model_milliseconds: 250.0,
        },
        tool_calls: vec![],
        structured: None,
        files_changed: vec![],
        cursor: None,
    };
    assert_eq!(run.turn.result(), expected);
    assert_eq!(run.turn.message_id(), Some(ME));
}

#[test]
fn each_of_several_turns_gets_its_own_answer_though_they_share_one_idle() {
    let ids = ["t1", "t2", "t3"];
    // As the CLI runs what it queued: out of order, and with a single idle at the end.
    let order = ["t1", "t3", "t2"];
    let events: Vec<_> = order
        .iter()
        .flat_map(|id| [user(id), message(id, &format!("answer to {id}"))])
        .chain([idle()])
        .collect();
    for id in ids {
        let mut run = Run::default();
        assert_eq!(run.turn.accepted(id.into()), None);
        events.iter().cloned().for_each(|step| run.step(step));
        assert_eq!(run.endings, [Ending::Answered], "{id}");
        assert_eq!(run.turn.result().content, format!("answer to {id}"));
        assert_eq!(run.turn.result().message_id, id);
    }
}

#[test]
fn events_before_the_acknowledgement_are_not_lost() {
    answered([user(ME), message(ME, "hi"), idle(), Accepted], "hi");
    answered([user(ME), message(ME, "hi"), Accepted, idle()], "hi");
    answered([idle(), user(ME), Accepted, message(ME, "hi"), idle()], "hi");
    check([user(ME), error(Some(ME)), Accepted], &[failed()], Waiting);
    check([user(ME), error(Some(ME)), idle(), Accepted], &[failed()], Settled);
    check([user(ME), abort(), aborted_idle(), Accepted], &[Ending::Aborted], Settled);
    // Nothing is told before the id is known.
    check([user(ME), message(ME, "hi"), error(Some(ME)), idle()], &[], Waiting);
    let early = run([user(ME), tool_starts("c"), usage(1, 1)]);
    assert_eq!(early.turn.message_id(), None);
    assert!(!early.turn.is_running());
}

#[test]
fn an_idle_before_the_prompt_was_taken_up_belongs_to_what_ran_before() {
    check([Accepted, idle()], &[], Running);
    check([idle(), Accepted, idle()], &[], Running);
    check([Accepted, user(OTHER), idle()], &[], Running);
    answered([Accepted, idle(), user(ME), message(ME, "hi"), idle()], "hi");
    answered([idle(), Accepted, idle(), idle(), user(ME), message(ME, "hi"), idle()], "hi");
}

#[test]
fn an_error_of_the_turn_ends_it_and_the_idle_settles_it() {
    check([Accepted, user(ME), error(Some(ME))], &[failed()], Waiting);
    check([Accepted, user(ME), error(Some(ME)), idle()], &[failed()], Settled);
    check([Accepted, user(ME), message(ME, "so far"), error(Some(ME)), idle()], &[failed()], Settled);
    check([Accepted, error(Some(ME)), idle()], &[failed()], Settled);
    check([Accepted, user(ME), error(None), error(Some(ME)), idle()], &[failed()], Settled);
    check([Accepted, user(ME), error(Some(ME)), autopilot_idle(false)], &[failed()], Waiting);
    check([Accepted, user(ME), error(Some(ME)), aborted_idle()], &[failed()], Settled);
}

#[test]
fn an_error_of_another_turn_is_none_of_ours() {
    check([Accepted, user(ME), error(Some(OTHER))], &[], Running);
    answered([Accepted, error(Some(OTHER)), user(ME), message(ME, "hi"), idle()], "hi");
    answered([error(Some(OTHER)), Accepted, user(ME), message(ME, "hi"), error(Some(OTHER)), idle()], "hi");
}

#[test]
fn an_error_that_does_not_say_whose_it_is_counts_if_no_answer_follows() {
    // Observed where no model could be called: there is no user.message either.
    check([Accepted, error(None), idle()], &[failed()], Settled);
    check([error(None), idle(), Accepted], &[failed()], Settled);
    check([Accepted, user(ME), error(None)], &[], Running);
    check([Accepted, user(ME), error(None), idle()], &[failed()], Settled);
    check([Accepted, user(ME), message(ME, "too early"), error(None), idle()], &[failed()], Settled);
    answered([Accepted, user(ME), error(None), message(ME, "hi"), idle()], "hi");
    check([Accepted, user(ME), error(None), message(OTHER, "not ours"), idle()], &[failed()], Settled);
    check([Accepted, error(None), FoundIdle], &[failed()], Settled);
}

#[test]
fn a_wish_for_a_tool_after_an_error_is_no_answer() {
    check([Accepted, user(ME), error(None), wish(ME, ""), idle()], &[failed()], Settled);
}

#[test]
fn an_aborted_idle_is_an_abort_even_before_the_prompt_was_taken_up() {
    for before in [vec![user(ME)], vec![user(ME), message(ME, "half an ans")], vec![abort()]] {
        let steps = [Accepted].into_iter().chain(before).chain([aborted_idle()]);
        check(steps, &[Ending::Aborted], Settled);
    }
    check([abort(), aborted_idle(), Accepted], &[Ending::Aborted], Settled);
    // Without an `abort` it belongs to what ran before.
    check([aborted_idle(), Accepted], &[], Running);
    check([Accepted, aborted_idle()], &[], Running);
    check([Accepted, user(ME), abort()], &[], Running);
    check([Accepted, user(ME), error(None), abort(), aborted_idle()], &[Ending::Aborted], Settled);
    check([Accepted, abort(), FoundIdle], &[Ending::Aborted], Settled);
    check([Accepted, user(ME), message(ME, "hi"), abort(), FoundIdle], &[Ending::Aborted], Settled);
}

#[test]
fn an_abort_is_an_abort_though_the_idle_does_not_say_so() {
    check([Accepted, user(ME), message(ME, "half"), abort(), idle()], &[Ending::Aborted], Settled);
    check([Accepted, abort(), idle()], &[Ending::Aborted], Settled);
}

#[test]
fn in_autopilot_the_agent_goes_on_after_an_idle_unless_it_was_aborted() {
    check([Accepted, user(ME), message(ME, "1"), autopilot_idle(false)], &[], Running);
    check([Accepted, user(ME), autopilot_idle(true)], &[Ending::Aborted], Settled);
    answered([Accepted, user(ME), message(ME, "1"), autopilot_idle(false), message(ME, "2"), idle()], "2");
    let other_mode = event("session.idle", json!({"mode": "interactive"}));
    answered([Accepted, user(ME), message(ME, "1"), other_mode], "1");
}

#[test]
fn in_autopilot_the_agent_goes_on_until_it_says_that_it_does_not() {
    let lap = |text| [message(ME, text), continuation()];
    let laps = || [Accepted, user(ME)].into_iter().chain(lap("1")).chain(lap("2")).chain([message(ME, "3")]);
    // As 1.0.102 tells it: a single idle, at the end.
    check(laps(), &[], Running);
    check(laps().chain([autopilot_stopped()]), &[], Running);
    answered(laps().chain([autopilot_stopped(), autopilot_idle(false)]), "3");
    // As other versions do: an idle a lap.
    let with_idles = [Accepted, user(ME), message(ME, "1"), autopilot_idle(false), continuation()];
    check(with_idles.clone(), &[], Running);
    let rest = [message(ME, "2"), autopilot_stopped(), autopilot_idle(false)];
    answered(with_idles.into_iter().chain(rest), "2");
    answered(laps().chain([autopilot_idle(false), FoundIdle]), "3");
    check(laps().chain([abort(), autopilot_stopped(), autopilot_idle(true)]), &[Ending::Aborted], Settled);
    check(laps().chain([error(Some(ME)), autopilot_stopped(), autopilot_idle(false)]), &[failed()], Settled);
    answered(
        [Accepted, user(ME), message(ME, "1"), sub(autopilot_stopped()), autopilot_idle(false), idle()],
        "1",
    );
}

#[test]
fn in_autopilot_the_answer_is_what_the_agent_says_that_it_has_done() {
    let end = || [autopilot_stopped(), autopilot_idle(false)];
    answered(
        [Accepted, user(ME), message(ME, "hm"), wish(ME, ""), task_complete("DONE")].into_iter().chain(end()),
        "DONE",
    );
    answered([Accepted, user(ME), wish(ME, ""), task_complete("DONE"), idle()], "DONE");
    answered([Accepted, user(ME), message(ME, "hi"), task_complete(""), idle()], "hi");
    answered([Accepted, user(ME), message(ME, "hi"), sub(task_complete("theirs")), idle()], "hi");
    let run = run([Accepted, user(ME), message(ME, "hm"), task_complete("DONE"), idle()]);
    assert_eq!(run.turn.result().model.as_deref(), Some("gpt"));
}

#[test]
fn a_prompt_that_is_sent_into_a_turn_is_part_of_it() {
    let check = |steps: &[Step], content| {
        answered([Accepted, user(ME)].into_iter().chain(steps.iter().cloned()), content);
    };
    // The agent takes it up after it was acknowledged, or before.
    check(&[Steer, Steered(Some(STEER)), user(STEER), message(ME, "both"), idle()], "both");
    check(&[Steer, user(STEER), Steered(Some(STEER)), message(ME, "both"), idle()], "both");
    check(&[Steer, user(STEER), message(ME, "both"), Steered(Some(STEER)), idle()], "both");
    // The answer to it is the first prompt's, or its own.
    check(&[message(ME, "1"), Steer, Steered(Some(STEER)), user(STEER), message(STEER, "2"), idle()], "2");
    check(&[message(ME, "1"), Steer, user(STEER), message(STEER, "2"), Steered(Some(STEER)), idle()], "2");
    check(&[message(ME, "1"), Steer, Steered(Some(STEER)), user(STEER), message(OTHER, "no"), idle()], "1");
    // Several, acknowledged in another order than they are taken up.
    let two = [
        Steer,
        Steer,
        user("b"),
        Steered(Some("a")),
        idle(),
        Steered(Some("b")),
        user("a"),
        message(ME, "all"),
    ];
    check(&[&two[..], &[idle()]].concat(), "all");
}

#[test]
fn a_turn_does_not_come_to_rest_before_the_agent_took_up_what_was_sent_into_it() {
    let begun = || [Accepted, user(ME), message(ME, "1"), Steer].into_iter();
    check(begun().chain([idle()]), &[], Running);
    check(begun().chain([Steered(Some(STEER)), idle()]), &[], Running);
    check(begun().chain([idle(), Steered(Some(STEER))]), &[], Running);
    check(begun().chain([idle(), user(STEER), Steered(Some(STEER))]), &[], Running);
    let second_run = [user(STEER), message(STEER, "2"), idle()];
    answered(begun().chain([idle(), Steered(Some(STEER))]).chain(second_run.clone()), "2");
    // The idle of it all may come before the acknowledgement.
    answered(begun().chain(second_run).chain([Steered(Some(STEER))]), "2");
    // Where it never will be: what was dropped is not waited for.
    answered(begun().chain([Steered(Some(STEER)), idle(), FoundIdle]), "1");
}

#[test]
fn a_prompt_that_could_not_be_sent_into_a_turn_leaves_it_as_it_was() {
    let begun = || [Accepted, user(ME), message(ME, "1"), Steer].into_iter();
    check(begun().chain([Steered(None)]), &[], Running);
    answered(begun().chain([Steered(None), idle()]), "1");
    answered(begun().chain([idle(), Steered(None)]), "1");
    check(begun().chain([idle(), Steer, Steered(None)]), &[], Running);
    check(begun().chain([error(Some(ME)), idle(), Steered(None)]), &[failed()], Settled);
}

#[test]
fn an_abort_ends_a_turn_whatever_was_sent_into_it() {
    let begun = || [Accepted, user(ME), Steer].into_iter();
    let aborted = &[Ending::Aborted];
    check(begun().chain([Steered(Some(STEER)), abort(), aborted_idle()]), aborted, Settled);
    check(begun().chain([abort(), aborted_idle(), Steered(Some(STEER))]), aborted, Settled);
    check(begun().chain([abort(), aborted_idle(), Steered(None)]), aborted, Settled);
    check(begun().chain([shutdown(), Steered(None)]), &[Ending::Shutdown], Settled);
    // The error of what was sent into it is the turn's.
    check(begun().chain([Steered(Some(STEER)), user(STEER), error(Some(STEER))]), &[failed()], Waiting);
}

#[test]
fn nothing_is_sent_into_a_turn_that_does_not_run() {
    let check = |steps: Vec<Step>, expected| assert_eq!(run(steps).turn.steer(), expected);
    check(vec![], false);
    check(vec![user(ME)], false);
    check(vec![Accepted], true);
    check(vec![Accepted, user(ME), message(ME, "hi")], true);
    check(vec![Accepted, user(ME), error(Some(ME))], false);
    check(vec![Accepted, user(ME), message(ME, "hi"), idle()], false);
}

#[test]
fn what_sub_agents_say_does_not_count_but_what_they_cost_does() {
    let foreign = [
        sub(user(ME)),
        sub(delta("a", "not ours")),
        sub(message(ME, "not the answer")),
        sub(error(Some(ME))),
        sub(error(None)),
        sub(abort()),
        sub(tool_starts("theirs")),
        sub(idle()),
        sub(aborted_idle()),
    ];
    let with = |rest: Vec<Step>| [Accepted].into_iter().chain(foreign.clone()).chain(rest);
    check(with(vec![]), &[], Running);
    check(with(vec![idle()]), &[], Running);
    answered(with(vec![user(ME), message(ME, "hi"), idle()]), "hi");
    answered([Accepted, user(ME), message(ME, "hi"), sub(message(ME, "no")), idle()], "hi");
    let run = run(with(vec![user(ME), sub(usage(100, 10)), usage(1, 2)]));
    assert_eq!(run.turn.remains().partial, "");
    assert_eq!(run.turn.remains().running_tools, []);
    let spent = run.turn.remains().usage;
    assert_eq!((spent.input_tokens, spent.output_tokens, spent.model_calls), (101, 12, 2));
}

#[test]
fn a_message_that_only_calls_tools_is_not_the_answer() {
    answered([Accepted, user(ME), message(ME, "hi"), wish(ME, ""), idle()], "hi");
    answered([Accepted, user(ME), wish(ME, ""), message(ME, "hi"), idle()], "hi");
    answered([Accepted, user(ME), wish(ME, "let me look"), wish(ME, ""), idle()], "let me look");
    // What ends a turn without a word is an empty answer, but takes nothing back.
    answered([Accepted, user(ME), wish(ME, ""), idle()], "");
    answered([Accepted, user(ME), wish(ME, "let me look"), message(ME, ""), idle()], "let me look");
}

#[test]
fn the_answer_refers_to_the_turn() {
    answered([Accepted, user(ME), message(ME, "mine"), message(OTHER, "not mine"), idle()], "mine");
    answered([Accepted, user(ME), message(ME, "first"), message(ME, "last"), idle()], "last");
}

#[test]
fn a_turn_without_any_message_has_failed() {
    let without_answer = failed_with("the agent ended the turn without an answer");
    check([Accepted, user(ME), idle()], std::slice::from_ref(&without_answer), Settled);
    check([Accepted, user(ME), message(OTHER, "x"), idle()], &[without_answer], Settled);
}

#[test]
fn a_cli_that_gives_no_ids_is_understood_by_order() {
    let user = || event("user.message", json!({"content": "?"}));
    let message = |content: &str| {
        event("assistant.message", json!({"messageId": "a", "content": content, "toolRequests": []}))
    };
    answered([Accepted, user(), message("1"), message("2"), idle()], "2");
    answered([user(), message("hi"), idle(), Accepted], "hi");
    answered([idle(), Accepted, idle(), user(), message("hi"), idle()], "hi");
    check([Accepted, message("left over"), idle()], &[], Running);
    check([Accepted, user(), error(None), idle()], &[failed()], Settled);
}

#[test]
fn a_shutdown_ends_the_turn_in_any_phase() {
    let gone = [Ending::Shutdown];
    check([shutdown()], &gone, Settled);
    check([user(ME), shutdown(), idle()], &gone, Settled);
    check([Accepted, shutdown()], &gone, Settled);
    check([Accepted, user(ME), message(ME, "hi"), shutdown()], &gone, Settled);
    check([Accepted, user(ME), error(Some(ME)), shutdown()], &[failed()], Settled);
    check([Accepted, user(ME), message(ME, "hi"), idle(), shutdown()], &[Ending::Answered], Settled);
}

#[test]
fn a_lost_idle_is_made_up_for_when_the_session_is_found_idle() {
    let stopped = failed_with("the agent stopped without an answer");
    check([FoundIdle], &[], Waiting);
    check([user(ME), message(ME, "hi"), FoundIdle], &[], Waiting);
    // Its prompt was taken out of the CLI's queue by somebody.
    check([Accepted, FoundIdle], &[Ending::Aborted], Settled);
    check([Accepted, user(ME), FoundIdle], &[stopped], Settled);
    answered([Accepted, user(ME), message(ME, "hi"), FoundIdle], "hi");
    check([Accepted, user(ME), error(Some(ME)), FoundIdle], &[failed()], Settled);
    check([Accepted, user(ME), message(ME, "hi"), idle(), FoundIdle], &[Ending::Answered], Settled);
    check([Accepted, user(ME), message(ME, "hi"), FoundIdle, idle()], &[Ending::Answered], Settled);
}

#[test]
fn usage_is_summed_and_what_a_call_does_not_say_is_nothing() {
    let silent = event("assistant.usage", json!({"model": "gpt"}));
    // The first one is of a turn before.
    let run = run([
        usage(1000, 2000),
        user(ME),
        usage(1, 2),
        Accepted,
        usage(10, 20),
        silent,
        sub(usage(100, 200)),
    ]);
    let expected = Usage {
        input_tokens: 111,
        output_tokens: 222,
        cache_read_tokens: 6,
        cache_write_tokens: 9,
        reasoning_tokens: 12,
        nano_ai_credits: 15,
        model_calls: 4,
        model_milliseconds: 750.0,
    };
    assert_eq!(run.turn.result().usage, expected);
    assert_eq!(run.turn.remains().usage, expected);
}

#[test]
fn tool_calls_are_told_in_the_order_of_their_start_and_with_their_success() {
    let run = run([
        Accepted,
        user(ME),
        tool_starts("c1"),
        tool_starts("c2"),
        tool_starts("c3"),
        tool_ends("c2", false),
        tool_ends("unheard of", true),
        tool_ends("c1", true),
    ]);
    let call = |id: &str, success| ToolCall {
        id: id.into(),
        name: "bash".into(),
        arguments: Some(json!({"command": "ls"}).into()),
        success,
    };
    let expected = [call("c1", Some(true)), call("c2", Some(false)), call("c3", None)];
    assert_eq!(run.turn.result().tool_calls, expected);
    assert_eq!(run.turn.remains().running_tools, [call("c3", None)]);
    assert!(run.turn.is_tool_running());
}

#[test]
fn a_tool_that_starts_again_while_it_runs_is_one_call() {
    // As observed where a call waited for a permission while the connection was lost.
    let run = run([Accepted, user(ME), tool_starts("c"), tool_starts("c"), tool_ends("c", true)]);
    let calls = run.turn.result().tool_calls;
    let calls: Vec<_> = calls.iter().map(|call| (call.id.as_str(), call.success)).collect();
    assert_eq!(calls, [("c", Some(true))]);
    assert!(!run.turn.is_tool_running());
}

#[test]
fn a_tool_runs_until_it_has_ended() {
    let mut run = run([Accepted, user(ME)]);
    assert!(!run.turn.is_tool_running());
    run.step(tool_starts("c"));
    assert!(run.turn.is_tool_running());
    run.step(sub(tool_ends("c", true)));
    assert!(run.turn.is_tool_running());
    run.step(tool_ends("c", true));
    assert!(!run.turn.is_tool_running());
}

#[test]
fn the_tool_calls_that_are_remembered_are_bounded() {
    let calls = (0..=MAX_TOOL_CALLS).map(|n| tool_starts(&n.to_string()));
    let run = run([Accepted, user(ME)].into_iter().chain(calls));
    assert_eq!(run.turn.result().tool_calls.len(), MAX_TOOL_CALLS);
}

#[test]
fn what_remains_is_the_text_of_the_message_that_was_being_written() {
    let partial =
        |steps: Vec<Step>| run([Accepted, user(ME)].into_iter().chain(steps)).turn.remains().partial;
    let check = |steps: Vec<Step>, expected: &str| assert_eq!(partial(steps), expected);
    check(vec![], "");
    check(vec![delta("a", "Hel"), delta("a", "lo")], "Hello");
    check(vec![delta("a", "Hello"), delta("b", "Wor"), delta("b", "ld")], "World");
    check(vec![delta("a", "Hello"), message(ME, "Hello!")], "Hello!");
    check(vec![delta("a", "Hello"), message(ME, "Hello!"), delta("b", "And")], "And");
    check(vec![delta("a", "Hello"), message(OTHER, "not ours")], "Hello");
    check(vec![delta("a", "Hello"), wish(ME, "")], "");
    check(vec![message(ME, "hi"), wish(ME, "")], "hi");
    check(vec![delta("a", "Hel"), error(Some(ME))], "Hel");
    check(vec![delta("a", "Hel"), abort(), aborted_idle()], "Hel");
}

#[test]
fn what_remains_names_the_last_event_and_the_turn() {
    let check = |steps: Vec<Step>, last_event: Option<&str>, message_id: Option<&str>| {
        let remains = run(steps).turn.remains();
        assert_eq!((remains.last_event.as_deref(), remains.message_id.as_deref()), (last_event, message_id));
    };
    check(vec![], None, None);
    check(vec![user(ME)], Some("user.message"), None);
    check(vec![Accepted], None, Some(ME));
    check(vec![Accepted, user(ME), noise()], Some("model.call_start"), Some(ME));
    check(vec![Accepted, user(ME), tool_starts("c")], Some("tool.execution_start"), Some(ME));
}

#[test]
fn a_cli_that_never_acknowledges_the_prompt_cannot_fill_the_memory() {
    let expected = failed_with("the Copilot CLI sent events of a turn without acknowledging its prompt");
    let early = std::iter::repeat_with(noise);
    check(early.take(MAX_EARLY_EVENTS), &[], Waiting);
    // The early events are let go, and the agent, which is at work, is to be stopped.
    let run = check(early.take(MAX_EARLY_EVENTS + 100), &[expected], Running);
    assert!(matches!(run.turn.phase, Phase::Settling { at_work: true, .. }));
}

#[test]
fn the_ending_is_reported_once_whatever_comes_after() {
    let endings = [
        vec![user(ME), message(ME, "hi"), idle()],
        vec![user(ME), error(Some(ME))],
        vec![error(None), idle()],
        vec![user(ME), aborted_idle()],
        vec![shutdown()],
        vec![FoundIdle],
    ];
    for ending in endings {
        let later = [
            user(ME),
            message(ME, "again"),
            error(Some(ME)),
            error(None),
            idle(),
            aborted_idle(),
            FoundIdle,
            user(OTHER),
            error(Some(OTHER)),
            abort(),
            idle(),
            shutdown(),
            FoundIdle,
        ];
        let run = run([Accepted].into_iter().chain(ending.clone()).chain(later));
        assert_eq!(run.endings.len(), 1, "{ending:?}: {:?}", run.endings);
        assert!(run.turn.is_settled());
    }
}

#[test]
fn an_acknowledgement_after_the_end_does_not_bring_the_turn_back() {
    check([shutdown(), Accepted], &[Ending::Shutdown], Settled);
    check([shutdown(), Accepted, user(ME), aborted_idle()], &[Ending::Shutdown], Settled);
    check([Accepted, user(ME), message(ME, "hi"), idle(), Accepted, idle()], &[Ending::Answered], Settled);
    let flood = std::iter::repeat_with(noise).take(MAX_EARLY_EVENTS + 1);
    let run = run(flood.chain([Accepted, user(ME), message(ME, "hi"), aborted_idle()]));
    assert_eq!(run.endings.len(), 1, "{:?}", run.endings);
    assert!(run.turn.is_settled());
}

fn valid_turn() -> Vec<Step> {
    vec![
        user(ME),
        event("assistant.turn_start", json!({"turnId": "0"})),
        delta("w", "let me "),
        delta("w", "look"),
        usage(10, 1),
        wish(ME, "let me look"),
        tool_starts("c1"),
        tool_ends("c1", true),
        event("assistant.turn_end", json!({"turnId": "0"})),
        wish(ME, ""),
        tool_starts("c2"),
        tool_ends("c2", false),
        delta("a", "the "),
        delta("a", "answer"),
        message(ME, "the answer"),
        event("assistant.turn_end", json!({"turnId": "1"})),
        idle(),
    ]
}

/// What may come at any time and is no concern of the turn.
fn foreign() -> Vec<Step> {
    vec![
        user(OTHER),
        message(OTHER, "not ours"),
        wish(OTHER, ""),
        error(Some(OTHER)),
        sub(user(ME)),
        sub(delta("a", "not ours")),
        sub(message(ME, "not the answer")),
        sub(wish(ME, "not the answer")),
        sub(error(Some(ME))),
        sub(error(None)),
        sub(tool_starts("theirs")),
        sub(abort()),
        sub(idle()),
        sub(aborted_idle()),
        autopilot_idle(false),
        noise(),
        event("assistant.streaming_delta", json!({"totalResponseSizeBytes": 7})),
        event("pending_messages.modified", json!({})),
        event("session.title_changed", json!({"title": "Hi"})),
        event("session.warning", json!({"warningType": "w", "message": "hm"})),
        // Kinds that we know, which do not say of what they tell.
        event("tool.execution_start", json!({"boom": true})),
        event("tool.execution_complete", json!({"toolCallId": 7, "success": false})),
        event("assistant.message_delta", json!(null)),
    ]
}

proptest! {
    #[test]
    fn a_turn_is_answered_once_whatever_comes_between_and_whenever_it_is_acknowledged(
        stale_idles in 0..3_usize,
        between in prop::collection::vec((any::<Index>(), any::<Index>()), 0..40),
        accepted in any::<Index>(),
    ) {
        let mut steps = valid_turn();
        steps.splice(0..0, std::iter::repeat_with(idle).take(stale_idles));
        let foreign = foreign();
        for (place, which) in between {
            steps.insert(place.index(steps.len() + 1), which.get(&foreign).clone());
        }
        steps.insert(accepted.index(steps.len() + 1), Accepted);
        let run = run(steps);
        prop_assert_eq!(&run.endings, &[Ending::Answered]);
        prop_assert!(run.turn.is_settled());
        let result = run.turn.result();
        prop_assert_eq!((&*result.message_id, &*result.content), (ME, "the answer"));
        let calls: Vec<_> = result.tool_calls.iter().map(|call| (&*call.id, call.success)).collect();
        prop_assert_eq!(calls, [("c1", Some(true)), ("c2", Some(false))]);
        prop_assert_eq!((result.usage.input_tokens, result.usage.model_calls), (10, 1));
    }
}

#[test]
fn the_arguments_of_tools_are_remembered_up_to_a_bound() {
    let call = |id: &str, bytes: usize| {
        let data = json!({"toolCallId": id, "toolName": "bash", "arguments": "x".repeat(bytes)});
        event("tool.execution_start", data)
    };
    let steps = [Accepted, user(ME), call("c1", MAX_ARGUMENTS - 100), call("c2", 200), call("c3", 50)];
    let calls = run(steps).turn.result().tool_calls;
    let kept: Vec<_> = calls.iter().map(|call| (call.id.as_str(), call.arguments.is_some())).collect();
    assert_eq!(kept, [("c1", true), ("c2", false), ("c3", true)]);
}

#[test]
fn files_may_have_changed_since_the_prompt_if_a_tool_has_run() {
    let idle_turn = run([Accepted, user(ME), message(ME, "hi")]);
    assert_eq!(idle_turn.turn.files_since(), None);
    for ended in [tool_ends("c", true), sub(tool_ends("c", true))] {
        let busy = run([Accepted, user(ME), tool_starts("c"), ended, message(ME, "hi")]);
        assert_eq!(busy.turn.files_since(), Some("e"), "the id of the prompt's event");
    }
}
