//! The turn that has its session: what its callers are told of the state machine, and the signals to the task that runs it.
//!
//! | how far it is known how it ended | the agent has answered | it was checked | it was recorded | it failed |
//! |---|---|---|---|---|
//! | Open | Unchecked, if there is something to find out; else Unrecorded, if it is promised; else Known | | | Known |
//! | Unchecked | | Unrecorded, if it is promised; else Known | | Known |
//! | Unrecorded | | | Known | Known |
//! | Known | | | | |
//!
//! The first end that is Known counts, and is told once.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    machine::{Ending, Machine},
    outcome::{Delivery, Outcome, ToolCall, TurnCause, TurnError, TurnResult},
    queue::Ticket,
};
use crate::{
    copilot::{
        Event, Json, Schema,
        event::{self, FinishReason},
        method::FileChange,
        schema::Unfit,
    },
    store,
};

/// The turn that has its session.
#[derive(Debug)]
pub(in crate::session) struct Active {
    ticket: Ticket,
    /// When the latest event happened that was heard before it: all of its own are later, or of the same moment.
    since: String,
    turn: Machine,
    /// What its answer must look like.
    schema: Option<Schema>,
    /// Whether its CLI follows what its tools do to files.
    follows_files: bool,
    /// Whether what comes of it is recorded, so that it outlasts this process: an answer before its callers are told.
    promised: bool,
    end: End,
    /// What its callers were told, if it is promised.
    told: Option<Outcome>,
    /// Whether the CLI may have the prompt.
    sending: bool,
    /// Whether the CLI has closed the session under it.
    closed: bool,
    /// Set while it may go on on another connection than the one that it ran on.
    disconnected: Option<Disconnected>,
    /// Whether nothing more can come of it.
    gone: bool,
    signals: Signals,
}

/// How far it is known how a turn ended.
#[derive(Debug)]
enum End {
    /// Not at all.
    Open,
    /// The agent has answered, and there is still something to find out: see [`ToFinish`].
    Unchecked(Box<TurnResult>),
    /// The answer is still to be recorded.
    Unrecorded(Box<TurnResult>),
    /// It is known; with the outcome, until its callers are told.
    Known(Option<Box<Result<TurnResult, TurnError>>>),
}

/// A turn whose connection was lost.
#[derive(Debug)]
struct Disconnected {
    /// What broke it.
    problem: String,
    /// The tools that ran then.
    running_tools: Vec<ToolCall>,
}

/// What is to be found out of a turn that was answered.
#[derive(Debug)]
pub(in crate::session) struct ToFinish {
    /// Whether the answer is of the schema.
    pub(in crate::session) check: Option<(Schema, String)>,
    /// What has happened to files since this event.
    pub(in crate::session) files_since: Option<String>,
}

/// What the task that runs a turn listens to.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct Signals {
    /// Fires when there is progress to look at.
    pub(in crate::session) changed: Arc<Notify>,
    /// Cancelled when somebody asks for the turn's end.
    pub(in crate::session) abort: CancellationToken,
}

/// What the task that runs a turn has to know, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Progress {
    /// Whether it is known how it ended.
    pub(in crate::session) concluded: bool,
    /// Whether the next turn may start.
    pub(in crate::session) settled: bool,
    /// Whether the agent is at work on it, concluded or not.
    pub(in crate::session) agent_running: bool,
    /// Whether a tool runs.
    pub(in crate::session) tool_running: bool,
    /// Whether its prompt may wait in the CLI's queue.
    pub(in crate::session) queued: bool,
    /// Whether an answer of the session's callers is awaited. The session knows.
    pub(in crate::session) waiting: bool,
    /// Whether the connection was lost that it ran on, and it may go on on another.
    pub(in crate::session) disconnected: bool,
    /// Whether the CLI has closed the session, and it is not known why.
    pub(in crate::session) closed: bool,
}

impl Active {
    pub(in crate::session) fn new(
        ticket: Ticket,
        schema: Option<Schema>,
        follows_files: bool,
        promised: bool,
        since: String,
    ) -> Self {
        Self {
            ticket,
            since,
            turn: Machine::default(),
            schema,
            follows_files,
            promised,
            end: End::Open,
            told: None,
            sending: false,
            disconnected: None,
            closed: false,
            gone: false,
            signals: Signals::default(),
        }
    }

