//! Serves the contract, health and reflection on a listener.

use std::{sync::Arc, time::Duration};

use futures_util::future::{OptionFuture, join3};
use prost::Message as _;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, codec::CompressionEncoding, service::Routes, transport::Server};
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::{
    connection::{Connection, Shared},
    convert::{Checks, Defaults},
    ending::Ending,
    forward::{Forwarding, Node, OtherServers, Peers},
    gate::Gates,
    health,
    identify::Identified,
    listener::Listener,
    pb,
    pb::{
        node::node_service_server::NodeServiceServer, server::copilot_service_server::CopilotServiceServer,
    },
    service::{Service, submitted_prompt},
    status,
    tls::Tls,
    unix::UnixPort,
};
use crate::{
    copilot::Secret,
    identity::Identities,
    session::{PromptReader, Sessions},
};

/// How long a connection may be silent before it is pinged. A client that has gone without a word is found within this and
/// [`KEEPALIVE_TIMEOUT`], and its turns end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to such a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many calls one connection may have open at once. Each waits at little cost; the queues behind them are bounded.
const MAX_CONCURRENT_STREAMS: u32 = 1000;

/// How many probes may be connected at once; more than orchestrators and balancers have.
const MAX_PROBES: usize = 64;

/// The configuration of a server.
#[derive(Debug)]
pub struct Setup {
    /// The sessions to serve.
    pub sessions: Sessions,
    /// The settings of sessions whose requests leave them out.
    pub defaults: Defaults,
    /// Its certificates, and those that it trusts.
    pub tls: Tls,
    /// Who callers are; `None`: nobody is asked.
    pub identities: Option<Arc<Identities>>,
    /// The token by which servers that share the store know each other.
    pub cluster_token: Option<Secret>,
    /// The default turn deadline.
    pub turn_timeout: Duration,
    /// The largest request, in bytes.
    pub max_message_size: usize,
    /// The age at which a client is told to open another connection; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How many clients may be connected at once.
    pub max_connections: usize,
}

/// Where a server listens.
#[derive(Debug)]
pub struct Ports {
    /// For clients, over TLS if that is set up.
    pub tcp: TcpListener,
    /// For clients on this machine.
    pub unix: Option<UnixPort>,
    /// For probes: plaintext, and nothing but health.
    pub probes: Option<TcpListener>,
}

/// When a server ends, in this order.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// Health turns to NOT_SERVING.
    pub draining: CancellationToken,
    /// Nobody new is accepted, and clients are told to go.
    pub closing: CancellationToken,
    /// Probes are told to go, too.
    pub ended: CancellationToken,
}

/// Serves until `closing`. Then it accepts no new connection, tells the open ones to go away, and returns when they have.
/// Probes are answered until `ended`. Dropping the future closes all ports and connections.
///
/// # Errors
/// If the setup is wrong, which it cannot be.
pub async fn serve(
    ports: Ports,
    setup: Setup,
    stages: Stages,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Setup {
        sessions,
        defaults,
        tls,
        identities,
        cluster_token,
        turn_timeout,
        max_message_size,
        max_connection_age,
        max_connections,
    } = setup;
    let Stages { draining, closing, ended } = stages;
    let budget = sessions.budget().clone();
    let (reporter, health) = tonic_health::server::health_reporter();
    health::begin(&reporter).await;
    let mut followers = JoinSet::new();
    followers.spawn(health::follow(
        reporter,
        sessions.pool().readiness(),
        sessions.store().availability(),
        draining,
    ));
    followers.spawn(tls.clone().follow());
    let peers = Peers::new(cluster_token, tls.clone());
    sessions.ask_others_by(Arc::new(OtherServers(peers.clone())));
    sessions.read_prompts_by(PromptReader::new(move |source| {
        let prompt = pb::Prompt::decode(source).ok();
        submitted_prompt(&mut Checks::default(), prompt, turn_timeout)
    }));
    let node = NodeServiceServer::new(Node { sessions: sessions.clone(), peers: peers.clone() });
    let service = Service { sessions: sessions.clone(), defaults, turn_timeout, max_message_size };
    let service = CopilotServiceServer::new(service)
        .max_decoding_message_size(max_message_size)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        // Only where a client asks for it: see the gate.
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let service = Forwarding { inner: service, sessions: sessions.clone(), peers, max_message_size };
    let service = Identified { inner: service, identities, sessions };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl can show the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let all = Routes::new(service)
        .add_service(node)
        .add_service(health.clone())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let router = |routes: Routes, closing: &CancellationToken| {
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_CONCURRENT_STREAMS))
            .layer(MapRequestLayer::new(Shared::spread::<Body>))
            .layer(Ending { closing: closing.clone() })
            .layer(Gates::new())
            .layer(MapResponseLayer::new(move |response| enrich(response, max_message_size)))
            .add_routes(routes)
    };
    // Serves all clients of a port, until there are none after `closing`.
    let serve = |mut listener: Listener, routes: Routes, tls: Option<Tls>, closing: CancellationToken| {
        let (server, budget, connections) = (router(routes, &closing), budget.clone(), TaskTracker::new());
        async move {
            while let Some(client) = closing.run_until_cancelled(listener.accept()).await {
                let (server, closing, budget) = (server.clone(), closing.clone(), budget.clone());
                let tls = tls.clone();
                // Each has a server of its own, because they are told to go at different times.
                connections.spawn(async move {
                    let opening = Connection::open(client, tls.as_ref(), &budget);
                    let connection = match closing.run_until_cancelled(opening).await {
                        Some(Ok(connection)) => connection,
                        Some(Err(refusal)) => return tracing::debug!(%refusal, "a connection was not opened"),
                        None => return,
                    };
                    let (incoming, end) = connection.served(max_connection_age, closing);
                    if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                        tracing::debug!(%error, "a connection could not be served");
                    }
                });
            }
            // From here on the port is closed.
            drop(listener);
            connections.close();
            connections.wait().await;
        }
    };
    let probes = ports.probes.map(|probes| {
        serve(Listener::new(probes, &places(MAX_PROBES), false), Routes::new(health), None, ended)
    });
    let places = places(max_connections);
    let tls = tls.is_served().then_some(tls);
    let tcp = Listener::new(ports.tcp, &places, tls.is_some());
    let tcp = serve(tcp, all.clone(), tls, closing.clone());
    let unix = ports.unix.map(|port| serve(Listener::new(port, &places, false), all, None, closing));
    join3(tcp, OptionFuture::from(unix), OptionFuture::from(probes)).await;
    Ok(())
}

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

/// Adds details to the errors that tonic makes by itself.
fn enrich(mut response: http::Response<Body>, max_message_size: usize) -> http::Response<Body> {
    let enriched = Status::from_header_map(response.headers())
        .and_then(|status| status::of_transport(&status, max_message_size));
    if let Some(status) = enriched
        && let Err(error) = status.add_header(response.headers_mut())
    {
        tracing::debug!(%error, "an error could not be given details");
    }
    response
}
