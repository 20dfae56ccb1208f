//! Whether a CLI gets new sessions. Those that it has go on in any case.
//!
//! Tests: `tests/integration/standing.rs`.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::outlier::{Ejection, Outlier};
use crate::{
    backend::error::{Error, NEVER_ANSWERED, OF_ONE_SESSION},
    lock::lock,
};

/// Whether a CLI gets new sessions, and if not, why. Where several reasons hold, it is the last one in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It gets new sessions.
    Open,
    /// Too much has failed in a row. It gets new sessions only if most of the other CLIs are ejected, too.
    Ejected,
    /// Its address has gone. It gets no new sessions.
    Leaving,
    /// The operator drains it. It gets no new sessions.
    Draining,
}

/// What decides a CLI's standing: the operator's word, its address, and its failures.
#[derive(Debug)]
pub(in crate::backend) struct Eligibility {
    /// The CLI's name in logs.
    name: String,
    draining: AtomicBool,
    leaving: AtomicBool,
    outlier: Mutex<Outlier>,
    /// End of the ejection, if there is one.
    ejected: watch::Sender<Option<Instant>>,
}

impl Eligibility {
    pub(in crate::backend) fn new(name: &str, ejection: Ejection) -> Self {
        Self {
            name: name.to_owned(),
            draining: AtomicBool::default(),
            leaving: AtomicBool::default(),
            outlier: Mutex::new(Outlier::new(ejection)),
            ejected: watch::Sender::default(),
        }
    }

    pub(in crate::backend) fn standing(&self) -> Standing {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is_set(&self.draining) {
            Standing::Draining
        } else if is_set(&self.leaving) {
            Standing::Leaving
        } else if self.ejected.borrow().is_some() {
            Standing::Ejected
        } else {
            Standing::Open
        }
    }

    /// Sets whether the operator drains the CLI.
    pub(in crate::backend) fn drain(&self, draining: bool) {
        if self.draining.swap(draining, Ordering::Relaxed) != draining {
            info!(backend = self.name, draining, "the operator has decided whether a CLI gets new sessions");
        }
    }

    /// Sets whether the CLI's address has gone.
    pub(in crate::backend) fn leave(&self, leaving: bool) {
        if self.leaving.swap(leaving, Ordering::Relaxed) != leaving {
            info!(backend = self.name, leaving, "a CLI's address has gone or come back");
        }
    }

    /// Records the result of a call.
    pub(in crate::backend) fn called<T>(&self, method: &'static str, result: &Result<T, Error>) {
        match result {
            Ok(_) | Err(Error::Rejected(_) | Error::TooLarge { .. }) => {
                self.outlier(|outlier| outlier.answered(method))
            }
            // That concerns one session alone.
            Err(Error::Timeout { method, .. })
                if NEVER_ANSWERED.contains(method) || OF_ONE_SESSION.contains(method) => {}
            Err(error @ (Error::Timeout { .. } | Error::Protocol { .. })) => {
                self.judge(&error.to_string(), |outlier| outlier.failed(method, Instant::now()));
            }
            // Nothing was asked, or the loss of the link is recorded by itself.
            Err(
                Error::Unavailable { .. }
                | Error::Incompatible { .. }
                | Error::Lost { .. }
                | Error::Overloaded,
            ) => {}
        }
    }

    /// Records that a link has held for long.
    pub(in crate::backend) fn held(&self) {
        self.outlier(Outlier::held);
    }

    /// Records that a link was lost before it had held for long.
    pub(in crate::backend) fn flapped(&self, problem: &str) {
        self.judge(problem, |outlier| outlier.flapped(Instant::now()));
    }

    /// Resolves when the CLI is to be probed.
    pub(in crate::backend) async fn on_probation(&self) {
        let mut ejected = self.ejected.subscribe();
        // It fails only when the sender is dropped, which is this value's own.
        let until = ejected.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await;
    }

    /// Records the result of a probe.
    pub(in crate::backend) fn probed<T>(&self, probe: Result<T, Error>) {
        match probe {
            Ok(_) => {
                self.outlier(|outlier| outlier.probed(true, Instant::now()));
                info!(backend = self.name, "a CLI that had failed gets new sessions again");
            }
            Err(error) => {
                self.judge(&error.to_string(), |outlier| outlier.probed(false, Instant::now()));
            }
        }
    }

    fn judge(&self, problem: &str, act: impl FnOnce(&mut Outlier) -> Option<Duration>) {
        if let Some(pause) = self.outlier(act) {
            warn!(
                backend = self.name,
                problem,
                ?pause,
                "a CLI fails again and again: new sessions go elsewhere"
            );
        }
    }

    fn outlier<T>(&self, act: impl FnOnce(&mut Outlier) -> T) -> T {
        let mut outlier = lock(&self.outlier);
        let done = act(&mut outlier);
        let until = outlier.probe_at();
        self.ejected.send_if_modified(|known| std::mem::replace(known, until) != until);
        done
    }
}
