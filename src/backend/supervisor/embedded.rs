//! The life of a CLI of our own, which is also that of the link to it.

use std::{sync::Arc, time::Duration};

use tokio::{net::UnixStream, sync::mpsc};
use tracing::{info, warn};

use super::{Connect, End, Ended, Error, LONE_PATIENCE, Life, Link, OpenError, Order, Shared, State};
use crate::backend::process::{Process, Spec};

impl Connect<'_> {
    /// Starts the CLI, and keeps the link to it, until one of them is gone. Then the other one is, too.
    pub(super) async fn embedded(&self, spec: &Spec, orders: &mut mpsc::Receiver<Order>) -> Ended {
        // Not dropped for `stop`: a start that is dropped ends its CLI in the background, and it is to be over when we are.
        let (process, opened) = match Process::start(spec, |stdio| self.shake_hands(stdio)).await {
            Ok(started) => started,
            Err(_) if self.stop.is_cancelled() => return Ended::Stopped,
            Err(error) => {
                self.status.printed(error.last_lines());
                return Ended::Failed(State::Down { problem: error.to_string() });
            }
        };
        let link = match opened {
            Ok(Some(link)) => link,
            Ok(None) => {
                process.stop().await;
                return Ended::Stopped;
            }
            Err(error) => {
                self.status.printed(&process.stop().await.last_lines);
                return error.into();
            }
        };
        let (name, shared, pid) = (&self.config.name, &self.status.shared, process.cli_pid());
        info!(backend = name, pid, "the CLI has started");
        let life = Life::begin(pid, shared.admission.admitted());
        Shared::lock(&shared.vitals).life = Some(life);
        self.announce(&link);
        let end = tokio::select! {
            end = self.watch(&link, LONE_PATIENCE, orders) => end,
            never = self.probe() => match never {},
        };
        let exit = process.stop().await;
        let mut vitals = Shared::lock(&shared.vitals);
        vitals.life = None;
        let problem = match end {
            End::Over(ended) => {
                vitals.recycled += u64::from(matches!(ended, Ended::Recycled));
                return ended;
            }
            // The guard closes it when the CLI is gone.
            End::Closed(cause) if cause.is_disconnect() => format!("it has ended with {}", exit.status),
            End::Closed(cause) => OpenError::on_stdio(cause).to_string(),
            End::Silent(problem) => problem,
        };
        vitals.last_lines.clone_from(&exit.last_lines);
        warn!(backend = name, %exit, "the CLI has ended");
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
