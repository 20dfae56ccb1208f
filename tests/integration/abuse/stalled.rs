//! What is never read, and what is never finished, holds no more memory than the budget.
//!
//! The callers are such as never read what they asked for, or never finish what they ask.

use std::time::Duration;

use bytes::Bytes;
use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, ListEventsRequest, copilot_service_client::CopilotServiceClient,
};
use h2::{
    SendStream,
    client::{Builder, Connection, ResponseFuture},
};
use prost::Message;
use serde_json::json;
use tokio::{net::TcpStream, time::Instant};
use tonic::{Code, transport::Channel};
use tonic_types::pb::ErrorInfo;

use crate::support::{
    check as check_status, detail,
    facade::{event, wait, watching},
    fake_cli::FakeCli,
    memory::Peak,
    server::Server,
    soon, until,
};

const MIB: u64 = 1 << 20;

/// How long it may take on a busy machine to read and write hundreds of megabytes.
const LONG: Duration = Duration::from_secs(120);

/// A client that has made calls, and from then on reads nothing, not even its socket.
struct Stalled {
    _calls: Vec<(ResponseFuture, SendStream<Bytes>)>,
    _connection: Connection<TcpStream, Bytes>,
}

/// How much room a client gives each of its calls, and all of them.
#[derive(Clone, Copy)]
struct Window(u32);

/// What a client says of a call.
enum Says {
    /// All of it. Then it waits until its answer has begun.
    All(Vec<u8>),
    /// Only the beginning.
    Beginning(Vec<u8>),
}

impl Stalled {
    /// Makes calls of a method, until all are made or the server closes the connection.
    async fn open(server: &Server, window: Window, method: &str, calls: Vec<Says>) -> Self {
        let socket = TcpStream::connect(server.address()).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(window.0).initial_connection_window_size(window.0.max(65_535));
        let (sender, mut connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
        let mut made = Vec::new();
        let making = async {
            for call in calls {
                let request =
                    http::Request::post(format!("http://x/copilot_grpc.v1.CopilotService/{method}"))
                        .header("content-type", "application/grpc")
                        .header("te", "trailers");
                let mut sender = sender.clone().ready().await?;
                let (mut answer, mut request) = sender.send_request(request.body(()).unwrap(), false)?;
                match call {
                    Says::All(message) => {
                        request.send_data(message.into(), true)?;
                        (&mut answer).await?;
                    }
                    Says::Beginning(message) => {
                        for piece in message.chunks(64 * 1024).map(Bytes::copy_from_slice) {
                            request.reserve_capacity(piece.len());
                            while request.capacity() < piece.len() {
                                let more = std::future::poll_fn(|cx| request.poll_capacity(cx)).await;
                                more.transpose()?;
                            }
                            request.send_data(piece, false)?;
                        }
                    }
                }
                made.push((answer, request));
            }
            Ok::<_, h2::Error>(())
        };
        tokio::select! {
            _ = making => {}
            _ = &mut connection => {}
        }
        Self { _calls: made, _connection: connection }
    }
}

/// A message as it is sent.
fn prefixed(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).unwrap();
    [&[0][..], &length.to_be_bytes(), &message.encode_to_vec()].concat()
}

fn session(number: usize) -> String {
    format!("s{number}")
}

async fn client(server: &Server, sessions: usize) -> CopilotServiceClient<Channel> {
    let mut client = server.client().await;
    for number in 0..sessions {
        let request = CreateSessionRequest { session_id: session(number), ..Default::default() };
        client.create_session(request).await.unwrap();
    }
    client
}

/// What an agent says in a session: not much, but each reader that is behind has a copy of its deltas.
async fn say(cli: &FakeCli, session: &str) {
    let event = |kind: &str, data| cli.event(session, kind, data).ephemeral().frame();
    // More than are queued as they are, and then those that are joined.
    let mut frames: Vec<u8> = (0..64).flat_map(|_| event("abort", json!({"reason": "r"}))).collect();
    let delta = json!({"messageId": "m", "deltaContent": "y".repeat(1024)});
    frames.extend((0..100).flat_map(|_| event("assistant.message_delta", delta.clone())));
    cli.raw(&frames).await;
}