    /// What the CLI calls its message, once it has it.
    pub(in crate::session) fn message_id(&self) -> Option<&str> {
        self.turn.message_id()
    }

    pub(in crate::session) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// From when on there may be events of it.
    pub(in crate::session) fn since(&self) -> &str {
        &self.since
    }

    pub(in crate::session) fn signals(&self) -> &Signals {
        &self.signals
    }

    pub(in crate::session) fn progress(&self) -> Progress {
        Progress {
            concluded: self.is_known(),
            settled: self.gone || self.turn.is_settled(),
            agent_running: self.turn.is_running(),
            tool_running: self.turn.is_tool_running(),
            queued: self.is_queued(),
            waiting: false,
            disconnected: self.disconnected.is_some(),
            closed: self.closed && !self.is_known(),
        }
    }

    /// Something happened in the session.
    pub(in crate::session) fn hear(&mut self, event: &Arc<Event>) {
        // What comes before the prompt was sent belongs to what was before, and is no concern of the turn.
        if self.sending {
            let tool_was_running = self.turn.is_tool_running();
            let ending = self.turn.apply(event);
            self.advance(ending);
            if self.turn.is_tool_running() != tool_was_running {
                self.signals.changed.notify_one();
            }
        }
    }

    /// How it ended, once.
    pub(in crate::session) fn take_outcome(&mut self) -> Option<Result<TurnResult, TurnError>> {
        match &mut self.end {
            End::Known(outcome) => Some(*outcome.take()?),
            End::Open | End::Unchecked(_) | End::Unrecorded(_) => None,
        }
    }

    /// From here on the CLI may have the prompt.
    pub(in crate::session) fn sending(&mut self) {
        self.sending = true;
    }

    /// Whether the CLI may have the prompt.
    pub(in crate::session) fn is_sent(&self) -> bool {
        self.sending
    }

    /// Whether an event of this kind can be part of it now.
    pub(in crate::session) fn can_have(&self, kind: &str) -> bool {
        let agents = kind.starts_with("assistant.") || kind.starts_with("tool.") || kind == "session.idle";
        self.sending && !self.is_over() && (self.turn.is_taken_up() || !agents)
    }

    /// Whether events of this kind have to be heard though nobody reads them: the whole text of a part that was cut.
    pub(in crate::session) fn needs(&self, kind: &str) -> bool {
        kind == event::MODEL_MESSAGE && self.turn.is_cut()
    }

    /// The CLI surely does not have the prompt after all.
    pub(in crate::session) fn not_sent(&mut self) {
        self.sending = false;
    }

    /// The prompt was taken back from the CLI's queue: nothing will come of it.
    pub(in crate::session) fn withdrawn(&mut self, cause: TurnCause) {
        self.not_sent();
        self.fail(cause);
        self.gone = true;
        self.signals.changed.notify_one();
    }

    /// Its message's id, if it may wait in the CLI's queue.
    pub(in crate::session) fn queued_message(&self) -> Option<&str> {
        self.turn.message_id().filter(|_| self.is_queued())
    }

    fn is_queued(&self) -> bool {
        self.sending && !self.gone && self.turn.is_queued()
    }

    /// The CLI has the prompt.
    pub(in crate::session) fn accepted(&mut self, message_id: String) {
        let ending = self.turn.accepted(message_id);
        self.advance(ending);
    }

    /// Whether the CLI has the prompt will never be known.
    pub(in crate::session) fn unacknowledged(&mut self) {
        self.turn.unacknowledged();
    }

    /// The CLI says that the session does nothing.
    pub(in crate::session) fn found_idle(&mut self) {
        let ending = self.turn.found_idle();
        self.advance(ending);
    }

    /// Nothing runs any more. While the prompt is on its way, the call that carries it knows better whether it arrived.
    pub(in crate::session) fn cut(&mut self, problem: &str) {
        if self.is_answered() {
            // Its answer is whole.
            self.gone = true;
        } else if self.is_known() || !self.turn.is_sending() {
            self.fail(TurnCause::Interrupted(problem.to_owned()));
            self.gone = true;
            self.signals.changed.notify_one();
        }
    }

