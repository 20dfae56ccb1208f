//! The server over a real socket, through a client that knows just enough HTTP to see the bytes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{CallState, ModelServer, Reply, demo};

/// Sends a request and leaves the connection open.
async fn send(server: &ModelServer, method: &str, path: &str, body: &str) -> TcpStream {
    let base = server.base_url();
    let address = base.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/v1")).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} /v1{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

async fn ask(server: &ModelServer, prompt: &str, extra: Value) -> TcpStream {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": true});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    send(server, "POST", "/chat/completions", &body.to_string()).await
}

/// Everything until the server closes.
async fn read(mut stream: TcpStream) -> String {
    let mut response = String::new();
    timeout(Duration::from_secs(30), stream.read_to_string(&mut response)).await.unwrap().unwrap();
    response
}

/// Until the response holds `text`.
async fn read_to(stream: &mut TcpStream, text: &str) {
    let mut response = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&response).contains(text) {
            assert_ne!(stream.read_buf(&mut response).await.unwrap(), 0, "no {text} in {response:?}");
        }
    };
    timeout(Duration::from_secs(30), reading).await.unwrap();
}

fn events(response: &str) -> Vec<&str> {
    response.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// The chunks, after a look at how the stream ends: the reason, the usage, the end.
fn chunks(response: &str, finish_reason: &str) -> Vec<Value> {
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("content-type: text/event-stream\r\n"), "{response}");
    let mut events = events(response);
    assert_eq!(events.pop(), Some("[DONE]"));
    let mut chunks: Vec<Value> =
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let usage = chunks.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], {
        let usage = &usage["usage"];
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    });
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(chunks.pop().unwrap()["choices"][0]["finish_reason"], finish_reason);
    assert_eq!(chunks.remove(0)["choices"][0]["delta"], json!({"role": "assistant"}));
    assert_eq!(usage["usage"]["completion_tokens"], chunks.len());
    chunks
}

fn contents(response: &str) -> Vec<String> {
    let chunks = chunks(response, "stop");
    chunks.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap().to_owned()).collect()
}

