//! A chat completion request, as a script sees it.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

/// A chat completion request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model that was asked for.
    pub model: String,
    /// The conversation, oldest message first.
    pub messages: Vec<Message>,
    /// The names of the tools that the model may call.
    pub tools: Vec<String>,
    /// The HTTP headers, names in lower case. Of a repeated header the last value.
    pub headers: BTreeMap<String, String>,
    /// The whole body, parsed, for what the other fields leave out.
    pub body: Value,
    /// The whole body, as it was written.
    pub text: String,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The role: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text. Text parts are joined as they are; other parts (images) are left out.
    pub content: String,
}

/// The part of the body that has to be there, in the shape that OpenAI documents.
#[derive(Deserialize)]
struct Body {
    model: String,
    messages: Vec<BodyMessage>,
    #[serde(default)]
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
struct BodyMessage {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Tool {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

impl From<BodyMessage> for Message {
    fn from(message: BodyMessage) -> Self {
        let content = match message.content {
            // An assistant message that only calls tools has none.
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
        };
        Self { role: message.role, content }
    }
}

impl Request {
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> serde_json::Result<Self> {
        let text = String::from_utf8_lossy(body).into_owned();
        let body: Value = serde_json::from_str(&text)?;
        let Body { model, messages, tools } = Body::deserialize(&body)?;
        Ok(Self {
            model,
            messages: messages.into_iter().map(Message::from).collect(),
            tools: tools.into_iter().map(|tool| tool.function.name).collect(),
            headers: headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect(),
            body,
            text,
        })
    }

    /// The last user message without the `<current_datetime>` element that the Copilot CLI puts in front of it. Empty if the
    /// conversation has no user message.
    pub fn prompt(&self) -> &str {
        let message = self.messages.iter().rev().find(|message| message.role == "user");
        let content = message.map_or("", |message| message.content.as_str());
        content
            .strip_prefix("<current_datetime>")
            .and_then(|rest| rest.split_once("</current_datetime>\n\n"))
            .map_or(content, |(_, prompt)| prompt)
    }

    /// The result of a tool, if the model is asked to go on from one: the content of the last message if its role is `tool`.
    pub fn tool_result(&self) -> Option<&str> {
        self.messages.last().filter(|message| message.role == "tool").map(|message| message.content.as_str())
    }

    /// Whether the answer is to be streamed.
    pub(crate) fn stream(&self) -> bool {
        self.body["stream"] == true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(messages: Value) -> Request {
        let body = json!({"model": "m", "messages": messages});
        Request::parse(&HeaderMap::new(), body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_request_names_its_model_messages_tools_and_headers() {
        let body = json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "Hel"},
                    {"type": "image_url", "image_url": {"url": "data:,"}},
                    {"type": "text", "text": "lo"},
                ]},
                {"role": "assistant", "content": null, "tool_calls": []},
                {"role": "assistant"},
            ],
            "tools": [{"type": "function", "function": {"name": "bash", "parameters": {}}}],
            "temperature": 0,
        });
        let mut headers = HeaderMap::new();
        headers.insert("X-Initiator", "user".parse().unwrap());

        let request = Request::parse(&headers, body.to_string().as_bytes()).unwrap();

        assert_eq!(request.model, "m");
        let messages: Vec<_> =
            request.messages.iter().map(|message| (&*message.role, &*message.content)).collect();
        assert_eq!(
            messages,
            [("system", "Be brief."), ("user", "Hello"), ("assistant", ""), ("assistant", "")]
        );
        assert_eq!(request.tools, ["bash"]);
        assert_eq!(request.headers["x-initiator"], "user");
        assert_eq!(request.body["temperature"], 0);
        assert!(!request.stream());
    }

    #[test]
    fn the_prompt_is_the_last_user_message_without_the_date() {
        let request = request(json!([
            {"role": "user", "content": "first"},
            {"role": "user", "content": "<current_datetime>14:29:23Z</current_datetime>\n\nsecond\n\nline"},
            {"role": "assistant", "content": "yes"},
        ]));
        assert_eq!(request.prompt(), "second\n\nline");
    }

    #[test]
    fn only_a_date_in_front_is_removed_from_the_prompt() {
        let date = "<current_datetime>now</current_datetime>\n\n";
        for prompt in [format!("about {date}this"), "<current_datetime>without an end".to_owned()] {
            assert_eq!(request(json!([{"role": "user", "content": prompt}])).prompt(), prompt);
        }
        assert_eq!(
            request(json!([{"role": "user", "content": format!("{date}{date}")}])).prompt(),
            date,
            "and only one"
        );
    }

    #[test]
    fn a_conversation_without_a_user_has_an_empty_prompt() {
        assert_eq!(request(json!([])).prompt(), "");
    }

    #[test]
    fn a_tool_result_is_the_last_message_only() {
        let tool = json!({"role": "tool", "tool_call_id": "1", "content": "done"});
        let user = json!({"role": "user", "content": "go on"});
        assert_eq!(request(json!([user, tool])).tool_result(), Some("done"));
        assert_eq!(request(json!([tool, user])).tool_result(), None);
    }

    #[test]
    fn a_body_without_messages_is_refused() {
        assert!(Request::parse(&HeaderMap::new(), br#"{"model": "m"}"#).is_err());
        assert!(Request::parse(&HeaderMap::new(), b"hello").is_err());
    }
}
