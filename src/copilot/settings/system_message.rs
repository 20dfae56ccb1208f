//! What the model is told of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the model is told of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum SystemMessage {
    /// Only this.
    Replace {
        /// The text.
        content: String,
    },
    /// The CLI's own text, changed.
    Customize {
        /// What is added at its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// What happens to its sections, by name. An unknown one is added at the end.
        #[serde(default)]
        sections: BTreeMap<String, Section>,
    },
}

/// What happens to a section of the CLI's system message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Section {
    /// It is left as it is.
    Preserve,
    /// It is left out.
    Remove,
    /// It is this instead.
    Replace {
        /// The text.
        content: String,
    },
    /// This comes after it.
    Append {
        /// The text.
        content: String,
    },
    /// This comes before it.
    Prepend {
        /// The text.
        content: String,
    },
}

/// The section that tells of the machine that the CLI runs on.
pub(super) const ENVIRONMENT: &str = "environment_context";

impl Default for SystemMessage {
    /// The CLI's own, as [`Self::on_the_wire`] sends it.
    fn default() -> Self {
        Self::Customize { content: None, sections: BTreeMap::new() }
    }
}

impl SystemMessage {
    /// What the CLI is sent: without the section about its machine, unless that was asked for.
    pub(super) fn on_the_wire(&self) -> Self {
        let mut message = self.clone();
        if let Self::Customize { sections, .. } = &mut message {
            sections.entry(ENVIRONMENT.into()).or_insert(Section::Remove);
        }
        message
    }
}
