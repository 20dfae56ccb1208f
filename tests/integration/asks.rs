//! What the agent asks is put to its callers, whose answers reach it: permissions, tools, questions, plans; on the real CLI.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use copilot_grpc::grpc::pb::{
    AgentMode, CreateSessionRequest, Elicitation, ElicitationAction, ErrorReason, ExitPlan, McpServer,
    OnDisconnect, PermissionDecision, PermissionEffect, PermissionPolicy, PermissionRule, Prompt,
    SendAndStreamResponse, SendAndWaitRequest, SessionState, Tool, ToolImage, ToolResult, TurnResult,
    UserInput, WatchSessionRequest, ask_answer::Answer, mcp_server, send_and_stream_response,
    session_event::Payload, tool_result::Content,
};
use scripted_model::{Reply, Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{
    check,
    facade::{TestFacade, ask_id, decide, on_everything, prompt, stream_with, wait, wait_with, watching},
    failure_of, fields_of,
    proxy::Proxy,
    real_cli::RealCli,
    soon, until,
};

/// Calls the tool that the prompt names, and says what came of it.
fn script(request: &Request) -> Reply {
    // A prompt in another mode begins with a notice of that.
    let prompt = request.prompt().rsplit('\n').next().unwrap();
    match (prompt, request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        ("run", None) => {
            Reply::tool_call("bash", json!({"command": "echo from-the-tool", "description": "say so"}))
        }
        ("weather", None) => Reply::tool_call("weather", json!({"city": "Bern"})),
        ("ask", None) => Reply::tool_call("ask_user", json!({"question": "Which?", "choices": ["a", "b"]})),
        ("form" | "think", None) => Reply::tool_call(format!("ages-{prompt}"), json!({})),
        ("plan", None) => Reply::tool_call("exit_plan_mode", json!({"summary": "do it"})),
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

/// A session whose tools have to be asked for.
fn asking(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: on_everything(PermissionEffect::Ask),
        tools: vec![weather()],
        user_input: true,
        exit_plan: true,
        vision: Some(true),
        ..Default::default()
    }
}

/// A tool of the caller's.
fn weather() -> Tool {
    Tool { name: "weather".into(), description: "Tells the weather.".into(), ..Default::default() }
}

async fn started(request: CreateSessionRequest) -> (RealCli, Arc<TestFacade>) {
    let cli = RealCli::start(script).await;
    let facade = Arc::new(cli.facade().await);
    facade.client().create_session(request).await.unwrap();
    (cli, facade)
}

/// Sends, on a task of its own.
fn send(
    facade: &Arc<TestFacade>,
    request: SendAndWaitRequest,
) -> tokio::task::JoinHandle<Result<TurnResult, Status>> {
    let facade = facade.clone();
    tokio::spawn(async move { facade.send_and_wait(request).await })
}

async fn state(facade: &TestFacade, id: &str) -> SessionState {
    facade.get(id).await.unwrap().state()
}

fn settlement(status: &Status) -> String {
    check(status, Code::FailedPrecondition, ErrorReason::AskSettled);
    status.get_details_error_info().unwrap().metadata["settlement"].clone()
}

/// Reads a turn's stream up to an ask, and returns its id.
async fn ask_of(stream: &mut Streaming<SendAndStreamResponse>) -> String {
    loop {
        let message = soon("a message", stream.message()).await.unwrap().unwrap();
        let send_and_stream_response::Payload::Event(event) = message.payload.unwrap() else {
            panic!("the turn ended without an ask")
        };
        if let Some(id) = ask_id(&event.payload.unwrap()) {
            return id;
        }
    }
}

async fn end_of(stream: Streaming<SendAndStreamResponse>) -> Result<TurnResult, Status> {
    soon("the end", crate::support::facade::Streamed::read(stream)).await.end
}

fn text(text: &str) -> Answer {
    Answer::ToolResult(ToolResult { content: Some(Content::Text(text.into())), ..Default::default() })
}

#[tokio::test]
async fn a_permission_is_given_from_a_second_client_while_the_first_one_waits() {
    let (_cli, facade) = started(asking("s")).await;
    let mut second = facade.watch(watching("s")).await.unwrap();
    let first = send(&facade, wait("s", "run"));
    let asked = second
        .find(|event| match event {
            Payload::PermissionAsked(asked) => Some(asked.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (asked.kind.as_str(), asked.subject.as_str(), asked.awaits_answer),
        ("shell", "echo from-the-tool", true)
    );
    assert_eq!(state(&facade, "s").await, SessionState::Waiting);
    facade.respond("s", &asked.ask_id, decide(PermissionDecision::Allow)).await.unwrap();
    let answer = soon("the turn", first).await.unwrap().unwrap();
    assert!(answer.content.contains("from-the-tool"), "{}", answer.content);
    // A late answer hears who was faster, and one to nothing that there is nothing.
    let late = facade.respond("s", &asked.ask_id, decide(PermissionDecision::Deny)).await.unwrap_err();
    assert_eq!(settlement(&late), "answered");
    let unknown = facade.respond("s", "no-such", decide(PermissionDecision::Deny)).await.unwrap_err();
    check(&unknown, Code::NotFound, ErrorReason::AskNotFound);
}

#[tokio::test]
async fn a_refusal_reaches_the_model_with_its_reason_and_the_turn_goes_on() {
    let (_cli, facade) = started(asking("s")).await;
    let mut stream = facade.stream("s", "run").await.unwrap();
    let id = ask_of(&mut stream).await;
    let mut refusal = decide(PermissionDecision::Deny);
    if let Answer::Permission(answer) = &mut refusal {
        answer.feedback = "not on a Monday".into();
    }
    facade.respond("s", &id, refusal).await.unwrap();
    let answer = end_of(stream).await.unwrap();
    assert!(answer.content.contains("not on a Monday"), "{}", answer.content);
    assert_eq!(answer.tool_calls[0].success, Some(false));
}

#[tokio::test]
async fn a_permission_that_nobody_gives_is_refused_when_its_time_is_over() {
    let timeout = Duration::from_millis(500).try_into().unwrap();
    let (_cli, facade) = started(CreateSessionRequest { ask_timeout: Some(timeout), ..asking("s") }).await;
    let mut stream = facade.stream("s", "run").await.unwrap();
    let id = ask_of(&mut stream).await;
    let answer = end_of(stream).await.unwrap();
    assert!(answer.content.contains("nobody answered"), "{}", answer.content);
    let late = facade.respond("s", &id, decide(PermissionDecision::Allow)).await.unwrap_err();
    assert_eq!(settlement(&late), "timed_out");
}

#[tokio::test]
async fn what_is_allowed_for_the_session_is_not_asked_for_again() {
    let (_cli, facade) = started(asking("s")).await;
    let mut stream = facade.stream("s", "run").await.unwrap();
    let id = ask_of(&mut stream).await;
    facade.respond("s", &id, decide(PermissionDecision::AllowForSession)).await.unwrap();
    end_of(stream).await.unwrap();
    let answer = soon("a turn", facade.send("s", "run")).await.unwrap();
    assert!(answer.content.contains("from-the-tool"), "{}", answer.content);
}

#[tokio::test]
async fn rules_decide_by_kind_and_pattern_what_is_asked_for() {
    let rule = |pattern: &str, effect: PermissionEffect| PermissionRule {
        kind: "shell".into(),
        pattern: pattern.into(),
        effect: effect.into(),
    };
    let policy = |rules| Some(PermissionPolicy { rules });
    let check = async |policy, expected: &str| {
        let (_cli, facade) = started(CreateSessionRequest { permission_policy: policy, ..asking("s") }).await;
        let answer = soon("a turn", facade.send("s", "run")).await.unwrap();
        assert!(answer.content.contains(expected), "{}", answer.content);
    };
    let ask = rule("", PermissionEffect::Ask);
    check(policy(vec![rule("echo *", PermissionEffect::Allow), ask.clone()]), "It said: from-the-tool").await;
    check(policy(vec![rule("echo *", PermissionEffect::Deny), ask]), "policy does not allow").await;
    check(policy(vec![rule("ls *", PermissionEffect::Allow)]), "policy does not allow").await;
}

#[tokio::test]
async fn a_tool_of_the_callers_is_run_by_who_streams_and_answered_by_respond() {
    let (cli, facade) = started(asking("s")).await;
    let mut stream = facade.stream("s", "weather").await.unwrap();
    let id = ask_of(&mut stream).await;
    facade.respond("s", &id, text("sunny")).await.unwrap();
    let answer = end_of(stream).await.unwrap();
    assert_eq!(answer.content, "It said: sunny");
    assert_eq!(answer.tool_calls[0].success, Some(true));
    assert!(cli.model.calls()[0].request.tools.contains(&"weather".to_owned()));
}

#[tokio::test]
async fn a_tools_result_may_be_json_an_error_or_an_image() {
    let (cli, facade) = started(asking("s")).await;
    let run = async |result: ToolResult| {
        let mut stream = facade.stream("s", "weather").await.unwrap();
        let id = ask_of(&mut stream).await;
        facade.respond("s", &id, Answer::ToolResult(result)).await.unwrap();
        end_of(stream).await.unwrap()
    };
    let json = Content::ResultJson("21".into());
    let answer = run(ToolResult { content: Some(json), ..Default::default() }).await;
    assert_eq!(answer.content, "It said: 21");
    let error = Content::Error("no signal".into());
    let answer = run(ToolResult { content: Some(error), ..Default::default() }).await;
    assert_eq!((answer.content.as_str(), answer.tool_calls[0].success), ("It said: no signal", Some(false)));
    let data = STANDARD.decode(PIXEL).unwrap();
    let image = ToolImage { data, mime_type: "image/png".into(), description: "a sky".into() };
    let content = Some(Content::Text("see".into()));
    run(ToolResult { content, images: vec![image] }).await;
    let body = cli.model.calls().last().unwrap().request.body.to_string();
    assert!(body.contains(&format!("data:image/png;base64,{PIXEL}")), "{body}");
}

/// An image of one pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

#[tokio::test]
async fn a_tool_whose_caller_has_gone_fails_and_the_turn_goes_on() {
    let (cli, facade) = started(asking("s")).await;
    let request =
        stream_with("s", Prompt { on_disconnect: OnDisconnect::Continue.into(), ..prompt("weather") });
    let mut stream = facade.send_and_stream(request).await.unwrap();
    ask_of(&mut stream).await;
    drop(stream);
    facade.at_rest().await;
    let body = cli.model.calls().last().unwrap().request.body.to_string();
    assert!(body.contains("its caller has gone"), "{body}");
}

#[tokio::test]
async fn a_question_of_the_agents_is_answered_or_skipped() {
    let (_cli, facade) = started(asking("s")).await;
    let check = async |input: UserInput, expected: &str| {
        let mut stream = facade.stream("s", "ask").await.unwrap();
        let id = ask_of(&mut stream).await;
        facade.respond("s", &id, Answer::UserInput(input)).await.unwrap();
        let answer = end_of(stream).await.unwrap();
        assert!(answer.content.contains(expected), "{}", answer.content);
    };
    check(UserInput { answer: "b".into(), skipped: false }, "User selected: b").await;
    check(UserInput { answer: "neither".into(), skipped: false }, "User responded: neither").await;
    check(UserInput { answer: String::new(), skipped: true }, "skipped").await;
}

#[tokio::test]
async fn a_plan_is_approved_or_sent_back() {
    let (_cli, facade) = started(asking("s")).await;
    let check = async |plan: ExitPlan, expected: &str| {
        let request = stream_with("s", Prompt { agent_mode: AgentMode::Plan.into(), ..prompt("plan") });
        let mut stream = facade.send_and_stream(request).await.unwrap();
        let id = ask_of(&mut stream).await;
        facade.respond("s", &id, Answer::ExitPlan(plan)).await.unwrap();
        let answer = end_of(stream).await.unwrap();
        assert!(answer.content.contains(expected), "{}", answer.content);
    };
    let feedback = "more tests".into();
    check(ExitPlan { approved: false, feedback, ..Default::default() }, "more tests").await;
    check(ExitPlan { approved: true, ..Default::default() }, "Plan approved").await;
}

/// An MCP server with a tool `form` that asks for a form to be filled in, and `think` that asks for the model.
fn write_asking_server(folder: &TempDir) -> McpServer {
    let path = folder.path().join("server.js");
    let program = r#"
        const send = message => console.log(JSON.stringify({ jsonrpc: '2.0', ...message }));
        const tool = name => ({ name, description: name, inputSchema: { type: 'object', properties: {} } });
        const requestedSchema = { type: 'object', properties: { age: { type: 'integer' } }, required: ['age'] };
        const messages = [{ role: 'user', content: { type: 'text', text: 'think' } }];
        const questions = {
            form: { method: 'elicitation/create', params: { message: 'How old?', requestedSchema } },
            think: { method: 'sampling/createMessage', params: { messages, maxTokens: 9 } },
        };
        const answers = {
            initialize: params => ({
                protocolVersion: params.protocolVersion,
                capabilities: { tools: {} },
                serverInfo: { name: 'test', version: '1' },
            }),
            'tools/list': () => ({ tools: [tool('form'), tool('think')] }),
        };
        const asked = new Map();
        require('readline').createInterface({ input: process.stdin }).on('line', line => {
            const { id, method, params, result } = JSON.parse(line);
            if (asked.has(id)) {
                const text = JSON.stringify(result);
                send({ id: asked.get(id), result: { content: [{ type: 'text', text }] } });
            } else if (method === 'tools/call') {
                asked.set(`q${id}`, id);
                send({ id: `q${id}`, ...questions[params.name] });
            } else if (id !== undefined) {
                send({ id, result: (answers[method] ?? (() => ({})))(params) });
            }
        });
    "#;
    std::fs::write(&path, program).unwrap();
    let (command, args) = ("node".into(), vec![path.to_str().unwrap().into()]);
    let stdio = mcp_server::Stdio { command, args, ..Default::default() };
    McpServer { transport: Some(mcp_server::Transport::Stdio(stdio)), ..Default::default() }
}

#[tokio::test]
async fn a_question_of_an_mcp_servers_is_answered_by_its_form_and_the_model_is_not_lent() {
    let folder = tempfile::tempdir().unwrap();
    let allow =
        PermissionRule { kind: "mcp".into(), effect: PermissionEffect::Allow.into(), ..Default::default() };
    let request = CreateSessionRequest {
        mcp_servers: [("ages".to_owned(), write_asking_server(&folder))].into(),
        elicitation: true,
        permission_policy: Some(PermissionPolicy { rules: vec![allow] }),
        ..asking("s")
    };
    let (_cli, facade) = started(request).await;
    let mut stream = facade.stream("s", "form").await.unwrap();
    let id = ask_of(&mut stream).await;
    let form = |content: Value| {
        let action = ElicitationAction::Accept.into();
        Answer::Elicitation(Elicitation { action, content_json: content.to_string() })
    };
    let wrong = facade.respond("s", &id, form(json!({"age": "old"}))).await.unwrap_err();
    check(&wrong, Code::InvalidArgument, ErrorReason::InvalidField);
    facade.respond("s", &id, form(json!({"age": 42}))).await.unwrap();
    let answer = end_of(stream).await.unwrap();
    assert!(answer.content.contains(r#"{"action":"accept","content":{"age":42}}"#), "{}", answer.content);
    let mut stream = facade.stream("s", "form").await.unwrap();
    let id = ask_of(&mut stream).await;
    let declined = Elicitation { action: ElicitationAction::Decline.into(), ..Default::default() };
    facade.respond("s", &id, Answer::Elicitation(declined)).await.unwrap();
    assert!(end_of(stream).await.unwrap().content.contains("decline"));
    // Nobody is asked whether an MCP server may use the model: it may not.
    let answer = soon("a turn", facade.send("s", "think")).await.unwrap();
    assert!(answer.content.contains("cancelled"), "{}", answer.content);
}

#[tokio::test]
async fn a_new_stream_first_hears_of_the_asks_that_are_open() {
    let (_cli, facade) = started(asking("s")).await;
    let mut first = facade.watch(watching("s")).await.unwrap();
    let turn = send(&facade, wait("s", "run"));
    let id = first.ask().await;
    // Another watcher, one that reads all from the beginning, and a turn that waits for its time.
    let mut late = facade.watch(watching("s")).await.unwrap();
    assert_eq!(ask_id(&late.event().await.unwrap().payload.unwrap()), Some(id.clone()));
    let all = WatchSessionRequest { from_beginning: true, ..watching("s") };
    let mut reader = facade.watch(all).await.unwrap();
    assert_eq!(ask_id(&reader.event().await.unwrap().payload.unwrap()), Some(id.clone()));
    let mut queued = facade.stream("s", "later").await.unwrap();
    assert_eq!(ask_of(&mut queued).await, id);
    facade.respond("s", &id, decide(PermissionDecision::Allow)).await.unwrap();
    soon("the turn", turn).await.unwrap().unwrap();
    assert_eq!(end_of(queued).await.unwrap().content, "You said: later");
    // Once only, although it is in the history too.
    let asked_again = reader
        .find(|event| match event {
            Payload::PermissionAsked(_) => Some(true),
            Payload::AssistantMessage(message) if message.content.contains("later") => Some(false),
            _ => None,
        })
        .await;
    assert!(!asked_again);
}

#[tokio::test]
async fn an_ask_ends_with_its_turn_which_says_what_was_open() {
    let (_cli, facade) = started(asking("s")).await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    // Long enough for the question to be asked, also on a busy machine.
    let timeout = Some(Duration::from_secs(8).try_into().unwrap());
    let turn = send(&facade, wait_with("s", Prompt { timeout, ..prompt("ask") }));
    let id = watcher.ask().await;
    let failed = soon("the turn", turn).await.unwrap().unwrap_err();
    check(&failed, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    assert_eq!(failure_of(&failed).open_asks, [id.as_str()]);
    let input = UserInput { answer: "a".into(), skipped: false };
    let late = facade.respond("s", &id, Answer::UserInput(input)).await.unwrap_err();
    assert_eq!(settlement(&late), "withdrawn");
    assert_eq!(soon("a turn", facade.send("s", "hello")).await.unwrap().content, "You said: hello");
}

#[tokio::test]
async fn waiting_for_an_answer_is_no_inactivity() {
    let (_cli, facade) = started(asking("s")).await;
    let mut watcher = facade.watch(watching("s")).await.unwrap();
    let inactivity_timeout = Some(Duration::from_secs(4).try_into().unwrap());
    let turn = send(&facade, wait_with("s", Prompt { inactivity_timeout, ..prompt("ask") }));
    let id = watcher.ask().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let input = UserInput { answer: "a".into(), skipped: false };
    facade.respond("s", &id, Answer::UserInput(input)).await.unwrap();
    soon("the turn", turn).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_has_to_be_of_the_asks_kind() {
    let (_cli, facade) = started(asking("s")).await;
    let mut stream = facade.stream("s", "run").await.unwrap();
    let id = ask_of(&mut stream).await;
    let wrong = facade.respond("s", &id, text("sunny")).await.unwrap_err();
    check(&wrong, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&wrong), ["answer"]);
    facade.respond("s", &id, decide(PermissionDecision::Allow)).await.unwrap();
    end_of(stream).await.unwrap();
}

#[tokio::test]
async fn two_servers_in_front_of_one_cli_answer_as_one() {
    let cli = RealCli::start(script).await;
    let (first, second) = (cli.setup().beside().start().await, cli.setup().beside().start().await);
    first.client().create_session(asking("s")).await.unwrap();
    soon("a turn", first.send("s", "hello")).await.unwrap();
    let mut stream = second.stream("s", "weather").await.unwrap();
    let id = ask_of(&mut stream).await;
    first.respond("s", &id, text("sunny")).await.unwrap();
    let settled = second.respond("s", &id, text("rain")).await.unwrap_err();
    assert_eq!(settlement(&settled), "answered");
    assert_eq!(end_of(stream).await.unwrap().content, "It said: sunny");
}

#[tokio::test]
async fn open_asks_survive_the_loss_of_the_connection_to_the_cli() {
    let cli = RealCli::start(script).await;
    let proxy = Proxy::start(cli.port()).await;
    let mut setup = cli.setup();
    setup.cli_url = format!("127.0.0.1:{}", proxy.port);
    let facade = Arc::new(setup.start().await);
    facade.client().create_session(asking("s")).await.unwrap();
    for (prompt, answer, expected, call) in [
        ("run", decide(PermissionDecision::Allow), "from-the-tool", "bash"),
        ("weather", text("sunny"), "It said: sunny", "weather"),
    ] {
        let mut watcher = facade.watch(watching("s")).await.unwrap();
        let turn = send(&facade, wait("s", prompt));
        let id = watcher.ask().await;
        // From there the CLI takes it up again.
        let is_stored = || {
            let history = cli.history("s");
            history.lines().any(|event| {
                event.contains(r#""type":"tool.execution_start""#) && event.contains(&format!(r#""{call}""#))
            })
        };
        until("the call is on the CLI's disk", is_stored).await;
        proxy.cut();
        facade.respond("s", &id, answer).await.unwrap();
        let answer = soon("the turn", turn).await.unwrap().unwrap();
        assert!(answer.content.contains(expected), "{}", answer.content);
        let said = |event: &Payload| match event {
            Payload::AssistantMessage(message) => message.content.contains(expected).then_some(()),
            _ => None,
        };
        watcher.find(said).await;
    }
}
