//! Dialogues with a peer over a duplex.

use std::{
    pin::{Pin, pin},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use serde_json::{Value, json};
use tokio::io::{DuplexStream, ReadBuf};

use super::*;

/// The other end of the wire, played by the test.
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
                None => {}
            }
            if self.io.read_buf(&mut self.buf).await.unwrap() == 0 {
                assert!(self.decoder.is_between_frames());
                return None;
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

/// A handler that does nothing.
struct NoHandler;

impl Handler for NoHandler {
    fn notification(&mut self, _: &str, _: Bytes) {}
}

/// A handler that passes on the notifications.
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

/// A handler that answers requests by a function.
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
    let options = Options { max_frame: LIMIT, max_pending: 3, ..Options::default() };
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link_over(64, NoHandler);
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
    let (peer, mut far) = link_over(64, NoHandler);
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
    let (peer, mut far) = link_over(64, NoHandler);
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
    let peer = Peer::spawn(near, NoHandler, Options::default());
    let mut far = Far { io, decoder: frame::Decoder::new(1 << 20), buf: BytesMut::new() };
    let params = long("x");
    let mut requests: Vec<_> = (0..REQUEST_QUEUE + 2).map(|_| Box::pin(peer.request("a", &params))).collect();
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link(NoHandler);
    let no_json = std::collections::HashMap::from([([0u8; 2], 1)]);
    assert!(matches!(peer.request("a", &no_json).await, Err(Error::Encode(_))));
    assert_eq!(peer.in_flight(), 0);
    let (b, ()) = tokio::join!(peer.request("b", &1), far.echo());
    assert_eq!(b, Ok("1".into()));
}

#[tokio::test]
async fn what_was_skimmed_is_not_read_and_all_else_is() {
    struct Skimming(mpsc::Sender<(String, Bytes)>);
    impl Handler for Skimming {
        fn skimmed(&mut self, method: &[u8], _: &[u8]) -> bool {
            method == b"dull"
        }

        fn notification(&mut self, method: &str, params: Bytes) {
            self.0.try_send((method.to_owned(), params)).unwrap();
        }
    }
    let (sender, mut heard) = mpsc::channel(8);
    let (peer, mut far) = link(Skimming(sender));
    // What nobody needs may be broken without being noticed.
    far.send_text(r#"{"jsonrpc":"2.0","method":"dull","params":{broken}}"#).await;
    far.send_text(r#"{"jsonrpc":"2.0","method":"news","params":{"a":"\ud83d"}}"#).await;
    assert_eq!(heard.recv().await.unwrap(), ("news".into(), r#"{"a":"\ufffd"}"#.into()));
    far.send_text(r#"{"jsonrpc":"2.0","method":"dull","params":{},"id":7}"#).await;
    assert_eq!(far.receive().await["id"], 7);
    far.send_text(r#"{"jsonrpc":"2.0","method":"news","params":{broken}}"#).await;
    assert!(matches!(&*peer.closed().await, Cause::Malformed(_)));
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
    let (_peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link_over(1024, NoHandler);
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
        (r#"{"id":null,"error":{"code":-32700,"message":"Parse error"}}"#, Cause::PeerParseFailure(no_blame)),
    ] {
        let (peer, mut far) = link(NoHandler);
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
        let (peer, mut far) = link(NoHandler);
        far.io.write_all(bytes.as_bytes()).await.unwrap();
        far.io.shutdown().await.unwrap();
        assert_eq!(*peer.closed().await, expected, "{bytes}");
        assert_eq!(far.next().await, None, "our half is closed, too");
    }
}

#[tokio::test]
async fn an_oversized_response_fails_only_its_request() {
    let (peer, mut far) = link(NoHandler);
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
    let (_peer, mut far) = link(NoHandler);
    far.send(json!({"id": 5, "method": "a", "params": long("x")})).await;
    let answer = far.receive().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32600)));
}

#[tokio::test]
async fn an_oversized_frame_of_nobody_closes_the_link() {
    let (peer, mut far) = link(NoHandler);
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
    let (peer, mut far) = link_over(64, NoHandler);
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
    let peer = Peer::spawn(Counting(near, writes.clone()), NoHandler, Options::default());
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
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
    let (cause, written) = closed(Peer::spawn(Broken, NoHandler, Options::default()).request("a", &1).await);
    assert_eq!(*cause, Cause::Io { kind: io::ErrorKind::BrokenPipe, message: "gone".into() });
    assert!(written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_each_request_gets_its_own_answer_and_the_dropped_ones_leave_nothing_behind() {
    let (near, io) = tokio::io::duplex(256);
    let peer = Peer::spawn(near, NoHandler, Options::default());
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
    let (peer, mut far) = link(NoHandler);
    let request = is_send(async move { peer.request("a", &json!({"x": 1})).await });
    let (outcome, ()) = tokio::join!(tokio::spawn(request), far.echo());
    assert_eq!(outcome.unwrap(), Ok(r#"{"x":1}"#.into()));
}
