//! The time by which a caller wants its answer: the gRPC deadline of its call, and the request's own time limit.
//!
//! A client gives up at its deadline by itself and never reads what comes later, so the answer has to come a little earlier.
//! How much earlier depends not only on the way there: many clients round the deadline up when they write it into the header.
//!
//! Tests: in this file, and `tests/integration/deadlines.rs`.

use std::time::Duration;

use http::{HeaderMap, header::HeaderValue};
use tonic::metadata::MetadataMap;

use crate::session::Deadline;

/// The header that carries the deadline, as a time from now.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The most time that an answer is early, which is for its way to the caller.
const MAX_SPARE: Duration = Duration::from_millis(100);

/// How long a caller waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// The time in the header.
    written: Duration,
    /// The most by which the time in the header may exceed the client's real deadline.
    hidden: Duration,
}

/// The deadline of a turn, or of a call that waits for turns: the earlier of the request's time limit and the call's gRPC
/// deadline, or else the default.
pub(super) fn of_call(metadata: &MetadataMap, limit: Option<Duration>, default: Duration) -> Deadline {
    let call = patience(metadata.as_ref()).map(Patience::for_an_answer);
    Deadline::after([limit, call].into_iter().flatten().min().unwrap_or(default))
}

/// The gRPC deadline of a call, if it has one.
pub(super) fn of_stream(metadata: &MetadataMap) -> Option<Deadline> {
    patience(metadata.as_ref()).map(|patience| Deadline::after(patience.for_an_answer()))
}

impl Patience {
    /// The time after which there should be an answer that says how far the turn came.
    pub(super) fn for_an_answer(self) -> Duration {
        self.written - self.hidden - self.spare()
    }

    /// The time after which there must be an answer, whatever it says: a little later.
    pub(super) fn for_any_answer(self) -> Duration {
        self.written - self.hidden - self.spare() / 2
    }

    /// The client's deadline, or a little less.
    pub(super) fn exactly(self) -> Duration {
        self.written - self.hidden
    }

    fn spare(self) -> Duration {
        (self.written / 4).min(MAX_SPARE)
    }
}

/// Parses the header: at most eight digits and a unit. Any other value is no deadline. The parser must not be stricter than
/// tonic, whose own answer at the deadline has no details; so it accepts a sign, too.
pub(super) fn patience(headers: &HeaderMap<HeaderValue>) -> Option<Patience> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let written = match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    let hidden = if may_be_rounded(value, unit) { written * ROUNDED_UP_BY / 100 } else { Duration::ZERO };
    Some(Patience { written, hidden })
}

/// The percentage by which gRPC's C core, which the clients of Python, C++, Ruby and PHP use, may round up. It keeps three
/// digits of a value, which hides up to 1 %. And it repeats a header that it has sent before on the connection, which costs it
/// one byte, if that is more by less than 3 % (gRPC, `timeout_encoding.cc` and `hpack_encoder.cc`).
const ROUNDED_UP_BY: u32 = 4;

