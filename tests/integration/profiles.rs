//! A session under one of the operator's profiles gets what that gives, and is refused what goes beyond it; on the real CLI.

use std::collections::BTreeMap;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, CustomAgent, ErrorReason, ForkSessionRequest, McpServer, NamedProvider,
    PermissionEffect, PermissionPolicy, PermissionRule, Provider, ProviderModel, ResumeSessionRequest,
    Session, Skills, SystemMessage, SystemMessageMode, Tool, UpdateSessionRequest,
    mcp_server::{Stdio, Transport},
};
use prost_types::FieldMask;
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Setup, TestFacade},
    fields_of,
    real_cli::RealCli,
    soon,
};

/// Echoes; calls a tool where the prompt says so.
fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("The tool said: {result}")),
        ("use the tool", None) => {
            Reply::tool_call("bash", json!({ "command": "echo from-the-tool", "description": "say so" }))
        }
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

/// A CLI, and the provider of the profile `team`.
struct World {
    cli: RealCli,
    own: ModelServer,
}

impl World {
    async fn start() -> Self {
        Self { cli: RealCli::start(script).await, own: ModelServer::start(script).await.unwrap() }
    }

    /// A facade with the profile `team`, to which `more` is added.
    async fn facade(&self, before: &str, more: &str) -> TestFacade {
        let team = format!(
            "{before}\n[profiles.team]\nmodels = ['m', 'm-*']\n\
             provider = {{ base_url = '{}', api_key_env = 'TEAM_KEY' }}\n{more}",
            self.own.base_url()
        );
        start(self.cli.setup().variable("TEAM_KEY", "team-key"), &team).await
    }
}

async fn start(setup: Setup, file: &str) -> TestFacade {
    let config = NamedTempFile::new().unwrap();
    std::fs::write(config.path(), file).unwrap();
    setup.flag(format!("--config={}", config.path().display())).start().await
}

fn request(id: &str, profile: &str) -> CreateSessionRequest {
    CreateSessionRequest { session_id: id.into(), profile: profile.into(), ..Default::default() }
}

async fn create(facade: &TestFacade, request: CreateSessionRequest) -> Result<Session, Status> {
    Ok(facade.client().create_session(request).await?.into_inner().session.unwrap())
}

fn denied(status: &Status, fields: &[&str]) {
    check(status, Code::PermissionDenied, ErrorReason::PolicyDenied);
    assert_eq!(fields_of(status), fields);
}

fn own_provider() -> Option<Provider> {
    Some(Provider { base_url: "http://127.0.0.1:9".into(), api_key: "own-key".into(), ..Default::default() })
}

fn mcp_servers() -> BTreeMap<String, McpServer> {
    let stdio = Stdio { command: "node".into(), ..Default::default() };
    let server = McpServer { transport: Some(Transport::Stdio(stdio)), ..Default::default() };
    BTreeMap::from([("files".into(), server)])
}

#[tokio::test]
async fn a_profiles_provider_key_and_model_are_used_also_after_a_restart_and_no_other() {
    let world = World::start().await;
    let facade = world.facade("", "").await;
    let created = create(&facade, request("s", "team")).await.unwrap();
    assert_eq!((created.profile.as_str(), created.model.as_str()), ("team", "m"));
    assert_eq!(soon("a turn", facade.send("s", "one")).await.unwrap().content, "You said: one");
    facade.stop().await;
    let facade = world.facade("", "").await;
    assert_eq!(facade.get("s").await.unwrap().profile, "team");
    soon("a turn", facade.send("s", "two")).await.unwrap();
    let calls = world.own.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.request.headers["authorization"] == "Bearer team-key"));
    assert!(world.cli.model.calls().is_empty(), "the operator's provider was used");
    // A copy is under it too.
    let fork = ForkSessionRequest { session_id: "s".into(), ..Default::default() };
    let copy = facade.client().fork_session(fork).await.unwrap().into_inner().session.unwrap();
    assert_eq!(copy.profile, "team");
    // Without the profile there is nobody to pay.
    facade.stop().await;
    let facade = start(world.cli.setup(), "").await;
    let refused = facade.send("s", "three").await.unwrap_err();
    check(&refused, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
    assert!(refused.message().contains("profile \"team\""), "{refused:?}");
}

