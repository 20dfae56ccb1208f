//! The life of a backend: start or find the CLI, connect, watch, and begin again when it is lost.
//!
//! A CLI of our own is served by one link, its standard input and output. The two end together: a link that does not answer any
//! more is a process to be ended, and started anew.
//!
//! One that somebody else runs is served by two. The main one carries everything. The keeper is only attached to the sessions,
//! because the CLI ends a session's turn when its last connection drops: with it, a main link that is lost and made anew costs
//! nothing.
//!
//! A CLI of our own that is to be recycled is not ended: another one is started beside it and takes its place, and the old one goes
//! when nobody uses it any more.

mod embedded;
mod keeper;
mod pause;
mod retiring;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use super::{
    config::{Config, Source},
    error::Error,
    link::{Ends, Link, LinkId, OpenError},
    sink::{Listener, Sink},
    state::{GRACE, Shared, State},
};
use crate::{
    copilot::{
        Secret,
        method::{GetMetadata, Ping},
        version::Identity,
    },
    jsonrpc::{self, Cause},
    lock::lock,
};
use pause::{FIRST_PAUSE, LONGEST_PAUSE};

/// How often the CLI is asked for a sign of life. It answers within a millisecond, also while 50 turns run (observed).
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long it may owe one before the main link is given up where there is a keeper link. A machine that is short of CPU may
/// starve the CLI for seconds; a false alarm then costs a new link and a look at what happened meanwhile, and no turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same without a keeper link: here a false alarm ends the turns. Nothing else is lost by it where the CLI is our own: its
/// death is seen at once.
const LONE_PATIENCE: Duration = Duration::from_secs(15);

/// The end of that time belongs to another ping: if it was we who did not run, the answer is there by now.
const LAST_TRY: Duration = Duration::from_secs(1);

/// A link that held this long starts the pauses anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// How long a CLI that is ejected may take to show that it is well.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Asks for another CLI to take the place of the one that runs. Answered when it has, or with the reason why it could not;
/// dropped if there is none.
pub(super) type Order = oneshot::Sender<Result<(), String>>;

/// Where it is told how the backend is.
pub(super) struct Status {
    pub(super) state: watch::Sender<State>,
    pub(super) shared: Arc<Shared>,
}

impl Status {
    fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The link is gone.
    fn lost(&self, problem: &str) {
        *lock(&self.shared.missing_since) = Instant::now();
        self.set(first_line(State::Down { problem: problem.to_owned() }));
    }

    /// What the CLI had printed when it ended.
    fn printed(&self, last_lines: &[String]) {
        last_lines.clone_into(&mut lock(&self.shared.vitals).last_lines);
    }

    /// Counts a failure; how many there are in a row by now.
    fn failed(&self) -> u32 {
        let mut vitals = lock(&self.shared.vitals);
        vitals.failures += 1;
        vitals.failures
    }

    /// The link has held for long.
    fn held(&self) {
        let mut vitals = lock(&self.shared.vitals);
        vitals.failures = 0;
        vitals.last_lines.clear();
        self.shared.marks.held();
    }
}

