//! What an error says beyond its code and message. Any program can take this file as it is.

use std::{fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::pb::{DeliveryState, ErrorReason, TurnFailure};

/// The details of a failed call, as far as there are any: an error that tonic made itself has none.
pub struct Details {
    /// Why it failed. `Err`: a reason that is newer than this program.
    pub reason: Option<Result<ErrorReason, String>>,
    /// How far the turn had come; only of calls that send a prompt.
    pub turn: Option<TurnFailure>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

impl Details {
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == "copilot-grpc");
        let reason = info.map(|info| {
            let name = format!("ERROR_REASON_{}", info.reason);
            ErrorReason::from_str_name(&name).ok_or(info.reason)
        });
        // tonic-types knows google.rpc's own details. The service's is another one of the list.
        let all = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
        let turn = all.details.iter().find_map(|detail| detail.to_msg().ok());
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Self { reason, turn, retry_after }
    }

    pub fn is(&self, reason: ErrorReason) -> bool {
        self.reason == Some(Ok(reason))
    }
}

/// A line for each thing that is known.
impl fmt::Display for Details {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match &self.reason {
            Some(Ok(reason)) => {
                writeln!(to, "reason: {}", reason.as_str_name().trim_start_matches("ERROR_REASON_"))?
            }
            Some(Err(unknown)) => writeln!(to, "reason: {unknown}")?,
            None => {}
        }
        if let Some(turn) = &self.turn {
            if turn.delivery() != DeliveryState::Unspecified {
                let name = turn.delivery().as_str_name();
                writeln!(to, "delivery: {}", name.trim_start_matches("DELIVERY_STATE_"))?;
            }
            if !turn.partial_content.is_empty() {
                writeln!(to, "answer so far: {} characters", turn.partial_content.chars().count())?;
            }
            if !turn.open_asks.is_empty() {
                writeln!(to, "waiting for: {}", turn.open_asks.join(", "))?;
            }
        }
        if let Some(delay) = self.retry_after {
            writeln!(to, "retry after: {} s", delay.as_secs_f64())?;
        }
        Ok(())
    }
}

/// A code's name as gRPC writes it: `DEADLINE_EXCEEDED`.
pub fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
