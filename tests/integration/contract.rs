//! What the contract promises beside turns is kept, on the real CLI.
//!
//! JSON as it was written, events of a size that clients can read, signs of life, headers at delivery, sessions that are set back, and
//! what a session costs.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, CreateSessionRequest, ErrorReason, FileChange, FileChangeType, ForkSessionRequest,
    GetUsageRequest, LargeOutput, ListEventsRequest, ListRewindPointsRequest, PermissionEffect, Prompt,
    Provider, RewindPoint, RewindSessionRequest, RewindSessionResponse, SendAndStreamRequest,
    SendAndWaitRequest, SendAndWaitResponse, Session, SessionEvent, Tool, ToolResult, UpdateSessionRequest,
    WatchSessionRequest, WatchSessionResponse, ask_answer::Answer,
    copilot_service_client::CopilotServiceClient, send_and_stream_response, session_event::Payload as Event,
    tool_result::Content, watch_session_response,
};
use prost_types::FieldMask;
use scripted_model::{Reply, Request};
use serde_json::json;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    check,
    facade::{
        Streamed, TestFacade, event, on_everything, prompt, stream, stream_with, wait_with, watching, within,
    },
    fields_of,
    real_cli::RealCli,
    soon,
};

const SCHEMA: &str = r#"{"type":"object","properties":{"zeta":{"type":"integer"},"reasoning":{"type":"string"},"answer":{"type":"string"}},"required":["zeta"]}"#;

const STRICTER: &str = r#"{"type":"object","properties":{"zeta":{"type":"integer","maximum":1234567890123456788},"answer":{"type":"string"}}}"#;

const ARGUMENTS: &str = r#"{"zeta":1234567890123456789,"beta":[1.0,-2.5,"é"],"alpha":{"b":1,"a":2}}"#;

/// A client whose messages may have 4 MiB, as usual.
fn usual_client(facade: &TestFacade) -> CopilotServiceClient<Channel> {
    CopilotServiceClient::new(facade.channel())
}

/// Waits for a turn with megabytes in it, which on a busy machine takes its time, without optimization.
async fn in_time<T>(turn: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), turn).await.unwrap()
}

#[tokio::test]
async fn json_goes_to_the_model_and_to_the_caller_as_it_was_written() {
    let script = |request: &Request| match (request.prompt(), request.tool_result()) {
        ("call", None) => Reply::tool_call("look", ARGUMENTS),
        ("call", Some(result)) => Reply::text(format!("It said: {result}")),
        _ => Reply::text(ARGUMENTS),
    };
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let tool = Tool { name: "look".into(), parameters_json: SCHEMA.into(), ..Default::default() };
    let request = CreateSessionRequest { session_id: "s".into(), tools: vec![tool], ..Default::default() };
    facade.client().create_session(request).await.unwrap();

    let mut events = facade.stream("s", "call").await.unwrap();
    let mut told = Vec::new();
    let ask = loop {
        let message = soon("an event", events.message()).await.unwrap().unwrap();
        let Some(send_and_stream_response::Payload::Event(event)) = message.payload else { panic!() };
        match event.payload.unwrap() {
            Event::ToolExecutionStart(tool) => told.push(tool.arguments_json),
            Event::AssistantMessage(message) => {
                told.extend(message.tool_requests.into_iter().map(|call| call.arguments_json));
            }
            Event::ToolCallAsked(ask) => {
                told.push(ask.arguments_json);
                break ask.ask_id;
            }
            _ => {}
        }
    };
    assert_eq!(told, vec![ARGUMENTS; 3]);
    let result = r#"{"omega":9007199254740993,"alpha":[]}"#;
    let content = Some(Content::ResultJson(result.into()));
    facade.respond("s", &ask, Answer::ToolResult(ToolResult { content, images: vec![] })).await.unwrap();
    let end = Streamed::read(events).await.end.unwrap();
    assert_eq!(end.content, format!("It said: {result}"));
    assert_eq!(end.tool_calls[0].arguments_json, ARGUMENTS);
    let calls = cli.model.calls();
    assert!(calls[0].request.text.contains(SCHEMA), "{}", calls[0].request.text);

    let answer = async |schema: &str| {
        let asked = Prompt { response_schema_json: schema.into(), ..prompt("answer") };
        let answered = soon("a turn", facade.send_and_wait(wait_with("s", asked))).await;
        assert!(cli.model.calls().last().unwrap().request.text.contains(schema));
        answered
    };
    assert_eq!(answer(SCHEMA).await.unwrap().structured_content_json, ARGUMENTS);
    // By one too many.
    check(&answer(STRICTER).await.unwrap_err(), Code::Internal, ErrorReason::ResponseMismatch);
}

