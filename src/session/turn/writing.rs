//! What the main agent writes in a turn: the message that is being written, and the answer so far.
//!
//! The answer is the text of the agent's last message. Where the model's output limit cuts a message, the CLI has the model
//! go on with it, up to twice, and then tells of one `assistant.message` that has the last part alone: of the others there
//! are deltas and an `assistant.usage` that says `length`, in any order, and the end of the round (observed; the native runtime
//! tells of the usage first as often as not). All parts are one message. If
//! the one that goes on with a cut message calls tools, what comes after these is still the same message.

use crate::copilot::event::{self, FinishReason};

/// What the main agent has written in a turn.
#[derive(Debug, Default)]
pub(super) struct Writing {
    answer: Option<Answer>,
    /// Whether the agent has said anything at all, if only which tools to call.
    spoke: bool,
    /// What there is of the message that is being written, without its last part.
    parts: String,
    /// Whether tools come between these and the last part.
    after_tools: bool,
    /// The last part, as far as it has come.
    part: Part,
    /// Which message the last of the parts was.
    cut_message: String,
    /// How the last call of the model ended.
    finish: Option<FinishReason>,
    /// Whether the last message had nothing to add to its parts.
    added_nothing: bool,
}

/// An answer, which a later one may replace.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) content: String,
    pub(super) model: Option<String>,
}

#[derive(Debug, Default)]
struct Part {
    message_id: String,
    text: String,
    /// Whether the output limit has cut it, and no whole message has come.
    cut: bool,
}

impl Writing {
    /// A piece of a message has come. One of another message than the last was of a call that failed, if it was not cut. What was
    /// held back of a part may come when its round has ended.
    pub(super) fn delta(&mut self, delta: &event::AssistantMessageDelta) {
        if self.cut_message == delta.message_id && !self.parts.is_empty() {
            return self.parts.push_str(&delta.delta_content);
        }
        if self.part.message_id != delta.message_id {
            let is_of_ended_call = self.part.message_id.is_empty();
            let cut = is_of_ended_call && self.part.cut;
            if !is_of_ended_call {
                self.end_part();
            }
            self.part = Part { message_id: delta.message_id.clone(), cut, ..Part::default() };
        }
        self.part.text.push_str(&delta.delta_content);
    }

    /// A call of the model has ended: if its message is whole it comes behind its deltas.
    pub(super) fn model_call(&mut self, usage: &event::Usage) {
        self.finish = usage.finish();
        self.part.cut = self.finish == Some(FinishReason::Length);
    }

    /// The whole text of a part that was cut. Deltas may be missing: a CLI that falls behind repeats them, and what it repeats is
    /// held back until the whole is known.
    pub(super) fn cut_part(&mut self, text: &str) {
        if self.part.cut {
            text.clone_into(&mut self.part.text);
        }
    }

    /// Whether a part was cut, of which the whole text may come.
    pub(super) fn is_cut(&self) -> bool {
        self.part.cut
    }

    /// A round has ended: no whole message comes of it any more.
    pub(super) fn round_ended(&mut self) {
        self.end_part();
    }

    /// The agent has taken up another prompt, and does not go on with what was cut.
    pub(super) fn prompted(&mut self) {
        self.parts.clear();
    }

    /// A message has come, whole or its last part. True: it is the answer, for now.
    pub(super) fn message(&mut self, message: &event::AssistantMessage) -> bool {
        if self.part.message_id != message.message_id {
            self.end_part();
        }
        let part = std::mem::take(&mut self.part);
        let calls_tools = !message.tool_requests.is_empty();
        let goes_on = !self.parts.is_empty() && !self.after_tools;
        let had_text = !is_blank(&self.parts) || self.has_text();
        let adds_nothing = is_blank(&message.content) || self.is_notice(&part, message);
        let mut content = std::mem::take(&mut self.parts);
        if !(adds_nothing && had_text) {
            content += &message.content;
        }
        self.spoke = true;
        self.added_nothing = !calls_tools && adds_nothing && !is_blank(&content);
        if calls_tools && (part.cut || goes_on) {
            self.parts.clone_from(&content);
            self.after_tools = true;
        }
        // A message without text that calls tools is on the way to the answer, not the answer. And one that has nothing to say
        // takes nothing back.
        let is_answer = !is_blank(&content) || self.answer.is_none() && !calls_tools;
        if is_answer {
            self.answer = Some(Answer { content, model: message.model.clone() });
        }
        is_answer
    }

    /// The agent says at its end what it has done, in mode "autopilot". True: that is the answer.
    pub(super) fn summary(&mut self, summary: &str) -> bool {
        let is_answer = !summary.is_empty();
        if is_answer {
            let model = self.answer.take().and_then(|answer| answer.model);
            self.answer = Some(Answer { content: summary.to_owned(), model });
        }
        is_answer
    }

    /// The answer so far.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// Whether the agent has said anything at all.
    pub(super) fn spoke(&self) -> bool {
        self.spoke
    }

    /// Whether it has ended without adding anything to its parts. The CLI, which forgets these, then complains that there was no
    /// response (observed).
    pub(super) fn added_nothing(&self) -> bool {
        self.added_nothing
    }

    /// What there is of the message that is being written, or of the last one if none is.
    pub(super) fn so_far(&self) -> String {
        let written = format!("{}{}", self.parts, self.part.text);
        match &self.answer {
            Some(answer) if is_blank(&written) => answer.content.clone(),
            _ => written,
        }
    }

    /// Whether the answer is whole, and if not, why.
    pub(super) fn finish_reason(&self, called_tools: bool) -> Option<FinishReason> {
        use FinishReason::{Other, Stop, ToolOnly};
        let has_text = self.has_text();
        match self.finish {
            Some(Stop | ToolOnly) if has_text => Some(Stop),
            None | Some(Stop | ToolOnly) if called_tools && !has_text => Some(ToolOnly),
            Some(Stop | ToolOnly) => Some(Other),
            finish => finish,
        }
    }

    fn has_text(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !is_blank(&answer.content))
    }

    /// Whether a message is the CLI's own word of a filter that has let nothing through: there are no deltas of it (observed).
    fn is_notice(&self, part: &Part, message: &event::AssistantMessage) -> bool {
        let was_written = part.message_id == message.message_id && !part.text.is_empty();
        self.finish == Some(FinishReason::ContentFilter) && !was_written
    }

    fn end_part(&mut self) {
        if self.part.cut {
            let Part { message_id, text, .. } = std::mem::take(&mut self.part);
            self.parts += &text;
            self.cut_message = message_id;
            self.after_tools = false;
        }
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
