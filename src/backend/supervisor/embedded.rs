//! Serving an embedded CLI, whose process and link end together.

use std::{sync::Arc, time::Duration};

use tokio::{net::UnixStream, sync::mpsc};
use tracing::{info, warn};

use super::{
    Connect, End, Ended, LONE_PATIENCE, Order,
    retiring::{Retiring, Running},
};
use crate::{
    backend::{
        error::Error,
        health::ProcessStats,
        link::{Link, OpenError},
        process::{Exit, Process, Spec},
        state::State,
    },
    lock::lock,
};

impl Connect<'_> {
    /// Starts the CLI and serves it until the process or the link is gone; then the other one is ended, too.
    pub(super) async fn embedded(&self, spec: &Spec, orders: &mut mpsc::Receiver<Order>) -> Ended {
        let mut running = match self.start(spec).await {
            Ok(running) => running,
            Err(ended) => return ended,
        };
        loop {
            self.serve(&running);
            let next = tokio::select! {
                end = self.watch(&running.link, LONE_PATIENCE) => return self.ended(end, running.process.stop().await),
                next = self.successor(spec, orders) => next,
                never = self.probe() => match never {},
            };
            let old = std::mem::replace(&mut running, next);
            self.retired.spawn(Retiring::of(old, self).run());
            lock(&self.status.shared.stats).recycled += 1;
        }
    }

    /// Starts the CLI, and opens the link to it.
    async fn start(&self, spec: &Spec) -> Result<Running, Ended> {
        // Not dropped for `stop`: a start that is dropped ends its CLI in the background, and `stop` promises that it has
        // ended.
        let (process, opened) = match Process::start(spec, |stdio| self.shake_hands(stdio)).await {
            Ok(started) => started,
            Err(_) if self.stop.is_cancelled() => return Err(Ended::Stopped),
            Err(error) => {
                self.status.printed(error.last_lines());
                return Err(Ended::Failed(State::Down { problem: error.to_string() }));
            }
        };
        match opened {
            Ok(Some(link)) => Ok(Running { process, link }),
            Ok(None) => {
                process.stop().await;
                Err(Ended::Stopped)
            }
            Err(error) => {
                self.status.printed(&process.stop().await.last_lines);
                Err(error.into())
            }
        }
    }

    /// Directs new calls to this CLI.
    fn serve(&self, Running { process, link }: &Running) {
        let (name, shared, pid) = (&self.config.name, &self.status.shared, process.cli_pid());
        info!(backend = name, pid, "the CLI has started");
        lock(&shared.stats).process = Some(ProcessStats::begin(pid, shared.admission.admitted()));
        self.announce(link);
    }

    /// The next CLI, started when an order asks for it.
    ///
    /// # Cancel safety
    /// Dropping it while one is being started ends that one.
    async fn successor(&self, spec: &Spec, orders: &mut mpsc::Receiver<Order>) -> Running {
        while let Some(order) = orders.recv().await {
            let started = self.start(spec).await;
            // Nobody may wait for the answer any more.
            let told = |told| drop(order.send(told));
            match started {
                Ok(running) => {
                    told(Ok(()));
                    return running;
                }
                Err(Ended::Failed(State::Down { problem } | State::Incompatible { problem, .. })) => {
                    told(Err(problem))
                }
                Err(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Records the end of the CLI and tells what it means.
    fn ended(&self, end: End, exit: Exit) -> Ended {
        let mut stats = lock(&self.status.shared.stats);
        stats.process = None;
        let problem = match end {
            End::Stopped => return Ended::Stopped,
            // The guard closes the link when the CLI is gone.
            End::Closed(cause) if cause.is_disconnect() => format!("it has ended with {}", exit.status),
            End::Closed(cause) => OpenError::on_stdio(cause).to_string(),
            End::Silent(problem) => problem,
        };
        stats.last_lines.clone_from(&exit.last_lines);
        warn!(backend = self.config.name, %exit, "the CLI has ended");
        Ended::Failed(State::Down { problem })
    }

    /// Opens the link to an embedded CLI. `None`: the CLI has ended. `Some(Ok(None))`: the backend was stopped.
    async fn shake_hands(&self, stdio: UnixStream) -> Option<Result<Option<Arc<Link>>, OpenError>> {
        let ends = self.ends(self.sink.clone(), Duration::ZERO);
        let opened = tokio::select! {
            () = self.stop.cancelled() => return Some(Ok(None)),
            opened = Link::open(stdio, None, ends) => opened,
        };
        match opened {
            Ok(link) => Some(Ok(Some(Arc::new(link)))),
            Err(OpenError::Call(Error::Lost { cause, .. })) if cause.is_disconnect() => None,
            Err(OpenError::Call(Error::Lost { cause, .. })) => Some(Err(OpenError::on_stdio(cause))),
            Err(error) => Some(Err(error)),
        }
    }
}
