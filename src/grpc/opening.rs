//! The first bytes of a client: HTTP/2's preface and its SETTINGS (RFC 9113, section 3.4), within a deadline.
//!
//! Before that neither buffers nor tasks of HTTP/2 exist for a connection, so one that stays silent, or sends a byte a minute,
//! costs a file descriptor, and that until the deadline. What was read is handed on, to be read again.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use super::frames::{HEAD, Head};

/// How long a client may take to shake hands, where TLS is spoken, and to send its preface and SETTINGS, which usually come with
/// the first packet.
const DEADLINE: Duration = Duration::from_secs(10);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest first SETTINGS in bytes: each setting takes six, and there are seven.
const MAX_SETTINGS: usize = 1024;

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it has not opened HTTP/2 within {DEADLINE:?}")]
    Silent,
    #[error("it speaks HTTP/1")]
    Http1,
    #[error("it speaks TLS")]
    Tls,
    #[error("it does not speak TLS")]
    Plaintext,
    #[error("the TLS handshake has failed: {0}")]
    Handshake(rustls::Error),
    #[error("it does not speak HTTP/2")]
    Foreign,
    #[error("its first frame is no SETTINGS, or one over {MAX_SETTINGS} bytes")]
    NoSettings,
    #[error("{0}")]
    Lost(#[from] io::Error),
}

/// When a client that connects now must have opened HTTP/2.
pub(super) fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

/// Reads a client's preface and SETTINGS, and perhaps more that came with them. A client of HTTP/1 is told what this port
/// serves.
///
/// # Cancel safety
/// Dropping the future loses what was read.
pub(super) async fn read(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let mut said = BytesMut::with_capacity(256);
    let reading = timeout_at(deadline, async {
        loop {
            if io.read_buf(&mut said).await? == 0 {
                return Err(Refusal::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            if look(&said)? {
                return Ok(());
            }
        }
    });
    match reading.await {
        Ok(Ok(())) => Ok(said.freeze()),
        Ok(Err(Refusal::Http1)) => {
            // It may not read the answer; either way it is not served.
            let _ = timeout_at(deadline, turn_away(io)).await;
            Err(Refusal::Http1)
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::Silent),
    }
}

/// The frames in the first bytes, which follow the preface.
pub(super) fn frames(said: &[u8]) -> &[u8] {
    said.get(PREFACE.len()..).unwrap_or_default()
}

/// Whether the preface and the SETTINGS are complete.
fn look(said: &[u8]) -> Result<bool, Refusal> {
    let begun = said.len().min(PREFACE.len());
    if said[..begun] != PREFACE[..begun] {
        return Err(foreign(said));
    }
    let Some(head) = Head::read(frames(said)) else { return Ok(false) };
    if !head.is_settings() || head.length > MAX_SETTINGS {
        return Err(Refusal::NoSettings);
    }
    Ok(frames(said).len() >= HEAD + head.length)
}

fn foreign(said: &[u8]) -> Refusal {
    match said {
        // A handshake record (RFC 8446, section 5.1).
        [0x16, 0x03, ..] | [0x16] => Refusal::Tls,
        // The beginning of a method.
        [b'A'..=b'Z', ..] => Refusal::Http1,
        _ => Refusal::Foreign,
    }
}

const HTTP1_ANSWER: &str = "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n\
    content-length: 40\r\nconnection: close\r\n\r\nThis port serves gRPC, over HTTP/2 only.";

/// How many bytes of a request are read on, so that its sender comes to read the answer: closing a socket with something unread
/// takes back what was sent.
const MAX_UNREAD: u64 = 64 * 1024;

async fn turn_away(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    io.write_all(HTTP1_ANSWER.as_bytes()).await?;
    linger(io).await
}

/// Ends a connection so that its client reads what was written last.
pub(super) async fn linger(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(MAX_UNREAD), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];

    fn opening() -> Vec<u8> {
        [PREFACE, SETTINGS].concat()
    }

    /// The result for a client that sends this, and then nothing.
    async fn told(said: &[u8]) -> (Result<Bytes, Refusal>, Duration) {
        let (mut client, mut server) = duplex(64 * 1024);
        client.write_all(said).await.unwrap();
        let began = Instant::now();
        (read(&mut server, deadline()).await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_says_first_is_handed_on_with_what_comes_behind_it() {
        assert_eq!(told(&opening()).await.0.unwrap(), opening());
        let more = [&opening()[..], b"more"].concat();
        assert_eq!(told(&more).await.0.unwrap(), more);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_come_to_its_settings_is_refused_when_the_deadline_has_passed() {
        for length in 0..opening().len() {
            let (read, took) = told(&opening()[..length]).await;
            assert!(matches!(read, Err(Refusal::Silent)), "{length}: {read:?}");
            assert_eq!(took.as_secs(), DEADLINE.as_secs(), "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_put_the_deadline_off() {
        let (mut client, mut server) = duplex(1024);
        let dribble = tokio::spawn(async move {
            for byte in opening() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
        });
        let began = Instant::now();
        assert!(matches!(read(&mut server, deadline()).await, Err(Refusal::Silent)));
        assert_eq!(began.elapsed().as_secs(), DEADLINE.as_secs());
        dribble.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn another_protocol_is_refused_at_once() {
        let frame = |head: &[u8]| [PREFACE, head].concat();
        type Row<'a> = (&'a [u8], fn(&Refusal) -> bool);
        let rows: [Row<'_>; 7] = [
            (b"\x16\x03\x01\x02", |it| matches!(it, Refusal::Tls)),
            (b"\0\0\0\0", |it| matches!(it, Refusal::Foreign)),
            (b"PRI * HTTP/3", |it| matches!(it, Refusal::Http1)),
            (&frame(&[0, 0, 8, 6, 0, 0, 0, 0, 0]), |it| matches!(it, Refusal::NoSettings)),
            (&frame(&[0, 0, 0, 4, 1, 0, 0, 0, 0]), |it| matches!(it, Refusal::NoSettings)),
            (&frame(&[0, 0, 0, 4, 0, 0, 0, 0, 1]), |it| matches!(it, Refusal::NoSettings)),
            (&frame(&[0, 4, 6, 4, 0, 0, 0, 0, 0]), |it| matches!(it, Refusal::NoSettings)),
        ];
        for (said, expected) in rows {
            let (mut client, mut server) = duplex(64 * 1024);
            client.write_all(said).await.unwrap();
            client.shutdown().await.unwrap();
            let read = read(&mut server, deadline()).await;
            assert!(read.as_ref().is_err_and(expected), "{said:?}: {read:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_http_1_is_told_what_is_spoken_here() {
        let (mut client, mut server) = duplex(64 * 1024);
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(matches!(read(&mut server, deadline()).await, Err(Refusal::Http1)));
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 505 "), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}, {}", body.len());
    }
}
