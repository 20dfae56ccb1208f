//! The supervisor: the task of one backend. It starts or finds the CLI, connects, watches, and begins again when the CLI is
//! lost.
//!
//! An embedded CLI is served by one link, its standard input and output. The two end together: when the link does not answer
//! any more, the process is ended and another one started.
//!
//! An external CLI is served by two links. The main link carries everything. The keeper link is only attached to the sessions,
//! because the CLI ends a session's turn when its last connection drops: with the keeper, a main link that is lost and made
//! anew costs nothing.
//!
//! An embedded CLI that is to be recycled is not ended: another one is started beside it and takes its place, and the old one
//! is ended when nobody uses it any more.
//!
//! Tests: `tests/integration/restarts.rs`, `tests/integration/freezes.rs`.

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
    names::Names,
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

/// How often the CLI is pinged. It answers within a millisecond, also while 50 turns run (observed).
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long the main link may be silent where there is a keeper link. A machine that is short of CPU may starve the CLI for
/// seconds; a false alarm then costs a new link and a look at what happened meanwhile, and no turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the main link may be silent where there is no keeper link: a false alarm ends the turns. A longer wait costs
/// nothing where the CLI is embedded, because its death is seen at once.
const LONE_PATIENCE: Duration = Duration::from_secs(15);

/// The end of that time, which belongs to a second ping: if it was the service that did not run, the answer is there by now.
const LAST_TRY: Duration = Duration::from_secs(1);

/// How long a link must hold to reset the pauses and the count of failures.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// How long an ejected CLI may take to answer each call of a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// An order to replace the running CLI by another one. It is answered when that is done, or with the reason why it could not
/// be, and dropped if no CLI runs.
pub(super) type Order = oneshot::Sender<Result<(), String>>;

/// The supervisor's side of the state that the backend shows.
pub(super) struct Status {
    pub(super) state: watch::Sender<State>,
    pub(super) shared: Arc<Shared>,
}

impl Status {
    fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Records the loss of the link.
    fn lost(&self, problem: &str) {
        *lock(&self.shared.missing_since) = Instant::now();
        self.set(first_line(State::Down { problem: problem.to_owned() }));
    }

    /// Records the last lines that the CLI printed before it ended.
    fn printed(&self, last_lines: &[String]) {
        last_lines.clone_into(&mut lock(&self.shared.stats).last_lines);
    }

    /// Counts a failure. Returns the number of failures in a row.
    fn failed(&self) -> u32 {
        let mut stats = lock(&self.shared.stats);
        stats.failures += 1;
        stats.failures
    }

    /// Records that the link has held for long.
    fn held(&self) {
        let mut stats = lock(&self.shared.stats);
        stats.failures = 0;
        stats.last_lines.clear();
        self.shared.eligibility.held();
    }
}

/// Supervises one CLI until `stop`.
pub(super) async fn run(
    config: Config,
    sink: Arc<dyn Sink>,
    status: Status,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) {
    // Only for an external CLI: starting one takes a second of CPU, and what keeps it from starting does not go away that soon.
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

/// The state without what the CLI printed, which is for the log: callers are told what happened, not the words of a program.
fn first_line(state: State) -> State {
    let cut = |problem: String| {
        problem.lines().next().unwrap_or_default().trim_end_matches("; it printed:").to_owned()
    };
    match state {
        State::Down { problem } => State::Down { problem: cut(problem) },
        State::Connecting | State::Ready(_) | State::Incompatible { .. } => state,
    }
}

/// How an attempt ended.
enum Ended {
    /// The CLI failed, and is in this state until the next attempt.
    Failed(State),
    /// The backend was stopped.
    Stopped,
}

/// Where an external CLI listens, and its connection token.
struct Address<'a> {
    host: &'a str,
    port: u16,
    names: Option<&'a Names>,
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
    /// Tasks of CLIs that were replaced and still run.
    retired: &'a TaskTracker,
}

/// Why a link ended.
enum End {
    /// The connection ended.
    Closed(Arc<Cause>),
    /// The CLI did not answer any more.
    Silent(String),
    /// The backend was stopped.
    Stopped,
}

impl Connect<'_> {
    /// Starts the CLI or connects to it, and serves it until it is lost.
    async fn attempt(&self, orders: &mut mpsc::Receiver<Order>) -> Ended {
        match &self.config.source {
            Source::External { host, port, names, token, keeper, home: _ } => {
                let address = Address { host, port: *port, names: names.as_ref(), token: token.as_ref() };
                self.external(&address, *keeper).await
            }
            Source::Embedded(spec) => self.embedded(spec, orders).await,
        }
    }

    /// Keeps the links to an external CLI, until they cannot be made anew.
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

    /// Opens a link. `None`: the backend was stopped.
    async fn open(
        &self,
        address: &Address<'_>,
        sink: Arc<dyn Sink>,
        read_pause: Duration,
    ) -> Result<Option<Arc<Link>>, OpenError> {
        let Address { host, port, names, token } = *address;
        tokio::select! {
            () = self.stop.cancelled() => Ok(None),
            opened = Link::connect((host, port), names, token, self.ends(sink, read_pause)) => {
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
            eligibility: self.status.shared.eligibility.clone(),
        }
    }

    /// Opens the main link again. The CLI is given as much time as callers wait for it.
    async fn open_again(&self, address: &Address<'_>) -> Result<Option<Arc<Link>>, OpenError> {
        let give_up = Instant::now() + GRACE;
        loop {
            match self.open(address, self.sink.clone(), Duration::ZERO).await {
                Err(OpenError::Connect(_)) if Instant::now() < give_up => sleep(FIRST_PAUSE).await,
                opened => return opened,
            }
        }
    }

    /// Waits for the end of the main link, and reports it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the link as it is.
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
                self.status.shared.eligibility.flapped(&problem);
            }
            warn!(backend = self.config.name, problem, "the link to the CLI was lost");
        }
        end
    }

    /// Records it when the main link has held for long.
    async fn hold(&self) -> std::convert::Infallible {
        sleep(STABLE_AFTER).await;
        self.status.held();
        std::future::pending().await
    }

    /// Probes the CLI whenever an ejection is over.
    async fn probe(&self) -> std::convert::Infallible {
        let (eligibility, mut state) = (&self.status.shared.eligibility, self.status.state.subscribe());
        loop {
            eligibility.on_probation().await;
            // It fails when nobody watches the state any more; then this future is dropped.
            let ready = state.wait_for(|state| matches!(state, State::Ready(_))).await;
            let Some(link) = ready.ok().and_then(|state| state.link().cloned()) else { continue };
            let probe = async {
                link.call_within(PROBE_LIMIT, &Ping {}).await?;
                // A method that needs no session, and that each session needs.
                link.call_within(PROBE_LIMIT, &GetMetadata { session_id: "probe" }).await
            };
            match probe.await {
                // The link is lost, which others handle.
                Err(Error::Lost { .. }) => sleep(FIRST_PAUSE).await,
                probed => eligibility.probed(probed),
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

/// Resolves when the CLI has not answered pings for too long.
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
