//! What a session may be given, and what it may not.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    copilot::{
        CustomAgent, InfiniteSession, LargeOutput, Limits, McpServer, McpTransport, NamedProvider, Options,
        Provider, ProviderModel, Remote, Secret, Settings, Skills, Tool,
    },
    grpc::{convert::Defaults, pb},
    session::Blueprint,
};

type Request = pb::CreateSessionRequest;

fn parse(request: Request) -> Result<Blueprint, Vec<(String, String)>> {
    let mut checks = Checks::default();
    let blueprint = checks.blueprint(request, &Defaults::default());
    checks.done(Some(blueprint)).map_err(|violations| {
        let said = violations.into_iter().map(|violation| (violation.field, violation.description));
        said.collect()
    })
}

fn settings(request: Request) -> Settings {
    parse(request).unwrap().settings
}

/// Breaks a good request, and expects an error that names the field and quotes no secret.
#[track_caller]
fn refuses(field: &str, spoil: impl FnOnce(&mut Request)) {
    let mut request = request();
    spoil(&mut request);
    let said = parse(request).expect_err(field);
    let named: Vec<_> = said.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(named, [field]);
    assert!(!format!("{said:?}").contains(SECRET), "{said:?}");
}

fn named_provider(name: &str) -> pb::NamedProvider {
    pb::NamedProvider {
        name: name.into(),
        base_url: "http://x".into(),
        api_key: SECRET.into(),
        ..Default::default()
    }
}

fn model(provider: &str, id: &str) -> pb::ProviderModel {
    pb::ProviderModel { id: id.into(), provider: provider.into(), ..Default::default() }
}

fn tool(name: &str) -> pb::Tool {
    pb::Tool { name: name.into(), ..Default::default() }
}

fn stdio(command: &str) -> pb::McpServer {
    let stdio = pb::mcp_server::Stdio {
        command: command.into(),
        env: BTreeMap::from([("KEY".into(), SECRET.into())]),
        ..Default::default()
    };
    pb::McpServer { transport: Some(pb::mcp_server::Transport::Stdio(stdio)), ..Default::default() }
}

