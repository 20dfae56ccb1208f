//! Connections to the other servers that share the store.
//!
//! Each is opened by a greeting: a question that only the server answers that is meant, and only to one with its token. So a call
//! goes nowhere else, and whether it was sent is known: on a connection that is closed it was not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Request, Response, Uri};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, metadata::MetadataMap};

use super::{
    hop,
    sender::{self, Failure, Sender, failure},
};
use crate::{
    copilot::Secret,
    grpc::{
        pb::node::{
            LeaveCallRequest, ListStatesRequest, ListStatesResponse, node_service_client::NodeServiceClient,
        },
        tls::Tls,
    },
    lock::lock,
    session::Peer,
    store::Incarnation,
};

/// How long connecting and the greeting may take: the others are near.
const CONNECTING: Duration = Duration::from_secs(2);

/// How many calls one connection carries; a server takes a thousand.
const CALLS: usize = 500;

/// How many servers are remembered: those that are gone are forgotten when there are more.
const MAX_PEERS: usize = 1_000;

/// Connections to the other servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Peers {
    token: Option<Secret>,
    tls: Tls,
    carriers: Arc<Mutex<HashMap<Incarnation, Vec<Carrier>>>>,
}

/// A connection, and the calls that it carries: those who hold its count.
#[derive(Debug, Clone)]
struct Carrier {
    sender: Sender,
    calls: Arc<()>,
}

/// A call of another server that goes on as long as this is held.
#[derive(Debug)]
pub(super) struct Carried {
    _call: Arc<()>,
}

impl Peers {
    /// Connections on which this token is shown, and, to servers that speak TLS, this certificate.
    pub(in crate::grpc) fn new(token: Option<Secret>, tls: Tls) -> Self {
        Self { token, tls, carriers: Arc::default() }
    }

