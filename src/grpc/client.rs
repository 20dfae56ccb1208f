//! A thin client of the service, for the command line.

use std::time::Duration;

use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::pb::{
    CreateSessionRequest, DeleteSessionRequest, SendAndStreamRequest, SendAndStreamResponse,
    copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload, session_event,
};

/// How long connecting and the small calls may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

/// Why the client could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached.
    #[error(
        "no server at {server}: {problem}; start one with `copilot-grpc serve`, or name another with --server"
    )]
    Connect {
        /// The server's address.
        server: String,
        /// Why it could not be reached.
        problem: String,
    },
    /// The server refused the call.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(#[from] Status),
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A text to show.
    Text(String),
    /// The name of a tool that the agent calls.
    Tool(String),
    /// The end: the answer is complete.
    End,
}

impl Client {
    /// Connects to a server, such as `http://127.0.0.1:50051`.
    pub async fn connect(server: &str) -> Result<Self, Error> {
        let failed = |problem: &dyn std::error::Error| {
            // tonic's own message is only "transport error"; the cause is what helps.
            let cause = std::iter::successors(Some(problem), |error| error.source()).last();
            Error::Connect {
                server: server.into(),
                problem: cause.map(ToString::to_string).unwrap_or_default(),
            }
        };
        let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| failed(&error))?;
        let channel = endpoint.connect_timeout(TIMEOUT).connect().await.map_err(|error| failed(&error))?;
        Ok(Self { channel })
    }

    fn service(&self) -> CopilotServiceClient<Channel> {
        CopilotServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Whether a service is serving; the empty name stands for the whole server.
    pub async fn is_serving(&self, service: &str) -> Result<bool, Error> {
        let mut request = tonic::Request::new(HealthCheckRequest { service: service.into() });
        request.set_timeout(TIMEOUT);
        let response = HealthClient::new(self.channel.clone()).check(request).await?;
        Ok(response.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving)
    }

    /// Creates a session, and returns its id.
    pub async fn create_session(&self, model: Option<String>) -> Result<String, Error> {
        let request = CreateSessionRequest { model: model.unwrap_or_default(), ..Default::default() };
        let response = self.service().create_session(request).await?.into_inner();
        Ok(response.session.unwrap_or_default().session_id)
    }

    /// Deletes a session.
    pub async fn delete_session(&self, session_id: &str) -> Result<(), Error> {
        let request = DeleteSessionRequest { session_id: session_id.into(), allow_missing: true };
        self.service().delete_session(request).await?;
        Ok(())
    }

    /// Sends a prompt, and returns its answer as it comes.
    pub async fn send(&self, session_id: &str, prompt: &str) -> Result<Answer, Error> {
        let request = SendAndStreamRequest {
            session_id: session_id.into(),
            prompt: Some(prompt.into()),
            event_types: vec!["assistant.message_delta".into(), "tool.execution_start".into()],
            ..Default::default()
        };
        Ok(Answer { stream: self.service().send_and_stream(request).await?.into_inner() })
    }
}

/// An answer as it comes. Dropping it stops the agent.
#[derive(Debug)]
pub struct Answer {
    stream: Streaming<SendAndStreamResponse>,
}

impl Answer {
    /// Waits for the next piece.
    pub async fn next(&mut self) -> Result<Piece, Error> {
        use session_event::Payload as Event;
        while let Some(message) = self.stream.message().await? {
            let event = match message.payload {
                Some(Payload::Event(event)) => event,
                Some(Payload::Result(_)) => break,
                Some(Payload::Heartbeat(_)) | None => continue,
            };
            match event.payload {
                Some(Event::AssistantMessageDelta(delta)) if event.agent_id.is_empty() => {
                    return Ok(Piece::Text(delta.text));
                }
                Some(Event::ToolExecutionStart(tool)) => return Ok(Piece::Tool(tool.name)),
                _ => {}
            }
        }
        Ok(Piece::End)
    }
}
