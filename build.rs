//! Compiles the contract with protox, so that no protoc is needed, and keeps its descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The messages that are streamed to callers.
const STREAMED: [&str; 3] = ["SendAndStreamResponse", "ConverseResponse", "WatchSessionResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["copilot_grpc/v1/copilot_service.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("contract.bin"), descriptors.encode_to_vec())?;
    let mut messages = prost_build::Config::new();
    messages.enable_type_names();
    // In one order always: a repeated request is known by a hash of its encoding.
    messages.btree_map(["."]);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds_with_config(descriptors.clone(), messages)?;
    // What servers ask each other is not for clients, and so in no descriptors.
    println!("cargo:rerun-if-changed=src/grpc/forward/node.proto");
    let node = protox::compile(["node.proto"], ["src/grpc/forward"])?;
    tonic_prost_build::configure().compile_fds_with_config(node, prost_build::Config::new())?;
    // The server's streams send what may have been encoded already.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    STREAMED
        .iter()
        .fold(tonic_prost_build::configure(), |server, message| {
            server.extern_path(
                format!(".copilot_grpc.v1.{message}"),
                format!("crate::grpc::streamed::{message}"),
            )
        })
        .extern_path(".copilot_grpc.v1", "crate::grpc::pb")
        .codec_path("crate::grpc::codec::Codec")
        .build_client(false)
        .out_dir(server)
        .compile_fds_with_config(with_early_headers(descriptors), prost_build::Config::new())?;
    Ok(())
}

/// The same for a server that sends the headers of SendAndWait before the answer: as a stream of one, which is the same on the wire.
fn with_early_headers(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    let methods = services.flat_map(|service| &mut service.method);
    methods
        .filter(|method| method.name() == "SendAndWait")
        .for_each(|method| method.server_streaming = Some(true));
    descriptors
}
