//! Compiles the contract with protox, so that no protoc is needed, and keeps its descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors =
        protox::compile(["copilot/v1/copilot_service.proto", "copilot/v1/error_reason.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut prost = prost_build::Config::new();
    prost.enable_type_names();
    // In one order always: a repeated request is known by a hash of its encoding.
    prost.btree_map(["."]);
    fs::write(out.join("copilot_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
