//! The layer that decides where each call is served.

use std::{
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tonic::{body::Body, server::NamedService};
use tower::Service;
use tracing::debug;

use super::{
    call::{Call, Local, local},
    conversation::{self, Unopened},
    first::{self, Read},
    hop,
    method::Method,
    peers::Peers,
    relay::Relay,
};
use crate::{
    grpc::status,
    session::{Delivery, Sessions},
};

/// A service whose calls go to the server that owns their session.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Forwarding<S> {
    pub(in crate::grpc) inner: S,
    pub(in crate::grpc) sessions: Sessions,
    pub(in crate::grpc) peers: Peers,
    /// The largest request, in bytes.
    pub(in crate::grpc) max_message_size: usize,
}

impl<S: NamedService> NamedService for Forwarding<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Local> Service<Request<Body>> for Forwarding<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let store = self.sessions.store();
        if !store.is_shared() {
            return self.inner.call(request).boxed();
        }
        if hop::is_forwarded(request.headers()) {
            let this = store.incarnation().clone();
            let accepted = hop::accept(request.headers_mut(), &this, self.peers.token());
            if let Err(refusal) = accepted {
                debug!(?refusal, "a forwarded call is not taken");
                let mut answer =
                    status::not_forwarded("this server does not take the call", Delivery::NotDelivered)
                        .into_http();
                hop::sign(answer.headers_mut(), &this, Some(refusal));
                return ready(Ok(answer)).boxed();
            }
            if let Some(access) = hop::spoken_for(request.headers_mut()) {
                request.extensions_mut().insert(access);
            }
            // At once, because what is said of it comes later on the same connection.
            if let Some(call_id) = hop::call_id(request.headers_mut()) {
                let caller = self.sessions.caller(call_id);
                request.extensions_mut().insert(caller);
            }
            let answer = self.inner.call(request);
            return async move {
                let mut answer = answer.await?;
                hop::sign(answer.headers_mut(), &this, None);
                Ok(answer)
            }
            .boxed();
        }
        match Method::at(request.uri().path()) {
            Some(method) => self.clone().route(method, request).map(Ok).boxed(),
            None => self.inner.call(request).boxed(),
        }
    }
}

impl<S: Local> Forwarding<S> {
    /// Serves a call wherever its session is.
    async fn route(self, method: Method, request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let Self { inner, sessions, peers, max_message_size } = self;
        if method == Method::Converse {
            let unopened = Unopened { inner, sessions, peers, parts, body, max_message_size, began };
            return conversation::answer(unopened);
        }
        let first = match first::read(body, &parts.headers, max_message_size).await {
            Read::Message(first, _) => *first,
            Read::Odd(body) => return local(inner, Request::from_parts(parts, body)).await,
        };
        let call = Arc::new(Call { inner, sessions, peers, method, parts, first, began });
        let body = || Body::new(Full::new(call.first.sent.clone().bytes()));
        match call.serve(&call.first, body, call.gives_up_at()).await {
            Ok(served) => Relay::new(call.clone()).answer(served),
            Err(status) => status.into_http(),
        }
    }
}
