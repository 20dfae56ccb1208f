//! The turn that has its session: the state machine, the caller that hears how it goes, and the signals between them
//! and the task that runs it.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    error::{Delivery, TurnCause, TurnError},
    hub::Publisher,
    queue::Ticket,
    replay::Replay,
    turn::{Ending, Turn, TurnResult},
};
use crate::copilot::Event;

/// How a turn ended.
pub type Outcome = Result<Arc<TurnResult>, Arc<TurnError>>;

/// The turn that has its session.
#[derive(Debug)]
pub(super) struct Current {
    ticket: Ticket,
    replay: Replay,
    turn: Turn,
    publisher: Publisher<Outcome>,
    /// Whether the CLI may have the prompt.
    sending: bool,
    /// Whether its caller has been told how it ended.
    concluded: bool,
    /// Whether nothing more can come of it.
    gone: bool,
    signals: Signals,
}

/// What the task that runs a turn listens to.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    /// Fires when there is progress to look at.
    pub(super) changed: Arc<Notify>,
    /// Cancelled when somebody asks for the turn's end.
    pub(super) abort: CancellationToken,
}

/// What the task that runs a turn has to know, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether the caller has been told how it ended.
    pub(super) concluded: bool,
    /// Whether the next turn may start.
    pub(super) settled: bool,
    /// Whether the agent is at work on it, concluded or not.
    pub(super) agent_running: bool,
    /// Whether a tool runs.
    pub(super) tool_running: bool,
}

impl Current {
    pub(super) fn new(ticket: Ticket, publisher: Publisher<Outcome>) -> Self {
        Self {
            ticket,
            replay: Replay::default(),
            turn: Turn::default(),
            publisher,
            sending: false,
            concluded: false,
            gone: false,
            signals: Signals::default(),
        }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            concluded: self.concluded,
            settled: self.gone || self.turn.is_settled(),
            agent_running: self.turn.is_running(),
            tool_running: self.turn.is_tool_running(),
        }
    }

    /// Whether its caller wants events of this kind.
    pub(super) fn wants(&self, kind: &str) -> bool {
        !self.concluded && self.publisher.wants(kind)
    }

    /// Something happened in the session.
    pub(super) fn hear(&mut self, event: &Arc<Event>) {
        for event in self.replay.admit(event) {
            if !self.concluded {
                self.publisher.publish(&event);
            }
            // What comes before the prompt was sent belongs to what was before, and is no concern of the turn.
            if self.sending {
                let tool_was_running = self.turn.is_tool_running();
                let ending = self.turn.apply(&event);
                self.advance(ending);
                if self.turn.is_tool_running() != tool_was_running {
                    self.signals.changed.notify_one();
                }
            }
        }
    }

    /// An event of this kind was too large to be taken in: a caller that wants it hears that something is missing.
    pub(super) fn missed(&self, kind: &str) {
        if self.wants(kind) {
            self.publisher.cut_off();
        }
    }

    /// From here on the CLI may have the prompt.
    pub(super) fn sending(&mut self) {
        self.sending = true;
    }

    /// The CLI surely does not have the prompt after all.
    pub(super) fn not_sent(&mut self) {
        self.sending = false;
    }

    /// The CLI has the prompt.
    pub(super) fn accepted(&mut self, message_id: String) {
        let ending = self.turn.accepted(message_id);
        self.advance(ending);
    }

    /// Whether the CLI has the prompt will never be known.
    pub(super) fn unacknowledged(&mut self) {
        self.turn.unacknowledged();
    }

    /// The CLI says that the session does nothing.
    pub(super) fn found_idle(&mut self) {
        let ending = self.turn.found_idle();
        self.advance(ending);
    }

    /// Nothing runs any more. While the prompt is on its way, the call that carries it knows better whether it arrived.
    pub(super) fn cut(&mut self, problem: &str) {
        if self.concluded || !self.turn.is_sending() {
            self.fail(TurnCause::Interrupted(problem.to_owned()));
            self.gone = true;
            self.signals.changed.notify_one();
        }
    }

    /// Asks for its end. `None`: it is at its end already. The id is empty while the prompt is on its way.
    pub(super) fn abort(&self) -> Option<String> {
        if self.concluded {
            return None;
        }
        self.signals.abort.cancel();
        Some(self.turn.message_id().unwrap_or_default().to_owned())
    }

    /// Tells its caller that it has failed, unless it has been told how it ended.
    pub(super) fn fail(&mut self, cause: TurnCause) {
        let error = self.error(cause);
        self.conclude(|_| Err(Arc::new(error)));
    }

    /// What a failure would be now.
    pub(super) fn error(&self, cause: TurnCause) -> TurnError {
        let delivery = match &cause {
            _ if self.turn.message_id().is_some() => Delivery::Delivered,
            _ if !self.sending => Delivery::NotDelivered,
            TurnCause::Backend(error) if !error.may_have_been_delivered() => Delivery::NotDelivered,
            _ => Delivery::Unknown,
        };
        TurnError { cause, delivery, remains: self.turn.remains() }
    }

    fn conclude(&mut self, outcome: impl FnOnce(&Turn) -> Outcome) {
        if !self.concluded {
            self.concluded = true;
            self.publisher.finish(outcome(&self.turn));
        }
    }

    fn advance(&mut self, ending: Option<Ending>) {
        match ending {
            Some(Ending::Answered) => self.conclude(|turn| Ok(Arc::new(turn.result()))),
            Some(Ending::Failed(failure)) => self.fail(TurnCause::Agent(failure)),
            Some(Ending::Aborted) => self.fail(TurnCause::Aborted),
            Some(Ending::Shutdown) => self.fail(TurnCause::Interrupted(UNLOADED.into())),
            None => {}
        }
        if self.concluded || self.turn.is_settled() {
            self.signals.changed.notify_one();
        }
    }
}

/// What cut a turn whose session the CLI closed.
pub(super) const UNLOADED: &str = "the Copilot CLI unloaded the session";
