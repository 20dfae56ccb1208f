//! One connection to a CLI, after its handshake.
//!
//! Tests: `tests/integration/faults/handshake.rs`, `tests/integration/links.rs`.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::debug;
use uuid::Uuid;

use super::{error::Error, health::Eligibility, names::Names};
use crate::{
    copilot::{
        Method, Rejection, Secret,
        features::{FEATURES, Probe},
        method::{ClientInfo, Connect, GetStatus, Ping},
        version::{Identity, Unusable},
    },
    jsonrpc::{self, Cause, Peer},
};

/// How long an external CLI may take to connect and shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of calls that have none of their own. The slowest call known is creating a session, which took 4 s with 50 at
/// once, and 30 s in one release of the CLI (copilot-cli#4744).
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the CLI may take to answer which methods it lacks. It takes milliseconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection to a CLI, after its handshake. Sessions that it created or resumed are attached to it.
///
/// It is a handle of one of two kinds. As [`Backend::connected`](super::Backend::connected) gives it, it is *in use*: the CLI
/// is not ended while somebody holds it, unless that takes too long. Code that only remembers the link holds it [at
/// rest](Self::at_rest). A clone is of the same kind.
#[derive(Clone)]
pub struct Link {
    wire: Arc<Wire>,
    in_use: Option<TaskTrackerToken>,
}

struct Wire {
    id: LinkId,
    peer: Peer,
    identity: Identity,
    missing: Vec<String>,
    eligibility: Arc<Eligibility>,
    users: TaskTracker,
}

/// The id of a link, unique among the links of all backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// A new id.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a link is made of, apart from the connection itself.
pub(super) struct Ends<H> {
    pub(super) id: LinkId,
    pub(super) options: jsonrpc::Options,
    /// Takes what the CLI sends.
    pub(super) handler: H,
    pub(super) eligibility: Arc<Eligibility>,
}

impl Link {
    /// Connects and shakes hands. The host is looked up as the system does, unless there are `names`.
    pub(super) async fn connect<H: jsonrpc::Handler>(
        (host, port): (&str, u16),
        names: Option<&Names>,
        token: Option<&Secret>,
        ends: Ends<H>,
    ) -> Result<Self, OpenError> {
        let open = async {
            let socket =
                connect((host, port), names).await.map_err(|error| OpenError::Connect(error.to_string()))?;
            tune(&socket);
            Self::open(socket, token, ends).await
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, open).await.unwrap_or(Err(OpenError::TimedOut))
    }

    /// Shakes hands over an open connection, without a time limit of its own.
    pub(super) async fn open<IO, H>(io: IO, token: Option<&Secret>, ends: Ends<H>) -> Result<Self, OpenError>
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
        H: jsonrpc::Handler,
    {
        let Ends { id, options, handler, eligibility } = ends;
        let peer = Peer::spawn(io, handler, options);
        let users = TaskTracker::new();
        let mut wire =
            Wire { id, peer, identity: Identity::default(), missing: Vec::new(), eligibility, users };
        wire.identity = wire.shake_hands(token).await?;
        wire.missing = wire.missing_features().await;
        Ok(Self { wire: Arc::new(wire), in_use: None })
    }

    /// The id of this link.
    pub fn id(&self) -> LinkId {
        self.wire.id
    }

    /// The version and protocol that the CLI reports.
    pub fn identity(&self) -> &Identity {
        &self.wire.identity
    }

    /// Features that the CLI lacks, in words for the operator: each is `METHOD: what it is needed for`.
    pub fn missing_features(&self) -> &[String] {
        &self.wire.missing
    }

    /// Number of calls that wait for an answer.
    pub fn in_flight(&self) -> usize {
        self.wire.peer.in_flight()
    }

    /// Calls a method and waits for its result, for 60 s at most.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the call; the CLI may still carry it out. Half a message is never sent.
    pub async fn call<M: Method>(&self, params: &M) -> Result<M::Output, Error> {
        self.call_within(CALL_TIMEOUT, params).await
    }

    /// [`call`](Self::call) with another time limit.
    pub async fn call_within<M: Method>(&self, limit: Duration, params: &M) -> Result<M::Output, Error> {
        let result = self.wire.call(limit, params).await;
        // A CLI that answers pings may fail in all else.
        if M::NAME != Ping::NAME {
            self.wire.eligibility.called(M::NAME, &result);
        }
        result
    }

    /// A handle to this link that is in use.
    pub fn in_use(&self) -> Arc<Self> {
        Arc::new(Self { wire: self.wire.clone(), in_use: Some(self.wire.users.token()) })
    }

    /// A handle to this link that only remembers it.
    pub fn at_rest(&self) -> Self {
        Self { wire: self.wire.clone(), in_use: None }
    }

    /// Whether somebody holds a handle that is in use.
    pub fn is_used(&self) -> bool {
        !self.wire.users.is_empty()
    }

    /// Resolves when nobody uses the link. The caller sees to it that nobody begins to.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn vacated(&self) {
        self.wire.users.close();
        self.wire.users.wait().await;
    }

    /// The loss of the link, as the error of any further call. Code that remembers the link for a session checks this first,
    /// under the session's lock: the sink is told of the loss once, after this is set, and may have been told already.
    pub fn loss(&self) -> Option<Error> {
        self.wire.peer.cause().map(|cause| Error::Lost { cause, written: true })
    }

    /// Resolves when the link is lost, with the cause.
    pub(super) async fn closed(&self) -> Arc<Cause> {
        self.wire.peer.closed().await
    }

    /// Closes the link.
    pub(super) fn close(&self) {
        self.wire.peer.close();
    }
}