/// Runs until `stop`.
pub(super) async fn run(
    config: Config,
    sink: Arc<dyn Sink>,
    status: Status,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) {
    // To start a CLI takes a second of CPU, and what keeps it from starting does not go away that soon.
    let wanted = match config.source {
        Source::External { .. } => Some(&status.shared.wanted),
        Source::Embedded(_) => None,
    };
    let retired = TaskTracker::new();
    let connect = Connect { config: &config, sink: &sink, status: &status, stop: &stop, retired: &retired };
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let Ended::Failed(down) = connect.attempt(&mut orders).await else { break };
        if began.elapsed() >= STABLE_AFTER {
            pause = FIRST_PAUSE;
        }
        report(&config.name, &down, pause, status.failed());
        status.set(first_line(down));
        tokio::select! {
            () = stop.cancelled() => break,
            () = pause::rest(pause, wanted) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    status.set(State::Down { problem: "it is not used any more".into() });
    retired.close();
    retired.wait().await;
}

fn report(name: &str, state: &State, pause: Duration, failures: u32) {
    match state {
        State::Incompatible { problem, .. } => {
            error!(backend = name, problem, retry_in = ?pause, failures, "the CLI cannot be used")
        }
        State::Down { problem } => {
            warn!(backend = name, problem, retry_in = ?pause, failures, "the CLI is down")
        }
        State::Connecting | State::Ready(_) => {}
    }
}

/// The log shows all that the CLI printed; callers are told what happened, and not what a program of ours says.
fn first_line(state: State) -> State {
    let cut = |problem: String| {
        problem.lines().next().unwrap_or_default().trim_end_matches("; it printed:").to_owned()
    };
    match state {
        State::Down { problem } => State::Down { problem: cut(problem) },
        State::Connecting | State::Ready(_) | State::Incompatible { .. } => state,
    }
}

/// How a life ended.
enum Ended {
    /// As is told; it is tried again.
    Failed(State),
    /// Because it was to.
    Stopped,
}

/// Where a CLI listens.
struct Address<'a> {
    host: &'a str,
    port: u16,
    token: Option<&'a Secret>,
}

impl From<OpenError> for Ended {
    fn from(error: OpenError) -> Self {
        let problem = error.to_string();
        Self::Failed(match error {
            OpenError::Unusable { identity, .. } => State::Incompatible { problem, cli: identity },
            OpenError::Connect(_)
            | OpenError::TimedOut
            | OpenError::Token(_)
            | OpenError::Babble(_)
            | OpenError::Call(_) => State::Down { problem },
        })
    }
}

/// What one attempt works with.
struct Connect<'a> {
    config: &'a Config,
    sink: &'a Arc<dyn Sink>,
    status: &'a Status,
    stop: &'a CancellationToken,
    /// CLIs whose place another one has taken.
    retired: &'a TaskTracker,
}

/// Why a link is not there any more.
enum End {
    /// The connection ended.
    Closed(Arc<Cause>),
    /// The CLI did not answer any more.
    Silent(String),
    /// It is not wanted any more.
    Stopped,
}

