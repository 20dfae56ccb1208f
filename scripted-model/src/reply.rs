//! The reply of a script, and its form on the wire.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::future::pending;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::iter::once;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use crate::Request;
use crate::call::CallGuard;

/// The answer of the model to one request.
///
/// An answer that is streamed to its end finishes with a chunk that has a `finish_reason`, a chunk that has
/// the `usage`, and `[DONE]`. A request without `"stream": true` gets the same answer whole, after the same
/// time. The usage counts words, for want of a tokenizer: `prompt_tokens` is the number of words in [the
/// prompt](Request::prompt), `completion_tokens` the number of chunks of the answer; nothing is cached.
#[derive(Debug, Clone)]
pub struct Reply {
    answer: Answer,
    pause: Duration,
}

#[derive(Debug, Clone)]
enum Answer {
    Message(Message),
    Status { status: StatusCode, message: String },
    Hang,
    Close,
}

/// The model's message, in order, and its finish reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    reasoning: Option<String>,
    pub(crate) chunks: Vec<String>,
    call: Option<(String, String)>,
    finish_reason: Option<String>,
}

impl Message {
    pub(crate) fn finish_reason(&self) -> &str {
        let usual = if self.call.is_some() { "tool_calls" } else { "stop" };
        self.finish_reason.as_deref().unwrap_or(usual)
    }

    /// The deltas of a stream, and all of it as one message.
    fn on_the_wire(&self) -> (Vec<Value>, Value) {
        let mut deltas: Vec<_> =
            self.reasoning.iter().map(|reasoning| json!({"reasoning_content": reasoning})).collect();
        deltas.extend(self.chunks.iter().map(|chunk| json!({"content": chunk})));
        let text = (!self.chunks.is_empty()).then(|| self.chunks.concat());
        let mut message = json!({"role": "assistant", "content": text});
        if let Some((name, arguments)) = &self.call {
            let function = json!({"name": name, "arguments": arguments});
            let calls = json!([{"index": 0, "id": id("call"), "type": "function", "function": function}]);
            message["tool_calls"] = calls.clone();
            deltas.push(json!({"tool_calls": calls}));
        }
        (deltas, message)
    }
}

impl Reply {
    /// A text, streamed word by word. White space stays as it is, behind the word that it follows.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::chunks(text.as_ref().split_inclusive(char::is_whitespace))
    }

    /// A text, streamed in exactly these chunks.
    pub fn chunks(chunks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let chunks = chunks.into_iter().map(Into::into).collect();
        Self::new(Answer::Message(Message { chunks, ..Message::default() }))
    }

    /// Reasoning in `reasoning_content`, as some servers have it, and no text.
    pub fn reasoning(text: impl Into<String>) -> Self {
        Self::new(Answer::Message(Message { reasoning: Some(text.into()), ..Message::default() }))
    }

    /// A call of a tool, in one chunk, with a call id that no other call has. The arguments are JSON, or a text with it as the
    /// model writes it.
    pub fn tool_call(name: impl Into<String>, arguments: impl ToString) -> Self {
        Self::chunks([""; 0]).calling(name, arguments)
    }

    /// The text of this reply, and then a call of a tool as in [`Self::tool_call`].
    #[must_use]
    pub fn calling(self, name: impl Into<String>, arguments: impl ToString) -> Self {
        self.with(|message| message.call = Some((name.into(), arguments.to_string())))
    }

    /// This reply with another `finish_reason`, such as `length` or `content_filter`. The default is `tool_calls` with a call
    /// of a tool, and else `stop`.
    #[must_use]
    pub fn finish(self, reason: impl Into<String>) -> Self {
        self.with(|message| message.finish_reason = Some(reason.into()))
    }

    /// An error: this HTTP status, with a body like OpenAI's. The error's `code` is the status' name, such as
    /// `too_many_requests`.
    ///
    /// # Panics
    ///
    /// If `code` is not between 100 and 999.
    pub fn status(code: u16, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code).expect("an HTTP status");
        Self::new(Answer::Status { status, message: message.into() })
    }

    /// No answer, not even a head: the request is accepted and the connection stays open.
    pub fn hang() -> Self {
        Self::new(Answer::Hang)
    }

    /// The beginning of an answer, and then a closed connection: a head with status 200 and an event that has
    /// no text yet.
    pub fn close() -> Self {
        Self::new(Answer::Close)
    }

    /// This reply with a pause before each of its chunks. The default is none.
    #[must_use]
    pub fn every(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// The message, if the reply has one.
    pub(crate) fn message(&self) -> Option<&Message> {
        match &self.answer {
            Answer::Message(message) => Some(message),
            Answer::Status { .. } | Answer::Hang | Answer::Close => None,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Message)) -> Self {
        if let Answer::Message(message) = &mut self.answer {
            change(message);
        }
        self
    }

    fn new(answer: Answer) -> Self {
        Self { answer, pause: Duration::ZERO }
    }

    /// Answers `request` with this reply. The guard is completed with the last byte that is handed to the connection, so that a
    /// client that has read the end of the answer finds the call completed.
    pub(crate) async fn respond(self, request: &Request, guard: CallGuard) -> Response {
        let (deltas, message, finish_reason) = match self.answer {
            Answer::Message(message) => {
                let (deltas, whole) = message.on_the_wire();
                (deltas, whole, message.finish_reason().to_owned())
            }
            Answer::Status { status, message } => {
                guard.complete();
                return error(status, &message);
            }
            Answer::Hang => match pending::<Infallible>().await {},
            Answer::Close => return close(&Completion::new(request), guard),
        };
        let completion = Completion::new(request);
        let usage = usage(request, deltas.len());
        if request.stream() {
            return completion.stream(deltas, self.pause, finish_reason, usage, guard);
        }
        for _ in deltas {
            tokio::time::sleep(self.pause).await;
        }
        guard.complete();
        json_response(StatusCode::OK, &completion.whole(message, &finish_reason, usage))
    }
}

