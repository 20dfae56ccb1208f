//! The Copilot CLIs. Starts or finds one, keeps a connection to it, and says how it is.
//!
//! [`Backend`] is one CLI: its supervisor task connects, waits for the end of the link, and connects again after a
//! pause. [`Link`] is one connection after its handshake. What the CLI tells goes to a [`Sink`], which the session
//! room provides; this room knows no sessions. [`admission`] is how many turns it takes at once. A [`Pool`] holds all of
//! them, and [`placement`] says which of them a session's id belongs to.

pub mod admission;
pub mod discover;
pub mod guard;
mod link;
pub mod placement;
mod pool;
pub mod process;
mod supervisor;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    copilot::{Rejection, Secret},
    jsonrpc::Cause,
};

use admission::Admission;

pub use link::Link;
pub use pool::{Pool, Readiness};

/// Where a CLI is to be found.
#[derive(Debug, Clone)]
pub enum Source {
    /// Somebody else runs it.
    External {
        /// A host name or address.
        host: String,
        /// The port.
        port: u16,
        /// The connection token, if the CLI has one.
        token: Option<Secret>,
    },
    /// The supervisor runs it.
    Embedded(process::Spec),
}

/// How a backend is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name in logs.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// The largest message taken from it, in bytes.
    pub max_frame: usize,
    /// Whether there is a second link, so that the loss of one does not end what runs.
    pub keeper: bool,
    /// How many turns it takes.
    pub turns: admission::Limits,
}

impl Config {
    /// What it is known by where sessions are placed: its address, which is the same for every server in front of it, or
    /// its name if it is one server's own.
    fn place(&self) -> String {
        match &self.source {
            Source::External { host, port, .. } => format!("{host}:{port}"),
            Source::Embedded(_) => self.name.clone(),
        }
    }
}

/// How long a link that is missing is waited for. A CLI that was ended is mostly there again within a second or two; one that
/// is not is no reason to keep callers waiting.
pub const GRACE: Duration = Duration::from_secs(5);

/// Who hears what the CLI tells. The methods are called in wire order, on the task that reads the connection: they
/// must not block.
pub trait Sink: Send + Sync + 'static {
    /// Parameters of `session.event`, of which nothing is known yet. False: they make no sense.
    fn session_event(&self, params: &[u8]) -> bool;
    /// An event was larger than the limit, and nothing but a caller who asked for its kind needs it.
    fn event_dropped(&self, session_id: &str, kind: &str);
    /// A session was deleted, by whomever.
    fn session_deleted(&self, session_id: &str);
    /// The link is gone: none of its sessions is attached any more. Comes after its last event.
    fn link_lost(&self, link: LinkId, cause: &Arc<Cause>);
    /// There is a keeper link, which sessions can be attached to.
    fn keeper_up(&self);
    /// The keeper link is gone.
    fn keeper_lost(&self, link: LinkId);
}

/// Tells the backends of a pool apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(usize);

impl BackendId {
    /// Its place among them, from 0 on.
    pub fn number(self) -> usize {
        self.0
    }
}

/// Tells links apart, those of all backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// One that no other link has.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a call to the CLI has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no link. Nothing was sent.
    #[error("the Copilot CLI is not available: {problem}")]
    Unavailable {
        /// Why.
        problem: String,
    },
    /// The CLI speaks another protocol. Nothing was sent.
    #[error("{problem}")]
    Incompatible {
        /// Which.
        problem: String,
    },
    /// The link broke during the call.
    #[error("the connection to the Copilot CLI was lost: {cause}")]
    Lost {
        /// What broke it.
        cause: Arc<Cause>,
        /// Whether the CLI may have got the call.
        written: bool,
    },
    /// No answer in time. The CLI may have got the call.
    #[error("the Copilot CLI did not answer {method} within {after:?}")]
    Timeout {
        /// The method.
        method: &'static str,
        /// The time.
        after: Duration,
    },
    /// The CLI refused.
    #[error("{0}")]
    Rejected(Rejection),
    /// The answer is larger than the limit.
    #[error("the Copilot CLI's answer to {method} has {size} bytes, more than max_frame_size")]
    TooLarge {
        /// The method.
        method: &'static str,
        /// The answer's size.
        size: usize,
    },
    /// The answer is not what the protocol says.
    #[error("the Copilot CLI's answer to {method} makes no sense: {problem}")]
    Protocol {
        /// The method.
        method: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Too many calls are waiting for the CLI. Nothing was sent.
    #[error("too many calls are waiting for the Copilot CLI")]
    Overloaded,
}

