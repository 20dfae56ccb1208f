//! One turn: a prompt, and all that the agent does to answer it. A pure state machine over the session's events.
//!
//! A turn is known by the message id that `session.send` returned. Its answer is the last message of the main agent that refers
//! to this id, with the parts that it was cut into. It ends with a `session.error` that refers to it, or with a `session.idle`
//! after its `user.message` was seen: an idle that comes earlier belongs to whatever ran before.
//!
//! The answer to `session.send` is not ordered against events (cli-protocol.md, trap 1), so events that come before it
//! are kept until the id is known.
//!
//! | phase | the CLI takes the prompt | its `user.message` | `session.error` | `session.idle` | `session.shutdown` | the CLI says that it is idle |
//! |---|---|---|---|---|---|---|
//! | Sending | Queued, and what came early is applied | kept | kept | kept | Settled: Shutdown | |
//! | Queued | | Running | Settling: Failed | of what ran before; after an `abort` Settled: Aborted | Settled: Shutdown | Settled: Aborted |
//! | Running | | | Settling: Failed | Settled: Answered, Failed or Aborted | Settled: Shutdown | Settled: Answered or Failed |
//! | Settling | | noted | | Settled | Settled | Settled |
//!
//! A `session.error` that names no message fails the turn only if no answer follows. Where other prompts were sent into the turn,
//! its idle is that after the last of them. A prompt that is never acknowledged leads from Sending to Settling.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use super::{
    outcome::{Remains, ToolCall, TurnResult, Usage},
    writing::Writing,
};
use crate::copilot::{
    AgentFailure, Event, Json,
    event::{self, Payload},
    failure::AgentCause,
};

/// How many events may come before the answer to `session.send`. A CLI that sends more has lost that answer.
const MAX_EARLY_EVENTS: usize = 10_000;

/// How many bytes of the tools' arguments are remembered for the result of a turn: clients read messages of 4 MiB.
pub const MAX_ARGUMENTS: usize = 2 * 1024 * 1024;

/// How many tool calls of a turn are remembered.
const MAX_TOOL_CALLS: usize = 1_000;

/// A turn that is being sent, is running, or has ended and waits for the session to come to rest.
#[derive(Debug, Default)]
pub struct Machine {
    phase: Phase,
    message_id: Option<String>,
    /// Whether an `abort` was seen, which may come before the `user.message`.
    aborting: bool,
    /// Whether the agent said that it does not go on by itself.
    autopilot_stopped: bool,
    steering: Steering,
    writing: Writing,
    /// An error that did not say which message it is about: it counts if no answer follows.
    loose_failure: Option<AgentFailure>,
    usage: Usage,
    tool_calls: Vec<ToolCall>,
    /// How many bytes their arguments have.
    arguments: usize,
    /// Whether any tool has run, those of sub-agents included.
    tools_ran: bool,
    /// The event of its prompt.
    prompt_event: Option<String>,
    last_event: Option<Cow<'static, str>>,
}

#[derive(Debug)]
enum Phase {
    /// The prompt is on its way; its id is not known yet.
    Sending {
        early: VecDeque<Arc<Event>>,
        /// Whether a `user.message` was seen that may be its own.
        perhaps_taken_up: bool,
    },
    /// The CLI has the prompt, and the agent has not taken it up.
    Queued,
    /// The agent has taken it up: its `user.message` was seen.
    Running,
    /// The outcome is known, and the `session.idle` that belongs to it has not come.
    Settling {
        /// Whether the agent goes on regardless, and has to be stopped.
        at_work: bool,
        /// Whether the agent has taken the prompt up.
        taken_up: bool,
    },
    /// The session is at rest.
    Settled,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Sending { early: VecDeque::new(), perhaps_taken_up: false }
    }
}

/// Prompts that were sent into the running turn, which runs them; there is one `session.idle` for all (observed).
#[derive(Debug, Default)]
struct Steering {
    /// How many are on their way.
    on_their_way: usize,
    /// The ids of those that the CLI has, and whether the agent took them up.
    accepted: Vec<(String, bool)>,
    /// Prompts that the agent took up while some were on their way: they may be these.
    taken_up: Vec<String>,
    /// Whether the session came to rest while one was awaited.
    rested: bool,
}

impl Steering {
    fn accepted(&mut self, id: String) {
        let taken_up = self.taken_up.contains(&id);
        self.accepted.push((id, taken_up));
    }

    /// The agent took a prompt up.
    fn taken_up(&mut self, id: &str) {
        match self.accepted.iter_mut().find(|(accepted, _)| accepted == id) {
            Some((_, taken_up)) => *taken_up = true,
            None if self.on_their_way > 0 => self.taken_up.push(id.to_owned()),
            None => {}
        }
    }

