//! The HTTP server: a listener, its connections, and the calls that they bring.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::call::CallGuard;
use crate::reply::{error, json_response};
use crate::{Call, Reply, Request, anthropic};

/// The largest request body, in bytes. A conversation is sent whole with every request, and clients let it
/// grow far beyond axum's default of 2 MB.
const MAX_BODY: usize = 256 << 20;

/// A running model server. Dropping it stops it and closes its connections, answered or not.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    calls: watch::Sender<Vec<Call>>,
    task: JoinHandle<()>,
}

impl ModelServer {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// `script` is called once for every request, by several connections at once.
    pub async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into(), script).await
    }

    /// Starts a server on this address, where port 0 is any free port. There is no authentication, so the
    /// address should be a loopback one.
    pub async fn bind(
        address: SocketAddr,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let calls = watch::Sender::new(Vec::new());
        let model = Model { calls: calls.clone(), script: Arc::new(script) };
        let task = tokio::spawn(serve(listener, router(model)));
        Ok(Self { address, calls, task })
    }

    /// The base URL for clients, such as `http://127.0.0.1:4000/v1`, without a slash at its end.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The calls so far, in the order in which their requests were complete.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// Waits until `condition` holds for [the calls](Self::calls), and returns those. The condition is looked
    /// at now and whenever a call arrives or changes its state. There is no timeout.
    pub async fn wait_for(&self, condition: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut changes = self.calls.subscribe();
        loop {
            // A copy, so that the condition may itself ask for the calls.
            let calls = changes.borrow_and_update().clone();
            if condition(&calls) {
                return calls;
            }
            changes.changed().await.expect("the sender lives as long as self");
        }
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections for ever. Not `axum::serve`, because that lets go of its connections: here they end
/// with the future that accepted them.
async fn serve(mut listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = Listener::accept(&mut listener) => {
                // Otherwise small chunks wait for the client to acknowledge the ones before. A socket that
                // refuses is one that is already closed.
                let _ = stream.set_nodelay(true);
                let service = TowerToHyperService::new(router.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // How a connection ends is in the state of its calls.
                connections.spawn(async move { drop(connection.await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(Clone)]
struct Model {
    calls: watch::Sender<Vec<Call>>,
    script: Arc<dyn Fn(&Request) -> Reply + Send + Sync>,
}

fn router(model: Model) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/messages", post(messages))
        .route("/v1/models", get(models))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(model)
}

async fn chat_completions(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    let request = match Request::parse(&headers, &body) {
        Ok(request) => Arc::new(request),
        Err(cause) => {
            return error(StatusCode::BAD_REQUEST, &format!("not a chat completion request: {cause}"));
        }
    };
    let guard = CallGuard::open(&model.calls, request.clone());
    (model.script)(&request).respond(&request, guard).await
}

async fn messages(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    let request = match Request::parse(&headers, &body) {
        Ok(request) => Arc::new(request),
        Err(cause) => return error(StatusCode::BAD_REQUEST, &format!("not a messages request: {cause}")),
    };
    let guard = CallGuard::open(&model.calls, request.clone());
    anthropic::respond(&(model.script)(&request), &request.model, guard)
}

async fn models() -> Response {
    // Any name is answered; this one is for clients that want to see a list.
    let model = json!({"id": "scripted", "object": "model", "created": 0, "owned_by": "scripted-model"});
    json_response(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}

async fn not_found(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, &format!("there is no {}: the base URL ends in /v1", uri.path()))
}
