//! Sessions outlive the server, their CLI's memory and their credentials; on the real CLI.

use std::collections::BTreeMap;

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CreateSessionRequest, ErrorReason, ListSessionsRequest, PermissionEffect,
    PermissionPolicy, PermissionRule, Provider, ResumeSessionRequest, Session, SessionState, SystemMessage,
    SystemMessageMode, UpdateSessionRequest,
};
use prost_types::FieldMask;
use scripted_model::{Call, ModelServer, Reply, Request};
use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Setup, TestFacade},
    fields_of,
    real_cli::RealCli,
    soon,
};

/// Says how much of the conversation it sees; calls a tool where the prompt says so.
fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("The tool said: {result}")),
        ("use the tool", None) => {
            Reply::tool_call("bash", json!({ "command": "echo from-the-tool", "description": "say so" }))
        }
        _ => Reply::text(format!("prompts: {}", prompts(request).join(", "))),
    }
}

fn prompts(request: &Request) -> Vec<&str> {
    let users = request.messages.iter().filter(|message| message.role == "user");
    users.map(|message| message.content.rsplit('\n').next().unwrap()).collect()
}

/// A facade that has gone, and another in its place.
async fn restarted(facade: TestFacade, setup: Setup) -> TestFacade {
    facade.stop().await;
    setup.start().await
}

async fn create(facade: &TestFacade, request: CreateSessionRequest) -> Session {
    facade.client().create_session(request).await.unwrap().into_inner().session.unwrap()
}

async fn resume(facade: &TestFacade, request: ResumeSessionRequest) -> Result<Session, Status> {
    Ok(facade.client().resume_session(request).await?.into_inner().session.unwrap())
}

async fn update(facade: &TestFacade, session: Session, paths: &[&str]) -> Result<Session, Status> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let request = UpdateSessionRequest { session: Some(session), update_mask };
    Ok(facade.client().update_session(request).await?.into_inner().session.unwrap())
}

async fn close(facade: &TestFacade, id: &str) -> Result<(), Status> {
    facade.client().close_session(CloseSessionRequest { session_id: id.into() }).await.map(|_| ())
}

async fn listed(facade: &TestFacade, labels: &[(&str, &str)], states: &[SessionState]) -> Vec<String> {
    let request = ListSessionsRequest {
        labels: labels_of(labels),
        states: states.iter().map(|state| (*state).into()).collect(),
        ..Default::default()
    };
    let page = facade.client().list_sessions(request).await.unwrap().into_inner();
    page.sessions.into_iter().map(|session| session.session_id).collect()
}

fn labels_of(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// A provider of the caller's own.
fn provider(model: &ModelServer, key: &str) -> Option<Provider> {
    Some(Provider { base_url: model.base_url(), api_key: key.into(), ..Default::default() })
}

fn last_key(calls: &[Call]) -> &str {
    &calls.last().unwrap().request.headers["authorization"]
}

#[tokio::test]
async fn how_hard_the_model_is_to_think_is_changed_with_and_without_its_model_and_stays_so() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let asked = || cli.model.calls().last().unwrap().request.body["reasoning_effort"].clone();
    let change = |id: &str, effort: &str| Session {
        session_id: id.into(),
        model: "mine".into(),
        reasoning_effort: effort.into(),
        ..Default::default()
    };
    create(&facade, CreateSessionRequest { session_id: "s".into(), ..Default::default() }).await;
    // Before there is a message, and of a model that the operator has chosen.
    assert_eq!(
        update(&facade, change("s", "low"), &["reasoning_effort"]).await.unwrap().reasoning_effort,
        "low"
    );
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(asked(), "low");
    let changed = update(&facade, change("s", "high"), &["model", "reasoning_effort"]).await.unwrap();
    assert_eq!((changed.model.as_str(), changed.reasoning_effort.as_str()), ("mine", "high"));
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(asked(), "high");
    // Loaded again, here and by another server.
    close(&facade, "s").await.unwrap();
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(asked(), "high");
    let facade = restarted(facade, cli.setup()).await;
    assert_eq!(facade.get("s").await.unwrap().reasoning_effort, "high");
    soon("a turn", facade.send("s", "hello")).await.unwrap();
    assert_eq!(asked(), "high");
    let nothing = update(&facade, change("s", " "), &["reasoning_effort"]).await.unwrap_err();
    check(&nothing, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&nothing), ["session.reasoning_effort"]);
}

