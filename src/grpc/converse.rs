//! Converse: prompts, answers and aborts up, events and results down, on one stream.
//!
//! The stream of responses owns everything: the watcher of the session, and the turns of its prompts. When it is dropped, all
//! of them end. Nothing is read from the caller while the caller does not read, so nothing piles up.
//!
//! Tests: `tests/integration/converse.rs`.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{
    Stream, StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::{self, FuturesUnordered},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    access::Access,
    convert::{self, Checks, MAX_EVENT_SIZE},
    heartbeat::Pulse,
    pb::{self, converse_request::Payload as Up, converse_response::Payload as Down},
    status::{self, about},
    streamed::{ConverseResponse, Streamed},
};
use crate::session::{
    Caller, Deadline, Error, Outcome, SessionKey, Sessions, Ticket, Watch, Watched, fanout::Filter,
};

/// A stream of Converse.
pub(super) struct Conversation {
    sessions: Sessions,
    /// The caller's requests, until it has closed its side.
    requests: Option<Streaming<pb::ConverseRequest>>,
    access: Access,
    /// The caller, if another server forwards its stream.
    caller: Option<Arc<Caller>>,
    deadline: Option<Deadline>,
    turn_timeout: Duration,
    max_message_size: usize,
    draining: CancellationToken,
    /// The session and its turns, from the first message on.
    open: Option<Open>,
    /// Responses that are to be sent next.
    responses: VecDeque<Down>,
}

struct Open {
    key: SessionKey,
    watch: Watch,
    turns: Turns,
    /// The timer of heartbeats, if there are to be some.
    pulse: Option<Pulse>,
    max_event_size: usize,
}

/// The turns of the stream's prompts.
#[derive(Default)]
struct Turns {
    next: u64,
    waiting: Vec<Waiting>,
    /// Futures that resolve with the outcome of a turn, at the caller's deadline at the latest.
    outcomes: FuturesUnordered<BoxFuture<'static, (u64, Outcome)>>,
}

struct Waiting {
    number: u64,
    ticket: Ticket,
    prompt_id: String,
}

fn down(payload: Down) -> pb::ConverseResponse {
    pb::ConverseResponse { payload: Some(payload) }
}

/// What the stream has to do next.
enum Next {
    Request(Result<Option<pb::ConverseRequest>, Status>),
    Watched(Watched),
    /// A turn of this stream has an outcome.
    Outcome(u64, Outcome),
    /// Nothing was sent for a while.
    Silence,
    Draining,
}

impl Conversation {
    pub(super) fn new(
        sessions: Sessions,
        requests: Streaming<pb::ConverseRequest>,
        access: Access,
        caller: Option<Arc<Caller>>,
        deadline: Option<Deadline>,
        turn_timeout: Duration,
        max_message_size: usize,
    ) -> Self {
        let draining = sessions.draining();
        Self {
            sessions,
            requests: Some(requests),
            access,
            caller,
            deadline,
            turn_timeout,
            max_message_size,
            draining,
            open: None,
            responses: VecDeque::new(),
        }
    }

