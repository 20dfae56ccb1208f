//! What the answer of a turn is, and whether it is whole. The sequences are those of CLI 1.0.102 (observed), and with the usage
//! where the native runtime has it.

use super::*;

/// A call of the model, how it ended, and what came of it: the text's pieces, and the message if the CLI tells one.
fn call(message: &str, pieces: &[&str], finish: &str, whole: Option<Step>) -> Vec<Step> {
    let mut steps = vec![event("assistant.turn_start", json!({"turnId": "0"}))];
    steps.extend(pieces.iter().map(|piece| delta(message, piece)));
    steps.push(ended(finish));
    steps.extend(whole);
    steps.push(event("assistant.turn_end", json!({"turnId": "0"})));
    steps
}

fn ended(finish: &str) -> Step {
    event("assistant.usage", json!({"model": "gpt", "finishReason": finish, "contentFilterTriggered": false}))
}

/// A part that was cut by the model's output limit, and is continued.
fn cut(message: &str, pieces: &[&str]) -> Vec<Step> {
    call(message, pieces, "length", None)
}

/// The last part of a message.
fn last(message_id: &str, text: &str, finish: &str) -> Vec<Step> {
    let data = json!({"messageId": message_id, "content": text, "originatingMessageId": ME, "model": "gpt"});
    call(message_id, &[text], finish, Some(event("assistant.message", data)))
}

/// A message that calls a tool, and the call.
fn calls(message_id: &str, text: &str, finish: &str) -> Vec<Step> {
    let wish = event(
        "assistant.message",
        json!({"messageId": message_id, "content": text, "originatingMessageId": ME,
            "toolRequests": [{"toolCallId": message_id, "name": "bash", "arguments": {}}]}),
    );
    let mut steps = call(message_id, &[text], finish, Some(wish));
    let end = steps.len() - 1;
    steps.splice(end..end, [tool_starts(message_id), tool_ends(message_id, true)]);
    steps
}

fn turn(rounds: &[Vec<Step>]) -> Run {
    let steps = [Accepted, user(ME)].into_iter().chain(rounds.iter().flatten().cloned()).chain([idle()]);
    check(steps, &[Ending::Answered], Then::Settled)
}

/// The same round as the native runtime may tell it: what the call has used comes that many events before its time, while the
/// round goes on.
fn usage_ahead(round: &[Step], by: usize) -> Vec<Step> {
    let is = |step: &Step, wanted: &str| matches!(step, Step::Event(event) if event["type"] == wanted);
    let mut round = round.to_vec();
    for place in 0..round.len() {
        if is(&round[place], "assistant.usage") {
            let began = (0..place).rfind(|place| is(&round[*place], "assistant.turn_start"));
            let earlier = place.saturating_sub(by).max(began.map_or(0, |began| began + 1));
            round[earlier..=place].rotate_right(1);
        }
    }
    round
}

#[track_caller]
fn answer(rounds: &[Vec<Step>], content: &str, finish: Option<FinishReason>) {
    for ahead in 0..4 {
        let rounds: Vec<_> = rounds.iter().map(|round| usage_ahead(round, ahead)).collect();
        let result = turn(&rounds).turn.result();
        assert_eq!((&*result.content, result.finish_reason), (content, finish), "usage {ahead} events ahead");
    }
}

use FinishReason::{ContentFilter, Length, Other, Refusal, Stop, ToolOnly};

#[test]
fn an_answer_that_was_cut_and_continued_has_all_its_parts() {
    answer(
        &[cut("a", &["PART-", "ONE. "]), last("b", "PART-TWO.", "stop")],
        "PART-ONE. PART-TWO.",
        Some(Stop),
    );
    answer(
        &[cut("a", &["PART-ONE. "]), cut("b", &["PART-TWO. "]), last("c", "PART-THREE.", "stop")],
        "PART-ONE. PART-TWO. PART-THREE.",
        Some(Stop),
    );
    // The CLI gives up after the third, which comes as a message though it was cut.
    answer(&[cut("a", &["A "]), cut("b", &["B "]), last("c", "C ", "length")], "A B C ", Some(Length));
    answer(&[last("a", "A ", "length")], "A ", Some(Length));
    // One that had spent everything on reasoning.
    answer(&[cut("a", &[]), last("b", "B.", "stop")], "B.", Some(Stop));
    answer(&[cut("a", &[]), cut("b", &[]), last("c", "", "length")], "", Some(Length));
}

