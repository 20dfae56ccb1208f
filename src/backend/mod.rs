//! The Copilot CLIs. Starts or finds one, keeps a connection to it, and says how it is.
//!
//! [`Backend`] is one CLI: its supervisor task connects, waits for the end of the link, and connects again after a
//! pause. [`Link`] is one connection after its handshake. What the CLI tells goes to a [`Sink`], which the session
//! room provides; this room knows no sessions. [`admission`] is how many turns it takes at once, [`standing`] whether it gets
//! new sessions, with the help of [`outlier`]. Their folders are [`private`]. [`recycling`] has CLIs of ours started anew. A [`Pool`] holds all of them as they
//! come and go, with the [`addresses`] that a name leads to, and [`placement`] says which of them a session's id belongs to.

pub mod addresses;
pub mod admission;
pub mod discover;
mod drains;
pub mod guard;
mod link;
mod outlier;
pub mod placement;
mod pool;
pub mod private;
pub mod process;
pub mod recycling;
mod standing;
mod supervisor;
mod vitals;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    copilot::{
        Method as _, Rejection, Secret,
        method::{Abort, Compact, Delete},
        version::Identity,
    },
    jsonrpc::Cause,
};

use admission::Admission;
use discover::Form;
use standing::Marks;
use supervisor::Order;

pub use link::Link;
pub use outlier::Ejection;
pub use pool::{Group, Pool, Readiness, Setup};
pub use standing::Standing;
pub use vitals::{Life, Vitals};

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
        /// Whether there is a second link, so that the loss of one does not end what runs.
        keeper: bool,
    },
    /// The supervisor runs it. There is one link, the process's standard input and output, and it is lost with the process only.
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
    /// How many turns it takes.
    pub turns: admission::Limits,
    /// When it is not trusted with new sessions.
    pub ejection: Ejection,
}

impl Config {
    /// Where it listens, if somebody else runs it.
    fn address(&self) -> Option<String> {
        match &self.source {
            Source::External { host, port, .. } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Source::External { host, port, .. } => Some(format!("{host}:{port}")),
            Source::Embedded(_) => None,
        }
    }

    /// Its form, if it is our own.
    fn form(&self) -> Option<Form> {
        match &self.source {
            Source::External { .. } => None,
            Source::Embedded(spec) => Some(spec.form),
        }
    }

    /// The same for another address, which is then its name.
    fn at(&self, address: SocketAddr) -> Self {
        let (token, keeper) = match &self.source {
            Source::External { token, keeper, .. } => (token.clone(), *keeper),
            Source::Embedded(_) => (None, false),
        };
        let source = Source::External { host: address.ip().to_string(), port: address.port(), token, keeper };
        Self { name: address.to_string(), source, ..self.clone() }
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
    /// How many sessions are attached to links of this CLI.
    fn loaded(&self) -> usize;
    /// A session was deleted, by whomever.
    fn session_deleted(&self, session_id: &str);
    /// Another CLI on the same home has taken the place of this one: whatever is still attached to the link leaves it, unless somebody
    /// uses it. Says whether all has left; after that nothing is written to the home by this CLI.
    fn let_go<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, bool>;
    /// The link is gone: none of its sessions is attached any more. Comes after its last event.
    fn link_lost(&self, link: LinkId, cause: &Arc<Cause>);
    /// There is a keeper link, which sessions can be attached to.
    fn keeper_up(&self);
    /// The keeper link is gone.
    fn keeper_lost(&self, link: LinkId);
}

/// How many sessions move at once from a CLI to the one that has taken its place. Closing one and loading it takes as much CPU time
/// as some turns: if all moved at once, all would wait for that.
const MOVES: usize = 2;

/// Tells backends apart, those included that have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(u64);

impl BackendId {
    /// One that no other backend has.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
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
    #[error("the Copilot CLI did not answer {method} within {after:?}{}", hint(method))]
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

/// Methods that the CLI 1.0.102 never answers when one meets the other, of another connection, in a session; while it is well in
/// all other respects (observed).
const NEVER_ANSWERED: [&str; 2] = [Delete::NAME, "session.resume"];

/// Methods that are not answered where an agent or a compaction does not stop, which is the session's trouble alone.
const OF_ONE_SESSION: [&str; 2] = [Abort::NAME, Compact::NAME];

/// What it may mean that a method is not answered.
fn hint(method: &str) -> &'static str {
    match NEVER_ANSWERED.contains(&method) {
        true => {
            ". If another server loaded or deleted the session at that moment, the CLI is stuck with it, and with no other, \
             until it is restarted"
        }
        false => "",
    }
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
        /// What it says that it is.
        cli: Identity,
    },
}

impl State {
    /// The link for who is about to use it.
    fn to_call_on(&self) -> Result<Arc<Link>, Error> {
        match self {
            Self::Ready(link) => Ok(link.in_use()),
            Self::Connecting => Err(Error::Unavailable { problem: "it is starting".into() }),
            Self::Down { problem } => Err(Error::Unavailable { problem: problem.clone() }),
            Self::Incompatible { problem, .. } => Err(Error::Incompatible { problem: problem.clone() }),
        }
    }

