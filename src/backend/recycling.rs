//! Recycling: embedded CLIs that have run for long are replaced, and no caller notices.
//!
//! A CLI that is *due* is not ended: another one is started beside it, on the same home, and takes its place. New calls go to
//! the new one; turns that run on the old one run to their end there, however long that takes. A session moves when it is next
//! used: the old CLI closes it, and the new one loads it, as after any restart. Where many are used at once they move a few at
//! a time, and the others go on in the old one. When nobody uses that any more and all sessions have left it, it is ended. So
//! no call waits, and for a while there are two processes.
//!
//! CLIs are replaced one after the other, and none again while its old one still runs turns: a machine has memory for one more, and
//! for each whose turns last.
//!
//! Tests: in this file, and `tests/integration/recycling.rs`.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{
    backend::{Backend, BackendId},
    process::discover::Form,
};

/// The limits at which an embedded CLI is replaced; none where nothing is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The age at which it is replaced.
    pub after_age: Option<Duration>,
    /// The memory at which it is replaced.
    pub at_memory: AtMemory,
    /// The number of turns after which it is replaced.
    pub after_turns: Option<u64>,
}

/// The memory limit at which a CLI is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtMemory {
    /// A limit that suits the CLI's form.
    Usual,
    /// No limit.
    Never,
    /// This many bytes.
    Bytes(u64),
}

/// The usual limit of the native runtime, beside what its loaded sessions may take. It holds 100 MB after its first turn, and
/// gives back next to nothing of what a turn takes: about 100 KB for a short one, more the longer its session is. The Node CLI
/// does not grow beyond a point.
const USUAL_OF_NATIVE: u64 = 512 << 20;

/// The part of the usual limit for each loaded session. A new session takes half as much; without this, a CLI that has many
/// would be replaced all the time, and in vain.
const OF_A_SESSION: u64 = 2 << 20;

impl AtMemory {
    /// The limit in bytes for a CLI of this form, without sessions.
    fn limit(self, form: Form) -> Option<u64> {
        match (self, form) {
            (Self::Bytes(bytes), _) => Some(bytes),
            (Self::Usual, Form::Native) => Some(USUAL_OF_NATIVE),
            (Self::Usual, Form::Node) | (Self::Never, _) => None,
        }
    }

    /// The bytes added to the limit for a CLI that has this many sessions loaded.
    fn allowance(self, sessions: usize) -> u64 {
        match self {
            Self::Usual => OF_A_SESSION.saturating_mul(sessions as u64),
            Self::Never | Self::Bytes(_) => 0,
        }
    }
}

/// Why a CLI is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Age,
    Memory,
    Turns,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Age => "its age",
            Self::Memory => "its memory",
            Self::Turns => "the number of its turns",
        })
    }
}

/// The facts that decide whether a CLI is due.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    age: Duration,
    memory: Option<u64>,
    /// Number of loaded sessions. They are only counted where the memory may be over the limit.
    sessions: usize,
    turns: u64,
}

impl Rules {
    fn due(&self, form: Form, facts: Facts) -> Option<Why> {
        let limit = self.at_memory.limit(form).map(|limit| limit + self.at_memory.allowance(facts.sessions));
        let is_large = |limit| facts.memory.is_some_and(|memory| memory >= limit);
        if self.after_age.is_some_and(|limit| facts.age >= limit) {
            Some(Why::Age)
        } else if limit.is_some_and(is_large) {
            Some(Why::Memory)
        } else if self.after_turns.is_some_and(|limit| facts.turns >= limit) {
            Some(Why::Turns)
        } else {
            None
        }
    }
}

/// How often the CLIs are checked.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a replacement that could not be started.
const PAUSE: Duration = Duration::from_secs(60);

