//! What a client leaves half done on its connection: answers that it does not read, and requests that it does not finish.
//!
//! An answer that was encoded cannot be taken back: HTTP/2 holds it until the client gives it room, some hundred kilobytes for
//! each call. So it counts against the budget of all readers, by connection; when the budget is exceeded, the connection that
//! holds most is closed. Requests are held until they are complete, and count in the same way.
//!
//! Tests: in this file, and `tests/integration/abuse/stalled.rs`.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::budget::{Budget, Charge, Entry, Holder};

/// The bytes that each open call counts for: its task, its first buffer, and HTTP/2's state for it.
const CALL: usize = 16 * 1024;

/// The bytes that a piece of an answer counts for beside its own: a place in HTTP/2's queue, which grows by doubling, and its
/// count.
const PIECE: usize = 1024;

/// The length in bytes up to which a piece is copied.
const COPIED: usize = 64 * 1024;

/// What the client of one connection leaves half done. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    budget: Budget,
    /// The number of bytes; or [`ENDED`].
    bytes: AtomicUsize,
    /// The task that reads and writes the connection.
    task: AtomicWaker,
}

/// In place of a number of bytes: the connection is ended and nothing counts any more.
const ENDED: usize = usize::MAX;

impl Inner {
    /// Changes the count, and takes the difference from the budget or gives it back.
    fn change(&self, change: impl Fn(usize) -> usize) {
        // One number holds both the end and the bytes to give back, so nothing is given back twice.
        let changed =
            self.bytes.fetch_update(Relaxed, Relaxed, |bytes| (bytes != ENDED).then(|| change(bytes)));
        if let Ok(before) = changed {
            match change(before).checked_sub(before) {
                Some(more) => self.budget.take(more),
                None => self.budget.give_back(before - change(before)),
            }
        }
    }

    fn is_ended(&self) -> bool {
        self.bytes.load(Relaxed) == ENDED
    }
}

impl Holder for Inner {
    fn held(&self) -> usize {
        match self.bytes.load(Relaxed) {
            ENDED => 0,
            bytes => bytes,
        }
    }

    fn end(&self) {
        match self.bytes.swap(ENDED, Relaxed) {
            ENDED => {}
            bytes => self.budget.give_back(bytes),
        }
        self.task.wake();
    }
}

/// The error that closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its client left more half done than any other, and all together too much (max_reader_memory)")]
pub(super) struct Ended;

impl Unread {
    /// The count of a new connection, which can be ended for as long as the entry is kept.
    pub(super) fn new(budget: &Budget) -> (Self, Entry) {
        let (bytes, task) = (AtomicUsize::new(0), AtomicWaker::new());
        let inner = Arc::new(Inner { budget: budget.clone(), bytes, task });
        let holder: Weak<Inner> = Arc::downgrade(&inner);
        (Self { inner }, budget.enter(holder))
    }

    /// Whether the connection may go on. Its task is woken when it may not.
    pub(super) fn check(&self, cx: &Context<'_>) -> Result<(), Ended> {
        self.inner.task.register(cx.waker());
        if self.inner.is_ended() { Err(Ended) } else { Ok(()) }
    }

    /// The charge for a call, held while the call is open. `None`: there is no room.
    pub(super) fn call(&self) -> Option<Charge> {
        self.inner.budget.charge_within(CALL)
    }

    fn count(&self, bytes: usize) -> Count {
        let mut count = Count { unread: self.inner.clone(), bytes: 0 };
        count.set(bytes);
        count
    }

    /// The bytes, counted until the last of them is sent.
    fn answered(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        // The bytes are part of the buffer that they were encoded into, which can be used again only when nobody has a part of
        // it: so a small piece is copied. A large one is nearly all of its buffer, which counts by itself, and h2 takes no
        // second one before it is sent.
        let (bytes, room) = match bytes.len() {
            length if length <= COPIED => (Bytes::copy_from_slice(&bytes), length),
            _ => (bytes, 0),
        };
        let _count = self.count(PIECE + room);
        Bytes::from_owner(Answer { bytes, _count })
    }
}

/// A number of bytes that count while this is held.
#[derive(Debug)]
struct Count {
    unread: Arc<Inner>,
    bytes: usize,
}

