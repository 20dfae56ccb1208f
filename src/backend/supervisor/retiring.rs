//! The last days of a CLI of our own whose place another one has taken: what runs on it runs to its end.

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Connect, LONE_PATIENCE, silence};
use crate::backend::{link::Link, process::Process, sink::Sink, state::Shared};

/// A CLI of our own, and the link to it.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) link: Arc<Link>,
}

/// A CLI that gets nothing new.
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

    /// Ends it when nobody uses it any more and its sessions have left it, or when it does not answer.
    pub(super) async fn run(self) {
        let Self { running: Running { process, link }, name, sink, shared, stop } = self;
        let left = async {
            // Where they are next used, the other one loads them; it must not before they have left. One may be used again meanwhile.
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
