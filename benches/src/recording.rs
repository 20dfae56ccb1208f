//! A turn of the real CLI as it was recorded (`recording/turn.jsonl`, by the `record` program), and how it is played again.
//!
//! A line is a message: the answer to `session.send`, and what the CLI tells of the turn. Where turns differ there are marks;
//! where the CLI had a long text, which only has to be as long, there is its length.

use std::ops::Range;

/// Stands for the session's id.
pub const SESSION: &str = "@SESSION@";
/// Stands for the last twelve digits of a UUID, which are the turn's.
pub const TURN: &str = "@TURN@";
/// Stands for the same of an event's own id, which no other event has.
pub const EVENT: &str = "@EVENT@";
/// Stands for the prompt.
pub const PROMPT: &str = "@PROMPT@";
/// Stands for a piece of the answer.
pub const TEXT: &str = "@TEXT@";
/// Stands for the whole answer.
pub const ANSWER: &str = "@ANSWER@";

/// Stands for a text of so many bytes.
pub fn fill(len: usize) -> String {
    format!("@FILL:{len}@")
}

/// A recorded turn: what comes before its first delta, the delta, and what comes after the last one.
#[derive(Debug)]
pub struct Recording {
    /// The `id` of the answer to `session.send` is the request's.
    pub messages: Vec<Template>,
    /// Which of them are deltas, and what is told between them.
    pub deltas: Range<usize>,
    /// Which of them is the last event that the CLI stores.
    pub stored: usize,
}

/// What is put in the place of marks.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Of the request.
    pub request_id: &'a str,
    /// The session's id.
    pub session: &'a str,
    /// The turn's number: no other turn of the process has it.
    pub turn: u64,
    /// The event's number within the turn.
    pub event: u64,
    /// The prompt.
    pub prompt: &'a str,
    /// The piece of the answer.
    pub text: &'a str,
    /// The whole answer.
    pub answer: &'a str,
}

impl Recording {
    /// The turn that the repository has.
    ///
    /// # Panics
    /// If it is broken.
    pub fn load() -> Self {
        let messages: Vec<_> = include_str!("../recording/turn.jsonl").lines().map(Template::new).collect();
        let is_delta = |message: &Template| message.has(Mark::Text);
        let first = messages.iter().position(is_delta).expect("deltas");
        let last = messages.iter().rposition(is_delta).expect("deltas");
        let is_end = |message: &Template| message.says("\"assistant.turn_end\"");
        let stored = messages.iter().rposition(is_end).expect("an end");
        Self { messages, deltas: first..last + 1, stored }
    }

    /// How many deltas were recorded. Between two of them is a message that says how much there is by now.
    pub fn delta_count(&self) -> usize {
        self.deltas.len().div_ceil(2)
    }
}

/// A message with marks in it.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(Box<str>),
    Mark(Mark),
}

impl Part {
    fn text<'a>(&'a self, values: &Values<'a>, [turn, event]: [&'a str; 2]) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Mark(Mark::Request) => values.request_id,
            Self::Mark(Mark::Session) => values.session,
            Self::Mark(Mark::Turn) => turn,
            Self::Mark(Mark::Event) => event,
            Self::Mark(Mark::Prompt) => values.prompt,
            Self::Mark(Mark::Text) => values.text,
            Self::Mark(Mark::Answer) => values.answer,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mark {
    Request,
    Session,
    Turn,
    Event,
    Prompt,
    Text,
    Answer,
}

const MARKS: [(&str, Mark); 6] = [
    (SESSION, Mark::Session),
    (TURN, Mark::Turn),
    (EVENT, Mark::Event),
    (PROMPT, Mark::Prompt),
    (TEXT, Mark::Text),
    (ANSWER, Mark::Answer),
];

impl Template {
    fn says(&self, text: &str) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Text(said) if said.contains(text)))
    }

    /// Reads a line of a recording.
    pub fn new(line: &str) -> Self {
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), line);
        // Of the answer alone: a notification has no id but those of events.
        const ANSWERS: &str = r#"{"jsonrpc":"2.0","id":"#;
        if let Some(after) = rest.strip_prefix(ANSWERS) {
            parts.extend([Part::Text(ANSWERS.into()), Part::Mark(Mark::Request)]);
            rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
        }
        while let Some(at) = rest.find('@') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some((name, mark)) = MARKS.iter().find(|(name, _)| rest.starts_with(name)) {
                parts.extend([Part::Text(std::mem::take(&mut text).into()), Part::Mark(*mark)]);
                rest = &rest[name.len()..];
            } else if let Some((len, after)) = filled(rest) {
                text.push_str(&filler(len));
                rest = after;
            } else {
                text.push('@');
                rest = &rest[1..];
            }
        }
        text.push_str(rest);
        parts.push(Part::Text(text.into()));
        Self(parts)
    }

    fn has(&self, mark: Mark) -> bool {
        self.0.contains(&Part::Mark(mark))
    }

    /// Whether it is the answer to the request, and not a notification.
    pub fn is_response(&self) -> bool {
        self.has(Mark::Request)
    }

    /// Appends the message with its header.
    pub fn push(&self, out: &mut Vec<u8>, values: &Values<'_>) {
        let turn = format!("{:012x}", values.turn);
        let event = format!("{:07x}{:05x}", values.turn, values.event);
        let piece = |part| Part::text(part, values, [&turn, &event]);
        let len: usize = self.0.iter().map(|part| piece(part).len()).sum();
        out.extend_from_slice(format!("Content-Length: {len}\r\n\r\n").as_bytes());
        self.0.iter().for_each(|part| out.extend_from_slice(piece(part).as_bytes()));
    }
}

fn filled(text: &str) -> Option<(usize, &str)> {
    let (len, after) = text.strip_prefix("@FILL:")?.split_once('@')?;
    Some((len.parse().ok()?, after))
}

/// Text of so many bytes as JSON has it: lines, which are escaped, as in what it stands for.
fn filler(len: usize) -> String {
    const LINE: &str = "All of this stands for a text of the same length that says something. \\n";
    let mut text = LINE.repeat(len / LINE.len());
    text.push_str(&"x".repeat(len % LINE.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_played_as_it_was_recorded() {
        let recording = Recording::load();
        let values = Values {
            request_id: "7",
            session: "s",
            turn: 5,
            event: 0,
            prompt: "?",
            text: "a piece",
            answer: "all pieces",
        };
        let (mut types, mut size) = (Vec::new(), 0);
        for message in &recording.messages {
            let mut frame = Vec::new();
            message.push(&mut frame, &values);
            size += frame.len();
            let frame = String::from_utf8(frame).unwrap();
            let (header, body) = frame.split_once("\r\n\r\n").unwrap();
            assert_eq!(header, format!("Content-Length: {}", body.len()));
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            if message.is_response() {
                assert_eq!(body["id"], 7);
                assert!(body["result"]["messageId"].as_str().unwrap().ends_with("000000000005"));
            } else if body["method"] == "session.event" {
                assert_eq!(body["params"]["sessionId"], "s");
                types.push(body["params"]["event"]["type"].as_str().unwrap().to_owned());
            }
        }
        assert!(types.iter().any(|kind| kind == "system.message"), "{types:?}");
        assert_eq!(types.last().unwrap(), "session.idle");
        assert!((60_000..100_000).contains(&size), "{size}");
    }
}
