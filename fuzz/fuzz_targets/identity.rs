//! No credential makes us panic, and none that nobody gave lets anybody in.
#![no_main]

use copilot_grpc::identity::fuzzing::lets_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| assert!(!lets_in(input)));
