//! The keys of an issuer, kept fresh by a task of their own.
//!
//! A URL is fetched every 10 minutes, and when a token has a key id that is not in the set, but then at most once in 30 s, so that
//! tokens with invented ids make nobody fetch. A file is read every 2 s. One fetch runs at a time, and all who need it wait for it;
//! it is the task's, so no caller who leaves takes it along. When it fails, the last good set stays, for a day at most.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    fetch::{Authorities, Endpoint, Fetcher},
    file,
    keys::{KeySet, MAX_SET},
    refused::Refused,
};

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url {
        /// The URL.
        at: Endpoint,
        /// Who vouches for its server; `None`: the system's authorities.
        authorities: Option<Authorities>,
    },
}

/// How often a URL is fetched.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// After which time a failed fetch is tried again, and an unknown key id makes another one.
const PAUSE: Duration = Duration::from_secs(30);
/// For how long a set is used that cannot be fetched again.
const LONGEST_USE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a failure that goes on is logged.
const TOLD_AGAIN: Duration = Duration::from_secs(10 * 60);

/// The keys of an issuer as they are now.
pub(super) struct Jwks {
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
}

#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// When they were fetched last.
    fetched: Option<Instant>,
    /// When the last attempt began.
    tried: Option<Instant>,
    is_fetching: bool,
}

impl State {
    fn fresh(&self) -> Option<&Arc<KeySet>> {
        let is_fresh = self.fetched.is_some_and(|fetched| fetched.elapsed() < LONGEST_USE);
        self.keys.as_ref().filter(|_| is_fresh)
    }

    fn was_tried_lately(&self) -> bool {
        self.tried.is_some_and(|tried| tried.elapsed() < PAUSE)
    }
}

impl Jwks {
    /// The keys, and the work that keeps them fresh, which never ends. `name` stands in the log.
    pub(super) fn new(source: impl Fetch, name: Arc<str>) -> (Self, impl Future<Output = ()> + Send) {
        let (states, state) = watch::channel(State::default());
        let wanted = Arc::new(Notify::new());
        (Self { state, wanted: wanted.clone() }, keep(source, name, states, wanted))
    }

    /// The keys, without waiting; `None` if there are none that may be used.
    pub(super) fn now(&self) -> Option<Arc<KeySet>> {
        self.state.borrow().fresh().cloned()
    }

    /// The keys, if one of them is meant: those that are there, or those that a fetch brings now.
    ///
    /// # Errors
    /// [`Refused::Unknown`] if none is meant; [`Refused::Unavailable`] if there are no keys that may be used.
    ///
    /// # Cancel safety
    /// The fetch goes on without the caller.
    pub(super) async fn with(&self, is_meant: impl Fn(&KeySet) -> bool) -> Result<Arc<KeySet>, Refused> {
        let mut state = self.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            let keys = now.fresh();
            if let Some(keys) = keys.filter(|keys| is_meant(keys)) {
                return Ok(keys.clone());
            }
            if !now.is_fetching {
                if now.was_tried_lately() {
                    return Err(if keys.is_some() { Refused::Unknown } else { Refused::Unavailable });
                }
                self.wanted.notify_one();
            }
            state.changed().await.map_err(|_| Refused::Unavailable)?;
        }
    }
}

/// A way to fetch a key set.
pub(super) trait Fetch: Send + 'static {
    /// How long to wait after a fetch that has worked, and after one that has not.
    fn pauses(&self) -> (Duration, Duration);

    /// Fetches it. An error says in words what is wrong.
    fn fetch(&self) -> impl Future<Output = Result<Bytes, String>> + Send;
}

/// The file, or the URL with what it takes to fetch it.
pub(super) enum Opened {
    File(PathBuf),
    Url(Result<Fetcher, String>),
}

impl From<Source> for Opened {
    fn from(source: Source) -> Self {
        match source {
            Source::File(path) => Self::File(path),
            Source::Url { at, authorities } => Self::Url(Fetcher::new(at, authorities)),
        }
    }
}

impl Fetch for Opened {
    fn pauses(&self) -> (Duration, Duration) {
        match self {
            Self::File(_) => (file::INTERVAL, file::INTERVAL),
            Self::Url(_) => (INTERVAL, PAUSE),
        }
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        match self {
            Self::File(path) => file::read(path, MAX_SET).await.map(Bytes::from),
            Self::Url(fetcher) => fetcher.as_ref().map_err(String::clone)?.fetch(MAX_SET).await,
        }
    }
}

async fn keep(source: impl Fetch, issuer: Arc<str>, states: watch::Sender<State>, wanted: Arc<Notify>) {
    let (interval, pause) = source.pauses();
    let mut known = None;
    let mut told: Option<(String, Instant)> = None;
    loop {
        let tried = Instant::now();
        states.send_modify(|state| (state.is_fetching, state.tried) = (true, Some(tried)));
        let fetched = source.fetch().await;
        // Unchanged keys stay, with what is known of their tokens.
        let read = match fetched {
            Ok(bytes) if known.as_ref() == Some(&bytes) => Ok(None),
            Ok(bytes) => KeySet::parse(&bytes).map(|keys| Some((bytes, keys))),
            Err(problem) => Err(problem),
        };
        let next = match read {
            Ok(new) => {
                if new.is_some() || told.is_some() {
                    info!(%issuer, "the issuer's keys have been read");
                }
                told = None;
                let keys = new.map(|(bytes, keys)| {
                    known = Some(bytes);
                    Arc::new(keys)
                });
                states.send_modify(|state| {
                    state.keys = keys.or_else(|| state.keys.take());
                    (state.is_fetching, state.fetched) = (false, Some(Instant::now()));
                });
                Instant::now() + interval
            }
            Err(problem) => {
                let is_news =
                    told.as_ref().is_none_or(|(p, when)| *p != problem || when.elapsed() >= TOLD_AGAIN);
                if is_news {
                    warn!(%issuer, problem, "the issuer's keys cannot be had: those that are known stay for a day");
                    told = Some((problem, Instant::now()));
                }
                states.send_modify(|state| state.is_fetching = false);
                Instant::now() + pause
            }
        };
        // A caller who asks saw that the last attempt is long ago; but others may have asked before it.
        let asked = async {
            loop {
                wanted.notified().await;
                if tried.elapsed() >= PAUSE {
                    break;
                }
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = asked => {}
        }
    }
}

#[cfg(test)]
mod tests;
