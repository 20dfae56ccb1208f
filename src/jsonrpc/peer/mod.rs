//! A connection to a JSON-RPC peer: two tasks that own it, and [`Peer`], the handle.
//!
//! ```text
//!  Peer::request ──requests──▶ writer task ──▶ socket
//!     ▲                            ▲
//!     │ oneshot                    │ answers
//!     │                            │
//!  pending table ◀── reader task ──┴─▶ Handler (notifications, requests) ◀── socket
//! ```
//!
//! - The reader waits for the socket only: not for the writer, and not for whoever consumes what it reads.
//! - Only the writer writes, and whole frames only, so that dropping a request cannot leave half of one behind.
//! - An entry in the pending table is owned by the request's future. Whoever takes it out completes the request:
//!   the reader with an answer, the closing of the link with its cause, or the future by being dropped.
//! - The link closes once, with one [`Cause`]. Then both tasks end, and the socket with them.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{SetOnce, mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};
use tracing::Instrument;

use super::{
    frame::{self, Body, Item},
    message::{self, ErrorObject, Incoming, Malformed, Peek, RequestId},
    pending::Pending,
};
use crate::lock::lock;

/// A handle to a link. When its last clone is dropped, the link closes.
#[derive(Clone)]
pub struct Peer(Arc<Link>);

/// Takes what the peer sends by itself: notifications and requests.
///
/// The methods are called on the reader task, in wire order. They must not block, because nothing is read meanwhile. What they
/// are given shares the read buffer: copy what is to be kept for long. A handler that keeps a [`Peer`] of its own link keeps
/// the link open until somebody calls [`Peer::close`].
pub trait Handler: Send + 'static {
    /// Takes a notification before it is parsed: `params` may not even be JSON. True: that was enough. False: it is parsed, and
    /// comes again as a [`notification`](Self::notification) or as what it is.
    fn skimmed(&mut self, method: &[u8], params: &[u8]) -> bool {
        let _ = (method, params);
        false
    }

    /// Takes a notification. `params` are JSON.
    fn notification(&mut self, method: &str, params: Bytes);

    /// Takes a request. The reply may be given later and from anywhere; dropping it answers that the method is unknown.
    fn request(&mut self, method: &str, params: Bytes, reply: Reply) {
        let _ = (method, params);
        drop(reply);
    }

    /// Whether a notification over the frame limit may be dropped. If not, the link closes. `head` is the beginning of the
    /// message, [`frame::HEAD`] bytes.
    fn may_drop_oversized(&mut self, method: &str, head: &[u8]) -> bool {
        let _ = (method, head);
        false
    }
}

/// Limits of a link.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest body that is accepted, in bytes.
    pub max_frame: usize,
    /// How many requests may wait for their answers at a time.
    pub max_pending: usize,
    /// How long to wait between reads, so that much is read at once. Zero: it is read as it comes. For a link on which nothing
    /// is urgent: each read wakes a task, which costs more than most messages.
    pub read_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // The CLI has been seen to send 42 MB in one frame: a history that holds a 20 MB prompt.
            max_frame: 256 * 1024 * 1024,
            // Above the 10,000 turns that an operator may let one CLI run at once, all of which may be sent in one moment.
            max_pending: 16 * 1024,
            read_pause: Duration::ZERO,
        }
    }
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The link closed before the answer came.
    #[error("link closed: {cause}")]
    Closed {
        /// The cause, one value for all who waited.
        cause: Arc<Cause>,
        /// False: not a byte of the request has reached the socket, and it may be sent again elsewhere. True: the peer may have
        /// received it.
        written: bool,
    },
    /// The peer answered with an error.
    #[error("rejected: {0}")]
    Rejected(ErrorObject),
    /// The answer was over the frame limit. The request was carried out or failed; the link goes on.
    #[error("response of {len} bytes is over the limit")]
    ResponseTooLarge {
        /// The length of the answer in bytes.
        len: usize,
    },
    /// [`Options::max_pending`] requests are waiting already. Nothing was sent.
    #[error("too many requests are waiting for an answer")]
    TooManyPending,
    /// The params cannot be encoded as JSON. Nothing was sent.
    #[error("params cannot be encoded: {0}")]
    Encode(String),
}

