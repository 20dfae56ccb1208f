//! No bytes make us panic or take memory without bound, also with a good checksum, and what is read is written alike.
#![no_main]

use copilot_grpc::store::archive::{decode, encode, forged};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = decode(input);
    let Some((&method, body)) = input.split_first() else { return };
    if let Ok(ops) = decode(&forged(method % 2, body.len() as u64, body)) {
        assert_eq!(decode(&encode(&ops)), Ok(ops));
    }
});
