//! `copilot_grpc.v1.CopilotService`: each method parses its request, calls the session room, and encodes what comes back.
//!
//! Tests: `tests/integration/turns.rs`, `sessions.rs`, `history.rs` and others there; see `tests/README.md`.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use prost::Message as _;
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    access::Access,
    converse::Conversation,
    convert::{self, Checks, Defaults},
    deadline,
    heartbeat::Heartbeats,
    pb,
    pb::server::copilot_service_server::CopilotService,
    status,
    streamed::{ConverseResponse, SendAndStreamResponse, Streamed, WatchSessionResponse},
};
use crate::{
    backend::{Backend, Standing, State, process::discover::Form},
    copilot::{method::Compacted, version::Identity},
    session::{
        Archive, Deadline, Delivery, Error, Prompt, SessionId, SessionKey, Sessions, SetBack, Told, Turn,
        Watch, Watched, fanout::Filter,
    },
    store::{Availability, Engine, Incarnation, NodeRecord, Role},
};

/// The implementation of the service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) sessions: Sessions,
    pub(super) defaults: Defaults,
    /// The default turn deadline.
    pub(super) turn_timeout: Duration,
    /// The largest request, in bytes.
    pub(super) max_message_size: usize,
}

impl Service {
    async fn send(
        &self,
        (metadata, extensions): (&MetadataMap, &Extensions),
        mut checks: Checks,
        session_id: &str,
        prompt: Option<pb::Prompt>,
        filter: Filter,
    ) -> Result<Turn, Status> {
        let deadline = |timeout| deadline::of_call(metadata, timeout, self.turn_timeout);
        let id = checks.session_id(session_id);
        let prompt = checks.prompt(prompt, filter, deadline);
        let (id, mut prompt) = checks.done(id.zip(prompt)).map_err(status::invalid)?;
        let key = self.session(extensions, id).await?;
        prompt.caller = extensions.get().cloned();
        self.about(&key, self.sessions.send(&key, prompt)).await
    }

    /// The session that a call names, if its caller may see it.
    async fn session(&self, extensions: &Extensions, id: SessionId) -> Result<SessionKey, Status> {
        Access::of(extensions).session(&self.sessions, id).await.map_err(|error| status::of(&error))
    }

    /// The result of a call about a session that only reads, and so may be repeated whatever became of it.
    async fn read<T>(
        &self,
        key: &SessionKey,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Status> {
        self.about(key, call).await.map_err(status::of_reading)
    }

    /// The result of a call about a session.
    async fn about<T>(
        &self,
        key: &SessionKey,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Status> {
        status::about(&self.sessions, key, call).await
    }
}

/// The session id of a request that holds nothing else.
fn session_id(text: &str) -> Result<SessionId, Status> {
    let mut checks = Checks::default();
    let id = checks.session_id(text);
    checks.done(id).map_err(status::invalid)
}

#[tonic::async_trait]
impl CopilotService for Service {
    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Result<Response<pb::CreateSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let access = Access::of(&extensions);
        let mut checks = Checks::default();
        let request_id = checks.request_id("request_id", &request.request_id, &request);
        let id = checks.new_session_id(&request.session_id, request.resume_if_exists);
        let resume = id.clone().filter(|_| request.resume_if_exists);
        let profile = checks.profile(&request.profile, self.sessions.profiles());
        let defaults = profile.as_deref().map(|profile| self.defaults.under(profile));
        let blueprint = checks.blueprint(request, defaults.as_ref().unwrap_or(&self.defaults));
        let mut blueprint = checks.done(Some(blueprint)).map_err(status::invalid)?;
        if let Some(profile) = profile {
            blueprint =
                profile.tighten(blueprint).map_err(|excesses| status::of(&Error::Denied(excesses)))?;
        }
        blueprint.owner = access.owner_of_new(blueprint.owner).map_err(|error| status::of(&error))?;
        let request_id = request_id.map(|request| access.request(request));
        let (session, resumed) = match resume {
            Some(id) => {
                let key = access.free_or_own(&self.sessions, id).await.map_err(|error| status::of(&error))?;
                let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
                self.sessions.create_or_resume(&key, blueprint, request_id, deadline).await
            }
            None => {
                let created = self.sessions.create(&access.tenant, id, blueprint, request_id).await;
                created.map(|session| (session, false))
            }
        }
        .map_err(|error| status::of(&error))?;
        let session = Some(convert::session(session));
        Ok(Response::new(pb::CreateSessionResponse { session, resumed }))
    }

    async fn resume_session(
        &self,
        request: Request<pb::ResumeSessionRequest>,
    ) -> Result<Response<pb::ResumeSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let credentials = checks.credentials(request);
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let resume = self.sessions.resume(&key, credentials, deadline);
        let resumed = self.about(&key, resume).await?;
        Ok(Response::new(pb::ResumeSessionResponse { session: Some(convert::session(resumed)) }))
    }

