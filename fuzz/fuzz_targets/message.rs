//! No body makes us panic, and what is read of it agrees.
#![no_main]

use bytes::Bytes;
use copilot_grpc::jsonrpc::message::{Incoming, Peek, parse, peek, repair};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|input: &[u8]| {
    let body = repair(Bytes::copy_from_slice(input));
    assert_eq!(body.len(), input.len());
    assert_eq!(repair(body.clone()), body, "repairing again changes nothing");
    let peeked = peek(&body);
    let Ok(message) = parse(&body) else { return };
    match message {
        Incoming::Request { id, method, params } => {
            assert_eq!(peeked, Some(Peek::Request { id, method }));
            assert_is_json(&params);
        }
        Incoming::Notification { method, params } => {
            assert_eq!(peeked, Some(Peek::Notification { method }));
            assert_is_json(&params);
        }
        Incoming::Response { id, outcome } => {
            // A response without a result is one only when it is known to be whole.
            assert!(peeked.is_none() || peeked == Some(Peek::Response { id }));
            if let Ok(result) = outcome {
                assert_is_json(&result);
            }
        }
        Incoming::ParseFailure(_) => assert_eq!(peeked, None),
    }
});

fn assert_is_json(json: &[u8]) {
    assert!(serde_json::from_slice::<&RawValue>(json).is_ok());
}
