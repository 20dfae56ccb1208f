//! Converse, wherever its session is. When the server of the session is lost, the stream is opened with the next one, after the last
//! event that the caller got. Prompts whose turns have not ended are sent again if they are known by a `request_id`; of the others
//! the caller is told that they were cut.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{future::FutureExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tracing::info;

use super::{
    answering::conversing,
    call::{Call, Local, local},
    first::{self, First, Read},
    frame::{Frames, GrpcFrame},
    hop,
    method::Method,
    peers::Peers,
    relay::{Piece, Source, end, is_expired},
    trail::Trail,
};
use crate::{
    grpc::{
        convert,
        pb::{self, converse_request::Payload as Up, converse_response::Payload as Down},
        status,
    },
    lock::lock,
    session::{Delivery, Sessions},
};

/// What the caller says, which goes to the server that has the session.
type Caller = Arc<Mutex<Speech>>;

struct Speech {
    /// `None`: the caller has finished.
    body: Option<Body>,
    frames: Frames,
    /// The headers, which tell how messages are compressed.
    headers: HeaderMap,
    /// The longest message, in bytes. From a longer one on all is passed on as it comes, for the service to refuse it.
    max_message_size: usize,
    is_refused: bool,
    /// What the next server is to be told first.
    first: VecDeque<GrpcFrame>,
    /// The prompts whose turns have not ended, in their order.
    prompts: VecDeque<Prompt>,
    /// Those whose turns were cut, by `prompt_id`: the caller is to be told.
    cut: Vec<String>,
    /// Counts the servers: only the latest hears what is said.
    listener: u64,
}

struct Prompt {
    prompt_id: String,
    /// It as it was said, if it may be said again.
    again: Option<GrpcFrame>,
}

impl Speech {
    fn note(&mut self, frame: &GrpcFrame) {
        // It is all there, and so read at once.
        let plain = first::plain(frame, &self.headers, self.max_message_size).now_or_never().flatten();
        let request = plain.and_then(|plain| plain.decode());
        let Some(pb::ConverseRequest { payload: Some(Up::Prompt(prompt)) }) = request else { return };
        let is_known = prompt.prompt.is_some_and(|prompt| !prompt.request_id.is_empty());
        self.prompts
            .push_back(Prompt { prompt_id: prompt.prompt_id, again: is_known.then(|| frame.clone()) });
    }

    /// The next server is to hear what is said. The prompts that are known by a `request_id` are said again.
    fn begin_anew(&mut self) {
        let (again, cut): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.prompts).into_iter().partition(|prompt| prompt.again.is_some());
        self.first = again.iter().filter_map(|prompt| prompt.again.clone()).collect();
        self.prompts = again.into();
        self.cut.extend(cut.into_iter().map(|prompt| prompt.prompt_id));
        self.listener += 1;
    }

    fn has_ended(&mut self, prompt_id: &str) {
        let at = self.prompts.iter().position(|prompt| prompt.prompt_id == prompt_id);
        at.map(|at| self.prompts.remove(at));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<GrpcFrame, Status>>> {
        loop {
            if let Some(frame) = self.first.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if let Some(frame) = self.frames.next() {
                self.note(&frame);
                return Poll::Ready(Some(Ok(frame)));
            }
            self.is_refused |= self.frames.length().is_some_and(|length| length > self.max_message_size);
            if self.is_refused
                && let Some(rest) = Some(std::mem::take(&mut self.frames).rest()).filter(|it| !it.is_empty())
            {
                return Poll::Ready(Some(Ok(GrpcFrame::raw(rest))));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match std::task::ready!(http_body::Body::poll_frame(Pin::new(body), cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.frames.push(&data);
                    }
                }
                Some(Err(status)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(status)));
                }
                None => self.body = None,
            }
        }
    }
}

/// What one server hears.
struct Heard {
    caller: Caller,
    listener: u64,
    opening: Option<Bytes>,
}

impl http_body::Body for Heard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(Ok(Frame::data(opening))));
        }
        let mut speech = lock(&self.caller);
        if speech.listener != self.listener {
            return Poll::Ready(None);
        }
        speech.poll(cx).map(|frame| frame.map(|frame| frame.map(|frame| Frame::data(frame.bytes()))))
    }
}