/// Why a link closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The peer closed the connection, between two frames.
    #[error("the peer closed the connection")]
    Eof,
    /// The peer closed the connection, or died, while it was writing.
    #[error("the peer closed the connection inside a frame")]
    EofInsideFrame,
    /// Reading or writing failed.
    #[error("I/O error: {message}")]
    Io {
        /// The kind, for code.
        kind: io::ErrorKind,
        /// The text, for people.
        message: String,
    },
    /// The peer's bytes are not frames.
    #[error("framing: {0}")]
    Frame(#[from] frame::Error),
    /// A frame of the peer's is not a message. It may have been an answer, whose request would wait for ever.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// The peer could not parse a frame and cannot say which, so that its request would wait for ever.
    // The peer's message is left out: parsers like to quote what they could not parse, and that is a prompt.
    #[error("the peer could not parse a message (code {})", .0.code)]
    PeerParseFailure(ErrorObject),
    /// The peer breaks the protocol.
    #[error("the peer misbehaved: {0}")]
    PeerMisbehaved(String),
    /// A frame over the limit could be neither attributed to a request nor dropped.
    #[error("a frame of {len} bytes is over the limit ({})", method.as_deref().unwrap_or("of unknown method"))]
    OversizedFrame {
        /// The length of the frame in bytes.
        len: usize,
        /// The notification's method. `None` if the beginning of the frame does not tell.
        method: Option<String>,
    },
    /// This side closed the link: [`Peer::close`], the last handle dropped, or a [`Handler`] that panicked.
    #[error("closed locally")]
    Local,
}

impl Cause {
    /// Whether the peer, or the way to it, is gone; otherwise one of the two sides ended the link.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Eof | Self::EofInsideFrame | Self::Io { .. } => true,
            Self::Frame(_)
            | Self::Malformed(_)
            | Self::PeerParseFailure(_)
            | Self::PeerMisbehaved(_)
            | Self::OversizedFrame { .. }
            | Self::Local => false,
        }
    }
}

impl Peer {
    /// Starts a link over `io`. To be called within a Tokio runtime.
    pub fn spawn<IO>(io: IO, handler: impl Handler, options: Options) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read_half, write_half) = tokio::io::split(io);
        let (requests, queued_requests) = mpsc::channel(REQUEST_QUEUE);
        let (answers, queued_answers) = mpsc::channel(ANSWER_QUEUE);
        let shared = Arc::new(Shared::default());
        let max_pending = options.max_pending;
        let reader = Reader { handler, shared: shared.clone(), answers };
        let writer = Writer { shared: shared.clone(), requests: queued_requests, answers: queued_answers };

        let mut tasks = JoinSet::new();
        tasks.spawn(until_closed(shared.clone(), reader.run(read_half, options)).in_current_span());
        tasks.spawn(until_closed(shared.clone(), writer.run(write_half)).in_current_span());
        Self(Arc::new(Link { shared, requests, max_pending, _tasks: tasks }))
    }

    /// Sends a request and waits for its result, which is JSON, as long as the link lives: deadlines are the caller's. The
    /// result shares the read buffer: copy what is to be kept for long.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the request: nothing is left behind, and an answer is ignored when it comes. If the request
    /// has not been written yet, it will not be; otherwise the peer carries it out all the same.
    ///
    /// # Errors
    /// Each variant of [`Error`] says what is known of the request.
    pub async fn request<P>(&self, method: &'static str, params: &P) -> Result<Bytes, Error>
    where
        P: Serialize + ?Sized,
    {
        let Link { shared, requests, max_pending, .. } = &*self.0;
        // Before anything is sent: the answer may come before the call that writes the request has returned.
        let (entry, answer) = Entry::new(shared, *max_pending)?;
        let frame =
            message::request(entry.id, method, params).map_err(|error| Error::Encode(error.to_string()))?;
        // It fails if the writer is gone. Then the link closes, which gives the answer.
        let _ = requests.send((entry.id, frame)).await;
        answer.await.unwrap_or_else(|_| {
            // Not reached as long as each waiter taken from the table is told its outcome. If one were forgotten, its caller
            // must not hang.
            Err(Error::Closed { cause: shared.close(Cause::Local), written: true })
        })
    }

    /// Resolves when the link has closed, with the cause.
    pub async fn closed(&self) -> Arc<Cause> {
        self.0.shared.cause.wait().await.clone()
    }

    /// The cause, if the link has closed.
    pub fn cause(&self) -> Option<Arc<Cause>> {
        self.0.shared.cause.get().cloned()
    }

    /// Whether the link has closed. If not, it may still close at any moment.
    pub fn is_closed(&self) -> bool {
        self.0.shared.cause.initialized()
    }

    /// Closes the link. Requests that wait for an answer end with [`Cause::Local`]; what is queued is not written.
    pub fn close(&self) {
        self.0.shared.close(Cause::Local);
    }

    /// Number of requests that wait for their answers.
    pub fn in_flight(&self) -> usize {
        lock(&self.0.shared.pending).len()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("in_flight", &self.in_flight()).field("cause", &self.cause()).finish()
    }
}

