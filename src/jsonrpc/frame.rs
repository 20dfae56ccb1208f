//! `Content-Length` frames, as in the Language Server Protocol: header lines, a blank line, then a body of exactly that length.
//!
//! Pure: bytes in, [`Item`]s out. Knows no JSON and no socket, and never looks into a body. A call to [`Decoder::decode`] has
//! three outcomes: it needs more bytes, it has an item, or the stream is lost for good. The items do not depend on how the
//! stream was cut into reads.
//!
//! A declared length is only a claim, and no memory is allocated for it. The decoder holds what has arrived, up to the frame
//! limit; of a longer frame, [`HEAD`] bytes.

use std::{io::Write, ops::Deref};

use bytes::{Buf, Bytes, BytesMut};

/// A part of the stream that the decoder gives out.
#[derive(Debug)]
pub enum Item<'a> {
    /// The body of a frame.
    Body(Body<'a>),
    /// A frame over the limit, which was discarded. The next one is not affected.
    Oversized {
        /// Its length in bytes, as declared and as discarded.
        len: usize,
        /// Its first [`HEAD`] bytes, which may tell whose it was.
        head: Bytes,
    },
}

/// The body of a frame, still in the read buffer. Dropping it discards the body, of which mostly nothing is needed.
#[derive(Debug)]
pub struct Body<'a> {
    buf: &'a mut BytesMut,
    len: usize,
}

impl Body<'_> {
    /// Takes the body out of the buffer, without copying: copy what is to be kept for long.
    pub fn take(mut self) -> Bytes {
        let len = std::mem::take(&mut self.len);
        let body = self.buf.split_to(len).freeze();
        if len >= LARGE {
            leave_allocation(self.buf);
        }
        body
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.buf.advance(self.len);
        if self.len >= LARGE {
            leave_allocation(self.buf);
        }
    }
}

/// Moves what follows a huge body to a new buffer, so that the connection does not keep the huge one for ever.
fn leave_allocation(buf: &mut BytesMut) {
    *buf = BytesMut::from(&buf[..]);
}

/// Why the stream is lost: nobody can tell any more where the next frame begins. Always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No blank line within [`MAX_HEADER`] bytes.
    #[error("header block over {MAX_HEADER} bytes")]
    HeaderTooLong,
    /// A line that is neither blank nor `Name: value`; most likely this is no framed stream at all.
    #[error("header line without a colon")]
    HeaderWithoutColon,
    /// A blank line, and no `Content-Length` before it.
    #[error("no Content-Length")]
    NoContentLength,
    /// The `Content-Length` is not a decimal number, or does not fit.
    #[error("Content-Length is not a length")]
    BadContentLength,
    /// Two `Content-Length`s that differ. To believe either would let the sender smuggle a frame into a body.
    #[error("two different Content-Lengths")]
    ConflictingContentLength,
}

/// Finds the frames in a stream of bytes.
///
/// The caller reads bytes to the end of a [`BytesMut`], and the decoder takes whole frames off its front without copying.
#[derive(Debug)]
pub struct Decoder {
    max_frame: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Header(Header),
    Body { len: usize },
    Discard { len: usize, left: usize, head: BytesMut },
    Failed(Error),
}

/// A header block, as far as it has been read.
#[derive(Debug, Default)]
struct Header {
    /// The number of bytes of its complete lines, which have left the buffer.
    size: usize,
    /// The number of bytes at the front of the buffer that hold no line end, so as not to search them again.
    scanned: usize,
    content_length: Option<usize>,
}

impl Decoder {
    /// A decoder at the start of a stream. Bodies longer than `max_frame` bytes come as [`Item::Oversized`].
    pub fn new(max_frame: usize) -> Self {
        Self { max_frame, state: State::Header(Header::default()) }
    }

    /// The next item at the front of `buf`. `None`: read more into `buf`, then call again.
    ///
    /// # Errors
    /// The stream is lost; every later call fails with the first error.
    pub fn decode<'a>(&mut self, buf: &'a mut BytesMut) -> Result<Option<Item<'a>>, Error> {
        self.advance(buf).inspect_err(|&error| self.state = State::Failed(error))
    }

    /// Whether the bytes so far end with a frame: if the stream ends here, nothing has been lost.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header(Header { size: 0, scanned: 0, .. }))
    }

    fn advance<'a>(&mut self, buf: &'a mut BytesMut) -> Result<Option<Item<'a>>, Error> {
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let Some(len) = header.read(buf)? else { return Ok(None) };
                    self.state = if len <= self.max_frame {
                        State::Body { len }
                    } else {
                        State::Discard { len, left: len, head: BytesMut::new() }
                    };
                }
                State::Body { len } => {
                    let len = *len;
                    if buf.len() < len {
                        return Ok(None);
                    }
                    self.state = State::Header(Header::default());
                    return Ok(Some(Item::Body(Body { buf, len })));
                }
                State::Discard { len, left, head } => {
                    let here = buf.len().min(*left);
                    let kept = here.min(HEAD - head.len());
                    head.extend_from_slice(&buf[..kept]);
                    buf.advance(here);
                    *left -= here;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let item = Item::Oversized { len: *len, head: std::mem::take(head).freeze() };
                    self.state = State::Header(Header::default());
                    return Ok(Some(item));
                }
                State::Failed(error) => return Err(*error),
            }
        }
    }
}

