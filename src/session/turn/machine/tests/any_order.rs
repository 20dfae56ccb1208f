//! A turn among all that may come with it, in any order.

use proptest::{prelude::*, sample::Index};

use super::*;

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