/// The parts of a link that all its handles own together.
struct Link {
    shared: Arc<Shared>,
    requests: mpsc::Sender<(u64, Bytes)>,
    max_pending: usize,
    /// The reader and the writer, which end when the last handle is dropped.
    _tasks: JoinSet<()>,
}

/// What handles, tasks and replies share. Once there is a cause, the table stays empty; both are therefore changed only under
/// the table's lock.
#[derive(Default)]
struct Shared {
    pending: Mutex<Pending<Waiter>>,
    cause: SetOnce<Arc<Cause>>,
}

type Outcome = Result<Bytes, Error>;

struct Waiter {
    /// A request that waits for its answer.
    answer: oneshot::Sender<Outcome>,
    /// Whether the writer has begun to write the request.
    written: bool,
}

impl Shared {
    /// Closes the link for `cause`, unless it was closed before. Returns the cause that counts, which is the first one.
    fn close(&self, cause: Cause) -> Arc<Cause> {
        let cause = Arc::new(cause);
        let waiters = {
            let mut pending = lock(&self.pending);
            if let Some(first) = self.cause.get() {
                return first.clone();
            }
            // Cannot have been set meanwhile: it is set only here, under the lock.
            let _ = self.cause.set(cause.clone());
            pending.drain()
        };
        tracing::debug!(%cause, waiting = waiters.len(), "link closed");
        for Waiter { answer, written } in waiters {
            // It fails if the request is being dropped at this moment.
            let _ = answer.send(Err(Error::Closed { cause: cause.clone(), written }));
        }
        cause
    }

    fn complete(&self, id: u64, outcome: Outcome) {
        let (waiter, issued) = {
            let mut pending = lock(&self.pending);
            (pending.take(id), pending.has_issued(id))
        };
        match waiter {
            Some(waiter) => {
                let _ = waiter.answer.send(outcome);
            }
            // A request that was dropped usually ends this way.
            None if issued => tracing::trace!(id, "late response ignored"),
            None => tracing::debug!(id, "response to a request that was never sent ignored"),
        }
    }

    /// Marks a request as written, just before its first byte is. False: nobody waits for it any more, and it must not be
    /// written.
    fn begin(&self, id: u64) -> bool {
        lock(&self.pending).get_mut(id).map(|waiter| waiter.written = true).is_some()
    }
}

/// A request's entry in the pending table. Dropping it removes the entry.
struct Entry<'a> {
    shared: &'a Shared,
    id: u64,
}

impl<'a> Entry<'a> {
    fn new(shared: &'a Shared, max_pending: usize) -> Result<(Self, oneshot::Receiver<Outcome>), Error> {
        let (answer, receiver) = oneshot::channel();
        let mut pending = lock(&shared.pending);
        if let Some(cause) = shared.cause.get() {
            return Err(Error::Closed { cause: cause.clone(), written: false });
        }
        if pending.len() >= max_pending {
            return Err(Error::TooManyPending);
        }
        let id = pending.insert(Waiter { answer, written: false });
        Ok((Self { shared, id }, receiver))
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.shared.pending).take(self.id);
    }
}

