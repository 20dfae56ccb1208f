//! What the tests stand on: the server in this process or its own, the real CLI and a FakeCli, and what breaks between them.

pub(crate) mod dice;
pub(crate) mod dns;
pub(crate) mod facade;
pub(crate) mod fake_cli;
pub(crate) mod http2;
pub(crate) mod leaks;
pub(crate) mod memory;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod real_cli;
pub(crate) mod refuser;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod state;
pub(crate) mod tls;

use std::time::Duration;

use copilot_grpc::grpc::pb::{ErrorReason, TurnFailure};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::pb as rpc;

/// How long anything may take that should happen soon: long enough for a busy machine, short enough to see a hang.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits for something that should happen soon, and says what did not.
pub(crate) async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, act).await {
        Ok(value) => value,
        Err(_) => panic!("not within {SOON:?}: {what}"),
    }
}

/// Waits until `condition` holds, looking again after every pause, for what cannot be subscribed to.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// So many words, no two alike: an answer in which a loss or a doubling shows.
pub(crate) fn words(count: usize) -> String {
    (0..count).map(|n| format!("word{n} ")).collect()
}

/// Checks an error's code and reason.
#[track_caller]
pub(crate) fn check(status: &Status, code: Code, reason: ErrorReason) {
    assert_eq!(
        (status.code(), reason_of(status).as_str()),
        (code, reason.as_str_name().trim_start_matches("ERROR_REASON_")),
        "{status:?}"
    );
}

/// The reason in an error's details.
pub(crate) fn reason_of(status: &Status) -> String {
    detail::<rpc::ErrorInfo>(status, "google.rpc.ErrorInfo").map(|info| info.reason).unwrap_or_default()
}

/// What there is of a failed turn.
#[track_caller]
pub(crate) fn failure_of(status: &Status) -> TurnFailure {
    detail(status, "copilot_grpc.v1.TurnFailure").unwrap_or_else(|| panic!("no TurnFailure in {status:?}"))
}

/// The fields that an error complains of.
pub(crate) fn fields_of(status: &Status) -> Vec<String> {
    let request: Option<rpc::BadRequest> = detail(status, "google.rpc.BadRequest");
    request.unwrap_or_default().field_violations.into_iter().map(|violation| violation.field).collect()
}

/// A detail of an error.
pub(crate) fn detail<T: prost::Message + Default>(status: &Status, name: &str) -> Option<T> {
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let detail = details.iter().find(|detail| detail.type_url == format!("type.googleapis.com/{name}"))?;
    T::decode(detail.value.as_slice()).ok()
}
