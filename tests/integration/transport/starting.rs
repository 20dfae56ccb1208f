//! What a server says at its start of files and ports that cannot be used, and of those that are a risk.

use crate::support::{
    fake_cli::FakeCli,
    server::{PROGRAM, Server, said},
    soon,
    state::State,
    tls::{Authority, Files, When},
};
use tokio::process::Command;

/// What a server says that does not start.
async fn refusal(flags: &[String]) -> String {
    let mut command = Command::new(PROGRAM);
    let listen = flags.iter().all(|flag| !flag.starts_with("--listen=")).then_some("--listen=127.0.0.1:0");
    command.arg("--cli-url=127.0.0.1:1").args(listen).args(State::default().flags().await).args(flags);
    let output = soon("the end of a server", command.kill_on_drop(true).output()).await.unwrap();
    assert!(!output.status.success(), "it runs with {flags:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn files_that_cannot_be_used_are_all_told_of_at_once() {
    let ca = Authority::new();
    let server = ca.server();
    let files = Files::of(&server);
    let flags = files.mutual(&ca);
    files.write("cert.pem", &ca.issue(&["localhost"], When::Before).cert);
    files.write("key.pem", "nothing");
    files.write("ca.pem", " \n");
    let told = refusal(&flags).await;
    for (file, reason) in [
        ("cert.pem", "has expired at"),
        ("key.pem", "there is no private key in the file"),
        ("ca.pem", "the file is empty"),
    ] {
        let line = told.lines().find(|line| line.contains(file)).unwrap_or_else(|| panic!("{file}: {told}"));
        assert!(line.contains(reason), "{line}");
    }
    files.put(&ca.issue(&["localhost"], When::Later));
    files.write("ca.pem", &ca.pem);
    assert!(refusal(&flags).await.contains("is not valid before"));
    files.put(&server);
    files.write("key.pem", &ca.server().key);
    assert!(refusal(&flags).await.contains("the key does not fit the certificate in"));
    let told = refusal(&["--tls-cert-file=/nowhere/a".into(), "--tls-key-file=/nowhere/b".into()]).await;
    assert!(told.contains("/nowhere/a: the file cannot be read") && told.contains("/nowhere/b: "), "{told}");
}

#[tokio::test]
async fn a_port_that_others_can_reach_without_showing_who_they_are_is_warned_of_at_every_start() {
    const RISK: &str = "drive the agent, run its tools and read all sessions";
    let ca = Authority::new();
    let files = Files::of(&ca.server());
    let anywhere = ["--listen=0.0.0.0:0".to_owned(), "--allow-insecure-listen".to_owned()];
    let (plain, tls) = (anywhere.to_vec(), [&anywhere[..], &files.flags()].concat());
    let mutual = [&anywhere[..1], &files.mutual(&ca)].concat();
    for (flags, is_risk, is_plain) in [(&plain, true, true), (&tls, true, false), (&mutual, false, false)] {
        let cli = FakeCli::start().await;
        let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
        let server = Server::in_front_of(&cli, &flags).await;
        let logs = server.logs.borrow();
        let warned =
            logs.iter().filter(|line| line.contains("WARN") && line.contains(RISK)).collect::<Vec<_>>();
        assert_eq!(warned.len(), usize::from(is_risk), "{logs:#?}");
        assert!(warned.iter().all(|line| line.contains("without TLS") == is_plain), "{warned:?}");
        assert!(logs.iter().any(|line| said(line, "serving").is_some()));
    }
}
