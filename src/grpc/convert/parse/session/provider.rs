//! Model providers of the caller's own.

use std::str::FromStr;

use http::Uri;

use super::{Checks, non_empty};
use crate::{copilot::Provider, grpc::pb};

impl Checks {
    pub(super) fn provider(&mut self, provider: pb::Provider) -> Provider {
        self.base_url(&provider.base_url);
        Provider {
            kind: self.one_of("provider.type", provider.r#type, &["openai", "azure", "anthropic"]),
            wire_api: self.one_of("provider.wire_api", provider.wire_api, &["completions", "responses"]),
            transport: None,
            base_url: provider.base_url,
            api_key: self.secret("provider.api_key", provider.api_key),
            bearer_token: self.secret("provider.bearer_token", provider.bearer_token),
            azure_api_version: non_empty(provider.azure_api_version),
            headers: self.headers("provider.headers", provider.headers),
            model_id: non_empty(provider.model_id),
            wire_model: non_empty(provider.wire_model),
            max_prompt_tokens: (provider.max_prompt_tokens > 0).then_some(provider.max_prompt_tokens.into()),
            max_output_tokens: (provider.max_output_tokens > 0).then_some(provider.max_output_tokens.into()),
        }
    }

    fn base_url(&mut self, url: &str) {
        if url.is_empty() {
            return self.wrong("provider.base_url", "is required, such as `https://api.example.com/v1`");
        }
        let parsed = Uri::from_str(url).ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        match parsed.as_ref().and_then(Uri::authority) {
            None => {
                self.wrong("provider.base_url", "must be a URL with http or https, such as `https://host/v1`")
            }
            Some(authority) if authority.as_str().contains('@') => {
                self.wrong(
                    "provider.base_url",
                    "must not hold a user name or password: use `api_key` or `headers`",
                );
            }
            Some(_) => {}
        }
    }
}
