//! Cuts the texts of events that are too large for their reader. JSON is left out, because a part of it is no JSON.

use prost::Message as _;

use crate::grpc::{
    pb::{self, session_event::Payload},
    violation::cut,
};

/// How many more bytes an event may take as a message than as the CLI's JSON: its cursor, and texts of a permission that come
/// twice.
const OVERHEAD: usize = 1024;

/// A text of an event.
enum Text<'a> {
    Plain(&'a mut String),
    Json(&'a mut String),
}

impl Text<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Plain(text) | Self::Json(text) => text.len(),
        }
    }

    fn limit(self, limit: usize) {
        match self {
            text if text.len() <= limit => {}
            Self::Plain(text) => text.truncate(cut(text, limit).len()),
            Self::Json(text) => text.clear(),
        }
    }
}

/// Makes an event take `max_size` bytes at most. `weight` is the length of its JSON, by which most events need no closer look.
pub(super) fn fit(event: &mut pb::SessionEvent, weight: usize, max_size: usize) {
    if 2 * weight + OVERHEAD <= max_size || event.encoded_len() <= max_size {
        return;
    }
    event.truncated = true;
    let Some(payload) = &mut event.payload else { return };
    let own = event.event_id.len() + event.agent_id.len() + event.cursor.len() + OVERHEAD;
    let left = max_size.saturating_sub(own);
    shorten_lists(payload, left / 2);
    let texts = texts(payload);
    let share = share(texts.iter().map(Text::len).collect(), left.saturating_sub(FRAMING * texts.len()));
    texts.into_iter().for_each(|text| text.limit(share));
}

/// The bytes that a text takes beside itself: its tag, its length, and those of the message that it is in.
const FRAMING: usize = 24;

/// Cuts lists to a length at which each item can have some bytes.
fn shorten_lists(payload: &mut Payload, room: usize) {
    let most = room / 256;
    match payload {
        Payload::AssistantMessage(message) => message.tool_requests.truncate(most),
        Payload::UserInputAsked(question) => question.choices.truncate(most),
        Payload::ExitPlanAsked(plan) => plan.actions.truncate(most),
        _ => {}
    }
}

/// The length to which texts are cut so that together they take no more than `room`: what short ones do not need goes to long
/// ones.
fn share(mut lengths: Vec<usize>, mut room: usize) -> usize {
    lengths.sort_unstable();
    let mut left = lengths.len();
    for length in lengths {
        if length > room / left {
            return room / left;
        }
        room -= length;
        left -= 1;
    }
    usize::MAX
}

