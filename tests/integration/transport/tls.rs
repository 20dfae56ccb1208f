//! TLS: who speaks it is served, in whichever language; who does not, or is slow, hinders nobody.

use std::{process::Stdio, time::Duration};

use copilot_grpc::grpc::pb::{CreateSessionRequest, copilot_service_client::CopilotServiceClient};
use futures_util::future::join_all;
use rustls::version::{TLS12, TLS13};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::Instant,
};

use super::{call, logged, server};
use crate::support::{
    facade::wait,
    fake_cli::FakeCli,
    http2::{Raw, opening},
    programs::{go_client, go_tools, python, root},
    server::PROGRAM,
    soon,
    tls::{Authority, Client, Files, When},
};

#[tokio::test]
async fn turns_are_served_over_tls_to_clients_in_rust_python_and_go_and_to_grpcurl() {
    let ca = Authority::new();
    let files = Files::of(&ca.server());
    let flags = files.mutual(&ca);
    let own = ca.issue(&["a.client"], When::Now);
    files.write("own-cert.pem", &own.cert);
    files.write("own-key.pem", &own.key);
    let cli = FakeCli::start().await;
    let server = server(&cli, &flags).await;
    let port = server.address().rsplit_once(':').unwrap().1;
    let address = &format!("localhost:{port}");

    let channel = Client::new(&ca, Some(&own)).channel(server.address()).await.unwrap();
    let mut client = CopilotServiceClient::new(channel);
    for session in ["s", "python", "go"] {
        let session_id = session.into();
        let request = CreateSessionRequest { session_id, ..Default::default() };
        client.create_session(request).await.unwrap();
    }
    let (sent, _) = tokio::join!(client.send_and_wait(wait("s", "hello")), cli.turn(&["fine"]));
    assert_eq!(sent.unwrap().into_inner().result.unwrap().content, "fine");

    let python = [python().await.to_owned(), root().join("tests/integration/retrying.py")];
    let go = [go_client().await.to_owned()];
    for (session, program) in [("python", &python[..]), ("go", &go[..])] {
        let mut command = Command::new(&program[0]);
        command
            .args(&program[1..])
            .arg(root().join("examples/service-config.json"))
            .args([address, "send", session, "hello"])
            .env("TLS_FOLDER", files.path(""));
        let (came, _) = tokio::join!(said(command), cli.turn(&["fine, too"]));
        assert_eq!(came.trim(), "fine, too", "{session}");
    }

    let flag = |flag: &str, name: &str| [flag.to_owned(), files.path(name).display().to_string()];
    let mut grpcurl = Command::new(go_tools().await.join("grpcurl"));
    grpcurl
        .args(
            [flag("-cacert", "ca.pem"), flag("-cert", "own-cert.pem"), flag("-key", "own-key.pem")].concat(),
        )
        .args([address, "list"]);
    assert!(said(grpcurl).await.contains("copilot_grpc.v1.CopilotService"));

    // And so does the command line.
    let files_of = [
        files.flag("ca-file", "ca.pem"),
        files.flag("cert-file", "own-cert.pem"),
        files.flag("key-file", "own-key.pem"),
    ];
    let health = async |flags: &[String]| {
        let mut command = Command::new(PROGRAM);
        command.args(["health", "--server", &format!("https://{address}")]).args(flags);
        soon("health", command.output()).await.unwrap()
    };
    let healthy = health(&files_of).await;
    assert_eq!(String::from_utf8_lossy(&healthy.stdout), "SERVING\n", "{healthy:?}");
    let nobody = health(&files_of[..1]).await;
    let told = String::from_utf8_lossy(&nobody.stderr);
    assert!(!nobody.status.success() && told.contains("CertificateRequired"), "{told}");
    let stranger = health(&[]).await;
    let told = String::from_utf8_lossy(&stranger.stderr);
    assert!(!stranger.status.success() && told.contains("its certificate is not trusted"), "{told}");
}

async fn said(mut command: Command) -> String {
    let output = soon("a client's end", command.stderr(Stdio::inherit()).kill_on_drop(true).output());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{command:?}: {:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A ClientHello of a client that speaks nothing newer than this.
fn hello(version: [u8; 2]) -> Vec<u8> {
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let point_formats = [0, 11, 0, 2, 1, 0];
    let extensions = [&groups[..], &point_formats].concat();
    // ECDHE with RSA or ECDSA and AES-128, as TLS 1.1 has them, and as TLS 1.2 does.
    let ciphers = [0xc0, 0x13, 0xc0, 0x09, 0xc0, 0x2b, 0xc0, 0x2f];
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let body = [
        &version[..],
        &[7; 32],
        &[0],
        &length(ciphers.len()),
        &ciphers,
        &[1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0], &length(body.len())[..], &body].concat();
    [&[22, 3, 1], &length(handshake.len())[..], &handshake].concat()
}

/// The alert that a client gets that says this first, and then waits for the end.
async fn alert(address: &str, said: &[u8]) -> u8 {
    let mut raw = Raw::connect(address).await;
    raw.write(said).await;
    let mut answer = Vec::new();
    soon("the end", raw.0.read_to_end(&mut answer)).await.unwrap();
    // A record that is an alert, of two bytes, which is fatal (RFC 8446, section 6).
    assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?}");
    answer[6]
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let ca = Authority::new();
    let cli = FakeCli::start().await;
    let files = Files::of(&ca.server());
    let server = server(&cli, &files.flags()).await;
    for version in [&TLS12, &TLS13] {
        call(&server, &Client::speaking(&ca, None, &[version])).await.unwrap();
    }
    for version in [[3, 1], [3, 2]] {
        let alert = alert(server.address(), &hello(version)).await;
        assert!(matches!(alert, HANDSHAKE_FAILURE | PROTOCOL_VERSION), "{version:?}: {alert}");
    }
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so_by_an_alert_and_others_are_served() {
    let ca = Authority::new();
    let cli = FakeCli::start().await;
    let files = Files::of(&ca.server());
    let server = server(&cli, &files.flags()).await;
    for said in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &opening(), b"\0\0\0\0\0\0\0\0"] {
        alert(server.address(), said).await;
    }
    call(&server, &Client::new(&ca, None)).await.unwrap();
    let told = logged(&server, "a connection was not opened", 3).await;
    assert_eq!(told["refusal"], "it does not speak TLS");
    // Nobody is warned of what anybody can do.
    assert_eq!(server.times("TLS handshakes with clients have failed"), 0);
}

#[tokio::test]
async fn handshakes_that_are_silent_or_stop_hinder_nobody_and_are_ended_after_ten_seconds() {
    const SLOW: usize = 500;
    let ca = Authority::new();
    let cli = FakeCli::start().await;
    let files = Files::of(&ca.server());
    let server = server(&cli, &files.flags()).await;
    let hello = hello([3, 3]);
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut raw = Raw::connect(server.address()).await;
        raw.write(&hello[..[0, 1, 5, hello.len() - 1][number % 4]]).await;
        slow.push(raw);
    }
    let began = Instant::now();
    let client = Client::new(&ca, None);
    let calls = join_all((0..20).map(|_| call(&server, &client))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    for raw in &mut slow {
        let mut rest = Vec::new();
        soon("the end of a silent connection", raw.0.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_wrong_protocol_over_tls_is_refused() {
    let ca = Authority::new();
    let cli = FakeCli::start().await;
    let files = Files::of(&ca.server());
    let server = server(&cli, &files.flags()).await;
    let mut stream = Client::new(&ca, None).connect(server.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
}