#[tokio::test]
async fn what_goes_beyond_a_profile_is_refused_by_field() {
    let world = World::start().await;
    let more = "available_tools = ['bash']\nsystem_message = 'Be brief.'";
    let facade = world.facade("", more).await;
    let message = |mode: SystemMessageMode| {
        Some(SystemMessage { mode: mode.into(), content: "Rhyme.".into(), ..Default::default() })
    };
    let all = CreateSessionRequest {
        model: "other".into(),
        provider: own_provider(),
        available_tools: vec!["bash".into(), "view".into()],
        system_message: message(SystemMessageMode::Replace),
        ..request("s", "team")
    };
    denied(
        &create(&facade, all).await.unwrap_err(),
        &["provider", "model", "available_tools[1]", "system_message.mode"],
    );
    let more_of_its_own = CreateSessionRequest {
        model: "acme/m".into(),
        providers: vec![NamedProvider {
            name: "acme".into(),
            base_url: "http://127.0.0.1:9".into(),
            ..Default::default()
        }],
        models: vec![ProviderModel { id: "m".into(), provider: "acme".into(), ..Default::default() }],
        mcp_servers: mcp_servers(),
        skills: Some(Skills { directories: vec!["/skills".into()], disabled: Vec::new() }),
        tools: vec![Tool { name: "mine".into(), ..Default::default() }],
        custom_agents: vec![CustomAgent {
            name: "poet".into(),
            prompt: "Rhyme.".into(),
            model: "other".into(),
            ..Default::default()
        }],
        ..request("s", "team")
    };
    denied(
        &create(&facade, more_of_its_own).await.unwrap_err(),
        &["providers", "mcp_servers", "model", "custom_agents[0].model", "skills"],
    );
    let unknown = create(&facade, request("s", "tea")).await.unwrap_err();
    check(&unknown, Code::InvalidArgument, ErrorReason::InvalidField);
    assert!(!unknown.message().contains("team"), "{unknown:?}");
    let less = CreateSessionRequest {
        model: "m-2".into(),
        system_message: message(SystemMessageMode::Append),
        ..request("s", "team")
    };
    create(&facade, less).await.unwrap();
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let asked = world.own.calls()[0].request.clone();
    assert_eq!(asked.model, "m-2");
    assert!(asked.messages[0].content.contains("Be brief.\n\nRhyme."), "{:?}", asked.messages[0]);
    let update = UpdateSessionRequest {
        session: Some(Session { session_id: "s".into(), model: "other".into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["model".into()] }),
    };
    denied(&facade.client().update_session(update).await.unwrap_err(), &["session.model"]);
    let resume =
        ResumeSessionRequest { session_id: "s".into(), provider: own_provider(), ..Default::default() };
    denied(&facade.client().resume_session(resume.clone()).await.unwrap_err(), &["provider"]);
    let servers =
        ResumeSessionRequest { session_id: "s".into(), mcp_servers: mcp_servers(), ..Default::default() };
    denied(&facade.client().resume_session(servers.clone()).await.unwrap_err(), &["mcp_servers"]);
    // Also where it is not loaded.
    facade.stop().await;
    let facade = world.facade("", more).await;
    denied(&facade.client().resume_session(resume).await.unwrap_err(), &["provider"]);
    denied(&facade.client().resume_session(servers).await.unwrap_err(), &["mcp_servers"]);
}