impl Error {
    /// Whether the CLI may have got the call.
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Incompatible { .. } | Self::Rejected(_) | Self::Overloaded => {
                false
            }
            Self::Lost { written, .. } => *written,
            Self::Timeout { .. } | Self::TooLarge { .. } | Self::Protocol { .. } => true,
        }
    }
}

/// How a backend is.
#[derive(Debug, Clone)]
pub enum State {
    /// Being started or connected to.
    Connecting,
    /// Connected, and answering.
    Ready(Arc<Link>),
    /// Down for now.
    Down {
        /// Why.
        problem: String,
    },
    /// Of a version that cannot be used.
    Incompatible {
        /// Why.
        problem: String,
    },
}

/// One CLI and its supervisor. Cheap to clone; [`stop`](Self::stop) ends it.
#[derive(Debug, Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: BackendId,
    name: String,
    state: watch::Receiver<State>,
    /// Since when there is no link, where there is none.
    missing_since: Arc<Mutex<Instant>>,
    keeper: Arc<Mutex<Option<Arc<Link>>>>,
    admission: Admission,
    stop: CancellationToken,
    supervisor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Backend {
    /// Starts the supervisor.
    fn spawn(id: BackendId, config: Config, sink: Arc<dyn Sink>) -> Self {
        let (state_tx, state) = watch::channel(State::Connecting);
        let stop = CancellationToken::new();
        let name = config.name.clone();
        let admission = Admission::new(config.turns);
        let missing_since = Arc::new(Mutex::new(Instant::now()));
        let keeper = Arc::<Mutex<Option<Arc<Link>>>>::default();
        let status = supervisor::Status {
            state: state_tx,
            missing_since: missing_since.clone(),
            keeper: keeper.clone(),
        };
        let supervisor = tokio::spawn(supervisor::run(config, sink, status, stop.clone()));
        Self {
            inner: Arc::new(Inner {
                id,
                name,
                state,
                missing_since,
                keeper,
                admission,
                stop,
                supervisor: tokio::sync::Mutex::new(Some(supervisor)),
            }),
        }
    }

    /// Which one it is.
    pub fn id(&self) -> BackendId {
        self.inner.id
    }

    /// Its name in logs.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether there is a link to call on.
    pub fn is_ready(&self) -> bool {
        matches!(&*self.inner.state.borrow(), State::Ready(_))
    }

    /// The link to call on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Incompatible`]: nothing was sent.
    pub fn link(&self) -> Result<Arc<Link>, Error> {
        match &*self.inner.state.borrow() {
            State::Ready(link) => Ok(link.clone()),
            State::Connecting => Err(Error::Unavailable { problem: "it is starting".into() }),
            State::Down { problem } => Err(Error::Unavailable { problem: problem.clone() }),
            State::Incompatible { problem } => Err(Error::Incompatible { problem: problem.clone() }),
        }
    }

    /// The link to call on. One that was lost lately is waited for: mostly it is soon there again.
    ///
    /// # Errors
    /// As of [`link`](Self::link), once it has been missing for [`GRACE`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected(&self) -> Result<Arc<Link>, Error> {
        let missing_since = *self.inner.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(Error::Unavailable { .. }) = self.link() {
            // In vain, when the time is over, or the supervisor has ended.
            let mut state = self.inner.state.clone();
            let ready = state.wait_for(|state| matches!(state, State::Ready(_) | State::Incompatible { .. }));
            let _ = timeout_at(missing_since + GRACE, ready).await;
        }
        self.link()
    }

    /// The keeper link, if it is up: for sessions to be attached to, and no more.
    pub fn keeper(&self) -> Option<Arc<Link>> {
        self.inner.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The turns that it runs, and those that wait for it.
    pub fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// How it is, now and from now on.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// Closes the link; an embedded CLI is ended, with all its children, before this returns.
    ///
    /// # Cancel safety
    /// Dropping it stops the waiting, not the ending.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        let mut supervisor = self.inner.supervisor.lock().await;
        if let Some(task) = supervisor.as_mut() {
            // The task ends by itself, or it panicked, which the runtime has reported.
            let _ = task.await;
            *supervisor = None;
        }
    }
}
