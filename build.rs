//! Compiles the contract with protox, so that no protoc is needed, and keeps its descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// The messages that are streamed to callers.
const STREAMED: [&str; 3] = ["SendAndStreamResponse", "ConverseResponse", "WatchSessionResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors =
        protox::compile(["copilot/v1/copilot_service.proto", "copilot/v1/error_reason.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("copilot_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut messages = prost_build::Config::new();
    messages.enable_type_names();
    // In one order always: a repeated request is known by a hash of its encoding.
    messages.btree_map(["."]);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds_with_config(descriptors.clone(), messages)?;
    // The server's streams send what may have been encoded already.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    STREAMED
        .iter()
        .fold(tonic_prost_build::configure(), |server, message| {
            server.extern_path(format!(".copilot.v1.{message}"), format!("crate::grpc::streamed::{message}"))
        })
        .extern_path(".copilot.v1", "crate::grpc::pb")
        .codec_path("crate::grpc::codec::Codec")
        .build_client(false)
        .out_dir(server)
        .compile_fds_with_config(descriptors, prost_build::Config::new())?;
    Ok(())
}
