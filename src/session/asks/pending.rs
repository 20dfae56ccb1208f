//! What the agent waits for its callers to answer, in one session. Pure: who is first, who is late.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::{
    copilot::{Answer, RequestKind, answer, event::Payload},
    session::{
        error::{Error, Settlement},
        fanout::Update,
        id::SessionId,
    },
};

/// How many requests are remembered after they are over, to tell those who are late what came of them.
const MAX_SETTLED: usize = 64;

/// The requests of a session.
#[derive(Debug, Default)]
pub(in crate::session) struct Asks {
    open: Vec<Open>,
    settled: VecDeque<(String, Settlement)>,
    /// How many answers are on their way to the CLI, of requests that outlive the link.
    giving: usize,
}

/// A request that nobody has answered.
#[derive(Debug)]
struct Open {
    id: String,
    kind: RequestKind,
    /// The event that told of it, for readers that come later.
    update: Update,
    /// To the task that gives the answer to the CLI.
    answer: oneshot::Sender<Answered>,
}

/// An answer, and who wants to know what came of it.
#[derive(Debug)]
pub(in crate::session) struct Answered {
    pub(in crate::session) answer: Answer,
    pub(in crate::session) told: oneshot::Sender<Result<(), Error>>,
}

impl Asks {
    /// The agent waits for an answer. The receiver gets it; it fails if the request is withdrawn. `None`: it is known.
    pub(in crate::session) fn open(&mut self, update: &Update) -> Option<oneshot::Receiver<Answered>> {
        let (kind, id) = answer::requested(&update.event.payload)?;
        if self.open.iter().any(|open| open.id == id) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        self.open.push(Open { id: id.to_owned(), kind, update: update.clone(), answer });
        Some(answered)
    }

    /// Answers a request: the first answer counts. The receiver hears what the CLI says to it.
    pub(in crate::session) fn answer(
        &mut self,
        session: &SessionId,
        id: &str,
        answer: Answer,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let Some(at) = self.open.iter().position(|open| open.id == id) else {
            return Err(self.missed(session, id));
        };
        let kind = self.open[at].kind;
        if kind != answer.kind() {
            return Err(Error::WrongAnswer { ask: id.to_owned(), kind });
        }
        let answer = answer::fitting(&self.open[at].update.event.payload, answer)
            .map_err(|problem| Error::BadAnswer { ask: id.to_owned(), problem })?;
        let (told, answered) = oneshot::channel();
        let open = self.open.remove(at);
        // It fails if the task has just given up waiting; then `told` is dropped, and that is the answer.
        let sent = open.answer.send(Answered { answer, told }).is_ok();
        self.giving += usize::from(sent && outlives_link(kind));
        self.remember(open.id, Settlement::Answered);
        Ok(answered)
    }

    /// An answer to a request of this kind has come to the CLI, or could not.
    pub(in crate::session) fn given(&mut self, kind: RequestKind) {
        self.giving = self.giving.saturating_sub(usize::from(outlives_link(kind)));
    }

    /// It is over without an answer of ours. False: it was over already.
    pub(in crate::session) fn settle(&mut self, id: &str, settlement: Settlement) -> bool {
        let Some(at) = self.open.iter().position(|open| open.id == id) else { return false };
        let open = self.open.remove(at);
        self.remember(open.id, settlement);
        true
    }

    /// The connection to the CLI is lost, and with it questions; permissions and calls of tools the CLI takes up again
    /// with the session (observed). Says whether there are some of these.
    pub(in crate::session) fn outlive_link(&mut self) -> bool {
        let lost: Vec<_> = self.open.extract_if(.., |open| !outlives_link(open.kind)).collect();
        for open in lost {
            self.remember(open.id, Settlement::Withdrawn);
        }
        self.are_unsettled()
    }

    /// Whether the CLI may wait for an answer, be it one that is on its way.
    pub(in crate::session) fn are_unsettled(&self) -> bool {
        self.is_waiting() || self.giving > 0
    }

    /// No caller is there any more who could run a tool.
    pub(in crate::session) fn fail_tools(&mut self, failure: impl Fn(&str) -> Answer) {
        for open in self.open.extract_if(.., |open| open.kind == RequestKind::ToolCall).collect::<Vec<_>>() {
            let name = match &open.update.event.payload {
                Payload::ExternalToolRequested(call) => call.tool_name.as_str(),
                _ => "",
            };
            // Nobody waits to hear of it.
            let (told, _) = oneshot::channel();
            let sent = open.answer.send(Answered { answer: failure(name), told }).is_ok();
            self.giving += usize::from(sent);
            self.remember(open.id, Settlement::Withdrawn);
        }
    }

    /// Nobody waits for any of them.
    pub(in crate::session) fn withdraw_all(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.remember(open.id, Settlement::Withdrawn);
        }
    }

    /// What came of a request that is not open.
    pub(in crate::session) fn missed(&self, session: &SessionId, id: &str) -> Error {
        match self.settled.iter().rev().find(|(settled, _)| settled == id) {
            Some((_, settlement)) => Error::AskSettled { ask: id.to_owned(), settlement: *settlement },
            None => Error::NoSuchAsk { session: session.clone(), ask: id.to_owned() },
        }
    }

    /// Whether the agent waits for anything.
    pub(in crate::session) fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// What an open one asks for.
    pub(in crate::session) fn payload(&self, id: &str) -> Option<&Payload> {
        self.open.iter().find(|open| open.id == id).map(|open| &open.update.event.payload)
    }

    /// The open ones' ids, oldest first.
    pub(in crate::session) fn ids(&self) -> Vec<String> {
        self.open.iter().map(|open| open.id.clone()).collect()
    }

    /// The events that told of the open ones, oldest first.
    pub(in crate::session) fn updates(&self) -> impl Iterator<Item = &Update> {
        self.open.iter().map(|open| &open.update)
    }

    fn remember(&mut self, id: String, settlement: Settlement) {
        if self.settled.len() == MAX_SETTLED {
            self.settled.pop_front();
        }
        self.settled.push_back((id, settlement));
    }
}