/// How long the content of the next event is that `length` knows one of, and whether it was cut.
async fn next_length(
    watcher: &mut Streaming<WatchSessionResponse>,
    length: impl Fn(&Event) -> Option<usize>,
) -> (usize, bool) {
    loop {
        let event = soon("an event", event(watcher)).await.unwrap();
        if let Some(length) = length(event.payload.as_ref().unwrap()) {
            return (length, event.truncated);
        }
    }
}

fn prompt_length(event: &Event) -> Option<usize> {
    match event {
        Event::UserMessage(message) => Some(message.content.len()),
        _ => None,
    }
}

#[tokio::test]
async fn a_client_with_the_usual_limit_reads_on_after_a_prompt_of_5_mb() {
    const LARGE: usize = 5 << 20;
    let cli = RealCli::start(|_| Reply::text("long")).await;
    let facade = cli.setup().flag("--max-frame-size=64MiB").start().await;
    // The Node CLI refuses what is longer than the model's context.
    let provider =
        Provider { base_url: cli.model.base_url(), max_prompt_tokens: 10_000_000, ..Default::default() };
    let request = CreateSessionRequest {
        session_id: "s".into(),
        model: "large".into(),
        provider: Some(provider),
        ..Default::default()
    };
    facade.client().create_session(request).await.unwrap();
    let mut client = usual_client(&facade);
    let watch = WatchSessionRequest { session_id: "s".into(), from_beginning: true, ..Default::default() };
    let mut live = client.watch_session(watch.clone()).await.unwrap().into_inner();
    let stream = client.send_and_stream(stream("s", &"x".repeat(LARGE))).await.unwrap().into_inner();
    in_time(Streamed::read(stream)).await.end.unwrap();
    let mut stored = client.watch_session(watch.clone()).await.unwrap().into_inner();
    for watcher in [&mut live, &mut stored] {
        let (length, truncated) = next_length(watcher, prompt_length).await;
        assert!(truncated && length > 1_000_000 && length < 1 << 20, "{length}");
        // What comes behind it comes.
        assert_eq!(
            next_length(watcher, |event| match event {
                Event::AssistantMessage(message) => Some(message.content.len()),
                _ => None,
            })
            .await,
            (4, false)
        );
    }
    // Whole, where that is asked for and the client takes it.
    let whole = WatchSessionRequest { max_event_size: 16 << 20, ..watch };
    let mut whole = facade.client().watch_session(whole).await.unwrap().into_inner();
    assert_eq!(next_length(&mut whole, prompt_length).await, (LARGE, false));
    let events = pages(client, ListEventsRequest::default()).await.concat();
    let prompt = events.iter().find(|event| prompt_length(event.payload.as_ref().unwrap()).is_some());
    assert!(prompt.unwrap().truncated && events.len() > 2);
}

/// The events of the session `s`, by pages, each of which a client with the usual limit can read.
async fn pages(
    mut client: CopilotServiceClient<Channel>,
    request: ListEventsRequest,
) -> Vec<Vec<SessionEvent>> {
    let (mut token, mut pages) = (String::new(), Vec::new());
    loop {
        let request = ListEventsRequest { session_id: "s".into(), page_token: token, ..request.clone() };
        let page = client.list_events(request).await.unwrap().into_inner();
        pages.push(page.events);
        token = page.next_page_token;
        if token.is_empty() {
            return pages;
        }
    }
}

