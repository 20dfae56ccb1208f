//! One stream is enough for a whole conversation: prompts, answers and aborts go up, events and results come down.
//!
//! On the real CLI, and on a FakeCli for messages that cannot be read.

use std::time::Duration;

use bytes::BufMut as _;
use copilot_grpc::grpc::pb::{
    AskAnswer, ConverseAbort, ConverseAnswer, ConverseOpen, ConversePrompt, ConverseRequest,
    CreateSessionRequest, ErrorReason, OnDisconnect, Prompt, SendMode, Tool, ToolResult, TurnResult,
    ask_answer::Answer, converse_request::Payload as Up, converse_response::Payload as Down, session_event,
    tool_result::Content,
};
use prost::Message as _;
use scripted_model::{CallState, Reply, Request};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::ProstCodec;
use tonic_types::pb as rpc;

use crate::support::{
    check,
    facade::{TestFacade, ask_id, prompt},
    fake_cli::FakeCli,
    fields_of,
    real_cli::RealCli,
    soon,
};

fn script(request: &Request) -> Reply {
    match (request.prompt(), request.tool_result()) {
        (_, Some(result)) => Reply::text(format!("It said: {result}")),
        ("weather", None) => Reply::tool_call("weather", json!({})),
        ("slow", None) => Reply::text("a long answer ".repeat(50)).every(Duration::from_millis(100)),
        ("hang", None) => Reply::hang(),
        (prompt, None) => Reply::text(format!("You said: {prompt}")),
    }
}

/// Messages that are bytes.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = copilot_grpc::grpc::pb::ConverseResponse;
    type Encoder = Self;
    type Decoder = <ProstCodec<Self::Decode, Self::Decode> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Self::Decode, Self::Decode>::default().decoder()
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(&*item);
        Ok(())
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_or_is_too_large_ends_the_stream_with_its_reason() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().flag("--max-message-size=64KiB").start().await;
    facade.create("s").await;
    let open = Up::Open(ConverseOpen { session_id: "s".into(), ..Default::default() });
    let open = ConverseRequest { payload: Some(open) }.encode_to_vec();
    for (bytes, code, reason) in [
        (vec![0xff; 3], Code::InvalidArgument, ErrorReason::MalformedRequest),
        (vec![0; 64 * 1024 + 1], Code::ResourceExhausted, ErrorReason::MessageTooLarge),
    ] {
        for before in [vec![], vec![open.clone()]] {
            let mut client = tonic::client::Grpc::new(facade.channel());
            client.ready().await.unwrap();
            let messages = before.into_iter().chain([bytes.clone()]);
            let request = tonic::Request::new(tokio_stream::iter(messages));
            let path = PathAndQuery::from_static("/copilot_grpc.v1.CopilotService/Converse");
            let mut down = client.streaming(request, path, Raw).await.unwrap().into_inner();
            let end = async {
                loop {
                    if let Err(status) = down.message().await.map(|message| message.expect("an error")) {
                        return status;
                    }
                }
            };
            check(&soon("the end of the stream", end).await, code, reason);
        }
    }
}

/// A client's end of a Converse stream.
struct Conversation {
    up: Option<mpsc::Sender<ConverseRequest>>,
    down: Streaming<copilot_grpc::grpc::pb::ConverseResponse>,
}

impl Conversation {
    /// Opens a stream whose first message is not sent yet.
    async fn start(facade: &TestFacade) -> Self {
        let (up, requests) = mpsc::channel(16);
        let call = facade.connect().await.converse(ReceiverStream::new(requests)).await;
        Self { up: Some(up), down: call.unwrap().into_inner() }
    }

    async fn open(facade: &TestFacade, session: &str) -> Self {
        let mut conversation = Self::start(facade).await;
        conversation.say(Up::Open(ConverseOpen { session_id: session.into(), ..Default::default() })).await;
        match conversation.next().await.unwrap() {
            Some(Down::Opened(opened)) => assert_eq!(opened.session.unwrap().session_id, session),
            other => panic!("{other:?}"),
        }
        conversation
    }

