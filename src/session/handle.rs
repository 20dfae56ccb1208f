//! A turn in the hands of its caller.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use super::{
    current::Outcome,
    error::{TurnCause, TurnError},
    hub::{Item, Subscriber},
    live::Session,
    queue::Ticket,
    runner::Deadline,
};

/// A turn that was accepted. Dropping it ends the turn, unless it is detached.
#[derive(Debug)]
pub struct Turn {
    pub(super) session: Arc<Session>,
    pub(super) ticket: Ticket,
    pub(super) subscriber: Subscriber<Outcome>,
    /// When its caller wants to hear.
    pub(super) deadline: Deadline,
    /// Ends the turn when it is dropped; a detached one has none.
    pub(super) gone: Option<DropGuard>,
}

impl Turn {
    /// The next thing to tell the caller.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Item<Outcome> {
        if self.gone.is_some() {
            // The turn keeps to its caller's deadline by itself.
            return self.subscriber.next().await;
        }
        tokio::select! {
            biased;
            item = self.subscriber.next() => item,
            cause = self.deadline.passed() => {
                Item::End(Err(Arc::new(self.session.snapshot(self.ticket, cause))))
            }
        }
    }

    /// Waits for the end.
    pub async fn outcome(mut self) -> Outcome {
        loop {
            match self.next().await {
                Item::End(outcome) => return outcome,
                Item::Event(_) => {}
                // Without events there is nothing to lag behind.
                Item::Lagged(_) => return Err(Arc::new(TurnError::not_delivered(TurnCause::Cancelled))),
            }
        }
    }

    /// Lets the turn go on without its caller.
    pub fn detach(mut self) {
        if let Some(gone) = self.gone.take() {
            gone.disarm();
        }
    }
}
