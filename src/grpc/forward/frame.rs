//! gRPC messages in a stream of bytes: a flag, a length, and the message
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

/// The flag and the length.
const HEAD: usize = 5;

/// A message as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrpcFrame(Bytes);

impl GrpcFrame {
    /// A message that is not compressed.
    pub(super) fn of(message: &impl Message) -> Self {
        Self::of_bytes(&message.encode_to_vec())
    }

    /// A message that is encoded, and not compressed.
    pub(super) fn of_bytes(message: &[u8]) -> Self {
        let mut frame = BytesMut::with_capacity(HEAD + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        frame.put(message);
        Self(frame.freeze())
    }

    /// Part of a message, which is passed on as it comes.
    pub(super) fn raw(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(self) -> Bytes {
        self.0
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.0.first().is_some_and(|flag| *flag != 0)
    }

    /// The message, if it is not compressed and is one.
    pub(super) fn decode<M: Message + Default>(&self) -> Option<M> {
        if self.is_compressed() {
            return None;
        }
        M::decode(self.0.get(HEAD..)?).ok()
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub(super) struct Frames {
    rest: BytesMut,
}

impl Frames {
    /// Adds what has come.
    pub(super) fn push(&mut self, data: &Bytes) {
        self.rest.extend_from_slice(data);
    }

    /// The next message that is there as a whole.
    pub(super) fn next(&mut self) -> Option<GrpcFrame> {
        let length = self.length()?;
        (self.rest.len() >= HEAD + length).then(|| GrpcFrame(self.rest.split_to(HEAD + length).freeze()))
    }

    /// The length of the next message, if its head has come.
    pub(super) fn length(&self) -> Option<usize> {
        let mut head = self.rest.get(1..HEAD)?;
        Some(usize::try_from(head.get_u32()).unwrap_or(usize::MAX))
    }

    /// What has come of a message that is not whole.
    pub(super) fn rest(self) -> Bytes {
        self.rest.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;

    #[test]
    fn messages_are_the_same_however_their_bytes_are_cut() {
        let message = |id: &str| pb::GetSessionRequest { session_id: id.into() };
        let frames = [message("a"), message(""), message("third")].map(|message| GrpcFrame::of(&message));
        let bytes = frames.iter().flat_map(|frame| frame.0.iter().copied()).collect::<Vec<_>>();
        for size in 1..=bytes.len() {
            let (mut cut, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                cut.push(&Bytes::copy_from_slice(piece));
                found.extend(std::iter::from_fn(|| cut.next()));
            }
            assert_eq!(found, frames, "{size}");
            assert!(cut.rest().is_empty());
        }
        assert_eq!(frames[2].decode::<pb::GetSessionRequest>(), Some(message("third")));
    }

    #[test]
    fn a_message_that_is_not_whole_is_kept() {
        let mut cut = Frames::default();
        cut.push(&Bytes::from_static(&[0, 0, 0, 0]));
        assert_eq!((cut.length(), cut.next()), (None, None));
        cut.push(&Bytes::from_static(&[9, 1]));
        assert_eq!((cut.length(), cut.next()), (Some(9), None));
        assert_eq!(cut.rest(), [0, 0, 0, 0, 9, 1][..]);
    }
}
