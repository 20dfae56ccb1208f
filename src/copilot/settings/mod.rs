//! The settings of a session: the caller's choices, and the safe ones around them.
//!
//! The CLI forgets most of them when it unloads a session, so one value serves `session.create` and `session.resume`
//! (cli-protocol.md, section 4).

mod options;
mod parameters;
mod provider;
mod system_message;
mod tools;

use std::{collections::BTreeMap, sync::Arc};

use super::{Secret, redact};

pub use options::{
    CustomAgent, InfiniteSession, LargeOutput, Limits, ModelCapabilities, Options, ProviderModel, Skills,
    Supports,
};
pub use parameters::{CLIENT_NAME, EmptyOptions, Parameters};
pub use provider::{NamedProvider, Provider};
pub use system_message::{Section, SystemMessage};
pub use tools::{McpServer, McpTransport, Remote, Tool};

/// A session's settings, as the facade remembers them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The model; `None` leaves it to the CLI.
    pub model: Option<String>,
    /// A model provider other than GitHub Copilot. Shared, because it is large, and mostly the operator's or none.
    pub provider: Option<Arc<Provider>>,
    /// The GitHub token whose account pays for the session.
    pub github_token: Option<Secret>,
    /// The reasoning effort, in the provider's words.
    pub reasoning_effort: Option<String>,
    /// The system message.
    pub system_message: SystemMessage,
    /// The tools that the agent may see; none if empty.
    pub available_tools: Vec<String>,
    /// Tools that the agent may not see, even if they are available.
    pub excluded_tools: Vec<String>,
    /// Whether the CLI asks for permissions (`permission.requested`), or denies them all by itself.
    pub ask_permission: bool,
    /// Whether the agent may ask questions (`ask_user`).
    pub user_input: bool,
    /// Whether MCP servers may ask questions.
    pub elicitation: bool,
    /// Whether the agent asks before it leaves plan mode (`exit_plan_mode`).
    pub exit_plan: bool,
    /// The agent's working directory; `None` is the CLI's own.
    pub working_directory: Option<String>,
    /// Providers of the session's own, beside GitHub Copilot or each other.
    pub providers: Vec<NamedProvider>,
    /// Tools that the caller runs.
    pub tools: Vec<Tool>,
    /// MCP servers, by name.
    pub mcp_servers: BTreeMap<String, McpServer>,
    /// The folders with its skills; `None`: a session without skills.
    pub skills: Option<Skills>,
    /// Other options. Boxed, because they are large, and mostly unset.
    pub options: Option<Box<Options>>,
}

impl Settings {
    /// Whether the agent has tools of the CLI's or of MCP servers, which may change files.
    pub fn may_change_files(&self) -> bool {
        !self.available_tools.is_empty() || !self.mcp_servers.is_empty()
    }

    /// The kinds of event that the CLI only sends if somebody registers interest in them.
    pub fn interests(&self) -> impl Iterator<Item = &'static str> + use<> {
        let user_input = self.user_input.then_some("user_input.requested");
        let exit_plan = self.exit_plan.then_some("exit_plan_mode.requested");
        user_input.into_iter().chain(exit_plan)
    }

    /// Replaces every secret of these settings in a text: some providers repeat the key in their errors.
    pub fn redact(&self, text: &str) -> String {
        redact(text, self.secrets())
    }

    /// The secrets in these settings.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let providers =
            self.provider.as_deref().into_iter().chain(self.providers.iter().map(|named| &named.provider));
        let secrets = providers.flat_map(Provider::secrets);
        secrets.chain(self.mcp_servers.values().flat_map(McpServer::secrets)).chain(&self.github_token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let settings = Settings {
            provider: Some(Arc::new(Provider {
                api_key: Some(Secret::new("sk-12345")),
                ..Provider::default()
            })),
            github_token: Some(Secret::new("ghu_abcdef")),
            providers: vec![NamedProvider {
                name: "p".into(),
                provider: Provider { bearer_token: Some(Secret::new("bearer-1")), ..Provider::default() },
            }],
            mcp_servers: BTreeMap::from([(
                "m".into(),
                McpServer {
                    transport: McpTransport::Http(Remote {
                        url: String::new(),
                        headers: BTreeMap::from([("x-key".into(), Secret::new("mcp-key"))]),
                    }),
                    tools: Vec::new(),
                    timeout: None,
                },
            )]),
            ..Settings::default()
        };
        let text = settings.redact("bad key sk-12345 for ghu_abcdef, bearer-1 or mcp-key");
        assert_eq!(text, "bad key [redacted] for [redacted], [redacted] or [redacted]");
    }
}
