//! What `session.create` and `session.resume` are told, and the safe bundle around it.

use serde::Serialize;

use super::{Provider, Settings, SystemMessage};
use crate::copilot::Secret;

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
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{
        super::{Section, TASK_COMPLETE, system_message::ENVIRONMENT},
        *,
    };

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
}
