//! The model of a chaos run, which counts how often it is asked what.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use scripted_model::{Reply, Request};

/// How often the model was asked each prompt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<HashMap<String, usize>>>);

impl Asked {
    /// Answers a prompt with itself and the number of prompts before it in the conversation; takes its time over one with `slow`.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let prompt = request.prompt();
        *self.0.lock().unwrap().entry(prompt.to_owned()).or_default() += 1;
        let users = request.messages.iter().filter(|message| message.role == "user").count();
        let pause = if prompt.contains("slow") { Duration::from_millis(150) } else { Duration::ZERO };
        Reply::text(format!("{prompt} after {} others, in these words", users - 1)).every(pause)
    }

    pub(crate) fn times(&self, prompt: &str) -> usize {
        self.0.lock().unwrap().get(prompt).copied().unwrap_or_default()
    }
}

/// How many prompts the model saw before the one that it answers so.
pub(crate) fn seen_before(answer: &str, prompt: &str) -> Option<usize> {
    answer.strip_prefix(prompt)?.strip_prefix(" after ")?.split(' ').next()?.parse().ok()
}
