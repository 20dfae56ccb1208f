//! `grpc.health.v1`: the server and its service are serving while a CLI is ready and the store answers; `liveness` while the process
//! runs.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{pb::server::copilot_service_server::CopilotServiceServer, service::Service};
use crate::{backend::Readiness, store::Availability};

/// The name of the health service that stands for the process alone.
const LIVENESS: &str = "liveness";

/// The names that there is a health of, before anybody can ask: until [`follow`] says more, no CLI is ready.
pub(super) async fn begin(reporter: &HealthReporter) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    report(reporter, ServingStatus::NotServing).await;
}

/// Sets the health to that of the backends and of the store, until the server drains: then it is NOT_SERVING in any case.
pub(super) async fn follow(
    reporter: HealthReporter,
    mut backends: Readiness,
    mut store: watch::Receiver<Availability>,
    draining: CancellationToken,
) {
    loop {
        let has_store = store.borrow_and_update().is_here();
        let ready = backends.is_ready() && has_store && !draining.is_cancelled();
        report(&reporter, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            changes = backends.changed() => {
                if !changes {
                    return;
                }
            }
            // It fails when the store is closed, which is at the end.
            Ok(()) = store.changed() => {}
            () = draining.cancelled(), if ready => {}
        }
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for service in ["", <CopilotServiceServer<Service> as NamedService>::NAME] {
        reporter.set_service_status(service, status).await;
    }
}
