//! Sessions are made as they were asked for, found, listed and deleted, and wrong requests are refused; on the real CLI.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use copilot_grpc::{
    backend::process::discover::Form,
    grpc::pb::{
        CreateSessionRequest, DeleteSessionRequest, ErrorReason, ListSessionsRequest, PermissionEffect,
        PermissionPolicy, PermissionRule, Provider, SectionAction, Session, SessionState, SystemMessage,
        SystemMessageMode, SystemMessageSection, UpdateSessionRequest, session_event::Payload as Event,
    },
};
use prost_types::FieldMask;
use scripted_model::{ModelServer, Reply, Request};
use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Streamed, TestFacade},
    fields_of,
    real_cli::{self, MODEL, RealCli},
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

async fn start() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    (cli, facade)
}

/// Two servers that have the same sessions.
async fn start_two() -> (RealCli, TestFacade, TestFacade) {
    let cli = RealCli::start(script).await;
    let (one, other) = (cli.setup().beside().start().await, cli.setup().beside().start().await);
    (cli, one, other)
}

async fn create(facade: &TestFacade, request: CreateSessionRequest) -> Result<Session, Status> {
    Ok(facade.client().create_session(request).await?.into_inner().session.unwrap())
}

async fn delete(facade: &TestFacade, id: &str, allow_missing: bool) -> Result<(), Status> {
    let request = DeleteSessionRequest { session_id: id.into(), allow_missing };
    facade.client().delete_session(request).await.map(|_| ())
}

async fn list(facade: &TestFacade, page_size: i32, page_token: &str) -> (Vec<String>, String) {
    let request = ListSessionsRequest { page_size, page_token: page_token.into(), ..Default::default() };
    let page = facade.client().list_sessions(request).await.unwrap().into_inner();
    (page.sessions.into_iter().map(|session| session.session_id).collect(), page.next_page_token)
}

