//! A client learns without a .proto what the server is and how it is: by reflection, health and GetServerInfo.

use copilot_grpc::grpc::pb::{BackendState, GetServerInfoRequest};
use scripted_model::Reply;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb;

use crate::support::{facade::Setup, real_cli::RealCli, soon};

/// A port on which nobody listens.
const NOBODY: &str = "127.0.0.1:9";

/// Asks one of the two reflection services, whose messages differ by their package only.
macro_rules! reflect {
    ($version:ident, $facade:expr, $request:ident($argument:expr)) => {{
        use pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let message_request = Some(MessageRequest::$request($argument.into()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut client = ServerReflectionClient::new($facade.channel());
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        match answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            MessageResponse::FileDescriptorResponse(found) => {
                vec![format!("{} files", found.file_descriptor_proto.len())]
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test]
async fn reflection_of_both_versions_tells_the_services_and_the_types_of_error_details() {
    let facade = Setup { cli_url: NOBODY.into(), ..Setup::default() }.start_unready().await;
    let services = [reflect!(v1, facade, ListServices("")), reflect!(v1alpha, facade, ListServices(""))];
    for services in services {
        for service in ["copilot_grpc.v1.CopilotService", "grpc.health.v1.Health"] {
            assert!(services.iter().any(|name| name == service), "{services:?}");
        }
    }
    for symbol in
        ["copilot_grpc.v1.SendAndWaitRequest", "copilot_grpc.v1.TurnFailure", "google.rpc.ErrorInfo"]
    {
        assert_eq!(reflect!(v1, facade, FileContainingSymbol(symbol)), ["1 files"]);
        assert_eq!(reflect!(v1alpha, facade, FileContainingSymbol(symbol)), ["1 files"]);
    }
}

#[tokio::test]
async fn health_follows_the_cli_and_liveness_the_process() {
    let cli = RealCli::start(|_| Reply::text("hello")).await;
    let facade = cli.facade().await;
    for service in ["", "copilot_grpc.v1.CopilotService", "liveness"] {
        facade.health_becomes(service, ServingStatus::Serving).await;
    }
    cli.kill();
    for service in ["", "copilot_grpc.v1.CopilotService"] {
        facade.health_becomes(service, ServingStatus::NotServing).await;
    }
    facade.health_becomes("liveness", ServingStatus::Serving).await;
    let request = HealthCheckRequest { service: "unknown".into() };
    let unknown = HealthClient::new(facade.channel()).check(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn who_asks_for_the_health_as_soon_as_the_port_is_open_gets_an_answer() {
    for _ in 0..20 {
        let facade = Setup { cli_url: NOBODY.into(), ..Setup::default() }.start_unready().await;
        for (service, expected) in [
            ("copilot_grpc.v1.CopilotService", ServingStatus::NotServing),
            ("", ServingStatus::NotServing),
            ("liveness", ServingStatus::Serving),
        ] {
            let request = HealthCheckRequest { service: service.into() };
            let health = HealthClient::new(facade.channel()).check(request).await.unwrap().into_inner();
            assert_eq!(health.status(), expected, "{service}");
        }
    }
}

#[tokio::test]
async fn the_server_says_which_cli_it_has_and_how_it_is() {
    let cli = RealCli::start(|_| Reply::text("hello")).await;
    let facade = cli.facade().await;
    facade.create("s").await;
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let [backend] = info.backends.as_slice() else { panic!("{info:?}") };
    assert_eq!((backend.state(), backend.protocol_version), (BackendState::Ready, 3));
    assert_eq!((backend.loaded_sessions, backend.running_turns), (1, 0));
    assert!(backend.cli_version.starts_with("1.0.") && backend.missing_features.is_empty(), "{backend:?}");
}

#[tokio::test]
async fn a_server_without_its_cli_says_what_is_wrong() {
    let facade = Setup { cli_url: NOBODY.into(), ..Setup::default() }.start_unready().await;
    let backend = soon("the backend is down", async {
        loop {
            let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
            let backend = info.backends[0].clone();
            if backend.state() == BackendState::Down {
                return backend;
            }
        }
    });
    let backend = backend.await;
    assert!(backend.problem.contains("cannot be connected to"), "{backend:?}");
    facade.health_becomes("", ServingStatus::NotServing).await;
}