    /// The connection that it ran on is lost, but the CLI can take it up again.
    pub(in crate::session) fn disconnected(&mut self, problem: &str) {
        let running_tools = self.turn.remains().running_tools;
        self.disconnected = Some(Disconnected { problem: problem.to_owned(), running_tools });
        self.signals.changed.notify_one();
    }

    /// The CLI has taken it up again, or not.
    pub(in crate::session) fn reconnected(&mut self, goes_on: bool) {
        let Some(Disconnected { problem, mut running_tools }) = self.disconnected.take() else { return };
        if goes_on {
            return;
        }
        let is_news = !self.is_over();
        self.cut(&problem);
        // The CLI takes calls that it finds dangling for failed. What has become of them it does not know.
        if let End::Known(Some(outcome)) = &mut self.end
            && let Err(error) = &mut **outcome
            && is_news
        {
            running_tools.retain(|call| !self.turn.has_succeeded(&call.id));
            error.remains.running_tools = running_tools;
        }
    }

    /// Another prompt is sent into it. False: it is too late, or too early.
    pub(in crate::session) fn steer(&mut self) -> bool {
        !self.is_over()
            && self.disconnected.is_none()
            && !self.signals.abort.is_cancelled()
            && self.turn.steer()
    }

    /// What came of a prompt that was sent into it.
    pub(in crate::session) fn steered(&mut self, message_id: Option<String>) {
        let ending = self.turn.steered(message_id);
        self.advance(ending);
    }

    /// Whether the agent may go on with it unheard, once its task has ended: it never came to rest.
    pub(in crate::session) fn is_abandoned(&self) -> bool {
        self.sending && !self.turn.is_settled()
    }

    /// Whether the agent may be at work on it, so that a session which is loaded now is to go on with it.
    pub(in crate::session) fn is_under_way(&self) -> bool {
        self.turn.is_running()
    }

    /// Whether it is the turn with this id, if one is named.
    pub(in crate::session) fn is_turn(&self, message_id: Option<&str>) -> bool {
        message_id.is_none_or(|id| self.turn.message_id() == Some(id))
    }

    /// Asks for its end. `None`: it is at rest already. The id is empty while the prompt is on its way.
    pub(in crate::session) fn abort(&self) -> Option<String> {
        if self.is_over() && (self.gone || !self.turn.is_running()) {
            return None;
        }
        self.signals.abort.cancel();
        Some(self.turn.message_id().unwrap_or_default().to_owned())
    }

    /// It has failed, unless it is known how it ended.
    pub(in crate::session) fn fail(&mut self, cause: TurnCause) {
        let error = self.error(cause);
        self.conclude(Err(error));
    }

    /// It has failed, unless the agent is through.
    pub(in crate::session) fn fail_unless_through(&mut self, cause: TurnCause) {
        if matches!(self.end, End::Open) {
            self.fail(cause);
        }
    }

    /// What a failure would be now.
    pub(in crate::session) fn error(&self, cause: TurnCause) -> TurnError {
        let delivery = match &cause {
            // Also where it was taken back.
            _ if !self.sending => Delivery::NotDelivered,
            _ if self.turn.message_id().is_some() => Delivery::Delivered,
            TurnCause::Backend(error) if !error.may_have_been_delivered() => Delivery::NotDelivered,
            _ => Delivery::Unknown,
        };
        let cause = match cause {
            // The model is through: it is the store that is late.
            TurnCause::Timeout(_) if self.to_record().is_some() => TurnCause::Store(store::Error::late()),
            cause => cause,
        };
        TurnError { cause, delivery, remains: self.turn.remains() }
    }

    fn answered(&mut self) {
        if self.is_known() {
            return;
        }
        let result = Box::new(self.turn.result());
        // Not here: it may take its time, and this is under the session's lock.
        if self.schema.is_some() || self.files_since().is_some() {
            self.end = End::Unchecked(result);
        } else {
            self.checked(result);
        }
    }

    fn files_since(&self) -> Option<&str> {
        self.turn.files_since().filter(|_| self.follows_files)
    }