#[tokio::test]
async fn a_restarted_facade_lists_its_sessions_with_their_labels_and_goes_on_with_the_conversation() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "lasting".into(),
        model: "mine".into(),
        labels: labels_of(&[("team", "blue")]),
        system_message: Some(SystemMessage {
            mode: SystemMessageMode::Replace.into(),
            content: "You are a parrot.".into(),
            ..Default::default()
        }),
        reasoning_effort: "low".into(),
        available_tools: vec!["builtin:*".into()],
        excluded_tools: vec!["view".into()],
        permission_policy: Some(PermissionPolicy {
            rules: vec![PermissionRule {
                kind: "shell".into(),
                effect: PermissionEffect::Allow.into(),
                ..Default::default()
            }],
        }),
        ..Default::default()
    };
    let before = create(&facade, request).await;
    soon("a turn", facade.send("lasting", "one")).await.unwrap();
    let facade = restarted(facade, cli.setup()).await;
    let after = facade.get("lasting").await.unwrap();
    assert_eq!((&after.model, &after.labels), (&before.model, &before.labels));
    assert_eq!((after.create_time, after.state()), (before.create_time, SessionState::Unloaded));
    assert_eq!(listed(&facade, &[("team", "blue")], &[SessionState::Unloaded]).await, ["lasting"]);
    let answer = soon("a turn", facade.send("lasting", "two")).await.unwrap();
    assert_eq!((answer.content.as_str(), answer.model.as_str()), ("prompts: one, two", "mine"));
    // All else is as it was made, too.
    let calls = cli.model.calls();
    let [before, after] = [&calls[0].request, &calls[1].request];
    assert_eq!(
        (&after.tools, &after.body["reasoning_effort"]),
        (&before.tools, &before.body["reasoning_effort"])
    );
    assert_eq!(after.body["reasoning_effort"], "low");
    assert_eq!(after.messages[0].content, "You are a parrot.");
    let answer = soon("a turn", facade.send("lasting", "use the tool")).await.unwrap();
    assert!(answer.content.contains("from-the-tool"), "{}", answer.content);
    assert_eq!(facade.get("lasting").await.unwrap().state(), SessionState::Idle);
}

#[tokio::test]
async fn a_session_with_a_provider_of_its_own_waits_for_it_after_a_restart_and_takes_no_other() {
    let (cli, own) = (RealCli::start(script).await, ModelServer::start(script).await.unwrap());
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "own".into(),
        model: "m".into(),
        provider: provider(&own, "first-key"),
        ..Default::default()
    };
    create(&facade, request).await;
    soon("a turn", facade.send("own", "one")).await.unwrap();
    let facade = restarted(facade, cli.setup()).await;
    let without = ResumeSessionRequest { session_id: "own".into(), ..Default::default() };
    for refused in [facade.send("own", "two").await.unwrap_err(), resume(&facade, without).await.unwrap_err()]
    {
        check(&refused, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
        assert!(refused.message().contains("ResumeSession with provider"), "{refused:?}");
    }
    let with = ResumeSessionRequest {
        session_id: "own".into(),
        provider: provider(&own, "second-key"),
        ..Default::default()
    };
    assert_eq!(resume(&facade, with).await.unwrap().state(), SessionState::Idle);
    let answer = soon("a turn", facade.send("own", "two")).await.unwrap();
    assert_eq!(answer.content, "prompts: one, two");
    assert_eq!(last_key(&own.calls()), "Bearer second-key");
    assert!(cli.model.calls().is_empty(), "the operator's provider was used");
}

#[tokio::test]
async fn new_credentials_count_from_the_next_turn_on() {
    let (cli, own) = (RealCli::start(script).await, ModelServer::start(script).await.unwrap());
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        model: "m".into(),
        provider: provider(&own, "old-key"),
        ..Default::default()
    };
    create(&facade, request).await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    assert_eq!(last_key(&own.calls()), "Bearer old-key");
    let request = ResumeSessionRequest {
        session_id: "s".into(),
        provider: provider(&own, "new-key"),
        ..Default::default()
    };
    resume(&facade, request).await.unwrap();
    assert_eq!(soon("a turn", facade.send("s", "two")).await.unwrap().content, "prompts: one, two");
    assert_eq!(last_key(&own.calls()), "Bearer new-key");
}

