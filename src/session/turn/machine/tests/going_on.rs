//! Turns that go on: by themselves in autopilot, and with what is sent into them.

use super::*;

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