/// A stream of Converse.
pub(super) struct Conversation<S> {
    call: Arc<Call<S>>,
    caller: Caller,
    frames: Frames,
    /// Where the caller is.
    trail: Trail,
    has_opened: bool,
    /// Whether the stream is just being opened with the next server.
    reopens: bool,
    ready: VecDeque<Frame<Bytes>>,
}

impl<S: Local> Conversation<S> {
    /// Opens the stream where the session is that the caller names. The end, if that cannot be.
    async fn open(
        call: Call<S>,
        rest: Body,
        max_message_size: usize,
    ) -> Result<(Self, Source), Frame<Bytes>> {
        let call = Arc::new(call);
        let caller = Arc::new(Mutex::new(Speech {
            body: Some(rest),
            frames: Frames::default(),
            headers: call.parts.headers.clone(),
            max_message_size,
            is_refused: false,
            first: VecDeque::new(),
            prompts: VecDeque::new(),
            cut: Vec::new(),
            listener: 0,
        }));
        let served = call.serve(&call.first, || listen(&caller, &call.first), call.gives_up_at()).await;
        let served = served.map_err(|status| end(&status))?;
        let (response, source) = Source::of(served, &call.sessions, call.method);
        let mut headers = response.into_parts().0.headers;
        if headers.contains_key(hop::GRPC_STATUS) {
            hop::clean(&mut headers);
            return Err(Frame::trailers(headers));
        }
        let conversation = Self {
            call,
            caller,
            frames: Frames::default(),
            trail: Trail::default(),
            has_opened: false,
            reopens: false,
            ready: VecDeque::new(),
        };
        Ok((conversation, source))
    }

