//! The life of a backend: start or find the CLI, connect, watch, and begin again when it is lost.
//!
//! A CLI of our own is served by one link, its standard input and output. The two end together: a link that does not answer any
//! more is a process to be ended, and started anew.
//!
//! One that somebody else runs is served by two. The main one carries everything. The keeper is only attached to the sessions,
//! because the CLI ends a session's turn when its last connection drops: with it, a main link that is lost and made anew costs
//! nothing.
//!
//! A CLI that is to be recycled is ended when nobody uses its main link any more, and started again at once; until it is there,
//! calls wait.

mod embedded;
mod keeper;
mod pause;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Config, Error, GRACE, Link, LinkId, Shared, Sink, Source, State,
    link::{Ends, OpenError},
    vitals::Life,
};
use crate::{
    copilot::{
        Secret,
        method::{GetMetadata, Ping},
        version::missing_features,
    },
    jsonrpc::{self, Cause},
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

/// How long those who use the main link may go on before a recycling is given up. No turn runs by then; what else is called takes
/// milliseconds, and who comes meanwhile has to wait.
const VACATE_LIMIT: Duration = Duration::from_secs(5);

/// How long a CLI that is ejected may take to show that it is well.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Asks for the CLI to be started anew. Answered when the old one goes; dropped if it stays.
pub(super) type Order = oneshot::Sender<()>;

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
        *Shared::lock(&self.shared.missing_since) = Instant::now();
        // Who waits for a CLI that is recycled waits on.
        if !matches!(*self.state.borrow(), State::Recycling) {
            self.set(first_line(State::Down { problem: problem.to_owned() }));
        }
    }

    /// What the CLI had printed when it ended.
    fn printed(&self, last_lines: &[String]) {
        last_lines.clone_into(&mut Shared::lock(&self.shared.vitals).last_lines);
    }

    /// Counts a failure; how many there are in a row by now.
    fn failed(&self) -> u32 {
        let mut vitals = Shared::lock(&self.shared.vitals);
        vitals.failures += 1;
        vitals.failures
    }

    /// The link has held for long.
    fn held(&self) {
        let mut vitals = Shared::lock(&self.shared.vitals);
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
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let down = match attempt(&config, &sink, &status, &mut orders, &stop).await {
            Ended::Failed(down) => down,
            // Started again at once: callers wait for it.
            Ended::Recycled => continue,
            Ended::Stopped => break,
        };
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
}

fn report(name: &str, state: &State, pause: Duration, failures: u32) {
    match state {
        State::Incompatible { problem } => {
            error!(backend = name, problem, retry_in = ?pause, failures, "the CLI cannot be used")
        }
        State::Down { problem } => {
            warn!(backend = name, problem, retry_in = ?pause, failures, "the CLI is down")
        }
        State::Connecting | State::Ready(_) | State::Recycling => {}
    }
}

/// The log shows all that the CLI printed; callers are told what happened, and not what a program of ours says.
fn first_line(state: State) -> State {
    let cut = |problem: String| {
        problem.lines().next().unwrap_or_default().trim_end_matches("; it printed:").to_owned()
    };
    match state {
        State::Down { problem } => State::Down { problem: cut(problem) },
        State::Incompatible { problem } => State::Incompatible { problem: cut(problem) },
        State::Connecting | State::Ready(_) | State::Recycling => state,
    }
}

/// How a life ended.
enum Ended {
    /// As is told; it is tried again.
    Failed(State),
    /// To make way for another.
    Recycled,
    /// Because it was to.
    Stopped,
}

/// One life of the CLI or of the link to it.
async fn attempt(
    config: &Config,
    sink: &Arc<dyn Sink>,
    status: &Status,
    orders: &mut mpsc::Receiver<Order>,
    stop: &CancellationToken,
) -> Ended {
    let connect = Connect { config, sink, status, stop };
    match &config.source {
        Source::External { host, port, token, keeper } => {
            let address = Address { host, port: *port, token: token.as_ref() };
            connect.external(&address, *keeper, orders).await
        }
        Source::Embedded(spec) => connect.embedded(spec, orders).await,
    }
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
            OpenError::Protocol(_) => State::Incompatible { problem },
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
}

