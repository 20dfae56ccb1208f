//! JSON-RPC 2.0 messages: bodies of frames to [`Incoming`], and outgoing messages to frames.
//!
//! Pure, and lazy: only the envelope is parsed. `params` and `result` stay the bytes that arrived, as slices of the body, for
//! the code that knows the method. Batches are not supported.

use std::{borrow::Cow, sync::LazyLock};

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use serde::{
    Deserialize, Serialize,
    de::{Deserializer as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::frame;

/// A message from the peer.
#[derive(Debug, PartialEq)]
pub enum Incoming<'a> {
    /// The answer to a request of this side.
    Response {
        /// The id of that request.
        id: u64,
        /// The JSON of `result` (`null` if there was none), or the peer's error.
        outcome: Result<Bytes, ErrorObject>,
    },
    /// An error with a null id or none: the peer could not parse a frame of this side, and cannot say which.
    ParseFailure(ErrorObject),
    /// A request: the peer waits for an answer with this id.
    Request {
        /// The id, to be echoed.
        id: RequestId,
        /// The method that is called.
        method: Cow<'a, str>,
        /// The params as JSON; `null` if there were none.
        params: Bytes,
    },
    /// A notification: the peer waits for no answer. A method with a null id is one, too: there is no id to answer to.
    Notification {
        /// The method that is called.
        method: Cow<'a, str>,
        /// The params as JSON; `null` if there were none.
        params: Bytes,
    },
}

/// The id of a request of the peer: a number or string of its own, never to be mixed with the ids of this side. Echoed as it
/// was written.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct RequestId(Box<RawValue>);

/// The `error` of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct ErrorObject {
    /// A code of JSON-RPC, or one of the peer's own.
    pub code: i64,
    /// A text for people. It may quote what was sent.
    #[serde(default)]
    pub message: String,
    /// More data, if the peer adds any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

/// Why a body is not a message. The text says where it is wrong and never quotes it: the body may hold somebody's prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a JSON object; most likely an array, which would be a batch.
    #[error("not a JSON object")]
    NotAnObject,
    /// Not JSON, or cut off.
    #[error("broken JSON at line {line}, column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// JSON, but a member of the envelope is of the wrong type, or there twice.
    #[error("broken envelope at line {line}, column {column}")]
    Envelope {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// There is no method, no id and no error.
    #[error("neither request nor response")]
    Neither,
    /// A response with an id that is no unsigned integer, as all ids of this side are: no such request was sent.
    #[error("a response with an id that cannot be ours")]
    ForeignResponseId,
    /// A request with an id that is neither number nor string.
    #[error("a request with an id that is neither number nor string")]
    BadRequestId,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ErrorObject>,
}

/// A string that Serde can borrow. It borrows a bare `Cow` neither in an `Option` nor as a map's key.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Parses a body. Run it through [`repair`] first.
pub fn parse(body: &Bytes) -> Result<Incoming<'_>, Malformed> {
    // Serde would read an array as a struct, member by member.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Malformed::NotAnObject);
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    let slice = |json: Option<&RawValue>| match json {
        Some(json) => body.slice_ref(json.get().as_bytes()),
        None => Bytes::from_static(b"null"),
    };
    match (envelope.method, envelope.id, envelope.error) {
        (Some(Text(method)), Some(id), _) => {
            Ok(Incoming::Request { id: RequestId::new(id)?, method, params: slice(envelope.params) })
        }
        (Some(Text(method)), None, _) => {
            Ok(Incoming::Notification { method, params: slice(envelope.params) })
        }
        (None, Some(id), error) => Ok(Incoming::Response {
            id: id.get().parse().map_err(|_| Malformed::ForeignResponseId)?,
            outcome: error.map_or_else(|| Ok(slice(envelope.result)), Err),
        }),
        (None, None, Some(error)) => Ok(Incoming::ParseFailure(error)),
        (None, None, None) => Err(Malformed::Neither),
    }
}

/// Replaces escapes of lone surrogates (`\ud83d` without its other half) by `\ufffd`.
///
/// JavaScript's strings may hold them and its `JSON.stringify` writes them, for example when a stream of text is cut within an
/// emoji; serde_json refuses the whole text. A body without any is returned as it is, not copied.
pub fn repair(body: Bytes) -> Bytes {
    let mut repaired: Option<BytesMut> = None;
    for at in lone_surrogates(&body) {
        let copy = repaired.get_or_insert_with(|| BytesMut::from(&body[..]));
        copy[at..at + ESCAPE].copy_from_slice(br"\ufffd");
    }
    repaired.map_or(body, BytesMut::freeze)
}

