//! The script of a turn: what the model answers to a prompt, and how its caller's stream is judged by it.

use std::time::Duration;

use copilot_grpc::grpc::pb::{DeliveryState, session_event::Payload};
use scripted_model::{ModelServer, Reply, Request};
use tonic::{Code, Status};

use super::fault::Kind;
use crate::support::{facade::Streamed, failure_of, reason_of};

/// What the model answers to a prompt: words that are this prompt's and no other's.
struct Script<'a> {
    marker: &'a str,
    words: usize,
    pause: Duration,
    /// What each word is followed by.
    padding: usize,
}

impl<'a> Script<'a> {
    fn of(prompt: &'a str) -> Self {
        let mut fields = prompt.split(' ');
        let marker = fields.next().unwrap();
        let mut number = || fields.next().and_then(|field| field.parse().ok()).unwrap_or_default();
        Self { marker, words: number(), pause: Duration::from_millis(number() as u64), padding: number() }
    }

    fn chunks(&self) -> impl Iterator<Item = String> {
        (0..self.words).map(|n| format!("{}.{n}{} ", self.marker, "-".repeat(self.padding)))
    }

    fn text(&self) -> String {
        self.chunks().collect()
    }
}

/// The model, which keeps to the script.
pub(super) fn reply(request: &Request) -> Reply {
    let script = Script::of(request.prompt());
    Reply::chunks(script.chunks()).every(script.pause)
}

/// What became of a prompt, as its caller was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Answered,
    Failed(DeliveryState),
}

/// Whether the stream is what was promised.
pub(super) fn judge(streamed: &Streamed, prompt: &str) -> Result<Fate, String> {
    let (expected, text) = (Script::of(prompt).text(), streamed.text());
    match &streamed.end {
        Ok(result) => {
            let messages: Vec<_> = streamed
                .events
                .iter()
                .filter_map(|event| match &event.payload {
                    Some(Payload::AssistantMessage(message)) => Some(&message.content),
                    _ => None,
                })
                .collect();
            if result.content != expected || messages != [&expected] || text != expected {
                let content = &result.content;
                return Err(format!(
                    "lost or doubled: deltas {text:?}, messages {messages:?}, result {content:?}"
                ));
            }
            Ok(Fate::Answered)
        }
        Err(status) => {
            let delivery = delivery_of(status)?;
            let partial = failure_of(status).partial_content;
            if !expected.starts_with(&text) || !expected.starts_with(&partial) {
                return Err(format!("foreign text: deltas {text:?}, partial {partial:?}, {status:?}"));
            }
            Ok(Fate::Failed(delivery))
        }
    }
}

/// Whether the prompt was delivered, if the error is one of those that a fault may cause.
fn delivery_of(status: &Status) -> Result<DeliveryState, String> {
    use DeliveryState::{Delivered, NotDelivered, Unknown};
    match (status.code(), reason_of(status).as_str()) {
        (Code::Unavailable, "TURN_INTERRUPTED" | "BACKEND_UNAVAILABLE") => {}
        _ => return Err(format!("no fault has this consequence: {status:?}")),
    }
    let delivery = failure_of(status).delivery();
    match (reason_of(status).as_str(), delivery) {
        ("TURN_INTERRUPTED", Delivered | Unknown) | ("BACKEND_UNAVAILABLE", NotDelivered) => Ok(delivery),
        _ => Err(format!("{delivery:?} does not go with {status:?}")),
    }
}

/// Compares what the caller was told of some prompts with what the agent has in mind with the last one.
pub(super) fn check_delivery(model: &ModelServer, sent: &[(String, Fate)], kind: Kind) -> Result<(), String> {
    let calls = model.calls();
    let last = calls.iter().rfind(|call| sent.iter().any(|(prompt, _)| call.request.prompt() == prompt));
    let users = last.ok_or("the model was not asked")?.request.messages.iter();
    let users: Vec<_> = users.filter(|message| message.role == "user").collect();
    for (prompt, told) in sent {
        let times = users.iter().filter(|message| message.content.contains(prompt)).count();
        let asked = calls.iter().filter(|call| call.request.prompt() == prompt).count();
        let is_true = match told {
            Fate::Failed(DeliveryState::NotDelivered) => times == 0 && asked == 0,
            // What it has not stored yet, a CLI forgets that is killed.
            Fate::Answered if kind != Kind::Killed => times == 1,
            // Nor is a prompt stored yet when it is acknowledged.
            Fate::Answered | Fate::Failed(_) => times <= 1,
        };
        if !is_true {
            return Err(format!(
                "{told:?}, but the agent has it {times} times, and asked the model {asked} times"
            ));
        }
    }
    Ok(())
}
