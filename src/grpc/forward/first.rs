//! The first message of a request, which tells its session.

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use prost::Message;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{CompressionEncoding, DecodeBuf, Decoder},
};

use super::frame::{Frames, GrpcFrame};

/// The first message of a request.
#[derive(Debug, Clone)]
pub(super) struct First {
    /// It as it came.
    pub(super) sent: GrpcFrame,
    /// It as it is read: not compressed.
    pub(super) plain: GrpcFrame,
}

impl First {
    /// A message that is not compressed.
    pub(super) fn of(message: &impl Message) -> Self {
        let frame = GrpcFrame::of(message);
        Self { sent: frame.clone(), plain: frame }
    }
}

/// What was read of a request.
pub(super) enum Read {
    /// Its first message, and the rest.
    Message(Box<First>, Body),
    /// None that could be forwarded: too large, not whole, or not readable. The service is to say so.
    Odd(Body),
}

/// Reads the first message, of at most so many bytes.
pub(super) async fn read(mut body: Body, headers: &HeaderMap, max: usize) -> Read {
    let mut frames = Frames::default();
    let sent = loop {
        if let Some(frame) = frames.next() {
            break frame;
        }
        if frames.length().is_some_and(|length| length > max) {
            return Read::Odd(after(frames.rest(), body));
        }
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => frames.push(&data),
                Err(_) => return Read::Odd(after(frames.rest(), body)),
            },
            Some(Err(_)) | None => return Read::Odd(after(frames.rest(), body)),
        }
    };
    match plain(&sent, headers, max).await {
        Some(plain) => Read::Message(Box::new(First { sent, plain }), after(frames.rest(), body)),
        None => Read::Odd(after([sent.bytes(), frames.rest()].concat().into(), body)),
    }
}

/// A body after some bytes of it that were read.
pub(super) fn after(read: Bytes, body: Body) -> Body {
    if read.is_empty() {
        return body;
    }
    Body::new(Prefixed { read: Some(read), body })
}

/// A message without its compression; `None`: it cannot be read.
pub(super) async fn plain(frame: &GrpcFrame, headers: &HeaderMap, max: usize) -> Option<GrpcFrame> {
    if !frame.is_compressed() {
        return Some(frame.clone());
    }
    let encoding = match headers.get("grpc-encoding")?.to_str().ok()? {
        "gzip" => CompressionEncoding::Gzip,
        "zstd" => CompressionEncoding::Zstd,
        _ => return None,
    };
    let body: UnsyncBoxBody<Bytes, Status> =
        Full::new(frame.clone().bytes()).map_err(|never| match never {}).boxed_unsync();
    let mut messages = Streaming::new_request(Whole, body, Some(encoding), Some(max));
    messages.message().await.ok()?.map(|message| GrpcFrame::of_bytes(&message))
}

/// Takes a message as it is.
struct Whole;

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A body of which something was read.
struct Prefixed {
    read: Option<Bytes>,
    body: Body,
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        match self.read.take() {
            Some(read) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(read)))),
            None => std::pin::Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.body.is_end_stream()
    }
}
