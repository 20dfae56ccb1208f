//! What servers tell each other: what the sessions do that they own, for lists, and which callers have left.

use std::{collections::HashMap, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

use super::{hop, peers::Peers};
use crate::{
    grpc::pb::{
        self,
        node::{
            LeaveCallRequest, LeaveCallResponse, ListStatesRequest, ListStatesResponse, OwnedSession,
            node_service_server::NodeService,
        },
    },
    session::{Others, Peer, SessionId, SessionState, Sessions, Tenant},
};

/// How long another server may take. A list does not wait for one that is frozen.
const LIMIT: Duration = Duration::from_secs(2);

/// The other servers, as lists ask them.
#[derive(Debug)]
pub(in crate::grpc) struct OtherServers(pub(in crate::grpc) Peers);

impl Others for OtherServers {
    fn states<'a>(
        &'a self,
        peer: &'a Peer,
        tenant: &'a Tenant,
        ids: Vec<SessionId>,
    ) -> BoxFuture<'a, Option<HashMap<SessionId, SessionState>>> {
        Box::pin(async move {
            let session_ids = ids.iter().map(ToString::to_string).collect();
            let question = ListStatesRequest { session_ids, tenant: tenant.as_str().to_owned() };
            let answer = timeout(LIMIT, self.0.states(peer, question)).await.ok()??;
            let sessions = answer.sessions.into_iter();
            Some(
                sessions
                    .filter_map(|it| Some((SessionId::parse(&it.session_id).ok()?, state(it.state))))
                    .collect(),
            )
        })
    }
}

fn state(number: i32) -> SessionState {
    match pb::SessionState::try_from(number) {
        Ok(pb::SessionState::Idle) => SessionState::Idle,
        Ok(pb::SessionState::Running) => SessionState::Running,
        Ok(pb::SessionState::Waiting) => SessionState::Waiting,
        _ => SessionState::Unloaded,
    }
}

/// What this server tells the others.
#[derive(Debug)]
pub(in crate::grpc) struct Node {
    pub(in crate::grpc) sessions: Sessions,
    pub(in crate::grpc) peers: Peers,
}

impl Node {
    /// Takes a question of another server, and signs the answer.
    fn accept(&self, metadata: MetadataMap) -> Result<MetadataMap, Status> {
        let (mut headers, this) = (metadata.into_headers(), self.sessions.store().incarnation());
        let accepted = match self.sessions.store().is_shared() {
            true => hop::accept(&mut headers, this, self.peers.token()),
            // There are no others.
            false => Err(hop::Refusal::NotForUs),
        };
        headers.clear();
        hop::sign(&mut headers, this, accepted.err());
        let signed = MetadataMap::from_headers(headers);
        if accepted.is_err() {
            let refused = "this is for servers of one store and one token";
            return Err(Status::with_metadata(Code::PermissionDenied, refused, signed));
        }
        Ok(signed)
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn list_states(
        &self,
        request: Request<ListStatesRequest>,
    ) -> Result<Response<ListStatesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let signed = self.accept(metadata)?;
        let ids = request.session_ids.iter().filter_map(|id| SessionId::parse(id).ok());
        let known = self.sessions.states(&Tenant::named(&request.tenant), ids);
        let sessions = known.into_iter().map(|(id, state)| OwnedSession {
            session_id: id.to_string(),
            state: match state {
                SessionState::Idle => pb::SessionState::Idle,
                SessionState::Running => pb::SessionState::Running,
                SessionState::Waiting => pb::SessionState::Waiting,
                SessionState::Unloaded => pb::SessionState::Unloaded,
            }
            .into(),
        });
        let answer = ListStatesResponse { sessions: sessions.collect() };
        Ok(Response::from_parts(signed, answer, Extensions::new()))
    }

    async fn leave_call(
        &self,
        request: Request<LeaveCallRequest>,
    ) -> Result<Response<LeaveCallResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let signed = self.accept(metadata)?;
        self.sessions.caller_left(&request.call_id);
        Ok(Response::from_parts(signed, LeaveCallResponse {}, Extensions::new()))
    }
}
