//! The life of a backend: start or find the CLI, connect, watch, and begin again when it is lost.
//!
//! A CLI is served by two links. The main one carries everything. The keeper is only attached to the sessions, because the CLI
//! ends a session's turn when its last connection drops: with it, a main link that is lost and made anew costs nothing.
//!
//! A CLI that is to be recycled is ended when nobody uses its main link any more, and started again at once; until it is there,
//! calls wait.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Config, Error, GRACE, Link, LinkId, Shared, Sink, Source, State,
    link::OpenError,
    process::{Process, Spec},
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

/// How often the CLI is asked for a sign of life. It answers within a millisecond, also while 50 turns run (observed).
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long it may owe one before the main link is given up where there is a keeper link. A machine that is short of CPU may
/// starve the CLI for seconds; a false alarm then costs a new link and a look at what happened meanwhile, and no turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same without a keeper link: here a false alarm ends the turns.
const LONE_PATIENCE: Duration = Duration::from_secs(15);

/// The same on the keeper link. Longer than it takes to give the main link up and to shake hands anew, or in vain: as long as the
/// keeper link is there, a CLI that was frozen goes on with its turns.
const KEEPER_PATIENCE: Duration = Duration::from_secs(30);

/// The end of that time belongs to another ping: if it was we who did not run, the answer is there by now.
const LAST_TRY: Duration = Duration::from_secs(1);

/// The pause before the first new attempt; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long what is told on the keeper link may wait: all events come on it too, and are dropped. The CLI has to buffer nothing
/// for it: 17 MB/s, the most that it was seen to write, is less in that time than the kernel takes.
const KEEPER_READ_PAUSE: Duration = Duration::from_millis(10);

/// The pause before the keeper link is tried again: nothing runs on it.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);

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
            () = sleep(pause) => {}
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
        Source::External { host, port, token } => {
            let address = Address { host, port: *port, token: token.as_ref() };
            connect.serve(&address, std::future::pending(), orders).await
        }
        Source::Embedded(spec) => embedded(connect, spec, orders).await,
    }
}

async fn embedded(connect: Connect<'_>, spec: &Spec, orders: &mut mpsc::Receiver<Order>) -> Ended {
    // Not given up for `stop`: a start that is dropped ends its CLI in the background, and it is to be over when we are.
    let started = Process::start(spec).await;
    if connect.stop.is_cancelled() {
        if let Ok(process) = started {
            process.stop().await;
        }
        return Ended::Stopped;
    }
    let (status, name) = (connect.status, &connect.config.name);
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            status.printed(error.last_lines());
            return Ended::Failed(State::Down { problem: error.to_string() });
        }
    };
    let pid = process.cli_pid();
    info!(backend = name, port = process.port(), pid, "the CLI has started");
    let life = Life::begin(pid, status.shared.admission.admitted());
    Shared::lock(&status.shared.vitals).life = Some(life);
    let (port, token) = (process.port(), process.token().clone());
    let address = Address { host: "127.0.0.1", port, token: Some(&token) };
    let ended = connect.serve(&address, process_end(&mut process), orders).await;
    // Also where it only cannot be connected to: such a CLI is of no use, and its sessions are on disk.
    let exit = process.stop().await;
    let mut vitals = Shared::lock(&status.shared.vitals);
    vitals.life = None;
    match ended {
        Ended::Failed(_) => {
            vitals.last_lines.clone_from(&exit.last_lines);
            warn!(backend = name, %exit, "the CLI has ended");
        }
        Ended::Recycled => vitals.recycled += 1,
        Ended::Stopped => {}
    }
    ended
}

async fn process_end(process: &mut Process) -> String {
    format!("it has ended with {}", process.exited().await.status)
}

/// Where a CLI listens.
struct Address<'a> {
    host: &'a str,
    port: u16,
    token: Option<&'a Secret>,
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
    /// It was lost, and is made anew.
    Lost,
    /// There is nothing to make it anew with.
    Over(Ended),
}

