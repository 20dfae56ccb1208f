//! The standard error of a CLI: all of it is read, the last lines are kept.
//!
//! A pipe that nobody reads fills up, and then the CLI stands still in the middle of a write. The last lines say why a CLI
//! ended.

use std::{collections::VecDeque, mem};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tracing::debug;

/// The standard error of one CLI and its last lines.
#[derive(Debug)]
pub(super) struct Output<R> {
    reader: R,
    open: bool,
    buffer: Box<[u8; CHUNK]>,
    lines: Lines,
    kept: VecDeque<String>,
}

impl<R: AsyncRead + Unpin> Output<R> {
    pub(super) fn new(reader: R) -> Self {
        let kept = VecDeque::with_capacity(KEPT_LINES);
        Self { reader, open: true, buffer: Box::new([0; CHUNK]), lines: Lines::default(), kept }
    }

    /// Reads to the end. A read that fails counts as the end.
    ///
    /// # Cancel safety
    ///
    /// What has been read is in `self`: calling it again goes on from there.
    pub(super) async fn drain(&mut self) {
        while self.open {
            let read = self.reader.read(&mut self.buffer[..]).await.unwrap_or(0);
            self.open = read > 0;
            let lines = match read {
                0 => self.lines.end().into_iter().collect(),
                read => self.lines.feed(&self.buffer[..read]),
            };
            for line in lines {
                debug!(line, "CLI stderr");
                self.keep(line);
            }
        }
    }

    /// The last lines, oldest first.
    pub(super) fn into_last_lines(self) -> Vec<String> {
        self.kept.into()
    }

    fn keep(&mut self, line: String) {
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

/// The number of lines kept: enough for an error message with a short stack trace.
const KEPT_LINES: usize = 20;

/// The length at which a line is cut: a stack trace may quote the bundle's source, which is one line of megabytes.
const LINE_LIMIT: usize = 500;

/// The size of one read. The CLI prints little.
const CHUNK: usize = 4096;

/// Cuts bytes into lines of at most [`LINE_LIMIT`].
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// Whether the current line was given out at the limit; the rest of it is dropped.
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
                // Not only at its end, which may never come: an endless line has to be shown as well.
                if self.line.len() == LINE_LIMIT {
                    complete.extend(self.end());
                    self.skipping = true;
                }
            }
        }
        complete
    }

    /// Ends the line and returns it, unless it is empty.
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

    /// Checks the lines, for several ways of cutting the bytes.
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
    async fn the_last_lines_are_kept() {
        let printed: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let mut output = Output::new(printed.as_bytes());
        output.drain().await;
        let last = output.into_last_lines();
        assert_eq!(last.len(), KEPT_LINES);
        assert_eq!(last.last().map(String::as_str), Some("line 99"));
    }
}
