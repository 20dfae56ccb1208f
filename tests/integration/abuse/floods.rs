//! A client that floods the server with what costs it little, and reads nothing, loses its connection or is borne.

use std::time::Duration;

use copilot_grpc::grpc::pb::GetServerInfoRequest;
use prost::Message as _;
use tokio::time::{Instant, timeout};

use crate::support::{
    SOON,
    fake_cli::FakeCli,
    http2::{
        CONTINUATION, DATA, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, opening,
    },
    server::Server,
    soon,
};

const MIB: u64 = 1 << 20;

/// The head of a call, without Huffman codes or the dynamic table (RFC 7541, section 6.2.2).
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let call = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/copilot_grpc.v1.CopilotService/GetServerInfo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    call.iter().chain(fields).flat_map(field).collect()
}

/// What a client sends, in pieces that may be repeated for ever, until the server closes the connection; at most for as long,
/// or as much. It reads nothing. Whether it was closed, and how much had been sent.
async fn flood(address: &str, mut pieces: impl FnMut(u32) -> Vec<u8>) -> (bool, u64) {
    const MOST: u64 = 16 * MIB;
    let mut raw = Raw::connect(address).await;
    raw.write(&opening()).await;
    let (mut sent, mut piece) = (0, 0);
    while sent < MOST {
        let bytes = pieces(piece);
        piece += 1;
        match timeout(Duration::from_secs(1), raw.write(&bytes)).await {
            Ok(true) => sent += bytes.len() as u64,
            Ok(false) => return (true, sent),
            // The server reads no more.
            Err(_) => return (false, sent),
        }
    }
    (false, sent)
}

/// A flood comes while others call: they are answered at once, and the server's memory does not grow.
async fn withstands(name: &str, pieces: impl FnMut(u32) -> Vec<u8>) -> bool {
    let cli = FakeCli::start().await;
    let server = Server::in_front_of(&cli, &[]).await;
    let mut client = server.client().await;
    client.get_server_info(GetServerInfoRequest {}).await.unwrap();
    let before = server.memory();
    let (mut longest, mut calls) = (Duration::ZERO, 0);
    let calling = async {
        loop {
            let began = Instant::now();
            client.get_server_info(GetServerInfoRequest {}).await.unwrap();
            (longest, calls) = (longest.max(began.elapsed()), calls + 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (closed, sent) = tokio::select! {
        flooded = timeout(SOON, flood(server.address(), pieces)) => flooded.unwrap_or((false, 0)),
        () = calling => unreachable!(),
    };
    soon("a call after the flood", client.get_server_info(GetServerInfoRequest {})).await.unwrap();
    let more = before.surpassed_by();
    println!(
        "{name}: closed {closed} after {} KiB, {} MiB more; {calls} calls, the longest {longest:?}",
        sent / 1024,
        more / MIB
    );
    assert!(more < 64 * MIB, "{name}: {} MiB", more / MIB);
    assert!(longest < Duration::from_secs(2), "{name}: {longest:?}");
    closed
}

#[tokio::test]
async fn frames_of_no_call_that_come_as_a_flood_end_the_connection() {
    let many = |one: Vec<u8>| one.repeat(100);
    assert!(withstands("PING", |_| many(frame(PING, 0, 0, &[7; 8]))).await);
    assert!(withstands("acknowledged PING", |_| many(frame(PING, 1, 0, &[7; 8]))).await);
    assert!(withstands("SETTINGS", |_| many(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))).await);
    assert!(withstands("acknowledged SETTINGS", |_| many(frame(SETTINGS, 1, 0, &[]))).await);
    assert!(withstands("PRIORITY", |_| many(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]))).await);
    assert!(withstands("unknown frames", |_| many(frame(0xfa, 0, 0, b"?"))).await);
}

#[tokio::test]
async fn calls_that_are_given_up_as_soon_as_they_are_made_end_the_connection_or_are_borne() {
    let rapid = |piece: u32| {
        let call = |n: u32| {
            let stream = 2 * (piece * 100 + n) + 1;
            [frame(HEADERS, 4, stream, &head(&[])), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())]
                .concat()
        };
        (0..100).flat_map(call).collect()
    };
    withstands("rapid reset", rapid).await;
}

#[tokio::test]
async fn a_call_whose_head_never_ends_and_one_whose_head_is_huge_end_the_connection() {
    let endless = |piece: u32| match piece {
        0 => frame(HEADERS, 0, 1, &head(&[])),
        _ => frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']).repeat(100),
    };
    assert!(withstands("CONTINUATION", endless).await);
    let empty = |piece: u32| match piece {
        0 => frame(HEADERS, 0, 1, &head(&[])),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(100),
    };
    assert!(withstands("empty CONTINUATION", empty).await);
    let long = "x".repeat(120);
    let fields: Vec<_> = (0..100).map(|_| ("long", long.as_str())).collect();
    let huge = |piece: u32| match piece {
        0 => frame(HEADERS, 0, 1, &head(&fields)),
        _ => frame(CONTINUATION, 0, 1, &head(&fields)),
    };
    assert!(withstands("a huge head", huge).await);
}

#[tokio::test]
async fn empty_data_and_room_for_nothing_end_the_connection_or_are_borne() {
    let begin = |piece: u32, frame: Vec<u8>| match piece {
        0 => frame_of_call(),
        _ => frame.repeat(100),
    };
    assert!(withstands("empty DATA", |piece| begin(piece, frame(DATA, 0, 1, &[]))).await);
    let room = |stream| frame(WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
    withstands("WINDOW_UPDATE", |piece| begin(piece, room(0))).await;
    withstands("WINDOW_UPDATE of a call", |piece| begin(piece, room(1))).await;
}

fn frame_of_call() -> Vec<u8> {
    frame(HEADERS, 4, 1, &head(&[]))
}

#[tokio::test]
#[ignore = "takes 40 seconds: make abuse"]
async fn a_client_that_answers_no_ping_while_it_says_a_byte_now_and_then_is_found_dead() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let mut raw = Raw::open(&facade.facade.address().to_string()).await;
    // A head that is announced, and comes a byte at a time.
    raw.write(&frame(HEADERS, 4, 1, &[0; 100])[..9]).await;
    let (mut reading, mut writing) = raw.0.into_split();
    let dribbling = async {
        while tokio::io::AsyncWriteExt::write_all(&mut writing, &[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut rest);
    // 30 s until it is asked for a sign of life, and 10 s until it must have given it.
    let ended = timeout(Duration::from_secs(60), async {
        tokio::select! {
            _ = closed => {}
            () = dribbling => {}
        }
    });
    ended.await.expect("its end");
}

#[tokio::test]
async fn what_is_no_call_is_turned_away() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let socket = tokio::net::TcpStream::connect(facade.facade.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let message = [&[0; 5][..], &GetServerInfoRequest {}.encode_to_vec()].concat();
    for (method, content_type, expected) in [
        ("POST", "application/grpc", 200),
        ("POST", "application/grpc+proto", 200),
        ("POST", "application/grpc-web", 415),
        ("POST", "application/json", 415),
        ("GET", "application/grpc", 405),
        ("PUT", "application/grpc", 405),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri("http://x/copilot_grpc.v1.CopilotService/GetServerInfo")
            .header("content-type", content_type)
            .body(())
            .unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        // It may have been answered already.
        let _ = body.send_data(message.clone().into(), true);
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{method} {content_type}");
    }
}