    async fn update_session(
        &self,
        request: Request<pb::UpdateSessionRequest>,
    ) -> Result<Response<pb::UpdateSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let session = request.session.unwrap_or_default();
        let mut checks = Checks::default();
        let id = checks.session_id_in("session.session_id", &session.session_id);
        let change = checks.change(session, request.update_mask.unwrap_or_default());
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let update = self.sessions.update(&key, change, deadline);
        let updated = self.about(&key, update).await?;
        Ok(Response::new(pb::UpdateSessionResponse { session: Some(convert::session(updated)) }))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let session = self.read(&key, self.sessions.get(&key)).await?;
        Ok(Response::new(pb::GetSessionResponse { session: Some(convert::session(session)) }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let access = Access::of(&extensions);
        let mut checks = Checks::default();
        let listing = checks.listing(request);
        let listing = checks.done(Some(listing)).map_err(status::invalid)?;
        let Some(listing) = access.listing(listing) else {
            return Ok(Response::new(pb::ListSessionsResponse::default()));
        };
        let page = self.sessions.list(&access.tenant, &listing).await;
        let page = page.map_err(|error| status::of_reading(status::of(&error)))?;
        Ok(Response::new(pb::ListSessionsResponse {
            sessions: page.sessions.into_iter().map(convert::session).collect(),
            next_page_token: page.next.map(|token| token.encode()).unwrap_or_default(),
        }))
    }

    async fn close_session(
        &self,
        request: Request<pb::CloseSessionRequest>,
    ) -> Result<Response<pb::CloseSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        self.about(&key, self.sessions.close(&key, deadline)).await?;
        Ok(Response::new(pb::CloseSessionResponse {}))
    }

