//! `copilot.v1.CopilotService`: each method parses its request, calls the session room, and encodes what comes back.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    convert::{self, Checks, Defaults},
    deadline,
    pb::{self, copilot_service_server::CopilotService},
    status,
};
use crate::{
    backend::State,
    copilot::{method::Compacted, version::missing_features},
    session::{
        Error, Prompt, SessionId, Sessions, Tenant, Turn,
        hub::{Filter, Item},
    },
};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) sessions: Sessions,
    pub(super) defaults: Defaults,
    /// The deadline of a turn that brings none.
    pub(super) turn_timeout: Duration,
}

/// What SendAndWait and SendAndStream have in common.
struct Send {
    session_id: String,
    prompt: String,
    attachments: Vec<pb::Attachment>,
    request_headers: HashMap<String, String>,
    timeout: Option<prost_types::Duration>,
    inactivity_timeout: Option<prost_types::Duration>,
    on_disconnect: i32,
}

impl Service {
    async fn send(
        &self,
        metadata: &MetadataMap,
        mut checks: Checks,
        send: Send,
        filter: Filter,
    ) -> Result<Turn, Status> {
        let id = checks.session_id(&send.session_id);
        let timeout = checks.duration("timeout", send.timeout);
        let prompt = Prompt {
            message: checks.message(send.prompt, send.attachments, send.request_headers),
            deadline: deadline::of_call(metadata, timeout, self.turn_timeout),
            inactivity: checks.duration("inactivity_timeout", send.inactivity_timeout),
            detached: checks.on_disconnect(send.on_disconnect),
            filter,
        };
        let id = checks.done(id).map_err(status::invalid)?;
        self.sessions.send(Tenant::ONLY, &id, prompt).await.map_err(refused)
    }
}

/// A session id, which is all that some requests hold.
fn session_id(text: &str) -> Result<SessionId, Status> {
    let mut checks = Checks::default();
    let id = checks.session_id(text);
    checks.done(id).map_err(status::invalid)
}

fn refused(error: Error) -> Status {
    status::of(&error)
}

#[tonic::async_trait]
impl CopilotService for Service {
    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Result<Response<pb::CreateSessionResponse>, Status> {
        let mut request = request.into_inner();
        let mut checks = Checks::default();
        let id = match std::mem::take(&mut request.session_id) {
            id if id.is_empty() => None,
            id => checks.session_id(&id),
        };
        let profile = checks.profile(&request.profile, self.sessions.profiles());
        let defaults = profile.as_deref().map(|profile| self.defaults.under(profile));
        let blueprint = checks.blueprint(request, defaults.as_ref().unwrap_or(&self.defaults));
        let mut blueprint = checks.done(Some(blueprint)).map_err(status::invalid)?;
        if let Some(profile) = profile {
            blueprint = profile.tighten(blueprint).map_err(|excess| status::of(&Error::Denied(excess)))?;
        }
        let created = self.sessions.create(Tenant::ONLY, id, blueprint).await.map_err(refused)?;
        Ok(Response::new(pb::CreateSessionResponse { session: Some(convert::session(created)) }))
    }