/// Replaces these CLIs when they are due, for ever.
pub(super) async fn keep_fresh(backends: &[Backend], rules: Rules) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = HashMap::<BackendId, Instant>::new();
    loop {
        ticks.tick().await;
        for backend in backends {
            let Some(why) = backend.due(rules) else { continue };
            if failed.get(&backend.id()).is_some_and(|at| at.elapsed() < PAUSE) {
                continue;
            }
            let began = Instant::now();
            info!(backend = backend.name(), %why, "a CLI is being recycled");
            match backend.recycle().await {
                Ok(()) => {
                    info!(backend = backend.name(), took = ?began.elapsed(), "the CLI has been recycled")
                }
                Err(reason) => {
                    failed.insert(backend.id(), Instant::now());
                    warn!(backend = backend.name(), reason, again_in = ?PAUSE, "the CLI could not be recycled");
                }
            }
        }
    }
}

impl Backend {
    /// Why the CLI is due, if it is and runs.
    fn due(&self, rules: Rules) -> Option<Why> {
        if self.retiring() > 0 {
            return None;
        }
        let form = self.form()?;
        let process = self.stats().process.filter(|_| self.is_ready())?;
        let limit = rules.at_memory.limit(form);
        let memory = limit.and_then(|_| process.memory());
        let facts = Facts {
            age: process.began.elapsed(),
            memory,
            sessions: if memory >= limit { self.loaded() } else { 0 },
            turns: self.admission().admitted() - process.turns_before,
        };
        rules.due(form, facts)
    }

    /// Replaces the running CLI by another one. The error says why it could not be replaced.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the CLI as it is or replaced.
    async fn recycle(&self) -> Result<(), String> {
        let lost = || "it has ended meanwhile".to_owned();
        let (order, done) = oneshot::channel();
        self.inner.orders.send(order).await.map_err(|_| lost())?;
        // The sender is dropped with the CLI.
        done.await.unwrap_or_else(|_| Err(lost()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Rules = Rules { after_age: None, at_memory: AtMemory::Never, after_turns: None };

    #[test]
    fn each_rule_counts_by_itself() {
        let facts = Facts { age: Duration::from_secs(60), memory: Some(500), sessions: 9, turns: 7 };
        let check = |rules: Rules, expected| assert_eq!(rules.due(Form::Node, facts), expected, "{rules:?}");
        let at_memory = |bytes| Rules { at_memory: AtMemory::Bytes(bytes), ..NOTHING };
        check(NOTHING, None);
        check(Rules { after_age: Some(Duration::from_secs(60)), ..NOTHING }, Some(Why::Age));
        check(Rules { after_age: Some(Duration::from_secs(61)), ..NOTHING }, None);
        check(at_memory(500), Some(Why::Memory));
        check(at_memory(501), None);
        check(Rules { after_turns: Some(7), ..NOTHING }, Some(Why::Turns));
        check(Rules { after_turns: Some(8), ..NOTHING }, None);
        check(Rules { after_turns: Some(8), ..at_memory(1) }, Some(Why::Memory));
    }

    #[test]
    fn memory_that_is_not_known_is_no_reason() {
        let rules = Rules { at_memory: AtMemory::Bytes(1), ..NOTHING };
        assert_eq!(rules.due(Form::Node, Facts::default()), None);
    }

    #[test]
    fn where_nothing_is_said_the_form_decides_that_gives_no_memory_back() {
        let large = Facts { memory: Some(USUAL_OF_NATIVE), ..Facts::default() };
        let usual = Rules { at_memory: AtMemory::Usual, ..NOTHING };
        assert_eq!(usual.due(Form::Native, large), Some(Why::Memory));
        assert_eq!(usual.due(Form::Node, large), None);
        let with_sessions = |more| Facts { memory: Some(USUAL_OF_NATIVE + more), sessions: 10, ..large };
        assert_eq!(usual.due(Form::Native, with_sessions(10 * OF_A_SESSION - 1)), None);
        assert_eq!(usual.due(Form::Native, with_sessions(10 * OF_A_SESSION)), Some(Why::Memory));
        assert_eq!(NOTHING.due(Form::Native, large), None);
    }
}