impl Connect<'_> {
    /// Keeps links until they cannot be made anew, or the process behind them ends.
    async fn serve(
        &self,
        address: &Address<'_>,
        process_end: impl Future<Output = String>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Ended {
        tokio::select! {
            ended = self.keep_main(address, process_end, orders) => ended,
            never = self.keep_keeper(address) => match never {},
            never = self.probe() => match never {},
        }
    }

    async fn keep_main(
        &self,
        address: &Address<'_>,
        process_end: impl Future<Output = String>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Ended {
        let mut process_end = std::pin::pin!(process_end);
        let mut opened = self.open(address, self.sink.clone(), Duration::ZERO).await;
        loop {
            let link = match opened {
                Ok(Some(link)) => link,
                Ok(None) => return Ended::Stopped,
                Err(error @ OpenError::Protocol(_)) => {
                    return Ended::Failed(State::Incompatible { problem: error.to_string() });
                }
                Err(error) => return Ended::Failed(State::Down { problem: error.to_string() }),
            };
            self.announce(&link);
            match self.watch(&link, process_end.as_mut(), orders).await {
                End::Lost => opened = self.open_again(address, process_end.as_mut()).await,
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
        let (id, marks) = (LinkId::next(), self.status.shared.marks.clone());
        let options =
            jsonrpc::Options { max_frame: self.config.max_frame, read_pause, ..jsonrpc::Options::default() };
        tokio::select! {
            () = self.stop.cancelled() => Ok(None),
            opened = Link::open(id, (host, port), token, options, sink, marks) => {
                opened.map(|link| Some(Arc::new(link)))
            }
        }
    }

    /// Opens the main link again: for as long as others wait for it, the CLI is given time.
    async fn open_again(
        &self,
        address: &Address<'_>,
        mut process_end: Pin<&mut impl Future<Output = String>>,
    ) -> Result<Option<Arc<Link>>, OpenError> {
        let give_up = Instant::now() + GRACE;
        loop {
            let opened = tokio::select! {
                opened = self.open(address, self.sink.clone(), Duration::ZERO) => opened,
                problem = &mut process_end => return Err(OpenError::Connect(problem)),
            };
            match opened {
                Err(OpenError::Connect(_)) if Instant::now() < give_up => sleep(FIRST_PAUSE).await,
                opened => return opened,
            }
        }
    }

    /// Waits for the main link's end.
    async fn watch(
        &self,
        link: &Arc<Link>,
        process_end: Pin<&mut impl Future<Output = String>>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> End {
        let patience = if self.config.keeper { PATIENCE } else { LONE_PATIENCE };
        let since = Instant::now();
        let (end, problem) = tokio::select! {
            // The process's end says more than the end of the connection that comes with it, but the connection's is
            // what frees those who wait: whichever is first.
            cause = link.closed() => (End::Lost, format!("the connection was lost: {cause}")),
            problem = process_end => {
                (End::Over(Ended::Failed(State::Down { problem: problem.clone() })), problem)
            }
            () = silence(link, patience) => (End::Lost, format!("it did not answer a ping for {patience:?}")),
            () = self.stop.cancelled() => (End::Over(Ended::Stopped), String::new()),
            () = self.vacate(link, orders) => (End::Over(Ended::Recycled), String::new()),
            never = self.hold() => match never {},
        };
        link.close();
        let cause = link.closed().await;
        self.lost(link.id(), &problem, &cause);
        if !matches!(end, End::Over(Ended::Stopped | Ended::Recycled)) && since.elapsed() < STABLE_AFTER {
            self.status.shared.marks.flapped(&problem);
        }
        if let End::Lost = end {
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

    /// Keeps a second link. What is told on it is told on the main one.
    async fn keep_keeper(&self, address: &Address<'_>) -> std::convert::Infallible {
        if !self.config.keeper {
            return std::future::pending().await;
        }
        let mut state = self.status.state.subscribe();
        loop {
            // It fails when nobody asks any more; then this is dropped.
            let _ = state.wait_for(|state| matches!(state, State::Ready(_))).await;
            match self.open(address, Arc::new(Deaf), KEEPER_READ_PAUSE).await {
                Ok(Some(link)) => {
                    let kept = Kept { connect: self, link: link.clone() };
                    *Shared::lock(&self.status.shared.keeper) = Some(link.clone());
                    self.sink.keeper_up();
                    tokio::select! {
                        _ = link.closed() => {}
                        () = silence(&link, KEEPER_PATIENCE) => {}
                    }
                    drop(kept);
                }
                Ok(None) => return std::future::pending().await,
                Err(error) => debug!(backend = self.config.name, %error, "there is no keeper link"),
            }
            sleep(KEEPER_PAUSE).await;
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

/// A keeper link that is up.
struct Kept<'a> {
    connect: &'a Connect<'a>,
    link: Arc<Link>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.link.close();
        *Shared::lock(&self.connect.status.shared.keeper) = None;
        self.connect.sink.keeper_lost(self.link.id());
    }
}

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn session_event(&self, _: &[u8]) -> bool {
        true
    }
    fn event_dropped(&self, _: &str, _: &str) {}
    fn session_deleted(&self, _: &str) {}
    fn link_lost(&self, _: LinkId, _: &Arc<Cause>) {}
    fn keeper_up(&self) {}
    fn keeper_lost(&self, _: LinkId) {}
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