/// The fields that all objects of one answer have in common.
struct Completion {
    id: String,
    model: String,
}

impl Completion {
    fn new(request: &Request) -> Self {
        Self { id: id("chatcmpl"), model: request.model.clone() }
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        // Nobody reads when it was created, and the same answer should look the same twice.
        json!({"id": self.id, "object": object, "created": 0, "model": self.model, "choices": choices})
    }

    fn whole(&self, message: Value, finish_reason: &str, usage: Value) -> Value {
        let choices = json!([{"index": 0, "message": message, "finish_reason": finish_reason}]);
        let mut whole = self.object("chat.completion", choices);
        whole["usage"] = usage;
        whole
    }

    fn chunk(&self, delta: Value, finish_reason: Option<&str>) -> Value {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
        self.object("chat.completion.chunk", choices)
    }

    /// The first chunk of every stream. It has no text, so that only the chunks of the script have.
    fn role(&self) -> Value {
        self.chunk(json!({"role": "assistant"}), None)
    }

    fn stream(
        self,
        deltas: Vec<Value>,
        pause: Duration,
        finish_reason: String,
        usage: Value,
        guard: CallGuard,
    ) -> Response {
        let mut last = self.object("chat.completion.chunk", json!([]));
        last["usage"] = usage;
        let tail = [event(&self.chunk(json!({}), Some(&finish_reason))), event(&last), event(&"[DONE]")];
        let events = once((Duration::ZERO, event(&self.role())))
            .chain(deltas.into_iter().map(move |delta| (pause, event(&self.chunk(delta, None)))))
            .chain(tail.into_iter().map(|event| (Duration::ZERO, event)))
            .peekable();
        event_stream(stream::unfold((events, Some(guard)), |(mut events, mut guard)| async move {
            let (pause, event) = events.next()?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if events.peek().is_none()
                && let Some(guard) = guard.take()
            {
                guard.complete();
            }
            Some((Ok(event), (events, guard)))
        }))
    }
}

fn close(completion: &Completion, guard: CallGuard) -> Response {
    let role = event(&completion.role());
    let failure = async move {
        // hyper throws away what it has not written yet when the body fails; it writes when it has to wait.
        tokio::task::yield_now().await;
        guard.complete();
        Err(io::Error::other("the script closes the connection"))
    };
    event_stream(stream::iter([Ok(role)]).chain(stream::once(failure)))
}

fn usage(request: &Request, chunks: usize) -> Value {
    let words = request.prompt().split_whitespace().count();
    json!({
        "prompt_tokens": words,
        "completion_tokens": chunks,
        "total_tokens": words + chunks,
        "prompt_tokens_details": {"cached_tokens": 0},
    })
}

/// An error in OpenAI's shape.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    let code = status.canonical_reason().unwrap_or("unknown").to_lowercase().replace([' ', '-'], "_");
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    json_response(status, &json!({"error": {"message": message, "type": kind, "code": code}}))
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

pub(crate) fn event_stream(events: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn event(data: &impl std::fmt::Display) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// An id that no other process makes either: a client that keeps its conversations sends the ids of a server
/// that is gone to one that has just started. The standard library's hash seeds are the randomness at hand.
fn id(prefix: &str) -> String {
    format!("{prefix}_{:016x}", RandomState::new().build_hasher().finish())
}