/// As many watchers on so many connections, none of which reads: how much memory more the server has had, and how long
/// another's turns took at most.
async fn stall(watchers: usize, connections: usize, window: Window) -> (Server, u64, Duration) {
    const SESSIONS: usize = 45;
    let cli = FakeCli::start().await;
    let server = Server::in_front_of(&cli, &[]).await;
    let mut others = client(&server, SESSIONS + 1).await;
    let before = server.memory();
    let mut stalled = Vec::new();
    for connection in 0..connections {
        let watch = |number: usize| {
            let session_id = session(number % SESSIONS);
            Says::All(prefixed(&watching(&session_id)))
        };
        let share = watchers / connections;
        let watches = (connection * share..(connection + 1) * share).map(watch).collect();
        stalled.push(Stalled::open(&server, window, "WatchSession", watches).await);
    }
    let open = before.surpassed_by();
    let mut longest = Duration::ZERO;
    for number in 0..2 * SESSIONS {
        say(&cli, &session(number % SESSIONS)).await;
        let began = Instant::now();
        let turn = async { others.send_and_wait(wait(&session(SESSIONS), "hello")).await.unwrap() };
        let (turn, _) = tokio::join!(turn, cli.turn(&["fine"]));
        assert_eq!(turn.into_inner().result.unwrap().content, "fine");
        longest = longest.max(began.elapsed());
    }
    let more = before.surpassed_by();
    println!(
        "{watchers} watchers on {connections} connections with windows of {}: {} MiB when open, {} MiB more at most; \
         another's longest turn {longest:?}",
        window.0,
        open / MIB,
        more / MIB
    );
    drop(stalled);
    (server, more, longest)
}

#[tokio::test]
#[ignore = "wants the machine for itself: make abuse"]
async fn watchers_on_few_connections_that_give_no_room_hold_no_more_than_the_budget() {
    let (_server, more, longest) = stall(4500, 5, Window(0)).await;
    assert!(more < 256 * MIB && longest < Duration::from_secs(2), "{} MiB, {longest:?}", more / MIB);
}

#[tokio::test]
#[ignore = "wants the machine for itself: make abuse"]
async fn watchers_on_many_connections_that_give_no_room_hold_no_more_than_the_budget() {
    let (_server, more, longest) = stall(4500, 50, Window(0)).await;
    assert!(more < 256 * MIB && longest < Duration::from_secs(2), "{} MiB, {longest:?}", more / MIB);
}

/// What was encoded cannot be taken back, so here it is connections that are closed. The room that they leave is not all of use
/// at once, for the allocator has it in pieces, which count for the budget.
#[tokio::test]
#[ignore = "wants the machine for itself: make abuse"]
async fn watchers_that_give_much_room_and_read_nothing_hold_no_more_than_the_budget() {
    let (_server, more, longest) = stall(4500, 50, Window(16 << 20)).await;
    assert!(more < 256 * MIB && longest < Duration::from_secs(2), "{} MiB, {longest:?}", more / MIB);
}

/// A server with little for those who do not read, a client of it, and the memory that it has.
async fn narrow(cli: &FakeCli) -> (Server, CopilotServiceClient<Channel>, Peak) {
    let server = Server::in_front_of(cli, &["--max-reader-memory=64MiB"]).await;
    let client = client(&server, 1).await;
    let before = server.memory();
    (server, client, before)
}

/// Others are served, and no more memory was taken than that.
async fn check(cli: &FakeCli, mut client: CopilotServiceClient<Channel>, before: Peak) {
    let turn = async { client.send_and_wait(wait(&session(0), "hello")).await.unwrap() };
    let (turn, _) = soon("another's turn", async { tokio::join!(turn, cli.turn(&["fine"])) }).await;
    assert_eq!(turn.into_inner().result.unwrap().content, "fine");
    let more = before.surpassed_by();
    println!("{} MiB more", more / MIB);
    assert!(more < 160 * MIB, "{} MiB", more / MIB);
}

