//! A CLI runs so many turns at once; the next ones wait in line, and those beyond that are refused at once.

use std::{sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    Backend, CreateSessionRequest, DeleteSessionRequest, DeliveryState, ErrorReason, GetServerInfoRequest,
    Prompt, Tool, ToolResult, TurnResult, ask_answer::Answer, tool_result::Content,
};
use scripted_model::{CallState, Reply};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::pb as rpc;

use crate::support::{
    check, detail,
    facade::{TestFacade, abort, prompt, wait, wait_with, within},
    failure_of,
    fake_cli::FakeCli,
    real_cli::RealCli,
    soon, until,
};

/// A facade that lets so many turns run, and so many more wait, and sessions `s0`, `s1` and so on.
async fn start(running: usize, waiting: usize, sessions: usize) -> (FakeCli, Arc<TestFacade>) {
    let cli = FakeCli::start().await;
    let setup = cli.setup().flag(format!("--max-running-turns={running}"));
    let facade = Arc::new(setup.flag(format!("--max-waiting-turns={waiting}")).start().await);
    for n in 0..sessions {
        facade.create(&format!("s{n}")).await;
    }
    (cli, facade)
}

type Sent = JoinHandle<Result<TurnResult, Status>>;

/// Sends to a session what is its name, and waits until it is accepted.
async fn send(facade: &Arc<TestFacade>, session: &str) -> Sent {
    let turns = facade.facade.sessions().load().turns;
    let (task, session) = (facade.clone(), session.to_owned());
    let sent = tokio::spawn(async move { task.send(&session, &session).await });
    until("it is accepted", || facade.facade.sessions().load().turns > turns).await;
    sent
}

async fn answered(sent: Sent) -> String {
    soon("an answer", sent).await.unwrap().unwrap().content
}

async fn backend(facade: &TestFacade) -> Backend {
    let info = facade.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    info.backends.into_iter().next().unwrap()
}

#[tokio::test]
async fn so_many_turns_run_and_the_others_follow_in_the_order_in_which_they_came() {
    let (cli, facade) = start(2, 10, 5).await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(send(&facade, &format!("s{n}")).await);
    }
    let first = cli.begin().await;
    let mut running = [first, cli.begin().await];
    let backend = backend(&facade).await;
    assert_eq!((backend.running_turns, backend.waiting_turns), (2, 3));
    for n in 2..5 {
        assert_eq!(cli.prompts().len(), n, "more run than may");
        // The second of those that run, so that nobody runs in the order in which the others end.
        let [_, ending] = &running;
        ending.finish(&[&ending.prompt]).await;
        let next = cli.begin().await;
        assert_eq!(next.prompt, format!("s{n}"));
        let [first, _] = running;
        running = [first, next];
    }
    for turn in running {
        turn.finish(&[&turn.prompt]).await;
    }
    for (n, sent) in sent.into_iter().enumerate() {
        assert_eq!(answered(sent).await, format!("s{n}"));
    }
    facade.at_rest().await;
    until("no turn is counted", || {
        let backend = &facade.facade.sessions().pool().all()[0];
        (backend.admission().running(), backend.admission().waiting()) == (0, 0)
    })
    .await;
}

#[tokio::test]
async fn beyond_those_that_may_wait_a_call_is_refused_at_once_and_told_when_to_come_again() {
    let (cli, facade) = start(1, 2, 3).await;
    let first = send(&facade, "s0").await;
    let turn = cli.begin().await;
    // One waits for the CLI, one for its session.
    let others = [send(&facade, "s1").await, send(&facade, "s0").await];
    let refused = facade.send("s2", "too much").await.unwrap_err();
    check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
    let retry: rpc::RetryInfo = detail(&refused, "google.rpc.RetryInfo").unwrap();
    assert_eq!(retry.retry_delay.unwrap().seconds, 1);
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    let Err(refused) = facade.stream("s2", "too much").await else { panic!("it was accepted") };
    check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
    turn.finish(&["one"]).await;
    cli.turn(&["two"]).await;
    until("one turn is left", || facade.facade.sessions().load().turns == 1).await;
    let late = send(&facade, "s2").await;
    cli.turn(&["three"]).await;
    cli.turn(&["four"]).await;
    let [second, third] = others;
    let mut answers = Vec::new();
    for sent in [first, second, third, late] {
        answers.push(answered(sent).await);
    }
    assert_eq!(answers, ["one", "two", "three", "four"]);
    assert_eq!(cli.prompts(), ["s0", "s1", "s0", "s2"]);
}

