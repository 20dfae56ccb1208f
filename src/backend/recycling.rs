//! CLIs of ours that have run for long are started anew, and nobody notices.
//!
//! A CLI that is *due* gets no new sessions where another can take them. Then it is let come to rest: its running turns go on to
//! their end while new ones wait in line, and when the last has ended and nobody is in the midst of a call, it is ended and started
//! again on the same home. Its sessions are loaded again when they are next used, as after any restart. Nobody waits in line for
//! longer than [`Rules::wait`]: if turns still run by then, the CLI goes on as it is, and it is tried again later.
//!
//! One CLI after the other: what waits, waits for one of them.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use super::{Backend, BackendId, State};

/// When CLIs are started anew. They are not, where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// After so much time.
    pub after_age: Option<Duration>,
    /// When they hold so many bytes of memory.
    pub at_memory: Option<u64>,
    /// After so many turns.
    pub after_turns: Option<u64>,
    /// How long new turns wait in line for running ones to end.
    pub wait: Duration,
}

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// After a try in vain, new turns are left in peace for so many times as long as they had to wait, unless no turn runs before.
const PEACE: u32 = 10;

/// Longer than a supervisor needs to see to it that nobody uses a CLI, or to give that up.
const VACATE_LIMIT: Duration = Duration::from_secs(10);

/// Why a CLI is due.
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

/// What there is to decide about a CLI.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    age: Duration,
    memory: Option<u64>,
    turns: u64,
}

impl Rules {
    /// Whether they say anything.
    pub(super) fn say_anything(&self) -> bool {
        self.after_age.is_some() || self.at_memory.is_some() || self.after_turns.is_some()
    }

    fn due(&self, facts: Facts) -> Option<Why> {
        let is_old = self.after_age.is_some_and(|limit| facts.age >= limit);
        let is_large = self.at_memory.is_some_and(|limit| facts.memory.is_some_and(|memory| memory >= limit));
        let is_worn = self.after_turns.is_some_and(|limit| facts.turns >= limit);
        match (is_old, is_large, is_worn) {
            (true, _, _) => Some(Why::Age),
            (_, true, _) => Some(Why::Memory),
            (_, _, true) => Some(Why::Turns),
            _ => None,
        }
    }
}

/// Starts these anew when they are due, for ever.
pub(super) async fn keep_fresh(backends: &[Backend], rules: Rules) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_peace = HashMap::<BackendId, Instant>::new();
    loop {
        ticks.tick().await;
        let due: Vec<_> =
            backends.iter().filter_map(|backend| Some((backend, backend.due(rules)?))).collect();
        for backend in backends {
            backend.inner.shared.marks.recycle(due.iter().any(|(other, _)| other.id() == backend.id()));
        }
        for (backend, why) in due {
            let is_quiet = backend.admission().is_quiet();
            if !is_quiet && in_peace.get(&backend.id()).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            let began = Instant::now();
            info!(backend = backend.name(), %why, "a CLI is being recycled");
            match backend.recycle(rules.wait).await {
                Ok(()) => {
                    info!(backend = backend.name(), took = ?began.elapsed(), "the CLI has been recycled")
                }
                Err(reason) => {
                    let again_in = rules.wait * PEACE;
                    in_peace.insert(backend.id(), Instant::now() + again_in);
                    warn!(backend = backend.name(), %reason, ?again_in, "the CLI could not be recycled");
                }
            }
        }
    }
}

/// Why a CLI goes on as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Kept {
    #[error("turns still run")]
    Busy,
    #[error("it is in use")]
    InUse,
    #[error("it did not come up again: {0}")]
    Down(String),
}

impl Backend {
    /// Why it is due, if it is and runs.
    fn due(&self, rules: Rules) -> Option<Why> {
        let life = self.vitals().life.filter(|_| self.is_ready())?;
        rules.due(Facts {
            age: life.began.elapsed(),
            memory: rules.at_memory.and_then(|_| life.memory()),
            turns: self.admission().admitted() - life.turns_before,
        })
    }

    /// Starts it anew, as soon as no turn runs.
    ///
    /// # Cancel safety
    /// Dropping it leaves it as it is, or starts it anew; new turns are let in.
    async fn recycle(&self, wait: Duration) -> Result<(), Kept> {
        let _closed = self.admission().close();
        timeout(wait, self.admission().quiet()).await.map_err(|_| Kept::Busy)?;
        let (order, vacated) = oneshot::channel();
        self.inner.orders.try_send(order).map_err(|_| Kept::InUse)?;
        // It is dropped where it cannot be followed.
        timeout(VACATE_LIMIT, vacated).await.ok().and_then(Result::ok).ok_or(Kept::InUse)?;
        let mut state = self.watch();
        match state.wait_for(|state| !matches!(state, State::Recycling)).await.as_deref() {
            Ok(State::Down { problem }) => Err(Kept::Down(problem.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Rules =
        Rules { after_age: None, at_memory: None, after_turns: None, wait: Duration::ZERO };

    #[test]
    fn each_rule_counts_by_itself() {
        let facts = Facts { age: Duration::from_secs(60), memory: Some(500), turns: 7 };
        let check = |rules: Rules, expected| assert_eq!(rules.due(facts), expected, "{rules:?}");
        check(NOTHING, None);
        check(Rules { after_age: Some(Duration::from_secs(60)), ..NOTHING }, Some(Why::Age));
        check(Rules { after_age: Some(Duration::from_secs(61)), ..NOTHING }, None);
        check(Rules { at_memory: Some(500), ..NOTHING }, Some(Why::Memory));
        check(Rules { at_memory: Some(501), ..NOTHING }, None);
        check(Rules { after_turns: Some(7), ..NOTHING }, Some(Why::Turns));
        check(Rules { after_turns: Some(8), ..NOTHING }, None);
        check(Rules { after_turns: Some(8), at_memory: Some(1), ..NOTHING }, Some(Why::Memory));
    }

    #[test]
    fn memory_that_is_not_known_is_no_reason() {
        assert_eq!(Rules { at_memory: Some(1), ..NOTHING }.due(Facts::default()), None);
    }
}
