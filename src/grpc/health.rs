//! `grpc.health.v1`: the server and its service are well while a CLI is; `liveness` is well while the process is.

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{pb_server::copilot_service_server::CopilotServiceServer, service::Service};
use crate::backend::Readiness;

/// The name under which the process alone is asked for.
const LIVENESS: &str = "liveness";

/// Makes health follow the backends, until the server drains: then it is not well, whatever they say.
pub(super) async fn follow(reporter: HealthReporter, mut backends: Readiness, draining: CancellationToken) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    loop {
        let ready = backends.is_ready() && !draining.is_cancelled();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", <CopilotServiceServer<Service> as NamedService>::NAME] {
            reporter.set_service_status(service, status).await;
        }
        tokio::select! {
            changes = backends.changed() => {
                if !changes {
                    return;
                }
            }
            () = draining.cancelled(), if ready => {}
        }
    }
}
