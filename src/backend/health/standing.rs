//! Whether a CLI gets new sessions. Those that it has go on in any case.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::outlier::{Ejection, Outlier};
use crate::backend::error::{Error, NEVER_ANSWERED, OF_ONE_SESSION};

/// Whether a CLI gets new sessions, and why not. Of several reasons, the last one here is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Open,
    /// Too much has failed in a row: only if most of the others have failed, too.
    Ejected,
    /// Its address has gone: never.
    Leaving,
    /// The operator has said so: never.
    Draining,
}

/// What there is to be said of a CLI.
#[derive(Debug)]
pub(in crate::backend) struct Marks {
    /// The CLI's name in logs.
    name: String,
    draining: AtomicBool,
    leaving: AtomicBool,
    outlier: Mutex<Outlier>,
    /// Until when it is ejected.
    ejected: watch::Sender<Option<Instant>>,
}

impl Marks {
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
        let is = |mark: &AtomicBool| mark.load(Ordering::Relaxed);
        match () {
            () if is(&self.draining) => Standing::Draining,
            () if is(&self.leaving) => Standing::Leaving,
            () if self.ejected.borrow().is_some() => Standing::Ejected,
            () => Standing::Open,
        }
    }

    /// The operator says whether it is to get new sessions.
    pub(in crate::backend) fn drain(&self, draining: bool) {
        if self.draining.swap(draining, Ordering::Relaxed) != draining {
            info!(backend = self.name, draining, "the operator has decided whether a CLI gets new sessions");
        }
    }

    /// Its address has gone, or is back.
    pub(in crate::backend) fn leave(&self, leaving: bool) {
        if self.leaving.swap(leaving, Ordering::Relaxed) != leaving {
            info!(backend = self.name, leaving, "a CLI's address has gone or come back");
        }
    }

    /// A call has come to its end.
    pub(in crate::backend) fn called<T>(&self, method: &'static str, result: &Result<T, Error>) {
        match result {
            Ok(_) | Err(Error::Rejected(_) | Error::TooLarge { .. }) => {
                self.outlier(|outlier| outlier.answered(method))
            }
            // It says nothing of other sessions.
            Err(Error::Timeout { method, .. })
                if NEVER_ANSWERED.contains(method) || OF_ONE_SESSION.contains(method) => {}
            Err(error @ (Error::Timeout { .. } | Error::Protocol { .. })) => {
                self.judge(&error.to_string(), |outlier| outlier.failed(method, Instant::now()));
            }
            // Nothing was asked, or the link's end tells the rest.
            Err(
                Error::Unavailable { .. }
                | Error::Incompatible { .. }
                | Error::Lost { .. }
                | Error::Overloaded,
            ) => {}
        }
    }

    /// A link has held for long.
    pub(in crate::backend) fn held(&self) {
        self.outlier(Outlier::held);
    }

    /// A link was lost that had not.
    pub(in crate::backend) fn flapped(&self, problem: &str) {
        self.judge(problem, |outlier| outlier.flapped(Instant::now()));
    }

    /// Resolves when it is to be probed.
    pub(in crate::backend) async fn on_probation(&self) {
        let mut ejected = self.ejected.subscribe();
        // It fails when the sender is gone, which is ours.
        let until = ejected.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await;
    }

    /// What came of a probe.
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
        // It is whole after every statement that can panic.
        let mut outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut outlier);
        let until = outlier.probe_at();
        self.ejected.send_if_modified(|known| std::mem::replace(known, until) != until);
        done
    }
}
