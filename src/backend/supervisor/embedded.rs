//! The life of a CLI of our own, which is also that of the link to it.

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
        health::Life,
        link::{Link, OpenError},
        process::{Exit, Process, Spec},
        state::State,
    },
    lock::lock,
};

impl Connect<'_> {
    /// Starts the CLI, and keeps the link to it, until one of them is gone. Then the other one is, too.
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
            lock(&self.status.shared.vitals).recycled += 1;
        }
    }

    /// Starts the CLI, and opens the link to it.
    async fn start(&self, spec: &Spec) -> Result<Running, Ended> {
        // Not dropped for `stop`: a start that is dropped ends its CLI in the background, and it is to be over when we are.
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

    /// From now on this one gets what is called.
    fn serve(&self, Running { process, link }: &Running) {
        let (name, shared, pid) = (&self.config.name, &self.status.shared, process.cli_pid());
        info!(backend = name, pid, "the CLI has started");
        lock(&shared.vitals).life = Some(Life::begin(pid, shared.admission.admitted()));
        self.announce(link);
    }

    /// Another one that is to take the place of the one that runs, as soon as that is asked for and it can be started.
    ///
    /// # Cancel safety
    /// Dropping it while one is being started ends that one.
    async fn successor(&self, spec: &Spec, orders: &mut mpsc::Receiver<Order>) -> Running {
        while let Some(order) = orders.recv().await {
            let started = self.start(spec).await;
            // Nobody may want to know any more.
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

    /// What it means that it has ended, or was ended.
    fn ended(&self, end: End, exit: Exit) -> Ended {
        let mut vitals = lock(&self.status.shared.vitals);
        vitals.life = None;
        let problem = match end {
            End::Stopped => return Ended::Stopped,
            // The guard closes it when the CLI is gone.
            End::Closed(cause) if cause.is_disconnect() => format!("it has ended with {}", exit.status),
            End::Closed(cause) => OpenError::on_stdio(cause).to_string(),
            End::Silent(problem) => problem,
        };
        vitals.last_lines.clone_from(&exit.last_lines);
        warn!(backend = self.config.name, %exit, "the CLI has ended");
        Ended::Failed(State::Down { problem })
    }

    /// Opens the link to a CLI of our own. `None` where it has ended, and within that where it is not wanted any more.
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