    fn has(&self, id: &str) -> bool {
        self.accepted.iter().any(|(accepted, _)| accepted == id) || self.taken_up.iter().any(|it| it == id)
    }

    /// Whether the agent has yet to take one up.
    fn is_awaited(&self) -> bool {
        self.on_their_way > 0 || self.accepted.iter().any(|(_, taken_up)| !taken_up)
    }
}

/// How the agent ended a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It has answered.
    Answered,
    /// It has failed.
    Failed(AgentFailure),
    /// It was stopped.
    Aborted,
    /// The CLI unloaded the session.
    Shutdown,
}

impl Machine {
    /// The CLI took the prompt, and gave it this id.
    ///
    /// Returns how the turn ended, if the events that came earlier say so.
    pub fn accepted(&mut self, message_id: String) -> Option<Ending> {
        self.message_id = Some(message_id);
        let Phase::Sending { early, .. } = &mut self.phase else { return None };
        let early = std::mem::take(early);
        self.phase = Phase::Queued;
        // All of them: events after the one that ended the turn settle it.
        early.iter().fold(None, |ending, event| self.advance(event).or(ending))
    }

    /// Whether the CLI took the prompt will never be known: if it did, the agent is at work on it.
    pub fn unacknowledged(&mut self) {
        if let Phase::Sending { .. } = self.phase {
            self.phase = Phase::Settling { at_work: true, taken_up: false };
        }
    }

    /// Another prompt is sent into it, as long as it runs. False: it is too late.
    pub fn steer(&mut self) -> bool {
        let running = matches!(self.phase, Phase::Queued | Phase::Running);
        self.steering.on_their_way += usize::from(running);
        running
    }

    /// What came of a prompt that was sent into it: its id, if the CLI took it.
    ///
    /// Returns how the turn ended, if the events that came earlier say so.
    pub fn steered(&mut self, message_id: Option<String>) -> Option<Ending> {
        self.steering.on_their_way -= 1;
        if let Some(id) = message_id {
            self.steering.accepted(id);
        }
        if self.steering.rested && !self.steering.is_awaited() { self.rest(false) } else { None }
    }

    /// Something happened in the session. Returns how the turn ended, once, with the event that ended it.
    pub fn apply(&mut self, event: &Arc<Event>) -> Option<Ending> {
        self.last_event = Some(event.kind.clone());
        match &mut self.phase {
            Phase::Sending { early, perhaps_taken_up } => {
                match event.payload {
                    Payload::SessionShutdown(_) => return self.end(Ending::Shutdown),
                    Payload::UserMessage(_) if event.agent_id.is_none() => *perhaps_taken_up = true,
                    _ => {}
                }
                if early.len() == MAX_EARLY_EVENTS {
                    self.phase = Phase::Settling { at_work: true, taken_up: false };
                    return Some(Ending::Failed(AgentFailure::other(
                        "the Copilot CLI sent events of a turn without acknowledging its prompt",
                    )));
                }
                early.push_back(event.clone());
                None
            }
            Phase::Queued | Phase::Running | Phase::Settling { .. } | Phase::Settled => self.advance(event),
        }
    }

    /// The session is doing nothing, the CLI says, although the turn has not ended: its `session.idle` was lost.
    pub fn found_idle(&mut self) -> Option<Ending> {
        match self.phase {
            Phase::Sending { .. } => None,
            // It has left the CLI's queue without having been taken up: somebody has taken it out.
            Phase::Queued if self.was_passed_over() => {
                self.phase = Phase::Settled;
                Some(Ending::Aborted)
            }
            Phase::Queued | Phase::Running => {
                let ending = self.resting_place(false, "the agent stopped without an answer");
                self.phase = Phase::Settled;
                Some(ending)
            }
            Phase::Settling { .. } | Phase::Settled => {
                self.phase = Phase::Settled;
                None
            }
        }
    }

    /// Whether nothing tells that the agent has ever seen the prompt, which is queued.
    fn was_passed_over(&self) -> bool {
        let said = self.writing.spoke() || self.writing.answer().is_some();
        !said && self.loose_failure.is_none()
    }