    /// The stream of responses.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<ConverseResponse, Status>> {
        stream::unfold(Some(self), |conversation| async {
            let mut conversation = conversation?;
            let next = conversation.next().await;
            conversation.sent();
            match next {
                Ok(None) => None,
                Ok(Some(response)) => Some((Ok(response), Some(conversation))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ConverseResponse>, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(Streamed::Message(down(response))));
            }
            if self.requests.is_none() && self.open.as_ref().is_none_or(|open| open.turns.waiting.is_empty())
            {
                return Ok(None);
            }
            match self.wait().await {
                Next::Request(Ok(Some(request))) => self.receive(request).await?,
                Next::Request(Ok(None)) => self.requests = None,
                // tonic's own error about a message that it cannot read; on a stream no layer sees it.
                Next::Request(Err(status)) => {
                    return Err(status::of_transport(&status, self.max_message_size).unwrap_or(status));
                }
                Next::Watched(Watched::Update(update)) => {
                    let max_size = self.open.as_ref().map_or(MAX_EVENT_SIZE, |open| open.max_event_size);
                    return Ok(Some(Streamed::event(update, max_size, |event| down(Down::Event(event)))));
                }
                Next::Watched(Watched::TurnEnded(ticket, outcome)) => {
                    self.push_outcome(|waiting| waiting.ticket == ticket, &outcome);
                }
                Next::Watched(Watched::Ended(error)) => return Err(status::of(&error)),
                Next::Watched(Watched::Lagged(cursor)) => return Err(status::lagged(cursor.as_ref())),
                Next::Outcome(number, outcome) => {
                    self.push_outcome(|waiting| waiting.number == number, &outcome);
                }
                Next::Silence => self.responses.push_back(Down::Heartbeat(pb::Heartbeat {})),
                Next::Draining => return Err(status::of(&Error::Draining)),
            }
        }
    }

    async fn wait(&mut self) -> Next {
        let Self { requests, open, draining, .. } = self;
        let request = async {
            match requests {
                Some(requests) => requests.message().await,
                None => pending().await,
            }
        };
        let Some(Open { watch, turns, pulse, .. }) = open else {
            return tokio::select! {
                biased;
                request = request => Next::Request(request),
                () = draining.cancelled() => Next::Draining,
            };
        };
        let idle = turns.waiting.is_empty();
        let silence = poll_fn(|cx| match pulse {
            Some(pulse) => pulse.poll_silence(cx),
            None => Poll::Pending,
        });
        tokio::select! {
            // The caller first: an answer or an abort must not wait behind thousands of events. Events before outcomes: a
            // turn's outcome comes after the last of them.
            biased;
            request = request => Next::Request(request),
            watched = watch.next() => Next::Watched(watched),
            Some((number, outcome)) = turns.outcomes.next() => Next::Outcome(number, outcome),
            () = draining.cancelled(), if idle => Next::Draining,
            () = silence => Next::Silence,
        }
    }

    /// Records that a response is sent, which puts the next heartbeat off.
    fn sent(&mut self) {
        if let Some(pulse) = self.open.as_mut().and_then(|open| open.pulse.as_mut()) {
            pulse.sent();
        }
    }

    async fn receive(&mut self, request: pb::ConverseRequest) -> Result<(), Status> {
        match (request.payload, &mut self.open) {
            (Some(Up::Open(request)), None) => self.open(request).await,
            (Some(Up::Prompt(request)), Some(_)) => {
                self.prompt(request).await;
                Ok(())
            }
            (Some(Up::Answer(request)), Some(_)) => {
                self.answer(request).await;
                Ok(())
            }
            (Some(Up::Abort(pb::ConverseAbort { message_id })), Some(open)) => {
                let only = Some(message_id.as_str()).filter(|id| !id.is_empty());
                let abort = self.sessions.abort(&open.key, only);
                let aborted = about(&self.sessions, &open.key, abort).await;
                self.push_failure(String::new(), String::new(), aborted.map(|_| ()));
                Ok(())
            }
            (Some(Up::Open(_)), Some(_)) => Err(out_of_place("open", "comes only once, and first")),
            (Some(_), None) => Err(out_of_place("open", "is required first")),
            (None, _) => Err(out_of_place("payload", "is required: open, prompt, answer or abort")),
        }
    }

