//! One chunk: operations as bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `CGA` and the version |
//! | 1 | 0: as it is, 1: zstd |
//! | 8 | the length of what follows, when it is not compressed |
//! | 16 | the beginning of the SHA-256 of all else |
//! | rest | the operations |
//!
//! An operation is its kind, its path with the length before it, and what the kind has. Numbers are little-endian.

use std::io::Read as _;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::store::folder::{Op, RelativePath};

/// The most bytes of operations in a chunk. PostgreSQL takes no larger values either.
pub const MAX_BYTES: u64 = 1 << 30;

/// The most operations in a chunk: each takes memory, also an empty one.
const MAX_OPS: usize = 1 << 18;

const MAGIC: [u8; 3] = *b"CGA";
const VERSION: u8 = 1;
const HEADER: usize = 4 + 1 + 8 + CHECKSUM;
const CHECKSUM: usize = 16;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// Beyond it zstd takes far more time for little.
const LEVEL: i32 = 3;

const PUT: u8 = 1;
const APPEND: u8 = 2;
const FOLDER: u8 = 3;
const REMOVE: u8 = 4;

/// Why bytes are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Corrupt {
    /// They begin otherwise, or are too few.
    #[error("these bytes are no part of an archive")]
    NotAChunk,
    /// A newer program wrote them.
    #[error("this part of an archive has version {0}, which a newer copilot-grpc has written")]
    Version(u8),
    /// They are not what was written.
    #[error("this part of an archive is cut or damaged")]
    Checksum,
    /// They are more than is ever written.
    #[error("this part of an archive is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// They are what was written, and make no sense.
    #[error("this part of an archive cannot be read: {0}")]
    Malformed(&'static str),
}

/// Writes operations as a chunk.
pub fn encode(ops: &[Op]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(ops.iter().map(size).sum());
    for op in ops {
        write(&mut plain, op);
    }
    let len = plain.len() as u64;
    let (method, body) = match zstd::bulk::compress(&plain, LEVEL) {
        Ok(compressed) if compressed.len() < plain.len() => (ZSTD, compressed),
        _ => (PLAIN, plain),
    };
    frame(method, len, &body)
}

fn frame(method: u8, len: u64, body: &[u8]) -> Vec<u8> {
    let len = len.to_le_bytes();
    [&MAGIC[..], &[VERSION, method], &len, &checksum(method, len, body), body].concat()
}

/// A chunk with a good checksum, whatever is in it.
#[cfg(any(test, fuzzing))]
pub fn forged(method: u8, len: u64, body: &[u8]) -> Vec<u8> {
    frame(method, len, body)
}

/// Reads a chunk.
///
/// # Errors
/// If the bytes are not what [`encode`] wrote.
pub fn decode(chunk: &[u8]) -> Result<Vec<Op>, Corrupt> {
    let Some((header, body)) = chunk.split_first_chunk::<HEADER>() else { return Err(Corrupt::NotAChunk) };
    let mut header = header.as_slice();
    if take(&mut header) != Some(MAGIC) {
        return Err(Corrupt::NotAChunk);
    }
    let (Some([version, method]), Some(len), Some(sum)) =
        (take(&mut header), take::<8>(&mut header), take::<CHECKSUM>(&mut header))
    else {
        return Err(Corrupt::NotAChunk);
    };
    if version != VERSION {
        return Err(Corrupt::Version(version));
    }
    if sum != checksum(method, len, body) {
        return Err(Corrupt::Checksum);
    }
    let len = u64::from_le_bytes(len);
    if len > MAX_BYTES {
        return Err(Corrupt::TooLarge);
    }
    let plain = match method {
        PLAIN => Bytes::copy_from_slice(body),
        ZSTD => decompress(body, len)?,
        _ => return Err(Corrupt::Malformed("it is compressed in an unknown way")),
    };
    if plain.len() as u64 == len { read(plain) } else { Err(Corrupt::Malformed("its length is another")) }
}

/// Takes memory as the bytes come, not as they are announced.
fn decompress(body: &[u8], len: u64) -> Result<Bytes, Corrupt> {
    let broken = |_| Corrupt::Malformed("it cannot be decompressed");
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(broken)?;
    decoder.take(len + 1).read_to_end(&mut plain).map_err(broken)?;
    Ok(plain.into())
}

fn checksum(method: u8, len: [u8; 8], body: &[u8]) -> [u8; CHECKSUM] {
    let hash = Sha256::new().chain_update([method]).chain_update(len).chain_update(body).finalize();
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash[..CHECKSUM]);
    sum
}

/// How many bytes an operation takes.
fn size(op: &Op) -> usize {
    1 + 4
        + match op {
            Op::Put { path, data } => path.as_bytes().len() + 8 + data.len(),
            Op::Append { path, data, .. } => path.as_bytes().len() + 16 + data.len(),
            Op::Folder { path } | Op::Remove { path } => path.as_bytes().len(),
        }
}

fn write(out: &mut Vec<u8>, op: &Op) {
    let mut begin = |kind: u8, path: &RelativePath| {
        out.push(kind);
        // A path is short.
        out.extend(u32::try_from(path.as_bytes().len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(path.as_bytes());
    };
    match op {
        Op::Put { path, data } => {
            begin(PUT, path);
            out.extend((data.len() as u64).to_le_bytes());
            out.extend_from_slice(data);
        }
        Op::Append { path, from, data } => {
            begin(APPEND, path);
            out.extend(from.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            out.extend_from_slice(data);
        }
        Op::Folder { path } => begin(FOLDER, path),
        Op::Remove { path } => begin(REMOVE, path),
    }
}

fn read(plain: Bytes) -> Result<Vec<Op>, Corrupt> {
    const CUT: Corrupt = Corrupt::Malformed("an operation is cut");
    let mut rest = plain.as_ref();
    let mut ops = Vec::new();
    let number = |rest: &mut &[u8]| take(rest).map(u64::from_le_bytes).ok_or(CUT);
    let data = |rest: &mut &[u8]| {
        let len = usize::try_from(number(rest)?).map_err(|_| CUT)?;
        let (data, after) = rest.split_at_checked(len).ok_or(CUT)?;
        *rest = after;
        Ok(plain.slice_ref(data))
    };
    while let Some((&kind, after)) = rest.split_first() {
        if ops.len() == MAX_OPS {
            return Err(Corrupt::TooLarge);
        }
        rest = after;
        let len = usize::try_from(u32::from_le_bytes(take(&mut rest).ok_or(CUT)?)).map_err(|_| CUT)?;
        let (path, after) = rest.split_at_checked(len).ok_or(CUT)?;
        rest = after;
        let path = RelativePath::parse(path).map_err(|_| Corrupt::Malformed("a path leads elsewhere"))?;
        ops.push(match kind {
            PUT => Op::Put { path, data: data(&mut rest)? },
            APPEND => Op::Append { path, from: number(&mut rest)?, data: data(&mut rest)? },
            FOLDER => Op::Folder { path },
            REMOVE => Op::Remove { path },
            _ => return Err(Corrupt::Malformed("it has an unknown operation")),
        });
    }
    Ok(ops)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}
