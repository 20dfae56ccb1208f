//! A thin client of the service, for the command line.

use std::{error::Error as StdError, io, iter::successors, path::PathBuf, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;
use zeroize::Zeroizing;

use super::{
    pb::{
        CreateSessionRequest, DeleteSessionRequest, SendAndStreamRequest, SendAndStreamResponse,
        copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload, session_event,
    },
    tls::{Connector, LateRefusal, Problems, Trust},
};
use crate::copilot::Secret;

/// How long connecting and the small calls may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A server, and how it and its client know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `http://host:port`, `https://host:port`, or `unix:/path`.
    pub server: String,
    /// The CAs that the server's certificate is checked by; `None`: those that this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key, for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The bearer token that each call brings, for servers that ask who calls.
    pub token: Option<Secret>,
}

/// How the name of a Unix socket begins.
pub const UNIX: &str = "unix:";

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    /// Whether the server has refused the certificate that was shown, or that there was none.
    refused: LateRefusal,
    bearer: Bearer,
}

/// Adds the client's token, if it has one, to each call.
#[derive(Debug, Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&Secret>) -> Result<Self, Error> {
        let value = token.map(|token| {
            let written = Zeroizing::new(format!("Bearer {}", token.expose()));
            let mut value = MetadataValue::try_from(written.as_str()).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        value.transpose().map(Self)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
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
    /// A file of certificates or keys cannot be used.
    #[error("{0}")]
    Files(#[from] Problems),
    /// The token cannot be sent.
    #[error("the token in COPILOT_GRPC_TOKEN has characters that no token has")]
    Token,
    /// The server refused the client.
    #[error(
        "the server refuses the certificate of this side, or that there is none ({0:?}): see --cert-file"
    )]
    Refused(rustls::AlertDescription),
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

/// The innermost cause.
fn last(error: &(dyn StdError + 'static)) -> String {
    successors(Some(error), |&error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// If its address makes no sense, if a file cannot be used, or if there is no server that is trusted.
    pub async fn connect(target: &Target) -> Result<Self, Error> {
        let bearer = Bearer::new(target.token.as_ref())?;
        let server = &target.server;
        let failed = |problem: &(dyn StdError + 'static)| Error::Connect {
            server: server.clone(),
            problem: last(problem),
        };
        let socket = server.strip_prefix(UNIX).map(PathBuf::from);
        // A Unix socket has no host, but a call needs one.
        let url = if socket.is_some() { "http://localhost".to_owned() } else { server.clone() };
        let refused = LateRefusal::default();
        let endpoint = Endpoint::from_shared(url).map_err(|error| failed(&error))?.connect_timeout(TIMEOUT);
        let connected = if let Some(socket) = socket {
            let connect = move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector(service_fn(connect)).await
        } else if endpoint.uri().scheme_str() == Some("https") {
            let trust = target.ca_file.clone().map_or(Trust::System, Trust::File);
            let shown = target.certificate.as_ref().map(|(certificate, key)| (&**certificate, &**key));
            let connector = Connector::new(&trust, shown)?;
            let late = refused.clone();
            let connect = move |uri: Uri| {
                let (connector, late) = (connector.clone(), late.clone());
                async move {
                    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
                    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
                    connector.connect(host, socket, late).await.map(TokioIo::new).map_err(io::Error::other)
                }
            };
            endpoint.connect_with_connector(service_fn(connect)).await
        } else {
            endpoint.connect().await
        };
        Ok(Self { channel: connected.map_err(|error| failed(&error))?, refused, bearer })
    }

    /// What is wrong, if a call has failed.
    fn told(&self, status: Status) -> Error {
        self.refused.get().map_or(Error::Status(status), Error::Refused)
    }

    fn service(&self) -> CopilotServiceClient<InterceptedService<Channel, Bearer>> {
        CopilotServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(usize::MAX)
    }

    /// Whether a service is serving; the empty name stands for the whole server.
    pub async fn is_serving(&self, service: &str) -> Result<bool, Error> {
        let mut request = tonic::Request::new(HealthCheckRequest { service: service.into() });
        request.set_timeout(TIMEOUT);
        let response = HealthClient::new(self.channel.clone()).check(request).await;
        let response = response.map_err(|status| self.told(status))?;
        Ok(response.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving)
    }

    /// Creates a session, and returns its id.
    pub async fn create_session(&self, model: Option<String>) -> Result<String, Error> {
        let request = CreateSessionRequest { model: model.unwrap_or_default(), ..Default::default() };
        let response = self.service().create_session(request).await;
        let response = response.map_err(|status| self.told(status))?.into_inner();
        Ok(response.session.unwrap_or_default().session_id)
    }

    /// Deletes a session.
    pub async fn delete_session(&self, session_id: &str) -> Result<(), Error> {
        let request = DeleteSessionRequest { session_id: session_id.into(), allow_missing: true };
        self.service().delete_session(request).await.map_err(|status| self.told(status))?;
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
        let sent = self.service().send_and_stream(request).await;
        Ok(Answer { stream: sent.map_err(|status| self.told(status))?.into_inner() })
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