/// Runs one half of the link until that ends with a cause, which closes the link, or the link was closed elsewhere.
async fn until_closed(shared: Arc<Shared>, half: impl Future<Output = Cause>) {
    /// Closes the link even if `half` panics or is dropped with its runtime: nobody may wait for a task that is gone.
    struct CloseOnDrop<'a>(&'a Shared);
    impl Drop for CloseOnDrop<'_> {
        fn drop(&mut self) {
            self.0.close(Cause::Local);
        }
    }
    let guard = CloseOnDrop(&shared);
    let cause = tokio::select! {
        // First, so that a closed link is left even if its socket is always ready.
        biased;
        _ = shared.cause.wait() => return,
        cause = half => cause,
    };
    guard.0.close(cause);
}

struct Reader<H> {
    handler: H,
    shared: Arc<Shared>,
    answers: mpsc::Sender<Bytes>,
}

impl<H: Handler> Reader<H> {
    async fn run(mut self, mut io: impl AsyncRead + Unpin, options: Options) -> Cause {
        let mut decoder = frame::Decoder::new(options.max_frame);
        let mut buf = BytesMut::new();
        loop {
            loop {
                let dispatched = match decoder.decode(&mut buf) {
                    Ok(Some(Item::Body(body))) => self.body(body),
                    Ok(Some(Item::Oversized { len, head })) => self.oversized(len, &head),
                    Ok(None) => break,
                    Err(error) => Err(error.into()),
                };
                if let Err(cause) = dispatched {
                    return cause;
                }
            }
            if buf.capacity() - buf.len() < READ_MIN {
                // Reuses the allocation if nobody holds slices of it any more.
                buf.reserve(READ_STEP);
            }
            let room = buf.capacity() - buf.len();
            match io.read_buf(&mut buf).await {
                Ok(0) if decoder.is_between_frames() => return Cause::Eof,
                Ok(0) => return Cause::EofInsideFrame,
                // There may be more: a peer that is faster than the pauses must not have to wait.
                Ok(read) if read == room => {}
                Ok(_) if options.read_pause.is_zero() => {}
                Ok(_) => sleep(options.read_pause).await,
                Err(error) => return error.into(),
            }
        }
    }

    fn body(&mut self, body: Body<'_>) -> Result<(), Cause> {
        if let Some((method, params)) = message::skim(&body)
            && self.handler.skimmed(method, params)
        {
            return Ok(());
        }
        let body = message::repair(body.take());
        match message::parse(&body)? {
            Incoming::Response { id, outcome } => {
                self.shared.complete(id, outcome.map_err(Error::Rejected));
            }
            Incoming::Notification { method, params } => self.handler.notification(&method, params),
            Incoming::Request { id, method, params } => {
                let reply = self.reply(id, &method);
                self.handler.request(&method, params, reply);
            }
            Incoming::ParseFailure(error) => return Err(Cause::PeerParseFailure(error)),
        }
        Ok(())
    }

    fn oversized(&mut self, len: usize, head: &[u8]) -> Result<(), Cause> {
        match message::peek(head) {
            Some(Peek::Response { id }) => self.shared.complete(id, Err(Error::ResponseTooLarge { len })),
            Some(Peek::Request { id, method }) => {
                tracing::debug!(%method, len, "oversized request refused");
                self.reply(id, &method).error(message::INVALID_REQUEST, "Request too large");
            }
            Some(Peek::Notification { method }) if self.handler.may_drop_oversized(&method, head) => {
                tracing::debug!(%method, len, "oversized notification dropped");
            }
            Some(Peek::Notification { method }) => {
                return Err(Cause::OversizedFrame { len, method: Some(method.into_owned()) });
            }
            None => return Err(Cause::OversizedFrame { len, method: None }),
        }
        Ok(())
    }

    fn reply(&self, id: RequestId, method: &str) -> Reply {
        let (answers, shared) = (self.answers.clone(), self.shared.clone());
        Reply(Some(Unanswered { id, method: method.into(), answers, shared }))
    }
}

/// The answer to a request of the peer, which is still owed. Dropping it answers that the method is unknown. On a link that has
/// closed, it does nothing.
#[must_use = "dropping it answers that the method is unknown"]
pub struct Reply(Option<Unanswered>);