/// Why a link is not there any more.
enum End {
    /// The connection ended.
    Closed(Arc<Cause>),
    /// The CLI did not answer any more.
    Silent(String),
    /// It is not to be made anew.
    Over(Ended),
}

impl Connect<'_> {
    /// Keeps links until they cannot be made anew.
    async fn external(
        &self,
        address: &Address<'_>,
        keeper: bool,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Ended {
        let patience = if keeper { PATIENCE } else { LONE_PATIENCE };
        tokio::select! {
            ended = self.keep_main(address, patience, orders) => ended,
            never = self.keep_keeper(address), if keeper => match never {},
            never = self.probe() => match never {},
        }
    }

    async fn keep_main(
        &self,
        address: &Address<'_>,
        patience: Duration,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Ended {
        let mut opened = self.open(address, self.sink.clone(), Duration::ZERO).await;
        loop {
            let link = match opened {
                Ok(Some(link)) => link,
                Ok(None) => return Ended::Stopped,
                Err(error) => return error.into(),
            };
            self.announce(&link);
            match self.watch(&link, patience, orders).await {
                End::Closed(_) | End::Silent(_) => opened = self.open_again(address).await,
                End::Over(ended) => return ended,
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

    fn ends(&self, sink: Arc<dyn Sink>, read_pause: Duration) -> Ends {
        let options =
            jsonrpc::Options { max_frame: self.config.max_frame, read_pause, ..jsonrpc::Options::default() };
        Ends { id: LinkId::next(), options, sink, marks: self.status.shared.marks.clone() }
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
    async fn watch(&self, link: &Arc<Link>, patience: Duration, orders: &mut mpsc::Receiver<Order>) -> End {
        let since = Instant::now();
        let end = tokio::select! {
            cause = link.closed() => End::Closed(cause),
            () = silence(link, patience) => End::Silent(format!("it did not answer a ping for {patience:?}")),
            () = self.stop.cancelled() => End::Over(Ended::Stopped),
            () = self.vacate(link, orders) => End::Over(Ended::Recycled),
            never = self.hold() => match never {},
        };
        let problem = match &end {
            End::Closed(cause) => format!("the connection was lost: {cause}"),
            End::Silent(problem) => problem.clone(),
            End::Over(_) => String::new(),
        };
        link.close();
        let cause = link.closed().await;
        self.lost(link.id(), &problem, &cause);
        if !matches!(end, End::Over(_)) {
            if since.elapsed() < STABLE_AFTER {
                self.status.shared.marks.flapped(&problem);
            }
            warn!(backend = self.config.name, problem, "the link to the CLI was lost");
        }
        end
    }

    /// Resolves when the CLI is to be started anew and nobody uses the main link any more.
    async fn vacate(&self, link: &Arc<Link>, orders: &mut mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            // Given up before it came to it.
            if order.is_closed() {
                continue;
            }
            // From here on nobody gets the link.
            self.status.set(State::Recycling);
            if timeout(VACATE_LIMIT, link.vacated()).await.is_ok() {
                // Nobody may want to know any more.
                let _ = order.send(());
                return;
            }
            self.status.set(State::Ready(link.clone()));
        }
        std::future::pending().await
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
        let missing = missing_features(link.cli_version());
        info!(
            backend = self.config.name,
            version = link.cli_version(),
            protocol = link.protocol(),
            "the CLI is ready"
        );
        if !missing.is_empty() {
            warn!(backend = self.config.name, ?missing, "this CLI lacks some of what the service uses");
        }
        self.status.set(State::Ready(link.clone()));
    }

    /// First nobody finds the link any more, then those who wait on it are told.
    fn lost(&self, id: LinkId, problem: &str, cause: &Arc<Cause>) {
        self.status.lost(problem);
        self.sink.link_lost(id, cause);
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