#[tokio::test]
async fn a_session_that_exists_is_loaded_under_its_own_profile_whatever_the_request_names() {
    let world = World::start().await;
    let more = "available_tools = []\n[profiles.free]";
    let facade = world.facade("", more).await;
    let existing = |profile: &str| CreateSessionRequest { resume_if_exists: true, ..request("s", profile) };
    create(&facade, existing("team")).await.unwrap();
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let check = async |facade: &TestFacade| {
        for profile in ["team", "free", ""] {
            assert_eq!(create(facade, existing(profile)).await.unwrap().profile, "team");
        }
        let own = CreateSessionRequest { model: "x".into(), provider: own_provider(), ..existing("free") };
        denied(&create(facade, own).await.unwrap_err(), &["provider"]);
        let servers = CreateSessionRequest { mcp_servers: mcp_servers(), ..existing("free") };
        denied(&create(facade, servers).await.unwrap_err(), &["mcp_servers"]);
    };
    check(&facade).await;
    facade.stop().await;
    let facade = world.facade("", more).await;
    check(&facade).await;
    soon("a turn", facade.send("s", "two")).await.unwrap();
    assert_eq!(world.own.calls().len(), 2);
}

#[tokio::test]
async fn tools_may_do_what_both_the_profile_and_the_request_allow() {
    let world = World::start().await;
    let allow = |kind: &str| {
        let rule = PermissionRule {
            kind: kind.into(),
            effect: PermissionEffect::Allow.into(),
            ..Default::default()
        };
        Some(PermissionPolicy { rules: vec![rule] })
    };
    let said = async |permissions: &str, policy: Option<PermissionPolicy>, restart: bool| {
        let more = format!("available_tools = ['bash']\n{permissions}");
        let facade = world.facade("", &more).await;
        let session = CreateSessionRequest {
            permission_policy: policy,
            ask_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..request("", "team")
        };
        let id = create(&facade, session).await.unwrap().session_id;
        let facade = if restart {
            soon("a turn", facade.send(&id, "one")).await.unwrap();
            facade.stop().await;
            // What the file says now is what counts.
            world.facade("", "available_tools = ['bash']\nallow_permissions = []").await
        } else {
            facade
        };
        let said = soon("a turn", facade.send(&id, "use the tool")).await.unwrap().content;
        facade.stop().await;
        said
    };
    let shell = "allow_permissions = ['shell']";
    assert!(said(shell, None, false).await.contains("from-the-tool"));
    assert!(said(shell, allow("*"), false).await.contains("from-the-tool"));
    assert!(said("", allow("shell"), false).await.contains("from-the-tool"));
    let echo = "permissions = [{ kind = 'shell', pattern = 'echo *', effect = 'allow' }]";
    assert!(said(echo, allow("*"), false).await.contains("from-the-tool"));
    let ask = "permissions = [{ kind = 'shell', effect = 'ask' }]";
    for asked in [said(ask, allow("*"), false).await, said(ask, None, false).await] {
        assert!(asked.contains("nobody answered"), "{asked}");
    }
    for refused in [
        said(shell, allow("read"), false).await,
        said("allow_permissions = ['read']", allow("*"), false).await,
        said("permissions = [{ kind = 'shell', effect = 'deny' }]", allow("shell"), false).await,
        said("permissions = [{ kind = 'shell', pattern = 'ls*', effect = 'allow' }]", allow("*"), false)
            .await,
        said(shell, allow("*"), true).await,
    ] {
        assert!(!refused.contains("from-the-tool"), "{refused}");
    }
}

#[tokio::test]
async fn the_default_profile_holds_for_everybody() {
    let world = World::start().await;
    let facade = world.facade("default_profile = 'team'\n[profiles.free]", "").await;
    let other = CreateSessionRequest { model: "other".into(), ..request("s", "") };
    denied(&create(&facade, other).await.unwrap_err(), &["model"]);
    assert_eq!(create(&facade, request("s", "")).await.unwrap().profile, "team");
    // One that is named takes its place.
    let free = CreateSessionRequest { model: "other".into(), ..request("f", "free") };
    assert_eq!(create(&facade, free).await.unwrap().profile, "free");
}
