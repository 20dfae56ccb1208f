//! What a session is created and resumed with: the caller's choices, and the safe bundle around them.
//!
//! The CLI forgets most of this when it unloads a session, so the same value serves `session.create` and
//! `session.resume` (cli-protocol.md, section 4).

mod parameters;
mod provider;
mod system_message;

use super::Secret;

pub use parameters::{CLIENT_NAME, EmptyOptions, Parameters};
pub use provider::Provider;
pub use system_message::{Section, SystemMessage};

/// The tool with which the agent says in mode "autopilot" that it is done. In other modes it is not offered (observed).
const TASK_COMPLETE: &str = "builtin:task_complete";

/// A session's settings, as the facade remembers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The model; `None` leaves it to the CLI.
    pub model: Option<String>,
    /// A model provider other than GitHub Copilot.
    pub provider: Option<Provider>,
    /// The GitHub identity that pays for the session.
    pub github_token: Option<Secret>,
    /// How hard the model is to think, in the provider's words.
    pub reasoning_effort: Option<String>,
    /// What the model is told of itself.
    pub system_message: SystemMessage,
    /// The tools that the agent may see; none if empty.
    pub available_tools: Vec<String>,
    /// Of these, the ones that it may not.
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
}

impl Settings {
    /// The kinds of event that the CLI needs to know somebody waits for.
    pub fn interests(&self) -> impl Iterator<Item = &'static str> + use<> {
        let user_input = self.user_input.then_some("user_input.requested");
        let exit_plan = self.exit_plan.then_some("exit_plan_mode.requested");
        user_input.into_iter().chain(exit_plan)
    }

    /// The tools that the agent may see, those included that other settings bring along.
    fn visible_tools(&self) -> Vec<&str> {
        let user_input = self.user_input.then_some("builtin:ask_user");
        let exit_plan = self.exit_plan.then_some("builtin:exit_plan_mode");
        let named = self.available_tools.iter().map(String::as_str);
        named.chain(user_input).chain(exit_plan).chain([TASK_COMPLETE]).collect()
    }

    /// Replaces every secret of these settings that stands in `text`: some providers repeat the key in their errors.
    pub fn redact(&self, text: &str) -> String {
        let provider = self.provider.iter().flat_map(|provider| {
            provider.api_key.iter().chain(&provider.bearer_token).chain(provider.headers.values())
        });
        provider
            .chain(&self.github_token)
            // A header such as `x-tenant: 1` is hardly a secret, and replacing it would garble the text.
            .filter(|secret| secret.expose().len() >= 6)
            .fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "[redacted]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let settings = Settings {
            provider: Some(Provider { api_key: Some(Secret::new("sk-12345")), ..Provider::default() }),
            github_token: Some(Secret::new("ghu_abcdef")),
            ..Settings::default()
        };
        let text = settings.redact("bad key sk-12345 for ghu_abcdef");
        assert_eq!(text, "bad key [redacted] for [redacted]");
    }
}
