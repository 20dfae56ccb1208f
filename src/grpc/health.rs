//! `grpc.health.v1`: the server and its service are well while the CLI is; `liveness` is well while the process is.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{pb::copilot_service_server::CopilotServiceServer, service::Service};
use crate::backend::State;

/// The name under which the process alone is asked for.
const LIVENESS: &str = "liveness";

/// Makes health follow the backend, until the server drains: then it is not well, whatever the backend says.
pub(super) async fn follow(
    reporter: HealthReporter,
    mut backend: watch::Receiver<State>,
    draining: CancellationToken,
) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    loop {
        let ready = matches!(*backend.borrow_and_update(), State::Ready(_)) && !draining.is_cancelled();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", <CopilotServiceServer<Service> as NamedService>::NAME] {
            reporter.set_service_status(service, status).await;
        }
        tokio::select! {
            changed = backend.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = draining.cancelled(), if ready => {}
        }
    }
}