fn http(url: &str, kind: &str) -> pb::McpServer {
    let http = pb::mcp_server::Http {
        url: url.into(),
        headers: BTreeMap::from([("authorization".into(), SECRET.into())]),
        r#type: kind.into(),
    };
    pb::McpServer { transport: Some(pb::mcp_server::Transport::Http(http)), ..Default::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A request with one of each.
fn request() -> Request {
    Request {
        model: "acme/large".into(),
        owner: "alice".into(),
        providers: vec![named_provider("acme")],
        models: vec![pb::ProviderModel {
            wire_model: "l".into(),
            model_id: "gpt-5".into(),
            display_name: "Large".into(),
            max_prompt_tokens: 3,
            max_output_tokens: 2,
            max_context_window_tokens: 5,
            ..model("acme", "large")
        }],
        tools: vec![pb::Tool {
            name: "mine".into(),
            description: "does it".into(),
            parameters_json: r#"{"type":"object"}"#.into(),
            overrides_builtin: true,
            needs_permission: true,
            timeout: seconds(5),
        }],
        mcp_servers: BTreeMap::from([
            ("local".into(), pb::McpServer { timeout: seconds(2), ..stdio("node") }),
            ("web".into(), pb::McpServer { tools: vec!["echo".into()], ..http("https://x/mcp", "sse") }),
        ]),
        custom_agents: vec![pb::CustomAgent {
            name: "poet".into(),
            display_name: "The poet".into(),
            description: "rhymes".into(),
            prompt: "Rhyme.".into(),
            tools: vec!["view".into()],
            model: "m".into(),
            reasoning_effort: "low".into(),
            skills: vec!["rhyme".into()],
        }],
        agent: "poet".into(),
        skills: Some(pb::Skills { directories: vec!["/skills".into()], disabled: vec!["x".into()] }),
        limits: Some(pb::Limits { max_ai_credits: 30 }),
        infinite_session: Some(pb::InfiniteSession {
            enabled: Some(false),
            background_compaction_threshold: 0.5,
            buffer_exhaustion_threshold: 1.0,
        }),
        reasoning_summary: "concise".into(),
        additional_directories: vec!["/more".into()],
        excluded_builtin_agents: vec!["task".into()],
        large_output: Some(pb::LargeOutput {
            enabled: Some(true),
            max_size_bytes: 1000,
            output_directory: "/out".into(),
        }),
        ..Default::default()
    }
}

#[test]
fn all_that_a_session_is_given_is_passed_on() {
    let text = |text: &str| Some(text.to_owned());
    let secrets = |name: &str| BTreeMap::from([(name.to_owned(), Secret::new(SECRET))]);
    let local = McpServer {
        transport: McpTransport::Stdio {
            command: "node".into(),
            args: Vec::new(),
            env: secrets("KEY"),
            cwd: None,
        },
        tools: vec!["*".into()],
        timeout: Some(2000),
    };
    let web = McpServer {
        transport: McpTransport::Sse(Remote {
            url: "https://x/mcp".into(),
            headers: secrets("authorization"),
        }),
        tools: vec!["echo".into()],
        timeout: None,
    };
    let expected = Settings {
        model: text("acme/large"),
        providers: vec![NamedProvider {
            name: "acme".into(),
            provider: Provider {
                base_url: "http://x".into(),
                api_key: Some(Secret::new(SECRET)),
                ..Provider::default()
            },
        }],
        tools: vec![Tool {
            name: "mine".into(),
            description: "does it".into(),
            parameters: Some(json!({"type": "object"}).into()),
            overrides_builtin: true,
            needs_permission: true,
            timeout: Some(std::time::Duration::from_secs(5)),
        }],
        mcp_servers: BTreeMap::from([("local".into(), local), ("web".into(), web)]),
        skills: Some(Skills { directories: vec!["/skills".into()], disabled: vec!["x".into()] }),
        options: Options {
            models: vec![ProviderModel {
                id: "large".into(),
                provider: "acme".into(),
                model_id: text("gpt-5"),
                wire_model: text("l"),
                name: text("Large"),
                max_prompt_tokens: Some(3),
                max_output_tokens: Some(2),
                max_context_window_tokens: Some(5),
            }],
            custom_agents: vec![CustomAgent {
                name: "poet".into(),
                display_name: text("The poet"),
                description: text("rhymes"),
                prompt: "Rhyme.".into(),
                tools: vec!["view".into()],
                model: text("m"),
                reasoning_effort: text("low"),
                skills: vec!["rhyme".into()],
            }],
            agent: text("poet"),
            excluded_builtin_agents: vec!["task".into()],
            session_limits: Some(Limits { max_ai_credits: 30 }),
            infinite_sessions: Some(InfiniteSession {
                enabled: Some(false),
                background_compaction_threshold: Some(0.5),
                buffer_exhaustion_threshold: Some(1.0),
            }),
            reasoning_summary: text("concise"),
            additional_directories: vec!["/more".into()],
            large_output: Some(LargeOutput {
                enabled: Some(true),
                max_size_bytes: Some(1000),
                output_dir: text("/out"),
            }),
            model_capabilities: None,
        }
        .boxed(),
        ..Settings::default()
    };
    let blueprint = parse(request()).unwrap();
    assert_eq!(blueprint.settings, expected);
    assert_eq!((blueprint.owner.as_str(), blueprint.operators_provider), ("alice", false));
}

#[test]
fn what_is_0_or_empty_is_left_to_the_cli() {
    let request = Request {
        infinite_session: Some(pb::InfiniteSession::default()),
        large_output: Some(pb::LargeOutput::default()),
        ..Request::default()
    };
    let expected = Options {
        infinite_sessions: Some(InfiniteSession::default()),
        large_output: Some(LargeOutput::default()),
        ..Options::default()
    };
    assert_eq!(settings(request).options, expected.boxed());
}

#[test]
fn the_operators_provider_and_model_are_not_for_a_session_with_several_of_its_own() {
    let operator = Provider { base_url: "http://operator".into(), ..Provider::default() };
    let defaults =
        Defaults { provider: Some(operator.into()), model: Some("m".into()), ..Defaults::default() };
    let mut checks = Checks::default();
    let blueprint = checks.blueprint(request(), &defaults);
    assert_eq!((blueprint.settings.provider, blueprint.operators_provider), (None, false));
    assert_eq!(
        checks.blueprint(Request { model: String::new(), ..request() }, &defaults).settings.model,
        None
    );
    assert_eq!(checks.done(Some(())).unwrap_err()[0].field, "model");
}

#[test]
fn several_providers_and_their_models_have_to_fit_together() {
    refuses("provider", |request| {
        let one = pb::Provider { base_url: "http://x".into(), ..Default::default() };
        request.provider = Some(one);
    });
    for name in ["", " ", "a/b"] {
        refuses("providers[1].name", |request| request.providers.push(named_provider(name)));
    }
    refuses("providers[1].name", |request| request.providers.push(named_provider("acme")));
    refuses("providers[0].base_url", |request| request.providers[0].base_url = "x".into());
    refuses("providers[0].base_url", |request| request.providers[0].base_url = "http://u:hunter2@x".into());
    refuses("providers[0].api_key", |request| request.providers[0].api_key = "hunter2 ".into());
    refuses("providers[0].type", |request| request.providers[0].r#type = "other".into());
    refuses("providers", |request| {
        request.providers.extend((0..MAX_FEW).map(|n| named_provider(&n.to_string())));
    });
    refuses("models[1].provider", |request| request.models.push(model("other", "m")));
    refuses("models[1].id", |request| request.models.push(model("acme", "large")));
    refuses("models[1].id", |request| request.models.push(model("acme", "")));
    refuses("models", |request| {
        request.models.extend((0..MAX_MANY).map(|n| model("acme", &n.to_string())));
    });
    refuses("model", |request| request.model = "acme/other".into());
    refuses("model", |request| request.model = String::new());
    refuses("models", |request| {
        request.models.clear();
        request.model = "gpt".into();
    });
    // Copilot's own models can be used beside them.
    let copilots = Request { model: "gpt-5".into(), ..request() };
    assert_eq!(settings(copilots).model.as_deref(), Some("gpt-5"));
}

#[test]
fn tools_and_servers_that_cannot_be_right_are_named() {
    for name in ["", "a b", "a.b", "é", &"x".repeat(65)] {
        refuses("tools[1].name", |request| request.tools.push(tool(name)));
        refuses(&format!("mcp_servers[{name:?}]"), |request| {
            request.mcp_servers.insert(name.into(), stdio("x"));
        });
    }
    refuses("tools[1].name", |request| request.tools.push(tool("mine")));
    refuses("tools[1].name", |request| request.tools.push(tool("web-search")));
    refuses("tools[0].timeout", |request| request.tools[0].timeout = seconds(0));
    refuses("tools[0].parameters_json", |request| {
        request.tools[0].parameters_json = r#"{"type":"string"}"#.into();
    });
    refuses("tools", |request| request.tools.extend((0..MAX_TOOLS).map(|n| tool(&n.to_string()))));
    let server = |field: &str, server: pb::McpServer| {
        refuses(&format!("mcp_servers[\"s\"].{field}"), |request| {
            request.mcp_servers.insert("s".into(), server);
        });
    };
    server("transport", pb::McpServer::default());
    server("stdio.command", stdio(""));
    server("http.url", http("ftp://x", ""));
    server("http.url", http("", ""));
    server("http.type", http("http://x", "pigeon"));
    server("timeout", pb::McpServer { timeout: seconds(-1), ..stdio("x") });
    server("tools", pb::McpServer { tools: vec![String::new()], ..stdio("x") });
    let spoilt = |spoil: fn(&mut pb::mcp_server::Stdio)| {
        let mut server = stdio("x");
        if let Some(pb::mcp_server::Transport::Stdio(stdio)) = &mut server.transport {
            spoil(stdio);
        }
        server
    };
    server("stdio.working_directory", spoilt(|stdio| stdio.working_directory = "here".into()));
    for name in ["", "A=B", "A\0"] {
        let mut bad = stdio("x");
        if let Some(pb::mcp_server::Transport::Stdio(stdio)) = &mut bad.transport {
            stdio.env.insert(name.into(), SECRET.into());
        }
        server("stdio.env", bad);
    }
    refuses("mcp_servers", |request| {
        let servers = (0..MAX_MCP_SERVERS).map(|n| (n.to_string(), stdio("x")));
        request.mcp_servers.extend(servers);
    });
}

#[test]
fn other_things_that_cannot_be_right_are_named() {
    refuses("owner", |request| request.owner = "x".repeat(MAX_OWNER + 1));
    refuses("agent", |request| request.agent = "other".into());
    refuses("custom_agents[0].prompt", |request| request.custom_agents[0].prompt = " ".into());
    refuses("custom_agents[0].tools[0]", |request| request.custom_agents[0].tools = vec![String::new()]);
    refuses("custom_agents[1].name", |request| {
        request.custom_agents.push(request.custom_agents[0].clone());
    });
    for name in ["", &"x".repeat(65)] {
        refuses("custom_agents[0].name", |request| {
            request.agent = String::new();
            request.custom_agents[0].name = name.into();
        });
    }
    let skills = |directories: &[&str]| {
        let directories = directories.iter().map(|path| (*path).to_owned()).collect();
        Some(pb::Skills { directories, disabled: Vec::new() })
    };
    refuses("skills.directories", |request| request.skills = skills(&[]));
    refuses("skills.directories[1]", |request| request.skills = skills(&["/a", "b"]));
    refuses("skills.directories[0]", |request| request.skills = skills(&[""]));
    refuses("limits.max_ai_credits", |request| request.limits = Some(pb::Limits { max_ai_credits: 29 }));
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        refuses("infinite_session.buffer_exhaustion_threshold", |request| {
            let infinite = pb::InfiniteSession { buffer_exhaustion_threshold: share, ..Default::default() };
            request.infinite_session = Some(infinite);
        });
    }
    refuses("infinite_session.buffer_exhaustion_threshold", |request| {
        let infinite = pb::InfiniteSession { background_compaction_threshold: 0.96, ..Default::default() };
        request.infinite_session = Some(infinite);
    });
    refuses("reasoning_summary", |request| request.reasoning_summary = "long".into());
    refuses("additional_directories[0]", |request| request.additional_directories = vec!["here".into()]);
    refuses("excluded_builtin_agents[0]", |request| request.excluded_builtin_agents = vec![" ".into()]);
    refuses("large_output.max_size_bytes", |request| {
        request.large_output = Some(pb::LargeOutput { max_size_bytes: -1, ..Default::default() });
    });
    refuses("large_output.output_directory", |request| {
        let output = pb::LargeOutput { output_directory: "out".into(), ..Default::default() };
        request.large_output = Some(output);
    });
}

#[test]
fn credentials_are_checked_like_what_a_session_is_created_with() {
    let mut checks = Checks::default();
    let credentials = checks.credentials(pb::ResumeSessionRequest {
        providers: vec![named_provider("acme")],
        mcp_servers: BTreeMap::from([("local".into(), stdio("node"))]),
        ..Default::default()
    });
    let created = settings(request());
    assert_eq!(credentials.providers, created.providers);
    assert!(credentials.mcp_servers["local"].has_secrets());
    checks.credentials(pb::ResumeSessionRequest {
        providers: vec![named_provider("a/b")],
        mcp_servers: BTreeMap::from([("local".into(), pb::McpServer::default())]),
        ..Default::default()
    });
    let fields: Vec<_> =
        checks.done(Some(())).unwrap_err().into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["providers[0].name", "mcp_servers[\"local\"].transport"]);
}

#[test]
fn a_session_to_load_if_it_exists_has_an_id() {
    let id = |id: &str, resume_if_exists| {
        let mut checks = Checks::default();
        let id = checks.new_session_id(id, resume_if_exists).map(|id| id.to_string());
        checks.done(Some(id)).map_err(|violations| violations.len())
    };
    assert_eq!(id("", false), Ok(None));
    assert_eq!(id("s", true), Ok(Some("s".into())));
    assert_eq!(id("", true), Err(1));
    assert_eq!(id("a b", true), Err(1));
}
