//! A proxy between callers and the service that refuses the first calls of a method, and passes all else on.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

/// Which calls are refused, and how: in trailers only, as by a server that has done nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) method: &'static str,
    /// How often.
    pub(crate) times: usize,
    /// What `grpc-retry-pushback-ms` says, if it is there.
    pub(crate) pushback: Option<i64>,
}

pub(crate) struct Refuser {
    pub(crate) address: String,
    /// When the method was called.
    tries: Arc<Mutex<Vec<Instant>>>,
    _connections: JoinSet<()>,
}

impl Refuser {
    /// In front of an address.
    pub(crate) async fn start(target: &str, refusal: Refusal) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tries = Arc::<Mutex<Vec<Instant>>>::default();
        let (target, noted) = (target.to_owned(), tries.clone());
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                open.spawn(carry(caller, target.clone(), refusal, noted.clone()));
            }
        });
        Self { address, tries, _connections: connections }
    }

    /// How long after the one before it each repetition of the call came.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        self.tries.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// How often the method was called.
    pub(crate) fn tries(&self) -> usize {
        self.tries.lock().unwrap().len()
    }
}

/// Carries a caller's connection on one of its own.
async fn carry(caller: TcpStream, target: String, refusal: Refusal, tries: Arc<Mutex<Vec<Instant>>>) {
    let Ok(mut caller) = server::handshake(caller).await else { return };
    let Ok(service) = TcpStream::connect(&target).await else { return };
    let Ok((service, connection)) = client::handshake(service).await else { return };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    while let Some(Ok((request, mut respond))) = caller.accept().await {
        if request.uri().path().ends_with(refusal.method) {
            let mut tries = tries.lock().unwrap();
            tries.push(Instant::now());
            if tries.len() <= refusal.times {
                let _ = respond.send_response(refusal.response(), true);
                continue;
            }
        }
        let service = service.clone();
        tasks.spawn(async move { drop(pass_on(request, respond, service).await) });
    }
}

impl Refusal {
    fn response(&self) -> Response<()> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("not now"));
        if let Some(pushback) = self.pushback {
            headers.insert("grpc-retry-pushback-ms", pushback.into());
        }
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        response
    }
}

async fn pass_on(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    service: client::SendRequest<Bytes>,
) -> Result<(), h2::Error> {
    let (head, asked) = request.into_parts();
    let (response, to_service) = service.ready().await?.send_request(Request::from_parts(head, ()), false)?;
    let answer = async {
        let (head, answered) = response.await?.into_parts();
        let ends = answered.is_end_stream();
        let to_caller = respond.send_response(Response::from_parts(head, ()), ends)?;
        if ends { Ok(()) } else { pump(answered, to_caller).await }
    };
    tokio::pin!(answer);
    // The caller may go on asking while it is answered; once it is answered, the rest is not wanted.
    tokio::select! {
        result = pump(asked, to_service) => result.and(answer.await),
        result = &mut answer => result,
    }
}

/// Passes data on, and at last the trailers. Large enough windows are the sender's business: nothing here is large.
async fn pump(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        to.send_data(data, false)?;
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}