    async fn fork_session(
        &self,
        request: Request<pb::ForkSessionRequest>,
    ) -> Result<Response<pb::ForkSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let before = Some(request.event_id.as_str()).filter(|event| !event.is_empty());
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let copy = self.about(&key, self.sessions.fork(&key, before, deadline)).await?;
        Ok(Response::new(pb::ForkSessionResponse { session: Some(convert::session(copy)) }))
    }

    async fn compact_session(
        &self,
        request: Request<pb::CompactSessionRequest>,
    ) -> Result<Response<pb::CompactSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let compact = self.sessions.compact(&key, deadline);
        let Compacted { messages_removed, tokens_removed } = self.about(&key, compact).await?;
        Ok(Response::new(pb::CompactSessionResponse { messages_removed, tokens_removed }))
    }

    async fn rewind_session(
        &self,
        request: Request<pb::RewindSessionRequest>,
    ) -> Result<Response<pb::RewindSessionResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let pb::RewindSessionRequest { session_id, event_id, restore_files, validate_only } = request;
        let mut checks = Checks::default();
        let id = checks.session_id(&session_id);
        let event_id = checks.text("event_id", event_id);
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let rewind = self.sessions.rewind(&key, &event_id, restore_files, validate_only, deadline);
        let SetBack { events_removed, files, skipped } = self.about(&key, rewind).await?;
        let skipped = skipped.into_iter();
        Ok(Response::new(pb::RewindSessionResponse {
            events_removed,
            files: files.iter().map(convert::file_change).collect(),
            skipped_files: skipped
                .map(|file| pb::SkippedFile { path: file.path, reason: file.reason })
                .collect(),
        }))
    }

    async fn list_rewind_points(
        &self,
        request: Request<pb::ListRewindPointsRequest>,
    ) -> Result<Response<pb::ListRewindPointsResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let points = self.read(&key, self.sessions.rewind_points(&key, deadline)).await?;
        let points = points.into_iter().map(convert::rewind_point).collect();
        Ok(Response::new(pb::ListRewindPointsResponse { points }))
    }

    async fn get_usage(
        &self,
        request: Request<pb::GetUsageRequest>,
    ) -> Result<Response<pb::GetUsageResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let key = self.session(&extensions, session_id(&request.session_id)?).await?;
        let spent = self.read(&key, self.sessions.usage(&key)).await?;
        Ok(Response::new(convert::session_usage(spent)))
    }

    async fn delete_session(
        &self,
        request: Request<pb::DeleteSessionRequest>,
    ) -> Result<Response<pb::DeleteSessionResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let id = session_id(&request.session_id)?;
        let deleted = match Access::of(&extensions).session(&self.sessions, id).await {
            Err(error) => Err(error),
            Ok(key) => match self.sessions.delete(&key).await {
                Err(error) => Err(self.sessions.explain(&key, error).await),
                deleted => deleted,
            },
        };
        match deleted {
            Err(Error::NotFound(_)) if request.allow_missing => {}
            deleted => deleted.map_err(|error| status::of(&error))?,
        }
        Ok(Response::new(pb::DeleteSessionResponse {}))
    }

    /// A stream of the one answer: see [`Self::send_and_wait`].
    type SendAndWaitStream = BoxStream<pb::SendAndWaitResponse>;

    /// Returns, and so has the headers sent, when the CLI has the prompt: from then on no client or proxy repeats the call. If
    /// the CLI surely did not get the prompt, the call fails before that.
    async fn send_and_wait(
        &self,
        request: Request<pb::SendAndWaitRequest>,
    ) -> Result<Response<Self::SendAndWaitStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let pb::SendAndWaitRequest { session_id, prompt } = request;
        let call = (&metadata, &extensions);
        let mut turn = self.send(call, Checks::default(), &session_id, prompt, Filter::NOTHING).await?;
        let outcome = match turn.delivered().await {
            Some(Err(error)) if error.delivery == Delivery::NotDelivered => {
                return Err(status::of_turn(&error));
            }
            outcome => outcome,
        };
        let answer = async move {
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => turn.outcome().await,
            };
            let result = outcome.map_err(|error| status::of_turn(&error))?;
            Ok(pb::SendAndWaitResponse { result: Some(convert::turn_result(&result)) })
        };
        Ok(Response::new(Box::pin(stream::once(answer))))
    }

    type SendAndStreamStream = BoxStream<SendAndStreamResponse>;

    async fn send_and_stream(
        &self,
        request: Request<pb::SendAndStreamRequest>,
    ) -> Result<Response<Self::SendAndStreamStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let mut checks = Checks::default();
        let filter = checks.filter("event_types", request.event_types, request.exclude_sub_agents);
        let interval = checks.heartbeat("heartbeat_interval", request.heartbeat_interval);
        let max_size =
            checks.max_event_size("max_event_size", request.max_event_size, convert::MAX_EVENT_SIZE);
        let turn =
            self.send((&metadata, &extensions), checks, &request.session_id, request.prompt, filter).await?;
        let turn = stream::unfold(Some(turn), move |turn| next_of_turn(turn, max_size));
        Ok(Response::new(Box::pin(Heartbeats::new(Box::pin(turn), interval, || {
            let payload = pb::send_and_stream_response::Payload::Heartbeat(pb::Heartbeat {});
            Streamed::Message(pb::SendAndStreamResponse { payload: Some(payload) })
        }))))
    }

    async fn submit_turn(
        &self,
        request: Request<pb::SubmitTurnRequest>,
    ) -> Result<Response<pb::SubmitTurnResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let pb::SubmitTurnRequest { session_id, prompt } = request;
        let mut checks = Checks::default();
        let id = checks.session_id(&session_id);
        let source = prompt.as_ref().map(pb::Prompt::encode_to_vec);
        if prompt.as_ref().is_some_and(|prompt| prompt.request_id.is_empty()) {
            checks.wrong("prompt.request_id", "is required: the turn is known by it");
        }
        let prompt = submitted_prompt(&mut checks, prompt, self.turn_timeout);
        let (id, prompt) = checks.done(id.zip(prompt)).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let submitted = self.sessions.submit(&key, Prompt { source, ..prompt });
        let turn = convert::turn(key.id(), self.about(&key, submitted).await?);
        Ok(Response::new(pb::SubmitTurnResponse { turn: Some(turn) }))
    }

    async fn get_turn(
        &self,
        request: Request<pb::GetTurnRequest>,
    ) -> Result<Response<pb::GetTurnResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let pb::GetTurnRequest { session_id, request_id, message_id, wait } = request;
        let mut checks = Checks::default();
        let id = checks.session_id(&session_id);
        let name = checks.turn_name(request_id, message_id);
        let wait = checks.wait("wait", wait);
        let (id, name) = checks.done(id.zip(name)).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let wait = wait.map(|wait| deadline::of_call(&metadata, Some(wait), wait));
        let turn = self.read(&key, self.sessions.turn(&key, &name, wait)).await?;
        Ok(Response::new(pb::GetTurnResponse { turn: Some(convert::turn(key.id(), turn)) }))
    }

    async fn list_turns(
        &self,
        request: Request<pb::ListTurnsRequest>,
    ) -> Result<Response<pb::ListTurnsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let pb::ListTurnsRequest { session_id, page_size, page_token } = request;
        let mut checks = Checks::default();
        let id = checks.session_id(&session_id);
        let size = checks.page_size(page_size);
        let after = checks.turn_token(&page_token);
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let page = self.sessions.turns(&key, after.as_ref(), size);
        let (turns, next) = self.read(&key, page).await?;
        let turns = turns.into_iter().map(|turn| convert::listed_turn(key.id(), turn)).collect();
        Ok(Response::new(pb::ListTurnsResponse { turns, next_page_token: convert::turn_token(next) }))
    }

    type ConverseStream = BoxStream<ConverseResponse>;

    async fn converse(
        &self,
        request: Request<Streaming<pb::ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let conversation = Conversation::new(
            self.sessions.clone(),
            requests,
            Access::of(&extensions).clone(),
            extensions.get().cloned(),
            deadline::of_stream(&metadata),
            self.turn_timeout,
            self.max_message_size,
        );
        Ok(Response::new(Box::pin(conversation.into_stream())))
    }

    async fn respond(
        &self,
        request: Request<pb::RespondRequest>,
    ) -> Result<Response<pb::RespondResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let ask_id = checks.text("ask_id", request.ask_id);
        let response = checks.answer(request.answer);
        let (id, response) = checks.done(id.zip(response)).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        self.about(&key, self.sessions.respond(&key, &ask_id, response)).await?;
        Ok(Response::new(pb::RespondResponse {}))
    }

    type WatchSessionStream = BoxStream<WatchSessionResponse>;

    async fn watch_session(
        &self,
        request: Request<pb::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let from = checks.from(id.as_ref(), &request.cursor, request.from_beginning);
        let filter = checks.filter("event_types", request.event_types, request.exclude_sub_agents);
        let interval = checks.heartbeat("heartbeat_interval", request.heartbeat_interval);
        let max_size =
            checks.max_event_size("max_event_size", request.max_event_size, convert::MAX_EVENT_SIZE);
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let closing = self.sessions.draining();
        let watch = self.read(&key, self.sessions.watch(&key, from, filter, closing)).await?;
        let watch = stream::unfold(Some(watch), move |watch| next_of_session(watch, max_size));
        Ok(Response::new(Box::pin(Heartbeats::new(Box::pin(watch), interval, || {
            let payload = pb::watch_session_response::Payload::Heartbeat(pb::Heartbeat {});
            Streamed::Message(pb::WatchSessionResponse { payload: Some(payload) })
        }))))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let size = checks.page_size(request.page_size);
        let after = checks.history_token(&request.session_id, &request.page_token);
        let wanted = checks.filter("event_types", request.event_types, false);
        let max_size = checks.max_event_size("max_event_size", request.max_event_size, MAX_STORED_EVENT_SIZE);
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let page = self.sessions.history(&key, after.as_ref(), size);
        let (events, mut next) = self.read(&key, page).await?;
        let (mut room, mut told, mut before) = (MAX_PAGE_SIZE, Vec::new(), after);
        for (event, place) in events {
            if wanted.wants(&event) {
                let event = convert::stored_event(key.id(), event, max_size);
                let length = event.encoded_len();
                if length > room {
                    // The rest goes onto the next page.
                    next = before;
                    break;
                }
                room -= length;
                told.push(event);
            }
            before = Some(place);
        }
        let next_page_token = convert::history_token(key.id(), next);
        Ok(Response::new(pb::ListEventsResponse { events: told, next_page_token }))
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let profile = checks.profile(&request.profile, self.sessions.profiles());
        let token = checks.github_token(request.github_token);
        checks.done(Some(())).map_err(status::invalid)?;
        let models = self.sessions.models(profile.as_deref(), token, self.defaults.model.as_deref()).await;
        let models = models.map_err(|error| status::of(&error))?.into_iter().map(convert::model).collect();
        Ok(Response::new(pb::ListModelsResponse { models }))
    }

    async fn abort_turn(
        &self,
        request: Request<pb::AbortTurnRequest>,
    ) -> Result<Response<pb::AbortTurnResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let pb::AbortTurnRequest { session_id, message_id, request_id } = request;
        let mut checks = Checks::default();
        let id = checks.session_id(&session_id);
        if !message_id.is_empty() && !request_id.is_empty() {
            checks.wrong("request_id", "cannot be set together with `message_id`");
        }
        let id = checks.done(id).map_err(status::invalid)?;
        let key = self.session(&extensions, id).await?;
        let message_id = if request_id.is_empty() {
            let only = Some(message_id.as_str()).filter(|id| !id.is_empty());
            self.about(&key, self.sessions.abort(&key, only)).await?
        } else {
            self.about(&key, self.sessions.abort_request(&key, &request_id)).await?
        };
        Ok(Response::new(pb::AbortTurnResponse { message_id }))
    }

    async fn who_am_i(
        &self,
        request: Request<pb::WhoAmIRequest>,
    ) -> Result<Response<pb::WhoAmIResponse>, Status> {
        Ok(Response::new(Access::of(request.extensions()).tell()))
    }

    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        if !Access::of(request.extensions()).is_operator() {
            // What runs where is for who runs it.
            let version = env!("CARGO_PKG_VERSION").into();
            return Ok(Response::new(pb::GetServerInfoResponse { version, ..Default::default() }));
        }
        let info = pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            backends: self.sessions.pool().all().iter().map(|one| backend(one, &self.sessions)).collect(),
            cleanup: self.sessions.cleanup().map(convert::cleanup),
            store: Some(store(&self.sessions)),
            nodes: nodes(&self.sessions).await,
        };
        Ok(Response::new(info))
    }
}

