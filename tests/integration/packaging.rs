//! Clients can be made from what is published: the descriptor set, and the code that protoc and buf generate.
//!
//! The baseline keeps the contract from breaking.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    facade::Setup,
    programs::{go_client, go_tools, python, root},
    server::PROGRAM,
};

/// What `buf breaking` ends with when it has found something.
const FOUND: i32 = 100;

/// A port on which nobody listens.
const NOBODY: &str = "127.0.0.1:9";

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// buf in a folder, where it is offline: a proxy that is not there lets nothing through.
fn buf(folder: &Path) -> Command {
    let mut buf = Command::new(root().join("node_modules/.bin/buf"));
    buf.current_dir(folder).env("BUF_CACHE_DIR", folder.join("cache"));
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        buf.env(proxy, format!("http://{NOBODY}"));
    }
    buf
}

async fn run(command: &mut Command) -> Output {
    command.kill_on_drop(true).stdin(Stdio::null()).output().await.unwrap()
}

/// Runs what must succeed, and gives its standard output.
async fn succeed(command: &mut Command) -> String {
    let ended = run(command).await;
    let (out, error) = (text(&ended.stdout), text(&ended.stderr));
    assert!(ended.status.success(), "{command:?}: {}\n{out}\n{error}", ended.status);
    out
}

/// A folder with the contract in it.
fn contract() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("proto"), &folder.path().join("proto"));
    for name in ["buf.yaml", "buf.gen.yaml"] {
        fs::copy(root().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

async fn breaking(folder: &Path) -> Output {
    run(buf(folder).args(["breaking", "--against", "proto/baseline.binpb"])).await
}

/// `PATH` with these folders first.
fn path_with(folders: &[&Path]) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap();
    let folders = folders.iter().map(|folder| folder.to_path_buf());
    std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap()
}

#[tokio::test]
async fn the_contract_does_not_break_its_baseline() {
    let folder = contract();
    let ended = breaking(folder.path()).await;
    assert!(ended.status.success(), "{}{}", text(&ended.stdout), text(&ended.stderr));
}

#[tokio::test]
async fn a_message_that_is_moved_to_another_file_breaks_the_contract() {
    let folder = contract();
    let [from, to] = ["copilot_service", "server_info"]
        .map(|name| folder.path().join(format!("proto/copilot_grpc/v1/{name}.proto")));
    let message = "message GetServerInfoRequest {}\n";
    let (source, target) = (fs::read_to_string(&from).unwrap(), fs::read_to_string(&to).unwrap());
    assert_eq!(source.matches(message).count(), 1);
    fs::write(&from, source.replace(message, "")).unwrap();
    fs::write(&to, format!("{target}\n{message}")).unwrap();
    // The move is no mistake otherwise.
    succeed(buf(folder.path()).arg("build")).await;

    let ended = breaking(folder.path()).await;
    let found = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(FOUND), "{found}{}", text(&ended.stderr));
    assert!(found.contains("GetServerInfoRequest"), "{found}");
}

#[tokio::test]
async fn grpcurl_and_buf_curl_call_by_the_protoset_alone_and_errors_are_in_the_clear() {
    let facade = Setup { cli_url: NOBODY.into(), ..Setup::default() }.start_unready().await;
    let address = facade.facade.address().to_string();
    let folder = tempfile::tempdir().unwrap();
    let protoset = folder.path().join("contract.binpb");
    let printed = run(Command::new(PROGRAM).arg("protoset")).await;
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    fs::write(&protoset, printed.stdout).unwrap();

    let mut curl = buf(folder.path());
    // The service is on this machine, and not behind a proxy.
    curl.env("NO_PROXY", "127.0.0.1").arg("curl").arg("--schema").arg(&protoset);
    curl.args(["--protocol", "grpc", "--http2-prior-knowledge", "--data", r#"{"service":"liveness"}"#]);
    let health = succeed(curl.arg(format!("http://{address}/grpc.health.v1.Health/Check"))).await;
    assert!(health.contains("\"SERVING\""), "{health}");

    let mut grpcurl = Command::new(go_tools().await.join("grpcurl"));
    grpcurl.arg("-plaintext").arg("-protoset").arg(&protoset).args(["-d", r#"{"session_id":"no/id"}"#]);
    let refused = run(grpcurl.args([&address, "copilot_grpc.v1.CopilotService/CreateSession"])).await;
    let error = text(&refused.stderr);
    for word in ["google.rpc.ErrorInfo", "\"INVALID_FIELD\"", "google.rpc.BadRequest", "\"session_id\""] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[tokio::test]
async fn go_code_builds_that_protoc_makes_without_a_mapping() {
    // The script tells protoc nothing but where to put the code, and finds it where `go_package` says.
    assert!(go_client().await.exists());
}

/// Builds a client with the code that is in `module`.
async fn build_go(module: &Path) {
    copy(&root().join("tests/fixtures/go"), module);
    succeed(Command::new("go").args(["build", "-mod=readonly", "./..."]).current_dir(module)).await;
}

#[tokio::test]
async fn buf_generates_go_and_python_by_the_template() {
    let (python, tools) = (python().await, go_tools().await);
    let folder = contract();
    let template = fs::read_to_string(folder.path().join("buf.gen.yaml")).unwrap();
    // The other plugins are not made by the scripts here: those of Java, TypeScript and C#, and Python's for services.
    let (head, plugins) = template.split_once("plugins:\n").unwrap();
    let names = [
        "local: protoc-gen-go",
        "local: protoc-gen-go-grpc",
        "protoc_builtin: python",
        "protoc_builtin: pyi",
    ];
    let ours = plugins
        .split("  - ")
        .filter(|plugin| plugin.lines().next().is_some_and(|name| names.contains(&name)));
    let ours: Vec<_> = ours.map(|plugin| format!("  - {plugin}")).collect();
    assert_eq!(ours.len(), 4);
    fs::write(folder.path().join("buf.gen.yaml"), format!("{head}plugins:\n{}", ours.concat())).unwrap();
    let path = path_with(&[tools, python.parent().unwrap()]);
    succeed(buf(folder.path()).arg("generate").env("PATH", path)).await;

    build_go(&folder.path().join("gen/go")).await;
    let generated = folder.path().join("gen/python");
    assert!(generated.join("copilot_grpc/v1/copilot_service_pb2.pyi").exists());
    let import = "from copilot_grpc.v1 import copilot_service_pb2 as it; print(it.__file__)";
    let from = succeed(Command::new(python).args(["-c", import]).env("PYTHONPATH", &generated)).await;
    assert!(from.starts_with(generated.to_str().unwrap()), "{from}");
}

#[tokio::test]
async fn our_python_is_imported_beside_the_official_sdk() {
    let program = "\
import copilot
from copilot_grpc.v1 import copilot_service_pb2, copilot_service_pb2_grpc
print(copilot.CopilotClient.__module__.split('.')[0])
print(copilot_service_pb2.DESCRIPTOR.package, copilot_service_pb2_grpc.CopilotServiceStub.__name__)
";
    let said = succeed(Command::new(python().await).args(["-c", program])).await;
    assert_eq!(said, "copilot\ncopilot_grpc.v1 CopilotServiceStub\n");
}