#[tokio::test]
async fn a_client_with_the_usual_limit_reads_on_after_a_tool_that_printed_too_much() {
    let called = AtomicBool::new(false);
    let script = move |_: &Request| match called.swap(true, Ordering::Relaxed) {
        // The output is more than the model's context takes, so it does not see it.
        true => Reply::text("printed"),
        // In the CLI it takes a time that grows with the square of what is printed.
        false => Reply::tool_call(
            "bash",
            json!({"command": "head -c 1500000 /dev/zero | tr '\\0' x", "description": "d"}),
        ),
    };
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["bash".into()],
        permission_policy: on_everything(PermissionEffect::Allow),
        large_output: Some(LargeOutput { max_size_bytes: 100 << 20, ..Default::default() }),
        ..Default::default()
    };
    let mut client = usual_client(&facade);
    client.create_session(request).await.unwrap();
    let stream = client.send_and_stream(stream("s", "print")).await.unwrap().into_inner();
    let streamed = in_time(Streamed::read(stream)).await;
    assert_eq!(streamed.end.unwrap().content, "printed");
    let tool = streamed.events.into_iter().find_map(|event| match event.payload? {
        Event::ToolExecutionComplete(tool) => Some((tool.content.len() > 900_000, event.truncated)),
        _ => None,
    });
    assert_eq!(tool, Some((true, true)));
}

