//! Converse: prompts, answers and aborts up, events and results down, on one stream.
//!
//! The stream of responses owns everything: the watcher of the session, and the turns of its prompts. When it is dropped, all
//! ends with it. Nothing is read from the caller while the caller does not read, so nothing piles up.

use std::{collections::VecDeque, future::pending, time::Duration};

use futures_util::{
    Stream, StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::{self, FuturesUnordered},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    convert::{self, Checks},
    pb::{self, converse_request::Payload as Up, converse_response::Payload as Down},
    service::about,
    status,
    streamed::{ConverseResponse, Streamed},
};
use crate::session::{
    Deadline, Error, From, Outcome, SessionId, Sessions, Tenant, Ticket, Watch, Watched, hub::Filter,
};

/// A stream of Converse.
pub(super) struct Conversation {
    sessions: Sessions,
    /// What the caller says, until it has closed its side.
    requests: Option<Streaming<pb::ConverseRequest>>,
    deadline: Option<Deadline>,
    turn_timeout: Duration,
    max_message_size: usize,
    draining: CancellationToken,
    /// From the first message on.
    open: Option<Open>,
    /// What is to be said next.
    responses: VecDeque<Down>,
}

struct Open {
    id: SessionId,
    watch: Watch,
    turns: Turns,
}

/// The turns of the stream's prompts.
#[derive(Default)]
struct Turns {
    next: u64,
    waiting: Vec<Waiting>,
    /// They end with the turns, or when the caller wants to hear.
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

/// What there is to do.
enum Next {
    Say(Result<Option<pb::ConverseRequest>, Status>),
    Watched(Watched),
    /// A turn of the stream's has an outcome.
    Outcome(u64, Outcome),
    Draining,
}

impl Conversation {
    pub(super) fn new(
        sessions: Sessions,
        requests: Streaming<pb::ConverseRequest>,
        deadline: Option<Deadline>,
        turn_timeout: Duration,
        max_message_size: usize,
    ) -> Self {
        let draining = sessions.draining();
        Self {
            sessions,
            requests: Some(requests),
            deadline,
            turn_timeout,
            max_message_size,
            draining,
            open: None,
            responses: VecDeque::new(),
        }
    }