    async fn next(&mut self, source: &mut Source) -> Frame<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return frame;
            }
            match source.next().await {
                Piece::Data(data) => self.take(&data),
                Piece::Trailers(trailers) if hop::is_passing(&trailers) => {
                    if let Some(end) = self.go_on(source, Some(trailers)).await {
                        return end;
                    }
                }
                Piece::Trailers(mut trailers) => {
                    hop::clean(&mut trailers);
                    let end = Frame::trailers(trailers);
                    if !self.reopens || !is_expired(&end) || !self.trail.step_back() {
                        return end;
                    }
                    if let Some(end) = self.go_on(source, None).await {
                        return end;
                    }
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

    fn take(&mut self, data: &Bytes) {
        self.frames.push(data);
        while let Some(frame) = self.frames.next() {
            if let Some(light) = conversing(&frame) {
                self.reopens &= !light.is_opened;
                if light.is_opened && std::mem::replace(&mut self.has_opened, true) {
                    continue;
                }
                if !self.trail.note(&light) {
                    continue;
                }
                if let Some(prompt_id) = light.ended {
                    lock(&self.caller).has_ended(&prompt_id);
                }
            }
            self.ready.push_back(Frame::data(frame.bytes()));
        }
    }

    /// Opens the stream with the next server. The end, if that cannot be.
    async fn go_on(&mut self, source: &mut Source, trailers: Option<HeaderMap>) -> Option<Frame<Bytes>> {
        let Some(opening) = self.opening() else {
            // What is compressed is not read, and so not known well enough.
            return Some(
                trailers.map_or_else(|| end(&self.call.cut_off(Delivery::Unknown)), Frame::trailers),
            );
        };
        if self.call.sessions.draining().is_cancelled() {
            return Some(end(&status::closing()));
        }
        info!("a conversation goes on with another server");
        self.frames = Frames::default();
        self.reopens = true;
        let (caller, first) = (&self.caller, &opening);
        let served = self.call.serve(first, || listen(caller, first), self.call.gives_up_at()).await;
        let served = match served {
            Ok(served) => served,
            Err(status) => return Some(end(&status)),
        };
        self.tell_of_cut_turns();
        let (response, next) = Source::of(served, &self.call.sessions, self.call.method);
        *source = next;
        let mut headers = response.into_parts().0.headers;
        hop::clean(&mut headers);
        headers.contains_key(hop::GRPC_STATUS).then(|| Frame::trailers(headers))
    }

    /// How the stream is opened with the next server.
    fn opening(&self) -> Option<First> {
        let request: pb::ConverseRequest = self.call.first.plain.decode()?;
        let Some(Up::Open(open)) = request.payload else { return None };
        let open =
            pb::ConverseOpen { cursor: self.trail.cursor().map_or(open.cursor, str::to_owned), ..open };
        Some(First::of(&pb::ConverseRequest { payload: Some(Up::Open(open)) }))
    }

    /// Tells the caller of turns that were cut with their server.
    fn tell_of_cut_turns(&mut self) {
        let cut = std::mem::take(&mut lock(&self.caller).cut);
        for prompt_id in cut {
            let status = status::turn_cut("the server that had the session was lost", Delivery::Unknown);
            let failure = convert::failure(prompt_id, String::new(), status::reason(&status), &status);
            let message = pb::ConverseResponse { payload: Some(Down::Failure(failure)) };
            self.ready.push_back(Frame::data(GrpcFrame::of(&message).bytes()));
        }
    }
}

/// A stream of Converse, from its headers on.
enum State<S> {
    /// It is not known which session it is about.
    Unopened(Box<Unopened<S>>),
    /// It is.
    Open(Box<(Conversation<S>, Source)>),
    /// Its first message is none that could be forwarded.
    Odd(Body),
    Ended,
}

/// What is known of a stream of Converse before its first message.
pub(super) struct Unopened<S> {
    pub(super) inner: S,
    pub(super) sessions: Sessions,
    pub(super) peers: Peers,
    pub(super) parts: Parts,
    pub(super) body: Body,
    pub(super) max_message_size: usize,
    pub(super) began: Instant,
}

/// The answer to a call of Converse. Its headers come at once, before the caller has said anything: so it is not compressed, which they
/// would have to say.
pub(super) fn answer<S: Local>(mut unopened: Unopened<S>) -> Response<Body> {
    unopened.parts.headers.remove(ACCEPT_ENCODING);
    let pieces = stream::unfold(State::Unopened(Box::new(unopened)), |mut state| async move {
        let frame = state.next().await?;
        let is_end = frame.is_trailers();
        Some((Ok::<_, Status>(frame), if is_end { State::Ended } else { state }))
    });
    let mut response = Response::new(Body::new(StreamBody::new(Box::pin(pieces))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

impl<S: Local> State<S> {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            match self {
                Self::Unopened(_) => {
                    let Self::Unopened(unopened) = std::mem::replace(self, Self::Ended) else { return None };
                    match unopened.opened().await {
                        Ok(opened) => *self = opened,
                        Err(end) => return Some(end),
                    }
                }
                Self::Open(open) => return Some(open.0.next(&mut open.1).await),
                Self::Odd(body) => return body.frame().await?.ok(),
                Self::Ended => return None,
            }
        }
    }
}

impl<S: Local> Unopened<S> {
    /// Reads the first message, and opens the stream.
    async fn opened(self) -> Result<State<S>, Frame<Bytes>> {
        let Self { inner, sessions, peers, parts, body, max_message_size, began } = self;
        let draining = sessions.draining();
        let read = draining.run_until_cancelled(first::read(body, &parts.headers, max_message_size)).await;
        match read {
            None => Err(end(&status::closing())),
            Some(Read::Message(first, rest)) => {
                let method = Method::Converse;
                let call = Call { inner, sessions, peers, method, parts, first: *first, began };
                Ok(State::Open(Box::new(Conversation::open(call, rest, max_message_size).await?)))
            }
            Some(Read::Odd(body)) => {
                let (parts, body) = local(inner, Request::from_parts(parts, body)).await.into_parts();
                match parts.headers.contains_key(hop::GRPC_STATUS) {
                    true => Err(Frame::trailers(parts.headers)),
                    false => Ok(State::Odd(body)),
                }
            }
        }
    }
}

/// What the next server hears, and nobody else any more.
fn listen(caller: &Caller, first: &First) -> Body {
    let mut speech = lock(caller);
    speech.begin_anew();
    let (listener, opening) = (speech.listener, Some(first.sent.clone().bytes()));
    drop(speech);
    Body::new(Heard { caller: caller.clone(), listener, opening })
}