/// Whether the CLI takes a request of this kind up again with its session (observed).
fn outlives_link(kind: RequestKind) -> bool {
    matches!(kind, RequestKind::Permission | RequestKind::ToolCall)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::copilot::{
        answer::{Decision, UserInput},
        event,
    };

    fn update(kind: &str, data: &serde_json::Value) -> Update {
        let event = json!({"id": "e", "type": kind, "timestamp": "", "data": data});
        let event = event::parse_stored(&event.to_string()).unwrap();
        Update { asks: true, ..Update::new(Arc::new(event), None) }
    }

    fn permission(id: &str) -> Update {
        update("permission.requested", &json!({"requestId": id, "permissionRequest": {"kind": "shell"}}))
    }

    fn session() -> SessionId {
        SessionId::parse("s").unwrap()
    }

    const YES: Answer = Answer::Permission(Decision::ApproveOnce);

    fn refusal(result: Result<oneshot::Receiver<Result<(), Error>>, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_first_answer_counts_and_a_late_one_is_told_what_came_of_it() {
        let mut asks = Asks::default();
        let answered = asks.open(&permission("r")).unwrap();
        assert!(asks.is_waiting() && asks.updates().count() == 1);
        let told = asks.answer(&session(), "r", YES).unwrap();
        let Answered { answer, told: tell } = answered.await.unwrap();
        assert_eq!(answer, YES);
        tell.send(Ok(())).unwrap();
        assert!(told.await.unwrap().is_ok() && !asks.is_waiting());
        assert!(refusal(asks.answer(&session(), "r", YES)).contains("answered by another caller"));
        assert!(refusal(asks.answer(&session(), "x", YES)).contains("no open ask x"));
    }

    #[tokio::test]
    async fn what_timed_out_or_was_withdrawn_cannot_be_answered() {
        let mut asks = Asks::default();
        let mut open = |id| asks.open(&permission(id)).unwrap();
        let (late, gone) = (open("late"), open("gone"));
        assert!(asks.settle("late", Settlement::TimedOut) && !asks.settle("late", Settlement::TimedOut));
        asks.withdraw_all();
        assert!(late.await.is_err() && gone.await.is_err());
        assert!(refusal(asks.answer(&session(), "late", YES)).contains("in time"));
        assert!(refusal(asks.answer(&session(), "gone", YES)).contains("any more"));
    }

    #[test]
    fn an_answer_has_to_be_of_the_requests_kind_and_form() {
        let mut asks = Asks::default();
        let _permission = asks.open(&permission("p"));
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let form = json!({"requestId": "f", "message": "n?", "requestedSchema": schema});
        let _form = asks.open(&update("elicitation.requested", &form));
        let input = Answer::UserInput(UserInput::none());
        assert!(matches!(
            asks.answer(&session(), "p", input),
            Err(Error::WrongAnswer { kind: RequestKind::Permission, .. })
        ));
        let accept = |content| Answer::Elicitation(answer::Elicited::Accept { content });
        let result = asks.answer(&session(), "f", accept(None));
        assert!(matches!(result, Err(Error::BadAnswer { .. })), "{result:?}");
        for (filled_in, is_right) in
            [(json!({}), false), (json!({"n": "three"}), false), (json!({"n": 3}), true)]
        {
            let answer = accept(Some(filled_in.into()));
            let (schema, content) = answer::form(asks.payload("f").unwrap(), &answer).unwrap();
            assert_eq!(answer::check_form(schema, content).is_ok(), is_right, "{content:?}");
        }
        assert!(asks.answer(&session(), "f", accept(Some(json!({"n": 3}).into()))).is_ok());
        assert!(asks.is_waiting());
    }

    #[test]
    fn an_answer_that_is_on_its_way_lets_the_turn_outlive_the_link() {
        let mut asks = Asks::default();
        let _answered = asks.open(&permission("p")).unwrap();
        let _told = asks.answer(&session(), "p", YES).unwrap();
        assert!(!asks.is_waiting() && asks.outlive_link());
        asks.given(RequestKind::Permission);
        assert!(!asks.outlive_link());
    }

    #[test]
    fn a_request_that_is_told_of_twice_is_one() {
        let mut asks = Asks::default();
        assert!(asks.open(&permission("r")).is_some() && asks.open(&permission("r")).is_none());
    }

    #[test]
    fn not_more_than_some_are_remembered() {
        let mut asks = Asks::default();
        for n in 0..MAX_SETTLED + 1 {
            let _answered = asks.open(&permission(&n.to_string()));
            asks.settle(&n.to_string(), Settlement::TimedOut);
        }
        assert!(refusal(asks.answer(&session(), "0", YES)).contains("no open ask 0"));
        assert!(refusal(asks.answer(&session(), "1", YES)).contains("in time"));
    }
}
