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

use super::message::{self, ErrorObject, Incoming, Malformed, Peek, RequestId};
use super::pending::Pending;
use super::{frame, frame::Item};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::Instrument;

/// A handle to a link. When its last clone is dropped, the link closes.
#[derive(Clone)]
pub struct Peer(Arc<Link>);

/// Receives what the peer says on its own account.
///
/// Called on the reader task, in wire order. It must not block, for nothing is read meanwhile. What it is given
/// shares the read buffer: copy what is to be kept for long. A handler that keeps a [`Peer`] of its own link
/// keeps the link open until somebody calls [`Peer::close`].
pub trait Handler: Send + 'static {
    /// The peer tells something. `params` are JSON.
    fn notification(&mut self, method: &str, params: Bytes);

    /// The peer asks something. The reply may be given later and from anywhere; dropped, it says that nobody
    /// knows the method.
    fn request(&mut self, method: &str, params: Bytes, reply: Reply) {
        let _ = (method, params);
        drop(reply);
    }

    /// Whether a notification over the frame limit may be dropped. If not, the link closes. `head` is the
    /// beginning of the message, [`frame::HEAD`] bytes.
    fn may_drop_oversized(&mut self, method: &str, head: &[u8]) -> bool {
        let _ = (method, head);
        false
    }
}

/// Limits of a link.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the longest body that is accepted.
    pub max_frame: usize,
    /// Requests that may wait for their answers at a time.
    pub max_pending: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // The CLI has been seen to send 42 MB in one frame: a history that holds a 20 MB prompt.
            max_frame: 256 * 1024 * 1024,
            // Far above what one CLI can serve, and still only some hundred kilobytes here.
            max_pending: 4096,
        }
    }
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The link closed before the answer came.
    #[error("link closed: {cause}")]
    Closed {
        /// The same one for everybody who waited.
        cause: Arc<Cause>,
        /// False: not a byte of the request has reached the socket, and it may be sent again elsewhere. True: the
        /// peer may have received it.
        written: bool,
    },
    /// The peer answered with an error.
    #[error("rejected: {0}")]
    Rejected(ErrorObject),
    /// The answer was over the frame limit. The request was carried out, or has failed; the link goes on.
    #[error("response of {len} bytes is over the limit")]
    ResponseTooLarge {
        /// In bytes.
        len: usize,
    },
    /// [`Options::max_pending`] requests are waiting already. Nothing was sent.
    #[error("too many requests are waiting for an answer")]
    TooManyPending,
    /// The params cannot be written as JSON. Nothing was sent.
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
        /// For telling them apart.
        kind: io::ErrorKind,
        /// For people.
        message: String,
    },
    /// The peer's bytes are no frames.
    #[error("framing: {0}")]
    Frame(#[from] frame::Error),
    /// A frame of the peer's is no message. It may have been somebody's answer, who would wait for ever.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// The peer could not parse a frame of ours. Whose it was it cannot say, so that one would wait for ever.
    // The peer's message is left out: parsers like to quote what they could not parse, and that is a prompt.
    #[error("the peer could not parse a message (code {})", .0.code)]
    PeerParseFailure(ErrorObject),
    /// The peer does what no peer should.
    #[error("the peer misbehaved: {0}")]
    PeerMisbehaved(String),
    /// A frame over the limit that could be neither attributed to a request nor dropped.
    #[error("a frame of {len} bytes is over the limit ({})", method.as_deref().unwrap_or("of unknown method"))]
    OversizedFrame {
        /// In bytes.
        len: usize,
        /// The notification's method. `None` if the beginning of the frame does not tell what it is.
        method: Option<String>,
    },
    /// This side closed it: [`Peer::close`], the last handle dropped, or a [`Handler`] that panicked.
    #[error("closed locally")]
    Local,
}

