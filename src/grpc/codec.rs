//! How messages are encoded and decoded: as tonic does, in smaller pieces.
//!
//! Each call that is open keeps the buffer that its answers are encoded into, as large as the largest piece was. tonic's pieces
//! are of 32 KiB, and so 64 KiB would stay with each reader that was once behind.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// How much is encoded before it is handed on, and the buffer that this fits into.
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
