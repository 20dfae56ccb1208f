//! The life of a backend: start or find the CLI, connect, watch, and begin again when it is lost.
//!
//! A CLI is served by two links. The main one carries everything. The keeper is only attached to the sessions, because the CLI
//! ends a session's turn when its last connection drops: with it, a main link that is lost and made anew costs nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Config, GRACE, Link, LinkId, Sink, Source, State,
    link::OpenError,
    process::{Process, Spec},
};
use crate::{
    copilot::{Secret, method::Ping, version::missing_features},
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

/// Where it is told how the backend is.
pub(super) struct Status {
    pub(super) state: watch::Sender<State>,
    /// Since when there is no link, where there is none.
    pub(super) missing_since: Arc<Mutex<Instant>>,
    pub(super) keeper: Arc<Mutex<Option<Arc<Link>>>>,
}

impl Status {
    fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    fn set_keeper(&self, keeper: Option<Arc<Link>>) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    /// The link is gone.
    fn lost(&self, problem: &str) {
        *self.missing_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.set(first_line(State::Down { problem: problem.to_owned() }));
    }
}

/// Runs until `stop`.
pub(super) async fn run(config: Config, sink: Arc<dyn Sink>, status: Status, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = attempt(&config, &sink, &status, &stop).await;
        let Some(down) = ended else { break };
        if began.elapsed() >= STABLE_AFTER {
            pause = FIRST_PAUSE;
        }
        report(&config.name, &down, pause);
        status.set(first_line(down));
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    status.set(State::Down { problem: "the server is shutting down".into() });
}

fn report(name: &str, state: &State, pause: Duration) {
    match state {
        State::Incompatible { problem } => {
            error!(backend = name, problem, retry_in = ?pause, "the CLI cannot be used")
        }
        State::Down { problem } => warn!(backend = name, problem, retry_in = ?pause, "the CLI is down"),
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
        State::Incompatible { problem } => State::Incompatible { problem: cut(problem) },
        State::Connecting | State::Ready(_) => state,
    }
}

/// One life of the CLI or of the link to it. `None`: it ended because of `stop`.
async fn attempt(
    config: &Config,
    sink: &Arc<dyn Sink>,
    status: &Status,
    stop: &CancellationToken,
) -> Option<State> {
    let connect = Connect { config, sink, status, stop };
    match &config.source {
        Source::External { host, port, token } => {
            let address = Address { host, port: *port, token: token.as_ref() };
            connect.serve(&address, std::future::pending()).await
        }
        Source::Embedded(spec) => embedded(connect, spec).await,
    }
}

async fn embedded(connect: Connect<'_>, spec: &Spec) -> Option<State> {
    // Not given up for `stop`: a start that is dropped ends its CLI in the background, and it is to be over when we are.
    let started = Process::start(spec).await;
    if connect.stop.is_cancelled() {
        if let Ok(process) = started {
            process.stop().await;
        }
        return None;
    }
    let mut process = match started {
        Ok(process) => process,
        Err(error) => return Some(State::Down { problem: error.to_string() }),
    };
    info!(
        backend = connect.config.name,
        port = process.port(),
        pid = process.cli_pid(),
        "the CLI has started"
    );
    let (port, token) = (process.port(), process.token().clone());
    let address = Address { host: "127.0.0.1", port, token: Some(&token) };
    let ended = connect.serve(&address, process_end(&mut process)).await;
    // Also where it only cannot be connected to: such a CLI is of no use, and its sessions are on disk.
    let exit = process.stop().await;
    if ended.is_some() {
        warn!(backend = connect.config.name, %exit, "the CLI has ended");
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
    Over(State),
    Stopped,
}

impl Connect<'_> {
    /// Keeps links until they cannot be made anew, or the process behind them ends. `None`: it ended because of `stop`.
    async fn serve(&self, address: &Address<'_>, process_end: impl Future<Output = String>) -> Option<State> {
        tokio::select! {
            ended = self.keep_main(address, process_end) => ended,
            never = self.keep_keeper(address) => match never {},
        }
    }

    async fn keep_main(
        &self,
        address: &Address<'_>,
        process_end: impl Future<Output = String>,
    ) -> Option<State> {
        let mut process_end = std::pin::pin!(process_end);
        let mut opened = self.open(address, self.sink.clone(), Duration::ZERO).await;
        loop {
            let link = match opened {
                Ok(Some(link)) => link,
                Ok(None) => return None,
                Err(error @ OpenError::Protocol(_)) => {
                    return Some(State::Incompatible { problem: error.to_string() });
                }
                Err(error) => return Some(State::Down { problem: error.to_string() }),
            };
            self.announce(&link);
            match self.watch(&link, process_end.as_mut()).await {
                End::Lost => opened = self.open_again(address, process_end.as_mut()).await,
                End::Over(state) => return Some(state),
                End::Stopped => return None,
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
        let options =
            jsonrpc::Options { max_frame: self.config.max_frame, read_pause, ..jsonrpc::Options::default() };
        let id = LinkId::next();
        tokio::select! {
            () = self.stop.cancelled() => Ok(None),
            opened = Link::open(id, (host, port), token, options, sink) => {
                opened.map(|link| Some(Arc::new(link)))
            }
        }
    }

    /// Opens the main link again: for as long as others wait for it, the CLI is given time.
    async fn open_again(
        &self,
        address: &Address<'_>,
        mut process_end: std::pin::Pin<&mut impl Future<Output = String>>,
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
        process_end: std::pin::Pin<&mut impl Future<Output = String>>,
    ) -> End {
        let patience = if self.config.keeper { PATIENCE } else { LONE_PATIENCE };
        let (end, problem) = tokio::select! {
            // The process's end says more than the end of the connection that comes with it, but the connection's is
            // what frees those who wait: whichever is first.
            cause = link.closed() => (End::Lost, format!("the connection was lost: {cause}")),
            problem = process_end => (End::Over(State::Down { problem: problem.clone() }), problem),
            () = silence(link, patience) => (End::Lost, format!("it did not answer a ping for {patience:?}")),
            () = self.stop.cancelled() => (End::Stopped, String::new()),
        };
        link.close();
        let cause = link.closed().await;
        self.lost(link.id(), &problem, &cause);
        if let End::Lost = end {
            warn!(backend = self.config.name, problem, "the link to the CLI was lost");
        }
        end
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
                    self.status.set_keeper(Some(link.clone()));
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
        self.connect.status.set_keeper(None);
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
