//! The set that counts now: loaded at the start, and again when a file has changed.
//!
//! A new set takes effect for new handshakes. Connections that are open go on with what they began with; they end at their
//! maximum age.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{
    files::{Contents, Files, Problem, Problems},
    set::Set,
};
use crate::{lock::lock, seldom::Seldom};

/// How often the files are looked at. They are small, and who replaces several is done in less.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often certificates that end soon are told of.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server's TLS, as its files have it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<Files>,
    current: Arc<Mutex<Arc<Set>>>,
    /// What the files had when they were looked at last.
    seen: Arc<Mutex<Vec<u8>>>,
    /// Handshakes that fail, in the log.
    pub(super) failed: Arc<Mutex<Seldom>>,
}

impl Tls {
    /// Loads the files. Blocks the thread, for as long as the disk takes.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn load(files: Files) -> Result<Self, Problems> {
        let contents = Contents::read(&files);
        let set = Set::new(&files, &contents, SystemTime::now())?;
        tell_of_expiring(&set);
        Ok(Self {
            files: Arc::new(files),
            current: Arc::new(Mutex::new(Arc::new(set))),
            seen: Arc::new(Mutex::new(contents.digest())),
            failed: Arc::default(),
        })
    }

    /// Whether clients speak TLS with this server.
    pub fn is_served(&self) -> bool {
        self.files.serving.is_some()
    }

    pub(super) fn now(&self) -> Arc<Set> {
        lock(&self.current).clone()
    }

    /// Loads the files again whenever they have changed, for ever. If what is in them is not good as a whole, that is told once,
    /// and the old set stays. Returns at once if there are none.
    pub(in crate::grpc) async fn follow(self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Instant::now();
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            let Ok(contents) = spawn_blocking(move || Contents::read(&files)).await else { continue };
            if contents.is_empty() {
                return;
            }
            let is_new = std::mem::replace(&mut *lock(&self.seen), contents.digest()) != contents.digest();
            if is_new {
                self.replace(&contents);
            }
            if is_new || told.elapsed() >= DAY {
                told = Instant::now();
                tell_of_expiring(&self.now());
            }
        }
    }

    fn replace(&self, contents: &Contents) {
        match Set::new(&self.files, contents, SystemTime::now()) {
            Ok(set) => {
                *lock(&self.current) = Arc::new(set);
                info!("the certificates were loaded again: new connections have the new ones");
            }
            Err(Problems(problems)) => {
                for Problem { file, reason } in problems {
                    let file: PathBuf = file;
                    warn!(file = %file.display(), reason, "the certificates are not loaded again: the old ones stay");
                }
            }
        }
    }
}

fn tell_of_expiring(set: &Set) {
    let now = SystemTime::now();
    for (file, validity) in set.expiring(now) {
        let (subject, at) = (&validity.subject, humantime::format_rfc3339_seconds(validity.not_after));
        if validity.not_after < now {
            warn!(file, %subject, %at, "a certificate has expired");
        } else {
            warn!(file, %subject, %at, "a certificate expires soon");
        }
    }
}
