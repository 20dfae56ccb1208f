//! What a session is created and resumed with: the caller's choices, and the safe bundle around them.
//!
//! The CLI forgets most of this when it unloads a session, so the same value serves `session.create` and
//! `session.resume` (cli-protocol.md, section 4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Secret;

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

/// The tool with which the agent says in mode "autopilot" that it is done. In other modes it is not offered (observed).
const TASK_COMPLETE: &str = "builtin:task_complete";

/// The section that tells of the machine that the CLI runs on.
const ENVIRONMENT: &str = "environment_context";

impl Default for SystemMessage {
    /// The CLI's own, as [`Self::on_the_wire`] sends it.
    fn default() -> Self {
        Self::Customize { content: None, sections: BTreeMap::new() }
    }
}

impl SystemMessage {
    /// What the CLI is sent: without the section about its machine, unless that was asked for.
    fn on_the_wire(&self) -> Self {
        let mut message = self.clone();
        if let Self::Customize { sections, .. } = &mut message {
            sections.entry(ENVIRONMENT.into()).or_insert(Section::Remove);
        }
        message
    }
}

/// A model provider: where it is, and what it wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
    /// Where the API is.
    pub base_url: String,
    /// The API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// A bearer token, instead of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// Azure's API version.
    #[serde(rename = "azure", serialize_with = "azure", skip_serializing_if = "Option::is_none")]
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

fn azure<S: serde::Serializer>(api_version: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Azure<'a> {
        api_version: &'a Option<String>,
    }
    Azure { api_version }.serialize(serializer)
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

/// The parameters that `session.create` and `session.resume` share.
///
/// Beside the caller's choices they hold what the SDKs call mode "empty": nothing of the machine that the CLI runs on
/// (instructions, hooks, skills, plugins, git, memories) flows into the conversation (cli-protocol.md, section 4).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters<'a> {
    session_id: &'a str,
    client_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a Provider>,
    #[serde(skip_serializing_if = "Option::is_none")]
    git_hub_token: Option<&'a Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    system_message: SystemMessage,
    available_tools: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    excluded_tools: &'a [String],
    request_permission: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    request_elicitation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<&'a str>,
    streaming: bool,
    include_sub_agent_streaming_events: bool,
    tool_filter_precedence: &'static str,
    env_value_mode: &'static str,
    #[serde(flatten)]
    empty: EmptyMode,
}

/// The name under which sessions are stored, and by which the facade knows its own again.
pub const CLIENT_NAME: &str = "copilot-grpc";

