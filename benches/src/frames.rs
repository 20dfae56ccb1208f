//! JSON-RPC frames as the peers of the service write and read them: without the service's help, so that it is not measured by
//! its own measure.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads frames off a connection.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// At the beginning of a stream.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(256 * 1024) }
    }

    /// The next body; `None` at the end of the stream.
    ///
    /// # Errors
    /// The connection's, and a header that is not `Content-Length` alone.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(body) = self.buffered()? {
                return Ok(Some(body));
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next body, if it is there by now.
    ///
    /// # Errors
    /// A header that is not `Content-Length` alone.
    pub fn buffered(&mut self) -> io::Result<Option<Bytes>> {
        const END: &[u8] = b"\r\n\r\n";
        let Some(header) = memchr::memmem::find(&self.buffer[..self.buffer.len().min(100)], END) else {
            return Ok(None);
        };
        let digits = self.buffer[..header].strip_prefix(b"Content-Length: ");
        let len: usize = digits
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| io::Error::other("a header that is not Content-Length alone"))?;
        let start = header + END.len();
        if self.buffer.len() < start + len {
            self.buffer.reserve(start + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(start);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

/// Appends a frame.
pub fn push(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
}

/// A message, as far as a peer must know it.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// Of a request or a response.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    /// Of a request or a notification.
    pub method: Option<&'a str>,
    /// Of a request or a notification.
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    /// Of a response.
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
}
