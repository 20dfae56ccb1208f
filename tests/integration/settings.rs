//! A session has what it was given when it was created: tools, MCP servers, agents, skills, providers; on the real CLI.

use std::{collections::BTreeMap, fs, path::Path};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, CreateSessionResponse, CustomAgent, ErrorReason, InfiniteSession, LargeOutput,
    Limits, ListSessionsRequest, McpServer, NamedProvider, PermissionEffect, ProviderModel,
    ResumeSessionRequest, Session, SessionEvent, SessionState, Skills, Tool, UpdateSessionRequest,
    mcp_server, session_event::Payload as Event,
};
use prost_types::FieldMask;
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Setup, Streamed, TestFacade, on_everything},
    fake_cli::FakeCli,
    fields_of,
    real_cli::RealCli,
    soon,
};

/// Calls the tool that the prompt names (`call NAME {…}`), and says what it said. A poet only rhymes.
fn script(request: &Request) -> Reply {
    if request.messages[0].content.contains("You are a poet.") {
        return Reply::text("roses are red");
    }
    if let Some(result) = request.tool_result() {
        return Reply::text(format!("The tool said: {result}"));
    }
    match request.prompt().strip_prefix("call ").and_then(|call| call.split_once(' ')) {
        Some((name, arguments)) => Reply::tool_call(name, arguments),
        None => Reply::text(format!("You said: {}", request.prompt())),
    }
}

async fn start() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    (cli, facade)
}

/// A facade that has gone, and another in its place.
async fn restarted(facade: TestFacade, setup: Setup) -> TestFacade {
    facade.stop().await;
    setup.start().await
}

async fn create(facade: &TestFacade, request: CreateSessionRequest) -> Result<CreateSessionResponse, Status> {
    Ok(facade.client().create_session(request).await?.into_inner())
}

async fn resume(facade: &TestFacade, request: ResumeSessionRequest) -> Result<Session, Status> {
    Ok(facade.client().resume_session(request).await?.into_inner().session.unwrap())
}

/// A request for a session of this id, whose agent may do everything.
fn session(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        permission_policy: on_everything(PermissionEffect::Allow),
        ..Default::default()
    }
}

async fn answer(facade: &TestFacade, id: &str, prompt: &str) -> String {
    soon("a turn", facade.send(id, prompt)).await.unwrap().content
}

