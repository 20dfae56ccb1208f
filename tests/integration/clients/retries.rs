//! What each library makes of a call that is refused: by the service configuration, or where it knows none, by the example.

use std::time::Duration;

use scripted_model::ModelServer;

use super::{Client, clients, program, run, serving, tell};
use crate::support::{
    refuser::{Refusal, Refuser},
    server::Server,
};

/// In which a proxy refuses SendAndStream twice, and says this of trying again.
struct Case {
    name: &'static str,
    pushback: Option<i64>,
    /// How often it is called then.
    tries: usize,
    /// The least time between two of these.
    at_least: Duration,
}

const CASES: [Case; 3] = [
    Case { name: "refused twice", pushback: None, tries: 3, at_least: Duration::ZERO },
    Case {
        name: "refused twice, for 400 ms",
        pushback: Some(400),
        tries: 3,
        at_least: Duration::from_millis(390),
    },
    Case { name: "refused for good", pushback: Some(-1), tries: 1, at_least: Duration::ZERO },
];

#[tokio::test]
async fn each_client_repeats_what_is_refused_after_the_time_that_is_said_and_not_what_is_refused_for_good() {
    let model = ModelServer::start(scripted_model::demo).await.unwrap();
    let server = serving(&model).await;
    for client in clients().await {
        for case in &CASES {
            let row = tried(client, case, &server).await;
            tell(&format!("{}: {}: {row}", client.name, case.name));
        }
    }
}

async fn tried(client: Client, case: &Case, server: &Server) -> String {
    let refusal = Refusal { method: "/SendAndStream", times: 2, pushback: case.pushback };
    let proxy = Refuser::start(server.address(), refusal).await;
    let mut command = program(client.name);
    command.args([&proxy.address, "hello"]);
    let ended = run(command).await;
    let delays = proxy.delays();
    let case_of = format!("{}, {}: {delays:?}, {ended:#?}", client.name, case.name);
    assert_eq!(proxy.tries(), case.tries, "{case_of}");
    assert_eq!(ended.status, Some(i32::from(case.tries == 1)), "{case_of}");
    assert!(delays.iter().all(|delay| *delay >= case.at_least), "{case_of}");
    let delays: Vec<_> = delays.iter().map(|delay| format!("after {} ms", delay.as_millis())).collect();
    match &delays[..] {
        [] => format!("1 call, {}", ended.error.lines().next().unwrap_or_default()),
        _ => format!("{} calls, again {}, answered", case.tries, delays.join(" and ")),
    }
}
