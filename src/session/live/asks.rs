//! What the CLI asks: decided by the session's policy, or put to its callers, and answered in any case. Without an answer
//! the turn would wait for ever.
//!
//! Each open request has a task that waits for whichever comes first: a caller's answer, the end of the time for it, or the
//! end of the request.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::sleep};
use tracing::{debug, warn};

use super::session::{Session, State};
use crate::{
    backend::{self, Link},
    copilot::{
        Answer, Event, Json, Rejection,
        answer::{
            self, AnswerAutoModeSwitch, AnswerCommand, AnswerElicitation, AnswerExitPlan,
            AnswerLimitsExhausted, AnswerMcpHeaders, AnswerMcpLogin, AnswerPermission, AnswerToolCall,
            AnswerUserInput, Decision, Handled, LimitsExhausted, McpRefusal, Refusal, RefuseSampling,
            ToolResult, check_form, completed, form, is_intelligible, requested,
        },
        event::{Payload, PermissionRequested},
    },
    session::{
        asks::Answered,
        blueprint::{DEFAULT_ASK_TIMEOUT, Effect},
        error::{Error, Settlement},
        fanout::Update,
        turn::{Active, schema},
    },
};

/// How long a caller may be away until its tools fail: long enough to connect again.
const RETURN: Duration = Duration::from_secs(3);

/// How long after a session was loaded the CLI may still be taking up what it asked before.
const TAKE_UP: Duration = Duration::from_secs(3);

/// The pause before an answer is given again meanwhile.
const TAKE_UP_PAUSE: Duration = Duration::from_millis(50);

/// What an event makes us do.
#[derive(Debug)]
pub(in crate::session) enum ToDo {
    Nothing,
    /// Ask the callers.
    Ask,
    /// Answer ourselves.
    Answer(Answer),
    /// Refuse what callers are not asked, or cannot be.
    Refuse(Refusal),
    /// A request is over.
    Forget,
}

impl ToDo {
    /// Whether the event is a request that waits for the callers.
    pub(in crate::session) fn is_asked(&self) -> bool {
        matches!(self, Self::Ask)
    }
}

/// What a caller answers, and whether it is to hold for all requests of the same kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The answer.
    pub answer: Answer,
    /// Whether what was approved is not to be asked for again.
    pub for_session: bool,
}

impl Session {
    /// What an event makes us do.
    pub(in crate::session) fn to_do(&self, state: &State, event: &Event) -> ToDo {
        match &event.payload {
            // It is decided already, and only told.
            Payload::PermissionRequested(request) if request.resolved_by_hook => ToDo::Nothing,
            Payload::PermissionRequested(request) if is_intelligible(&event.payload) => {
                self.permission(state, request)
            }
            payload if is_intelligible(payload) => ToDo::Ask,
            payload if completed(payload).is_some() => ToDo::Forget,
            _ => answer::refusal(&event.kind).map_or(ToDo::Nothing, ToDo::Refuse),
        }
    }

    fn permission(&self, state: &State, request: &PermissionRequested) -> ToDo {
        let blueprint = self.blueprint();
        let ceiling = blueprint.profile.as_ref().and_then(|profile| profile.policy.as_ref());
        let effect = match blueprint.policy.within(ceiling, &request.kind(), &request.subject()) {
            Effect::Ask if state.approvals.cover(request) => Effect::Allow,
            effect => effect,
        };
        match effect {
            Effect::Allow => ToDo::Answer(Answer::Permission(Decision::ApproveOnce)),
            Effect::Ask => ToDo::Ask,
            Effect::Deny => {
                let feedback = format!("the session's policy does not allow {:?}", request.kind());
                ToDo::Answer(Answer::Permission(Decision::Reject { feedback }))
            }
        }
    }

    /// Does it.
    pub(in crate::session) fn take_up(self: &Arc<Self>, state: &mut State, todo: ToDo, update: &Update) {
        match todo {
            ToDo::Nothing => {}
            ToDo::Ask => self.ask(state, update),
            ToDo::Answer(answer) => {
                let Some((_, id)) = requested(&update.event.payload) else { return };
                self.answer_by_itself(id.to_owned(), answer);
            }
            ToDo::Refuse(refusal) => self.refuse(state, refusal, &update.event.payload),
            ToDo::Forget => {
                if let Some(id) = completed(&update.event.payload) {
                    state.asks.settle(id, Settlement::Withdrawn);
                }
            }
        }
    }

    /// Puts a request to the callers. One of a turn that another server runs is that one's, unless somebody reads here.
    fn ask(self: &Arc<Self>, state: &mut State, update: &Update) {
        if state.current.is_none() && !state.hub.is_heard(None) {
            return;
        }
        let Some(answered) = state.asks.open(update) else { return };
        let session = self.clone();
        let event = update.event.clone();
        self.tasks().spawn(async move { session.wait_for_answer(&event.payload, answered).await });
        self.mind_the_unheard(state);
    }