/// Whether something in it is to be [repaired](repair) before anybody reads it.
pub fn needs_repair(json: &[u8]) -> bool {
    lone_surrogates(json).next().is_some()
}

/// The positions at which escapes of lone surrogates begin.
fn lone_surrogates(json: &[u8]) -> impl Iterator<Item = usize> {
    let mut paired_until = 0;
    /// Made once: it takes longer to make than to search a short message.
    static ESCAPES: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(br"\u"));
    ESCAPES.find_iter(json).filter(move |&at| {
        let Some(unit) = surrogate(&json[at..]) else { return false };
        // `\\ud83d` is a backslash and five letters.
        let backslashes_before = json[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if at < paired_until || backslashes_before % 2 == 1 {
            return false;
        }
        if unit == Surrogate::High && surrogate(&json[at + ESCAPE..]) == Some(Surrogate::Low) {
            paired_until = at + 2 * ESCAPE;
            return false;
        }
        true
    })
}

#[derive(PartialEq)]
enum Surrogate {
    High,
    Low,
}

/// The length of `\uXXXX` in bytes.
const ESCAPE: usize = 6;

/// The surrogate whose escape `json` begins with, if it does.
fn surrogate(json: &[u8]) -> Option<Surrogate> {
    match json {
        [b'\\', b'u', b'd' | b'D', second, third, fourth, ..]
            if third.is_ascii_hexdigit() && fourth.is_ascii_hexdigit() =>
        {
            match second {
                b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Surrogate::High),
                b'c'..=b'f' | b'C'..=b'F' => Some(Surrogate::Low),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The method and the unchecked params of a notification, found without parsing. Most notifications are of no interest, and
/// this is enough to tell. `None`: the message has to be parsed.
///
/// It finds only notifications whose members come as peers usually write them. A request whose id comes after its params is not
/// taken for one: the params are the last member, as the last two bytes show. Who reads the params asks first whether they
/// [need repair](needs_repair): most are not read, and a look at each byte would be a quarter of what a message costs.
pub fn skim(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = body.strip_prefix(br#"{"jsonrpc":"2.0","method":""#)?;
    // If the method has escapes, what follows the first of them does not match below.
    let (method, rest) = rest.split_at(memchr::memchr2(b'"', b'\\', rest)?);
    let params = rest.strip_prefix(br#"","params":"#)?.strip_suffix(b"}")?;
    params.ends_with(b"}").then_some((method, params))
}

/// The kind of a message, as far as its beginning tells.
#[derive(Debug, PartialEq)]
pub enum Peek<'a> {
    /// The answer to a request of this side.
    Response {
        /// The id of that request.
        id: u64,
    },
    /// A request: the peer waits for an answer with this id.
    Request {
        /// The id, to be echoed.
        id: RequestId,
        /// The method that is called.
        method: Cow<'a, str>,
    },
    /// There is a method and no id before the text ends. Peers write the id before the params, so it is a notification, unless
    /// this peer does not.
    Notification {
        /// The method that is called.
        method: Cow<'a, str>,
    },
}

/// Reads the first bytes of a message, which are kept of an oversized frame. `None`: they do not tell its kind.
pub fn peek(head: &[u8]) -> Option<Peek<'_>> {
    let mut seen = Seen::default();
    // An error is expected, where the text ends. What was seen before it counts.
    let _ = serde_json::Deserializer::from_slice(head).deserialize_map(&mut seen);
    match (seen.method, seen.id) {
        (Some(method), Some(id)) => Some(Peek::Request { id: RequestId::new(id).ok()?, method }),
        (Some(method), None) => Some(Peek::Notification { method }),
        (None, Some(id)) if seen.is_response => Some(Peek::Response { id: id.get().parse().ok()? }),
        (None, _) => None,
    }
}

/// What was seen of the outermost object's members; `params` may have a `method` of their own.
#[derive(Default)]
struct Seen<'a> {
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    is_response: bool,
}

impl<'a> Visitor<'a> for &mut Seen<'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON-RPC message")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        let mut id = None;
        loop {
            let name = members.next_key::<Text<'a>>()?;
            // Not before something follows it: a number may have been cut in two.
            self.id = id;
            match name.as_ref().map(|Text(name)| &**name) {
                Some("id") => id = members.next_value()?,
                Some("method") => {
                    self.method = members.next_value::<Option<Text<'a>>>()?.map(|Text(method)| method)
                }
                Some(name) => {
                    self.is_response |= matches!(name, "result" | "error");
                    members.next_value::<IgnoredAny>()?;
                }
                None => return Ok(()),
            }
        }
    }
}

