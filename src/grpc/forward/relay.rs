//! An answer on its way to the caller. Where its server is lost, or lets the session go, the rest comes from the next one, if the
//! call can go on; if not, its caller is told how far it came.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::{
    future::{BoxFuture, FutureExt as _, pending},
    stream,
};
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::{Status, body::Body};
use tracing::info;

use super::{
    answering::watching,
    call::{Call, Forwarded, Local, Served},
    first::First,
    frame::Frames,
    hop,
    method::Method,
    trail::Trail,
};
use crate::{
    grpc::{pb::ErrorReason, status},
    session::{Delivery, Sessions},
};

/// A piece of an answer.
pub(super) enum Piece {
    /// Some of its messages.
    Data(Bytes),
    /// Its end.
    Trailers(HeaderMap),
    /// Its server is lost.
    Broken,
    /// This server is ending.
    Closing,
}

/// The answer of one server.
pub(super) struct Source {
    body: Body,
    by: Option<Forwarded>,
    /// Resolves when its server is dead.
    dead: BoxFuture<'static, ()>,
    /// Resolves when it is to end because this server does.
    closing: BoxFuture<'static, ()>,
}

impl Source {
    /// An answer, and its headers. One that has only headers has its trailers there.
    pub(super) fn of(served: Served, sessions: &Sessions, method: Method) -> (Response<()>, Self) {
        let Served { response, by } = served;
        let (parts, body) = response.into_parts();
        let dead = match &by {
            Some(by) => {
                let (sessions, process) = (sessions.clone(), by.peer.incarnation.clone());
                async move { sessions.until_dead(&process).await }.boxed()
            }
            None => pending().boxed(),
        };
        // Its own streams end by themselves.
        let closing = match &by {
            Some(_) if method.is_endless() => sessions.draining().cancelled_owned().boxed(),
            _ => pending().boxed(),
        };
        (Response::from_parts(parts, ()), Self { body, by, dead, closing })
    }

    pub(super) fn is_anothers(&self) -> bool {
        self.by.is_some()
    }

    pub(super) async fn next(&mut self) -> Piece {
        let Self { body, dead, closing, .. } = self;
        let piece = tokio::select! {
            biased;
            frame = body.frame() => match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Piece::Data(data),
                    Err(frame) => Piece::Trailers(frame.into_trailers().unwrap_or_default()),
                },
                Some(Err(_)) | None => Piece::Broken,
            },
            () = dead => Piece::Broken,
            () = closing => Piece::Closing,
        };
        if let (Piece::Trailers(_) | Piece::Broken | Piece::Closing, Some(by)) = (&piece, &mut self.by) {
            by.leaving.ended();
        }
        piece
    }
}

/// An answer on its way to the caller.
pub(super) struct Relay<S> {
    call: Arc<Call<S>>,
    /// What has come of another server's message that is not whole.
    frames: Frames,
    /// Where a watcher is.
    trail: Trail,
    /// Whether a message has been passed on.
    has_passed: bool,
    ready: VecDeque<Frame<Bytes>>,
}

impl<S: Local> Relay<S> {
    pub(super) fn new(call: Arc<Call<S>>) -> Self {
        Self {
            call,
            frames: Frames::default(),
            trail: Trail::default(),
            has_passed: false,
            ready: VecDeque::new(),
        }
    }

    /// The answer for the caller.
    pub(super) fn answer(self, served: Served) -> Response<Body> {
        let (response, source) = Source::of(served, &self.call.sessions, self.call.method);
        let (mut parts, ()) = response.into_parts();
        hop::clean(&mut parts.headers);
        // One that has only headers, or that no other server can go on with.
        let is_whole = parts.headers.contains_key(hop::GRPC_STATUS);
        let is_short = matches!(self.call.method, Method::Create | Method::Read | Method::Write);
        if is_whole || (is_short && !source.is_anothers()) {
            return Response::from_parts(parts, source.body);
        }
        let pieces = stream::unfold(Some((self, source)), |state| async move {
            let (mut relay, mut source) = state?;
            let frame = relay.next(&mut source).await;
            let is_end = frame.is_trailers();
            Some((Ok::<_, Status>(frame), (!is_end).then_some((relay, source))))
        });
        Response::from_parts(parts, Body::new(StreamBody::new(Box::pin(pieces))))
    }