    /// What is to be found out before its callers are told what came of it.
    pub(in crate::session) fn to_finish(&self) -> Option<ToFinish> {
        let End::Unchecked(result) = &self.end else { return None };
        Some(ToFinish {
            check: self.schema.clone().map(|schema| (schema, result.content.clone())),
            files_since: self.files_since().map(str::to_owned),
        })
    }

    /// It was found out: whether the answer is of the schema, and what has happened to files.
    pub(in crate::session) fn finished(
        &mut self,
        answer: Option<Result<Json, Unfit>>,
        files: Vec<FileChange>,
    ) {
        let mut result = match std::mem::replace(&mut self.end, End::Open) {
            End::Unchecked(result) => result,
            end => {
                self.end = end;
                return;
            }
        };
        result.files_changed = files;
        match answer.transpose() {
            Ok(json) => {
                result.structured = json;
                self.checked(result);
            }
            Err(unfit) => {
                let why = result.finish_reason.and_then(why_cut).unwrap_or_default();
                self.fail(TurnCause::Mismatch(format!("{unfit}{why}")));
            }
        }
    }

    fn checked(&mut self, result: Box<TurnResult>) {
        if self.promised {
            self.end = End::Unrecorded(result);
        } else {
            self.conclude(Ok(*result));
        }
    }

    fn is_known(&self) -> bool {
        matches!(self.end, End::Known(_))
    }

    /// Whether what comes of it is recorded.
    pub(in crate::session) fn is_promised(&self) -> bool {
        self.promised
    }

    /// What is to be recorded before its callers are told.
    pub(in crate::session) fn to_record(&self) -> Option<&TurnResult> {
        match &self.end {
            End::Unrecorded(result) => Some(result),
            End::Open | End::Unchecked(_) | End::Known(_) => None,
        }
    }

    /// It was recorded, or could not be.
    pub(in crate::session) fn recorded(&mut self, recorded: Result<(), TurnCause>) {
        match (recorded, std::mem::replace(&mut self.end, End::Open)) {
            (Ok(()), End::Unrecorded(result)) => self.conclude(Ok(*result)),
            (Err(cause), End::Unrecorded(_)) => self.fail(cause),
            (_, end) => self.end = end,
        }
    }

    /// Its callers were told this.
    pub(in crate::session) fn told(&mut self, outcome: Outcome) {
        self.told = Some(outcome);
    }

    /// What its callers were told, if it is promised.
    pub(in crate::session) fn take_told(&mut self) -> Option<Outcome> {
        self.told.take()
    }

    /// Whether it has an answer, of which its callers have not been told yet.
    fn is_answered(&self) -> bool {
        matches!(self.end, End::Unchecked(_) | End::Unrecorded(_))
    }

    /// Whether the agent has nothing more to do with it.
    fn is_over(&self) -> bool {
        !matches!(self.end, End::Open) || self.closed
    }

    fn conclude(&mut self, outcome: Result<TurnResult, TurnError>) {
        if !self.is_known() {
            self.end = End::Known(Some(Box::new(outcome)));
        }
    }

    fn advance(&mut self, ending: Option<Ending>) {
        match ending {
            Some(Ending::Answered) => self.answered(),
            Some(Ending::Failed(failure)) => self.fail(TurnCause::Agent(failure)),
            Some(Ending::Aborted) => self.fail(TurnCause::Aborted),
            Some(Ending::Shutdown) => self.closed = true,
            None => {}
        }
        if self.is_over() || self.turn.is_settled() {
            self.signals.changed.notify_one();
        }
    }
}

/// What an answer that is not whole is told with.
fn why_cut(reason: FinishReason) -> Option<&'static str> {
    match reason {
        FinishReason::Length => Some("; the answer was cut by the model's output limit"),
        FinishReason::ContentFilter => Some("; the answer was cut by a content filter"),
        FinishReason::Refusal => Some("; the model refused"),
        FinishReason::Stop | FinishReason::ToolOnly | FinishReason::Other => None,
    }
}

/// What cut a turn whose session the CLI closed.
pub(in crate::session) const UNLOADED: &str = "the Copilot CLI unloaded the session";

#[cfg(test)]
mod tests;