    /// The link, if there is one.
    pub fn link(&self) -> Option<&Arc<Link>> {
        match self {
            Self::Ready(link) => Some(link),
            Self::Connecting | Self::Down { .. } | Self::Incompatible { .. } => None,
        }
    }
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
    address: Option<String>,
    form: Option<Form>,
    /// Weak, because what it leads to has this backend.
    sink: Weak<dyn Sink>,
    state: watch::Receiver<State>,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    supervisor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What a backend and its supervisor both know.
#[derive(Debug)]
struct Shared {
    /// Since when there is no link, where there is none.
    missing_since: Mutex<Instant>,
    /// Told when a link is asked for and there is none.
    wanted: Notify,
    keeper: Mutex<Option<Arc<Link>>>,
    admission: Admission,
    marks: Arc<Marks>,
    vitals: Mutex<Vitals>,
    /// How many CLIs go on to the end of their turns, because another one has taken their place.
    retiring: AtomicUsize,
    /// What sessions need to move to this CLI from one whose place it has taken.
    moves: Semaphore,
}

impl Shared {
    /// What is behind these locks is valid after every statement.
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Backend {
    /// Starts the supervisor. What the CLI tells goes to the sink.
    fn spawn(config: Config, sink: impl FnOnce(BackendId) -> Arc<dyn Sink>) -> Self {
        let id = BackendId::next();
        let (state_tx, state) = watch::channel(State::Connecting);
        // One at a time is recycled.
        let (orders, orders_rx) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let (name, address, form) = (config.name.clone(), config.address(), config.form());
        let shared = Arc::new(Shared {
            missing_since: Mutex::new(Instant::now()),
            wanted: Notify::new(),
            keeper: Mutex::default(),
            admission: Admission::new(config.turns),
            marks: Arc::new(Marks::new(&name, config.ejection)),
            vitals: Mutex::default(),
            retiring: AtomicUsize::default(),
            moves: Semaphore::new(MOVES),
        });
        let status = supervisor::Status { state: state_tx, shared: shared.clone() };
        let ear = sink(id);
        let sink = Arc::downgrade(&ear);
        let supervisor = tokio::spawn(supervisor::run(config, ear, status, orders_rx, stop.clone()));
        let supervisor = tokio::sync::Mutex::new(Some(supervisor));
        Self {
            inner: Arc::new(Inner { id, name, address, form, sink, state, shared, orders, stop, supervisor }),
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

    /// Where it listens, if somebody else runs it.
    pub fn address(&self) -> Option<&str> {
        self.inner.address.as_deref()
    }

    /// Its form, if it is our own.
    pub fn form(&self) -> Option<Form> {
        self.inner.form
    }

    /// What it is known by where sessions are placed: its address, which is the same for every server in front of it, or its
    /// name if it is one server's own.
    fn place(&self) -> &str {
        self.address().unwrap_or(&self.inner.name)
    }

    /// Whether it gets new sessions.
    pub fn standing(&self) -> Standing {
        self.inner.shared.marks.standing()
    }

    /// What is known of it beside its state.
    pub fn vitals(&self) -> Vitals {
        Shared::lock(&self.inner.shared.vitals).clone()
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
        // Under the lock of the state: a link that is not handed out any more gets no new user.
        self.inner.state.borrow().to_call_on()
    }

    /// The link to call on. One that was lost lately is waited for: mostly it is soon there again. Whether it is waited for or not,
    /// a CLI that somebody else runs is soon looked for once more.
    ///
    /// # Errors
    /// As of [`link`](Self::link), once it has been missing for [`GRACE`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected(&self) -> Result<Arc<Link>, Error> {
        let (shared, mut state) = (&self.inner.shared, self.inner.state.clone());
        loop {
            match &*state.borrow_and_update() {
                settled @ (State::Ready(_) | State::Incompatible { .. }) => return settled.to_call_on(),
                State::Connecting | State::Down { .. } => {}
            }
            // Anew for each attempt that failed.
            shared.wanted.notify_one();
            let limit = *Shared::lock(&shared.missing_since) + GRACE;
            // The time is over, or the supervisor has ended.
            let Ok(Ok(())) = timeout_at(limit, state.changed()).await else { return self.link() };
        }
    }

    /// The keeper link, if it is up: for sessions to be attached to, and no more.
    pub fn keeper(&self) -> Option<Arc<Link>> {
        Shared::lock(&self.inner.shared.keeper).clone()
    }

    /// How many sessions it has loaded for this server.
    fn loaded(&self) -> usize {
        self.inner.sink.upgrade().map_or(0, |sink| sink.loaded())
    }

    /// How many CLIs whose place this one has taken still run.
    pub fn retiring(&self) -> usize {
        self.inner.shared.retiring.load(Ordering::Relaxed)
    }

    /// For as long as this is held a session moves to this CLI from the one whose place it has taken. `None` while others do: then it
    /// goes on where it is.
    pub fn begin_move(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.shared.moves.try_acquire().ok()
    }

    /// The turns that it runs, and those that wait for it.
    pub fn admission(&self) -> &Admission {
        &self.inner.shared.admission
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