#[tokio::test]
async fn a_page_that_ends_early_goes_on_where_it_ended() {
    let cli = RealCli::start(|_| Reply::text("yes")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    for n in 0..6 {
        let text = format!("{n}{}", "x".repeat(900_000));
        soon("a turn", facade.send("s", &text)).await.unwrap();
    }
    let request = ListEventsRequest { event_types: vec!["user.message".into()], ..Default::default() };
    let pages = pages(usual_client(&facade), request).await;
    assert!(pages.len() > 1);
    let said = pages.concat().into_iter().map(|event| match event.payload {
        Some(Event::UserMessage(message)) if !event.truncated => message.content[..1].to_owned(),
        other => panic!("{other:?}"),
    });
    assert_eq!(said.collect::<String>(), "012345");
}

#[tokio::test]
async fn every_stream_shows_signs_of_life_while_nothing_happens() {
    let cli = RealCli::start(|_| Reply::hang()).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let watch = WatchSessionRequest {
        session_id: "s".into(),
        heartbeat_interval: interval,
        event_types: vec!["none.of.these".into()],
        ..Default::default()
    };
    let mut watcher = facade.client().watch_session(watch).await.unwrap().into_inner();
    let send = SendAndStreamRequest { heartbeat_interval: interval, ..stream("s", "hello") };
    let mut turn = facade.client().send_and_stream(send).await.unwrap().into_inner();
    for _ in 0..2 {
        let heard = soon("a heartbeat", watcher.message()).await.unwrap().unwrap();
        assert!(matches!(heard.payload, Some(watch_session_response::Payload::Heartbeat(_))), "{heard:?}");
        soon("a heartbeat", async {
            loop {
                let heard = turn.message().await.unwrap().unwrap();
                if let Some(send_and_stream_response::Payload::Heartbeat(_)) = heard.payload {
                    break;
                }
            }
        })
        .await;
    }
}

/// SendAndWait as a client sees it that does not wait for the answer before it looks at the headers.
async fn headers_of(
    facade: &TestFacade,
    request: SendAndWaitRequest,
) -> Result<Streaming<SendAndWaitResponse>, Status> {
    let mut client = tonic::client::Grpc::new(facade.channel());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/copilot_grpc.v1.CopilotService/SendAndWait");
    let codec = tonic_prost::ProstCodec::<SendAndWaitRequest, SendAndWaitResponse>::default();
    let request = within(Duration::from_secs(300), request);
    client.server_streaming(request, path, codec).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn the_headers_of_an_answer_come_when_the_prompt_is_delivered_and_not_before() {
    let cli = RealCli::start(|_| Reply::hang()).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut first = soon("headers", headers_of(&facade, wait_with("s", prompt("one")))).await.unwrap();
    cli.model.wait_for(|calls| calls.len() == 1).await;
    // While it waits for the other one it has none.
    let mut waiting = Box::pin(headers_of(&facade, wait_with("s", prompt("two"))));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "headers came before the prompt was delivered");
    facade
        .client()
        .abort_turn(AbortTurnRequest { session_id: "s".into(), ..Default::default() })
        .await
        .unwrap();
    let failed = soon("the end", first.message()).await.unwrap_err();
    check(&failed, Code::Aborted, ErrorReason::TurnAborted);
    assert_eq!(failed.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    soon("headers", waiting).await.unwrap();
}

#[tokio::test]
async fn what_was_not_delivered_has_trailers_alone_and_says_when_to_try_again() {
    let cli = RealCli::start(|_| Reply::hang()).await;
    let facade = cli.setup().flag("--max-queued-turns=1").start().await;
    facade.create("s").await;
    let _running = soon("headers", headers_of(&facade, wait_with("s", prompt("one")))).await.unwrap();
    // Of two more one is too many, whichever comes first.
    let [queued, another] = ["two", "three"].map(|text| headers_of(&facade, wait_with("s", prompt(text))));
    let refused = tokio::select! {
        refused = queued => refused.unwrap_err(),
        refused = another => refused.unwrap_err(),
    };
    check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
}

#[tokio::test]
async fn only_the_turn_that_is_named_is_stopped() {
    let cli = RealCli::start(|_| Reply::hang()).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut turn = facade.stream("s", "one").await.unwrap();
    let message_id = loop {
        let message = soon("an event", turn.message()).await.unwrap().unwrap();
        if let Some(send_and_stream_response::Payload::Event(event)) = message.payload
            && let Some(Event::UserMessage(message)) = event.payload
        {
            break message.message_id;
        }
    };
    let abort = async |message_id: &str| {
        let request =
            AbortTurnRequest { session_id: "s".into(), message_id: message_id.into(), ..Default::default() };
        facade.client().abort_turn(request).await.unwrap().into_inner().message_id
    };
    assert_eq!(abort("another").await, None);
    assert_eq!(abort(&message_id).await.as_deref(), Some(message_id.as_str()));
    let failed = soon("the end", Streamed::read(turn)).await.end.unwrap_err();
    check(&failed, Code::Aborted, ErrorReason::TurnAborted);
    facade.at_rest().await;
    assert_eq!(abort(&message_id).await, None);
}

/// A session whose agent writes a file, and then changes it and another one by a shell command.
struct Writer {
    cli: RealCli,
    facade: TestFacade,
    folder: tempfile::TempDir,
}

impl Writer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let script = move |request: &Request| match (request.prompt(), request.tool_result()) {
            (_, Some(_)) => Reply::text("done"),
            ("create", _) => {
                let file = path.join("a.txt");
                Reply::tool_call("create", json!({"path": file, "file_text": "one\ntwo\n"}))
            }
            ("change", _) => {
                let command = format!("cd {}; echo three >> a.txt; echo x > b.txt", path.display());
                Reply::tool_call("bash", json!({"command": command, "description": "d"}))
            }
            _ => Reply::text("nothing"),
        };
        let cli = RealCli::start(script).await;
        let facade = cli.facade().await;
        let request = CreateSessionRequest {
            session_id: "s".into(),
            available_tools: vec!["builtin:*".into()],
            permission_policy: on_everything(PermissionEffect::Allow),
            working_directory: folder.path().to_str().unwrap().into(),
            ..Default::default()
        };
        facade.client().create_session(request).await.unwrap();
        Self { cli, facade, folder }
    }

    async fn changed(&self, text: &str) -> Vec<(String, FileChangeType)> {
        let result = soon("a turn", self.facade.send("s", text)).await.unwrap();
        self.by_name(result.files_changed)
    }

    fn by_name(&self, files: Vec<FileChange>) -> Vec<(String, FileChangeType)> {
        let name =
            |path: &str| Path::new(path).strip_prefix(self.folder.path()).unwrap().display().to_string();
        let mut files: Vec<_> = files.into_iter().map(|file| (name(&file.path), file.r#type())).collect();
        files.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        files
    }

    async fn points(&self) -> Vec<RewindPoint> {
        let request = ListRewindPointsRequest { session_id: "s".into() };
        self.facade.client().list_rewind_points(request).await.unwrap().into_inner().points
    }

    async fn rewind(
        &self,
        event_id: &str,
        restore_files: bool,
        validate_only: bool,
    ) -> Result<RewindSessionResponse, Status> {
        let (session_id, event_id) = ("s".into(), event_id.into());
        let request = RewindSessionRequest { session_id, event_id, restore_files, validate_only };
        Ok(self.facade.client().rewind_session(request).await?.into_inner())
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

#[tokio::test]
async fn a_turn_says_which_files_it_has_changed_and_a_session_is_set_back_with_them() {
    use FileChangeType::{Created, Modified};
    let writer = Writer::start().await;
    assert_eq!(writer.changed("create").await, [("a.txt".into(), Created)]);
    let both = [("a.txt".to_owned(), Modified), ("b.txt".to_owned(), Created)];
    assert_eq!(writer.changed("change").await, both);
    assert_eq!(writer.changed("talk").await, []);

    let points = writer.points().await;
    let prompts: Vec<_> =
        points.iter().map(|point| (point.prompt.as_str(), point.can_restore_files)).collect();
    assert_eq!(prompts, [("create", true), ("change", true), ("talk", false)]);
    let change = &points[1].event_id;
    // What would be is said, and nothing done.
    let would = writer.rewind(change, true, true).await.unwrap();
    assert_eq!((writer.by_name(would.files), would.events_removed), (both.to_vec(), 0));
    assert_eq!(writer.files(), ["a.txt", "b.txt"]);
    assert_eq!(writer.points().await.len(), 3);

    let done = writer.rewind(change, true, false).await.unwrap();
    assert!(done.events_removed > 0 && done.skipped_files.is_empty());
    assert_eq!(writer.by_name(done.files), both);
    assert_eq!(writer.files(), ["a.txt"]);
    assert_eq!(fs::read_to_string(writer.folder.path().join("a.txt")).unwrap(), "one\ntwo\n");
    let prompts: Vec<_> = writer.points().await.into_iter().map(|point| point.prompt).collect();
    assert_eq!(prompts, ["create"]);
    // The model does not know of it any more.
    soon("a turn", writer.facade.send("s", "talk")).await.unwrap();
    let asked = writer.cli.model.calls().last().unwrap().request.clone();
    let said = asked.messages.iter().filter(|message| message.role != "system");
    assert!(said.clone().count() > 0);
    said.for_each(|message| assert!(!message.content.contains("change"), "{message:?}"));
}

#[tokio::test]
async fn only_to_before_a_prompt_can_a_session_be_set_back_or_copied() {
    let writer = Writer::start().await;
    let nothing: RewindSessionResponse = {
        writer.changed("create").await;
        writer.rewind(&writer.points().await[0].event_id, false, true).await.unwrap()
    };
    assert_eq!(nothing, RewindSessionResponse::default());
    for (event_id, trial) in [("nothing of the kind", true), ("nothing of the kind", false), ("", false)] {
        let refused = writer.rewind(event_id, false, trial).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["event_id"]);
    }
    let fork = ForkSessionRequest { session_id: "s".into(), event_id: "nothing of the kind".into() };
    let refused = writer.facade.client().fork_session(fork).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["event_id"]);
    // Without tools nobody knows of files.
    writer.facade.create("bare").await;
    soon("a turn", writer.facade.send("bare", "talk")).await.unwrap();
    let points = ListRewindPointsRequest { session_id: "bare".into() };
    let points = writer.facade.client().list_rewind_points(points).await.unwrap().into_inner().points;
    let request = RewindSessionRequest {
        session_id: "bare".into(),
        event_id: points[0].event_id.clone(),
        restore_files: true,
        validate_only: true,
    };
    let refused = writer.facade.client().rewind_session(request).await.unwrap_err();
    assert_eq!(fields_of(&refused), ["restore_files"]);
}

#[tokio::test]
async fn a_copy_ends_before_the_event_that_is_named() {
    let writer = Writer::start().await;
    writer.changed("create").await;
    writer.changed("talk").await;
    let event_id = writer.points().await[1].event_id.clone();
    let fork = ForkSessionRequest { session_id: "s".into(), event_id };
    let copy = writer.facade.client().fork_session(fork).await.unwrap().into_inner().session.unwrap();
    let points = ListRewindPointsRequest { session_id: copy.session_id };
    let points = writer.facade.client().list_rewind_points(points).await.unwrap().into_inner().points;
    let prompts: Vec<_> = points.into_iter().map(|point| point.prompt).collect();
    assert_eq!(prompts, ["create"]);
}

#[tokio::test]
async fn the_cost_of_a_session_is_told_by_model() {
    let cli = RealCli::start(|_| Reply::text("one two three")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    for _ in 0..2 {
        soon("a turn", facade.send("s", "hello there")).await.unwrap();
    }
    let request = GetUsageRequest { session_id: "s".into() };
    let told = facade.client().get_usage(request).await.unwrap().into_inner();
    let usage = told.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.model_calls, told.prompts), (4, 6, 2, 2));
    assert_eq!(told.usage_by_model.len(), 1);
    assert_eq!(told.usage_by_model.into_values().next().unwrap().output_tokens, 6);
    let unknown =
        facade.client().get_usage(GetUsageRequest { session_id: "unknown".into() }).await.unwrap_err();
    check(&unknown, Code::NotFound, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn another_model_is_an_event() {
    let cli = RealCli::start(|_| Reply::text("yes")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let session = Session { session_id: "s".into(), model: "other".into(), ..Default::default() };
    let update_mask = Some(FieldMask { paths: vec!["model".into()] });
    facade
        .client()
        .update_session(UpdateSessionRequest { session: Some(session), update_mask })
        .await
        .unwrap();
    let model = watcher.find(|event| match event {
        Event::SessionModelChanged(changed) => Some(changed.model.clone()),
        _ => None,
    });
    assert_eq!(model.await, "other");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_field() {
    let cli = RealCli::start(|_| Reply::text("yes")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let huge = format!(r#"{{"type":"object","description":"{}"}}"#, "x".repeat(600_000));
    for schema in ["nonsense", "NaN", r#"{"type":"object","type":"array"}"#, r#"["object"]"#, &deep, &huge] {
        let asked = Prompt { response_schema_json: schema.into(), ..prompt("hello") };
        let refused = facade.send_and_wait(wait_with("s", asked)).await.unwrap_err();
        check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&refused), ["prompt.response_schema_json"], "{schema:.40}");
    }
    for (seconds, nanos) in [(-1, 0), (0, 1), (0, -1), (100_000, 0)] {
        let heartbeat_interval = Some(prost_types::Duration { seconds, nanos });
        let request = SendAndStreamRequest { heartbeat_interval, ..stream("s", "hello") };
        assert_eq!(fields_of(&facade.send_and_stream(request).await.unwrap_err()), ["heartbeat_interval"]);
    }
    let request = SendAndStreamRequest { max_event_size: 10, ..stream_with("s", prompt("hello")) };
    assert_eq!(fields_of(&facade.send_and_stream(request).await.unwrap_err()), ["max_event_size"]);
    let nothing = SendAndWaitRequest { session_id: "s".into(), prompt: None };
    assert_eq!(fields_of(&facade.send_and_wait(nothing).await.unwrap_err()), ["prompt"]);
    // None of it was sent.
    assert_eq!(cli.model.calls().len(), 0);
}