impl Count {
    fn set(&mut self, bytes: usize) {
        let counted = std::mem::replace(&mut self.bytes, bytes);
        self.unread.change(|all| all + bytes - counted);
        if bytes > counted {
            self.unread.budget.relieve();
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[derive(Debug)]
struct Answer {
    bytes: Bytes,
    _count: Count,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer, which counts from when it is encoded until it is sent.
#[derive(Debug)]
pub(super) struct Answered {
    body: Body,
    unread: Unread,
    /// The count of the buffer that the answer is encoded into, as large as the largest piece was; beyond what each call counts
    /// for.
    buffer: Option<Count>,
    /// A frame that was encoded ahead of time.
    first: Option<Result<Frame<Bytes>, Status>>,
    _call: Option<Charge>,
}

impl Answered {
    pub(super) fn new(body: Body, unread: Unread, call: Option<Charge>) -> Self {
        Self { body, unread, buffer: None, first: None, _call: call }
    }

    /// Counts the buffer for a piece of this length.
    fn grown(&mut self, length: usize) {
        if length <= CALL / 2 {
            return;
        }
        let room = length.next_power_of_two();
        match &mut self.buffer {
            Some(count) if count.bytes >= room => {}
            Some(count) => count.set(room),
            None => self.buffer = Some(self.unread.count(room)),
        }
    }

    /// Encodes what there is at once, so that it counts: otherwise an answer waits unencoded until its client gives it room.
    /// Not for streams, whose readers drop what was not encoded.
    pub(super) fn encoded(mut self) -> Self {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut self).poll_frame(&mut cx) {
            self.first = frame;
        }
        self
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let counted = |frame: Frame<Bytes>| {
            frame.map_data(|data| {
                this.grown(data.len());
                this.unread.answered(data)
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(counted)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// The body of a request, whose messages count as far as they have come, until they are complete.
#[derive(Debug)]
pub(super) struct Requested {
    body: Body,
    unread: Unread,
    message: Unfinished,
    count: Option<Count>,
}

impl Requested {
    pub(super) fn new(body: Body, unread: Unread) -> Self {
        Self { body, unread, message: Unfinished::default(), count: None }
    }

    fn received(&mut self, data: &[u8]) {
        self.message.follow(data);
        match (&mut self.count, self.message.come) {
            (count, 0) => *count = None,
            (Some(count), come) => count.set(come),
            (None, come) => self.count = Some(self.unread.count(come)),
        }
    }
}

impl http_body::Body for Requested {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.received(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Follows the messages of a call (gRPC over HTTP/2, "Length-Prefixed-Message"), however their bytes are cut.
#[derive(Debug, Default)]
struct Unfinished {
    head: [u8; Self::HEAD],
    /// The number of bytes of the current message that have come, its head included.
    come: usize,
}

impl Unfinished {
    /// The length of a message's head: a flag for compression, and the message's length.
    const HEAD: usize = 5;

    fn follow(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let wanted = if self.come < Self::HEAD { Self::HEAD } else { self.length() };
            let taken = (wanted - self.come).min(data.len());
            if self.come < Self::HEAD {
                self.head[self.come..self.come + taken].copy_from_slice(&data[..taken]);
            }
            self.come += taken;
            data = &data[taken..];
            if self.come >= Self::HEAD && self.come == self.length() {
                self.come = 0;
            }
        }
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.head;
        Self::HEAD.saturating_add(usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![7; length]].concat()
    }

    #[test]
    fn of_a_request_the_message_counts_that_is_not_complete_however_it_is_cut() {
        let whole = [message(3), message(0), message(300)].concat();
        for size in [1, 2, 5, 6, 100, whole.len()] {
            let mut follower = Unfinished::default();
            whole.chunks(size).for_each(|data| follower.follow(data));
            assert_eq!(follower.come, 0, "in pieces of {size}");
            follower.follow(&message(9)[..8]);
            assert_eq!(follower.come, 8, "in pieces of {size}");
        }
    }

    #[test]
    fn an_answer_counts_until_the_last_piece_of_it_is_sent() {
        let budget = Budget::default();
        let (unread, _entry) = Unread::new(&budget);
        let mut answer = unread.answered(Bytes::from_static(b"an answer"));
        let first = answer.split_to(2);
        drop(answer);
        assert_eq!((budget.used(), unread.inner.held()), (PIECE + 9, PIECE + 9));
        drop(first);
        assert_eq!((budget.used(), unread.inner.held()), (0, 0));
    }

    #[test]
    fn a_connection_that_holds_more_than_all_may_is_ended_and_others_are_not() {
        let budget = Budget::new(160_000);
        let cx = Context::from_waker(std::task::Waker::noop());
        let ((greedy, _one), (modest, _other)) = (Unread::new(&budget), Unread::new(&budget));
        let _some = modest.answered(Bytes::from(vec![0; 30_000]));
        let more = greedy.answered(Bytes::from(vec![0; 60_000]));
        assert!(greedy.check(&cx).is_ok());
        let mut request = Requested::new(Body::empty(), greedy.clone());
        request.received(&message(20_000)[..15_000]);
        assert_eq!((greedy.check(&cx), modest.check(&cx)), (Err(Ended), Ok(())));
        // What it held does not count any more, whatever becomes of it.
        assert_eq!((greedy.inner.held(), budget.used()), (0, PIECE + 30_000));
        request.received(&message(20_000)[15_000..]);
        drop(greedy.answered(Bytes::from_static(b"more")));
        drop(more);
        assert_eq!(budget.used(), PIECE + 30_000);
    }
}