/// All texts of an event. What is not among them is never long.
fn texts(payload: &mut Payload) -> Vec<Text<'_>> {
    use Text::{Json, Plain};
    match payload {
        Payload::AssistantMessageDelta(it) => vec![Plain(&mut it.message_id), Plain(&mut it.text)],
        Payload::AssistantReasoningDelta(it) => vec![Plain(&mut it.reasoning_id), Plain(&mut it.text)],
        Payload::AssistantToolCallDelta(it) => {
            vec![Plain(&mut it.tool_call_id), Plain(&mut it.name), Plain(&mut it.text)]
        }
        Payload::ToolExecutionProgress(it) => {
            vec![Plain(&mut it.tool_call_id), Plain(&mut it.partial_output), Plain(&mut it.message)]
        }
        Payload::Other(it) => vec![Plain(&mut it.r#type), Json(&mut it.data_json)],
        Payload::UserMessage(it) => vec![Plain(&mut it.message_id), Plain(&mut it.content)],
        Payload::AssistantMessage(it) => {
            let own = [
                Plain(&mut it.message_id),
                Plain(&mut it.content),
                Plain(&mut it.originating_message_id),
                Plain(&mut it.model),
            ];
            let calls = it.tool_requests.iter_mut().flat_map(|call| {
                [Plain(&mut call.tool_call_id), Plain(&mut call.name), Json(&mut call.arguments_json)]
            });
            own.into_iter().chain(calls).collect()
        }
        Payload::AssistantReasoning(it) => vec![Plain(&mut it.reasoning_id), Plain(&mut it.content)],
        Payload::AssistantTurnStart(it) => vec![Plain(&mut it.turn_id)],
        Payload::AssistantTurnEnd(it) => vec![Plain(&mut it.turn_id)],
        Payload::AssistantTurnRetry(it) => {
            vec![Plain(&mut it.turn_id), Plain(&mut it.reason), Plain(&mut it.model)]
        }
        Payload::AssistantUsage(it) => vec![Plain(&mut it.model)],
        Payload::AssistantIntent(it) => vec![Plain(&mut it.intent)],
        Payload::ToolExecutionStart(it) => {
            vec![Plain(&mut it.tool_call_id), Plain(&mut it.name), Json(&mut it.arguments_json)]
        }
        Payload::ToolExecutionComplete(it) => vec![
            Plain(&mut it.tool_call_id),
            Plain(&mut it.content),
            Plain(&mut it.error_message),
            Json(&mut it.structured_content_json),
        ],
        Payload::PermissionAsked(it) => vec![
            Plain(&mut it.ask_id),
            Plain(&mut it.kind),
            Plain(&mut it.tool_call_id),
            Plain(&mut it.subject),
            Json(&mut it.details_json),
        ],
        Payload::PermissionCompleted(it) => {
            vec![Plain(&mut it.ask_id), Plain(&mut it.tool_call_id), Plain(&mut it.outcome)]
        }
        Payload::ToolCallAsked(it) => vec![
            Plain(&mut it.ask_id),
            Plain(&mut it.tool_call_id),
            Plain(&mut it.name),
            Json(&mut it.arguments_json),
        ],
        Payload::UserInputAsked(it) => {
            let own = [Plain(&mut it.ask_id), Plain(&mut it.question), Plain(&mut it.tool_call_id)];
            own.into_iter().chain(it.choices.iter_mut().map(Plain)).collect()
        }
        Payload::ElicitationAsked(it) => vec![
            Plain(&mut it.ask_id),
            Plain(&mut it.message),
            Json(&mut it.schema_json),
            Plain(&mut it.url),
            Plain(&mut it.source),
        ],
        Payload::ExitPlanAsked(it) => {
            let own = [
                Plain(&mut it.ask_id),
                Plain(&mut it.summary),
                Plain(&mut it.plan),
                Plain(&mut it.recommended_action),
            ];
            own.into_iter().chain(it.actions.iter_mut().map(Plain)).collect()
        }
        Payload::AskCompleted(it) => vec![Plain(&mut it.ask_id)],
        Payload::SessionTitleChanged(it) => vec![Plain(&mut it.title)],
        Payload::SessionModelChanged(it) => vec![
            Plain(&mut it.model),
            Plain(&mut it.previous_model),
            Plain(&mut it.reasoning_effort),
            Plain(&mut it.previous_reasoning_effort),
        ],
        Payload::SubAgentStarted(it) => vec![
            Plain(&mut it.tool_call_id),
            Plain(&mut it.name),
            Plain(&mut it.display_name),
            Plain(&mut it.description),
            Plain(&mut it.model),
        ],
        Payload::SubAgentCompleted(it) => vec![
            Plain(&mut it.tool_call_id),
            Plain(&mut it.name),
            Plain(&mut it.display_name),
            Plain(&mut it.model),
        ],
        Payload::SubAgentFailed(it) => vec![
            Plain(&mut it.tool_call_id),
            Plain(&mut it.name),
            Plain(&mut it.display_name),
            Plain(&mut it.model),
            Plain(&mut it.error_message),
        ],
        Payload::McpServerStatusChanged(it) => {
            vec![Plain(&mut it.server), Plain(&mut it.status), Plain(&mut it.error_message)]
        }
        Payload::SessionCompactionStart(it) => vec![Plain(&mut it.trigger)],
        Payload::SessionCompactionComplete(it) => vec![Plain(&mut it.error_message)],
        Payload::SessionWarning(it) => vec![Plain(&mut it.r#type), Plain(&mut it.message)],
        Payload::SessionError(it) => {
            vec![Plain(&mut it.r#type), Plain(&mut it.message), Plain(&mut it.error_code)]
        }
        Payload::Abort(it) => vec![Plain(&mut it.reason)],
        Payload::SessionPlanChanged(it) => vec![Plain(&mut it.operation)],
        Payload::SessionRewound(it) => vec![Plain(&mut it.event_id)],
        Payload::SessionIdle(_)
        | Payload::SessionContextUsage(_)
        | Payload::SessionTruncated(_)
        | Payload::SessionTodosChanged(_)
        | Payload::SessionBackgroundTasksChanged(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(payload: Payload, max_size: usize) -> pb::SessionEvent {
        let mut event =
            pb::SessionEvent { event_id: "e".into(), payload: Some(payload), ..Default::default() };
        fit(&mut event, usize::MAX / 4, max_size);
        assert!(event.encoded_len() <= max_size, "{} > {max_size}", event.encoded_len());
        event
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let message = pb::UserMessage { message_id: "m".into(), content: "x".repeat(1000) };
        let event = fitted(Payload::UserMessage(message.clone()), 4096);
        assert_eq!((event.truncated, event.payload), (false, Some(Payload::UserMessage(message))));
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_a_short_one_is_not() {
        let content = "é".repeat(100_000);
        let message = pb::UserMessage { message_id: "m".into(), content: content.clone() };
        let event = fitted(Payload::UserMessage(message), 4096);
        let Some(Payload::UserMessage(message)) = event.payload else { panic!() };
        assert!(event.truncated && message.message_id == "m");
        assert!(message.content.len() > 2000 && content.starts_with(&message.content));
    }

    #[test]
    fn json_that_is_too_long_is_left_out() {
        let long = format!("\"{}\"", "x".repeat(10_000));
        let call = |json: &str| pb::ToolRequest {
            tool_call_id: "c".into(),
            name: "t".into(),
            arguments_json: json.into(),
        };
        let message = pb::AssistantMessage {
            content: "short".into(),
            tool_requests: vec![call(&long), call("{}")],
            ..Default::default()
        };
        let event = fitted(Payload::AssistantMessage(message), 4096);
        let Some(Payload::AssistantMessage(message)) = event.payload else { panic!() };
        assert!(event.truncated && message.content == "short");
        assert_eq!(message.tool_requests, [call(""), call("{}")]);
    }

    #[test]
    fn an_endless_list_is_shortened() {
        let choices = vec!["x".to_owned(); 1_000_000];
        let question = pb::UserInputAsked { ask_id: "a".into(), choices, ..Default::default() };
        let event = fitted(Payload::UserInputAsked(question), 4096);
        assert!(event.truncated);
    }
}