#[tokio::test]
async fn a_turn_that_is_given_up_in_line_is_never_sent_and_frees_its_place() {
    let (cli, facade) = start(1, 4, 6).await;
    let first = send(&facade, "s0").await;
    let turn = cli.begin().await;
    let [cancelled, aborted, deleted] =
        [send(&facade, "s1").await, send(&facade, "s2").await, send(&facade, "s3").await];
    let late = facade.client().send_and_wait(within(Duration::from_secs(1), wait("s4", "late"))).await;
    check(&late.unwrap_err(), Code::DeadlineExceeded, ErrorReason::TurnTimeout);
    cancelled.abort();
    assert!(facade.client().abort_turn(abort("s2")).await.unwrap().into_inner().message_id.is_some());
    let delete = DeleteSessionRequest { session_id: "s3".into(), ..Default::default() };
    facade.client().delete_session(delete).await.unwrap();
    for sent in [aborted, deleted] {
        let error = soon("the end of the turn", sent).await.unwrap().unwrap_err();
        check(&error, Code::Aborted, ErrorReason::TurnAborted);
        assert_eq!(failure_of(&error).delivery(), DeliveryState::NotDelivered);
    }
    until("one turn is left", || facade.facade.sessions().load().turns == 1).await;
    let last = send(&facade, "s5").await;
    turn.finish(&["one"]).await;
    cli.turn(&["five"]).await;
    assert_eq!((answered(first).await, answered(last).await), ("one".into(), "five".into()));
    assert_eq!(cli.prompts(), ["s0", "s5"]);
}

#[tokio::test]
async fn a_turn_that_waits_for_its_caller_makes_room_for_one_that_the_caller_sends_first() {
    const GIVE: &str = "session.tools.handlePendingToolCall";
    let cli = FakeCli::start().await;
    cli.manual(GIVE);
    let setup = cli.setup().flag("--max-running-turns=1").flag("--max-waiting-turns=10");
    let facade = Arc::new(setup.start().await);
    facade.create("s1").await;
    let tool = Tool { name: "ask".into(), ..Default::default() };
    let request = CreateSessionRequest { session_id: "s0".into(), tools: vec![tool], ..Default::default() };
    facade.client().create_session(request).await.unwrap();
    let outer = send(&facade, "s0").await;
    let turn = cli.begin().await;
    let inner = send(&facade, "s1").await;
    let call = json!({"requestId": "r", "toolCallId": "t", "toolName": "ask", "arguments": {}});
    turn.event("external_tool.requested", call).ephemeral().await;
    assert_eq!(cli.turn(&["inner"]).await, "s1");
    let result = answered(inner).await;
    assert_eq!(result, "inner");
    let result = ToolResult { content: Some(Content::Text(result)), ..Default::default() };
    let given = async { cli.next(GIVE).await.answer(json!({"success": true})).await };
    let (responded, ()) = tokio::join!(facade.respond("s0", "r", Answer::ToolResult(result)), given);
    responded.unwrap();
    turn.finish(&["outer"]).await;
    assert_eq!(answered(outer).await, "outer");
    facade.at_rest().await;
    let backend = backend(&facade).await;
    assert_eq!((backend.running_turns, backend.waiting_turns), (0, 0));
}