    async fn next(&mut self, source: &mut Source) -> Frame<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.has_passed = true;
                return frame;
            }
            match source.next().await {
                Piece::Data(data) if !source.is_anothers() => {
                    self.has_passed = true;
                    return Frame::data(data);
                }
                Piece::Data(data) => self.take(&data),
                Piece::Trailers(mut trailers) => {
                    if hop::is_passing(&trailers) {
                        if let Some(cursor) =
                            trailers.get(status::CURSOR).and_then(|cursor| cursor.to_str().ok())
                        {
                            self.trail.go_to(cursor);
                        }
                        if let Some(end) = self.go_on(source, Some(&trailers)).await {
                            return end;
                        }
                        continue;
                    }
                    hop::clean(&mut trailers);
                    return Frame::trailers(trailers);
                }
                Piece::Broken => {
                    if let Some(end) = self.go_on(source, None).await {
                        return end;
                    }
                }
                Piece::Closing => return end(&status::closing()),
            }
        }
    }

    /// Takes what has come from another server: whole messages are passed on.
    fn take(&mut self, data: &Bytes) {
        self.frames.push(data);
        while let Some(frame) = self.frames.next() {
            if self.call.method == Method::Watch
                && let Some(light) = watching(&frame)
                && !self.trail.note(&light)
            {
                continue;
            }
            self.ready.push_back(Frame::data(frame.bytes()));
        }
    }

    /// Goes on with the next server. The end, if that cannot be.
    async fn go_on(&mut self, source: &mut Source, trailers: Option<&HeaderMap>) -> Option<Frame<Bytes>> {
        self.frames = Frames::default();
        let is_done = self.has_passed && !self.call.method.streams();
        if is_done && trailers.is_none() {
            // The answer is there, only its end is lost.
            return Some(end(&Status::ok("")));
        }
        loop {
            let Some(first) = self.call.next(self.trail.cursor(), trailers.is_some()).filter(|_| !is_done)
            else {
                return Some(self.cut_off(trailers));
            };
            let end = self.take_next(source, first).await?;
            if !is_expired(&end) || !self.trail.step_back() {
                return Some(end);
            }
        }
    }

    async fn take_next(&mut self, source: &mut Source, first: First) -> Option<Frame<Bytes>> {
        info!(method = ?self.call.method, "an answer goes on with another server");
        match self.call.go_on(first).await {
            Err(status) => Some(end(&status)),
            Ok(served) => {
                let (response, next) = Source::of(served, &self.call.sessions, self.call.method);
                *source = next;
                let mut headers = response.into_parts().0.headers;
                if !headers.contains_key(hop::GRPC_STATUS) {
                    return None;
                }
                hop::clean(&mut headers);
                Some(Frame::trailers(headers))
            }
        }
    }

    /// The end of an answer with which no server goes on.
    fn cut_off(&self, trailers: Option<&HeaderMap>) -> Frame<Bytes> {
        match trailers {
            Some(trailers) => {
                let mut trailers = trailers.clone();
                hop::clean(&mut trailers);
                Frame::trailers(trailers)
            }
            None => {
                // The headers of SendAndWait come when the prompt is delivered.
                let is_delivered = self.call.method == Method::Turn;
                let delivery = if is_delivered { Delivery::Delivered } else { Delivery::Unknown };
                end(&self.call.cut_off(delivery))
            }
        }
    }
}

/// Whether a server does not know the place from which a reader is to go on.
pub(super) fn is_expired(end: &Frame<Bytes>) -> bool {
    let status = end.trailers_ref().and_then(Status::from_header_map);
    status.is_some_and(|status| status::reason(&status) == ErrorReason::CursorExpired)
}

/// The trailers of a status.
pub(super) fn end(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // A status of ours fits into headers.
    let _ = status.add_header(&mut trailers);
    hop::clean(&mut trailers);
    Frame::trailers(trailers)
}