impl Peer {
    /// Starts a link over `io`. Needs a Tokio runtime around it.
    pub fn spawn<IO>(io: IO, handler: impl Handler, options: Options) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read_half, write_half) = tokio::io::split(io);
        let (requests, queued_requests) = mpsc::channel(REQUEST_QUEUE);
        let (answers, queued_answers) = mpsc::channel(ANSWER_QUEUE);
        let shared = Arc::new(Shared::default());
        let reader = Reader { handler, shared: shared.clone(), answers };
        let writer = Writer { shared: shared.clone(), requests: queued_requests, answers: queued_answers };

        let mut tasks = JoinSet::new();
        tasks.spawn(until_closed(shared.clone(), reader.run(read_half, options.max_frame)).in_current_span());
        tasks.spawn(until_closed(shared.clone(), writer.run(write_half)).in_current_span());
        Self(Arc::new(Link { shared, requests, max_pending: options.max_pending, _tasks: tasks }))
    }

    /// Sends a request and waits for its result, which is JSON. It waits as long as the link lives: deadlines are
    /// the caller's. The result shares the read buffer: copy what is to be kept for long.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the request: nothing is left behind, and an answer is ignored when it comes.
    /// If it has not been written yet, it will not be; otherwise the peer carries it out all the same.
    ///
    /// # Errors
    /// See [`Error`]: each variant says what is known of the request.
    pub async fn request<P>(&self, method: &'static str, params: &P) -> Result<Bytes, Error>
    where
        P: Serialize + ?Sized,
    {
        let Link { shared, requests, max_pending, .. } = &*self.0;
        // Before anything is sent: the answer may come before the call that writes the request has returned.
        let (entry, answer) = Entry::new(shared, *max_pending)?;
        let frame =
            message::request(entry.id, method, params).map_err(|error| Error::Encode(error.to_string()))?;
        // It fails if the writer is gone. Then the link closes, and that is the answer.
        let _ = requests.send((entry.id, frame)).await;
        answer.await.unwrap_or_else(|_| {
            // Not reached while each waiter taken from the table is told its outcome. Should one be forgotten
            // some day, its caller must not hang.
            Err(Error::Closed { cause: shared.close(Cause::Local), written: true })
        })
    }

    /// Waits until the link has closed, and says why.
    pub async fn closed(&self) -> Arc<Cause> {
        self.0.shared.cause.wait().await.clone()
    }

    /// Why the link has closed, if it has.
    pub fn cause(&self) -> Option<Arc<Cause>> {
        self.0.shared.cause.get().cloned()
    }

    /// Whether the link has closed. It may be about to all the same.
    pub fn is_closed(&self) -> bool {
        self.0.shared.cause.initialized()
    }

    /// Closes the link. Whoever waits for an answer is told [`Cause::Local`]; what is queued is not written.
    pub fn close(&self) {
        self.0.shared.close(Cause::Local);
    }

    /// How many requests wait for their answers.
    pub fn in_flight(&self) -> usize {
        self.0.shared.pending().len()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("in_flight", &self.in_flight()).field("cause", &self.cause()).finish()
    }
}

/// What the handles own.
struct Link {
    shared: Arc<Shared>,
    requests: mpsc::Sender<(u64, Bytes)>,
    max_pending: usize,
    /// Ended, in case they have not, when the last handle is dropped.
    _tasks: JoinSet<()>,
}

/// What handles, tasks and replies share. Its invariant: once there is a cause, the table stays empty. Both are
/// therefore changed under the table's lock only.
#[derive(Default)]
struct Shared {
    pending: Mutex<Pending<Waiter>>,
    cause: SetOnce<Arc<Cause>>,
}

type Outcome = Result<Bytes, Error>;

struct Waiter {
    answer: oneshot::Sender<Outcome>,
    /// Whether the writer has begun with it.
    written: bool,
}

impl Shared {
    /// A panic cannot leave the table half changed: nothing that may panic is done under the lock.
    fn pending(&self) -> MutexGuard<'_, Pending<Waiter>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the link for `cause`, unless it was closed before. Returns the cause that counts, the first one.
    fn close(&self, cause: Cause) -> Arc<Cause> {
        let cause = Arc::new(cause);
        let waiters = {
            let mut pending = self.pending();
            if let Some(first) = self.cause.get() {
                return first.clone();
            }
            // Cannot have been set meanwhile: only here is it set, and under the lock.
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
            let mut pending = self.pending();
            (pending.take(id), pending.has_issued(id))
        };
        match waiter {
            Some(waiter) => {
                let _ = waiter.answer.send(outcome);
            }
            // The usual end of a request that was dropped.
            None if issued => tracing::trace!(id, "late response ignored"),
            None => tracing::debug!(id, "response to a request that was never sent ignored"),
        }
    }

    /// Marks a request as written, just before its first byte is. False: nobody waits for it any more, and it
    /// must not be written.
    fn begin(&self, id: u64) -> bool {
        self.pending().get_mut(id).map(|waiter| waiter.written = true).is_some()
    }
}