    async fn wait_for_answer(self: &Arc<Self>, request: &Payload, mut answered: oneshot::Receiver<Answered>) {
        let Some((kind, id)) = requested(request) else { return };
        let patience = self.patience(request);
        let answered = tokio::select! {
            biased;
            answered = &mut answered => answered,
            () = sleep(patience) => {
                let unanswered = {
                    let mut state = self.lock();
                    state.answering();
                    state.asks.settle(id, Settlement::TimedOut)
                };
                if unanswered {
                    debug!(session = %self.id(), ?kind, ?patience, "nobody has answered a request");
                    let reason = format!("nobody answered within {patience:.0?}");
                    self.give_and_log(id, &Answer::refusal(kind, reason)).await;
                    return;
                }
                // Somebody answered at the last moment.
                answered.await
            }
        };
        // Withdrawn: the agent does not wait for it any more.
        let Ok(Answered { answer, told }) = answered else { return };
        // Who answered may have gone; the agent gets the answer all the same.
        let _ = told.send(self.give(id, &answer).await);
        self.lock().asks.given(kind);
    }

    /// How long a request waits for its answer.
    fn patience(&self, request: &Payload) -> Duration {
        let blueprint = self.blueprint();
        let tool = match request {
            Payload::ExternalToolRequested(call) => {
                blueprint.settings.tools.iter().find(|tool| tool.name == call.tool_name)
            }
            _ => None,
        };
        let own = tool.and_then(|tool| tool.timeout);
        own.or(blueprint.ask_timeout).unwrap_or(DEFAULT_ASK_TIMEOUT)
    }

    fn answer_by_itself(self: &Arc<Self>, id: String, answer: Answer) {
        let session = self.clone();
        self.tasks().spawn(async move { session.give_and_log(&id, &answer).await });
    }

    async fn give_and_log(self: &Arc<Self>, id: &str, answer: &Answer) {
        match self.give(id, answer).await {
            // Another client of the CLI was faster, or the turn was stopped.
            Ok(()) | Err(Error::AskSettled { .. }) => {}
            Err(error) => warn!(session = %self.id(), %error, "a request could not be answered"),
        }
    }

    /// Gives the CLI an answer.
    async fn give(self: &Arc<Self>, request_id: &str, answer: &Answer) -> Result<(), Error> {
        let mut was_lost = false;
        loop {
            match self.give_once(request_id, answer).await {
                Err(Error::Backend(backend::Error::Lost { .. })) if !was_lost => was_lost = true,
                // The CLI takes it up again with the session, and is not always there yet (seen at load).
                Err(Error::AskSettled { .. }) if self.was_just_loaded() => sleep(TAKE_UP_PAUSE).await,
                // If it is not there any more, this answer has arrived after all.
                Err(Error::AskSettled { .. }) if was_lost => return Ok(()),
                given => return given,
            }
        }
    }

    fn was_just_loaded(&self) -> bool {
        self.lock().loaded_at.is_some_and(|moment| moment.elapsed() < TAKE_UP)
    }

