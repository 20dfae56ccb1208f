//! What is told of a turn beside its answer: what it cost, what it has run, and what remains of it.

use super::*;

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