struct Unanswered {
    id: RequestId,
    method: Box<str>,
    answers: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

impl Reply {
    /// Answers with a result. A result that cannot be encoded as JSON becomes an internal error.
    pub fn ok<R>(mut self, result: &R)
    where
        R: Serialize + ?Sized,
    {
        let Some(request) = self.0.take() else { return };
        let frame = message::response_ok(&request.id, result).unwrap_or_else(|error| {
            tracing::warn!(method = %request.method, %error, "result cannot be encoded");
            message::response_err(&request.id, message::INTERNAL_ERROR, "Internal error")
        });
        request.send(frame);
    }

    /// Answers with an error.
    pub fn error(mut self, code: i64, message: &str) {
        if let Some(request) = self.0.take() {
            let frame = message::response_err(&request.id, code, message);
            request.send(frame);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            let text = format!("Unhandled method {}", request.method);
            let frame = message::response_err(&request.id, message::METHOD_NOT_FOUND, &text);
            request.send(frame);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("method", &self.0.as_ref().map(|request| &request.method)).finish()
    }
}

impl Unanswered {
    fn send(self, frame: Bytes) {
        // Never waits: it runs on the reader task, and if the reader waits for the writer while the peer does so too, that is a
        // deadlock.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(frame) {
            let text = format!("{ANSWER_QUEUE} answers to its requests are waiting to be read");
            self.shared.close(Cause::PeerMisbehaved(text));
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<(u64, Bytes)>,
    answers: mpsc::Receiver<Bytes>,
}

impl Writer {
    async fn run(mut self, mut io: impl AsyncWrite + Unpin) -> Cause {
        let mut small = BytesMut::new();
        while let Some(first) = self.next().await {
            let large = self.gather(first, &mut small);
            let mut batch = (&mut small).chain(large);
            let written = async {
                io.write_all_buf(&mut batch).await?;
                io.flush().await
            };
            if let Err(error) = written.await {
                return error.into();
            }
        }
        Cause::Local
    }

    /// The next frame to write. `None`: there is no handle left to send any.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (id, frame) = tokio::select! {
                // Answers first: there are few, and turns stand still until the peer has them.
                biased;
                Some(answer) = self.answers.recv() => return Some(answer),
                request = self.requests.recv() => request?,
            };
            if self.shared.begin(id) {
                return Some(frame);
            }
        }
    }

    /// Copies the queued frames into `small`, up to [`BATCH`] bytes, so that a burst costs one system call. A large frame ends
    /// the batch and is returned, to be written after it without being copied.
    fn gather(&mut self, first: Bytes, small: &mut BytesMut) -> Bytes {
        let mut next = Some(first);
        while let Some(frame) = next {
            if frame.len() >= BATCH {
                return frame;
            }
            small.extend_from_slice(&frame);
            next = if small.len() < BATCH { self.try_next() } else { None };
        }
        Bytes::new()
    }

    fn try_next(&mut self) -> Option<Bytes> {
        if let Ok(answer) = self.answers.try_recv() {
            return Some(answer);
        }
        loop {
            let (id, frame) = self.requests.try_recv().ok()?;
            if self.shared.begin(id) {
                return Some(frame);
            }
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }
}

/// The number of encoded requests that may wait to be written. The writer takes a burst at once, so the queue fills only if the
/// peer does not read; then callers wait, and frames do not pile up.
const REQUEST_QUEUE: usize = 64;

/// The number of answers that may wait to be written: as many as the requests that fit into some reads, because the reader may
/// take those before the writer runs. A peer that has sent more is not reading, and its answers would pile up for ever.
const ANSWER_QUEUE: usize = 4096;

/// The number of bytes that go into one write, and from which on a frame is not copied. About a socket's send buffer.
const BATCH: usize = 64 * 1024;

/// The number of bytes that the read buffer grows by, if it cannot be reused. A streamed turn is about 77 KB, and where a read
/// cuts a frame, its beginning is moved.
const READ_STEP: usize = 256 * 1024;

/// The free room in bytes below which a read is not worth its system call.
const READ_MIN: usize = 8 * 1024;

#[cfg(test)]
mod tests;
