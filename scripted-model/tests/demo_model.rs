//! The `demo-model` binary, as a script would start it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

#[tokio::test]
async fn it_says_where_it_listens_and_runs_until_it_is_told_to_stop() {
    for signal in ["-INT", "-TERM"] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_demo-model"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        timeout(Duration::from_secs(30), stdout.read_line(&mut line)).await.unwrap().unwrap();
        let port = line.strip_prefix("demo model listening on http://127.0.0.1:").unwrap();
        let port = port.strip_suffix("/v1\n").unwrap();
        assert_ne!(port.parse::<u16>().unwrap(), 0);

        let pid = process.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        assert!(timeout(Duration::from_secs(30), process.wait()).await.unwrap().unwrap().success());
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "", "one line is all it says");
    }
}

#[tokio::test]
async fn it_refuses_an_address_that_others_can_reach() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo-model"))
        .args(["--listen", "0.0.0.0:0"])
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(30), output).await.unwrap().unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("not a loopback address"), "{message}");
}