/// A request's place in the pending table.
struct Entry<'a> {
    shared: &'a Shared,
    id: u64,
}

impl<'a> Entry<'a> {
    fn new(shared: &'a Shared, max_pending: usize) -> Result<(Self, oneshot::Receiver<Outcome>), Error> {
        let (answer, receiver) = oneshot::channel();
        let mut pending = shared.pending();
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
        self.shared.pending().take(self.id);
    }
}

/// Runs one half of the link, until it finds a cause to close it or somebody else has.
async fn until_closed(shared: Arc<Shared>, half: impl Future<Output = Cause>) {
    /// Also if `half` panics, or is dropped with its runtime: nobody shall wait for a task that is gone.
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
    async fn run(mut self, mut io: impl AsyncRead + Unpin, max_frame: usize) -> Cause {
        let mut decoder = frame::Decoder::new(max_frame);
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
            match io.read_buf(&mut buf).await {
                Ok(0) if decoder.is_between_frames() => return Cause::Eof,
                Ok(0) => return Cause::EofInsideFrame,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    fn body(&mut self, body: Bytes) -> Result<(), Cause> {
        let body = message::repair(body);
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

/// The duty to answer a request of the peer, which waits. Dropped, it answers that the method is unknown.
/// On a link that has closed, it does nothing.
#[must_use = "dropping it answers that the method is unknown"]
pub struct Reply(Option<Unanswered>);

struct Unanswered {
    id: RequestId,
    method: Box<str>,
    answers: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

impl Reply {
    /// Answers with a result. One that cannot be written as JSON becomes an internal error.
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
        // Never waits: it runs on the reader task, and a reader that waits for the writer, while the peer does
        // the same, is a deadlock.
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

    /// Adds what else is queued to `small`, up to [`BATCH`] bytes, so that a burst costs one system call. A large
    /// frame ends the batch and is returned, to be written behind it without being copied.
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

/// Requests encoded and not yet written. The writer takes a burst at once, so this fills only if the peer does
/// not read; then callers wait, rather than frames pile up.
const REQUEST_QUEUE: usize = 64;

/// Answers not yet written. As many requests as fit into some reads, for the reader may take those before the
/// writer gets its turn; a peer that has sent more is not reading, and would make us buffer for ever.
const ANSWER_QUEUE: usize = 4096;

/// Bytes that go into one write, and from which on a frame is not copied. About a socket's send buffer.
const BATCH: usize = 64 * 1024;

/// Bytes that the read buffer grows by, if it cannot be reused. A streamed turn is about 77 KB.
const READ_STEP: usize = 64 * 1024;

/// Room below which a read is not worth its system call.
const READ_MIN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};
    use tokio::io::{DuplexStream, ReadBuf};

    /// The other end of the wire, which says what it is told to say.
    struct Far {
        io: DuplexStream,
        decoder: frame::Decoder,
        buf: BytesMut,
    }

    impl Far {
        async fn receive(&mut self) -> Value {
            self.next().await.expect("a message, not the end")
        }

        /// `None`: the link was closed, and not inside a frame.
        async fn next(&mut self) -> Option<Value> {
            loop {
                match self.decoder.decode(&mut self.buf).expect("our frames are right") {
                    Some(Item::Body(body)) => return Some(serde_json::from_slice(&body).unwrap()),
                    Some(oversized) => panic!("{oversized:?}"),
                    None if self.io.read_buf(&mut self.buf).await.unwrap() > 0 => {}
                    None => {
                        assert!(self.decoder.is_between_frames());
                        return None;
                    }
                }
            }
        }

        /// Waits until the writer has begun to write, and leaves it there.
        async fn receive_one_byte(&mut self) {
            let byte = self.io.read_u8().await.unwrap();
            self.buf.extend_from_slice(&[byte]);
        }

        async fn send(&mut self, message: Value) {
            self.send_text(&message.to_string()).await;
        }

        async fn send_text(&mut self, body: &str) {
            self.io.write_all(&frame::encode(body.as_bytes())).await.unwrap();
        }

        /// Answers the next request with its own params.
        async fn echo(&mut self) {
            let request = self.receive().await;
            self.send(json!({"id": request["id"], "result": request["params"]})).await;
        }
    }

    /// Does nothing of its own accord.
    struct Deaf;

    impl Handler for Deaf {
        fn notification(&mut self, _: &str, _: Bytes) {}
    }

    /// Passes on what it hears.
    struct Recorder(mpsc::Sender<(String, Bytes)>);

    impl Handler for Recorder {
        fn notification(&mut self, method: &str, params: Bytes) {
            self.0.try_send((method.to_owned(), params)).unwrap();
        }

        fn may_drop_oversized(&mut self, method: &str, head: &[u8]) -> bool {
            assert_eq!(head.len(), frame::HEAD);
            method == "droppable"
        }
    }

    fn recorder() -> (Recorder, mpsc::Receiver<(String, Bytes)>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Recorder(sender), receiver)
    }

    /// Answers requests as told.
    struct Answering<F>(F);

    impl<F: FnMut(&str, Bytes, Reply) + Send + 'static> Handler for Answering<F> {
        fn notification(&mut self, _: &str, _: Bytes) {}

        fn request(&mut self, method: &str, params: Bytes, reply: Reply) {
            (self.0)(method, params, reply);
        }
    }

    fn link(handler: impl Handler) -> (Peer, Far) {
        link_over(16 * 1024, handler)
    }

    /// A link whose wire holds `capacity` bytes each way, and then blocks the one who writes.
    fn link_over(capacity: usize, handler: impl Handler) -> (Peer, Far) {
        let (near, io) = tokio::io::duplex(capacity);
        let options = Options { max_frame: LIMIT, max_pending: 3 };
        (
            Peer::spawn(near, handler, options),
            Far { io, decoder: frame::Decoder::new(1 << 20), buf: BytesMut::new() },
        )
    }

    const LIMIT: usize = 4096;

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn closed(outcome: Outcome) -> (Arc<Cause>, bool) {
        match outcome {
            Err(Error::Closed { cause, written }) => (cause, written),
            other => panic!("{other:?}"),
        }
    }

    fn long(text: &str) -> String {
        text.repeat(2 * LIMIT)
    }

    #[tokio::test]
    async fn a_request_completes_with_its_own_response_in_whatever_order_they_come() {
        let (peer, mut far) = link(Deaf);
        let far_side = async {
            let (first, second) = (far.receive().await, far.receive().await);
            assert_eq!(first, json!({"jsonrpc": "2.0", "id": 1, "method": "a", "params": {"x": 1}}));
            far.send(json!({"id": second["id"], "result": "for b"})).await;
            far.send(json!({"id": first["id"], "result": "for a"})).await;
        };
        let params = json!({"x": 1});
        let (a, b, ()) = tokio::join!(peer.request("a", &params), peer.request("b", "text"), far_side);
        assert_eq!((a, b), (Ok("\"for a\"".into()), Ok("\"for b\"".into())));
        assert_eq!(peer.in_flight(), 0);
    }

    #[tokio::test]
    async fn an_error_of_the_peer_fails_only_its_request() {
        let (peer, mut far) = link(Deaf);
        let far_side = async {
            let id = far.receive().await["id"].clone();
            far.send(json!({"id": id, "error": {"code": -32603, "message": "no", "data": [1]}})).await;
            far.echo().await;
        };
        let near_side = async { (peer.request("a", &1).await, peer.request("b", &2).await) };
        let ((a, b), ()) = tokio::join!(near_side, far_side);
        let error = ErrorObject { code: -32603, message: "no".into(), data: Some(json!([1])) };
        assert_eq!((a, b), (Err(Error::Rejected(error)), Ok("2".into())));
    }

    #[tokio::test]
    async fn all_waiters_of_a_dead_link_see_one_cause() {
        let (peer, mut far) = link(Deaf);
        let far_side = async {
            far.receive().await;
            far.receive().await;
            drop(far);
        };
        let (a, b, watcher, ()) =
            tokio::join!(peer.request("a", &1), peer.request("b", &2), peer.closed(), far_side);
        let (after, written) = closed(peer.request("c", &3).await);
        assert!(!written);
        assert_eq!(*watcher, Cause::Eof);
        for cause in [closed(a).0, closed(b).0, after, peer.cause().unwrap()] {
            assert!(Arc::ptr_eq(&cause, &watcher));
        }
        assert!(peer.is_closed());
    }

    #[tokio::test]
    async fn a_closed_request_says_whether_it_may_have_been_received() {
        let (peer, mut far) = link_over(64, Deaf);
        let params = long("x");
        let mut begun = pin!(peer.request("a", &params));
        assert!(poll_once(begun.as_mut()).is_pending());
        far.receive_one_byte().await;
        let mut queued = pin!(peer.request("b", &params));
        assert!(poll_once(queued.as_mut()).is_pending());
        drop(far);
        let ((_, begun), (_, queued)) = (closed(begun.await), closed(queued.await));
        assert_eq!((begun, queued), (true, false));
    }

    #[tokio::test]
    async fn a_response_that_comes_before_its_request_is_written_to_the_end_counts() {
        let (peer, mut far) = link_over(64, Deaf);
        let params = long("x");
        let far_side = async {
            far.receive_one_byte().await;
            far.send(json!({"id": 1, "result": "early"})).await;
        };
        let (early, ()) = tokio::join!(peer.request("a", &params), far_side);
        assert_eq!(early, Ok("\"early\"".into()));
        assert_eq!(far.receive().await["params"], params);
    }

    #[tokio::test]
    async fn a_dropped_request_leaves_no_entry_and_is_written_whole_or_not_at_all() {
        let (peer, mut far) = link_over(64, Deaf);
        let params = long("x");
        drop(peer.request("never polled", &params));
        {
            let mut begun = pin!(peer.request("begun", &params));
            assert!(poll_once(begun.as_mut()).is_pending());
            far.receive_one_byte().await;
            let mut queued = pin!(peer.request("queued", &params));
            assert!(poll_once(queued.as_mut()).is_pending());
            assert_eq!(peer.in_flight(), 2);
        }
        assert_eq!(peer.in_flight(), 0);
        let far_side = async {
            assert_eq!(far.receive().await["method"], "begun");
            far.echo().await;
        };
        let (last, ()) = tokio::join!(peer.request("last", &1), far_side);
        assert_eq!(last, Ok("1".into()));
    }

    #[tokio::test]
    async fn a_request_dropped_before_a_full_queue_leaves_no_entry_and_is_not_written() {
        let (near, io) = tokio::io::duplex(64);
        let peer = Peer::spawn(near, Deaf, Options::default());
        let mut far = Far { io, decoder: frame::Decoder::new(1 << 20), buf: BytesMut::new() };
        let params = long("x");
        let mut requests: Vec<_> =
            (0..REQUEST_QUEUE + 2).map(|_| Box::pin(peer.request("a", &params))).collect();
        assert!(poll_once(requests[0].as_mut()).is_pending());
        far.receive_one_byte().await;
        for request in &mut requests {
            assert!(poll_once(request.as_mut()).is_pending());
        }
        assert_eq!(peer.in_flight(), REQUEST_QUEUE + 2);
        drop(requests);
        assert_eq!(peer.in_flight(), 0);
        let (last, ()) = tokio::join!(peer.request("last", &1), async {
            assert_eq!(far.receive().await["id"], 1);
            far.echo().await;
        });
        assert_eq!(last, Ok("1".into()));
    }

    #[tokio::test]
    async fn a_response_that_nobody_waits_for_is_ignored() {
        let (peer, mut far) = link(Deaf);
        {
            let mut dropped = pin!(peer.request("a", &1));
            assert!(poll_once(dropped.as_mut()).is_pending());
            assert_eq!(far.receive().await["method"], "a");
        }
        let far_side = async {
            for id in [1, 1, 0, 99] {
                far.send(json!({"id": id, "result": "late or unknown"})).await;
            }
            far.echo().await;
        };
        let (b, ()) = tokio::join!(peer.request("b", &2), far_side);
        assert_eq!(b, Ok("2".into()));
    }

    #[tokio::test]
    async fn a_second_response_is_ignored() {
        let (peer, mut far) = link(Deaf);
        let far_side = async {
            far.receive().await;
            far.send(json!({"id": 1, "result": "first"})).await;
            far.send(json!({"id": 1, "result": "second"})).await;
            far.echo().await;
        };
        let near_side = async { (peer.request("a", &1).await, peer.request("b", &2).await) };
        let (outcomes, ()) = tokio::join!(near_side, far_side);
        assert_eq!(outcomes, (Ok("\"first\"".into()), Ok("2".into())));
    }

    #[tokio::test]
    async fn more_requests_than_may_wait_are_refused() {
        let (peer, mut far) = link(Deaf);
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(peer.request("a", &1))).collect();
        for request in &mut waiting {
            assert!(poll_once(request.as_mut()).is_pending());
        }
        assert_eq!(peer.request("b", &1).await, Err(Error::TooManyPending));
        drop(waiting.pop());
        for _ in &waiting {
            far.receive().await;
        }
        let (next, ()) = tokio::join!(peer.request("c", &1), far.echo());
        assert_eq!(next, Ok("1".into()));
    }

    #[tokio::test]
    async fn params_that_are_no_json_fail_their_request_only() {
        let (peer, mut far) = link(Deaf);
        let no_json = std::collections::HashMap::from([([0u8; 2], 1)]);
        assert!(matches!(peer.request("a", &no_json).await, Err(Error::Encode(_))));
        assert_eq!(peer.in_flight(), 0);
        let (b, ()) = tokio::join!(peer.request("b", &1), far.echo());
        assert_eq!(b, Ok("1".into()));
    }

    #[tokio::test]
    async fn notifications_come_in_wire_order_and_repaired() {
        let (handler, mut heard) = recorder();
        let (_peer, mut far) = link(handler);
        far.send(json!({"method": "a", "params": {"n": 1}})).await;
        far.send_text(r#"{"method": "b", "params": ["\ud83d"]}"#).await;
        far.send(json!({"method": "c"})).await;
        for (method, params) in [("a", r#"{"n":1}"#), ("b", r#"["\ufffd"]"#), ("c", "null")] {
            assert_eq!(heard.recv().await, Some((method.to_owned(), params.into())));
        }
    }

    #[tokio::test]
    async fn every_request_of_the_peer_is_answered_also_one_that_nobody_understands() {
        let (_peer, mut far) = link(Deaf);
        far.send(json!({"id": 1, "method": "canvas.open", "params": {}})).await;
        let error = json!({"code": -32601, "message": "Unhandled method canvas.open"});
        assert_eq!(far.receive().await, json!({"jsonrpc": "2.0", "id": 1, "error": error}));
    }

    #[tokio::test]
    async fn a_reply_is_sent_once_and_with_the_id_that_was_given() {
        let handler = Answering(|method: &str, params: Bytes, reply: Reply| match method {
            "ok" => reply.ok(&String::from_utf8_lossy(&params)),
            "error" => reply.error(7, "no"),
            _ => reply.ok(&std::collections::HashMap::from([([0u8; 2], 1)])),
        });
        let (_peer, mut far) = link(handler);
        far.send(json!({"id": "x", "method": "ok", "params": [1]})).await;
        far.send(json!({"id": -2.5, "method": "error"})).await;
        far.send(json!({"id": 3, "method": "broken"})).await;
        let error = |code, message| json!({"code": code, "message": message});
        assert_eq!(far.receive().await, json!({"jsonrpc": "2.0", "id": "x", "result": "[1]"}));
        assert_eq!(far.receive().await, json!({"jsonrpc": "2.0", "id": -2.5, "error": error(7, "no")}));
        assert_eq!(
            far.receive().await,
            json!({"jsonrpc": "2.0", "id": 3, "error": error(-32603, "Internal error")})
        );
        drop(_peer);
        assert_eq!(far.next().await, None, "nothing else was sent");
    }

    #[tokio::test]
    async fn a_reply_may_be_given_later_or_after_the_link_has_closed() {
        let (replies, mut replies_out) = mpsc::channel(2);
        let (peer, mut far) = link(Answering(move |_: &str, _, reply| replies.try_send(reply).unwrap()));
        far.send(json!({"id": 1, "method": "a"})).await;
        far.send(json!({"id": 2, "method": "b"})).await;
        let (first, second) = (replies_out.recv().await.unwrap(), replies_out.recv().await.unwrap());
        second.ok("second");
        assert_eq!(far.receive().await["result"], "second");
        peer.close();
        assert_eq!(far.next().await, None);
        first.ok("too late");
    }

    #[tokio::test]
    async fn the_reader_goes_on_while_the_writer_is_stuck() {
        let (handler, mut heard) = recorder();
        let (peer, mut far) = link_over(64, handler);
        let params = long("x");
        let mut stuck = pin!(peer.request("a", &params));
        assert!(poll_once(stuck.as_mut()).is_pending());
        far.receive_one_byte().await;
        for n in 0..100 {
            far.send(json!({"id": n, "method": "of the peer"})).await;
            far.send(json!({"method": "n", "params": n})).await;
            assert_eq!(heard.recv().await, Some(("n".to_owned(), n.to_string().into())));
        }
        assert_eq!(far.receive().await["method"], "a");
        for n in 0..100 {
            assert_eq!(far.receive().await["id"], n);
        }
    }

    #[tokio::test]
    async fn a_peer_that_asks_and_does_not_read_the_answers_is_cut_off() {
        let (peer, mut far) = link_over(1024, Deaf);
        let question = frame::encode(br#"{"id":1,"method":"a"}"#);
        let flood = async { while far.io.write_all(&question).await.is_ok() {} };
        let ((), cause) = tokio::join!(flood, peer.closed());
        assert!(matches!(&*cause, Cause::PeerMisbehaved(_)), "{cause:?}");
    }

    #[tokio::test]
    async fn a_body_that_is_no_message_closes_the_link() {
        let syntax = Cause::Malformed(Malformed::Syntax { line: 1, column: 2 });
        let no_blame = ErrorObject { code: -32700, message: "Parse error".into(), data: None };
        for (body, expected) in [
            ("{secret}", syntax),
            ("[]", Cause::Malformed(Malformed::NotAnObject)),
            (r#"{"id":"1","result":1}"#, Cause::Malformed(Malformed::ForeignResponseId)),
            (
                r#"{"id":null,"error":{"code":-32700,"message":"Parse error"}}"#,
                Cause::PeerParseFailure(no_blame),
            ),
        ] {
            let (peer, mut far) = link(Deaf);
            let (outcome, ()) = tokio::join!(peer.request("a", &1), far.send_text(body));
            assert_eq!(*closed(outcome).0, expected, "{body}");
            assert!(!peer.cause().unwrap().to_string().contains("secret"));
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_framed_closes_the_link() {
        for (bytes, expected) in [
            ("HTTP/1.1 400 Bad Request\r\n", Cause::Frame(frame::Error::HeaderWithoutColon)),
            ("Content-Length: 2\r\n\r\n{", Cause::EofInsideFrame),
            ("Content-Le", Cause::EofInsideFrame),
            ("", Cause::Eof),
        ] {
            let (peer, mut far) = link(Deaf);
            far.io.write_all(bytes.as_bytes()).await.unwrap();
            far.io.shutdown().await.unwrap();
            assert_eq!(*peer.closed().await, expected, "{bytes}");
            assert_eq!(far.next().await, None, "our half is closed, too");
        }
    }

    #[tokio::test]
    async fn an_oversized_response_fails_only_its_request() {
        let (peer, mut far) = link(Deaf);
        let body = format!(r#"{{"id":1,"result":"{}"}}"#, long("x"));
        let far_side = async {
            far.receive().await;
            far.send_text(&body).await;
            far.echo().await;
        };
        let near_side = async { (peer.request("a", &1).await, peer.request("b", &2).await) };
        let ((a, b), ()) = tokio::join!(near_side, far_side);
        assert_eq!((a, b), (Err(Error::ResponseTooLarge { len: body.len() }), Ok("2".into())));
    }

    #[tokio::test]
    async fn an_oversized_notification_is_dropped_only_if_it_may_be() {
        let (handler, mut heard) = recorder();
        let (peer, mut far) = link(handler);
        far.send(json!({"method": "droppable", "params": long("x")})).await;
        far.send(json!({"method": "small"})).await;
        assert_eq!(heard.recv().await.unwrap().0, "small");
        let body = json!({"method": "needed", "params": long("x")}).to_string();
        far.send_text(&body).await;
        let expected = Cause::OversizedFrame { len: body.len(), method: Some("needed".into()) };
        assert_eq!(*peer.closed().await, expected);
    }

    #[tokio::test]
    async fn an_oversized_request_of_the_peer_is_answered() {
        let (_peer, mut far) = link(Deaf);
        far.send(json!({"id": 5, "method": "a", "params": long("x")})).await;
        let answer = far.receive().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32600)));
    }

    #[tokio::test]
    async fn an_oversized_frame_of_nobody_closes_the_link() {
        let (peer, mut far) = link(Deaf);
        let body = format!(r#"{{"result":"{}","id":1}}"#, long("x"));
        far.send_text(&body).await;
        assert_eq!(*peer.closed().await, Cause::OversizedFrame { len: body.len(), method: None });
    }

    #[tokio::test]
    async fn closing_the_link_closes_the_socket_and_drops_the_handler() {
        let (handler, mut heard) = recorder();
        let (peer, mut far) = link(handler);
        let waiter = async { closed(peer.request("a", &1).await) };
        let close = async {
            far.receive().await;
            peer.close();
            peer.close();
        };
        let ((cause, written), ()) = tokio::join!(waiter, close);
        assert_eq!((&*cause, written), (&Cause::Local, true));
        assert_eq!((far.next().await, heard.recv().await), (None, None));
    }

    #[tokio::test]
    async fn a_stuck_write_does_not_keep_a_closed_link() {
        let (peer, mut far) = link_over(64, Deaf);
        let params = long("x");
        let mut stuck = pin!(peer.request("a", &params));
        assert!(poll_once(stuck.as_mut()).is_pending());
        far.receive_one_byte().await;
        peer.close();
        assert_eq!(*closed(stuck.await).0, Cause::Local);
        let mut rest = Vec::new();
        far.io.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < LIMIT);
    }

    #[tokio::test]
    async fn dropping_the_last_handle_ends_both_tasks() {
        let (handler, mut heard) = recorder();
        let (peer, mut far) = link(handler);
        drop(peer.clone());
        far.send(json!({"method": "still there"})).await;
        assert_eq!(heard.recv().await.unwrap().0, "still there");
        drop(peer);
        assert_eq!((far.next().await, heard.recv().await), (None, None));
    }

    #[tokio::test]
    async fn a_handler_that_panics_closes_the_link_and_leaves_nobody_waiting() {
        let (peer, mut far) = link(Answering(|_: &str, _, _| panic!("on purpose")));
        let far_side = async {
            far.receive().await;
            far.send(json!({"id": 1, "method": "a"})).await;
        };
        let (outcome, ()) = tokio::join!(peer.request("a", &1), far_side);
        assert_eq!(*closed(outcome).0, Cause::Local);
    }

    /// Counts the writes to a stream that takes one slice at a time.
    struct Counting(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_queued_goes_out_in_one_write_and_a_large_frame_behind_it() {
        let writes = Arc::new(AtomicUsize::new(0));
        let (near, io) = tokio::io::duplex(4 * BATCH);
        let peer = Peer::spawn(Counting(near, writes.clone()), Deaf, Options::default());
        let mut far = Far { io, decoder: frame::Decoder::new(2 * BATCH), buf: BytesMut::new() };
        let large = "x".repeat(BATCH);
        let params = ["a", "b", "c", &large, "d"];
        let mut requests: Vec<_> = params.iter().map(|params| Box::pin(peer.request("m", *params))).collect();
        for request in &mut requests {
            assert!(poll_once(request.as_mut()).is_pending());
        }
        for params in params {
            assert_eq!(far.receive().await["params"], *params);
        }
        assert_eq!(writes.load(Ordering::Relaxed), 3, "a to c, the large one, d");
    }

    #[tokio::test]
    async fn a_failed_write_closes_the_link() {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        impl AsyncWrite for Broken {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "gone")))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (cause, written) = closed(Peer::spawn(Broken, Deaf, Options::default()).request("a", &1).await);
        assert_eq!(*cause, Cause::Io { kind: io::ErrorKind::BrokenPipe, message: "gone".into() });
        assert!(written);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn under_load_each_request_gets_its_own_answer_and_the_dropped_ones_leave_nothing_behind() {
        let (near, io) = tokio::io::duplex(256);
        let peer = Peer::spawn(near, Deaf, Options::default());
        let mut far = Far { io, decoder: frame::Decoder::new(1 << 20), buf: BytesMut::new() };
        let far_side = tokio::spawn(async move {
            while let Some(request) = far.next().await {
                far.send(json!({"id": request["id"], "result": request["params"]})).await;
            }
        });
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let peer = peer.clone();
            callers.spawn(async move {
                for n in 0..200 {
                    let params = format!("{caller}/{n}").repeat(n % 50 + 1);
                    let request = peer.request("a", &params);
                    if n % 3 == 0 {
                        tokio::select! { biased; _ = request => {}, () = tokio::task::yield_now() => {} }
                    } else {
                        assert_eq!(request.await, Ok(json!(params).to_string().into()));
                    }
                }
            });
        }
        callers.join_all().await;
        assert_eq!(peer.request("last", &1).await, Ok("1".into()));
        assert_eq!(peer.in_flight(), 0);
        drop(peer);
        far_side.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_can_be_spawned() {
        fn is_send<T: Send>(value: T) -> T {
            value
        }
        let (peer, mut far) = link(Deaf);
        let request = is_send(async move { peer.request("a", &json!({"x": 1})).await });
        let (outcome, ()) = tokio::join!(tokio::spawn(request), far.echo());
        assert_eq!(outcome.unwrap(), Ok(r#"{"x":1}"#.into()));
    }
}
