//! What one request can ask for is bounded: it is refused or fails alone, and the others have what they had.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    Attachment, CreateSessionRequest, ErrorReason, LargeOutput, McpServer, Prompt, Provider,
    ResumeSessionRequest, SendAndWaitRequest, SessionState, Skills, Tool,
    attachment::{Directory, File, Kind, Position, Selection},
    copilot_service_client::CopilotServiceClient,
    mcp_server::{Stdio, Transport},
};
use futures_util::future::join_all;
use scripted_model::Reply;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    check,
    facade::{TestFacade, prompt, wait, wait_with},
    fake_cli::FakeCli,
    fields_of,
    real_cli::{LastingCli, RealCli},
    service::Service,
    soon,
};

/// Definitions of eight references each to the next, at the same place of an answer or one further in.
fn bomb(depth: usize, further_in: bool) -> serde_json::Value {
    let level = |level: usize| {
        let next = json!({"anyOf": vec![json!({"$ref": format!("#/$defs/d{}", level + 1)}); 8]});
        let next = if further_in { json!({"required": ["a"], "properties": {"a": next}}) } else { next };
        (format!("d{level}"), next)
    };
    let last = (format!("d{depth}"), json!({"required": ["never"]}));
    let defs: serde_json::Map<_, _> = (0..depth).map(level).chain([last]).collect();
    json!({"type": "object", "$ref": "#/$defs/d0", "$defs": defs})
}

fn with_schema(session: &str, schema: &serde_json::Value) -> SendAndWaitRequest {
    wait_with(session, Prompt { response_schema_json: schema.to_string(), ..prompt("answer") })
}

#[track_caller]
fn denied(refused: &Status, fields: &[&str]) {
    check(refused, Code::PermissionDenied, ErrorReason::PolicyDenied);
    assert_eq!(fields_of(refused), fields);
}

async fn service() -> (LastingCli, Service, CopilotServiceClient<Channel>) {
    let cli = LastingCli::start(|request| match request.prompt() {
        "answer" => Reply::text((0..20).fold(json!({}), |below, _| json!({"a": below})).to_string()),
        _ => Reply::text("fine"),
    })
    .await;
    let service = Service::start(&cli, &[]).await;
    service.runs(0).await;
    let client = service.connect().await.unwrap();
    (cli, service, client)
}