/// A framed request.
///
/// # Errors
/// The error with which `params` cannot be serialized.
pub fn request<P>(id: u64, method: &str, params: &P) -> serde_json::Result<Bytes>
where
    P: Serialize + ?Sized,
{
    #[derive(Serialize)]
    struct Request<'a, P: ?Sized> {
        jsonrpc: &'static str,
        id: u64,
        method: &'a str,
        params: &'a P,
    }
    framed(&Request { jsonrpc: VERSION, id, method, params })
}

/// The framed answer to a request of the peer, with its result.
///
/// # Errors
/// The error with which `result` cannot be serialized.
pub fn response_ok<R>(id: &RequestId, result: &R) -> serde_json::Result<Bytes>
where
    R: Serialize + ?Sized,
{
    #[derive(Serialize)]
    struct Response<'a, R: ?Sized> {
        jsonrpc: &'static str,
        id: &'a RequestId,
        result: &'a R,
    }
    framed(&Response { jsonrpc: VERSION, id, result })
}

/// The framed answer to a request of the peer, with an error.
pub fn response_err(id: &RequestId, code: i64, message: &str) -> Bytes {
    #[derive(Serialize)]
    struct Error<'a> {
        code: i64,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Response<'a> {
        jsonrpc: &'static str,
        id: &'a RequestId,
        error: Error<'a>,
    }
    framed(&Response { jsonrpc: VERSION, id, error: Error { code, message } })
        .expect("numbers, strings and JSON can be written as JSON")
}

/// The error code for a request whose method is unknown.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The error code for a request that could not be answered because of an internal error.
pub const INTERNAL_ERROR: i64 = -32603;
/// The error code for a request that is not accepted.
pub const INVALID_REQUEST: i64 = -32600;

const VERSION: &str = "2.0";

/// The number of bytes allocated for a message before its length is known; most messages fit.
const TYPICAL_MESSAGE: usize = 512;

fn framed(message: &impl Serialize) -> serde_json::Result<Bytes> {
    frame::encode_with(TYPICAL_MESSAGE, |frame| serde_json::to_writer(frame, message))
}