    async fn say(&self, payload: Up) {
        let request = ConverseRequest { payload: Some(payload) };
        self.up.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn prompt(&self, id: &str, prompt: &str) {
        self.say(Up::Prompt(named(id, prompt))).await;
    }

    /// Says that nothing more comes.
    fn half_close(&mut self) {
        self.up.take();
    }

    async fn next(&mut self) -> Result<Option<Down>, Status> {
        Ok(soon("a response", self.down.message()).await?.map(|response| response.payload.unwrap()))
    }

    /// The next result or failure, and the events before it.
    async fn end(&mut self) -> (Vec<session_event::Payload>, Result<(String, TurnResult), (String, Status)>) {
        let mut events = Vec::new();
        loop {
            match self.next().await.unwrap().expect("the stream goes on") {
                Down::Event(event) => events.push(event.payload.unwrap()),
                Down::Result(result) => return (events, Ok((result.prompt_id, result.result.unwrap()))),
                Down::Failure(failure) => {
                    let reason = failure.reason();
                    let details = rpc::Status {
                        code: failure.code,
                        message: failure.message.clone(),
                        details: failure.details,
                    };
                    let details = prost::Message::encode_to_vec(&details).into();
                    let status = Status::with_details(failure.code.into(), failure.message, details);
                    check(&status, status.code(), reason);
                    return (events, Err((failure.prompt_id + &failure.ask_id, status)));
                }
                Down::Opened(_) => panic!("opened twice"),
                Down::Heartbeat(_) => {}
            }
        }
    }

    async fn result(&mut self) -> (String, String) {
        let (prompt_id, result) = self.end().await.1.unwrap();
        (prompt_id, result.content)
    }
}

fn named(id: &str, text: &str) -> ConversePrompt {
    named_with(id, prompt(text))
}

fn named_with(id: &str, prompt: Prompt) -> ConversePrompt {
    ConversePrompt { prompt_id: id.into(), prompt: Some(prompt) }
}

fn said(prompt_id: &str, content: &str) -> (String, String) {
    (prompt_id.into(), content.into())
}

async fn started() -> (RealCli, TestFacade) {
    let cli = RealCli::start(script).await;
    let facade = cli.facade().await;
    let tool =
        Tool { name: "weather".into(), description: "Tells the weather.".into(), ..Default::default() };
    let request = CreateSessionRequest { session_id: "s".into(), tools: vec![tool], ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    (cli, facade)
}

#[tokio::test]
async fn several_turns_run_on_one_stream_in_order_each_with_its_events_before_its_result() {
    let (_cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    for n in 0..3 {
        conversation.prompt(&n.to_string(), &format!("number {n}")).await;
    }
    for n in 0..3 {
        let (events, end) = conversation.end().await;
        let expected = format!("You said: number {n}");
        let text: String = events
            .iter()
            .filter_map(|event| match event {
                session_event::Payload::AssistantMessageDelta(delta) => Some(delta.text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(text, expected);
        let (prompt_id, result) = end.unwrap();
        assert_eq!((prompt_id, result.content), (n.to_string(), expected));
    }
    // Also what another client has said.
    facade.send("s", "from elsewhere").await.unwrap();
    conversation.prompt("last", "the last").await;
    let (events, _) = conversation.end().await;
    let prompts = events.iter().filter_map(|event| match event {
        session_event::Payload::UserMessage(message) => Some(message.content.as_str()),
        _ => None,
    });
    assert_eq!(prompts.collect::<Vec<_>>(), ["from elsewhere", "the last"]);
    conversation.half_close();
    while conversation.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_tool_of_the_callers_is_run_and_answered_on_the_stream() {
    let (_cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    conversation.prompt("w", "weather").await;
    let id = loop {
        if let Some(Down::Event(event)) = conversation.next().await.unwrap()
            && let Some(id) = ask_id(&event.payload.unwrap())
        {
            break id;
        }
    };
    let result = ToolResult { content: Some(Content::Text("sunny".into())), ..Default::default() };
    let answer = Some(AskAnswer { answer: Some(Answer::ToolResult(result)) });
    let answer = ConverseAnswer { ask_id: id.clone(), answer };
    conversation.say(Up::Answer(answer.clone())).await;
    assert_eq!(conversation.result().await, said("w", "It said: sunny"));
    // A second answer is too late, and does not end the stream.
    conversation.say(Up::Answer(answer)).await;
    let (ask, late) = conversation.end().await.1.unwrap_err();
    assert_eq!(ask, id);
    check(&late, Code::FailedPrecondition, ErrorReason::AskSettled);
    conversation.prompt("h", "hello").await;
    assert_eq!(conversation.result().await, said("h", "You said: hello"));
}

#[tokio::test]
async fn headers_come_before_anything_is_said_and_what_is_out_of_place_ends_the_stream() {
    let (_cli, facade) = started().await;
    let open = |id: &str| Up::Open(ConverseOpen { session_id: id.into(), ..Default::default() });
    let opening = |open: ConverseOpen| Up::Open(ConverseOpen { session_id: "s".into(), ..open });
    let event_types = vec![String::new()];
    let heartbeat_interval = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    for (first, field) in [
        (Up::Prompt(named("", "hello")), "open"),
        (open("no such id!"), "open.session_id"),
        (opening(ConverseOpen { event_types, ..Default::default() }), "open.event_types[0]"),
        (opening(ConverseOpen { heartbeat_interval, ..Default::default() }), "open.heartbeat_interval"),
        (opening(ConverseOpen { max_event_size: 1, ..Default::default() }), "open.max_event_size"),
    ] {
        let mut conversation = soon("headers", Conversation::start(&facade)).await;
        conversation.say(first).await;
        let status = conversation.next().await.unwrap_err();
        check(&status, Code::InvalidArgument, ErrorReason::InvalidField);
        assert_eq!(fields_of(&status), [field]);
    }
    let mut conversation = Conversation::start(&facade).await;
    conversation.say(open("unknown")).await;
    check(&conversation.next().await.unwrap_err(), Code::NotFound, ErrorReason::SessionNotFound);
    let mut conversation = Conversation::open(&facade, "s").await;
    conversation.say(open("s")).await;
    assert_eq!(fields_of(&conversation.next().await.unwrap_err()), ["open"]);
}

#[tokio::test]
async fn a_prompt_that_is_wrong_fails_and_the_stream_goes_on() {
    let (_cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    conversation.prompt("wrong", " ").await;
    let (prompt_id, status) = conversation.end().await.1.unwrap_err();
    assert_eq!((prompt_id.as_str(), fields_of(&status)), ("wrong", vec!["prompt.text".to_owned()]));
    conversation.prompt("right", "hello").await;
    assert_eq!(conversation.result().await, said("right", "You said: hello"));
}

#[tokio::test]
async fn a_half_closed_stream_lets_its_turns_finish_and_then_ends() {
    let (_cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    conversation.prompt("1", "one").await;
    conversation.prompt("2", "two").await;
    conversation.half_close();
    assert_eq!(conversation.result().await, said("1", "You said: one"));
    assert_eq!(conversation.result().await, said("2", "You said: two"));
    assert!(conversation.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_turn_is_aborted_on_the_stream_or_steered() {
    let (_cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    let begun = async |conversation: &mut Conversation| loop {
        if let Some(Down::Event(event)) = conversation.next().await.unwrap()
            && let session_event::Payload::AssistantMessageDelta(_) = event.payload.unwrap()
        {
            break;
        }
    };
    conversation.prompt("slow", "slow").await;
    begun(&mut conversation).await;
    conversation.say(Up::Abort(ConverseAbort::default())).await;
    let (prompt_id, aborted) = conversation.end().await.1.unwrap_err();
    assert_eq!(prompt_id, "slow");
    check(&aborted, Code::Aborted, ErrorReason::TurnAborted);
    conversation.prompt("slow", "slow").await;
    begun(&mut conversation).await;
    let steering = Prompt { mode: SendMode::Immediate.into(), ..prompt("be brief") };
    conversation.say(Up::Prompt(named_with("steer", steering))).await;
    // Both get the outcome of the one turn.
    let mut results = [conversation.result().await, conversation.result().await];
    results.sort();
    assert_eq!(results, [said("slow", "You said: be brief"), said("steer", "You said: be brief")]);
}

#[tokio::test]
async fn a_broken_stream_stops_its_turns_unless_they_are_to_go_on() {
    let (cli, facade) = started().await;
    let conversation = Conversation::open(&facade, "s").await;
    conversation.prompt("hang", "hang").await;
    cli.model.wait_for(|calls| calls.len() == 1).await;
    drop(conversation);
    soon("the model's call is dropped", cli.model.wait_for(|calls| calls[0].state == CallState::Dropped))
        .await;
    facade.at_rest().await;
    let conversation = Conversation::open(&facade, "s").await;
    let detached = Prompt { on_disconnect: OnDisconnect::Continue.into(), ..prompt("go on") };
    conversation.say(Up::Prompt(named_with("on", detached))).await;
    cli.model.wait_for(|calls| calls.len() == 2).await;
    drop(conversation);
    facade.at_rest().await;
    assert_eq!(cli.model.calls()[1].state, CallState::Completed);
}

#[tokio::test]
async fn a_server_that_drains_finishes_the_streams_turns_and_then_ends_it() {
    let (cli, facade) = started().await;
    let mut conversation = Conversation::open(&facade, "s").await;
    let mut idle = Conversation::open(&facade, "s").await;
    conversation.prompt("1", "one").await;
    cli.model.wait_for(|calls| calls.len() == 1).await;
    let stopping = facade.facade.stop(Duration::from_secs(10));
    let talking = async {
        assert_eq!(conversation.result().await, said("1", "You said: one"));
        let ended = loop {
            if let Err(status) = conversation.next().await {
                break status;
            }
        };
        check(&ended, Code::Unavailable, ErrorReason::Draining);
        while idle.next().await.is_ok() {}
    };
    tokio::join!(stopping, talking);
}
