//! What the CLI tells of a session: taken in, noted, and told to its readers and to the turn that runs.

use std::sync::Arc;

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    gap::Gap,
    session::{Session, State, Stored},
};
use crate::{
    backend::LinkId,
    copilot::{
        AgentFailure, Event, answer,
        event::{self, Payload},
        failure,
    },
    jsonrpc::message,
    session::{
        cursor::Cursor,
        fanout::{Audience, Filter, Scope, Subscriber, Update},
        id::SessionId,
        turn::{Active, Outcome, Spent, TurnError},
    },
    store::Time,
};

impl Session {
    /// Takes in the parameters of a `session.event` of this session. False: they make no sense, or not before they are repaired.
    pub(in crate::session) fn hear(self: &Arc<Self>, kind: &str, params: &[u8]) -> bool {
        let (is_failure, is_wanted) = (kind == failure::CALL_FAILED, self.wants(kind));
        if !is_failure && !is_wanted {
            return true;
        }
        // What cannot be read is taken for what is not there: a rule would not see a command with half an emoji in it.
        if message::needs_repair(params) {
            return false;
        }
        if is_failure && let Some(failure) = AgentFailure::of_call(params) {
            self.lock().call_failed = Some(Box::new(failure));
        }
        if !is_wanted {
            return true;
        }
        // A provider may quote the key in its complaints, which are told to whoever uses the session.
        let redacted = may_quote_a_secret(kind)
            .then(|| self.blueprint().settings.redact(&String::from_utf8_lossy(params)));
        let event = event::parse(redacted.as_ref().map_or(params, String::as_bytes));
        let makes_sense = event.is_some();
        if let Some(event) = event {
            self.apply(&Arc::new(event));
        }
        makes_sense
    }

    /// An event of this kind was too large to be taken in: who wants it hears that something is missing.
    pub(in crate::session) fn missed(&self, kind: &str) {
        let state = self.lock();
        state.hub.cut_off(kind, state.audience(kind));
    }

    fn wants(&self, kind: &str) -> bool {
        let mut state = self.lock();
        state.last_heard = Instant::now();
        let needed = || state.current.as_deref().is_some_and(|current| current.needs(kind));
        let held = || kind == event::MODEL_MESSAGE && state.dedup.is_holding();
        event::is_needed(kind) || state.hub.wants(kind, state.audience(kind)) || needed() || held()
    }

    fn apply(self: &Arc<Self>, event: &Arc<Event>) {
        let mut state = self.lock();
        match &mut state.gap {
            Some(gap) => gap.hold(event.clone()),
            None => self.apply_to(&mut state, event),
        }
    }

    pub(in crate::session) fn apply_to(self: &Arc<Self>, state: &mut State, event: &Arc<Event>) {
        let (rest, event) = state.dedup.admit(event);
        for event in rest.into_iter().chain(event) {
            state.note(&event);
            match &event.payload {
                Payload::SessionModelChange(change) => self.model_changed(change),
                // It tells of the working directory or the title, or its folder is another one.
                Payload::SessionStart(_)
                | Payload::SessionTitleChanged(_)
                | Payload::SessionCompactionComplete(_)
                | Payload::SessionSnapshotRewind(_) => self.record_changed(),
                // A turn that is recorded before it is answered brings this along.
                Payload::SessionIdle(_) if !state.current.as_deref().is_some_and(Active::is_promised) => {
                    self.record_changed();
                }
                _ => {}
            }
            let warning = state.unstarted_server(&event);
            let was_waiting = state.asks.is_waiting();
            let todo = self.to_do(state, &event);
            let update = state.publish(self.id(), event, todo.is_asked());
            self.take_up(state, todo, &update);
            if let Some(current) = &mut state.current {
                current.hear(&update.event);
            }
            if state.asks.is_waiting() != was_waiting {
                state.changed();
            }
            if let Some(warning) = warning {
                state.warn(warning);
            }
            state.conclude();
        }
    }

    /// The link is gone. With a keeper link the agent goes on; without one the CLI ends what ran, and only a turn that waits
    /// for an answer it takes up again.
    pub(in crate::session) fn link_lost(&self, link: LinkId, problem: &str) {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|attached| attached.id() != link) {
            return;
        }
        state.unloaded();
        // A turn that has not been sent yet loses nothing: it is sent on the new link.
        if state.kept.is_some() && state.current.as_deref().is_some_and(Active::is_sent) {
            state.open_gap();
            if let Some(current) = &mut state.current {
                current.disconnected(problem);
            }
            return;
        }
        state.hub.link_lost();
        let survives = state.asks.outlive_link();
        if let Some(current) = &mut state.current {
            if survives && current.is_under_way() {
                current.disconnected(problem);
            } else {
                current.cut(problem);
            }
        }
        state.conclude();
    }
}

impl State {
    /// From now on it is not heard all that happens in the turn.
    pub(in crate::session) fn open_gap(&mut self) {
        let since = self.current.as_deref().map_or(self.last_event.as_str(), Active::since);
        self.gap = Some(Box::new(Gap::since(since)));
    }

