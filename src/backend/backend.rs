//! One CLI and its supervisor, as the rest of the service sees it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{SemaphorePermit, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::Admission,
    config::Config,
    error::Error,
    health::{Eligibility, Standing, Stats},
    link::Link,
    process::discover::Form,
    sink::Sink,
    state::{GRACE, Shared, State},
    supervisor::{self, Order},
};
use crate::lock::lock;

/// One CLI and its supervisor. Cheap to clone; [`stop`](Self::stop) ends it.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    id: BackendId,
    name: String,
    address: Option<String>,
    form: Option<Form>,
    home: Option<PathBuf>,
    work_dir: Option<PathBuf>,
    /// Weak, because the sink leads back to this backend.
    sink: Weak<dyn Sink>,
    state: watch::Receiver<State>,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    supervisor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Backend {
    /// Starts the supervisor. What the CLI sends goes to the sink.
    pub(super) fn spawn(config: Config, sink: impl FnOnce(BackendId) -> Arc<dyn Sink>) -> Self {
        let id = BackendId::next();
        let (state_tx, state) = watch::channel(State::Connecting);
        // A backend recycles one CLI at a time.
        let (orders, orders_rx) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let (name, address, form) = (config.name.clone(), config.address(), config.form());
        let home = config.home().map(Path::to_owned);
        let work_dir = config.work_dir().map(Path::to_owned);
        let shared =
            Arc::new(Shared::new(Admission::new(config.turns), Eligibility::new(&name, config.ejection)));
        let status = supervisor::Status { state: state_tx, shared: shared.clone() };
        let sink = sink(id);
        let weak_sink = Arc::downgrade(&sink);
        let supervisor = tokio::spawn(supervisor::run(config, sink, status, orders_rx, stop.clone()));
        let supervisor = tokio::sync::Mutex::new(Some(supervisor));
        Self {
            inner: Arc::new(Inner {
                id,
                name,
                address,
                form,
                home,
                work_dir,
                sink: weak_sink,
                state,
                shared,
                orders,
                stop,
                supervisor,
            }),
        }
    }

    /// Its id, which no other backend of this process has or had.
    pub fn id(&self) -> BackendId {
        self.inner.id
    }

    /// Its name in logs.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where it listens, if it is external.
    pub fn address(&self) -> Option<&str> {
        self.inner.address.as_deref()
    }

    /// Its form, if it is embedded.
    pub fn form(&self) -> Option<Form> {
        self.inner.form
    }

    /// Its `COPILOT_HOME`, in which its sessions' folders are, if this process can read and write it: that of an embedded CLI,
    /// or of an external one by `cli_home`.
    pub fn home(&self) -> Option<&Path> {
        self.inner.home.as_deref()
    }

    /// The folder that its sessions work in, unless they name one, if it is embedded.
    pub fn work_dir(&self) -> Option<&Path> {
        self.inner.work_dir.as_deref()
    }

    /// The name by which sessions are placed: the address, which every server in front of this CLI knows, or the backend's name
    /// if the CLI belongs to one server.
    pub fn place(&self) -> &str {
        self.address().unwrap_or(&self.inner.name)
    }

    /// Whether it gets new sessions.
    pub fn standing(&self) -> Standing {
        self.inner.shared.eligibility.standing()
    }

    /// Failures, restarts, last output and the process of the CLI.
    pub fn stats(&self) -> Stats {
        lock(&self.inner.shared.stats).clone()
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

    /// The link to call on; waits for one that was lost lately, because mostly it is soon there again. A CLI that is external
    /// is then soon looked for again, in any case.
    ///
    /// # Errors
    /// Those of [`link`](Self::link), once the link has been missing for [`GRACE`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected(&self) -> Result<Arc<Link>, Error> {
        self.connected_until(|missing_since| missing_since + GRACE).await
    }

    async fn connected_until(&self, limit: impl Fn(Instant) -> Instant) -> Result<Arc<Link>, Error> {
        let (shared, mut state) = (&self.inner.shared, self.inner.state.clone());
        loop {
            match &*state.borrow_and_update() {
                settled @ (State::Ready(_) | State::Incompatible { .. }) => return settled.to_call_on(),
                State::Connecting | State::Down { .. } => {}
            }
            // Again for each attempt that failed.
            shared.wanted.notify_one();
            let limit = limit(*lock(&shared.missing_since));
            // The time is over, or the supervisor has ended.
            let Ok(Ok(())) = timeout_at(limit, state.changed()).await else { return self.link() };
        }
    }

    /// The link to call on; waits for one that was lost less than this long ago.
    ///
    /// # Errors
    /// Those of [`link`](Self::link).
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected_within(&self, wait: Duration) -> Result<Arc<Link>, Error> {
        self.connected_until(|missing_since| missing_since + wait).await
    }

    /// The keeper link, if it is up. Sessions are attached to it; nothing else is called on it.
    pub fn keeper(&self) -> Option<Arc<Link>> {
        lock(&self.inner.shared.keeper).clone()
    }

    /// Number of sessions that it has loaded for this server.
    pub(super) fn loaded(&self) -> usize {
        self.inner.sink.upgrade().map_or(0, |sink| sink.loaded())
    }

    /// Number of CLIs that this one has replaced and that still run.
    pub fn retiring(&self) -> usize {
        self.inner.shared.retiring.load(Ordering::Relaxed)
    }

    /// A permit to move a session to this CLI from the one that it has replaced, held while the session moves. `None` while
    /// enough others move: the session then goes on where it is.
    pub fn begin_move(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.shared.moves.try_acquire().ok()
    }

    /// The turns that it runs, and those that wait for it.
    pub fn admission(&self) -> &Admission {
        &self.inner.shared.admission
    }

    /// The state, now and as it changes.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// Closes the link; an embedded CLI is ended, with all its children, before this returns.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the ending.
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

/// The id of a backend; never used again after the backend has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(u64);

impl BackendId {
    /// A new id.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
