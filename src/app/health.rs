//! `health`: asks a server for its health, for scripts and container probes.

use std::io::Write;

use super::outcome::Result;
use crate::grpc::client::{Client, Target};

/// Succeeds if the service is serving.
pub async fn check(server: Target, service: String) -> Result {
    if Client::connect(&server).await?.is_serving(&service).await? {
        writeln!(std::io::stdout(), "SERVING")?;
        Ok(())
    } else {
        Err("NOT_SERVING".into())
    }
}
