//! A caller on gRPC's C core has its answer, with its details, before its deadline, however the header was rounded.
//!
//! The caller is in Python. How much the header hides is a table beside `grpc/deadline.rs`; what is here is the whole way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scripted_model::Reply;
use tokio::{process::Command, time::timeout};

use crate::support::{
    facade::TestFacade,
    fake_cli::FakeCli,
    programs::{python, root},
    real_cli::RealCli,
};

/// What came of one call: its name, its deadline, and what came.
struct Call {
    name: String,
    deadline: String,
    came: String,
}

/// What the script prints.
async fn callers(facade: &TestFacade, kind: &str, rest: &[&str], limit: Duration) -> Vec<Call> {
    let script = root().join("tests/integration/deadlines.py");
    let address = facade.facade.address().to_string();
    let mut command = Command::new(python().await);
    command.arg(script).args([kind, &address]).args(rest).kill_on_drop(true);
    let output = timeout(limit, command.output()).await.expect("the callers come to an end").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let call = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap();
        let (deadline, came) = rest.split_once(' ').unwrap();
        Call { name: name.into(), deadline: deadline.into(), came: came.into() }
    };
    lines.lines().map(call).collect()
}

const TIMED_OUT: &str = "DEADLINE_EXCEEDED TURN_TIMEOUT";

#[tokio::test]
async fn a_caller_in_python_gets_what_there_is_of_its_turn_at_every_deadline_up_to_110_seconds() {
    let cli = RealCli::start(|_| Reply::hang()).await;
    let facade = cli.setup().flag("--max-running-turns=100").start().await;
    let deadlines = ["0.15", "1.0", "9.0", "12.0", "20.0", "60.0", "110.0"];
    let calls = callers(&facade, "turns", &deadlines, Duration::from_secs(400)).await;
    let mut counts = BTreeMap::new();
    for Call { name, deadline, came } in &calls {
        assert_eq!(came, &format!("{TIMED_OUT} TurnFailure"), "{name} {deadline}");
        *counts.entry((name.as_str(), deadline.as_str())).or_insert(0) += 1;
    }
    let expected =
        ["turn-after", "turn-fresh"].into_iter().flat_map(|name| deadlines.map(|it| ((name, it), 5)));
    assert_eq!(counts, expected.collect());
    facade.at_rest().await;
}

/// What a CLI is asked, but for `connect` and `ping`: one that answers nothing else counts as there.
const QUESTIONS: &[&str] = &[
    "models.list",
    "session.create",
    "session.delete",
    "session.getMetadata",
    "session.history.compact",
    "session.history.listRewindPoints",
    "session.history.previewRewind",
    "session.history.rewind",
    "session.metadata.isProcessing",
    "session.metadata.snapshot",
    "session.model.switchTo",
    "session.resume",
    "session.send",
    "sessions.fork",
    "sessions.readPersistedEvents",
];

#[tokio::test]
async fn every_call_to_a_cli_that_does_not_answer_ends_with_details_at_a_deadline_of_150_ms() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.create("s").await;
    cli.turn_of(&facade, "s").await;
    // Not loaded any more: whoever uses it asks the CLI.
    cli.disconnect().await;
    facade.serving("").await;
    // Nor known any more.
    cli.has("stored", false, true);
    facade.has("stored", &cli.address(), "").await;
    for question in QUESTIONS {
        cli.manual(question);
    }
    let calls = callers(&facade, "stuck", &["0.15", "11"], Duration::from_secs(300)).await;
    // For some calls the store is enough, or what is known here.
    let mut wrong = BTreeSet::new();
    for Call { name, came, .. } in &calls {
        let expected = match name.as_str() {
            "CloseSession" | "GetUsage" | "ListSessions" => "OK",
            "Respond" => "NOT_FOUND ASK_NOT_FOUND",
            _ => TIMED_OUT,
        };
        let has_failure = came.ends_with("TurnFailure") || !name.starts_with("SendAnd");
        if !came.starts_with(expected) || !has_failure {
            wrong.insert(format!("{name}: {came}"));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
    let methods: BTreeSet<_> = calls.iter().map(|call| &call.name).collect();
    assert_eq!((calls.len(), methods.len()), (220, 20));
}