#[tokio::test]
async fn a_session_is_created_found_listed_and_deleted() {
    let (_cli, facade) = start().await;
    let created = facade.create("first").await;
    assert_eq!((created.session_id.as_str(), created.model.as_str()), ("first", MODEL));
    assert_eq!(created.state(), SessionState::Idle);
    assert!(created.create_time.is_some() && created.title.is_empty());
    assert!(created.working_directory.ends_with("/work"), "{created:?}");
    // Without a message the CLI itself does not list it.
    assert_eq!(list(&facade, 0, "").await, (vec!["first".into()], String::new()));
    soon("a turn", facade.send("first", "hello")).await.unwrap();
    let found = facade.get("first").await.unwrap();
    assert_eq!((found.title.as_str(), found.state()), ("hello", SessionState::Idle));
    assert_eq!(found.create_time, created.create_time);
    assert!(found.update_time.unwrap().nanos != created.update_time.unwrap().nanos);
    delete(&facade, "first", false).await.unwrap();
    check(&facade.get("first").await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    check(&delete(&facade, "first", false).await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    delete(&facade, "first", true).await.unwrap();
    assert_eq!(list(&facade, 0, "").await, (vec![], String::new()));
}

#[tokio::test]
async fn a_deleted_session_can_be_created_anew_and_remembers_nothing() {
    let (cli, facade) = start().await;
    for word in ["apple", "banana"] {
        facade.create("again").await;
        soon("a turn", facade.send("again", word)).await.unwrap();
        let asked = cli.model.calls().last().unwrap().request.clone();
        let prompts = asked.messages.iter().filter(|message| message.role == "user").count();
        assert_eq!(prompts, 1);
        delete(&facade, "again", false).await.unwrap();
    }
}

#[tokio::test]
async fn an_id_is_made_where_none_is_given() {
    let (_cli, facade) = start().await;
    let [one, two] = [facade.create("").await, facade.create("").await].map(|session| session.session_id);
    assert!(!one.is_empty() && one != two);
    assert_eq!(soon("a turn", facade.send(&one, "hello")).await.unwrap().content, "You said: hello");
}

#[tokio::test]
async fn pages_show_every_session_once_newest_first() {
    let (_cli, facade) = start().await;
    for n in 0..5 {
        facade.create(&format!("s{n}")).await;
    }
    soon("a turn", facade.send("s1", "hello")).await.unwrap();
    let (first, token) = list(&facade, 2, "").await;
    assert_eq!(first, ["s4", "s3"]);
    // Neither what goes nor what comes upsets the next page.
    delete(&facade, "s3", false).await.unwrap();
    facade.create("s5").await;
    let (second, token) = list(&facade, 2, &token).await;
    assert_eq!(second, ["s2", "s1"]);
    assert_eq!(list(&facade, 2, &token).await, (vec!["s0".into()], String::new()));
}

async fn ids(facade: &TestFacade, request: ListSessionsRequest) -> Vec<String> {
    let page = facade.client().list_sessions(request).await.unwrap().into_inner();
    page.sessions.into_iter().map(|session| session.session_id).collect()
}

#[tokio::test]
async fn sessions_are_listed_by_time_and_in_the_order_that_was_asked_for() {
    let (_cli, facade, other) = start_two().await;
    let mut created = Vec::new();
    for id in ["a", "b", "c"] {
        created.push(facade.create(id).await.create_time.unwrap());
        soon("a turn", facade.send(id, "hello")).await.unwrap();
    }
    soon("a turn", facade.send("a", "again")).await.unwrap();
    // A little before: the store may have heard of it a moment earlier.
    let changed = facade.get("a").await.unwrap().update_time.unwrap();
    let changed = SystemTime::try_from(changed).unwrap() - Duration::from_millis(20);
    let changed = Some(changed.into());
    // The same for one that knows the sessions, and for one that finds them.
    for facade in [facade, other] {
        let asked = |change: &dyn Fn(&mut ListSessionsRequest)| {
            let mut request = ListSessionsRequest::default();
            change(&mut request);
            ids(&facade, request)
        };
        let by = |order: &'static str| asked(&move |request| request.order_by = order.into());
        assert_eq!(by("").await, ["c", "b", "a"]);
        assert_eq!(by("create_time desc").await, ["c", "b", "a"]);
        assert_eq!(by("create_time").await, ["a", "b", "c"]);
        assert_eq!(by("update_time desc").await, ["a", "c", "b"]);
        assert_eq!(by("update_time").await, ["b", "c", "a"]);
        let (second, third) = (created[1], created[2]);
        assert_eq!(asked(&|request| request.created_before = Some(second)).await, ["a"]);
        assert_eq!(asked(&|request| request.created_after = Some(second)).await, ["c", "b"]);
        let both = asked(&|request| {
            (request.created_after, request.created_before) = (Some(second), Some(third));
        });
        assert_eq!(both.await, ["b"]);
        assert_eq!(asked(&|request| request.updated_after = changed).await, ["a"]);
        assert_eq!(asked(&|request| request.updated_before = changed).await, ["c", "b"]);
        assert_eq!(asked(&|request| request.owner = "ann".into()).await, Vec::<String>::new());
        let first =
            ListSessionsRequest { page_size: 1, order_by: "update_time".into(), ..Default::default() };
        let page = facade.client().list_sessions(first.clone()).await.unwrap().into_inner();
        let token = page.next_page_token;
        let next = ListSessionsRequest { page_token: token.clone(), ..first.clone() };
        assert_eq!(ids(&facade, next.clone()).await, ["c"]);
        for other in [
            ListSessionsRequest { order_by: String::new(), ..next.clone() },
            ListSessionsRequest { owner: "ann".into(), ..next },
        ] {
            let refused = facade.client().list_sessions(other).await.unwrap_err();
            check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
            assert_eq!(fields_of(&refused), ["page_token"]);
        }
    }
}

#[tokio::test]
async fn what_another_server_does_shows_after_a_moment_and_what_is_done_here_at_once() {
    let (_cli, facade, other) = start_two().await;
    let blue = |facade: &TestFacade| {
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        let mut client = facade.client();
        async move {
            let request = ListSessionsRequest { labels, ..Default::default() };
            let page = client.list_sessions(request).await.unwrap().into_inner();
            page.sessions.into_iter().map(|session| (session.session_id, session.title)).collect::<Vec<_>>()
        }
    };
    facade.create("s").await;
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(list(&other, 0, "").await.0, ["s"]);
    assert_eq!(blue(&other).await, []);
    let change = Session {
        session_id: "s".into(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        title: "A talk".into(),
        ..Default::default()
    };
    let update_mask = Some(FieldMask { paths: vec!["labels".into(), "title".into()] });
    let request = UpdateSessionRequest { session: Some(change), update_mask };
    facade.client().update_session(request).await.unwrap();
    let changed = [("s".to_owned(), "A talk".to_owned())];
    assert_eq!(blue(&facade).await, changed);
    soon("the change", async { while blue(&other).await != changed {} }).await;
    // What it deletes itself is gone at once, also where it did not know the session.
    delete(&other, "s", false).await.unwrap();
    assert_eq!(list(&other, 0, "").await.0, Vec::<String>::new());
}

#[tokio::test]
async fn an_id_that_exists_is_never_attached_to() {
    let (_cli, facade, other) = start_two().await;
    facade.create("taken").await;
    let again = CreateSessionRequest { session_id: "taken".into(), ..Default::default() };
    check(
        &create(&facade, again.clone()).await.unwrap_err(),
        Code::AlreadyExists,
        ErrorReason::SessionExists,
    );
    soon("a turn", facade.send("taken", "hello")).await.unwrap();
    facade.create("empty").await;
    // The second facade, which knows neither the one with a message nor the one without.
    for id in ["taken", "empty"] {
        let again = CreateSessionRequest { session_id: id.into(), ..Default::default() };
        check(&create(&other, again).await.unwrap_err(), Code::AlreadyExists, ErrorReason::SessionExists);
    }
    assert_eq!(other.get("taken").await.unwrap().state(), SessionState::Idle);
    assert_eq!(soon("a turn", facade.send("taken", "still")).await.unwrap().content, "You said: still");
}

#[tokio::test]
async fn a_session_that_another_client_deletes_is_gone_here_too() {
    let (_cli, facade, other) = start_two().await;
    facade.create("shared").await;
    soon("a turn", facade.send("shared", "hello")).await.unwrap();
    delete(&other, "shared", false).await.unwrap();
    soon("the news", async {
        while facade.get("shared").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    facade.create("shared").await;
}

#[tokio::test]
async fn a_provider_of_the_callers_own_is_used_with_its_key_headers_and_model() {
    let (_cli, facade) = start().await;
    let own = ModelServer::start(|request| Reply::text(format!("I am {}", request.model))).await.unwrap();
    let request = CreateSessionRequest {
        session_id: "own".into(),
        model: "my-model".into(),
        provider: Some(Provider {
            base_url: own.base_url(),
            api_key: "sk-of-the-caller".into(),
            headers: BTreeMap::from([("x-tenant".into(), "blue".into())]),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(create(&facade, request).await.unwrap().model, "my-model");
    let result = soon("a turn", facade.send("own", "who are you?")).await.unwrap();
    assert_eq!((result.content.as_str(), result.model.as_str()), ("I am my-model", "my-model"));
    let headers = &own.calls()[0].request.headers;
    assert_eq!(headers["authorization"], "Bearer sk-of-the-caller");
    assert_eq!(headers["x-tenant"], "blue");
}

#[tokio::test]
async fn a_session_has_no_tools_and_nothing_of_the_machine_unless_asked_for() {
    let (cli, facade) = start().await;
    let created = facade.create("plain").await;
    soon("a turn", facade.send("plain", "hello")).await.unwrap();
    let request = cli.model.calls()[0].request.clone();
    assert_eq!(request.tools, Vec::<String>::new());
    assert!(
        !request.body.to_string().contains(&created.working_directory),
        "the prompt tells where the CLI runs"
    );
}

#[tokio::test]
async fn the_system_message_is_what_the_caller_says() {
    let (cli, facade) = start().await;
    let section = |action: SectionAction, content: &str| SystemMessageSection {
        action: action.into(),
        content: content.into(),
    };
    let customize = SystemMessageMode::Customize;
    let message =
        |mode: SystemMessageMode, content: &str, sections: &[(&str, SystemMessageSection)]| SystemMessage {
            mode: mode.into(),
            content: content.into(),
            sections: sections.iter().map(|(name, section)| ((*name).into(), section.clone())).collect(),
        };
    let mut said = Vec::new();
    let messages = [
        message(SystemMessageMode::Append, "Always rhyme.", &[]),
        message(SystemMessageMode::Replace, "You are a parrot.", &[]),
        message(customize, "", &[("identity", section(SectionAction::Replace, "You are a poet."))]),
        message(customize, "", &[("environment_context", section(SectionAction::Preserve, ""))]),
    ];
    for (n, message) in messages.into_iter().enumerate() {
        let id = format!("s{n}");
        let request = CreateSessionRequest {
            session_id: id.clone(),
            system_message: Some(message),
            ..Default::default()
        };
        create(&facade, request).await.unwrap();
        soon("a turn", facade.send(&id, "hello")).await.unwrap();
        said.push(cli.model.calls().last().unwrap().request.messages[0].content.clone());
    }
    let own = "You are GitHub Copilot";
    assert!(said[0].contains(own) && said[0].contains("Always rhyme."), "{}", said[0]);
    assert_eq!(said[1], "You are a parrot.");
    assert!(said[2].contains("You are a poet.") && !said[2].contains(own), "{}", said[2]);
    let folder = facade.get("s3").await.unwrap().working_directory;
    assert_eq!(
        said.iter().map(|text| text.contains(&folder)).collect::<Vec<_>>(),
        [false, false, false, true]
    );
}

#[tokio::test]
async fn excluded_tools_are_not_offered_and_the_reasoning_effort_reaches_the_model() {
    let (cli, facade) = start().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:*".into()],
        excluded_tools: vec!["bash".into(), "builtin:view".into()],
        reasoning_effort: "high".into(),
        ..Default::default()
    };
    create(&facade, request).await.unwrap();
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    let request = cli.model.calls()[0].request.clone();
    let has = |name: &str| request.tools.iter().any(|tool| tool == name);
    assert_eq!((has("grep"), has("bash"), has("view")), (true, false, false), "{:?}", request.tools);
    assert_eq!(request.body["reasoning_effort"], "high");
}

/// Creates a session with a shell and this policy, lets the agent use it, and returns its answer and its events.
async fn use_the_tool(facade: &TestFacade, id: &str, rules: Vec<PermissionRule>) -> Streamed {
    let request = CreateSessionRequest {
        session_id: id.into(),
        available_tools: vec!["bash".into()],
        permission_policy: Some(PermissionPolicy { rules }),
        ..Default::default()
    };
    create(facade, request).await.unwrap();
    let stream = facade.stream(id, "use the tool").await.unwrap();
    soon("the turn", Streamed::read(stream)).await
}

fn rule(kind: &str, effect: PermissionEffect) -> PermissionRule {
    PermissionRule { kind: kind.into(), effect: effect.into(), ..Default::default() }
}

#[tokio::test]
async fn a_tool_runs_if_the_policy_allows_it_and_only_then() {
    let (_cli, facade) = start().await;
    let (allow, deny) = (PermissionEffect::Allow, PermissionEffect::Deny);
    let cases = [
        ("allowed", vec![rule("shell", allow)], true),
        ("all-allowed", vec![rule("*", allow)], true),
        ("silent", vec![], false),
        ("other", vec![rule("write", allow)], false),
        ("denied-first", vec![rule("shell", deny), rule("*", allow)], false),
    ];
    for (id, rules, allowed) in cases {
        let streamed = use_the_tool(&facade, id, rules).await;
        let result = streamed.end.unwrap();
        assert_eq!(result.content.contains("from-the-tool"), allowed, "{id}: {}", result.content);
        let [call] = result.tool_calls.as_slice() else { panic!("{:?}", result.tool_calls) };
        assert_eq!((call.name.as_str(), call.success), ("bash", Some(allowed)), "{id}");
        let completed = streamed.events.iter().filter_map(|event| match event.payload.as_ref()? {
            Event::ToolExecutionComplete(tool) => Some(tool.success),
            _ => None,
        });
        assert_eq!(completed.collect::<Vec<_>>(), [allowed], "{id}");
        assert_eq!(result.usage.unwrap().model_calls, 2, "{id}");
    }
}

#[tokio::test]
async fn the_operators_defaults_apply_where_the_request_is_silent() {
    let cli = RealCli::start(script).await;
    let facade = cli.setup().flag("--available-tools=bash").flag("--allow-permissions=shell").start().await;
    facade.create("default").await;
    let result = soon("the turn", facade.send("default", "use the tool")).await.unwrap();
    assert!(result.content.contains("from-the-tool"), "{}", result.content);
}

#[tokio::test]
async fn requests_that_cannot_be_right_are_refused_by_field() {
    let (cli, facade) = start().await;
    let long = "x".repeat(129);
    let provider = |provider: Provider| CreateSessionRequest {
        model: "m".into(),
        provider: Some(provider),
        ..CreateSessionRequest::default()
    };
    let id = |id: &str| CreateSessionRequest { session_id: id.into(), ..Default::default() };
    let base_url = cli.model.base_url();
    let cases: Vec<(CreateSessionRequest, &[&str])> = vec![
        (id("a b"), &["session_id"]),
        (id("../up"), &["session_id"]),
        (id("Ünïcode"), &["session_id"]),
        (id(&long), &["session_id"]),
        (provider(Provider::default()), &["provider.base_url"]),
        (
            CreateSessionRequest {
                provider: Some(Provider { base_url, ..Default::default() }),
                ..Default::default()
            },
            &["model"],
        ),
        (
            CreateSessionRequest {
                available_tools: vec!["*".into()],
                working_directory: "relative".into(),
                ..id("a.b")
            },
            &["session_id", "available_tools[0]", "working_directory"],
        ),
        // This one only the CLI knows.
        (
            CreateSessionRequest { working_directory: "/no/such/folder".into(), ..Default::default() },
            &["working_directory"],
        ),
    ];
    for (request, fields) in cases {
        let refused = create(&facade, request.clone()).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        let mut named = fields_of(&refused);
        named.sort();
        let mut expected: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        expected.sort();
        assert_eq!(named, expected, "{request:?}");
    }
    assert_eq!(list(&facade, 0, "").await.0, Vec::<String>::new(), "nothing is left of them");
}

#[tokio::test]
async fn prompts_that_cannot_be_right_are_refused() {
    let (cli, facade) = start().await;
    facade.create("s").await;
    for prompt in ["", " \n\t"] {
        let refused = facade.send("s", prompt).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["prompt.text"]);
    }
    for (id, code, reason) in [
        ("unknown", Code::NotFound, ErrorReason::SessionNotFound),
        ("", Code::InvalidArgument, ErrorReason::InvalidField),
        ("a b", Code::InvalidArgument, ErrorReason::InvalidField),
    ] {
        check(&facade.send(id, "hello").await.unwrap_err(), code, reason);
    }
    assert!(cli.model.calls().is_empty());
}

/// The CLI alone takes its time for so much.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_prompt_of_20_mb_is_refused_by_default_and_answered_where_the_operator_allows_it() {
    let cli = RealCli::start(|request| Reply::text(request.prompt().len().to_string())).await;
    let prompt = "lorem-ipsum.".repeat(20_000_000 / 12);
    let facade = cli.facade().await;
    facade.create("refused").await;
    let refused = facade.send("refused", &prompt).await.unwrap_err();
    check(&refused, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
    assert!(refused.message().contains("max_message_size"), "{refused:?}");
    facade.stop().await;
    let generous = cli.setup().flag("--max-message-size=32MiB").start().await;
    generous.create("too-long").await;
    let too_long = tokio::time::timeout(LONG, generous.send("too-long", &prompt)).await.unwrap();
    match real_cli::form() {
        Form::Node => check(&too_long.unwrap_err(), Code::ResourceExhausted, ErrorReason::ContextLimit),
        // It leaves that to the provider, and this one takes all.
        Form::Native => assert_eq!(too_long.unwrap().content, prompt.len().to_string()),
    }
    let provider =
        Provider { base_url: cli.model.base_url(), max_prompt_tokens: 10_000_000, ..Default::default() };
    let request = CreateSessionRequest {
        session_id: "answered".into(),
        model: "large".into(),
        provider: Some(provider),
        ..Default::default()
    };
    create(&generous, request).await.unwrap();
    let result = tokio::time::timeout(LONG, generous.send("answered", &prompt)).await.unwrap().unwrap();
    assert_eq!(result.content, prompt.len().to_string());
}
