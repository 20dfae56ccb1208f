//! The codec of all methods: tonic's, with smaller pieces.
//!
//! Each open call keeps the buffer that its answers are encoded into, which grows to the largest piece. tonic's pieces are 32
//! KiB, so that each reader that was once behind would keep 64 KiB.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// The size in bytes at which encoded data is handed on, and the size of the buffer for that.
const PIECE: usize = 7 * 1024;
const BUFFER: usize = 8 * 1024;

/// The codec of all methods.
#[derive(Debug)]
pub(super) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(BUFFER, PIECE))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER, PIECE))
    }
}