fn last(model: &ModelServer) -> Request {
    Request::clone(&model.calls().last().unwrap().request)
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: "looks it up".into(),
        parameters_json: json!({"type": "object"}).to_string(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_callers_tools_are_offered_to_the_model_also_after_a_restart() {
    let (cli, facade) = start().await;
    let request = CreateSessionRequest {
        available_tools: vec!["view".into()],
        tools: vec![tool("look_up"), Tool { overrides_builtin: true, ..tool("grep") }, tool("hidden")],
        excluded_tools: vec!["hidden".into()],
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    answer(&facade, "s", "hello").await;
    let before = last(&cli.model);
    let mut offered = before.tools.clone();
    offered.sort();
    assert_eq!(offered, ["grep", "look_up", "view"]);
    let facade = restarted(facade, cli.setup()).await;
    answer(&facade, "s", "again").await;
    let after = last(&cli.model);
    assert_eq!(after.body["tools"], before.body["tools"]);
    let grep = after.body["tools"].as_array().unwrap().iter().find(|tool| tool["function"]["name"] == "grep");
    assert_eq!(grep.unwrap()["function"]["description"], "looks it up");
}

#[tokio::test]
async fn a_tool_with_a_built_in_ones_name_is_refused_when_the_session_is_created() {
    let (_cli, facade) = start().await;
    let request = CreateSessionRequest { tools: vec![tool("bash")], ..session("s") };
    let refused = create(&facade, request).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["tools"]);
    assert!(refused.message().contains("\"bash\""), "{refused:?}");
    // Nothing is left of it.
    create(&facade, session("s")).await.unwrap();
}

#[tokio::test]
async fn a_cli_that_cannot_say_whether_tools_are_good_gets_them_all_the_same() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let request = CreateSessionRequest { tools: vec![tool("look_up")], ..session("s") };
    create(&facade, request).await.unwrap();
    assert_eq!(cli.count("session.tools.initializeAndValidate"), 1);
    assert_eq!(cli.called("session.create", 1).await["tools"][0]["name"], "look_up");
}

/// A server of two tools, which say what it was given in its environment.
fn write_mcp_server(folder: &TempDir) -> String {
    let path = folder.path().join("server.js");
    let program = r#"
        const tool = name => ({ name, description: name, inputSchema: { type: 'object', properties: {} } });
        const answers = {
            initialize: params => ({
                protocolVersion: params.protocolVersion,
                capabilities: { tools: {} },
                serverInfo: { name: 'test', version: '1' },
            }),
            'tools/list': () => ({ tools: [tool('tell'), tool('other')] }),
            'tools/call': params => ({
                content: [{ type: 'text', text: `key ${process.env.KEY}, args ${JSON.stringify(params.arguments)}` }],
            }),
        };
        require('readline').createInterface({ input: process.stdin }).on('line', line => {
            const { id, method, params } = JSON.parse(line);
            if (id === undefined) return;
            const result = (answers[method] ?? (() => ({})))(params);
            console.log(JSON.stringify({ jsonrpc: '2.0', id, result }));
        });
    "#;
    fs::write(&path, program).unwrap();
    path.to_str().unwrap().into()
}

fn mcp_server(program: &str, env: &[(&str, &str)]) -> McpServer {
    let stdio = mcp_server::Stdio {
        command: "node".into(),
        args: vec![program.into()],
        env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Default::default()
    };
    McpServer { transport: Some(mcp_server::Transport::Stdio(stdio)), ..Default::default() }
}

#[tokio::test]
async fn the_agent_uses_the_tools_of_an_mcp_server_as_far_as_it_may() {
    let (cli, facade) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let program = write_mcp_server(&folder);
    let servers = BTreeMap::from([
        ("all".into(), mcp_server(&program, &[])),
        ("some".into(), McpServer { tools: vec!["tell".into()], ..mcp_server(&program, &[]) }),
        ("none".into(), mcp_server("/no/such/program.js", &[])),
    ]);
    let request = CreateSessionRequest { mcp_servers: servers, ..session("s") };
    create(
        &facade,
        CreateSessionRequest { session_id: "denied".into(), permission_policy: None, ..request.clone() },
    )
    .await
    .unwrap();
    create(&facade, request).await.unwrap();
    let said = answer(&facade, "s", r#"call all-tell {"x":1}"#).await;
    assert_eq!(said, r#"The tool said: key undefined, args {"x":1}"#);
    let mut offered = last(&cli.model).tools;
    offered.sort();
    assert_eq!(offered, ["all-other", "all-tell", "some-tell"]);
    let said = answer(&facade, "denied", "call all-tell {}").await;
    assert!(!said.contains("key undefined"), "{said}");
    // Without a secret they need not be brought again.
    let facade = restarted(facade, cli.setup()).await;
    let said = answer(&facade, "s", "call some-tell {}").await;
    assert_eq!(said, "The tool said: key undefined, args {}");
}

#[tokio::test]
async fn an_mcp_server_with_a_secret_has_to_be_brought_again_after_a_restart() {
    let (cli, facade) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let program = write_mcp_server(&folder);
    let servers = |key: &str| BTreeMap::from([("keyed".to_owned(), mcp_server(&program, &[("KEY", key)]))]);
    let request = CreateSessionRequest { mcp_servers: servers("first-key"), ..session("s") };
    create(&facade, request).await.unwrap();
    let tell = "call keyed-tell {}";
    assert_eq!(answer(&facade, "s", tell).await, "The tool said: key first-key, args {}");
    let facade = restarted(facade, cli.setup()).await;
    let refused = facade.send("s", tell).await.unwrap_err();
    check(&refused, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
    assert!(refused.message().ends_with("ResumeSession with mcp_servers"), "{refused:?}");
    let with = |key: &str| ResumeSessionRequest {
        session_id: "s".into(),
        mcp_servers: servers(key),
        ..Default::default()
    };
    resume(&facade, with("second-key")).await.unwrap();
    assert_eq!(answer(&facade, "s", tell).await, "The tool said: key second-key, args {}");
    resume(&facade, with("third-key")).await.unwrap();
    assert_eq!(answer(&facade, "s", tell).await, "The tool said: key third-key, args {}");
}

/// Takes one HTTP request, and returns its head.
async fn one_request(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn an_mcp_server_at_a_url_gets_its_headers_and_a_session_lives_without_it() {
    let (_cli, facade) = start().await;
    for (kind, method) in [("", "post /mcp"), ("sse", "get /mcp")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = mcp_server::Http {
            url: format!("http://{}/mcp", listener.local_addr().unwrap()),
            headers: BTreeMap::from([("authorization".into(), "Bearer mcp-key".into())]),
            r#type: kind.into(),
        };
        let server = McpServer { transport: Some(mcp_server::Transport::Http(http)), ..Default::default() };
        let id = format!("s{kind}");
        let request =
            CreateSessionRequest { mcp_servers: BTreeMap::from([("web".into(), server)]), ..session(&id) };
        create(&facade, request).await.unwrap();
        let (head, said) =
            tokio::join!(soon("the call", one_request(listener)), answer(&facade, &id, "hello"));
        assert!(head.starts_with(method), "{head}");
        assert!(head.contains("authorization: bearer mcp-key"), "{head}");
        assert_eq!(said, "You said: hello");
    }
}

fn named(name: &str, server: &ModelServer, key: &str) -> NamedProvider {
    NamedProvider {
        name: name.into(),
        base_url: server.base_url(),
        api_key: key.into(),
        ..Default::default()
    }
}

fn model_of(provider: &str, id: &str) -> ProviderModel {
    ProviderModel { id: id.into(), provider: provider.into(), ..Default::default() }
}

#[tokio::test]
async fn a_session_uses_several_providers_by_its_models_names() {
    let (cli, facade) = start().await;
    let script =
        |name: &'static str| move |request: &Request| Reply::text(format!("{name} {}", request.model));
    let one = ModelServer::start(script("one")).await.unwrap();
    let two = ModelServer::start(script("two")).await.unwrap();
    let request = CreateSessionRequest {
        model: "acme/large".into(),
        providers: vec![named("acme", &one, "key-one"), named("other", &two, "key-two")],
        models: vec![
            model_of("acme", "large"),
            ProviderModel { wire_model: "deployed".into(), ..model_of("other", "small") },
        ],
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    assert_eq!(answer(&facade, "s", "hello").await, "one large");
    let model = |model: &str| UpdateSessionRequest {
        session: Some(Session { session_id: "s".into(), model: model.into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["model".into()] }),
    };
    facade.client().update_session(model("other/small")).await.unwrap();
    assert_eq!(answer(&facade, "s", "hello").await, "two deployed");
    let refused = facade.client().update_session(model("other/unknown")).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["session.model"]);

    let facade = restarted(facade, cli.setup()).await;
    let with = |providers| ResumeSessionRequest { session_id: "s".into(), providers, ..Default::default() };
    for refused in [
        facade.send("s", "hello").await.unwrap_err(),
        resume(&facade, with(vec![named("acme", &one, "k")])).await.unwrap_err(),
    ] {
        check(&refused, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
        assert!(refused.message().ends_with("ResumeSession with providers"), "{refused:?}");
    }
    resume(&facade, with(vec![named("acme", &one, "a"), named("other", &two, "b")])).await.unwrap();
    assert_eq!(answer(&facade, "s", "hello").await, "two deployed");
    resume(&facade, with(vec![named("other", &two, "fresh")])).await.unwrap();
    assert_eq!(answer(&facade, "s", "hello").await, "two deployed");
    let keys: Vec<_> = two.calls().iter().map(|call| call.request.headers["authorization"].clone()).collect();
    assert_eq!(keys, ["Bearer key-two", "Bearer b", "Bearer fresh"]);
    assert!(cli.model.calls().is_empty(), "the operator's provider was used");
    let refused = resume(
        &facade,
        ResumeSessionRequest {
            session_id: "s".into(),
            provider: Some(copilot_grpc::grpc::pb::Provider {
                base_url: one.base_url(),
                ..Default::default()
            }),
            ..Default::default()
        },
    )
    .await
    .unwrap_err();
    assert_eq!(fields_of(&refused), ["provider"]);
}

#[tokio::test]
async fn two_agents_texts_never_mix() {
    let (cli, facade) = start().await;
    let poet = CustomAgent {
        name: "poet".into(),
        description: "rhymes".into(),
        prompt: "You are a poet.".into(),
        model: "rhyming".into(),
        ..Default::default()
    };
    let request = CreateSessionRequest {
        available_tools: vec!["task".into()],
        custom_agents: vec![poet.clone()],
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    let prompt =
        r#"call task {"agent_type":"poet","description":"rhyme","prompt":"rhyme","name":"p","mode":"sync"}"#;
    let stream = facade.stream("s", prompt).await.unwrap();
    let streamed = soon("the turn", Streamed::read(stream)).await;
    let result = streamed.end.unwrap();
    assert_eq!(result.content, "The tool said: roses are red");
    let texts = |root: bool| {
        let deltas = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
            Event::AssistantMessageDelta(delta) => Some((event.agent_id.is_empty(), delta.text.as_str())),
            _ => None,
        });
        deltas.filter(|(is_root, _)| *is_root == root).map(|(_, text)| text).collect::<String>()
    };
    assert_eq!((texts(true).as_str(), texts(false).as_str()), (result.content.as_str(), "roses are red"));
    let models: Vec<_> = cli.model.calls().iter().map(|call| call.request.model.clone()).collect();
    assert_eq!(models, ["scripted", "rhyming", "scripted"]);

    // Or it answers itself.
    let request =
        CreateSessionRequest { custom_agents: vec![poet], agent: "poet".into(), ..session("direct") };
    create(&facade, request).await.unwrap();
    assert_eq!(answer(&facade, "direct", "hello").await, "roses are red");
    let facade = restarted(facade, cli.setup()).await;
    assert_eq!(answer(&facade, "direct", "hello").await, "roses are red");
}

#[tokio::test]
async fn built_in_agents_are_not_offered_where_they_are_not_wanted() {
    let (cli, facade) = start().await;
    let request = CreateSessionRequest {
        available_tools: vec!["task".into()],
        excluded_builtin_agents: vec!["explore".into(), "research".into()],
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    answer(&facade, "s", "hello").await;
    let task = last(&cli.model).body["tools"][0]["function"]["parameters"]["properties"].to_string();
    let offers = |agent: &str| task.contains(&format!("\"{agent}\""));
    assert_eq!(
        (offers("code-review"), offers("explore"), offers("research")),
        (true, false, false),
        "{task}"
    );
}

fn write_skill(folder: &Path, name: &str, text: &str) {
    let folder = folder.join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("SKILL.md"),
        format!("---\nname: {name}\ndescription: about {name}\n---\n\n{text}\n"),
    )
    .unwrap();
}

#[tokio::test]
async fn the_agent_finds_the_callers_skills_and_no_others() {
    let (cli, facade) = start().await;
    let folder = tempfile::tempdir().unwrap();
    write_skill(folder.path(), "rhyming", "Always rhyme on orange.");
    write_skill(folder.path(), "cooking", "Never burn it.");
    let skills = Skills {
        directories: vec![folder.path().to_str().unwrap().into()],
        disabled: vec!["cooking".into()],
    };
    let request = CreateSessionRequest { skills: Some(skills), ..session("s") };
    create(&facade, request).await.unwrap();
    answer(&facade, "s", r#"call skill {"skill":"rhyming"}"#).await;
    let calls = cli.model.calls();
    let [first, second] = [&calls[0].request, &calls[1].request];
    assert_eq!(first.tools, ["skill"]);
    let told = first.body.to_string();
    assert!(told.contains("about rhyming") && !told.contains("about cooking"), "{told}");
    assert!(!told.contains("cloud-agent"), "the CLI's own skills are there");
    assert!(second.body.to_string().contains("Always rhyme on orange."), "{:?}", second.messages);
}

#[tokio::test]
async fn a_directory_beside_the_working_directory_can_be_used_and_long_outputs_go_to_files() {
    let (_cli, facade) = start().await;
    // Not below /tmp, which the CLI's tools may always use.
    let folder = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (work, more, out) = (folder(), folder(), folder());
    let path = |folder: &TempDir| folder.path().to_str().unwrap().to_owned();
    fs::write(more.path().join("note.txt"), "found it").unwrap();
    let request = CreateSessionRequest {
        available_tools: vec!["builtin:*".into()],
        working_directory: path(&work),
        additional_directories: vec![path(&more)],
        large_output: Some(LargeOutput {
            max_size_bytes: 500,
            output_directory: path(&out),
            ..Default::default()
        }),
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    let arguments = json!({"path": more.path().join("note.txt")});
    let view = Streamed::read(facade.stream("s", &format!("call view {arguments}")).await.unwrap());
    let view = soon("a turn", view).await;
    // To read, and not also for a place outside of the directories.
    let asked = |event: &&SessionEvent| matches!(event.payload, Some(Event::PermissionAsked(_)));
    assert_eq!(view.events.iter().filter(asked).count(), 1);
    let said = view.end.unwrap().content;
    assert!(said.contains("found it"), "{said}");
    let said = answer(&facade, "s", r#"call bash {"command":"seq 1 3000","description":"count"}"#).await;
    assert!(said.contains(&path(&out)), "{said}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn limits_are_told_to_the_agent_and_the_cli_takes_thresholds_and_summaries() {
    let (cli, facade) = start().await;
    let request = CreateSessionRequest {
        limits: Some(Limits { max_ai_credits: 40 }),
        infinite_session: Some(InfiniteSession {
            background_compaction_threshold: 0.5,
            buffer_exhaustion_threshold: 0.9,
            ..Default::default()
        }),
        reasoning_summary: "none".into(),
        ..session("s")
    };
    create(&facade, request).await.unwrap();
    answer(&facade, "s", "hello").await;
    let told = last(&cli.model).body.to_string();
    assert!(told.contains("Remaining session limits: 40 AI credits"), "{told}");
}

#[tokio::test]
async fn a_session_that_exists_is_loaded_where_that_is_asked_for() {
    let (cli, facade) = start().await;
    let request = CreateSessionRequest {
        resume_if_exists: true,
        owner: "alice".into(),
        model: "mine".into(),
        ..session("s")
    };
    let created = create(&facade, request.clone()).await.unwrap();
    assert_eq!((created.resumed, created.session.unwrap().owner.as_str()), (false, "alice"));
    // Before and after its first message, and after a restart.
    let other = CreateSessionRequest { owner: "bob".into(), model: "other".into(), ..request };
    let check_resumed = async |facade: &TestFacade| {
        let found = create(facade, other.clone()).await.unwrap();
        let session = found.session.unwrap();
        assert_eq!((found.resumed, session.owner.as_str(), session.model.as_str()), (true, "alice", "mine"));
        assert_eq!(session.state(), SessionState::Idle);
    };
    check_resumed(&facade).await;
    answer(&facade, "s", "one").await;
    check_resumed(&facade).await;
    let facade = restarted(facade, cli.setup()).await;
    assert_eq!(facade.get("s").await.unwrap().owner, "alice");
    for (owner, count) in [("alice", 1), ("bob", 0)] {
        let request = ListSessionsRequest { owner: owner.into(), ..Default::default() };
        let listed = facade.client().list_sessions(request).await.unwrap().into_inner().sessions;
        assert_eq!(listed.len(), count, "{listed:?}");
    }
    check_resumed(&facade).await;
    assert_eq!(answer(&facade, "s", "two").await, "You said: two");
    assert_eq!(last(&cli.model).messages.iter().filter(|message| message.role == "user").count(), 2);
    let without_id =
        create(&facade, CreateSessionRequest { session_id: String::new(), ..other }).await.unwrap_err();
    check(&without_id, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&without_id), ["session_id"]);
}

#[tokio::test]
async fn of_many_who_create_the_same_session_at_once_one_creates_it_and_the_others_get_it() {
    let (_cli, facade) = start().await;
    let request = CreateSessionRequest { resume_if_exists: true, ..session("s") };
    let calls = (0..8).map(|_| create(&facade, request.clone()));
    let all = soon("all of them", futures_util::future::try_join_all(calls)).await.unwrap();
    assert_eq!(all.iter().filter(|response| !response.resumed).count(), 1);
}

#[tokio::test]
async fn a_session_that_is_loaded_and_gets_nothing_new_is_returned_while_its_turn_runs() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let request = CreateSessionRequest { resume_if_exists: true, ..session("s") };
    create(&facade, request.clone()).await.unwrap();
    let (result, ()) = tokio::join!(facade.send("s", "hello"), async {
        let turn = cli.begin().await;
        let found = soon("the session", create(&facade, request)).await.unwrap();
        assert_eq!((found.resumed, found.session.unwrap().state()), (true, SessionState::Running));
        turn.finish(&["done"]).await;
    });
    assert_eq!(result.unwrap().content, "done");
}

#[tokio::test]
async fn a_session_without_a_message_is_loaded_by_another_server_too() {
    let cli = RealCli::start(script).await;
    let (facade, other) = (cli.setup().beside().start().await, cli.setup().beside().start().await);
    create(&facade, session("s")).await.unwrap();
    let request = CreateSessionRequest { resume_if_exists: true, ..session("s") };
    assert!(soon("the session", create(&other, request)).await.unwrap().resumed);
}

#[tokio::test]
async fn a_session_that_this_service_has_not_made_is_not_taken_over() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    cli.has("s", true, false);
    let request = CreateSessionRequest { resume_if_exists: true, ..session("s") };
    let refused = soon("the refusal", create(&facade, request)).await.unwrap_err();
    check(&refused, Code::AlreadyExists, ErrorReason::SessionExists);
}
