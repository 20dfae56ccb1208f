//! Two hundred faults at random moments of streamed turns cost no turn its truth and leave nothing behind, on the real CLI.
//!
//! Whatever breaks: a turn that reports success has its text, all of it, once; one that fails says truly why, and whether the agent
//! got the prompt; the session is usable by the next call; and in the end nothing is left, neither a task nor a descriptor nor a
//! place in a queue.
//!
//! `FAULTS` in the environment is how many there are, and `FAULT_SEED` what they are drawn from, for who looks for more: without
//! it they are always the same, though what they meet is a matter of time, too.

mod fault;
mod script;
mod subject;

use std::{env, ops::Range};

use futures_util::future::join_all;

use self::{
    fault::Kind,
    subject::{SESSIONS, Subject},
};
use crate::support::real_cli::LastingCli;

/// How many faults there are in all tests together, if the environment does not say.
const FAULTS: usize = 200;

/// What they are drawn from then.
const SEED: u64 = 1;

#[tokio::test]
async fn connections_that_are_reset() {
    suffer(Kind::Reset, 72, 1, 3).await;
}

#[tokio::test]
async fn connections_that_fall_silent() {
    suffer(Kind::HalfOpen, 20, 1, 4).await;
}

#[tokio::test]
async fn a_cli_that_is_killed() {
    suffer(Kind::Killed, 20, 2, 1).await;
}

#[tokio::test]
async fn a_cli_that_is_frozen() {
    suffer(Kind::Frozen, 12, 2, 1).await;
}

#[tokio::test]
async fn a_wire_that_stalls() {
    suffer(Kind::Stalled, 24, 1, 4).await;
}

#[tokio::test]
async fn a_caller_that_reads_slowly() {
    suffer(Kind::SlowReader, 28, 1, 2).await;
}

#[tokio::test]
async fn nonsense_in_the_midst_of_frames() {
    suffer(Kind::Malformed, 24, 1, 4).await;
}

/// `share` of the [`FAULTS`], on so many CLIs with so many facades each.
async fn suffer(kind: Kind, share: usize, clis: usize, subjects: usize) {
    let seed = number("FAULT_SEED").unwrap_or(SEED);
    let faults = number("FAULTS").map_or(share, |faults| faults as usize * share / FAULTS);
    let rounds = faults.div_ceil(clis * subjects);
    let suffered = (0..clis).map(|cli| on_one_cli(kind, seed, cli * subjects..(cli + 1) * subjects, rounds));
    let answered = join_all(suffered).await.concat();
    report(&format!("{kind:?}, FAULT_SEED={seed}: {faults} faults, answered turns by facade: {answered:?}"));
    // Mostly all of them, but with the CLI its turns die, and with the only link.
    let least = if kind == Kind::Killed { 0 } else { rounds };
    assert!(answered[0] >= least, "{answered:?} of {} each", rounds * SESSIONS);
}

async fn on_one_cli(kind: Kind, seed: u64, subjects: Range<usize>, rounds: usize) -> Vec<usize> {
    let cli = LastingCli::start(script::reply).await;
    let started = subjects.map(|number| Subject::start(number, seed, &cli));
    let suffered = join_all(started).await.into_iter().map(|subject| subject.suffer(kind, rounds, &cli));
    join_all(suffered).await
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "the figures of a failure, or of a success with --nocapture")]
fn report(line: &str) {
    eprintln!("{line}");
}