impl<'a> Parameters<'a> {
    /// The parameters for a session.
    pub fn new(session_id: &'a str, settings: &'a Settings) -> Self {
        Self {
            session_id,
            client_name: CLIENT_NAME,
            model: settings.model.as_deref(),
            provider: settings.provider.as_ref(),
            git_hub_token: settings.github_token.as_ref(),
            reasoning_effort: settings.reasoning_effort.as_deref(),
            system_message: settings.system_message.on_the_wire(),
            available_tools: settings.visible_tools(),
            excluded_tools: &settings.excluded_tools,
            request_permission: settings.ask_permission,
            request_elicitation: settings.elicitation,
            working_directory: settings.working_directory.as_deref(),
            streaming: true,
            include_sub_agent_streaming_events: true,
            tool_filter_precedence: "excluded",
            env_value_mode: "direct",
            empty: EmptyMode::default(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EmptyMode {
    enable_session_telemetry: bool,
    #[serde(rename = "mcpOAuthTokenStorage")]
    mcp_oauth_token_storage: &'static str,
    skip_embedding_retrieval: bool,
    embedding_cache_storage: &'static str,
    enable_on_demand_instruction_discovery: bool,
    enable_file_hooks: bool,
    enable_host_git_operations: bool,
    enable_session_store: bool,
    enable_skills: bool,
    memory: Memory,
    custom_agents_local_only: bool,
    is_experimental_mode: bool,
}

#[derive(Debug, Serialize)]
struct Memory {
    enabled: bool,
}

impl Default for EmptyMode {
    fn default() -> Self {
        Self {
            enable_session_telemetry: false,
            mcp_oauth_token_storage: "in-memory",
            skip_embedding_retrieval: true,
            embedding_cache_storage: "in-memory",
            enable_on_demand_instruction_discovery: false,
            enable_file_hooks: false,
            enable_host_git_operations: false,
            enable_session_store: false,
            enable_skills: false,
            memory: Memory { enabled: false },
            custom_agents_local_only: true,
            is_experimental_mode: false,
        }
    }
}

/// The rest of mode "empty": parameters of `session.options.update`, which the SDKs send after create and resume.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptyOptions {
    skip_custom_instructions: bool,
    custom_agents_local_only: bool,
    coauthor_enabled: bool,
    manage_schedule_enabled: bool,
    installed_plugins: [(); 0],
}

impl Default for EmptyOptions {
    fn default() -> Self {
        Self {
            skip_custom_instructions: true,
            custom_agents_local_only: true,
            coauthor_enabled: false,
            manage_schedule_enabled: false,
            installed_plugins: [],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_session_is_created_with_nothing_of_the_machine_and_only_what_the_caller_chose() {
        let settings = Settings {
            model: Some("m".into()),
            provider: Some(Provider {
                kind: Some("azure".into()),
                base_url: "http://127.0.0.1:1".into(),
                api_key: Some(Secret::new("key")),
                azure_api_version: Some("2024-10-21".into()),
                ..Provider::default()
            }),
            ..Settings::default()
        };
        let parameters = serde_json::to_value(Parameters::new("s", &settings)).unwrap();
        let expected = json!({
            "sessionId": "s", "clientName": "copilot-grpc", "model": "m",
            "provider": {
                "type": "azure", "baseUrl": "http://127.0.0.1:1", "apiKey": "key", "azure": {"apiVersion": "2024-10-21"},
            },
            "availableTools": ["builtin:task_complete"], "requestPermission": false,
            "streaming": true, "includeSubAgentStreamingEvents": true,
            "toolFilterPrecedence": "excluded", "envValueMode": "direct",
            "enableSessionTelemetry": false, "mcpOAuthTokenStorage": "in-memory", "skipEmbeddingRetrieval": true,
            "embeddingCacheStorage": "in-memory", "enableOnDemandInstructionDiscovery": false,
            "enableFileHooks": false, "enableHostGitOperations": false, "enableSessionStore": false,
            "enableSkills": false, "memory": {"enabled": false}, "customAgentsLocalOnly": true,
            "isExperimentalMode": false,
            "systemMessage": {"mode": "customize", "sections": {"environment_context": {"action": "remove"}}},
        });
        assert_eq!(parameters, expected);
    }

    #[test]
    fn the_section_about_the_machine_is_left_out_unless_it_is_asked_for() {
        let check = |system_message: SystemMessage, expected| {
            let settings = Settings { system_message, ..Settings::default() };
            assert_eq!(
                serde_json::to_value(Parameters::new("s", &settings)).unwrap()["systemMessage"],
                expected
            );
        };
        let sections = |name: &str, section| BTreeMap::from([(name.to_owned(), section)]);
        check(
            SystemMessage::Customize { content: Some("more".into()), sections: BTreeMap::new() },
            json!({
                "mode": "customize", "content": "more", "sections": {"environment_context": {"action": "remove"}},
            }),
        );
        check(
            SystemMessage::Customize { content: None, sections: sections(ENVIRONMENT, Section::Preserve) },
            json!({"mode": "customize", "sections": {"environment_context": {"action": "preserve"}}}),
        );
        check(SystemMessage::Replace { content: "all".into() }, json!({"mode": "replace", "content": "all"}));
    }

    #[test]
    fn what_callers_are_asked_brings_its_tools_and_is_registered_with_the_cli() {
        let check = |settings: Settings, tools: &[&str], interests: &[&str], elicitation: Option<bool>| {
            let parameters = serde_json::to_value(Parameters::new("s", &settings)).unwrap();
            assert_eq!(parameters["availableTools"], json!([tools, &[TASK_COMPLETE]].concat()));
            assert_eq!(settings.interests().collect::<Vec<_>>(), interests);
            assert_eq!(parameters.get("requestElicitation").and_then(Value::as_bool), elicitation);
            // With these the CLI would ask by a request to us as well.
            for flag in ["requestUserInput", "requestExitPlanMode"] {
                assert_eq!(parameters.get(flag), None);
            }
        };
        let settings = |user_input, elicitation, exit_plan| Settings {
            available_tools: vec!["builtin:bash".into()],
            user_input,
            elicitation,
            exit_plan,
            ..Settings::default()
        };
        let (question, plan) = ("user_input.requested", "exit_plan_mode.requested");
        let (ask, exit) = ("builtin:ask_user", "builtin:exit_plan_mode");
        check(settings(false, false, false), &["builtin:bash"], &[], None);
        check(settings(true, false, false), &["builtin:bash", ask], &[question], None);
        check(settings(false, true, false), &["builtin:bash"], &[], Some(true));
        check(settings(false, false, true), &["builtin:bash", exit], &[plan], None);
        check(settings(true, true, true), &["builtin:bash", ask, exit], &[question, plan], Some(true));
    }

    #[test]
    fn the_token_goes_by_the_name_that_the_cli_knows() {
        let settings = Settings { github_token: Some(Secret::new("t")), ..Settings::default() };
        assert_eq!(serde_json::to_value(Parameters::new("s", &settings)).unwrap()["gitHubToken"], "t");
    }

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