/// Whether the C core may have written the header. Other clients are exact: those of Go, Java and tonic begin with nanoseconds
/// and take the next unit only where there would be more than eight digits, .NET and Node write milliseconds.
fn may_be_rounded(value: u64, unit: &str) -> bool {
    match unit {
        // Under one second, ten or a hundred: the last digits are zero, and it is never whole seconds, which the C core writes
        // as seconds.
        "m" => match value {
            0..1_000 => true,
            1_000..10_000 => value.is_multiple_of(10) && !value.is_multiple_of(1_000),
            10_000..100_000 => value.is_multiple_of(100) && !value.is_multiple_of(1_000),
            _ => false,
        },
        "S" | "M" | "H" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Patience> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, text.parse().unwrap());
        patience(&headers)
    }

    #[test]
    fn the_timeout_header_is_read_as_the_grpc_protocol_defines_it() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(read(text).map(|patience| patience.written), expected, "{text:?}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("1S", Some(Duration::from_secs(1)));
        check("100m", Some(Duration::from_millis(100)));
        check("5u", Some(Duration::from_micros(5)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("0S", Some(Duration::ZERO));
        // The protocol does not allow it, but tonic takes it for a deadline.
        check("+1S", Some(Duration::from_secs(1)));
        for bad in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "+", "+S"] {
            check(bad, None);
        }
        assert_eq!(patience(&HeaderMap::new()), None);
    }

    #[test]
    fn exact_clients_are_answered_a_little_before_their_deadline() {
        let check = |text: &str, expected| {
            let patience = read(text).unwrap();
            assert_eq!(patience.for_an_answer(), Duration::from_micros(expected), "{text}");
            assert!(patience.for_any_answer() >= patience.for_an_answer(), "{text}");
        };
        check("10000u", 7_500);
        check("1000000u", 900_000);
        // Go.
        check("8999950u", 8_899_950);
        check("19999950u", 19_899_950);
        check("290000m", 289_900_000);
        check("1800000m", 1_799_900_000);
        // Java.
        check("99996000n", 74_997);
        // .NET and Node.
        check("19998m", 19_898_000);
        check("20000m", 19_900_000);
        check("60000m", 59_900_000);
    }

    /// The headers that grpcio 1.85.1 sent for these deadlines, in seconds: on fresh channels, and where there are several also
    /// after calls with 1 to 3.5 % more time (captured).
    const OF_C_CORE: &[(f64, &[&str])] = &[
        (0.015, &["16m"]),
        (0.05, &["51m", "52m"]),
        (0.15, &["151m", "152m", "154m", "155m"]),
        (0.25, &["251m", "253m", "255m", "258m"]),
        (0.999, &["1S"]),
        (1.0, &["1010m", "1020m", "1030m", "1040m"]),
        (5.0, &["5010m", "5050m", "5100m", "5150m", "5160m"]),
        (9.0, &["9S", "9010m", "9100m", "9190m", "9270m", "9280m"]),
        (9.99, &["10S"]),
        (12.0, &["12100m", "12200m", "12300m", "12400m"]),
        (20.0, &["20S", "20100m", "20300m", "20500m", "20600m", "20700m"]),
        (30.0, &["30100m", "30400m"]),
        (60.0, &["60100m", "60700m", "61300m", "61800m", "61900m"]),
        (90.0, &["90S"]),
        (99.5, &["99500m"]),
        (100.0, &["101S", "102S", "103S", "104S"]),
        (110.0, &["111S", "112S", "113S", "114S"]),
        (119.5, &["2M"]),
        (150.0, &["151S"]),
        (290.0, &["290S", "291S", "293S", "296S", "299S"]),
        (299.5, &["5M"]),
        (300.0, &["301S", "304S", "307S", "309S", "310S"]),
        (599.0, &["10M"]),
        (1000.0, &["1010S"]),
        (1800.0, &["30M", "1810S", "1820S", "1840S", "31M"]),
        (3600.0, &["3610S", "3640S", "3680S", "3710S"]),
        (7200.0, &["7210S", "7280S", "7350S", "7410S", "7420S"]),
        (40_000.0, &["40100S"]),
        (400_000.0, &["6670M"]),
    ];

    #[test]
    fn clients_on_the_c_core_are_answered_before_their_deadline_however_it_was_rounded() {
        for (deadline, headers) in OF_C_CORE {
            let deadline = Duration::from_secs_f64(*deadline);
            for header in *headers {
                let patience = read(header).unwrap();
                let spare = deadline.checked_sub(patience.for_an_answer());
                let needed = (deadline / 8).min(Duration::from_millis(90));
                assert!(spare.is_some_and(|spare| spare >= needed), "{header} for {deadline:?}: {spare:?}");
                assert!(patience.for_any_answer() < deadline, "{header} for {deadline:?}");
            }
        }
    }
}