    /// The responses.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<ConverseResponse, Status>> {
        stream::unfold(Some(self), |conversation| async {
            let mut conversation = conversation?;
            match conversation.next().await {
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
                Next::Say(Ok(Some(request))) => self.hear(request).await?,
                Next::Say(Ok(None)) => self.requests = None,
                // What tonic says about a message that it cannot read; on a stream no layer sees it.
                Next::Say(Err(status)) => {
                    return Err(status::of_transport(&status, self.max_message_size).unwrap_or(status));
                }
                Next::Watched(Watched::Update(update)) => {
                    return Ok(Some(Streamed::event(update, |event| down(Down::Event(event)))));
                }
                Next::Watched(Watched::TurnEnded(ticket, outcome)) => {
                    self.tell(|waiting| waiting.ticket == ticket, &outcome);
                }
                Next::Watched(Watched::Ended(error)) => return Err(status::of(&error)),
                Next::Watched(Watched::Lagged(cursor)) => return Err(status::lagged(cursor.as_ref())),
                Next::Outcome(number, outcome) => self.tell(|waiting| waiting.number == number, &outcome),
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
        let Some(Open { watch, turns, .. }) = open else {
            return tokio::select! {
                biased;
                request = request => Next::Say(request),
                () = draining.cancelled() => Next::Draining,
            };
        };
        let idle = turns.waiting.is_empty();
        tokio::select! {
            // The caller first: an answer or an abort is not to wait behind thousands of events. Events before outcomes: a
            // turn's outcome comes after the last of them.
            biased;
            request = request => Next::Say(request),
            watched = watch.next() => Next::Watched(watched),
            Some((number, outcome)) = turns.outcomes.next() => Next::Outcome(number, outcome),
            () = draining.cancelled(), if idle => Next::Draining,
        }
    }

    async fn hear(&mut self, request: pb::ConverseRequest) -> Result<(), Status> {
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
            (Some(Up::Abort(_)), Some(open)) => {
                let aborted =
                    about(&self.sessions, &open.id, self.sessions.abort(Tenant::ONLY, &open.id)).await;
                self.say_failure(String::new(), String::new(), aborted.map(|_| ()));
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
        let filter = checks.filter(request.event_types, request.exclude_sub_agents);
        let id = checks.done(id).map_err(status::invalid)?;
        // Its turns are finished first when the server drains, so it is not the watcher that ends.
        let never = CancellationToken::new();
        let watch = self.sessions.watch(Tenant::ONLY, &id, From::Now, filter, never);
        let watch = about(&self.sessions, &id, watch).await?;
        let session = Some(convert::session(watch.session()));
        self.responses.push_back(Down::Opened(pb::ConverseOpened { session }));
        self.open = Some(Open { id, watch, turns: Turns::default() });
        Ok(())
    }

    async fn prompt(&mut self, request: pb::ConversePrompt) {
        let Some(open) = &mut self.open else { return };
        let prompt_id = request.prompt_id.clone();
        let sent = async {
            let mut checks = Checks::default();
            let deadline = |timeout: Option<Duration>| {
                let own = Deadline::after(timeout.unwrap_or(self.turn_timeout));
                self.deadline.map_or(own, |call| own.earlier(call))
            };
            let request = send_request(request, &open.id);
            let (id, prompt) = checks.prompt(request, Filter::NOTHING, deadline);
            let id = checks.done(id).map_err(status::invalid)?;
            about(&self.sessions, &id, self.sessions.send(Tenant::ONLY, &id, prompt)).await
        };
        match sent.await {
            Ok(turn) => {
                let number = open.turns.next;
                open.turns.next += 1;
                open.turns.waiting.push(Waiting { number, ticket: turn.ticket(), prompt_id });
                open.turns.outcomes.push(turn.outcome().map(move |outcome| (number, outcome)).boxed());
            }
            Err(status) => self.say_failure(prompt_id, String::new(), Err(status)),
        }
    }

    async fn answer(&mut self, request: pb::ConverseAnswer) {
        let Some(id) = self.open.as_ref().map(|open| open.id.clone()) else { return };
        let pb::ConverseAnswer { request_id, answer } = request;
        let answered = async {
            let mut checks = Checks::default();
            let request_id = checks.text("answer.request_id", request_id.clone());
            let response = checks.answer(answer);
            let response = checks.done(response).map_err(status::invalid)?;
            about(&self.sessions, &id, self.sessions.respond(Tenant::ONLY, &id, &request_id, response)).await
        };
        let answered = answered.await;
        self.say_failure(String::new(), request_id, answered);
    }

    /// Tells what came of prompts that wait for it.
    fn tell(&mut self, of: impl Fn(&Waiting) -> bool, outcome: &Outcome) {
        let Some(Open { turns, .. }) = &mut self.open else { return };
        for Waiting { prompt_id, .. } in turns.waiting.extract_if(.., |waiting| of(waiting)) {
            self.responses.push_back(match outcome {
                Ok(result) => {
                    let result = Some(convert::turn_result(result));
                    Down::Result(pb::ConverseResult { prompt_id, result })
                }
                Err(error) => {
                    Down::Failure(convert::failure(prompt_id, String::new(), &status::of_turn(error)))
                }
            });
        }
    }

    fn say_failure(&mut self, prompt_id: String, request_id: String, result: Result<(), Status>) {
        if let Err(status) = result {
            self.responses.push_back(Down::Failure(convert::failure(prompt_id, request_id, &status)));
        }
    }
}

fn out_of_place(field: &str, advice: &str) -> Status {
    let mut checks = Checks::default();
    checks.wrong(field, advice);
    match checks.done(None::<()>) {
        Err(violations) => status::invalid(violations),
        Ok(()) => Status::internal("nothing is wrong"),
    }
}

/// A prompt as SendAndWait has it.
pub(super) fn send_request(prompt: pb::ConversePrompt, session: impl ToString) -> pb::SendAndWaitRequest {
    pb::SendAndWaitRequest {
        session_id: session.to_string(),
        prompt: prompt.prompt,
        attachments: prompt.attachments,
        mode: prompt.mode,
        agent_mode: prompt.agent_mode,
        timeout: prompt.timeout,
        inactivity_timeout: prompt.inactivity_timeout,
        on_disconnect: prompt.on_disconnect,
        response_schema: prompt.response_schema,
        request_headers: prompt.request_headers,
        request_id: prompt.request_id,
    }
}
