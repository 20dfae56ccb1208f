//! A call, which is served by whichever server has its session. Where nothing was done it is tried again.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt as _};
use tracing::warn;

use super::{
    first::First,
    hop,
    method::{Method, watch_after},
    peers::{Carried, Peers},
    sender::Failure,
};
use crate::{
    grpc::{access::Access, deadline::patience, status},
    session::{Delivery, Peer, SessionKey, Sessions, Whereabouts},
    store::Incarnation,
};

/// The pause before a call is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than a lease a call without a deadline waits for a session whose server cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// What serves the calls that are for this server.
pub(in crate::grpc) trait Local:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Local for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A call that may be served by any server.
pub(super) struct Call<S> {
    pub(super) inner: S,
    pub(super) sessions: Sessions,
    pub(super) peers: Peers,
    pub(super) method: Method,
    pub(super) parts: Parts,
    pub(super) first: First,
    pub(super) began: Instant,
}

/// An answer, and who gives it.
pub(super) struct Served {
    pub(super) response: Response<Body>,
    /// `None`: this server.
    pub(super) by: Option<Forwarded>,
}

/// A call that another server serves. Held until its answer has ended.
pub(super) struct Forwarded {
    pub(super) peer: Peer,
    pub(super) leaving: Leaving,
    _carried: Carried,
    /// This server waits for it before it ends.
    _busy: Option<TaskTrackerToken>,
}

/// Tells the server that serves a call that its caller has left, when that is dropped before the call has ended.
pub(super) struct Leaving {
    sessions: Sessions,
    peers: Peers,
    peer: Peer,
    call_id: String,
    has_ended: bool,
}

impl Leaving {
    /// The call has ended: by itself, or with a server.
    pub(super) fn ended(&mut self) {
        self.has_ended = true;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // When this server ends, its callers have not left.
        if self.has_ended || self.sessions.is_shutting_down() {
            return;
        }
        let (peers, peer, call_id) =
            (self.peers.clone(), self.peer.clone(), std::mem::take(&mut self.call_id));
        let busy = self.sessions.busy();
        tokio::spawn(async move {
            peers.leave(&peer, call_id).await;
            drop(busy);
        });
    }
}

impl<S: Local> Call<S> {
    /// Until when it is tried to have it served.
    pub(super) fn gives_up_at(&self) -> Instant {
        match patience(&self.parts.headers) {
            Some(patience) => self.began + patience.for_an_answer(),
            None => Instant::now() + self.sessions.store().lease_term() + PATIENCE,
        }
    }

    /// The status of a call that was not served in time, and of which nothing was done.
    fn too_late(&self, why: &str) -> Status {
        match patience(&self.parts.headers) {
            Some(patience) if self.method.is_turn() => {
                status::turn_timed_out(patience.for_an_answer(), Delivery::NotDelivered)
            }
            Some(patience) => status::timed_out(patience.for_an_answer()),
            None => status::not_forwarded(why, Delivery::NotDelivered),
        }
    }

    /// The request with this body, for this server or another one.
    fn request(&self, body: Body, is_for_another: bool) -> Request<Body> {
        let mut request = Request::from_parts(self.parts.clone(), body);
        if is_for_another {
            let access = Access::of_parts(request.extensions()).clone();
            *request.extensions_mut() = http::Extensions::new();
            hop::speak_for(request.headers_mut(), &access);
            shorten_timeout(request.headers_mut(), self.began);
        }
        request
    }

