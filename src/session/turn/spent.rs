//! What a session has cost since it was first heard here. Pure.
//!
//! The CLI counts, too, but not for long: the native runtime adds nothing more once a stored session was loaded again (observed on
//! 1.0.89).

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::outcome::Usage;
use crate::copilot::{Event, event::Payload};

/// What a session has cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Since when it was counted.
    pub since: SystemTime,
    /// How many prompts the agent took up, whoever sent them.
    pub prompts: i64,
    /// What the calls of each model have cost, sub-agents' included.
    pub by_model: BTreeMap<String, Usage>,
}

impl Spent {
    /// Counts an event, if it is one that counts. From the first of them on there is something.
    pub(in crate::session) fn count(spent: &mut Option<Box<Self>>, event: &Event) {
        let since = || Box::new(Self { since: SystemTime::now(), prompts: 0, by_model: BTreeMap::new() });
        match &event.payload {
            Payload::UserMessage(_) if event.agent_id.is_none() => {
                spent.get_or_insert_with(since).prompts += 1;
            }
            Payload::AssistantUsage(usage) => {
                let by_model = &mut spent.get_or_insert_with(since).by_model;
                let model = usage.model.as_deref().unwrap_or_default();
                let is_full = by_model.len() == MAX_MODELS;
                match by_model.get_mut(model) {
                    Some(all) => all.add(usage),
                    None if is_full => {}
                    None => by_model.entry(model.to_owned()).or_default().add(usage),
                }
            }
            _ => {}
        }
    }

    /// As it is stored.
    pub(in crate::session) fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What was stored, if anything.
    pub(in crate::session) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What all models have cost together.
    pub fn total(&self) -> Usage {
        self.by_model.values().fold(Usage::default(), |all, model| all.with(model))
    }
}

/// How many models are told apart. A session hardly has more than a few.
const MAX_MODELS: usize = 100;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::copilot::event;

    fn count(spent: &mut Option<Box<Spent>>, kind: &str, agent: Option<&str>, data: serde_json::Value) {
        let event = json!({"type": kind, "id": "e", "agentId": agent, "data": data}).to_string();
        Spent::count(spent, &event::parse_stored(&event).unwrap());
    }

    #[test]
    fn calls_are_summed_by_model_and_prompts_counted_and_nothing_else() {
        let mut spent = None;
        count(&mut spent, "session.idle", None, json!({}));
        assert_eq!(spent, None);
        count(&mut spent, "user.message", None, json!({"content": "?", "messageId": "m"}));
        count(&mut spent, "user.message", Some("helper"), json!({"content": "?"}));
        for (agent, model) in [(None, "large"), (Some("helper"), "small"), (None, "large")] {
            let usage = json!({"model": model, "inputTokens": 10, "outputTokens": 3, "copilotUsage": {"totalNanoAiu": 5}});
            count(&mut spent, "assistant.usage", agent, usage);
        }
        let spent = spent.unwrap();
        let by_model: Vec<_> =
            spent.by_model.iter().map(|(model, usage)| (model.as_str(), usage.input_tokens)).collect();
        assert_eq!((spent.prompts, by_model), (1, vec![("large", 20), ("small", 10)]));
        let total = spent.total();
        assert_eq!((total.output_tokens, total.model_calls, total.nano_ai_credits), (9, 3, 15));
    }

    #[test]
    fn models_without_end_take_no_memory_without_end() {
        let mut spent = None;
        for model in 0..2 * MAX_MODELS {
            count(&mut spent, "assistant.usage", None, json!({"model": model.to_string()}));
        }
        assert_eq!(spent.unwrap().by_model.len(), MAX_MODELS);
    }
}