impl RequestId {
    fn new(json: &RawValue) -> Result<Self, Malformed> {
        match json.get().as_bytes() {
            // Owned, because it may be kept until a person has answered, and would keep the read buffer with it.
            [b'"' | b'-' | b'0'..=b'9', ..] => Ok(Self(json.to_owned())),
            _ => Err(Malformed::BadRequestId),
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if error.is_data() { Self::Envelope { line, column } } else { Self::Syntax { line, column } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn id(json: &str) -> RequestId {
        RequestId(RawValue::from_string(json.to_owned()).unwrap())
    }

    fn request_(id_: &str, method: &'static str, params: &'static str) -> Incoming<'static> {
        Incoming::Request { id: id(id_), method: method.into(), params: params.into() }
    }

    fn notification(method: &'static str, params: &'static str) -> Incoming<'static> {
        Incoming::Notification { method: method.into(), params: params.into() }
    }

    fn response(id: u64, result: &'static str) -> Incoming<'static> {
        Incoming::Response { id, outcome: Ok(result.into()) }
    }

    fn error(code: i64, message: &str) -> ErrorObject {
        ErrorObject { code, message: message.into(), data: None }
    }

    #[test]
    fn a_notification_is_skimmed_where_its_members_come_as_usual() {
        let check = |body: &str, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(method, params)| (method.as_bytes(), params.as_bytes()));
            assert_eq!(skim(body.as_bytes()), expected, "{body}");
        };
        check(r#"{"jsonrpc":"2.0","method":"a.b","params":{"x":{}}}"#, Some(("a.b", r#"{"x":{}}"#)));
        check(r#"{"jsonrpc":"2.0","method":"a","params":{not even JSON}}"#, Some(("a", "{not even JSON}")));
        check(r#"{"jsonrpc":"2.0","method":"a","params":{},"id":7}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"a","params":{},"id":"}"}"#, None);
        check(r#"{"jsonrpc":"2.0","id":7,"method":"a","params":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"a\"b","params":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"a","params":[1]}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"a","params":{}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"a","params":{"x":"\ud83d"}}"#, Some(("a", r#"{"x":"\ud83d"}"#)));
        check(r#"{"method":"a","params":{}}"#, None);
        check("", None);
    }

    #[track_caller]
    fn check_parse(body: &'static str, expected: Result<Incoming<'_>, Malformed>) {
        assert_eq!(parse(&Bytes::from_static(body.as_bytes())), expected, "{body}");
    }

    #[test]
    fn requests_and_notifications_are_told_apart_by_the_id() {
        check_parse(
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a": 1}}"#,
            Ok(request_("1", "m", r#"{"a": 1}"#)),
        );
        check_parse(
            r#"{"jsonrpc":"2.0","id":"1","method":"m","params":[1]}"#,
            Ok(request_(r#""1""#, "m", "[1]")),
        );
        check_parse(r#"{"id":-1.5e3,"method":"m"}"#, Ok(request_("-1.5e3", "m", "null")));
        check_parse(r#"{"params":{"id":7},"method":"m","id":1}"#, Ok(request_("1", "m", r#"{"id":7}"#)));
        check_parse(r#"{"jsonrpc":"2.0","method":"m","params":{}}"#, Ok(notification("m", "{}")));
        check_parse(r#"{"method":"m","id":null,"params":null}"#, Ok(notification("m", "null")));
        check_parse(" {\"method\" : \"\\u006d\\n\"} \r\n", Ok(notification("m\n", "null")));
        check_parse(r#"{"method":"m","more":[{"id":1}]}"#, Ok(notification("m", "null")));
        for id in ["true", "{}", "[1]"] {
            let body = Bytes::from(format!(r#"{{"method":"m","id":{id}}}"#));
            assert_eq!(parse(&body), Err(Malformed::BadRequestId), "{id}");
        }
    }

    #[test]
    fn a_response_has_our_id_and_one_outcome() {
        let failed = |id, error| Ok(Incoming::Response { id, outcome: Err(error) });
        check_parse(r#"{"jsonrpc":"2.0","id":1,"result":{"a": 1}}"#, Ok(response(1, r#"{"a": 1}"#)));
        check_parse(r#"{"id":18446744073709551615,"result":1}"#, Ok(response(u64::MAX, "1")));
        check_parse(r#"{"id":1,"result":null}"#, Ok(response(1, "null")));
        check_parse(r#"{"id":1}"#, Ok(response(1, "null")));
        check_parse(r#"{"id":1,"result":2,"error":null}"#, Ok(response(1, "2")));
        check_parse(r#"{"id":1,"error":{"code":-32603,"message":"no"}}"#, failed(1, error(-32603, "no")));
        check_parse(r#"{"id":1,"result":null,"error":{"code":1,"message":"no"}}"#, failed(1, error(1, "no")));
        check_parse(r#"{"id":1,"error":{"code":1}}"#, failed(1, error(1, "")));
        let data = Some(json!({"a": [1]}));
        check_parse(
            r#"{"id":1,"error":{"code":1,"message":"","data":{"a":[1]}}}"#,
            failed(1, ErrorObject { data, ..error(1, "") }),
        );
        for id in [r#""1""#, "-1", "1.0", "1e0", "18446744073709551616", "[1]"] {
            let body = Bytes::from(format!(r#"{{"id":{id},"result":1}}"#));
            assert_eq!(parse(&body), Err(Malformed::ForeignResponseId), "{id}");
        }
    }

    #[test]
    fn an_error_without_an_id_is_nobodys() {
        let failure = || Ok(Incoming::ParseFailure(error(-32700, "Parse error")));
        check_parse(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#,
            failure(),
        );
        check_parse(r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"}}"#, failure());
    }

    #[test]
    fn what_is_no_message_is_refused_and_not_quoted() {
        let syntax = |column| Err(Malformed::Syntax { line: 1, column });
        let envelope = |column| Err(Malformed::Envelope { line: 1, column });
        check_parse("", Err(Malformed::NotAnObject));
        check_parse("secret", Err(Malformed::NotAnObject));
        check_parse(r#"[1,"m",null,null,null]"#, Err(Malformed::NotAnObject));
        check_parse("{}", Err(Malformed::Neither));
        check_parse(r#"{"id":null,"result":1}"#, Err(Malformed::Neither));
        check_parse("{secret}", syntax(2));
        check_parse(r#"{"id":1"#, syntax(7));
        check_parse(r#"{"id":1}{"id":2}"#, syntax(9));
        check_parse(r#"{"method":5}"#, envelope(11));
        check_parse(r#"{"id":1,"id":2}"#, envelope(12));
        check_parse(r#"{"id":1,"error":"secret"}"#, envelope(24));
        check_parse(r#"{"id":1,"error":{"code":"secret"}}"#, envelope(32));
        assert!(parse(&Bytes::from_static(b"{\"method\":\"\xff\"}")).is_err());
        assert!(parse(&Bytes::from_static(br#"{"method":"\ud83d"}"#)).is_err());
    }

    #[test]
    fn params_are_slices_of_the_body() {
        let body = Bytes::from_static(br#"{"method":"m","params":[1]}"#);
        let Ok(Incoming::Notification { method: Cow::Borrowed(_), params }) = parse(&body) else {
            panic!("copied")
        };
        assert_eq!(params.as_ptr(), body[23..].as_ptr());
    }

    #[track_caller]
    fn check_repair(json: &str, expected: &str) {
        let body = Bytes::copy_from_slice(json.as_bytes());
        let repaired = repair(body.clone());
        assert_eq!(repaired, expected, "{json}");
        assert_eq!(needs_repair(json.as_bytes()), json != expected, "{json}");
        assert_eq!(repaired.as_ptr() == body.as_ptr(), json == expected, "copied only when repaired: {json}");
    }

    #[test]
    fn lone_surrogates_become_the_replacement_character() {
        check_repair(r#""\ud83d""#, r#""\ufffd""#);
        check_repair(r#""\uDE00""#, r#""\ufffd""#);
        check_repair(r#""\ud83d\ude00""#, r#""\ud83d\ude00""#);
        check_repair(r#""\uDBFF\uDFFF""#, r#""\uDBFF\uDFFF""#);
        check_repair(r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#);
        check_repair(r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#);
        check_repair(r#""\ud83d\ude00\ude00""#, r#""\ud83d\ude00\ufffd""#);
        check_repair(r#""\ud83dx\ude00""#, r#""\ufffdx\ufffd""#);
        check_repair(r#""\ud83d","\ude00""#, r#""\ufffd","\ufffd""#);
        check_repair(r#""\ud83d\u0041""#, r#""\ufffd\u0041""#);
    }

    #[test]
    fn an_escaped_backslash_is_no_escape() {
        check_repair(r#""\\ud83d""#, r#""\\ud83d""#);
        check_repair(r#""\\\ud83d""#, r#""\\\ufffd""#);
        check_repair(r#""\\\\ud83d""#, r#""\\\\ud83d""#);
        check_repair(r#""\ud83d\\ude00""#, r#""\ufffd\\ude00""#);
        check_repair(r#""\\ud83d\ude00""#, r#""\\ud83d\ufffd""#);
        check_repair(r#""\n\ud83d""#, r#""\n\ufffd""#);
    }

    #[test]
    fn what_needs_no_repair_is_left_alone() {
        for json in [
            "",
            r#""\ud7ff\ue000\uffff\u0000""#,
            r#""\ud8""#,
            r"\ud83",
            r"\u",
            r#""\udxyz""#,
            r#""ud83d 😀""#,
        ] {
            check_repair(json, json);
        }
    }

    #[track_caller]
    fn check_peek(head: &str, expected: Option<Peek<'_>>) {
        assert_eq!(peek(head.as_bytes()), expected, "{head}");
    }

    #[test]
    fn a_head_tells_whose_it_is() {
        let response = |id| Some(Peek::Response { id });
        let notification = |method: &'static str| Some(Peek::Notification { method: method.into() });
        let request_ = |id_, method: &'static str| Some(Peek::Request { id: id(id_), method: method.into() });
        check_peek(r#"{"jsonrpc":"2.0","id":12,"result":{"a":"#, response(12));
        check_peek(r#"{"jsonrpc":"2.0","id":12,"error":{"code":1,"#, response(12));
        check_peek(r#"{"id":12,"result":"#, response(12));
        check_peek(r#"{"result":{"id":1},"id":12}"#, response(12));
        check_peek(r#"{"jsonrpc":"2.0","method":"m","params":{"id":7,"method":"n"#, notification("m"));
        check_peek(r#"{"params":{"id":7,"method":"n"},"method":"m"}"#, notification("m"));
        check_peek(r#"{"method":"m","id":null,"params":[""#, notification("m"));
        check_peek(r#"{"jsonrpc":"2.0","id":"a","method":"m","params":"#, request_(r#""a""#, "m"));
        check_peek(r#"{"jsonrpc":"2.0","method":"m","id":3,"params":"\ud83d"#, request_("3", "m"));
    }

    #[test]
    fn a_head_that_does_not_tell_is_not_guessed() {
        let cut_id = r#"{"jsonrpc":"2.0","id":12"#;
        for head in ["", "{", "[", "null", "x", cut_id, r#"{"id":12}"#, r#"{"id":12,"params":{"result":1"#] {
            check_peek(head, None);
        }
        check_peek(r#"{"jsonrpc":"2.0","method":"sess"#, None);
        check_peek(r#"{"result":{"id":12,"result":"#, None);
        check_peek(r#"{"id":"12","result":"#, None);
        check_peek(r#"{"id":null,"error":{"#, None);
    }

    #[track_caller]
    fn check_frame(frame: &Bytes, body: &str) {
        assert_eq!(frame, &format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    }

    #[test]
    fn our_messages_are_framed() {
        check_frame(
            &request(7, "m", &json!({"a": 1})).unwrap(),
            r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1}}"#,
        );
        check_frame(&request(7, "m", &[1]).unwrap(), r#"{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}"#);
        check_frame(&response_ok(&id("7"), "é").unwrap(), r#"{"jsonrpc":"2.0","id":7,"result":"é"}"#);
        check_frame(
            &response_ok(&id(r#""\u0061""#), &()).unwrap(),
            r#"{"jsonrpc":"2.0","id":"\u0061","result":null}"#,
        );
        check_frame(
            &response_err(&id("7"), -1, "no"),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}"#,
        );
        let long = "x".repeat(10 * TYPICAL_MESSAGE);
        check_frame(
            &response_ok(&id("7"), &long).unwrap(),
            &format!(r#"{{"jsonrpc":"2.0","id":7,"result":"{long}"}}"#),
        );
    }

    /// JSON but for lone surrogates.
    fn almost_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            r"\ud83d", r"\uD83D", r"\ude00", r"\uDFFF", r"\u0041", r"\ud7ff", r"\ue000", r"\\", r"\n",
            r#"\""#, "u", "d83d", "é", "😀",
        ]);
        let string =
            prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
        let leaf = prop_oneof![4 => string.clone(), 1 => Just("1".to_owned()), 1 => Just("null".to_owned())];
        leaf.prop_recursive(3, 16, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                (string.clone(), inner).prop_map(|(key, value)| format!("{{{key}:{value}}}")),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_json_but_for_lone_surrogates_is_json_when_repaired(json in almost_json()) {
            let repaired = repair(json.clone().into());
            prop_assert!(serde_json::from_slice::<Value>(&repaired).is_ok());
            if let Ok(value) = serde_json::from_str::<Value>(&json) {
                prop_assert_eq!(serde_json::from_slice::<Value>(&repaired).unwrap(), value, "it was valid");
            }
            prop_assert_eq!(repair(repaired.clone()), repaired, "repairing again changes nothing");
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = peek(&body);
            let _ = parse(&repair(body.into()));
        }

        #[test]
        fn no_cut_makes_a_head_lie(json in almost_json(), method in "[a-z.]{1,8}", number: u64, at: prop::sample::Index) {
            let messages = [
                format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{json}}}"#),
                format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{json}}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{json}}}"#),
            ];
            for (message, whole) in messages.iter().map(|message| (message, peek(message.as_bytes()))) {
                let head = peek(&message.as_bytes()[..at.index(message.len())]);
                prop_assert!(whole.is_some());
                prop_assert!(head.is_none() || head == whole, "{:?} of {}", head, message);
            }
        }
    }
}
