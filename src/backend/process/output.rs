//! What a CLI prints: read for ever, kept in small part.
//!
//! A pipe that nobody reads fills up, and then the CLI stands still in the middle of a write. So everything is read at
//! once; kept are the port, when it is announced, and the last lines, which say why a CLI ended.

use std::{collections::VecDeque, mem};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::oneshot,
};
use tracing::debug;

/// Both output streams of one CLI.
#[derive(Debug)]
pub(super) struct Output<O, E> {
    stdout: Stream<O>,
    stderr: Stream<E>,
    kept: VecDeque<String>,
    /// Taken when the port is announced.
    ready: Option<oneshot::Sender<u16>>,
}

impl<O: AsyncRead + Unpin, E: AsyncRead + Unpin> Output<O, E> {
    /// `ready` receives the port once standard output announces it.
    pub(super) fn new(stdout: O, stderr: E, ready: oneshot::Sender<u16>) -> Self {
        let (stdout, stderr) = (Stream::new(stdout), Stream::new(stderr));
        Self { stdout, stderr, kept: VecDeque::with_capacity(KEPT_LINES), ready: Some(ready) }
    }

    /// Reads until both streams have ended.
    ///
    /// # Cancel safety
    ///
    /// What has been read is in `self`: calling it again goes on from there.
    pub(super) async fn drain(&mut self) {
        while self.stdout.open || self.stderr.open {
            tokio::select! {
                lines = self.stdout.next(), if self.stdout.open => for line in lines {
                    debug!(line, "CLI stdout");
                    self.announce(&line);
                    self.keep(line);
                },
                lines = self.stderr.next(), if self.stderr.open => for line in lines {
                    debug!(line, "CLI stderr");
                    self.keep(line);
                },
            }
        }
    }

    /// The last lines of both streams, oldest first.
    pub(super) fn into_last_lines(self) -> Vec<String> {
        self.kept.into()
    }

    fn announce(&mut self, line: &str) {
        if let Some(port) = announced_port(line)
            && let Some(ready) = self.ready.take()
        {
            // Nobody may be waiting any more: the start was given up.
            let _ = ready.send(port);
        }
    }

    fn keep(&mut self, line: String) {
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

/// Enough for an error message with a short stack trace.
const KEPT_LINES: usize = 20;

/// Longer lines are cut: a stack trace may quote the bundle's source, which is one line of megabytes.
const LINE_LIMIT: usize = 500;

/// Read at once. The CLI prints little.
const CHUNK: usize = 4096;

/// The port in `CLI server listening on port N`; the official SDKs look for the same words in any case.
fn announced_port(line: &str) -> Option<u16> {
    const WORDS: &str = "listening on port ";
    // Lower-casing ASCII keeps every byte where it is.
    let at = line.to_ascii_lowercase().find(WORDS)? + WORDS.len();
    let digits = line[at..].split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|port| *port != 0)
}

/// One stream and what is known of its current line.
#[derive(Debug)]
struct Stream<R> {
    reader: R,
    open: bool,
    buffer: Box<[u8; CHUNK]>,
    lines: Lines,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(reader: R) -> Self {
        Self { reader, open: true, buffer: Box::new([0; CHUNK]), lines: Lines::default() }
    }

    /// Reads once, and returns the lines that this completed. A stream that cannot be read has ended.
    async fn next(&mut self) -> Vec<String> {
        let read = self.reader.read(&mut self.buffer[..]).await.unwrap_or(0);
        if read == 0 {
            self.open = false;
            return self.lines.end().into_iter().collect();
        }
        self.lines.feed(&self.buffer[..read])
    }
}

/// Cuts bytes into lines of at most [`LINE_LIMIT`].
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// The current line was given out when it reached the limit; the rest of it is dropped.
    skipping: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                complete.extend(self.end());
            } else if !self.skipping {
                self.line.push(byte);
                // Not only at its end, which may never come: an endless line has to be seen as well.
                if self.line.len() == LINE_LIMIT {
                    complete.extend(self.end());
                    self.skipping = true;
                }
            }
        }
        complete
    }

    /// Ends the line; empty ones are no lines.
    fn end(&mut self) -> Option<String> {
        self.skipping = false;
        let bytes = mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
        // Each byte that is not UTF-8 has become three.
        let mut cut = line.len().min(LINE_LIMIT);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        line.truncate(cut);
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_ready_line_only() {
        let check = |line, expected| assert_eq!(announced_port(line), expected, "{line}");
        check("CLI server listening on port 33825", Some(33825));
        check("Listening On PORT 80.", Some(80));
        check("é ☃ listening on port 1", Some(1));
        check("listening on port 99999", None);
        check("listening on port 0", None);
        check("listening on port -1", None);
        check("listening on port ", None);
        check("Debugger listening on ws://127.0.0.1:9229", None);
    }

    /// Lines are the same however the bytes are cut.
    fn check(bytes: &[u8], expected: &[&str]) {
        for size in [1, 2, 7, bytes.len().max(1)] {
            let mut lines = Lines::default();
            let mut seen: Vec<String> = bytes.chunks(size).flat_map(|chunk| lines.feed(chunk)).collect();
            seen.extend(lines.end());
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn output_is_cut_into_lines() {
        check(b"", &[]);
        check(b"a\nb\n", &["a", "b"]);
        check(b"a\r\n\n  b", &["a", "  b"]);
        check(b"\xff\xc3\n\xe2\x98\x83", &["\u{fffd}\u{fffd}", "☃"]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let long = "x".repeat(LINE_LIMIT);
        check(format!("{long}{long}{long}\nnext\n").as_bytes(), &[&long, "next"]);
        check(format!("{long}\nnext").as_bytes(), &[&long, "next"]);
        let snowmen = "☃".repeat(LINE_LIMIT / 3);
        check(format!("{snowmen}☃☃\n").as_bytes(), &[&format!("{snowmen}\u{fffd}")[..snowmen.len()]]);
    }

    #[test]
    fn bytes_that_are_not_text_stay_within_the_limit() {
        for line in Lines::default().feed(&[0xff; 10 * LINE_LIMIT]) {
            assert!(line.len() <= LINE_LIMIT);
        }
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_and_the_port_is_announced_once() {
        let mut stdout = String::from("listening on port 7\nlistening on port 8\n");
        for number in 0..100 {
            stdout += &format!("line {number}\n");
        }
        let (ready, mut port) = oneshot::channel();
        let mut output = Output::new(stdout.as_bytes(), &b""[..], ready);
        output.drain().await;
        assert_eq!(port.try_recv(), Ok(7));
        let last = output.into_last_lines();
        assert_eq!(last.len(), KEPT_LINES);
        assert_eq!(last.last().map(String::as_str), Some("line 99"));
    }

    #[tokio::test]
    async fn a_port_on_standard_error_is_not_an_announcement() {
        let (ready, mut port) = oneshot::channel();
        let mut output = Output::new(&b""[..], &b"listening on port 7\n"[..], ready);
        output.drain().await;
        assert!(port.try_recv().is_err());
        assert_eq!(output.into_last_lines(), ["listening on port 7"]);
    }
}
