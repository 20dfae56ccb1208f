//! A retiring CLI: an embedded CLI that another one has replaced, whose turns run to their end.

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Connect, LONE_PATIENCE, silence};
use crate::backend::{link::Link, process::Process, sink::Sink, state::Shared};

/// An embedded CLI, and the link to it.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) link: Arc<Link>,
}

/// A replaced CLI, which gets no new calls.
pub(super) struct Retiring {
    running: Running,
    name: String,
    sink: Arc<dyn Sink>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Retiring {
    pub(super) fn of(running: Running, connect: &Connect<'_>) -> Self {
        let shared = connect.status.shared.clone();
        shared.retiring.fetch_add(1, Ordering::Relaxed);
        let (name, sink, stop) = (connect.config.name.clone(), connect.sink.clone(), connect.stop.clone());
        Self { running, name, sink, shared, stop }
    }

    /// Ends the CLI when nobody uses it any more and its sessions have left it, or when it does not answer.
    pub(super) async fn run(self) {
        let Self { running: Running { process, link }, name, sink, shared, stop } = self;
        let left = async {
            // The other CLI loads the sessions when they are next used, which must not be before they have left this one. One
            // may be used again meanwhile.
            loop {
                link.vacated().await;
                if sink.let_go(&link).await {
                    return;
                }
            }
        };
        let lost = tokio::select! {
            () = left => false,
            () = stop.cancelled() => false,
            _ = link.closed() => true,
            () = silence(&link, LONE_PATIENCE) => true,
        };
        link.close();
        sink.link_lost(link.id(), &link.closed().await);
        let exit = process.stop().await;
        shared.retiring.fetch_sub(1, Ordering::Relaxed);
        if lost {
            warn!(backend = name, %exit, "a CLI that was being replaced has ended before its turns");
        } else {
            info!(backend = name, "a CLI that was replaced has ended");
        }
    }
}