#[tokio::test]
async fn the_time_in_line_is_not_the_agents_silence() {
    let (cli, facade) = start(1, 4, 2).await;
    let first = send(&facade, "s0").await;
    let turn = cli.begin().await;
    let inactivity_timeout = Some(Duration::from_millis(500).try_into().unwrap());
    let request = wait_with("s1", Prompt { inactivity_timeout, ..prompt("patient") });
    let second = tokio::spawn({
        let facade = facade.clone();
        async move { facade.send_and_wait(request).await }
    });
    until("it is accepted", || facade.facade.sessions().load().turns == 2).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    turn.finish(&["one"]).await;
    cli.turn(&["two"]).await;
    assert_eq!((answered(first).await, answered(second).await), ("one".into(), "two".into()));
}

#[tokio::test]
async fn a_turn_in_line_is_sent_after_all_when_the_cli_was_lost_meanwhile() {
    let (cli, facade) = start(1, 4, 2).await;
    cli.has("s1", true, true);
    let first = send(&facade, "s0").await;
    let _turn = cli.begin().await;
    let second = send(&facade, "s1").await;
    cli.disconnect().await;
    let lost = soon("the end of the turn", first).await.unwrap().unwrap_err();
    check(&lost, Code::Unavailable, ErrorReason::TurnInterrupted);
    cli.connected(2).await;
    assert_eq!(cli.turn(&["two"]).await, "s1");
    assert_eq!(answered(second).await, "two");
}

#[tokio::test]
async fn a_server_that_goes_lets_those_in_line_run_while_there_is_time_and_then_stops_them() {
    let (cli, facade) = start(1, 4, 3).await;
    let first = send(&facade, "s0").await;
    let turn = cli.begin().await;
    let [second, third] = [send(&facade, "s1").await, send(&facade, "s2").await];
    let stop = tokio::spawn({
        let facade = facade.clone();
        async move { facade.facade.stop(Duration::from_secs(60)).await }
    });
    turn.finish(&["one"]).await;
    cli.begin().await.finish(&["two"]).await;
    assert_eq!((answered(first).await, answered(second).await), ("one".into(), "two".into()));
    let _running = cli.begin().await;
    facade.facade.hurry();
    let error = soon("the end of the turn", third).await.unwrap().unwrap_err();
    check(&error, Code::Unavailable, ErrorReason::Draining);
    soon("the end of the server", stop).await.unwrap();
}

#[tokio::test]
async fn four_times_as_many_turns_as_may_run_are_all_answered_on_the_real_cli() {
    const RUNNING: usize = 5;
    let cli = RealCli::start(|request| {
        let prompt = request.prompt().to_owned();
        Reply::chunks((0..10).map(|n| format!("{prompt}:{n} "))).every(Duration::from_millis(20))
    })
    .await;
    let facade = Arc::new(cli.setup().flag(format!("--max-running-turns={RUNNING}")).start().await);
    for n in 0..4 * RUNNING {
        facade.create(&format!("s{n}")).await;
    }
    let mut sent = Vec::new();
    for n in 0..4 * RUNNING {
        let facade = facade.clone();
        sent.push(tokio::spawn(async move { facade.send(&format!("s{n}"), &format!("prompt{n}")).await }));
    }
    let mut most = 0;
    while sent.iter().any(|sent| !sent.is_finished()) {
        let asked = cli.model.calls();
        most = most.max(asked.iter().filter(|call| call.state == CallState::Running).count());
        soon("progress", tokio::time::sleep(Duration::from_millis(5))).await;
    }
    for (n, sent) in sent.into_iter().enumerate() {
        let expected: String = (0..10).map(|piece| format!("prompt{n}:{piece} ")).collect();
        assert_eq!(answered(sent).await, expected);
    }
    assert!(most > 1 && most <= RUNNING, "{most} ran at once");
    assert_eq!(cli.model.calls().len(), 4 * RUNNING);
}