/// The prompt of a turn that nobody waits for: it has as much time as it asks for, whatever time its call has.
pub(super) fn submitted_prompt(
    checks: &mut Checks,
    prompt: Option<pb::Prompt>,
    turn_timeout: Duration,
) -> Option<Prompt> {
    let deadline = |timeout: Option<Duration>| Deadline::after(timeout.unwrap_or(turn_timeout));
    let prompt = checks.prompt(prompt, Filter::NOTHING, deadline)?;
    Some(Prompt { detached: true, ..prompt })
}

/// The largest `max_event_size` of ListEvents.
const MAX_STORED_EVENT_SIZE: usize = 2 * 1024 * 1024;

/// The size of the events of one page together, so that a client with gRPC's usual limit of 4 MiB can read them.
const MAX_PAGE_SIZE: usize = 3 * 1024 * 1024;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The next message of a turn's stream. The stream owns the turn: when it is dropped, the turn ends.
async fn next_of_turn(
    turn: Option<Turn>,
    max_size: usize,
) -> Option<(Result<SendAndStreamResponse, Status>, Option<Turn>)> {
    use pb::send_and_stream_response::Payload;
    let message = |payload| pb::SendAndStreamResponse { payload: Some(payload) };
    let mut turn = turn?;
    Some(match turn.next().await {
        Told::Update(update) => {
            (Ok(Streamed::event(update, max_size, |event| message(Payload::Event(event)))), Some(turn))
        }
        Told::Ended(Ok(result)) => {
            (Ok(Streamed::Message(message(Payload::Result(convert::turn_result(&result))))), None)
        }
        Told::Ended(Err(error)) => (Err(status::of_turn(&error)), None),
        Told::Lagged(cursor) => {
            turn.detach();
            (Err(status::lagged(cursor.as_ref())), None)
        }
    })
}