impl Header {
    /// Takes lines off `buf` up to the blank one, and returns the body's length. `None`: the block is not complete yet.
    fn read(&mut self, buf: &mut BytesMut) -> Result<Option<usize>, Error> {
        if self.size == 0
            && let Some((len, size)) = usual(buf)
        {
            buf.advance(size);
            return Ok(Some(len));
        }
        loop {
            let newline = memchr::memchr(b'\n', &buf[self.scanned..]);
            let line_len = newline.map_or(buf.len(), |at| self.scanned + at + 1);
            if self.size + line_len > MAX_HEADER {
                return Err(Error::HeaderTooLong);
            }
            if newline.is_none() {
                self.scanned = line_len;
                return Ok(None);
            }
            // A lone LF ends a line as well: test peers and people with netcat write it.
            let line = &buf[..line_len - 1];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                buf.advance(line_len);
                return self.content_length.map(Some).ok_or(Error::NoContentLength);
            }
            self.line(line)?;
            buf.advance(line_len);
            self.size += line_len;
            self.scanned = 0;
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        let colon = memchr::memchr(b':', line).ok_or(Error::HeaderWithoutColon)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"Content-Length") {
            let len = parse_length(value.trim_ascii()).ok_or(Error::BadContentLength)?;
            if self.content_length.replace(len).is_some_and(|before| before != len) {
                return Err(Error::ConflictingContentLength);
            }
        }
        Ok(())
    }
}

