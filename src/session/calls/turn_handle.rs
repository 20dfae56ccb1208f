//! A turn in the hands of its caller.

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::session::{
    cursor::Cursor,
    fanout::{Item, Subscriber, Update},
    live::Session,
    turn::{Deadline, Outcome, Ticket, TurnCause, TurnError},
};

/// A turn that was accepted, or joined. When all handles are dropped that own it, it ends.
#[derive(Debug)]
pub struct Turn {
    pub(super) session: Arc<Session>,
    pub(super) ticket: Ticket,
    /// Taken when it is dropped.
    pub(super) subscriber: Option<Subscriber<Outcome>>,
    /// When its caller wants to hear.
    pub(super) deadline: Deadline,
    /// Whether the turn keeps to this deadline by itself.
    pub(super) keeps_deadline: bool,
    /// Ends the turn when nobody holds it any more; who does not own the turn has none.
    pub(super) gone: Option<Arc<DropGuard>>,
    /// Cancelled when the CLI has the prompt.
    pub(super) delivered: CancellationToken,
}

/// What the caller of a turn gets.
#[derive(Debug)]
pub enum Told {
    /// An event.
    Update(Update),
    /// The last one: how it ended.
    Ended(Outcome),
    /// The last one: the caller reads too slowly. The turn goes on, and a watcher may go on from here.
    Lagged(Option<Cursor>),
}

impl Turn {
    /// One that had ended before it was asked for.
    pub(super) fn ended(session: Arc<Session>, outcome: Outcome, deadline: Deadline) -> Self {
        let (ticket, delivered) = (Ticket::PAST, CancellationToken::new());
        delivered.cancel();
        let subscriber = Some(Subscriber::ended(ticket, outcome));
        Self { session, ticket, subscriber, deadline, keeps_deadline: false, gone: None, delivered }
    }

    /// Which of the session's turns it is.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The next thing to tell the caller.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Told {
        let Some(subscriber) = &mut self.subscriber else { return Told::Lagged(None) };
        let item = if self.keeps_deadline {
            subscriber.next().await
        } else {
            tokio::select! {
                biased;
                item = subscriber.next() => item,
                cause = self.deadline.passed() => {
                    return Told::Ended(Err(Arc::new(self.session.snapshot(self.ticket, cause))));
                }
            }
        };
        match item {
            Item::Update(update) => Told::Update(update),
            Item::TurnEnded(_, outcome) => Told::Ended(outcome),
            // Of a turn's readers none hears of the session, and a session that is gone has ended its turns.
            Item::Lagged(_) | Item::LinkLost | Item::Reloaded | Item::Gone => {
                Told::Lagged(self.subscriber.as_ref().and_then(Subscriber::last))
            }
        }
    }

    /// Waits until the CLI has the prompt, or the turn has ended without: then the end is given.
    ///
    /// # Cancel safety
    /// Dropping it loses events, but not the end.
    pub async fn delivered(&mut self) -> Option<Outcome> {
        let delivered = self.delivered.clone();
        tokio::select! {
            // A turn that fails at once was delivered all the same.
            biased;
            () = delivered.cancelled() => None,
            outcome = self.outcome() => Some(outcome),
        }
    }

    /// Waits for the end.
    pub async fn outcome(&mut self) -> Outcome {
        loop {
            match self.next().await {
                Told::Ended(outcome) => return outcome,
                Told::Update(_) => {}
                // Without events there is nothing to lag behind.
                Told::Lagged(_) => return Err(Arc::new(TurnError::not_delivered(TurnCause::Cancelled))),
            }
        }
    }

    /// Lets the turn go on without its caller.
    pub fn detach(mut self) {
        if let Some(gone) = self.gone.take().and_then(Arc::into_inner) {
            gone.disarm();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.subscriber.take();
        self.session.left();
    }
}
