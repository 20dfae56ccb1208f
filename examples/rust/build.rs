//! Compiles the contract with protox, so that no protoc is needed.

const PROTO: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile(["copilot_grpc/v1/copilot_service.proto"], [PROTO])?;
    let mut messages = prost_build::Config::new();
    // The messages know their names: so `TurnFailure` is found among the details of an error.
    messages.enable_type_names();
    tonic_prost_build::configure().build_server(false).compile_fds_with_config(descriptors, messages)?;
    Ok(())
}