#[test]
fn an_answer_whose_middle_part_calls_a_tool_has_all_its_parts() {
    for finish in ["length", "tool_calls"] {
        answer(
            &[cut("a", &["ONE "]), calls("b", "TWO ", finish), last("c", "THREE.", "stop")],
            "ONE TWO THREE.",
            Some(Stop),
        );
        answer(
            &[
                cut("a", &["ONE "]),
                calls("b", "TWO ", finish),
                cut("c", &["THREE "]),
                last("d", "FOUR.", "stop"),
            ],
            "ONE TWO THREE FOUR.",
            Some(Stop),
        );
    }
    answer(&[calls("a", "ONE ", "length"), last("b", "TWO.", "stop")], "ONE TWO.", Some(Stop));
}

#[test]
fn what_the_agent_says_between_its_tools_is_not_the_answer() {
    answer(&[calls("a", "let me look ", "tool_calls"), last("b", "Done.", "stop")], "Done.", Some(Stop));
    answer(
        &[calls("a", "let me look ", "tool_calls"), cut("b", &["B "]), last("c", "C.", "stop")],
        "B C.",
        Some(Stop),
    );
    // What was cut once is not gathered for ever.
    answer(
        &[
            cut("a", &["A "]),
            calls("b", "B ", "tool_calls"),
            calls("c", "C ", "tool_calls"),
            last("d", "D.", "stop"),
        ],
        "D.",
        Some(Stop),
    );
}

#[test]
fn a_part_that_was_not_cut_but_failed_is_no_part() {
    let mut failed = vec![delta("a", "half of a try ")];
    failed.push(event("assistant.turn_retry", json!({"turnId": "0", "reason": "streaming_error"})));
    answer(&[failed.clone(), last("b", "whole", "stop")], "whole", Some(Stop));
    answer(&[cut("p", &["ONE "]), failed, last("b", "TWO.", "stop")], "ONE TWO.", Some(Stop));
}

#[test]
fn what_the_cli_tells_as_whole_counts_for_each_part() {
    let said = |text: &str| {
        let message = json!({"kind": "message", "message": {"role": "assistant", "content": text}});
        event("model.message", message)
    };
    let nudge = event("model.message", json!({"message": {"role": "user", "content": "Please continue."}}));
    // Pieces may be missing: those that the CLI repeats are held back. And sub-agents are cut too.
    let over = event("assistant.turn_end", json!({"turnId": "0"}));
    let first =
        vec![delta("a", "ON"), ended("length"), sub(said("theirs")), said("ONE "), nudge, over.clone()];
    let rest = vec![delta("b", "TW"), ended("stop"), said("not a part"), message(ME, "TWO.")];
    answer(&[first, rest], "ONE TWO.", Some(Stop));
    // With streaming off there is nothing else.
    let silent = vec![ended("length"), said("ONE "), over];
    answer(&[silent.clone(), silent, vec![ended("stop"), message(ME, "TWO.")]], "ONE ONE TWO.", Some(Stop));
}

#[test]
fn a_closing_message_without_text_takes_nothing_back() {
    for blank in ["", " ", "  \n\t"] {
        answer(&[calls("a", "the text ", "tool_calls"), last("b", blank, "stop")], "the text ", Some(Stop));
        answer(
            &[
                calls("a", "the text ", "tool_calls"),
                calls("b", blank, "tool_calls"),
                last("c", blank, "stop"),
            ],
            "the text ",
            Some(Stop),
        );
        answer(&[last("a", blank, "stop")], blank, Some(Other));
    }
}

#[test]
fn parts_are_an_answer_though_the_last_one_is_blank_and_the_cli_complains() {
    for blank in ["", " "] {
        let complaint = json!({"errorType": "query", "message": "No response was returned."});
        let complaint = vec![event("session.error", complaint)];
        let rounds = [cut("a", &["A"]), last("b", blank, "stop"), complaint.clone()];
        answer(&rounds, "A", Some(Stop));
        // Where there is none, it is right.
        let steps = [Accepted, user(ME)].into_iter().chain(last("a", blank, "stop")).chain(complaint);
        let run = run(steps.chain([idle()]));
        assert_eq!(
            run.endings,
            [failed_with("No response was returned.")].map(|ending| match ending {
                Ending::Failed(failure) =>
                    Ending::Failed(AgentFailure { error_type: "query".into(), ..failure }),
                other => other,
            })
        );
    }
}

