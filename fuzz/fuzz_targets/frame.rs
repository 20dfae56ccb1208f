//! The same frames, however the bytes are cut.
#![no_main]

use bytes::{Bytes, BytesMut};
use copilot_grpc::jsonrpc::frame::{Decoder, Error, Item};
use libfuzzer_sys::fuzz_target;

// The input is eight sizes, used in turn to cut the stream that follows them.
fuzz_target!(|input: &[u8]| {
    let Some((sizes, stream)) = input.split_first_chunk::<8>() else { return };
    let mut rest = stream;
    let pieces = sizes.iter().cycle().map_while(|&size| {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(size).max(1)));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(decode_all(pieces), decode_all([stream]));
});

/// The bodies, and of those that are oversized their length and beginning; and whether the stream ended between frames.
fn decode_all<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<(Option<usize>, Bytes)>, Result<bool, Error>) {
    let (mut decoder, mut buf, mut items) = (Decoder::new(MAX_FRAME), BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(Item::Body(body))) => items.push((None, body.take())),
                Ok(Some(Item::Oversized { len, head })) => items.push((Some(len), head)),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
    }
    (items, Ok(decoder.is_between_frames()))
}

/// Small, so that short inputs have oversized frames.
const MAX_FRAME: usize = 16;