#[tokio::test]
async fn labels_and_model_can_be_changed_and_stay_so_over_a_restart() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        labels: labels_of(&[("team", "blue"), ("env", "test")]),
        ..Default::default()
    };
    create(&facade, request).await;
    soon("a turn", facade.send("s", "one")).await.unwrap();
    let change = Session {
        session_id: "s".into(),
        model: "another".into(),
        labels: labels_of(&[("team", "red")]),
        ..Default::default()
    };
    let changed = update(&facade, change.clone(), &["labels"]).await.unwrap();
    assert_eq!((changed.labels, changed.model.as_str()), (change.labels.clone(), "scripted"));
    let changed = update(&facade, change.clone(), &["model"]).await.unwrap();
    assert_eq!((changed.model.as_str(), changed.state()), ("another", SessionState::Idle));
    assert_eq!(soon("a turn", facade.send("s", "two")).await.unwrap().content, "prompts: one, two");
    let facade = restarted(facade, cli.setup()).await;
    assert_eq!(listed(&facade, &[("team", "red")], &[]).await, ["s"]);
    assert_eq!(soon("a turn", facade.send("s", "three")).await.unwrap().model, "another");
    let models: Vec<_> = cli.model.calls().iter().map(|call| call.request.model.clone()).collect();
    assert_eq!(models, ["scripted", "another", "another"]);
}