impl Wire {
    /// Exchanges names and versions with the CLI.
    async fn shake_hands(&self, token: Option<&Secret>) -> Result<Identity, OpenError> {
        let client_info = ClientInfo {
            extension_name: env!("CARGO_PKG_NAME"),
            extension_version: env!("CARGO_PKG_VERSION"),
        };
        let identity: Identity = match self.ask(&Connect { token, client_info }).await {
            Ok(connected) => connected.into(),
            // A CLI too old for `connect`: it is not used, but the operator is told its version.
            Err(Error::Rejected(Rejection::MethodMissing(_))) => self.ask(&GetStatus {}).await?.into(),
            Err(Error::Rejected(Rejection::Connection(problem))) => return Err(OpenError::Token(problem)),
            Err(error) => return Err(error.into()),
        };
        match identity.check() {
            Ok(()) => Ok(identity),
            Err(unusable) => Err(OpenError::Unusable { unusable, identity }),
        }
    }

    /// Asks for each method whether the CLI has it. One that is not answered counts as present.
    async fn missing_features(&self) -> Vec<String> {
        let session_id = format!("probe-{}", Uuid::new_v4());
        let probe = Probe { session_id: &session_id };
        let asked = FEATURES.iter().map(async |(method, feature)| {
            let answer = self.peer.request(method, &probe).await.map_err(|error| refusal(method, error));
            let is_missing = matches!(answer, Err(Error::Rejected(Rejection::MethodMissing(_))));
            is_missing.then(|| format!("{method}: {feature}"))
        });
        let answers = tokio::time::timeout(PROBE_TIMEOUT, join_all(asked)).await;
        answers.unwrap_or_default().into_iter().flatten().collect()
    }

    async fn call<M: Method>(&self, limit: Duration, params: &M) -> Result<M::Output, Error> {
        let answer = tokio::time::timeout(limit, self.ask(params));
        answer.await.unwrap_or(Err(Error::Timeout { method: M::NAME, after: limit }))
    }

    async fn ask<M: Method>(&self, params: &M) -> Result<M::Output, Error> {
        let method = M::NAME;
        let result = self.peer.request(method, params).await.map_err(|error| refusal(method, error))?;
        serde_json::from_slice(&result)
            .map_err(|error| Error::Protocol { method, problem: unreadable(&error) })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wire { id, identity: Identity { version, .. }, .. } = &*self.wire;
        let in_use = self.in_use.is_some();
        f.debug_struct("Link").field("id", id).field("version", version).field("in_use", &in_use).finish()
    }
}

/// Where an answer is not of its form. What serde says of it would quote the answer, which may be a prompt or a key.
fn unreadable(error: &serde_json::Error) -> String {
    format!("it is not of the form that was expected, at line {} column {}", error.line(), error.column())
}

fn refusal(method: &'static str, error: jsonrpc::Error) -> Error {
    match error {
        jsonrpc::Error::Closed { cause, written } => Error::Lost { cause, written },
        jsonrpc::Error::Rejected(error) => {
            Error::Rejected(Rejection::new(method, error.code, &error.message))
        }
        jsonrpc::Error::ResponseTooLarge { len } => Error::TooLarge { method, size: len },
        jsonrpc::Error::TooManyPending => Error::Overloaded,
        jsonrpc::Error::Encode(problem) => Error::Protocol { method, problem },
    }
}

/// How long the other machine may take to confirm that it got what was sent. Its kernel confirms, so a CLI that is frozen or
/// short of CPU does not count as gone.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNCONFIRMED: Duration = Duration::from_secs(8);

/// Connects to the first address of a host that can be connected to.
async fn connect((host, port): (&str, u16), names: Option<&Names>) -> io::Result<TcpStream> {
    let Some(names) = names else { return TcpStream::connect((host, port)).await };
    let found = names.addresses(host).await?.found.into_iter();
    let addresses: Vec<_> = found.map(|ip| SocketAddr::from((ip, port))).collect();
    TcpStream::connect(&*addresses).await
}

/// Sets socket options: deltas are small and are sent at once, and a machine that vanished without a word is noticed within
/// seconds, also on a link whose pings are given much time.
fn tune(socket: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
    let tuned = socket.set_nodelay(true).and(SockRef::from(socket).set_tcp_keepalive(&keepalive));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let tuned = tuned.and(SockRef::from(socket).set_tcp_user_timeout(Some(UNCONFIRMED)));
    if let Err(error) = tuned {
        debug!(%error, "the socket to the CLI could not be tuned");
    }
}

/// Why a link could not be opened. Each variant calls for another action of the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it cannot be connected to: {0}")]
    Connect(String),
    #[error("it did not answer within {HANDSHAKE_TIMEOUT:?}")]
    TimedOut,
    #[error(
        "it refuses the connection token: {0}; set COPILOT_CONNECTION_TOKEN or cli_token_file to the token that the \
         CLI was started with, and to none if it has none"
    )]
    Token(String),
    #[error("{unusable}")]
    Unusable { unusable: Unusable, identity: Identity },
    #[error(
        "what it writes to its standard output is not JSON-RPC ({0}): let --cli-path name the `copilot` binary, or a script \
         that leaves standard input and output to it"
    )]
    Babble(Arc<Cause>),
    #[error("{0}")]
    Call(#[from] Error),
}

impl OpenError {
    /// The error for a link that was lost while its embedded CLI still ran.
    pub(super) fn on_stdio(cause: Arc<Cause>) -> Self {
        match *cause {
            Cause::Frame(_) | Cause::Malformed(_) => Self::Babble(cause),
            Cause::Eof
            | Cause::EofInsideFrame
            | Cause::Io { .. }
            | Cause::PeerParseFailure(_)
            | Cause::PeerMisbehaved(_)
            | Cause::OversizedFrame { .. }
            | Cause::Local => Self::Call(Error::Lost { cause, written: true }),
        }
    }
}