/// The next message of a watcher's stream.
async fn next_of_session(
    watch: Option<Watch>,
    max_size: usize,
) -> Option<(Result<WatchSessionResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    loop {
        return Some(match watch.next().await {
            Watched::Update(update) => {
                let message = |event| {
                    let payload = pb::watch_session_response::Payload::Event(event);
                    pb::WatchSessionResponse { payload: Some(payload) }
                };
                (Ok(Streamed::event(update, max_size, message)), Some(watch))
            }
            Watched::TurnEnded(..) => continue,
            Watched::Ended(error @ Error::Moved(_)) => {
                (Err(status::moved_from(&error, watch.cursor().as_ref())), None)
            }
            Watched::Ended(error) => (Err(status::of(&error)), None),
            Watched::Lagged(cursor) => (Err(status::lagged(cursor.as_ref())), None),
        });
    }
}

fn backend(backend: &Backend, sessions: &Sessions) -> pb::Backend {
    let turns = backend.admission();
    let load = sessions.load_on(backend.id());
    let state = backend.watch().borrow().clone();
    let missing_features = state.link().map(|link| link.missing_features().to_vec()).unwrap_or_default();
    let (state, cli, problem) = match state {
        State::Connecting => (pb::BackendState::Connecting, None, String::new()),
        State::Ready(link) => (pb::BackendState::Ready, Some(link.identity().clone()), String::new()),
        State::Down { problem } => (pb::BackendState::Down, None, problem),
        State::Incompatible { problem, cli } => (pb::BackendState::Incompatible, Some(cli), problem),
    };
    let Identity { version, protocol } = cli.unwrap_or_default();
    let standing = match backend.standing() {
        Standing::Open => pb::BackendStanding::Open,
        Standing::Ejected => pb::BackendStanding::Ejected,
        Standing::Leaving => pb::BackendStanding::Leaving,
        Standing::Draining => pb::BackendStanding::Draining,
    };
    let stats = backend.stats();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    pb::Backend {
        name: backend.name().into(),
        state: state.into(),
        cli_version: version,
        protocol_version: protocol.and_then(|version| i32::try_from(version).ok()).unwrap_or_default(),
        missing_features,
        running_turns: count(turns.running()),
        loaded_sessions: count(load.loaded),
        problem,
        waiting_turns: count(turns.waiting()),
        address: backend.address().unwrap_or_default().into(),
        standing: standing.into(),
        start_time: stats.process.map(|process| process.start_time.into()),
        recycle_count: i64::try_from(stats.recycled).unwrap_or(i64::MAX),
        failures: i32::try_from(stats.failures).unwrap_or(i32::MAX),
        last_output: sessions.redact(&stats.last_lines),
        cli_form: cli_form(backend.form()).into(),
        retiring_clis: count(backend.retiring()),
    }
}

