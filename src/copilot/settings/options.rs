//! What else a session may be given. It is written in one form for the CLI and for storage: none of it is secret.

use serde::{Deserialize, Serialize};

/// What else a session may be given; what is unset is left to the CLI.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Options {
    /// The models of the session's own providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ProviderModel>,
    /// Agents that the caller describes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom_agents: Vec<CustomAgent>,
    /// The one of them that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The built-in agents that there are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_builtin_agents: Vec<String>,
    /// What the session may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_limits: Option<Limits>,
    /// What happens when the history grows long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infinite_sessions: Option<InfiniteSession>,
    /// How the model's reasoning is summarized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_summary: Option<String>,
    /// Directories beside the working directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_directories: Vec<String>,
    /// What happens to long outputs of tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_output: Option<LargeOutput>,
    /// What the model can do that the CLI does not know.
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

/// An agent that the caller describes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CustomAgent {
    /// Its name.
    pub name: String,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is good for, for whoever calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is told.
    pub prompt: String,
    /// Its tools, of those that the session has; all if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How hard its model is to think.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Skills that it knows from the beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
}

/// What a model can do that the CLI does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCapabilities {
    /// What it supports.
    pub supports: Supports,
}

/// What a model supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supports {
    /// Whether it can see images.
    pub vision: bool,
}

/// What a session may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// In GitHub's AI credits.
    pub max_ai_credits: i64,
}

/// What happens when the history grows long. Thresholds are shares of the model's context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InfiniteSession {
    /// Whether it is summarized by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// From where on it is, beside the turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_compaction_threshold: Option<f64>,
    /// From where on the turns wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_exhaustion_threshold: Option<f64>,
}

/// What happens to long outputs of tools: they go to a file, and the model is told where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LargeOutput {
    /// Whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// From which size on.
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
    /// Where they are: each has folders with a `SKILL.md`.
    pub directories: Vec<String>,
    /// The names of those that are not wanted.
    pub disabled: Vec<String>,
}