    async fn give_once(self: &Arc<Self>, request_id: &str, answer: &Answer) -> Result<(), Error> {
        let session_id = self.cli_id();
        let link = self.reach().await.map_err(|cause| self.not_loaded(cause))?;
        let done = match answer {
            Answer::Permission(result) => {
                self.call(&link, &AnswerPermission { session_id, request_id, result }).await
            }
            Answer::ToolResult(result) => {
                self.call(&link, &AnswerToolCall { session_id, request_id, result }).await
            }
            Answer::UserInput(response) => {
                self.call(&link, &AnswerUserInput { session_id, request_id, response }).await
            }
            Answer::Elicitation(result) => {
                self.call(&link, &AnswerElicitation { session_id, request_id, result }).await
            }
            Answer::ExitPlan(response) => {
                self.call(&link, &AnswerExitPlan { session_id, request_id, response }).await
            }
        };
        let withdrawn =
            || Error::AskSettled { ask: request_id.to_owned(), settlement: Settlement::Withdrawn };
        match done {
            Ok(Handled { success: true }) => Ok(()),
            Ok(Handled { success: false }) => Err(withdrawn()),
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => Err(withdrawn()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a request at once: the agent would wait for an answer that nobody can give.
    fn refuse(self: &Arc<Self>, state: &State, refusal: Refusal, request: &Payload) {
        let id = match request {
            // Of what cannot be read as what it is, only this may be known.
            Payload::Other(data) => data.text("requestId"),
            request => request.request_id().unwrap_or_default(),
        };
        if id.is_empty() {
            return warn!(session = %self.id(), ?refusal, "a request has no id that can be read, and cannot be refused");
        }
        // What another client's turn asks for is that client's.
        let is_theirs =
            state.current.is_none() && !matches!(refusal, Refusal::Sampling | Refusal::MoreCredits);
        if is_theirs {
            return;
        }
        match refusal {
            Refusal::Unintelligible(kind) => {
                warn!(session = %self.id(), ?kind, "a request does not say what it asks for, and is refused");
            }
            refusal => debug!(session = %self.id(), ?refusal, "a request is refused"),
        }
        let Some(link) = state.link.clone() else { return };
        let (session, id) = (self.clone(), id.into_owned());
        self.tasks().spawn(async move {
            if let Err(error) = session.give_refusal(&link, &id, refusal).await {
                warn!(session = %session.id(), ?refusal, %error, "a request could not be refused");
            }
        });
    }

    async fn give_refusal(
        self: &Arc<Self>,
        link: &Link,
        request_id: &str,
        refusal: Refusal,
    ) -> Result<(), backend::Error> {
        let session_id = self.cli_id();
        let refused = match refusal {
            Refusal::Unintelligible(kind) => {
                self.give_and_log(request_id, &Answer::refusal(kind, UNINTELLIGIBLE.to_owned())).await;
                return Ok(());
            }
            Refusal::Sampling => self.call(link, &RefuseSampling { session_id, request_id }).await,
            Refusal::MoreCredits => {
                let response = &LimitsExhausted::Cancel;
                self.call(link, &AnswerLimitsExhausted { session_id, request_id, response }).await
            }
            Refusal::AutoModeSwitch => {
                self.call(link, &AnswerAutoModeSwitch { session_id, request_id, response: "no" }).await
            }
            Refusal::McpLogin => {
                let result = &McpRefusal::Cancelled;
                self.call(link, &AnswerMcpLogin { session_id, request_id, result }).await
            }
            Refusal::McpHeaders => {
                let result = &McpRefusal::None;
                self.call(link, &AnswerMcpHeaders { session_id, request_id, result }).await
            }
            Refusal::Command => {
                self.call(link, &AnswerCommand { session_id, request_id, error: NO_COMMANDS }).await
            }
        };
        refused.map(|_| ())
    }
}

/// What the agent is told of a request that says nothing.
const UNINTELLIGIBLE: &str = "the request could not be read: it does not say what it asks for";

/// What the agent is told of a command that a client is to carry out.
const NO_COMMANDS: &str = "no client of this session carries out commands";

/// What callers say.
impl Session {
    /// Answers an open request: the first answer counts. Returns when the CLI has it.
    ///
    /// # Cancel safety
    /// Once polled, the answer is given whether anybody waits for it or not.
    pub(in crate::session) async fn respond(
        self: &Arc<Self>,
        id: &str,
        response: Response,
    ) -> Result<(), Error> {
        let missed = || Err(self.lock().asks.missed(self.id(), id));
        let told = match self.form(id, &response.answer) {
            None => self.answer(id, response)?,
            Some((schema, content)) => {
                let (session, request) = (self.clone(), id.to_owned());
                let checked = self.tasks().spawn(async move {
                    schema::run(move || check_form(&schema, &content)).await.map_err(|unfit| {
                        Error::BadAnswer { ask: request.clone(), problem: unfit.to_string() }
                    })?;
                    session.answer(&request, response)
                });
                let Ok(told) = checked.await else { return missed() };
                told?
            }
        };
        match told.await {
            Ok(told) => told,
            Err(_) => missed(),
        }
    }

    /// What an answer to an open request is to be checked with.
    fn form(&self, id: &str, answer: &Answer) -> Option<(Json, Json)> {
        let state = self.lock();
        let (schema, content) = form(state.asks.payload(id)?, answer)?;
        Some((schema.clone(), content.clone()))
    }

    /// Answers an open request. The receiver hears what the CLI says to it.
    fn answer(&self, id: &str, response: Response) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let mut state = self.lock();
        let approved = response.for_session.then(|| state.asks.payload(id).cloned()).flatten();
        let told = state.asks.answer(self.id(), id, response.answer)?;
        state.answering();
        if let Some(Payload::PermissionRequested(request)) = approved {
            state.approvals.add(&request);
        }
        Ok(told)
    }

    /// A caller or a reader has gone: if it was the last one, nobody is left to run the tools that are called.
    pub(in crate::session) fn left(self: &Arc<Self>) {
        self.mind_the_unheard(&self.lock());
    }

    fn mind_the_unheard(self: &Arc<Self>, state: &State) {
        if !state.is_unheard() {
            return;
        }
        let session = self.clone();
        self.tasks().spawn(async move {
            sleep(RETURN).await;
            let mut state = session.lock();
            if state.is_unheard() {
                state.fail_tools();
            }
        });
    }
}

impl State {
    /// Whether answers are awaited, and nobody is there to give them.
    fn is_unheard(&self) -> bool {
        let ticket = self.current.as_deref().map(Active::ticket);
        self.asks.is_waiting() && !self.hub.is_heard(ticket)
    }

    fn fail_tools(&mut self) {
        self.answering();
        self.asks.fail_tools(|name| {
            let reason = format!("the tool {name:?} was not run: its caller has gone");
            Answer::ToolResult(ToolResult::failure(reason))
        });
    }
}
