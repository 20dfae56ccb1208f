//! A piece of load, and what came of it: what the programs that make load are told, and what they tell.
//!
//! A program gets its [`Job`] as its argument, prepares its sessions, says `ready`, waits for a line on standard input, does the
//! job, and prints the [`Outcome`]. Then it waits for the end of its input, so that its memory can be looked at.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};

use crate::clock;

/// So many turns in so many sessions at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where the server is, or the CLI.
    pub address: String,
    /// How many connections the load comes on.
    pub connections: usize,
    /// What session ids begin with.
    pub prefix: String,
    /// How many sessions there are, each with one turn at a time.
    pub sessions: usize,
    /// How many of them have a turn at the same time.
    pub at_once: usize,
    /// How many turns each of them has.
    pub turns: usize,
    /// Whether the turns are streamed.
    pub stream: bool,
    /// Deltas of a turn; they are expected to come if it is streamed.
    pub deltas: usize,
    /// Bytes of a delta.
    pub size: usize,
    /// Calls of tools in a turn, each with 20 KB of arguments.
    pub tools: usize,
    /// Microseconds between deltas; 0: as fast as can be.
    pub pace: u64,
    /// Whether the sessions have to be created first.
    pub create: bool,
}

impl Job {
    /// The job in the argument.
    ///
    /// # Panics
    /// If there is none.
    pub fn of_args() -> Self {
        let job = std::env::args().nth(1).expect("a job");
        serde_json::from_str(&job).expect("a job as JSON")
    }

    /// The prompt that has a stand-in play the turn.
    pub fn prompt(&self) -> String {
        format!("deltas={} size={} pace={} tools={}", self.deltas, self.size, self.pace, self.tools)
    }

    /// Waits until it is time for a session's first turn, so that those that are paced are spread over the time that a turn takes:
    /// callers do not all begin at the same moment.
    pub async fn begin(&self, number: usize) {
        let turn = Duration::from_micros(self.pace * self.deltas as u64);
        tokio::time::sleep(turn.mul_f64(number as f64 / self.sessions as f64)).await;
    }

    /// The id of a session.
    pub fn session(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }
}

/// What came of a [`Job`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Turns that ended well.
    pub turns: usize,
    /// Turns that did not.
    pub failed: usize,
    /// Deltas that came, those that were joined into others included.
    pub deltas: usize,
    /// Messages that brought them.
    pub messages: usize,
    /// What each turn took beyond the time that the CLI took for it, in nanoseconds.
    pub turn: Quantiles,
    /// What each turn took in all, in nanoseconds.
    pub whole: Quantiles,
    /// What each delta took from the CLI to the caller, in nanoseconds.
    pub delta: Quantiles,
    /// How long it took from `go` on, in nanoseconds.
    pub wall: u64,
}

/// A distribution.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50: u64,
    /// One in a hundred is above.
    pub p99: u64,
}

impl Quantiles {
    /// Of these samples, in any order.
    pub fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            let place = (samples.len() as f64 * share) as usize;
            samples.get(place.min(samples.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// What is seen of turns as they run.
#[derive(Debug, Default)]
pub struct Tally {
    outcome: Outcome,
    turns: Vec<u64>,
    whole: Vec<u64>,
    deltas: Vec<u64>,
}

impl Tally {
    /// A message with a delta, or with several that were joined, came.
    pub fn delta(&mut self, text: &str, size: usize) {
        let now = clock::now();
        self.outcome.messages += 1;
        self.outcome.deltas += text.len() / size;
        let pieces = text.as_bytes().chunks_exact(size).filter_map(|piece| {
            let digits = std::str::from_utf8(piece).ok()?.trim_end();
            digits.parse::<u64>().ok()
        });
        self.deltas.extend(pieces.map(|written| now.saturating_sub(written)));
    }

    /// A turn ended, with the answer that the stand-in gave: when it got the prompt, and when it wrote the answer.
    pub fn turn(&mut self, sent: u64, answer: &str) {
        let taken = clock::now() - sent;
        self.outcome.turns += 1;
        self.whole.push(taken);
        let mut times = answer.split_ascii_whitespace().filter_map(|word| word.parse::<u64>().ok());
        if let (Some(received), Some(written)) = (times.next(), times.next()) {
            self.turns.push(taken.saturating_sub(written - received));
        }
    }

    /// A turn failed.
    pub fn failed(&mut self, problem: &dyn std::fmt::Display) {
        if self.outcome.failed == 0 {
            eprintln!("load: {problem}");
        }
        self.outcome.failed += 1;
    }

    /// Takes in what another has seen.
    pub fn add(&mut self, other: Self) {
        self.outcome.turns += other.outcome.turns;
        self.outcome.failed += other.outcome.failed;
        self.outcome.deltas += other.outcome.deltas;
        self.outcome.messages += other.outcome.messages;
        self.turns.extend(other.turns);
        self.whole.extend(other.whole);
        self.deltas.extend(other.deltas);
    }

    fn finish(self, wall: u64) -> Outcome {
        let [turn, whole, delta] = [self.turns, self.whole, self.deltas].map(Quantiles::of);
        Outcome { turn, whole, delta, wall, ..self.outcome }
    }
}

/// The program's part of the dialogue.
#[derive(Debug)]
pub struct Dialogue {
    input: BufReader<Stdin>,
    began: u64,
}

impl Dialogue {
    /// Says that all is prepared, and waits until it is to begin.
    ///
    /// # Errors
    /// Those of standard input and output.
    pub async fn ready() -> io::Result<Self> {
        tell("ready")?;
        let mut dialogue = Self { input: BufReader::new(tokio::io::stdin()), began: 0 };
        dialogue.input.read_line(&mut String::new()).await?;
        dialogue.began = clock::now();
        Ok(dialogue)
    }

    /// Tells what came of it, and waits until the process may end.
    ///
    /// # Errors
    /// Those of standard input and output.
    pub async fn done(mut self, tally: Tally) -> io::Result<()> {
        let outcome = tally.finish(clock::now() - self.began);
        tell(&serde_json::to_string(&outcome)?)?;
        self.input.read_line(&mut String::new()).await?;
        Ok(())
    }
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}