#[tokio::test]
async fn requests_that_are_never_finished_hold_no_more_than_the_budget() {
    let cli = FakeCli::start().await;
    let (server, client, before) = narrow(&cli).await;
    // 16 MiB are announced, and 1 MiB comes; of 400 such calls.
    let beginning = [&[0, 1, 0, 0, 0][..], &vec![b'x'; (1 << 20) - 64]].concat();
    let mut stalled = Vec::new();
    for method in ["SendAndWait", "Converse", "SendAndWait", "Converse"] {
        let calls = (0..100).map(|_| Says::Beginning(beginning.clone())).collect();
        stalled.push(soon("the calls", Stalled::open(&server, Window(65_535), method, calls)).await);
    }
    check(&cli, client, before).await;
}

#[tokio::test]
async fn answers_that_are_never_read_hold_no_more_than_the_budget() {
    let cli = FakeCli::start().await;
    let (server, client, before) = narrow(&cli).await;
    const HISTORY: &str = "sessions.readPersistedEvents";
    cli.manual(HISTORY);
    let message = json!({"messageId": "m", "content": "x".repeat(1 << 20)});
    let event = json!({"type": "assistant.message", "id": "e", "data": message, "timestamp": "2026-11-23T14:30:00.000Z"});
    let page = json!({"events": [event], "cursor": "c", "hasMore": false, "cursorStatus": "ok"});
    let answering = async {
        loop {
            cli.next(HISTORY).await.answer(page.clone()).await;
        }
    };
    let request = ListEventsRequest { session_id: session(0), ..Default::default() };
    let mut stalled = Vec::new();
    let calling = async {
        for _ in 0..4 {
            let calls = (0..60).map(|_| Says::All(prefixed(&request))).collect();
            let open = Stalled::open(&server, Window(0), "ListEvents", calls);
            stalled.push(tokio::time::timeout(LONG, open).await.expect("the calls are made"));
        }
    };
    tokio::select! {
        () = calling => {}
        () = answering => unreachable!(),
    }
    let more = before.surpassed_by();
    assert!(more > 20 * MIB, "{} MiB: nothing was left unread", more / MIB);
    check(&cli, client, before).await;
}

#[tokio::test]
async fn a_reader_that_was_ended_is_told_where_to_go_on_and_a_watcher_too_many_is_refused() {
    let cli = FakeCli::start().await;
    let setup = cli.setup().flag("--max-reader-memory=1MiB").flag("--max-watchers=2");
    let facade = setup.start().await;
    facade.create("s").await;
    let watch = watching("s");
    // Clients that give little room, so that most of it waits in queues.
    let narrow = Channel::from_shared(format!("http://{}", facade.facade.address())).unwrap();
    let narrow = narrow.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut client = CopilotServiceClient::new(narrow.connect().await.unwrap());
    let mut watcher = client.watch_session(watch.clone()).await.unwrap().into_inner();
    let other = client.watch_session(watch.clone()).await.unwrap();
    let refused = client.watch_session(watch.clone()).await.map(|_| ()).unwrap_err();
    check_status(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
    assert!(refused.message().contains("max_watchers"), "{refused:?}");
    // More than HTTP/2's windows and the budget together.
    for n in 0..400 {
        let message = json!({"messageId": format!("m{n}"), "content": "x".repeat(16 * 1024)});
        cli.event("s", "assistant.message", message).await;
    }
    cli.event("s", "session.info", json!({"infoType": "last", "message": "last"})).await;
    until("they are ended", || facade.facade.sessions().budget().used() < 1 << 20).await;
    let mut cursor = String::new();
    let ended = loop {
        match soon("an event", event(&mut watcher)).await {
            Ok(event) => cursor = event.cursor,
            Err(ended) => break ended,
        }
    };
    check_status(&ended, Code::ResourceExhausted, ErrorReason::StreamLagged);
    let info: ErrorInfo = detail(&ended, "google.rpc.ErrorInfo").unwrap();
    assert_eq!(info.metadata["cursor"], cursor);
    drop(other);
}
