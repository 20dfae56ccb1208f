//! The port for probes: health, in plaintext, and nothing else.

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, GetServerInfoRequest, copilot_service_client::CopilotServiceClient,
};
use rustix::process::Signal;
use tokio::{net::TcpStream, process::Command};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::server;
use crate::support::{
    facade::{Streamed, stream},
    fake_cli::FakeCli,
    server::{PROGRAM, text, value_in},
    soon,
    tls::{Authority, Files},
};

#[tokio::test]
async fn probes_are_answered_to_the_end_while_a_turn_finishes_and_the_port_is_closed() {
    let cli = FakeCli::start().await;
    let mut server = server(&cli, &["--probe-listen=127.0.0.1:0".to_owned()]).await;
    let address = value_in(&mut server.logs, "serving probes", "address").await;
    let url = format!("http://{}", address.as_str().unwrap());
    let mut client = server.client().await;
    let request = CreateSessionRequest { session_id: "s".into(), ..Default::default() };
    client.create_session(request).await.unwrap();
    let streamed = client.send_and_stream(stream("s", "hello")).await.unwrap().into_inner();
    let turn = cli.begin().await;
    server.signal(Signal::TERM);
    soon("the port is closed", async { while TcpStream::connect(server.address()).await.is_ok() {} }).await;
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for (service, expected) in [("", ServingStatus::NotServing), ("liveness", ServingStatus::Serving)] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), expected, "{service}");
    }
    turn.finish(&["fine"]).await;
    assert_eq!(soon("the turn", Streamed::read(streamed)).await.end.unwrap().content, "fine");
    soon("the end", server.child.wait()).await.unwrap();
}

#[tokio::test]
async fn probes_are_told_of_health_and_nobody_of_anything_else() {
    let ca = Authority::new();
    let files = Files::of(&ca.server());
    let mut flags = files.mutual(&ca);
    flags.extend(["--probe-listen=127.0.0.1:0".to_owned(), "--drain-delay=60s".to_owned()]);
    let cli = FakeCli::start().await;
    let mut server = server(&cli, &flags).await;
    let address = value_in(&mut server.logs, "serving probes", "address").await;
    let url = format!("http://{}", address.as_str().unwrap());
    let healthy = Command::new(PROGRAM).args(["health", "--server", &url]).output();
    let healthy = soon("health", healthy).await.unwrap();
    assert_eq!(text(&healthy.stdout), "SERVING\n", "{healthy:?}");

    let refused = CopilotServiceClient::connect(url.clone()).await.unwrap();
    let refused = { refused }.get_server_info(GetServerInfoRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let listed =
        ServerReflectionClient::new(channel.clone()).server_reflection_info(tokio_stream::empty()).await;
    assert_eq!(listed.unwrap_err().code(), Code::Unimplemented);

    // They hear of the drain, and then that the process lives.
    server.signal(Signal::TERM);
    let mut health = HealthClient::new(channel);
    let request = |service: &str| HealthCheckRequest { service: service.into() };
    soon("it drains", async {
        while health.check(request("")).await.unwrap().into_inner().status() == ServingStatus::Serving {}
    })
    .await;
    let alive = health.check(request("liveness")).await.unwrap().into_inner();
    assert_eq!(alive.status(), ServingStatus::Serving);
    server.signal(Signal::TERM);
    soon("the end", server.child.wait()).await.unwrap();
    assert!(TcpStream::connect(address.as_str().unwrap()).await.is_err());
}