#[tokio::test]
async fn a_title_can_be_given_and_stays_so_over_a_restart() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let titled =
        |id: &str, title: &str| Session { session_id: id.into(), title: title.into(), ..Default::default() };
    for id in ["early", "late"] {
        facade.create(id).await;
    }
    assert_eq!(update(&facade, titled("early", " At first "), &["title"]).await.unwrap().title, "At first");
    // It was not stored, so it is made anew.
    close(&facade, "early").await.unwrap();
    for id in ["early", "late"] {
        soon("a turn", facade.send(id, "one")).await.unwrap();
    }
    assert_eq!(facade.get("late").await.unwrap().title, "one");
    update(&facade, titled("late", "At last"), &["title"]).await.unwrap();
    for id in ["early", "late"] {
        soon("a turn", facade.send(id, "two")).await.unwrap();
    }
    let facade = restarted(facade, cli.setup()).await;
    let listed = facade.client().list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    let listed: Vec<_> = listed.sessions.iter().map(|session| session.title.as_str()).collect();
    assert_eq!(listed, ["At last", "At first"]);
    for (id, title) in [("early", "At first"), ("late", "At last")] {
        assert_eq!(facade.get(id).await.unwrap().title, title);
        soon("a turn", facade.send(id, "three")).await.unwrap();
        assert_eq!(facade.get(id).await.unwrap().title, title);
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_made_is_refused_by_field() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let session = |id: &str| Session { session_id: id.into(), ..Default::default() };
    for (id, paths, field) in [
        ("s", &[] as &[&str], "update_mask"),
        ("s", &["title"], "session.title"),
        ("s", &["state"], "update_mask"),
        ("s", &["model"], "session.model"),
        ("a b", &["labels"], "session.session_id"),
    ] {
        let refused = update(&facade, session(id), paths).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), [field]);
    }
    let unknown = update(&facade, session("unknown"), &["labels"]).await.unwrap_err();
    check(&unknown, Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn a_closed_session_is_unloaded_and_goes_on_when_it_is_next_used() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for id in ["used", "empty"] {
        facade.create(id).await;
    }
    soon("a turn", facade.send("used", "one")).await.unwrap();
    for id in ["used", "empty"] {
        close(&facade, id).await.unwrap();
        assert_eq!(facade.get(id).await.unwrap().state(), SessionState::Unloaded);
        close(&facade, id).await.unwrap();
    }
    assert_eq!(facade.facade.sessions().load().loaded, 0);
    assert_eq!(soon("a turn", facade.send("used", "two")).await.unwrap().content, "prompts: one, two");
    assert_eq!(soon("a turn", facade.send("empty", "first")).await.unwrap().content, "prompts: first");
    let unknown = close(&facade, "unknown").await.unwrap_err();
    check(&unknown, Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn a_session_is_closed_after_the_turns_that_were_accepted_before() {
    let cli = RealCli::start(|request| {
        Reply::text(format!("You said: {}", request.prompt())).every(std::time::Duration::from_millis(50))
    })
    .await;
    let facade = std::sync::Arc::new(cli.facade().await);
    facade.create("s").await;
    let turn = tokio::spawn({
        let facade = facade.clone();
        async move { facade.send("s", "take your time").await }
    });
    soon("the turn", cli.model.wait_for(|calls| !calls.is_empty())).await;
    soon("the closing", close(&facade, "s")).await.unwrap();
    assert_eq!(soon("the turn", turn).await.unwrap().unwrap().content, "You said: take your time");
    assert_eq!(facade.get("s").await.unwrap().state(), SessionState::Unloaded);
}

#[tokio::test]
async fn sessions_are_listed_by_label_and_state() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    for (id, labels) in
        [("a", vec![("team", "blue"), ("env", "live")]), ("b", vec![("team", "blue")]), ("c", vec![])]
    {
        let request =
            CreateSessionRequest { session_id: id.into(), labels: labels_of(&labels), ..Default::default() };
        create(&facade, request).await;
    }
    close(&facade, "b").await.unwrap();
    let unloaded = SessionState::Unloaded;
    assert_eq!(listed(&facade, &[], &[]).await, ["c", "b", "a"]);
    assert_eq!(listed(&facade, &[("team", "blue")], &[]).await, ["b", "a"]);
    assert_eq!(listed(&facade, &[("team", "blue"), ("env", "live")], &[]).await, ["a"]);
    assert_eq!(listed(&facade, &[("team", "red")], &[]).await, Vec::<String>::new());
    assert_eq!(listed(&facade, &[("team", "blue")], &[unloaded]).await, ["b"]);
    assert_eq!(listed(&facade, &[], &[SessionState::Idle, unloaded]).await, ["c", "b", "a"]);
}

#[tokio::test]
async fn what_cannot_be_stored_with_a_session_is_refused() {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let cases: [BTreeMap<String, String>; 3] = [
        labels_of(&[("a b", "")]),
        labels_of(&[("a", &"x".repeat(257))]),
        (0..33).map(|n| (n.to_string(), String::new())).collect(),
    ];
    for labels in cases {
        let request = CreateSessionRequest { labels, ..Default::default() };
        let refused = facade.client().create_session(request).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert!(
            fields_of(&refused).iter().all(|field| field.starts_with("labels")),
            "{:?}",
            fields_of(&refused)
        );
    }
    let with = |len: usize| SystemMessage {
        mode: SystemMessageMode::Replace.into(),
        content: "x".repeat(len),
        ..Default::default()
    };
    // A mebibyte of settings is stored.
    let fits = CreateSessionRequest { system_message: Some(with(1000 * 1024)), ..Default::default() };
    facade.client().create_session(fits).await.unwrap();
    let request = CreateSessionRequest { system_message: Some(with(1025 * 1024)), ..Default::default() };
    let refused = facade.client().create_session(request).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["system_message"]);
}

#[tokio::test]
async fn a_session_without_a_message_is_found_by_another_server_too() {
    let cli = RealCli::start(script).await;
    let (first, second) = (cli.setup().beside().start().await, cli.setup().beside().start().await);
    let request = CreateSessionRequest {
        session_id: "empty".into(),
        labels: labels_of(&[("team", "blue")]),
        ..Default::default()
    };
    let created = create(&first, request).await;
    let found = second.get("empty").await.unwrap();
    assert_eq!((&found.labels, found.create_time), (&created.labels, created.create_time));
    // What the CLI tells of it is written soon after.
    let is_known = async || second.get("empty").await.unwrap().working_directory == created.working_directory;
    soon("its folder", async { while !is_known().await {} }).await;
    assert_eq!(soon("a turn", second.send("empty", "one")).await.unwrap().content, "prompts: one");
    assert_eq!(soon("a turn", first.send("empty", "two")).await.unwrap().content, "prompts: one, two");
    let unknown = second.send("unknown", "one").await.unwrap_err();
    check(&unknown, Code::NotFound, ErrorReason::SessionNotFound);
}
