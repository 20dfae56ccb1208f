//! The system message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The system message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum SystemMessage {
    /// This text alone.
    Replace {
        /// The text.
        content: String,
    },
    /// The CLI's own text, with changes.
    Customize {
        /// The text that is added at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// What happens to its sections, by name. An unknown section is added at the end.
        #[serde(default)]
        sections: BTreeMap<String, Section>,
    },
}

/// What happens to a section of the CLI's system message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Section {
    /// The section stays as it is.
    Preserve,
    /// The section is left out.
    Remove,
    /// A text replaces the section.
    Replace {
        /// The text.
        content: String,
    },
    /// A text comes after the section.
    Append {
        /// The text.
        content: String,
    },
    /// A text comes before the section.
    Prepend {
        /// The text.
        content: String,
    },
}

/// The section about the machine that the CLI runs on.
pub(super) const ENVIRONMENT: &str = "environment_context";

impl Default for SystemMessage {
    /// The CLI's own text, as [`Self::on_the_wire`] sends it.
    fn default() -> Self {
        Self::Customize { content: None, sections: BTreeMap::new() }
    }
}

impl SystemMessage {
    /// The system message for the CLI: without the section about its machine, unless that was asked for.
    pub(super) fn on_the_wire(&self) -> Self {
        let mut message = self.clone();
        if let Self::Customize { sections, .. } = &mut message {
            sections.entry(ENVIRONMENT.into()).or_insert(Section::Remove);
        }
        message
    }
}
