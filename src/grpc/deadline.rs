//! When a caller wants to hear: the gRPC deadline of its call, and the request's own time limit.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::session::Deadline;

/// The longest lead before the gRPC deadline.
const MAX_LEAD: Duration = Duration::from_millis(100);

/// The deadline of a turn, or of a call that waits for turns: the earlier of the request's time limit and the call's gRPC deadline, else the default.
pub(super) fn of_call(metadata: &MetadataMap, limit: Option<Duration>, default: Duration) -> Deadline {
    let call = grpc_timeout(metadata).map(answer_within);
    Deadline::after([limit, call].into_iter().flatten().min().unwrap_or(default))
}

/// The gRPC deadline of a call, if it has one.
pub(super) fn of_stream(metadata: &MetadataMap) -> Option<Deadline> {
    grpc_timeout(metadata).map(|timeout| Deadline::after(answer_within(timeout)))
}

/// A client gives up at its deadline by itself and never reads what comes later: so the answer has to be a little
/// earlier, by a tenth of the time, at most [`MAX_LEAD`].
fn answer_within(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(MAX_LEAD)
}

/// Reads `grpc-timeout`: at most eight digits and a unit. A value that is not like this is no deadline, as in tonic.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_as_the_grpc_protocol_defines_it() {
        let check = |text: &str, expected: Option<Duration>| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(grpc_timeout(&metadata), expected, "{text:?}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("1S", Some(Duration::from_secs(1)));
        check("100m", Some(Duration::from_millis(100)));
        check("5u", Some(Duration::from_micros(5)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "+1S"] {
            check(bad, None);
        }
        assert_eq!(grpc_timeout(&MetadataMap::new()), None);
    }

    #[test]
    fn the_answer_comes_a_little_before_the_deadline() {
        let check = |timeout, expected| {
            assert_eq!(answer_within(Duration::from_millis(timeout)), Duration::from_millis(expected));
        };
        check(10, 9);
        check(1_000, 900);
        check(60_000, 59_900);
    }
}
