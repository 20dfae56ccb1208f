//! The gate: turns away requests that are no calls before they reach the service, and counts the bodies of those that are.
//!
//! In gRPC over HTTP/2 a call is a POST, and a server answers another content type with 415. Subtypes other than `proto` cannot
//! be read here, and gRPC-web is another protocol.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    pb::DESCRIPTORS,
    status,
    unread::{Answered, Requested, Unread},
};

/// The layer that puts a [`Gate`] in front of the services.
#[derive(Debug, Clone)]
pub(super) struct Gates {
    /// The paths of the methods that give one answer.
    unary: Arc<HashSet<String>>,
}

impl Gates {
    pub(super) fn new() -> Self {
        // The descriptors are compiled in.
        let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        let mut unary = HashSet::new();
        for file in &descriptors.file {
            for service in &file.service {
                let methods = service.method.iter().filter(|method| !method.server_streaming());
                unary.extend(
                    methods.map(|it| format!("/{}.{}/{}", file.package(), service.name(), it.name())),
                );
            }
        }
        Self { unary: Arc::new(unary) }
    }
}

impl<S> Layer<S> for Gates {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, unary: self.unary.clone() }
    }
}

/// The services of a connection, behind their gate.
#[derive(Debug, Clone)]
pub(super) struct Gate<S> {
    inner: S,
    unary: Arc<HashSet<String>>,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(refusal) = no_call(request.method(), request.headers()) {
            return Box::pin(async { Ok(refusal) });
        }
        // Each connection has one.
        let Some(unread) = request.extensions().get::<Unread>().cloned() else {
            return Box::pin(self.inner.call(request));
        };
        let room = unread.call();
        if room.is_none() && !is_vital(request.uri().path()) {
            return Box::pin(async { Ok(status::too_many_calls().into_http()) });
        }
        let is_unary = self.unary.contains(request.uri().path());
        let mut request = request;
        compress_what_is_asked_for(request.headers_mut());
        let request = request.map(|body| Body::new(Requested::new(body, unread.clone())));
        let answer = self.inner.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| {
                let body = Answered::new(body, unread, room);
                Body::new(if is_unary { body.encoded() } else { body })
            }))
        })
    }
}

/// The answer to a request that is no call. `None`: it is a call.
fn no_call(method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
    let mut refusal = Response::new(Body::empty());
    if method != Method::POST {
        *refusal.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(refusal);
    }
    if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(refusal);
    }
    None
}

/// Lets an answer be compressed only as its request is. Client libraries name in all calls the encodings that they can read,
/// and to compress each delta for clients that did not ask for it would cost more than it saves.
fn compress_what_is_asked_for(headers: &mut HeaderMap) {
    let accepted = headers.remove(ACCEPT_ENCODING);
    let asked = headers.get(ENCODING).and_then(|encoding| encoding.to_str().ok());
    let readable = accepted.as_ref().and_then(|accepted| accepted.to_str().ok());
    let is_readable = |asked: &&str| readable.is_some_and(|all| all.split(',').any(|it| it.trim() == *asked));
    if let Some(asked) = asked.filter(is_readable).and_then(|asked| HeaderValue::from_str(asked).ok()) {
        headers.insert(ACCEPT_ENCODING, asked);
    }
}

const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

fn is_grpc(content_type: &HeaderValue) -> bool {
    let content_type = content_type.as_bytes();
    let rest = content_type.strip_prefix(b"application/grpc");
    let rest = rest.map(|rest| rest.strip_prefix(b"+proto").unwrap_or(rest));
    matches!(rest, Some([] | [b';' | b' ', ..]))
}

/// Whether this is a call of an orchestrator, which would end a server that is only busy.
fn is_vital(path: &str) -> bool {
    path == "/grpc.health.v1.Health/Check"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_post_of_grpc_is_a_call() {
        let code = |method: Method, content_type: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            no_call(&method, &headers).map(|refusal| refusal.status().as_u16())
        };
        for good in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(code(Method::POST, Some(good)), None, "{good}");
            assert_eq!(code(Method::GET, Some(good)), Some(405), "{good}");
        }
        for bad in ["application/grpc-web", "application/grpc+json", "application/json", "text/plain", ""] {
            assert_eq!(code(Method::POST, Some(bad)), Some(415), "{bad}");
        }
        assert_eq!(code(Method::POST, None), Some(415));
    }

    #[test]
    fn an_answer_is_compressed_as_its_request_is() {
        let check = |asked: Option<&'static str>, readable: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(readable));
            asked.map(|asked| headers.insert(ENCODING, HeaderValue::from_static(asked)));
            compress_what_is_asked_for(&mut headers);
            let left = headers.get(ACCEPT_ENCODING).map(|left| left.to_str().unwrap());
            assert_eq!(left, expected, "{asked:?}, {readable}");
        };
        check(None, "identity, deflate, gzip", None);
        check(Some("gzip"), "identity, deflate, gzip", Some("gzip"));
        check(Some("zstd"), "gzip,zstd", Some("zstd"));
        check(Some("zstd"), "gzip", None);
        check(Some("identity"), "gzip", None);
    }

    #[test]
    fn the_methods_that_give_one_answer_are_known() {
        let Gates { unary } = Gates::new();
        for (method, is_unary) in [
            ("SendAndWait", true),
            ("ListEvents", true),
            ("SendAndStream", false),
            ("WatchSession", false),
            ("Converse", false),
        ] {
            assert_eq!(
                unary.contains(&format!("/copilot_grpc.v1.CopilotService/{method}")),
                is_unary,
                "{method}"
            );
        }
    }
}