    /// Has it served where its session is, with this first message and the bodies that `body` makes. Where nothing was done it is tried
    /// again, until then.
    ///
    /// # Errors
    /// If it was in vain.
    pub(super) async fn serve(
        &self,
        first: &First,
        body: impl Fn() -> Body,
        until: Instant,
    ) -> Result<Served, Status> {
        let id = self.method.session(self.parts.uri.path(), &first.plain);
        let tenant = &Access::of_parts(&self.parts.extensions).tenant;
        let key = id.map(|id| SessionKey::new(tenant.clone(), id));
        let mut pause = PAUSE;
        loop {
            let place = match &key {
                Some(key) => self.sessions.locate(key).await,
                None if self.method == Method::Create => Ok(self.sessions.place()),
                None => Ok(Whereabouts::Here),
            };
            let owner = match &place {
                Ok(Whereabouts::At(peer)) => Some(peer.incarnation.clone()),
                _ => None,
            };
            let in_vain = match place {
                // The service says why.
                Ok(Whereabouts::Here) | Err(_) => {
                    let response = local(self.inner.clone(), self.request(body(), false)).await;
                    if !hop::is_passing(response.headers()) {
                        return Ok(Served { response, by: None });
                    }
                    InVain::Passing(response)
                }
                Ok(Whereabouts::At(peer)) => match self.forward(peer, first, &body).await {
                    Ok(served) => return Ok(served),
                    Err(in_vain) => in_vain,
                },
            };
            if let Some(key) = &key {
                self.sessions.mislocated(key);
            }
            let why = match in_vain {
                InVain::Final(status) => return Err(status),
                // Its caller goes elsewhere, because this server is ending.
                InVain::Passing(response) if self.sessions.draining().is_cancelled() => {
                    return Ok(Served { response, by: None });
                }
                InVain::Passing(_) => "its session is on its way to another server".to_owned(),
                InVain::Unreached(why) => why,
            };
            if timeout_at(until, self.pause(pause, owner.as_ref())).await.is_err() {
                return Err(self.too_late(&why));
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Waits before it is tried again: no longer than the server lives that has the session.
    async fn pause(&self, pause: Duration, owner: Option<&Incarnation>) {
        let Some(owner) = owner else { return sleep(pause).await };
        tokio::select! {
            () = sleep(pause) => {}
            () = self.sessions.until_dead(owner) => {}
        }
    }

    /// Has another server serve it.
    async fn forward(&self, peer: Peer, first: &First, body: &impl Fn() -> Body) -> Result<Served, InVain> {
        let mut request = self.request(body(), true);
        let mut leaving = self.leaving(&peer);
        hop::name_call(request.headers_mut(), &leaving.call_id);
        let busy = (!self.method.is_endless()).then(|| self.sessions.busy());
        let answer = tokio::select! {
            biased;
            answer = self.peers.call(&peer, request) => answer,
            // It is frozen, or was.
            () = self.sessions.until_dead(&peer.incarnation) => {
                Err(Failure::Lost(format!("server {} is dead", peer.incarnation.node)))
            }
        };
        if !matches!(&answer, Ok((response, _)) if !response.headers().contains_key(hop::GRPC_STATUS)) {
            leaving.ended();
        }
        match answer {
            Ok((response, _)) if hop::is_passing(response.headers()) => Err(InVain::Passing(response)),
            // What it cannot have from the store this server can, when its lease is over.
            Ok((response, _)) if self.may_have_the_store_alone(&response) => Err(InVain::Passing(response)),
            Ok((response, carried)) => {
                let by = Forwarded { peer, leaving, _carried: carried, _busy: busy };
                Ok(Served { response, by: Some(by) })
            }
            Err(Failure::NotSent(problem)) => Err(InVain::Unreached(format!(
                "server {}, which has the session, cannot be reached: {problem}",
                peer.incarnation.node
            ))),
            Err(Failure::Misled(problem)) => {
                warn!(problem, "a call could not be forwarded");
                Err(InVain::Final(status::not_forwarded(problem, Delivery::NotDelivered)))
            }
            Err(Failure::Lost(problem)) if self.method.may_go_again(&first.plain) => {
                Err(InVain::Unreached(problem))
            }
            Err(Failure::Lost(_)) => Err(InVain::Final(self.cut_off(Delivery::Unknown))),
        }
    }

    /// What tells a server that the caller has left. Only turns are kept for callers, so of other calls it is told by their end.
    fn leaving(&self, peer: &Peer) -> Leaving {
        Leaving {
            sessions: self.sessions.clone(),
            peers: self.peers.clone(),
            peer: peer.clone(),
            call_id: uuid::Uuid::new_v4().to_string(),
            has_ended: !(self.method.is_turn() || self.method == Method::Converse),
        }
    }

    /// Whether another server has done nothing because it does not reach the store, which this one does.
    fn may_have_the_store_alone(&self, response: &Response<Body>) -> bool {
        let is_here = self.sessions.store().availability().borrow().is_here();
        is_here && Status::from_header_map(response.headers()).is_some_and(|it| status::is_without_store(&it))
    }

    /// The status of a call whose server has died over it.
    pub(super) fn cut_off(&self, delivery: Delivery) -> Status {
        const WHY: &str = "the server that had the session was lost";
        if self.method.is_turn() {
            return status::turn_cut(WHY, delivery);
        }
        status::not_forwarded(WHY, Delivery::Unknown)
    }

    /// What is to follow when an answer has broken off, or was none because nothing was done yet.
    pub(super) fn next(&self, cursor: Option<&str>, is_undone: bool) -> Option<First> {
        match self.method {
            Method::Watch => watch_after(&self.first, cursor),
            _ if is_undone || self.method.may_go_again(&self.first.plain) => Some(self.first.clone()),
            _ => None,
        }
    }

    /// Has the rest of an answer served that has broken off.
    ///
    /// # Errors
    /// If no server goes on with it.
    pub(super) async fn go_on(&self, first: First) -> Result<Served, Status> {
        let body = || Body::new(Full::new(first.sent.clone().bytes()));
        self.serve(&first, body, self.gives_up_at()).await
    }
}

/// Why a call was not served.
enum InVain {
    /// The session is on its way. With what its caller is told if there is no time to wait.
    Passing(Response<Body>),
    /// The other server was not reached, or the call can be sent once more.
    Unreached(String),
    /// There is no use in trying again.
    Final(Status),
}

/// Writes into a request how much of its time is left: exactly, and without what its client has added by rounding up.
fn shorten_timeout(headers: &mut HeaderMap, began: Instant) {
    let Some(patience) = patience(headers) else { return };
    let left = patience.exactly().saturating_sub(began.elapsed());
    // At most eight digits.
    let text = match left.as_micros() {
        micros @ 0..100_000_000 => format!("{micros}u"),
        _ => match left.as_millis() {
            millis @ 0..100_000_000 => format!("{millis}m"),
            _ => format!("{}S", left.as_secs().min(99_999_999)),
        },
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert("grpc-timeout", value);
    }
}

/// The answer of this server.
pub(super) async fn local<S: Local>(inner: S, request: Request<Body>) -> Response<Body> {
    match inner.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_server_gets_the_time_that_is_left() {
        let check = |written: &'static str, spent: u64, expected: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(written));
            let began = Instant::now();
            async move {
                tokio::time::advance(Duration::from_millis(spent)).await;
                shorten_timeout(&mut headers, began);
                assert_eq!(headers["grpc-timeout"], expected, "{written}");
            }
        };
        check("1000000u", 300, "700000u").await;
        // C-core may have rounded this up by 4 %.
        check("20S", 0, "19200000u").await;
        check("100m", 200, "0u").await;
        check("8H", 0, "27648000m").await;
        check("99999999H", 0, "99999999S").await;
    }
}