/// The servers that share the store; none, where it is a file, or cannot be asked.
async fn nodes(sessions: &Sessions) -> Vec<pb::Node> {
    if !sessions.store().is_shared() {
        return Vec::new();
    }
    let nodes = match sessions.store().nodes().await {
        Ok(nodes) => nodes,
        Err(_) => sessions.store().neighbours().borrow().nodes.to_vec(),
    };
    let this = sessions.store().incarnation();
    nodes.into_iter().map(|node| self::node(node, this)).collect()
}

fn node(node: NodeRecord, this: &Incarnation) -> pb::Node {
    let state = match node.load.role {
        _ if node.lease.is_zero() => pb::NodeState::Gone,
        Role::Draining => pb::NodeState::Draining,
        Role::Serving | Role::Command => pb::NodeState::Serving,
    };
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    pb::Node {
        is_this: node.incarnation == *this,
        name: node.incarnation.node,
        incarnation: node.incarnation.number,
        address: node.address,
        version: node.version,
        state: state.into(),
        lease: prost_types::Duration::try_from(node.lease).ok(),
        sessions: count(node.load.sessions),
        turns: count(node.load.turns),
        room: count(node.load.room),
        start_time: Some(SystemTime::from(node.start_time).into()),
    }
}

fn store(sessions: &Sessions) -> pb::Store {
    let store = sessions.store();
    let problem = match &*store.availability().borrow() {
        Availability::Here => None,
        Availability::Away { problem, .. } => Some(problem.clone()),
    };
    let engine = match store.engine() {
        Engine::Sqlite => pb::StoreEngine::Sqlite,
        Engine::Postgres => pb::StoreEngine::Postgresql,
    };
    let archive = match sessions.archive() {
        Archive::BeforeAnswer => pb::StoreArchive::BeforeAnswer,
        Archive::AfterAnswer => pb::StoreArchive::AfterAnswer,
        Archive::Off => pb::StoreArchive::Off,
    };
    pb::Store {
        engine: engine.into(),
        available: problem.is_none(),
        problem: problem.unwrap_or_default(),
        archive: archive.into(),
    }
}

fn cli_form(form: Option<Form>) -> pb::CliForm {
    match form {
        None => pb::CliForm::Unspecified,
        Some(Form::Native) => pb::CliForm::Native,
        Some(Form::Node) => pb::CliForm::Node,
    }
}
