//! Parses model providers of the caller's.

use std::{collections::HashSet, str::FromStr};

use http::Uri;

use super::{Checks, non_empty, options::MAX_FEW};
use crate::{
    copilot::{NamedProvider, Provider},
    grpc::pb,
};

impl Checks {
    pub(super) fn provider(&mut self, provider: pb::Provider) -> Provider {
        let (model_id, wire_model) = (provider.model_id, provider.wire_model);
        let (prompt, output) = (provider.max_prompt_tokens, provider.max_output_tokens);
        let connection = pb::NamedProvider {
            name: String::new(),
            r#type: provider.r#type,
            base_url: provider.base_url,
            api_key: provider.api_key,
            bearer_token: provider.bearer_token,
            wire_api: provider.wire_api,
            headers: provider.headers,
            azure_api_version: provider.azure_api_version,
        };
        Provider {
            model_id: non_empty(model_id),
            wire_model: non_empty(wire_model),
            max_prompt_tokens: (prompt > 0).then_some(prompt.into()),
            max_output_tokens: (output > 0).then_some(output.into()),
            ..self.connection("provider", connection)
        }
    }

    /// Parses several providers, each with a name.
    pub(in crate::grpc) fn providers(&mut self, providers: Vec<pb::NamedProvider>) -> Vec<NamedProvider> {
        self.at_most(MAX_FEW, "providers", providers.len());
        let mut names = HashSet::new();
        let providers = providers.into_iter().enumerate().map(|(n, provider)| {
            let field = format!("providers[{n}]");
            let name = provider.name.clone();
            // A `/` separates the provider's name from a model's id.
            if name.trim().is_empty() || name.contains('/') {
                self.wrong(format!("{field}.name"), "is required, and may not have a `/`");
            }
            if !names.insert(name.clone()) {
                self.wrong(format!("{field}.name"), format!("{name:?} is the name of two providers"));
            }
            NamedProvider { name, provider: self.connection(&field, provider) }
        });
        providers.collect()
    }

    fn connection(&mut self, field: &str, provider: pb::NamedProvider) -> Provider {
        let field = |part: &str| format!("{field}.{part}");
        self.url(&field("base_url"), &provider.base_url);
        // Without a key the CLI takes the machine's own identity at Azure, and sends its token to the URL (observed, also where
        // headers hold a key). That identity is the operator's, who may use it in the server's own configuration.
        if provider.r#type == "azure" && provider.api_key.is_empty() && provider.bearer_token.is_empty() {
            self.wrong(field("api_key"), "is required with type `azure`, or `bearer_token`");
        }
        Provider {
            kind: self.one_of(&field("type"), provider.r#type, &["openai", "azure", "anthropic"]),
            wire_api: self.one_of(&field("wire_api"), provider.wire_api, &["completions", "responses"]),
            base_url: provider.base_url,
            api_key: self.secret(&field("api_key"), provider.api_key),
            bearer_token: self.secret(&field("bearer_token"), provider.bearer_token),
            azure_api_version: non_empty(provider.azure_api_version),
            headers: self.headers(&field("headers"), provider.headers),
            ..Provider::default()
        }
    }

    /// Checks that the text is an HTTP URL without secrets in it.
    pub(super) fn url(&mut self, field: &str, url: &str) {
        if url.is_empty() {
            return self.wrong(field, "is required, such as `https://api.example.com/v1`");
        }
        let parsed = Uri::from_str(url).ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        match parsed.as_ref().and_then(Uri::authority) {
            None => self.wrong(field, "must be a URL with http or https, such as `https://host/v1`"),
            Some(authority) if authority.as_str().contains('@') => {
                self.wrong(field, "must not hold a user name or password: there are other fields for them");
            }
            Some(_) => {}
        }
    }
}
