//! Answers by Anthropic's messages API, as far as texts go: streamed, without tools.

use std::io;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};

use crate::Reply;
use crate::call::CallGuard;
use crate::reply::{error, event_stream};

/// The HTTP response with this answer, all at once.
pub(crate) fn respond(reply: &Reply, model: &str, guard: CallGuard) -> Response {
    guard.complete();
    let Some(message) = reply.message() else {
        return error(StatusCode::NOT_IMPLEMENTED, "by this API there are only texts");
    };
    let stop_reason = match message.finish_reason() {
        "stop" => "end_turn",
        "length" => "max_tokens",
        other => other,
    };
    let begun = json!({"id": "msg", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
    let mut events = vec![json!({"type": "message_start", "message": begun})];
    events.push(
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    );
    events.extend(message.chunks.iter().map(|chunk| {
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": chunk}})
    }));
    events.push(json!({"type": "content_block_stop", "index": 0}));
    let usage = json!({"output_tokens": message.chunks.len()});
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}));
    events.push(json!({"type": "message_stop"}));
    event_stream(stream::iter(events.into_iter().map(|event| io::Result::Ok(line(&event)))))
}

fn line(event: &Value) -> Bytes {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()).into()
}
