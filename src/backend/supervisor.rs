//! The life of a backend: start or find the CLI, connect, watch, and begin again when it is lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Config, Link, LinkId, Sink, Source, State,
    link::OpenError,
    process::{Process, Spec},
};
use crate::{
    copilot::{Secret, method::Ping, version::missing_features},
    jsonrpc::Cause,
};

/// How often the CLI is asked for a sign of life. It answers within a millisecond, also while 50 turns run (observed).
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long it may owe one before the link is given up: long enough for a machine that is short of CPU.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// The pause before the first new attempt; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A link that held this long starts the pauses anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Where it is told how the backend is.
pub(super) struct Status {
    pub(super) state: watch::Sender<State>,
    /// Since when there is no link, where there is none.
    pub(super) missing_since: Arc<Mutex<Instant>>,
}

impl Status {
    fn set(&self, state: State) {
        self.state.send_replace(state);
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
    let mut next_link = 1;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = attempt(&config, &sink, &status, &stop, LinkId(next_link)).await;
        next_link += 1;
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
    id: LinkId,
) -> Option<State> {
    let connect = Connect { config, sink, status, stop, id };
    match &config.source {
        Source::External { host, port, token } => {
            connect.serve(host, *port, token.as_ref(), std::future::pending()).await
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
    let ended = connect.serve("127.0.0.1", port, Some(&token), process_end(&mut process)).await;
    // Also where only the link was lost: a CLI that we cannot talk to is of no use, and its sessions are on disk.
    let exit = process.stop().await;
    if ended.is_some() {
        warn!(backend = connect.config.name, %exit, "the CLI has ended");
    }
    ended
}

async fn process_end(process: &mut Process) -> String {
    format!("it has ended with {}", process.exited().await.status)
}

/// What one attempt works with.
struct Connect<'a> {
    config: &'a Config,
    sink: &'a Arc<dyn Sink>,
    status: &'a Status,
    stop: &'a CancellationToken,
    id: LinkId,
}

impl Connect<'_> {
    /// Opens a link and keeps it until it, or the process behind it, ends. `None`: it ended because of `stop`.
    async fn serve(
        &self,
        host: &str,
        port: u16,
        token: Option<&Secret>,
        process_end: impl Future<Output = String>,
    ) -> Option<State> {
        let opened = tokio::select! {
            () = self.stop.cancelled() => return None,
            opened = Link::open(self.id, (host, port), token, self.config.max_frame, self.sink.clone()) => opened,
        };
        let link = match opened {
            Ok(link) => Arc::new(link),
            Err(error @ OpenError::Protocol(_)) => {
                return Some(State::Incompatible { problem: error.to_string() });
            }
            Err(error) => return Some(State::Down { problem: error.to_string() }),
        };
        self.announce(&link);
        let (stopped, problem, cause) = tokio::select! {
            // The process's end says more than the end of the connection that comes with it, but the connection's is
            // what frees those who wait: whichever is first.
            cause = link.closed() => (false, format!("the connection was lost: {cause}"), Some(cause)),
            problem = process_end => (false, problem, None),
            () = silence(&link) => (false, format!("it did not answer a ping for {PING_TIMEOUT:?}"), None),
            () = self.stop.cancelled() => (true, String::new(), None),
        };
        link.close();
        let cause = match cause {
            Some(cause) => cause,
            None => link.closed().await,
        };
        self.lost(&problem, &cause);
        (!stopped).then_some(State::Down { problem })
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
    fn lost(&self, problem: &str, cause: &Arc<Cause>) {
        self.status.lost(problem);
        self.sink.link_lost(self.id, cause);
    }
}

/// Resolves when the CLI owes a sign of life for too long.
async fn silence(link: &Link) {
    let mut ticks = interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(PING_TIMEOUT, link.call(&Ping {})).await {
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