    /// The token by which servers know each other.
    pub(super) fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// Sends a request to another server, and gives the headers of its answer, and the answer as it comes.
    pub(super) async fn call(
        &self,
        peer: &Peer,
        mut request: Request<Body>,
    ) -> Result<(Response<Body>, Carried), Failure> {
        let Carrier { mut sender, calls } = self.carrier(peer).await?;
        hop::address(request.headers_mut(), peer, self.token());
        let mut uri = request.uri().clone().into_parts();
        (uri.scheme, uri.authority) = (sender.origin.scheme().cloned(), sender.origin.authority().cloned());
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Failure::NotSent(error.to_string()))?;
        let sent = sender.sender.send_request(request).await;
        let response = sent.map_err(|error| failure(&error))?.map(Body::new);
        match hop::refusal(response.headers()) {
            // It has started anew.
            Some(hop::Refusal::NotForUs) => {
                Err(Failure::NotSent(format!("server {} has started anew", peer.incarnation.node)))
            }
            Some(hop::Refusal::BadToken) => Err(Failure::Misled(bad_token(peer))),
            None => Ok((response, Carried { _call: calls })),
        }
    }

    /// Tells a server that the caller of a call has left.
    pub(super) async fn leave(&self, peer: &Peer, call_id: String) {
        let Ok(Carrier { sender, calls: _calls }) = self.carrier(peer).await else { return };
        let origin = sender.origin.clone();
        let request = self.question(peer, LeaveCallRequest { call_id });
        let mut client = NodeServiceClient::with_origin(sender, origin);
        if !matches!(timeout(CONNECTING, client.leave_call(request)).await, Ok(Ok(_))) {
            tracing::debug!(
                node = peer.incarnation.node,
                "another server has not heard that a caller has left"
            );
        }
    }

    /// What a server says of the states of sessions that it owns.
    pub(super) async fn states(
        &self,
        peer: &Peer,
        question: ListStatesRequest,
    ) -> Option<ListStatesResponse> {
        let Carrier { sender, calls: _calls } = self.carrier(peer).await.ok()?;
        Some(self.ask(sender, peer, question).await.ok()?.1)
    }

    /// A connection on which there is room, if need be a new one.
    async fn carrier(&self, peer: &Peer) -> Result<Carrier, Failure> {
        if let Some(carrier) = self.free(&peer.incarnation) {
            return Ok(carrier);
        }
        let greeted = timeout(CONNECTING, async {
            let sender = Sender::connect(peer, self.tls.connector()).await?;
            self.greet(sender.clone(), peer).await?;
            Ok(sender)
        });
        let late = |_| Failure::NotSent(format!("{} does not answer within {CONNECTING:?}", peer.address));
        let carrier = Carrier { sender: greeted.await.map_err(late)??, calls: Arc::default() };
        lock(&self.carriers).entry(peer.incarnation.clone()).or_default().push(carrier.clone());
        Ok(carrier)
    }

    fn free(&self, peer: &Incarnation) -> Option<Carrier> {
        let mut carriers = lock(&self.carriers);
        if carriers.len() >= MAX_PEERS {
            carriers.retain(|_, carriers| carriers.iter().any(|carrier| !carrier.sender.sender.is_closed()));
        }
        let carriers = carriers.get_mut(peer)?;
        carriers.retain(|carrier| !carrier.sender.sender.is_closed());
        carriers.iter().find(|carrier| Arc::strong_count(&carrier.calls) <= CALLS).cloned()
    }

    /// Makes sure that the other side is the server that is meant.
    async fn greet(&self, sender: Sender, peer: &Peer) -> Result<(), Failure> {
        let name = &peer.incarnation.node;
        let no_server = |what: &str| {
            Failure::Misled(format!(
                "what answers at {}, which server {name} advertises, is no server of this store: {what} (advertise)",
                peer.address
            ))
        };
        let refused = sender.refused.clone();
        let answer = self.ask(sender, peer, ListStatesRequest::default()).await;
        if let Some(alert) = refused.get() {
            return Err(sender::refused(peer, alert));
        }
        let (metadata, status) = match answer {
            Ok((metadata, _)) => (metadata, None),
            Err(status) => (status.metadata().clone(), Some(status)),
        };
        let headers = metadata.into_headers();
        let at = hop::signature(&headers);
        match (hop::refusal(&headers), at, status) {
            (None, Some(_), None) => Ok(()),
            (Some(hop::Refusal::BadToken), ..) => Err(Failure::Misled(bad_token(peer))),
            (Some(hop::Refusal::NotForUs), Some(at), _) => {
                let is_same_node = at.rsplit_once('/').is_some_and(|(node, _)| node == name);
                Err(match is_same_node {
                    true => Failure::NotSent(format!("server {name} has started anew")),
                    false => Failure::Misled(format!(
                        "what server {name} advertises, {}, leads to server {at} (advertise)",
                        peer.address
                    )),
                })
            }
            (_, Some(_), Some(status)) => Err(Failure::NotSent(status.message().to_owned())),
            // The connection was closed, which a server does that is just ending.
            (_, None, Some(status)) if is_disconnected(&status) => {
                Err(Failure::NotSent(format!("{} closes the connection", peer.address)))
            }
            (_, None, status) => {
                let said = status.map(|status| status.message().to_owned()).unwrap_or_default();
                Err(no_server(if said.is_empty() { "it signs nothing" } else { &said }))
            }
        }
    }

    async fn ask(
        &self,
        sender: Sender,
        peer: &Peer,
        question: ListStatesRequest,
    ) -> Result<(MetadataMap, ListStatesResponse), Status> {
        let origin = sender.origin.clone();
        let request = self.question(peer, question);
        let answer = NodeServiceClient::with_origin(sender, origin).list_states(request).await?;
        let (metadata, answer, _) = answer.into_parts();
        Ok((metadata, answer))
    }

    fn question<T>(&self, peer: &Peer, message: T) -> tonic::Request<T> {
        let mut headers = HeaderMap::new();
        hop::address(&mut headers, peer, self.token());
        let metadata = MetadataMap::from_headers(headers);
        tonic::Request::from_parts(metadata, tonic::Extensions::new(), message)
    }
}

fn bad_token(peer: &Peer) -> String {
    format!("server {} has another cluster token than this one (cluster_token_file)", peer.incarnation.node)
}

/// Whether a status is that of a connection that was closed without a word of HTTP/2.
fn is_disconnected(status: &Status) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(status), |error| error.source());
    let is_foreign = causes.any(|error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_library() || error.reason().is_some())
    });
    !is_foreign
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
        && std::error::Error::source(status).is_some()
}