    async fn open(&mut self, request: pb::ConverseOpen) -> Result<(), Status> {
        let mut checks = Checks::default();
        let id = checks.session_id_in("open.session_id", &request.session_id);
        let filter = checks.filter("open.event_types", request.event_types, request.exclude_sub_agents);
        let interval = checks.heartbeat("open.heartbeat_interval", request.heartbeat_interval);
        let max_event_size =
            checks.max_event_size("open.max_event_size", request.max_event_size, MAX_EVENT_SIZE);
        let from = checks.parse_from("open.cursor", id.as_ref(), &request.cursor);
        let id = checks.done(id).map_err(status::invalid)?;
        // When the server drains, the stream's turns finish first, so it is not the watcher that ends the stream.
        let never = CancellationToken::new();
        let key = self.access.session(&self.sessions, id).await.map_err(|error| status::of(&error))?;
        let watch = self.sessions.watch(&key, from, filter, never);
        let watch = about(&self.sessions, &key, watch).await?;
        let session = Some(convert::session(watch.session()));
        self.responses.push_back(Down::Opened(pb::ConverseOpened { session }));
        let (pulse, turns) = (interval.map(Pulse::new), Turns::default());
        self.open = Some(Open { key, watch, turns, pulse, max_event_size });
        Ok(())
    }

    async fn prompt(&mut self, request: pb::ConversePrompt) {
        let Some(open) = &mut self.open else { return };
        let pb::ConversePrompt { prompt_id, prompt } = request;
        let sent = async {
            let mut checks = Checks::default();
            let deadline = |timeout: Option<Duration>| {
                let own = Deadline::after(timeout.unwrap_or(self.turn_timeout));
                self.deadline.map_or(own, |call| own.earlier(call))
            };
            let prompt = checks.prompt(prompt, Filter::NOTHING, deadline);
            let mut prompt = checks.done(prompt).map_err(status::invalid)?;
            prompt.caller = self.caller.clone();
            about(&self.sessions, &open.key, self.sessions.send(&open.key, prompt)).await
        };
        match sent.await {
            Ok(mut turn) => {
                let number = open.turns.next;
                open.turns.next += 1;
                open.turns.waiting.push(Waiting { number, ticket: turn.ticket(), prompt_id });
                open.turns.outcomes.push(async move { (number, turn.outcome().await) }.boxed());
            }
            Err(status) => self.push_failure(prompt_id, String::new(), Err(status)),
        }
    }

    async fn answer(&mut self, request: pb::ConverseAnswer) {
        let Some(key) = self.open.as_ref().map(|open| open.key.clone()) else { return };
        let pb::ConverseAnswer { ask_id, answer } = request;
        let answered = async {
            let mut checks = Checks::default();
            let ask_id = checks.text("ask_id", ask_id.clone());
            let response = checks.answer(answer);
            let response = checks.done(response).map_err(status::invalid)?;
            about(&self.sessions, &key, self.sessions.respond(&key, &ask_id, response)).await
        };
        let answered = answered.await;
        self.push_failure(String::new(), ask_id, answered);
    }

    /// Queues the outcome of a turn for each prompt that waits for it.
    fn push_outcome(&mut self, of: impl Fn(&Waiting) -> bool, outcome: &Outcome) {
        let Some(Open { turns, .. }) = &mut self.open else { return };
        for Waiting { prompt_id, .. } in turns.waiting.extract_if(.., |waiting| of(waiting)) {
            self.responses.push_back(match outcome {
                Ok(result) => {
                    let result = Some(convert::turn_result(result));
                    Down::Result(pb::ConverseResult { prompt_id, result })
                }
                Err(error) => failure(prompt_id, String::new(), &status::of_turn(error)),
            });
        }
    }

    fn push_failure(&mut self, prompt_id: String, ask_id: String, result: Result<(), Status>) {
        if let Err(status) = result {
            self.responses.push_back(failure(prompt_id, ask_id, &status));
        }
    }
}

fn failure(prompt_id: String, ask_id: String, status: &Status) -> Down {
    Down::Failure(convert::failure(prompt_id, ask_id, status::reason(status), status))
}

fn out_of_place(field: &str, advice: &str) -> Status {
    let mut checks = Checks::default();
    checks.wrong(field, advice);
    match checks.done(None::<()>) {
        Err(violations) => status::invalid(violations),
        Ok(()) => Status::internal("nothing is wrong"),
    }
}