impl Connect<'_> {
    /// One life of the CLI or of the link to it.
    async fn attempt(&self, orders: &mut mpsc::Receiver<Order>) -> Ended {
        match &self.config.source {
            Source::External { host, port, token, keeper } => {
                let address = Address { host, port: *port, token: token.as_ref() };
                self.external(&address, *keeper).await
            }
            Source::Embedded(spec) => self.embedded(spec, orders).await,
        }
    }

    /// Keeps links until they cannot be made anew.
    async fn external(&self, address: &Address<'_>, keeper: bool) -> Ended {
        let patience = if keeper { PATIENCE } else { LONE_PATIENCE };
        tokio::select! {
            ended = self.keep_main(address, patience) => ended,
            never = self.keep_keeper(address), if keeper => match never {},
            never = self.probe() => match never {},
        }
    }

    async fn keep_main(&self, address: &Address<'_>, patience: Duration) -> Ended {
        let mut opened = self.open(address, self.sink.clone(), Duration::ZERO).await;
        loop {
            let link = match opened {
                Ok(Some(link)) => link,
                Ok(None) => return Ended::Stopped,
                Err(error) => return error.into(),
            };
            self.announce(&link);
            match self.watch(&link, patience).await {
                End::Closed(_) | End::Silent(_) => opened = self.open_again(address).await,
                End::Stopped => return Ended::Stopped,
            }
        }
    }

    /// Opens a link. `None`: it is not wanted any more.
    async fn open(
        &self,
        address: &Address<'_>,
        sink: Arc<dyn Sink>,
        read_pause: Duration,
    ) -> Result<Option<Arc<Link>>, OpenError> {
        let Address { host, port, token } = *address;
        tokio::select! {
            () = self.stop.cancelled() => Ok(None),
            opened = Link::connect((host, port), token, self.ends(sink, read_pause)) => {
                opened.map(|link| Some(Arc::new(link)))
            }
        }
    }

    fn ends(&self, sink: Arc<dyn Sink>, read_pause: Duration) -> Ends<Listener> {
        let options =
            jsonrpc::Options { max_frame: self.config.max_frame, read_pause, ..jsonrpc::Options::default() };
        Ends {
            id: LinkId::next(),
            options,
            handler: Listener { sink },
            marks: self.status.shared.marks.clone(),
        }
    }

    /// Opens the main link again: for as long as others wait for it, the CLI is given time.
    async fn open_again(&self, address: &Address<'_>) -> Result<Option<Arc<Link>>, OpenError> {
        let give_up = Instant::now() + GRACE;
        loop {
            match self.open(address, self.sink.clone(), Duration::ZERO).await {
                Err(OpenError::Connect(_)) if Instant::now() < give_up => sleep(FIRST_PAUSE).await,
                opened => return opened,
            }
        }
    }

    /// Waits for the main link's end.
    ///
    /// # Cancel safety
    /// Dropping it leaves the link as it is.
    async fn watch(&self, link: &Arc<Link>, patience: Duration) -> End {
        let since = Instant::now();
        let end = tokio::select! {
            cause = link.closed() => End::Closed(cause),
            () = silence(link, patience) => End::Silent(format!("it did not answer a ping for {patience:?}")),
            () = self.stop.cancelled() => End::Stopped,
            never = self.hold() => match never {},
        };
        let problem = match &end {
            End::Closed(cause) => format!("the connection was lost: {cause}"),
            End::Silent(problem) => problem.clone(),
            End::Stopped => String::new(),
        };
        link.close();
        let cause = link.closed().await;
        // First nobody finds the link any more, then those who wait on it are told.
        self.status.lost(&problem);
        self.sink.link_lost(link.id(), &cause);
        if !matches!(end, End::Stopped) {
            if since.elapsed() < STABLE_AFTER {
                self.status.shared.marks.flapped(&problem);
            }
            warn!(backend = self.config.name, problem, "the link to the CLI was lost");
        }
        end
    }

    /// Tells when the main link has held for long.
    async fn hold(&self) -> std::convert::Infallible {
        sleep(STABLE_AFTER).await;
        self.status.held();
        std::future::pending().await
    }

    /// Probes the CLI whenever it has been ejected for as long as it was to be.
    async fn probe(&self) -> std::convert::Infallible {
        let (marks, mut state) = (&self.status.shared.marks, self.status.state.subscribe());
        loop {
            marks.on_probation().await;
            // It fails when nobody asks any more; then this is dropped.
            let ready = state.wait_for(|state| matches!(state, State::Ready(_))).await;
            let Some(link) = ready.ok().and_then(|state| state.link().cloned()) else { continue };
            let probe = async {
                link.call_within(PROBE_LIMIT, &Ping {}).await?;
                // One that needs no session, and that each session needs.
                link.call_within(PROBE_LIMIT, &GetMetadata { session_id: "probe" }).await
            };
            match probe.await {
                // It is another one's turn.
                Err(Error::Lost { .. }) => sleep(FIRST_PAUSE).await,
                probed => marks.probed(probed),
            }
        }
    }

    fn announce(&self, link: &Arc<Link>) {
        let Identity { version, protocol } = link.identity();
        info!(backend = self.config.name, version, protocol, "the CLI is ready");
        let missing = link.missing_features();
        if !missing.is_empty() {
            warn!(backend = self.config.name, ?missing, "this CLI lacks some of what the service uses");
        }
        self.status.set(State::Ready(link.clone()));
    }
}

/// Resolves when the CLI owes a sign of life for too long.
async fn silence(link: &Link, patience: Duration) {
    let mut ticks = interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answered = async |limit| timeout(limit, link.call(&Ping {})).await.is_ok();
        if !answered(patience - LAST_TRY).await && !answered(LAST_TRY).await {
            return;
        }
    }
}