    async fn resume_session(
        &self,
        request: Request<pb::ResumeSessionRequest>,
    ) -> Result<Response<pb::ResumeSessionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let credentials = checks.credentials(request.provider, request.github_token);
        let id = checks.done(id).map_err(status::invalid)?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let resumed =
            self.sessions.resume(Tenant::ONLY, &id, credentials, deadline).await.map_err(refused)?;
        Ok(Response::new(pb::ResumeSessionResponse { session: Some(convert::session(resumed)) }))
    }

    async fn update_session(
        &self,
        request: Request<pb::UpdateSessionRequest>,
    ) -> Result<Response<pb::UpdateSessionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let session = request.session.unwrap_or_default();
        let mut checks = Checks::default();
        let id = checks.session_id_in("session.session_id", &session.session_id);
        let change = checks.change(session, request.update_mask.unwrap_or_default());
        let id = checks.done(id).map_err(status::invalid)?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let updated = self.sessions.update(Tenant::ONLY, &id, change, deadline).await.map_err(refused)?;
        Ok(Response::new(pb::UpdateSessionResponse { session: Some(convert::session(updated)) }))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?;
        let session = self.sessions.get(Tenant::ONLY, &id).await.map_err(refused)?;
        Ok(Response::new(pb::GetSessionResponse { session: Some(convert::session(session)) }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let mut checks = Checks::default();
        let listing = checks.listing(request.into_inner());
        let listing = checks.done(Some(listing)).map_err(status::invalid)?;
        let (page, next) = self.sessions.list(Tenant::ONLY, &listing).await.map_err(refused)?;
        Ok(Response::new(pb::ListSessionsResponse {
            sessions: page.into_iter().map(convert::session).collect(),
            next_page_token: next.map(|token| token.encode()).unwrap_or_default(),
        }))
    }

    async fn close_session(
        &self,
        request: Request<pb::CloseSessionRequest>,
    ) -> Result<Response<pb::CloseSessionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = session_id(&request.session_id)?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        self.sessions.close(Tenant::ONLY, &id, deadline).await.map_err(refused)?;
        Ok(Response::new(pb::CloseSessionResponse {}))
    }

    async fn fork_session(
        &self,
        request: Request<pb::ForkSessionRequest>,
    ) -> Result<Response<pb::ForkSessionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = session_id(&request.session_id)?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let copy = self.sessions.fork(Tenant::ONLY, &id, deadline).await.map_err(refused)?;
        Ok(Response::new(pb::ForkSessionResponse { session: Some(convert::session(copy)) }))
    }

    async fn compact_session(
        &self,
        request: Request<pb::CompactSessionRequest>,
    ) -> Result<Response<pb::CompactSessionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = session_id(&request.session_id)?;
        let deadline = deadline::of_call(&metadata, None, self.turn_timeout);
        let Compacted { messages_removed, tokens_removed } =
            self.sessions.compact(Tenant::ONLY, &id, deadline).await.map_err(refused)?;
        Ok(Response::new(pb::CompactSessionResponse { messages_removed, tokens_removed }))
    }

    async fn delete_session(
        &self,
        request: Request<pb::DeleteSessionRequest>,
    ) -> Result<Response<pb::DeleteSessionResponse>, Status> {
        let request = request.into_inner();
        let id = session_id(&request.session_id)?;
        match self.sessions.delete(Tenant::ONLY, &id).await {
            Err(Error::NotFound(_)) if request.allow_missing => {}
            result => result.map_err(refused)?,
        }
        Ok(Response::new(pb::DeleteSessionResponse {}))
    }

    async fn send_and_wait(
        &self,
        request: Request<pb::SendAndWaitRequest>,
    ) -> Result<Response<pb::SendAndWaitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let send = Send {
            session_id: request.session_id,
            prompt: request.prompt,
            attachments: request.attachments,
            request_headers: request.request_headers,
            timeout: request.timeout,
            inactivity_timeout: request.inactivity_timeout,
            on_disconnect: request.on_disconnect,
        };
        let turn = self.send(&metadata, Checks::default(), send, Filter::Nothing).await?;
        let result = turn.outcome().await.map_err(|error| status::of_turn(&error))?;
        Ok(Response::new(pb::SendAndWaitResponse { result: Some(convert::turn_result(&result)) }))
    }

    type SendAndStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::SendAndStreamResponse, Status>> + std::marker::Send>>;

    async fn send_and_stream(
        &self,
        request: Request<pb::SendAndStreamRequest>,
    ) -> Result<Response<Self::SendAndStreamStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let mut checks = Checks::default();
        let filter = checks.event_types(request.event_types);
        let send = Send {
            session_id: request.session_id,
            prompt: request.prompt,
            attachments: request.attachments,
            request_headers: request.request_headers,
            timeout: request.timeout,
            inactivity_timeout: request.inactivity_timeout,
            on_disconnect: request.on_disconnect,
        };
        let turn = self.send(&metadata, checks, send, filter).await?;
        Ok(Response::new(Box::pin(stream::unfold(Some(turn), next_message))))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let id = checks.session_id(&request.session_id);
        let size = checks.page_size(request.page_size);
        let after = checks.history_token(&request.session_id, &request.page_token);
        let wanted = checks.event_types(request.event_types);
        let id = checks.done(id).map_err(status::invalid)?;
        let page = self.sessions.history(Tenant::ONLY, &id, after.as_ref(), size).await;
        let (events, next) = page.map_err(refused)?;
        let events = events.iter().filter(|event| wanted.matches(&event.kind));
        Ok(Response::new(pb::ListEventsResponse {
            events: events.map(convert::session_event).collect(),
            next_page_token: convert::history_token(&id, next),
        }))
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
        let models = models.map_err(refused)?.into_iter().map(convert::model).collect();
        Ok(Response::new(pb::ListModelsResponse { models }))
    }

    async fn abort_turn(
        &self,
        request: Request<pb::AbortTurnRequest>,
    ) -> Result<Response<pb::AbortTurnResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?;
        let message_id = self.sessions.abort(Tenant::ONLY, &id).await.map_err(refused)?;
        Ok(Response::new(pb::AbortTurnResponse { message_id }))
    }

    async fn get_server_info(
        &self,
        _: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        let info = pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            backends: vec![backend(&self.sessions)],
            cleanup: self.sessions.cleanup().map(convert::cleanup),
        };
        Ok(Response::new(info))
    }
}

/// The next message of a stream. The stream owns the turn: when it is dropped, the turn ends.
async fn next_message(
    turn: Option<Turn>,
) -> Option<(Result<pb::SendAndStreamResponse, Status>, Option<Turn>)> {
    use pb::send_and_stream_response::Payload;
    let message = |payload| Ok(pb::SendAndStreamResponse { payload: Some(payload) });
    let mut turn = turn?;
    Some(match turn.next().await {
        Item::Event(event) => (message(Payload::Event(convert::session_event(&event))), Some(turn)),
        Item::End(Ok(result)) => (message(Payload::Result(convert::turn_result(&result))), None),
        Item::End(Err(error)) => (Err(status::of_turn(&error)), None),
        Item::Lagged(_) => {
            turn.detach();
            (Err(status::lagged()), None)
        }
    })
}

fn backend(sessions: &Sessions) -> pb::Backend {
    let backend = sessions.backend();
    let load = sessions.load();
    let state = backend.watch().borrow().clone();
    let (state, link, problem) = match state {
        State::Connecting => (pb::BackendState::Connecting, None, String::new()),
        State::Ready(link) => (pb::BackendState::Ready, Some(link), String::new()),
        State::Down { problem } => (pb::BackendState::Down, None, problem),
        State::Incompatible { problem } => (pb::BackendState::Incompatible, None, problem),
    };
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    pb::Backend {
        name: backend.name().into(),
        state: state.into(),
        cli_version: link.as_ref().map(|link| link.cli_version().to_owned()).unwrap_or_default(),
        protocol_version: link
            .as_ref()
            .and_then(|link| i32::try_from(link.protocol()).ok())
            .unwrap_or_default(),
        missing_features: link.as_ref().map(|link| missing_features(link.cli_version())).unwrap_or_default(),
        running_turns: count(load.running),
        loaded_sessions: count(load.loaded),
        problem,
    }
}
