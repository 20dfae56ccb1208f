//! The parameters of `session.create` and `session.resume`, with the safe settings around the caller's.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{McpServer, NamedProvider, Options, Provider, Settings, SystemMessage, tools::Declaration};
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
    available_tools: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    excluded_tools: &'a [String],
    request_permission: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    request_elicitation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    providers: &'a [NamedProvider],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Declaration<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mcp_servers: &'a BTreeMap<String, McpServer>,
    #[serde(flatten)]
    skills: Option<SkillParameters<'a>>,
    #[serde(flatten)]
    options: Option<&'a Options>,
    streaming: bool,
    include_sub_agent_streaming_events: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enable_file_change_tracking: bool,
    tool_filter_precedence: &'static str,
    env_value_mode: &'static str,
    #[serde(flatten)]
    empty: EmptyMode,
}

/// The client name with which sessions are stored, by which the facade recognizes its own.
pub const CLIENT_NAME: &str = "copilot-grpc";

impl<'a> Parameters<'a> {
    /// Leaves the model as it is: the CLI knows which one the session has, also if another client has changed it (observed).
    pub fn leave_model(&mut self) {
        self.model = None;
        self.reasoning_effort = None;
    }

    /// Has the session work in this folder, and not in the one that the CLI knows of it.
    pub fn work_in(&mut self, folder: &'a str) {
        self.working_directory = Some(folder);
    }

    /// Leaves the caller's tools to another connection: two cannot both have them (observed).
    pub fn leave_tools(&mut self) {
        self.tools.clear();
    }

    /// The parameters for a session.
    pub fn new(session_id: &'a str, settings: &'a Settings) -> Self {
        Self {
            session_id,
            client_name: CLIENT_NAME,
            model: settings.model.as_deref(),
            provider: settings.provider.as_deref(),
            git_hub_token: settings.github_token.as_ref(),
            reasoning_effort: settings.reasoning_effort.as_deref(),
            system_message: settings.system_message.on_the_wire(),
            available_tools: visible_tools(settings),
            excluded_tools: &settings.excluded_tools,
            request_permission: settings.ask_permission,
            request_elicitation: settings.elicitation,
            working_directory: settings.working_directory.as_deref(),
            providers: &settings.providers,
            tools: settings.tools.iter().map(Declaration).collect(),
            mcp_servers: &settings.mcp_servers,
            skills: settings.skills.as_ref().map(|skills| SkillParameters {
                skill_directories: &skills.directories,
                disabled_skills: &skills.disabled,
                included_builtin_skills: [],
            }),
            options: settings.options.as_deref(),
            streaming: true,
            include_sub_agent_streaming_events: true,
            enable_file_change_tracking: settings.may_change_files(),
            tool_filter_precedence: "excluded",
            env_value_mode: "direct",
            empty: EmptyMode { enable_skills: settings.skills.is_some(), ..EmptyMode::default() },
        }
    }
}

/// The tools that the agent may see: the built-in ones that were named, and those that come with the session's other settings,
/// which would otherwise be hidden (observed).
fn visible_tools(settings: &Settings) -> Vec<String> {
    let own = settings.tools.iter().map(|tool| format!("custom:{}", tool.name));
    let builtin = [
        (settings.skills.is_some(), "skill"),
        (settings.user_input, "ask_user"),
        (settings.exit_plan, "exit_plan_mode"),
        // By it the agent says in mode "autopilot" that it is done. In other modes it is not offered (observed).
        (true, "task_complete"),
    ];
    let builtin =
        builtin.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| format!("builtin:{name}"));
    let mcp = (!settings.mcp_servers.is_empty()).then(|| "mcp:*".to_owned());
    settings.available_tools.iter().cloned().chain(own).chain(mcp).chain(builtin).collect()
}

/// The parameters for the caller's skills. The CLI's own, which are about GitHub's services, are left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SkillParameters<'a> {
    skill_directories: &'a [String],
    disabled_skills: &'a [String],
    included_builtin_skills: [(); 0],
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

