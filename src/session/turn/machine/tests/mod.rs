//! Sequences of events, and how a turn takes them.

mod answers;
mod any_order;
mod going_on;
mod told;

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