fn body(response: &str) -> Value {
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn wait_for_state(server: &ModelServer, state: CallState) {
    let settled = server.wait_for(|calls| calls.iter().any(|call| call.state == state));
    timeout(Duration::from_secs(30), settled).await.unwrap();
}

#[tokio::test]
async fn a_text_may_end_in_a_call_or_be_cut() {
    let server = ModelServer::start(|request| match request.prompt() {
        "both" => Reply::text("look").calling("bash", json!({"command": "ls"})),
        "think" => Reply::reasoning("hm"),
        _ => Reply::text("half").finish("length"),
    })
    .await
    .unwrap();
    let said = async |prompt, finish| {
        let chunks = chunks(&read(ask(&server, prompt, json!({})).await).await, finish);
        chunks.into_iter().map(|mut chunk| chunk["choices"][0]["delta"].take()).collect::<Vec<_>>()
    };
    let both = said("both", "tool_calls").await;
    assert_eq!(both.len(), 2);
    assert_eq!(both[0]["content"], "look");
    assert_eq!(both[1]["tool_calls"][0]["function"]["name"], "bash");
    assert_eq!(said("think", "stop").await, [json!({"reasoning_content": "hm"})]);
    assert_eq!(said("cut", "length").await, [json!({"content": "half"})]);
}

#[tokio::test]
async fn a_text_is_told_in_anthropics_words_too() {
    let server = ModelServer::start(|_| Reply::text("half of").finish("length")).await.unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": true});
    let response = read(send(&server, "POST", "/messages", &body.to_string()).await).await;
    let events: Vec<Value> =
        events(&response).into_iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "half of");
    let end = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(end["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

#[tokio::test]
async fn a_text_is_streamed_word_by_word() {
    let server = ModelServer::start(|_| Reply::text("one  two\nthree")).await.unwrap();
    let response = read(ask(&server, "say it", json!({})).await).await;
    assert_eq!(contents(&response), ["one ", " ", "two\n", "three"]);
    assert!(events(&response).iter().any(|event| event.contains("\"prompt_tokens\":2")));
    assert_eq!(server.calls()[0].state, CallState::Completed);
    assert_eq!(server.calls()[0].request.prompt(), "say it");
}

#[tokio::test]
async fn chunks_are_streamed_as_they_are() {
    let server = ModelServer::start(|_| Reply::chunks(["a b", "", "c\n\ndata: d"])).await.unwrap();
    let response = read(ask(&server, "", json!({})).await).await;
    assert_eq!(contents(&response), ["a b", "", "c\n\ndata: d"]);
}

#[tokio::test]
async fn an_empty_text_is_a_whole_answer() {
    let server = ModelServer::start(|_| Reply::text("")).await.unwrap();
    let response = read(ask(&server, "", json!({})).await).await;
    assert!(contents(&response).is_empty());
}

#[tokio::test]
async fn a_pause_comes_before_each_chunk() {
    let pause = Duration::from_millis(30);
    let server = ModelServer::start(move |_| Reply::text("a b c").every(pause)).await.unwrap();
    for stream in [true, false] {
        let start = tokio::time::Instant::now();
        read(ask(&server, "", json!({"stream": stream})).await).await;
        assert!(start.elapsed() >= 3 * pause, "streamed: {stream}");
    }
}

#[tokio::test]
async fn a_paced_answer_arrives_while_it_is_given() {
    let server = ModelServer::start(|_| Reply::text("now").every(Duration::from_secs(600))).await.unwrap();
    let mut stream = ask(&server, "", json!({})).await;
    read_to(&mut stream, "\"role\":\"assistant\"").await;
    assert_eq!(server.calls()[0].state, CallState::Running);
}

#[tokio::test]
async fn a_tool_call_has_an_id_of_its_own() {
    let server = ModelServer::start(|_| Reply::tool_call("bash", json!({"command": "ls"}))).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let response = read(ask(&server, "", json!({})).await).await;
        let chunks = chunks(&response, "tool_calls");
        assert_eq!(chunks.len(), 1);
        let call = &chunks[0]["choices"][0]["delta"]["tool_calls"][0];
        assert_eq!(call["function"], json!({"name": "bash", "arguments": "{\"command\":\"ls\"}"}));
        ids.push(call["id"].as_str().unwrap().to_owned());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_status_is_an_error_in_the_shape_of_openai() {
    let server = ModelServer::start(|_| Reply::status(429, "slow down")).await.unwrap();
    let response = read(ask(&server, "", json!({})).await).await;
    assert!(response.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{response}");
    let error = json!({"message": "slow down", "type": "invalid_request_error", "code": "too_many_requests"});
    assert_eq!(body(&response), json!({"error": error}));
    assert_eq!(server.calls()[0].state, CallState::Completed);
}

#[tokio::test]
async fn a_hanging_call_runs_until_the_client_leaves() {
    let server = ModelServer::start(|_| Reply::hang()).await.unwrap();
    let mut stream = ask(&server, "", json!({})).await;
    wait_for_state(&server, CallState::Running).await;
    let silence = timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(server.calls()[0].state, CallState::Running);
    drop(stream);
    wait_for_state(&server, CallState::Dropped).await;
}

#[tokio::test]
async fn a_closed_answer_has_a_head_and_no_end() {
    let server = ModelServer::start(|_| Reply::close()).await.unwrap();
    let response = read(ask(&server, "", json!({})).await).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(events(&response).len(), 1, "{response}");
    assert!(!response.ends_with("0\r\n\r\n"), "{response}");
    assert_eq!(server.calls()[0].state, CallState::Completed);
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_drops_the_call() {
    let server = ModelServer::start(|_| Reply::text("word ".repeat(10_000)).every(Duration::from_millis(5)))
        .await
        .unwrap();
    let mut stream = ask(&server, "", json!({})).await;
    read_to(&mut stream, "word").await;
    assert_eq!(server.calls()[0].state, CallState::Running);
    drop(stream);
    wait_for_state(&server, CallState::Dropped).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_a_pause_drops_the_call_at_once() {
    let server = ModelServer::start(|_| Reply::text("never").every(Duration::from_secs(600))).await.unwrap();
    for stream in [true, false] {
        let connection = ask(&server, "", json!({"stream": stream})).await;
        wait_for_state(&server, CallState::Running).await;
        drop(connection);
        let settled = server.wait_for(|calls| calls.iter().all(|call| call.state == CallState::Dropped));
        timeout(Duration::from_secs(30), settled).await.unwrap();
    }
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_request_that_does_not_stream_gets_a_whole_completion() {
    let server = ModelServer::start(|request| match request.prompt() {
        "tool" => Reply::tool_call("glob", json!({})),
        _ => Reply::text("one two"),
    })
    .await
    .unwrap();
    let completion = body(&read(ask(&server, "a b c", json!({"stream": false})).await).await);
    assert_eq!(completion["object"], "chat.completion");
    assert_eq!(completion["model"], "m");
    let message = json!({"role": "assistant", "content": "one two"});
    assert_eq!(completion["choices"], json!([{"index": 0, "message": message, "finish_reason": "stop"}]));
    assert_eq!(completion["usage"]["prompt_tokens"], 3);
    assert_eq!(completion["usage"]["completion_tokens"], 2);

    let completion = body(&read(ask(&server, "tool", json!({"stream": false})).await).await);
    assert_eq!(completion["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(completion["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "glob");
}

#[tokio::test]
async fn waiting_ends_with_the_calls_that_it_waited_for() {
    let server = ModelServer::start(|_| Reply::text("yes")).await.unwrap();
    let two = server.wait_for(|calls| {
        assert_eq!(calls.len(), server.calls().len(), "the condition may ask for the calls too");
        calls.len() == 2
    });
    let ask = async {
        read(ask(&server, "first", json!({})).await).await;
        read(ask(&server, "second", json!({})).await).await;
    };
    let (calls, ()) = timeout(Duration::from_secs(30), async { tokio::join!(two, ask) }).await.unwrap();
    let prompts: Vec<_> = calls.iter().map(|call| call.request.prompt()).collect();
    assert_eq!(prompts, ["first", "second"]);
}

#[tokio::test]
async fn models_are_listed_and_other_paths_are_not_found() {
    let server = ModelServer::start(|_| Reply::hang()).await.unwrap();
    let models = body(&read(send(&server, "GET", "/models", "").await).await);
    assert_eq!(models["object"], "list");
    assert!(models["data"][0]["id"].is_string());

    let response = read(send(&server, "POST", "/responses", "{}").await).await;
    assert!(response.starts_with("HTTP/1.1 404 Not Found\r\n"), "{response}");
    assert_eq!(body(&response)["error"]["code"], "not_found");
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn a_request_that_is_not_one_is_refused_and_is_not_a_call() {
    let server = ModelServer::start(|_| Reply::hang()).await.unwrap();
    let response = read(send(&server, "POST", "/chat/completions", "{}").await).await;
    assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
    assert!(body(&response)["error"]["message"].as_str().unwrap().contains("missing field"), "{response}");
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn a_prompt_of_twenty_megabytes_is_accepted() {
    let server = ModelServer::start(|request| Reply::text(request.prompt().len().to_string())).await.unwrap();
    let response = read(ask(&server, &"x".repeat(20_000_000), json!({})).await).await;
    assert_eq!(contents(&response), ["20000000"]);
}

#[tokio::test]
async fn dropping_the_server_closes_its_connections_and_its_port() {
    let server = ModelServer::start(|_| Reply::hang()).await.unwrap();
    let address = server.base_url()["http://".len()..].strip_suffix("/v1").unwrap().to_owned();
    let stream = ask(&server, "", json!({})).await;
    wait_for_state(&server, CallState::Running).await;
    drop(server);
    assert_eq!(read(stream).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_demo_echoes_and_says_what_else_to_try() {
    let server = ModelServer::start(demo).await.unwrap();
    let answer = contents(&read(ask(&server, "longing for a tool", json!({})).await).await).concat();
    assert!(answer.starts_with("You said: longing for a tool. "), "{answer}");
}

#[tokio::test]
async fn the_demo_gives_a_long_answer_without_a_repetition() {
    let server = ModelServer::start(|request| demo(request).every(Duration::ZERO)).await.unwrap();
    let words = contents(&read(ask(&server, "Long, please", json!({})).await).await);
    assert_eq!(words.len(), 400);
    let answer = words.concat();
    let sentences: std::collections::HashSet<_> = answer.lines().collect();
    assert_eq!(sentences.len(), 40);
}

#[tokio::test]
async fn the_demo_calls_a_tool_that_is_offered_and_quotes_its_result() {
    let offer = |names: &[&str]| {
        let tools: Vec<_> =
            names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
        json!({"stream": false, "tools": tools})
    };
    let server = ModelServer::start(|request| demo(request).every(Duration::ZERO)).await.unwrap();
    for (names, expected) in
        [(&["view", "glob", "bash"][..], "bash"), (&["view", "glob"], "glob"), (&["view"], "view")]
    {
        let completion = body(&read(ask(&server, "tool", offer(names)).await).await);
        assert_eq!(completion["choices"][0]["message"]["tool_calls"][0]["function"]["name"], expected);
    }
    let asked = body(&read(ask(&server, "run echo hello", offer(&["bash"])).await).await);
    let arguments =
        asked["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert!(arguments.contains(r#""command":"echo hello""#), "{arguments}");
    // Where the demo is tried, the agent may run what the model calls.
    for prompt in ["run rm -rf x", "run echo hello; whoami", "run echo $(whoami)"] {
        let refused = body(&read(ask(&server, prompt, offer(&["bash"])).await).await);
        let answer = refused["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(answer.contains("I echo"), "{answer}");
    }
    for (names, expected) in [(&[][..], "`available_tools`"), (&["web_fetch"], "web_fetch")] {
        let completion = body(&read(ask(&server, "tool", offer(names)).await).await);
        let answer = completion["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(answer.contains(expected), "{answer}");
    }
    let result = json!({"stream": false, "messages": [
        {"role": "user", "content": "tool"},
        {"role": "tool", "tool_call_id": "1", "content": "é".repeat(501)},
    ]});
    let completion = body(&read(ask(&server, "", result).await).await);
    let said = format!("The tool said: {}", "é".repeat(500));
    assert_eq!(completion["choices"][0]["message"]["content"], said);
}
