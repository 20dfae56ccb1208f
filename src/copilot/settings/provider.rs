//! Model providers other than GitHub Copilot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::copilot::Secret;

/// A model provider: its address, credentials and model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Provider {
    /// `openai`, `azure` or `anthropic`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `completions` or `responses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_api: Option<String>,
    /// `http` or `websockets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The URL of the API.
    pub base_url: String,
    /// The API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// A bearer token, instead of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// Azure's API version.
    #[serde(rename = "azure", with = "azure", skip_serializing_if = "Option::is_none")]
    pub azure_api_version: Option<String>,
    /// Extra HTTP headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// A well-known model to take limits from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The model's name at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_model: Option<String>,
    /// The largest prompt, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<u64>,
    /// The longest answer, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

impl Provider {
    /// The secrets in it.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.api_key.iter().chain(&self.bearer_token).chain(self.headers.values())
    }
}

/// Azure's API version, as the CLI wants it: in an object of its own.
mod azure {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Azure<T> {
        api_version: T,
    }

    pub(super) fn serialize<S: Serializer>(
        api_version: &Option<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Azure { api_version }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<String>, D::Error> {
        Azure::deserialize(deserializer).map(|azure| azure.api_version)
    }
}

/// One of several providers of a session. Its models are [`ProviderModel`](super::ProviderModel)s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamedProvider {
    /// The name by which its models refer to it.
    pub name: String,
    /// The provider. Its fields about models are not used.
    #[serde(flatten)]
    pub provider: Provider,
}