async fn create(client: &mut CopilotServiceClient<Channel>, id: &str) {
    let request = CreateSessionRequest { session_id: id.into(), ..Default::default() };
    client.create_session(request).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_expands_too_far_is_refused_and_takes_no_memory() {
    let (_cli, service, mut client) = service().await;
    create(&mut client, "s").await;
    // What is made once: the validators of schemas themselves, what a worker thread has for its own, code that is read.
    let honest = with_schema("s", &json!({"type": "object"}));
    soon("a turn", client.send_and_wait(honest)).await.unwrap();
    for _ in 0..50 {
        let nowhere = with_schema("s", &json!({"type": "object", "$ref": "#/$defs/none"}));
        let refused = client.send_and_wait(nowhere).await.unwrap_err();
        assert_eq!(fields_of(&refused), ["prompt.response_schema_json"]);
    }
    let before = service.memory();
    let began = Instant::now();
    for _ in 0..50 {
        let refused = client.send_and_wait(with_schema("s", &bomb(9, false))).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["prompt.response_schema_json"]);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let took = before.surpassed_by();
    assert!(took < 1024 * 1024, "{took} bytes");
    let tool = Tool { name: "t".into(), parameters_json: bomb(9, false).to_string(), ..Default::default() };
    let refused = client
        .create_session(CreateSessionRequest { tools: vec![tool], ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(fields_of(&refused), ["tools[0].parameters_json"]);
}

#[tokio::test]
async fn an_answer_that_takes_too_much_work_to_check_fails_alone() {
    let (_cli, service, mut client) = service().await;
    for session in ["costly", "other"] {
        create(&mut client, session).await;
    }
    let before = service.memory();
    let costly =
        soon("a turn", client.send_and_wait(with_schema("costly", &bomb(20, true)))).await.unwrap_err();
    check(&costly, Code::Internal, ErrorReason::ResponseMismatch);
    assert!(costly.message().contains("more work than is allowed"), "{costly:?}");
    soon("a turn", client.send_and_wait(wait("other", "hello"))).await.unwrap();
    soon("the next turn", client.send_and_wait(wait("costly", "hello"))).await.unwrap();
    let took = before.surpassed_by();
    assert!(took < 64 * 1024 * 1024, "{took} bytes");
}

/// A folder that is open for requests, and another that is not.
struct Folders {
    root: TempDir,
    outside: TempDir,
}

impl Folders {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), outside: tempfile::tempdir().unwrap() }
    }

    async fn facade(&self, cli: &RealCli) -> TestFacade {
        cli.setup().flag(format!("--roots={}", self.root.path().display())).start().await
    }

    fn fifo(&self) -> PathBuf {
        let fifo = self.root.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fifo
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

fn file(path: &Path) -> Attachment {
    Attachment { kind: Some(Kind::File(File { path: text(path), display_name: String::new() })) }
}

fn attached(session: &str, attachments: Vec<Attachment>) -> SendAndWaitRequest {
    wait_with(session, Prompt { attachments, ..prompt("hello") })
}

/// How long each of some turns takes.
async fn turns(facade: &TestFacade, session: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        soon("a turn", facade.send(session, "hello")).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    took
}

#[tokio::test]
async fn attachments_that_never_end_and_skills_from_everywhere_are_refused_and_slow_nobody() {
    let (cli, folders) = (RealCli::start(|_| Reply::text("fine")).await, Folders::new());
    let facade = folders.facade(&cli).await;
    let fifo = folders.fifo();
    facade.create("other").await;
    let calm = turns(&facade, "other").await;
    let sessions: Vec<_> = (0..12).map(|n| format!("s{n}")).collect();
    join_all(sessions.iter().map(|session| facade.create(session))).await;
    let endless = async {
        for place in [fifo.as_path(), Path::new("/proc/kmsg")] {
            let sent =
                sessions.iter().map(|session| facade.send_and_wait(attached(session, vec![file(place)])));
            for refused in join_all(sent).await {
                denied(&refused.unwrap_err(), &["prompt.attachments[0].file.path"]);
            }
        }
        for _ in 0..10 {
            let skills = Some(Skills { directories: vec!["/".into()], disabled: Vec::new() });
            let request = CreateSessionRequest { skills, ..Default::default() };
            denied(&facade.client().create_session(request).await.unwrap_err(), &["skills.directories[0]"]);
        }
    };
    let ((), rushed) = tokio::join!(endless, turns(&facade, "other"));
    let (calm, rushed) = (calm[5], rushed[5]);
    // Half of it is the machine's mood.
    assert!(rushed < calm * 3, "a turn took {calm:?} before, and {rushed:?} meanwhile");
    for session in sessions {
        soon("a turn", facade.send(&session, "hello")).await.unwrap();
    }
}

#[tokio::test]
async fn a_selection_is_a_text_wherever_it_says_that_it_is_from() {
    let (cli, folders) = (RealCli::start(|_| Reply::text("fine")).await, Folders::new());
    let facade = folders.facade(&cli).await;
    facade.create("s").await;
    let position = |line| Some(Position { line, character: 0 });
    let selection = Selection {
        file_path: text(&folders.fifo()),
        text: "some text".into(),
        start: position(0),
        end: position(1),
        display_name: String::new(),
    };
    let selection = Attachment { kind: Some(Kind::Selection(selection)) };
    soon("a turn", facade.send_and_wait(attached("s", vec![selection]))).await.unwrap();
}

#[tokio::test]
async fn every_path_in_a_request_has_to_be_in_a_folder_that_is_open_for_them() {
    let (cli, folders) = (RealCli::start(|_| Reply::text("fine")).await, Folders::new());
    let facade = folders.facade(&cli).await;
    let (root, outside) = (folders.root.path(), folders.outside.path());
    std::fs::write(root.join("file"), "text").unwrap();
    std::fs::write(outside.join("file"), "text").unwrap();
    std::os::unix::fs::symlink(outside, root.join("link")).unwrap();
    let request = |folder: &Path| CreateSessionRequest {
        working_directory: text(folder),
        additional_directories: vec![text(root), text(folder)],
        skills: Some(Skills { directories: vec![text(folder)], disabled: Vec::new() }),
        large_output: Some(LargeOutput { output_directory: text(folder), ..Default::default() }),
        mcp_servers: servers(folder),
        ..Default::default()
    };
    let server = "mcp_servers[\"m\"].stdio.working_directory";
    let fields = [
        "working_directory",
        "skills.directories[0]",
        "additional_directories[1]",
        "large_output.output_directory",
        server,
    ];
    let mut told = Vec::new();
    for folder in [outside, &outside.join("missing"), &root.join("link"), &root.join(".."), Path::new("/")] {
        let refused = facade.client().create_session(request(folder)).await.unwrap_err();
        denied(&refused, &fields);
        told.push(refused.message().to_owned());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "what is told depends on what there is: {told:?}");
    let created = facade.client().create_session(request(root)).await.unwrap().into_inner().session.unwrap();
    assert_eq!(created.working_directory, text(root));

    let resume = ResumeSessionRequest {
        session_id: created.session_id.clone(),
        mcp_servers: servers(outside),
        ..Default::default()
    };
    denied(&facade.client().resume_session(resume).await.unwrap_err(), &[server]);

    let folder = |path: &Path| Attachment {
        kind: Some(Kind::Directory(Directory { path: text(path), display_name: String::new() })),
    };
    let outside = vec![file(&outside.join("file")), folder(outside), file(&root.join("link/missing"))];
    let refused = facade.send_and_wait(attached(&created.session_id, outside)).await.unwrap_err();
    let fields = [
        "prompt.attachments[0].file.path",
        "prompt.attachments[1].directory.path",
        "prompt.attachments[2].file.path",
    ];
    denied(&refused, &fields);
    let inside = vec![file(&root.join("file")), folder(root)];
    soon("a turn", facade.send_and_wait(attached(&created.session_id, inside))).await.unwrap();
}

fn servers(folder: &Path) -> BTreeMap<String, McpServer> {
    let stdio = Stdio { command: "true".into(), working_directory: text(folder), ..Default::default() };
    let server = McpServer { transport: Some(Transport::Stdio(stdio)), ..Default::default() };
    BTreeMap::from([("m".to_owned(), server)])
}

#[tokio::test]
async fn without_roots_nothing_is_open_on_the_machine_of_somebody_elses_cli() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().variable("COPILOT_GRPC_ROOTS", "").start().await;
    let request = CreateSessionRequest { working_directory: "/work".into(), ..Default::default() };
    denied(&facade.client().create_session(request).await.unwrap_err(), &["working_directory"]);
    facade.create("s").await;
}

fn token(session: &str) -> ResumeSessionRequest {
    ResumeSessionRequest {
        session_id: session.into(),
        github_token: "ghu_token".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_github_token_for_a_session_with_a_provider_is_refused_and_the_session_goes_on() {
    let cli = RealCli::start(|_| Reply::text("fine")).await;
    let facade = cli.facade().await;
    facade.create("default").await;
    let provider = Provider { base_url: cli.model.base_url(), ..Default::default() };
    let own = CreateSessionRequest {
        session_id: "own".into(),
        model: "m".into(),
        provider: Some(provider),
        ..Default::default()
    };
    facade.client().create_session(own.clone()).await.unwrap();
    for session in ["default", "own"] {
        soon("a turn", facade.send(session, "one")).await.unwrap();
        let refused = facade.client().resume_session(token(session)).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["github_token"]);
        soon("a turn", facade.send(session, "two")).await.unwrap();
    }
    for request in [CreateSessionRequest { provider: None, ..own.clone() }, own] {
        let both =
            CreateSessionRequest { session_id: String::new(), github_token: "ghu_token".into(), ..request };
        let refused = facade.client().create_session(both).await.unwrap_err();
        assert_eq!(fields_of(&refused), ["github_token"]);
    }
}

fn key(session: &str, key: &str) -> ResumeSessionRequest {
    let provider =
        Provider { base_url: "http://127.0.0.1:1".into(), api_key: key.into(), ..Default::default() };
    ResumeSessionRequest { session_id: session.into(), provider: Some(provider), ..Default::default() }
}

#[tokio::test]
async fn a_session_that_cannot_be_loaded_with_new_credentials_keeps_and_uses_its_old_ones() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let provider = key("s", "old").provider;
    let request =
        CreateSessionRequest { session_id: "s".into(), model: "m".into(), provider, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let key_of = |params: &serde_json::Value| params["provider"]["apiKey"].clone();

    // The CLI refuses it.
    cli.manual("session.resume");
    let mut client = facade.client();
    let resuming = tokio::spawn(async move { client.resume_session(key("s", "new")).await });
    cli.next("session.resume").await.refuse(-32603, "GitHub token validation failed: no").await;
    let again = cli.next("session.resume").await;
    again.answer_as_usual().await;
    assert!(soon("a refusal", resuming).await.unwrap().is_err());
    let resumed: Vec<_> = cli
        .calls()
        .iter()
        .filter(|call| call.method == "session.resume")
        .map(|call| key_of(&call.params))
        .collect();
    assert_eq!(resumed, ["new", "old"]);

    // The CLI goes away meanwhile.
    let mut client = facade.client();
    let resuming = tokio::spawn(async move {
        let mut request = tonic::Request::new(key("s", "newer"));
        request.set_timeout(Duration::from_millis(300));
        client.resume_session(request).await
    });
    let _unanswered = cli.next("session.resume").await;
    assert!(soon("a refusal", resuming).await.unwrap().is_err());
    cli.disconnect().await;
    cli.automatic("session.resume");
    cli.connected(2).await;
    let turn = tokio::spawn({
        let mut client = facade.client();
        async move { client.send_and_wait(wait("s", "hello")).await }
    });
    let sent = cli.begin().await;
    sent.finish(&["hi"]).await;
    assert_eq!(soon("a turn", turn).await.unwrap().unwrap().into_inner().result.unwrap().content, "hi");
    let last = cli
        .calls()
        .into_iter()
        .rev()
        .find(|call| call.method.starts_with("session.resume") || call.method == "session.create");
    assert_eq!(key_of(&last.unwrap().params), "old");

    // With good ones it is as always.
    facade.client().resume_session(key("s", "newest")).await.unwrap();
    let last = cli.calls().into_iter().rev().find(|call| call.method == "session.resume");
    assert_eq!(key_of(&last.unwrap().params), "newest");
}

#[tokio::test]
async fn a_stored_session_that_bad_credentials_did_not_load_waits_for_good_ones_as_before() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let provider = key("s", "first").provider;
    let request =
        CreateSessionRequest { session_id: "s".into(), model: "m".into(), provider, ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    cli.turn_of(&facade, "s").await;
    facade.stop().await;
    let facade = cli.setup().start().await;
    let waits = async || {
        let refused = facade.send("s", "two").await.unwrap_err();
        check(&refused, Code::FailedPrecondition, ErrorReason::SessionNotLoaded);
    };
    waits().await;
    let both = ResumeSessionRequest { github_token: "ghu_token".into(), ..key("s", "k") };
    let refused = facade.client().resume_session(both).await.unwrap_err();
    assert_eq!(fields_of(&refused), ["github_token"]);
    waits().await;
    cli.manual("session.resume");
    let mut client = facade.client();
    let resuming = tokio::spawn(async move { client.resume_session(key("s", "bad")).await });
    cli.next("session.resume").await.refuse(-32603, "GitHub token validation failed: no").await;
    assert!(soon("a refusal", resuming).await.unwrap().is_err());
    waits().await;
    cli.automatic("session.resume");
    let resumed =
        facade.client().resume_session(key("s", "good")).await.unwrap().into_inner().session.unwrap();
    assert_eq!(resumed.state(), SessionState::Idle);
}