/// The lengths of the body and of the header block, if the block is one line as every known peer writes it.
fn usual(buf: &[u8]) -> Option<(usize, usize)> {
    /// A length with this many digits fits into `usize` everywhere.
    const DIGITS: usize = 9;
    let value = buf.strip_prefix(NAME)?;
    let digits = value.iter().take(DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = value.split_at(digits);
    if digits.is_empty() || !rest.starts_with(END) {
        return None;
    }
    let len = digits.iter().fold(0, |len, digit| 10 * len + usize::from(digit - b'0'));
    Some((len, NAME.len() + digits.len() + END.len()))
}

/// Parses digits only: `str::parse` alone would take a plus sign.
fn parse_length(digits: &[u8]) -> Option<usize> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The usual beginning of a header block. Other spellings are read, too: case and spaces do not count.
const NAME: &[u8] = b"Content-Length: ";

/// The end of the last header line, and the blank line.
const END: &[u8] = b"\r\n\r\n";

/// A frame with this body.
pub fn encode(body: &[u8]) -> Bytes {
    let written = encode_with(body.len(), |frame| {
        frame.extend_from_slice(body);
        Ok::<_, std::convert::Infallible>(())
    });
    match written {
        Ok(frame) => frame,
        Err(never) => match never {},
    }
}

/// A frame with the body that `write` appends, without copying it: the header, whose length depends on the body's, goes into
/// room left in front of it.
pub(super) fn encode_with<E>(
    capacity: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Bytes, E> {
    /// The digits of `usize::MAX`.
    const DIGITS: usize = 20;
    const ROOM: usize = NAME.len() + DIGITS + END.len();

    let mut frame = Vec::with_capacity(ROOM + capacity);
    frame.resize(ROOM, 0);
    write(&mut frame)?;
    let len = frame.len() - ROOM;
    let digits = len.checked_ilog10().unwrap_or(0) as usize + 1;
    let start = DIGITS - digits;
    let header = &mut frame[start..ROOM];
    header[..NAME.len()].copy_from_slice(NAME);
    write!(&mut header[NAME.len()..], "{len}").expect("there is room for DIGITS digits");
    header[NAME.len() + digits..].copy_from_slice(END);
    let mut frame = Bytes::from(frame);
    frame.advance(start);
    Ok(frame)
}

/// The largest header block in bytes, all lines together. Real ones have about 25 bytes, and a stream that has no frames (HTTP,
/// TLS, a log) should be found out before much of it has been buffered.
pub const MAX_HEADER: usize = 8 * 1024;

/// The number of bytes kept of a frame over the limit. JSON-RPC peers write id and method first, well within it, unless an id
/// is absurd.
pub const HEAD: usize = 1024;

/// The size in bytes from which on a body takes the read buffer along. Smaller ones leave at most about as much unused.
const LARGE: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small, so that small inputs are oversized.
    const MAX: usize = 16;

    /// An item, taken out of the buffer.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Found {
        Body(Bytes),
        Oversized { len: usize, head: Bytes },
    }

    impl From<Item<'_>> for Found {
        fn from(item: Item<'_>) -> Self {
            match item {
                Item::Body(body) => Self::Body(body.take()),
                Item::Oversized { len, head } => Self::Oversized { len, head },
            }
        }
    }

    /// The items of a stream that arrives in `pieces`, and how it ended.
    fn decode_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Found>, Result<bool, Error>) {
        let (mut decoder, mut buf, mut items) = (Decoder::new(MAX), BytesMut::new(), Vec::new());
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Some(item)) => items.push(item.into()),
                    Ok(None) => break,
                    Err(error) => return (items, Err(error)),
                }
            }
        }
        (items, Ok(decoder.is_between_frames()))
    }

    #[track_caller]
    fn check(stream: impl AsRef<[u8]>, items: &[Found], end: Result<bool, Error>) {
        let expected = (items.to_vec(), end);
        let stream = stream.as_ref();
        assert_eq!(decode_all([stream]), expected, "in one piece");
        assert_eq!(decode_all(stream.chunks(1)), expected, "byte by byte");
    }

    fn body(text: &'static str) -> Found {
        Found::Body(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn frames_are_found() {
        let whole = Ok(true);
        check("", &[], whole);
        check("Content-Length: 2\r\n\r\n{}", &[body("{}")], whole);
        check("Content-Length: 0\r\n\r\n", &[body("")], whole);
        check("Content-Length: 2\r\n\r\n{}Content-Length: 3\r\n\r\n[1]", &[body("{}"), body("[1]")], whole);
        check("content-LENGTH:2\r\n\r\n{}", &[body("{}")], whole);
        check("Content-Length: \t 2 \r\n\r\n{}", &[body("{}")], whole);
        check("Content-Length: 002\r\n\r\n{}", &[body("{}")], whole);
        check("Content-Length: 2\n\n{}", &[body("{}")], whole);
        check("X: y\r\nContent-Length: 2\r\nContent-Type: a:b\r\n\r\n{}", &[body("{}")], whole);
        check("Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", &[body("{}")], whole);
        check(
            b"\xff: \xff\r\nContent-Length: 2\r\n\r\n\xff\xfe",
            &[Found::Body(b"\xff\xfe"[..].into())],
            whole,
        );
        check("Content-Length: 4\r\n\r\n\r\n\r\n", &[body("\r\n\r\n")], whole);
    }

    #[test]
    fn an_unfinished_frame_is_no_item_and_no_error() {
        for partial in
            ["C", "\r", "Content-Length: 2\r\n", "Content-Length: 2\r\n\r", "Content-Length: 2\r\n\r\n{"]
        {
            check(partial, &[], Ok(false));
        }
        check("Content-Length: 2\r\n\r\n{}Con", &[body("{}")], Ok(false));
    }

    #[test]
    fn a_frame_over_the_limit_goes_by_and_the_next_is_found() {
        let oversized =
            |len, head: &str| Found::Oversized { len, head: Bytes::copy_from_slice(head.as_bytes()) };
        let next = "Content-Length: 2\r\n\r\n{}";
        check(
            format!("Content-Length: 16\r\n\r\n0123456789abcdef{next}"),
            &[body("0123456789abcdef"), body("{}")],
            Ok(true),
        );
        check(
            format!("Content-Length: 17\r\n\r\n0123456789abcdefg{next}"),
            &[oversized(17, "0123456789abcdefg"), body("{}")],
            Ok(true),
        );
        let (long, head) = ("x".repeat(HEAD + 5), "x".repeat(HEAD));
        check(
            format!("Content-Length: {}\r\n\r\n{long}{next}", long.len()),
            &[oversized(long.len(), &head), body("{}")],
            Ok(true),
        );
        check(format!("Content-Length: {}\r\n\r\n{long}", long.len() + 1), &[], Ok(false));
        check(format!("Content-Length: {}\r\n\r\n{long}", usize::MAX), &[], Ok(false));
    }

    #[test]
    fn a_broken_header_is_fatal() {
        let length = |value| format!("Content-Length: {value}\r\n\r\n");
        check("\r\n", &[], Err(Error::NoContentLength));
        check("X: y\r\n\r\n{}", &[], Err(Error::NoContentLength));
        check("Content-Length : 2\r\n\r\n{}", &[], Err(Error::NoContentLength));
        for bad in ["", "-1", "+1", "1.0", "0x10", "2 2", "two", "\u{0662}", "18446744073709551616"] {
            check(length(bad), &[], Err(Error::BadContentLength));
        }
        check("Content-Length: 2\r\nContent-Length: 3\r\n\r\n", &[], Err(Error::ConflictingContentLength));
        check("HTTP/1.1 400 Bad Request\r\n", &[], Err(Error::HeaderWithoutColon));
        check("Content-Length: 2\r\n\r\n{}{}\r\n", &[body("{}")], Err(Error::HeaderWithoutColon));
    }

    #[test]
    fn a_header_block_may_have_so_many_bytes_and_not_one_more() {
        let block = |len: usize| {
            let end = "\r\nContent-Length: 0\r\n\r\n";
            format!("X: {}{end}", "y".repeat(len - end.len() - "X: ".len()))
        };
        check(block(MAX_HEADER), &[body("")], Ok(true));
        check(block(MAX_HEADER + 1), &[], Err(Error::HeaderTooLong));
        check("y".repeat(MAX_HEADER), &[], Ok(false));
        check("y".repeat(MAX_HEADER + 1), &[], Err(Error::HeaderTooLong));
        check("X: y\n".repeat(MAX_HEADER), &[], Err(Error::HeaderTooLong));
    }

    #[test]
    fn an_error_is_final() {
        let (mut decoder, mut buf) = (Decoder::new(MAX), BytesMut::from("\r\n"));
        assert_eq!(decoder.decode(&mut buf).unwrap_err(), Error::NoContentLength);
        buf.extend_from_slice(b"Content-Length: 2\r\n\r\n{}");
        assert_eq!(decoder.decode(&mut buf).unwrap_err(), Error::NoContentLength);
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut buf = BytesMut::from("Content-Length: 268435456\r\n\r\n{");
        let before = buf.capacity();
        assert!(matches!(Decoder::new(usize::MAX).decode(&mut buf), Ok(None)));
        assert!(buf.capacity() <= before);
    }

    #[test]
    fn a_large_body_takes_its_allocation_along() {
        for wanted in [true, false] {
            let mut buf = BytesMut::from(&encode(&vec![b' '; 4 * LARGE])[..]);
            buf.extend_from_slice(b"Cont");
            let Ok(Some(Item::Body(body))) = Decoder::new(usize::MAX).decode(&mut buf) else { panic!() };
            let _body = wanted.then(|| body.take());
            buf.reserve(1);
            assert_eq!(&buf[..], b"Cont");
            assert!(buf.capacity() < LARGE);
        }
    }

    #[test]
    fn a_body_that_is_not_taken_is_gone_by() {
        let mut buf = BytesMut::from("Content-Length: 2\r\n\r\n{}Content-Length: 3\r\n\r\n[1]");
        let mut decoder = Decoder::new(MAX);
        assert!(matches!(decoder.decode(&mut buf), Ok(Some(Item::Body(body))) if *body == *b"{}"));
        assert!(matches!(decoder.decode(&mut buf), Ok(Some(Item::Body(body))) if *body == *b"[1]"));
        assert!(buf.is_empty());
    }

    #[test]
    fn a_body_is_not_copied() {
        let mut buf = BytesMut::from("Content-Length: 2\r\n\r\n{}");
        let at = buf[21..].as_ptr();
        let Ok(Some(Item::Body(body))) = Decoder::new(MAX).decode(&mut buf) else { panic!("no body") };
        assert_eq!((body.as_ptr(), body.take().as_ptr()), (at, at));
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(&encode(b"{}")[..], b"Content-Length: 2\r\n\r\n{}");
        for len in [0, 1, 9, 10, 11, 99, 100, 101, 12_345] {
            let body = vec![b'x'; len];
            let mut buf = BytesMut::from(&encode(&body)[..]);
            let found = Decoder::new(len).decode(&mut buf).map(|item| item.map(Found::from));
            assert_eq!(found, Ok(Some(Found::Body(body.into()))));
            assert!(buf.is_empty());
        }
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let frame = prop::collection::vec(any::<u8>(), 0..2 * MAX).prop_map(|body| encode(&body).to_vec());
        let long = (HEAD - 2..HEAD + 2).prop_map(|len| encode(&vec![b'x'; len]).to_vec());
        let header = "(X-[a-z]{0,3}|content-length|Content-Length)(:|: )[ 0-9-]{0,3}(\r\n|\n)"
            .prop_map(String::into_bytes);
        let garbage = prop::collection::vec(any::<u8>(), 0..8);
        let part = prop_oneof![8 => frame, 2 => long, 2 => header, 1 => garbage];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn the_items_do_not_depend_on_the_cuts(stream in stream(), cuts in prop::collection::vec(1usize..40, 1..20)) {
            let mut rest = &stream[..];
            let pieces: Vec<&[u8]> = cuts.iter().cycle().map_while(|&cut| {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                (!piece.is_empty()).then_some(piece)
            }).collect();
            prop_assert_eq!(decode_all(pieces), decode_all([&stream[..]]));
        }
    }
}