    /// Whether the next turn may start: nothing that still comes from the CLI belongs to this one.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled)
    }

    /// Whether the agent is, or may be, at work on it.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Queued | Phase::Running | Phase::Settling { at_work: true, .. })
    }

    /// Whether the agent has taken the prompt up: what it says before belongs to what ran before, a turn that was cut or that
    /// another server sent.
    pub fn is_taken_up(&self) -> bool {
        self.has_begun() || matches!(self.phase, Phase::Sending { perhaps_taken_up: true, .. })
    }

    /// Whether the CLI has the prompt and the agent has not taken it up: it may wait in the CLI's queue, behind what another
    /// client of the CLI has running, or behind a compaction.
    pub fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued | Phase::Settling { taken_up: false, .. })
            && self.message_id.is_some()
    }

    /// Whether the agent is known to have taken the prompt up.
    fn has_begun(&self) -> bool {
        match self.phase {
            Phase::Sending { .. } | Phase::Queued => false,
            Phase::Running | Phase::Settled => true,
            Phase::Settling { taken_up, .. } => taken_up,
        }
    }

    /// Whether the prompt is on its way.
    pub fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Sending { .. })
    }

    /// The turn's id, once it is known.
    pub fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    /// Whether a part of its answer was cut, of which the whole text may come.
    pub fn is_cut(&self) -> bool {
        self.writing.is_cut()
    }

    /// Whether a tool is running, so that silence is no sign of death.
    pub fn is_tool_running(&self) -> bool {
        self.tool_calls.iter().any(|call| call.success.is_none())
    }

    /// Whether this call of a tool has succeeded.
    pub fn has_succeeded(&self, call: &str) -> bool {
        self.tool_calls.iter().any(|other| other.id == call && other.success == Some(true))
    }

    /// The event of its prompt, since which its tools may have changed files; `None`: none has run.
    pub fn files_since(&self) -> Option<&str> {
        self.prompt_event.as_deref().filter(|_| self.tools_ran)
    }

    /// What came of it, if it was answered.
    pub fn result(&self) -> TurnResult {
        let answer = self.writing.answer();
        TurnResult {
            message_id: self.message_id.clone().unwrap_or_default(),
            content: answer.map(|answer| answer.content.clone()).unwrap_or_default(),
            finish_reason: self.writing.finish_reason(!self.tool_calls.is_empty()),
            model: answer.and_then(|answer| answer.model.clone()),
            usage: self.usage,
            tool_calls: self.tool_calls.clone(),
            structured: None,
            files_changed: Vec::new(),
            cursor: None,
        }
    }

    /// What there is of it, if it was not.
    pub fn remains(&self) -> Remains {
        Remains {
            message_id: self.message_id.clone(),
            partial: self.writing.so_far(),
            last_event: self.last_event.clone().map(Cow::into_owned),
            usage: self.usage,
            running_tools: self.tool_calls.iter().filter(|call| call.success.is_none()).cloned().collect(),
            open_asks: Vec::new(),
            cursor: None,
        }
    }

    fn advance(&mut self, event: &Event) -> Option<Ending> {
        match &event.payload {
            Payload::ToolExecutionComplete(_) if self.has_begun() && event.agent_id.is_some() => {
                self.tools_ran = true;
            }
            Payload::AssistantUsage(usage) if self.has_begun() => {
                self.usage.add(usage);
                if event.agent_id.is_none() {
                    self.writing.model_call(usage);
                }
            }
            _ if event.agent_id.is_some() => {}
            Payload::SessionShutdown(_) => return self.end(Ending::Shutdown),
            Payload::UserMessage(message) => self.user_message(&event.id, message),
            Payload::AssistantMessage(message) => self.assistant_message(message),
            Payload::AssistantMessageDelta(delta) if self.has_begun() => self.writing.delta(delta),
            Payload::AssistantTurnEnd(_) if self.has_begun() => self.writing.round_ended(),
            Payload::Other(_) if event.kind == event::MODEL_MESSAGE => self.cut_part(event),
            Payload::ToolExecutionStart(tool) if self.has_begun() => self.tool_started(tool),
            Payload::ToolExecutionComplete(tool) => self.tool_ended(tool),
            Payload::Abort(_) => self.aborting = true,
            Payload::SessionTaskComplete(done) => self.task_complete(done),
            Payload::SessionAutopilotStopped(_) => self.autopilot_stopped = true,
            Payload::SessionError(error) => return self.error(error),
            Payload::SessionIdle(idle) => return self.idle(idle),
            _ => {}
        }
        None
    }

    fn is_mine(&self, message_id: Option<&String>) -> bool {
        // CLIs before 1.0.86 do not say; turns run one at a time, so it is ours.
        message_id.is_none_or(|id| self.message_id.as_ref() == Some(id) || self.steering.has(id))
    }

    fn user_message(&mut self, event_id: &str, message: &event::UserMessage) {
        self.steering.rested = false;
        if let Some(id) = &message.message_id {
            self.steering.taken_up(id);
        }
        self.writing.prompted();
        if self.is_mine(message.message_id.as_ref()) {
            match &mut self.phase {
                Phase::Queued => self.phase = Phase::Running,
                Phase::Settling { taken_up, .. } => *taken_up = true,
                Phase::Sending { .. } | Phase::Running | Phase::Settled => {}
            }
            self.prompt_event.get_or_insert_with(|| event_id.to_owned());
        }
    }

    /// In mode "autopilot" the agent says at its end what it has done.
    fn task_complete(&mut self, done: &Json) {
        let is_answer = self.writing.summary(&done.text("summary"));
        self.answered(is_answer);
    }

    fn assistant_message(&mut self, message: &event::AssistantMessage) {
        if self.is_mine(message.originating_message_id.as_ref()) {
            let is_answer = self.writing.message(message);
            self.answered(is_answer);
        }
    }

    fn answered(&mut self, is_answer: bool) {
        if is_answer {
            self.loose_failure = None;
        }
    }

    fn cut_part(&mut self, event: &Event) {
        if let Some(text) = event::model_message(event) {
            self.writing.cut_part(&text);
        }
    }

    fn tool_started(&mut self, tool: &event::ToolStart) {
        // A call that waited for a permission while the connection was lost starts again (observed).
        let started =
            self.tool_calls.iter().any(|call| call.id == tool.tool_call_id && call.success.is_none());
        if self.tool_calls.len() < MAX_TOOL_CALLS && !started {
            let room = MAX_ARGUMENTS - self.arguments;
            let arguments = Some(&tool.arguments).filter(|json| json.as_str().len() <= room);
            self.arguments += arguments.map_or(0, |json| json.as_str().len());
            self.tool_calls.push(ToolCall {
                id: tool.tool_call_id.clone(),
                name: tool.tool_name.clone(),
                arguments: arguments.cloned(),
                success: None,
            });
        }
    }

    fn tool_ended(&mut self, tool: &event::ToolComplete) {
        self.tools_ran |= self.has_begun();
        if let Some(call) = self.tool_calls.iter_mut().rev().find(|call| call.id == tool.tool_call_id) {
            call.success = Some(tool.success);
        }
    }

    fn error(&mut self, error: &event::SessionError) -> Option<Ending> {
        let mut failure = AgentFailure::from(error);
        if failure.message.is_empty() {
            failure.message = "the Copilot CLI does not say why the turn failed".into();
        }
        match &error.originating_message_id {
            Some(id) if self.is_mine(Some(id)) => self.end(Ending::Failed(failure)),
            Some(_) => None,
            None if self.writing.added_nothing() => None,
            // What cannot be stored cannot come to rest either: no `session.idle` comes, but more of these (observed).
            None if failure.cause == AgentCause::Storage => self.end(Ending::Failed(failure)),
            None => {
                self.loose_failure = Some(failure);
                None
            }
        }
    }

    fn idle(&mut self, idle: &event::Idle) -> Option<Ending> {
        // In this mode the agent may go on by itself, unless it said that it does not: 1.0.102 sends a single idle, at the
        // end, and other versions one a lap. If it is the end all the same, the CLI says so when it is asked.
        if idle.mode.as_deref() == Some("autopilot") && !idle.aborted && !self.autopilot_stopped {
            return None;
        }
        if !idle.aborted && self.steering.is_awaited() {
            self.steering.rested = true;
            return None;
        }
        self.rest(idle.aborted)
    }

    /// The session has come to rest.
    fn rest(&mut self, aborted: bool) -> Option<Ending> {
        match self.phase {
            // Left over from what ran before us: where somebody stops a turn before it starts, an `abort` comes first.
            Phase::Queued if !self.aborting && self.loose_failure.is_none() => None,
            Phase::Queued | Phase::Running => {
                let ending = self.resting_place(aborted, "the agent ended the turn without an answer");
                self.phase = Phase::Settled;
                Some(ending)
            }
            Phase::Sending { .. } | Phase::Settling { .. } | Phase::Settled => {
                self.phase = Phase::Settled;
                None
            }
        }
    }

    /// How a turn has ended when the session has come to rest.
    fn resting_place(&mut self, aborted: bool, without_answer: &str) -> Ending {
        match self.loose_failure.take() {
            // The CLI sends an `abort` only where there was something to stop.
            _ if aborted || self.aborting => Ending::Aborted,
            Some(failure) => Ending::Failed(failure),
            None if self.writing.spoke() || self.writing.answer().is_some() => Ending::Answered,
            None => Ending::Failed(AgentFailure::other(without_answer)),
        }
    }

    fn end(&mut self, ending: Ending) -> Option<Ending> {
        match self.phase {
            Phase::Sending { .. } | Phase::Queued | Phase::Running => {
                let (gone, taken_up) = (ending == Ending::Shutdown, self.has_begun());
                self.phase = if gone { Phase::Settled } else { Phase::Settling { at_work: false, taken_up } };
                Some(ending)
            }
            Phase::Settling { .. } if ending == Ending::Shutdown => {
                self.phase = Phase::Settled;
                None
            }
            Phase::Settling { .. } | Phase::Settled => None,
        }
    }
}

#[cfg(test)]
mod tests;