/// The rest of mode "empty": the parameters of `session.options.update`, which the SDKs send after create and resume.
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
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::copilot::{
        CustomAgent, InfiniteSession, LargeOutput, Limits, McpTransport, ModelCapabilities, ProviderModel,
        Remote, Section, Skills, Supports, Tool, settings::system_message::ENVIRONMENT,
    };

    #[test]
    fn a_session_is_created_with_nothing_of_the_machine_and_only_what_the_caller_chose() {
        let settings = Settings {
            model: Some("m".into()),
            provider: Some(Arc::new(Provider {
                kind: Some("azure".into()),
                base_url: "http://127.0.0.1:1".into(),
                api_key: Some(Secret::new("key")),
                azure_api_version: Some("2024-10-21".into()),
                ..Provider::default()
            })),
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
            assert_eq!(parameters["availableTools"], json!([tools, &["builtin:task_complete"]].concat()));
            assert_eq!(settings.interests().collect::<Vec<_>>(), interests);
            assert_eq!(parameters.get("requestElicitation").and_then(Value::as_bool), elicitation);
            // With these flags the CLI would send a JSON-RPC request as well.
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
    fn what_a_session_is_given_by_itself_is_visible_to_its_agent() {
        let parameters = |settings: &Settings| serde_json::to_value(Parameters::new("s", settings)).unwrap();
        let settings = Settings {
            available_tools: vec!["bash".into()],
            tools: vec![Tool { name: "mine".into(), ..Tool::default() }],
            mcp_servers: BTreeMap::from([(
                "m".into(),
                McpServer {
                    transport: McpTransport::Http(Remote {
                        url: "https://x".into(),
                        headers: BTreeMap::new(),
                    }),
                    tools: vec!["*".into()],
                    timeout: None,
                },
            )]),
            skills: Some(Skills { directories: vec!["/skills".into()], disabled: vec!["x".into()] }),
            ..Settings::default()
        };
        let wire = parameters(&settings);
        assert_eq!(
            wire["availableTools"],
            json!(["bash", "custom:mine", "mcp:*", "builtin:skill", "builtin:task_complete"])
        );
        assert_eq!(wire["tools"][0]["name"], "mine");
        let server = json!({"type": "http", "url": "https://x", "headers": {}, "tools": ["*"]});
        assert_eq!(wire["mcpServers"], json!({"m": server}));
        assert_eq!((&wire["enableSkills"], &wire["skillDirectories"]), (&json!(true), &json!(["/skills"])));
        assert_eq!((&wire["disabledSkills"], &wire["includedBuiltinSkills"]), (&json!(["x"]), &json!([])));
    }

    #[test]
    fn options_go_by_the_names_that_the_cli_knows() {
        let named = NamedProvider {
            name: "p".into(),
            provider: Provider { base_url: "http://x".into(), ..Provider::default() },
        };
        let settings = Settings {
            providers: vec![named],
            options: Options {
                models: vec![ProviderModel {
                    id: "m".into(),
                    provider: "p".into(),
                    max_context_window_tokens: Some(9),
                    ..ProviderModel::default()
                }],
                custom_agents: vec![CustomAgent {
                    name: "poet".into(),
                    display_name: Some("The poet".into()),
                    prompt: "rhyme".into(),
                    ..CustomAgent::default()
                }],
                agent: Some("poet".into()),
                excluded_builtin_agents: vec!["task".into()],
                session_limits: Some(Limits { max_ai_credits: 30 }),
                infinite_sessions: Some(InfiniteSession {
                    enabled: Some(true),
                    background_compaction_threshold: Some(0.5),
                    ..InfiniteSession::default()
                }),
                reasoning_summary: Some("concise".into()),
                additional_directories: vec!["/more".into()],
                large_output: Some(LargeOutput { output_dir: Some("/out".into()), ..LargeOutput::default() }),
                model_capabilities: Some(ModelCapabilities { supports: Supports { vision: true } }),
            }
            .boxed(),
            ..Settings::default()
        };
        let wire = serde_json::to_value(Parameters::new("s", &settings)).unwrap();
        let expected = json!({
            "providers": [{"name": "p", "baseUrl": "http://x"}],
            "models": [{"id": "m", "provider": "p", "maxContextWindowTokens": 9}],
            "customAgents": [{"name": "poet", "displayName": "The poet", "prompt": "rhyme"}],
            "agent": "poet",
            "excludedBuiltinAgents": ["task"],
            "sessionLimits": {"maxAiCredits": 30},
            "infiniteSessions": {"enabled": true, "backgroundCompactionThreshold": 0.5},
            "reasoningSummary": "concise",
            "additionalDirectories": ["/more"],
            "largeOutput": {"outputDir": "/out"},
            "modelCapabilities": {"supports": {"vision": true}},
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&wire[name], value, "{name}");
        }
    }

    #[test]
    fn the_token_goes_by_the_name_that_the_cli_knows() {
        let settings = Settings { github_token: Some(Secret::new("t")), ..Settings::default() };
        assert_eq!(serde_json::to_value(Parameters::new("s", &settings)).unwrap()["gitHubToken"], "t");
    }
}