#[test]
fn what_the_cli_says_of_a_filter_takes_nothing_back_either() {
    let notice = "The model returned no content because the response was blocked by content filtering.";
    let filtered = vec![ended("content_filter"), message(ME, notice)];
    let before = calls("b", "the text ", "tool_calls");
    answer(&[before.clone(), filtered.clone()], "the text ", Some(ContentFilter));
    answer(&[cut("b", &["ONE "]), filtered.clone()], "ONE ", Some(ContentFilter));
    answer(&[filtered], notice, Some(ContentFilter));
    // What the model wrote before the filter stopped it is the answer.
    answer(&[before, last("c", "half", "content_filter")], "half", Some(ContentFilter));
}

#[test]
fn how_the_model_came_to_its_end_is_told() {
    for (finish, expected) in [
        ("stop", Stop),
        ("end_turn", Stop),
        ("length", Length),
        ("content_filter", ContentFilter),
        ("refusal", Refusal),
        ("something_new", Other),
        // A turn that a tool ends, with a text beside.
        ("tool_calls", Stop),
    ] {
        answer(&[last("a", "half", finish)], "half", Some(expected));
    }
    answer(&[vec![message(ME, "hi")]], "hi", None);
    let filtered = event("assistant.usage", json!({"finishReason": "stop", "contentFilterTriggered": true}));
    answer(&[vec![filtered, message(ME, "half")]], "half", Some(ContentFilter));
    // No text: tools alone, reasoning alone.
    answer(&[calls("a", "", "tool_calls"), last("b", "", "stop")], "", Some(ToolOnly));
    answer(&[calls("a", "", "tool_calls")], "", Some(ToolOnly));
    answer(&[last("a", "", "stop")], "", Some(Other));
    // How sub-agents end is their matter.
    answer(&[last("a", "hi", "stop"), vec![sub(ended("length"))]], "hi", Some(Stop));
}

#[test]
fn what_remains_of_a_turn_has_all_parts() {
    let remains = |rounds: &[Vec<Step>], end: Step| {
        let steps = [Accepted, user(ME)].into_iter().chain(rounds.iter().flatten().cloned()).chain([end]);
        run(steps).turn.remains().partial
    };
    let parts = [cut("a", &["ONE "]), cut("b", &["TWO "]), vec![delta("c", "THR")]];
    for end in [abort(), error(Some(ME)), shutdown(), aborted_idle()] {
        assert_eq!(remains(&parts, end.clone()), "ONE TWO THR");
        assert_eq!(remains(&parts[..2], end.clone()), "ONE TWO ");
        assert_eq!(remains(&[calls("a", "text", "tool_calls"), vec![delta("b", " ")]], end), "text");
    }
    // An error that does not say whose it is leaves the text that there was.
    assert_eq!(remains(&[calls("a", "text", "tool_calls"), vec![error(None)]], idle()), "text");
}

#[test]
fn a_prompt_that_is_taken_up_is_not_answered_by_what_was_cut_before() {
    let rounds = [cut("a", &["ONE "]), vec![user(STEER)], last("b", "Instead.", "stop")];
    let steps = [Accepted, user(ME), Steer, Steered(Some(STEER))].into_iter();
    let run = run(steps.chain(rounds.into_iter().flatten()).chain([idle()]));
    assert_eq!((run.endings.as_slice(), &*run.turn.result().content), (&[Ending::Answered][..], "Instead."));
}

#[test]
fn events_in_odd_forms_have_their_effect() {
    let ends = |step: Step| run([Accepted, user(ME), message(ME, "hi"), step]).endings;
    for data in [json!(null), json!({"aborted": null}), json!({"aborted": "no", "mode": 7}), json!([])] {
        assert_eq!(ends(event("session.idle", data.clone())), [Ending::Answered], "{data}");
    }
    let unsaid = run([Accepted, user(ME), event("session.error", json!({"boom": true})), idle()]);
    assert!(matches!(unsaid.endings.as_slice(), [Ending::Failed(_)]), "{:?}", unsaid.endings);
    let mine = json!({"originatingMessageId": ME, "statusCode": "429", "message": null});
    assert!(matches!(ends(event("session.error", mine)).as_slice(), [Ending::Failed(_)]));
    assert_eq!(ends(event("session.shutdown", json!(null))), [Ending::Shutdown]);
    let said = event("assistant.message", json!({"content": "hello", "toolRequests": null, "messageId": 7}));
    let run = run([Accepted, user(ME), said, tool_starts("c"), event("abort", json!(null)), idle()]);
    assert_eq!(run.endings, [Ending::Aborted]);
    assert_eq!(run.turn.remains().partial, "hello");
    let ended =
        event("tool.execution_complete", json!({"toolCallId": "c", "success": true, "result": "done"}));
    let run = super::run([Accepted, user(ME), tool_starts("c"), ended]);
    assert!(!run.turn.is_tool_running() && run.turn.has_succeeded("c"));
}
