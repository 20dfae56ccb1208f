//! Other options of a session. They have one form for the CLI and for storage: none is secret.

use serde::{Deserialize, Serialize};

/// Other options of a session; those that are unset are left to the CLI.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Options {
    /// The models of the session's own providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ProviderModel>,
    /// Custom agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom_agents: Vec<CustomAgent>,
    /// The name of the custom agent that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Built-in agents that the session does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_builtin_agents: Vec<String>,
    /// The limits of its costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_limits: Option<Limits>,
    /// How a long history is compacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infinite_sessions: Option<InfiniteSession>,
    /// How the model's reasoning is summarized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_summary: Option<String>,
    /// Directories beside the working directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_directories: Vec<String>,
    /// How long outputs of tools are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_output: Option<LargeOutput>,
    /// Abilities of the model that the CLI does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_capabilities: Option<ModelCapabilities>,
}

impl Options {
    /// These options as [`Settings`](super::Settings) hold them: `None` where nothing is set.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// A model of one of the session's own providers. The session knows it as `provider/id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProviderModel {
    /// Its id.
    pub id: String,
    /// Its provider's name.
    pub provider: String,
    /// A well-known model to take limits from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Its name at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_model: Option<String>,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The largest prompt, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<u64>,
    /// The longest answer, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Prompt and answer together, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_context_window_tokens: Option<u64>,
}

impl ProviderModel {
    /// The name by which the session knows it.
    pub fn selection(&self) -> String {
        format!("{}/{}", self.provider, self.id)
    }
}

/// A custom agent, which the caller describes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CustomAgent {
    /// Its name.
    pub name: String,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its abilities, for agents that may call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its instructions.
    pub prompt: String,
    /// Its tools, out of those of the session; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its model's reasoning effort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// The skills that it knows from the beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
}

/// Abilities of a model that the CLI does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCapabilities {
    /// The inputs that it supports.
    pub supports: Supports,
}

/// The inputs that a model supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supports {
    /// Whether it can see images.
    pub vision: bool,
}

/// The limits of a session's costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The limit in GitHub's AI credits.
    pub max_ai_credits: i64,
}

/// How a long history is compacted. Thresholds are shares of the model's context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InfiniteSession {
    /// Whether the history is summarized automatically.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The threshold at which the summary is made, beside the turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_compaction_threshold: Option<f64>,
    /// The threshold at which the turns wait for the summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_exhaustion_threshold: Option<f64>,
}

/// How long outputs of tools are stored: they go to a file, and the model is told where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LargeOutput {
    /// Whether they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The size from which on an output is stored, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// The file's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<String>,
}

/// Folders with instructions that the agent reads when it needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Skills {
    /// The folders; each has folders with a `SKILL.md`.
    pub directories: Vec<String>,
    /// The names of the skills to leave out.
    pub disabled: Vec<String>,
}