    fn note(&mut self, event: &Event) {
        Spent::count(&mut self.spent, event);
        // The CLI's events are not strictly in the order of their times.
        if self.last_event < event.timestamp {
            self.last_event.clone_from(&event.timestamp);
        }
        // That somebody attached to it is no news of the conversation.
        let is_news = !matches!(event.payload, Payload::SessionResume(_));
        if is_news && !event.ephemeral && !event.timestamp.is_empty() {
            self.update_time =
                Time::parse(&event.timestamp).map_or(self.update_time, |time| time.max(self.update_time));
        }
        match &event.payload {
            Payload::SessionStart(start) => {
                if let Some(Started { context }) = start.read() {
                    self.working_directory = context.cwd;
                }
            }
            Payload::SessionTitleChanged(changed) => self.title.clone_from(&changed.title),
            Payload::SessionModeChanged(changed) => self.autopilot = changed.text("newMode") == "autopilot",
            Payload::AssistantTurnStart(_) if event.agent_id.is_none() => self.beginning = None,
            Payload::UserMessage(message) => {
                self.stored = self.stored.max(Stored::Perhaps);
                if event.agent_id.is_none() {
                    self.at_work_on = Some(message.message_id.as_deref().unwrap_or_default().into());
                }
            }
            Payload::SessionShutdown(_) => self.unloaded(),
            // The event that it names may be gone.
            Payload::SessionSnapshotRewind(_) => self.cursor = None,
            Payload::SessionIdle(_) => {
                self.beginning = None;
                self.at_work_on = None;
                self.dedup.at_rest();
                self.unstarted.clear();
                self.call_failed = None;
                if self.stored == Stored::Perhaps {
                    self.stored = Stored::Yes;
                }
            }
            _ => {}
        }
    }

    /// Those who hear of an event of this kind, if it is not for everybody.
    fn audience(&self, kind: &str) -> Audience {
        let running = self.current.as_deref().filter(|current| current.can_have(kind));
        Audience::Turn(running.map(Active::ticket))
    }

    /// Tells the readers of an event.
    fn publish(&mut self, session: &SessionId, event: Arc<Event>, asks: bool) -> Update {
        // A repeated system message is sent as a stored event, but is not stored (observed).
        if !event.ephemeral && !event.id.is_empty() && event.kind != "system.message" {
            self.cursor = Some(Cursor::after(session, &event.id));
        }
        let request = asks || answer::completed(&event.payload).is_some();
        let audience = if request { Audience::Everybody } else { self.audience(&event.kind) };
        let update = Update { asks, ..Update::new(event, self.cursor.clone()) };
        self.hub.publish(&update, audience);
        update
    }

    /// The warning that an MCP server does not start, if that is what the event says, and is news: the CLI tries some several
    /// times, one that wants a login for example (observed).
    fn unstarted_server(&mut self, event: &Arc<Event>) -> Option<Arc<Event>> {
        let Payload::SessionMcpServerStatusChanged(server) = &event.payload else { return None };
        let name = &server.server_name;
        let why = match (server.status.as_str(), server.error.as_deref()) {
            ("needs-auth", _) => "it wants a login",
            ("failed", None | Some("")) => "the Copilot CLI does not say why",
            ("failed", Some(why)) => why,
            _ => return None,
        };
        if self.unstarted.iter().any(|known| known == name) {
            return None;
        }
        self.unstarted.push(name.to_owned());
        let message = format!("the MCP server {name:?} did not start, and its tools are missing: {why}");
        let warning = event::Warning { warning_type: Some(UNSTARTED_SERVER.to_owned()), message };
        let payload = Payload::SessionWarning(warning);
        Some(Arc::new(Event { kind: "session.warning".into(), payload, ..Event::clone(event) }))
    }

    /// Tells of a warning of ours. It is for everybody: a server may not start before the agent has taken the prompt up.
    pub(super) fn warn(&self, warning: Arc<Event>) {
        self.hub.publish(&Update::new(warning, self.cursor.clone()), Audience::Everybody);
    }

    /// A request is about to be answered: only from now on is the agent's silence its own.
    pub(in crate::session) fn answering(&mut self) {
        self.last_heard = Instant::now();
        self.changed();
    }

    /// Whoever runs the turn has to look at it.
    fn changed(&self) {
        if let Some(current) = &self.current {
            current.signals().changed.notify_one();
        }
    }

    /// Tells how the running turn has ended, if it has and nobody was told.
    pub(in crate::session) fn conclude(&mut self) {
        let Some(current) = &mut self.current else { return };
        let Some(outcome) = current.take_outcome() else { return };
        let ticket = current.ticket();
        let outcome = match outcome {
            Ok(mut result) => {
                result.cursor.clone_from(&self.cursor);
                Ok(Arc::new(result))
            }
            Err(error) => Err(Arc::new(self.complete(error))),
        };
        self.asks.withdraw_all();
        self.hub.turn_ended(ticket, &outcome);
        if let Some(current) = self.current.as_mut().filter(|current| current.is_promised()) {
            current.told(outcome);
        }
    }

    /// Adds what the turn does not know.
    pub(in crate::session) fn complete(&self, mut error: TurnError) -> TurnError {
        error.remains.cursor.clone_from(&self.cursor);
        error.remains.open_asks = self.asks.ids();
        error
    }

    /// A reader, which first of all hears of the requests that are open.
    pub(in crate::session) fn subscribe(&mut self, scope: Scope, filter: Filter) -> Subscriber<Outcome> {
        let subscriber = self.hub.subscribe(scope, filter);
        self.asks.updates().for_each(|update| subscriber.push(update));
        subscriber
    }

    /// After the last stored event; `None` if the session was not loaded yet.
    pub(in crate::session) fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }
}

/// What a `session.start` says of where the agent works.
#[derive(Deserialize)]
struct Started {
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cwd: String,
}

/// The type of the warning that an MCP server does not start.
const UNSTARTED_SERVER: &str = "mcp_server_not_started";

/// Whether events of this kind may hold what a provider or an MCP server says. The agent's own words are left as they are.
pub(in crate::session) fn may_quote_a_secret(kind: &str) -> bool {
    const TOLD_BY_OTHERS: [&str; 4] =
        ["session.error", "session.warning", "session.mcp_server_status_changed", "subagent.failed"];
    let agents = event::is_known(kind) || kind == event::MODEL_MESSAGE;
    TOLD_BY_OTHERS.contains(&kind) || !agents
}
