//! A call goes to the server that owns its session, whichever server its caller has: what is said, done and refused is the same.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, AskAnswer, ConverseOpen, ConversePrompt, ConverseRequest, CreateSessionRequest,
    ErrorReason, ListSessionsRequest, PermissionAnswer, PermissionDecision, PermissionEffect, Prompt,
    RespondRequest, SendAndStreamRequest, SendAndWaitRequest, SessionState, UpdateSessionRequest,
    WatchSessionRequest, ask_answer::Answer, converse_request, converse_response, send_and_stream_response,
    session_event::Payload, watch_session_response,
};
use rustix::process::Signal;
use scripted_model::{Reply, Request};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request as Call, codec::CompressionEncoding};

use super::cluster::{Cluster, in_state};
use crate::{
    store::installation::{create, create_with, get, history, script, send, send_named},
    support::{check, facade::on_everything, failure_of, fields_of, reason_of, soon, until},
};

/// How often each wrong of two servers is tried.
const TIMES: usize = 8;

#[tokio::test]
async fn any_server_serves_any_session() {
    let cluster = Cluster::start(3, script).await;
    let mut clients = cluster.clients().await;
    let created = create(&mut clients[0], "s").await;
    let mut said = Vec::new();
    for (n, client) in clients.iter_mut().enumerate() {
        said.push(n.to_string());
        let answer = send(client, "s", &n.to_string()).await.unwrap().content;
        assert_eq!(answer, format!("prompts: {}", said.join(", ")));
    }
    let histories = [
        history(&mut clients[0], "s").await.unwrap(),
        history(&mut clients[1], "s").await.unwrap(),
        history(&mut clients[2], "s").await.unwrap(),
    ];
    assert_eq!(histories[0].len(), 6);
    assert!(histories.iter().all(|history| *history == histories[0]));
    for client in &mut clients {
        let session = get(client, "s").await.unwrap();
        assert_eq!((session.create_time, session.state()), (created.create_time, SessionState::Idle));
    }
    // Compressed calls are forwarded, too.
    let mut zipped = cluster.client(1).await.send_compressed(CompressionEncoding::Gzip);
    zipped = zipped.accept_compressed(CompressionEncoding::Gzip);
    assert_eq!(send(&mut zipped, "s", "zipped").await.unwrap().content, "prompts: 0, 1, 2, zipped");
}

#[tokio::test]
async fn the_running_turn_is_aborted_through_every_server() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    for n in 1..=TIMES {
        let mut first = clients[0].clone();
        let running = tokio::spawn(async move { send(&mut first, "s", "hang").await });
        until("the prompt is with the model", || cluster.model.calls().len() == n).await;
        let abort = AbortTurnRequest { session_id: "s".into(), ..Default::default() };
        let aborted = clients[1].abort_turn(abort).await.unwrap().into_inner();
        assert!(aborted.message_id.is_some());
        let status = running.await.unwrap().unwrap_err();
        check(&status, Code::Aborted, ErrorReason::TurnAborted);
        if let Some(message_id) = aborted.message_id.filter(|id| !id.is_empty()) {
            assert_eq!(failure_of(&status).message_id, message_id);
        }
    }
}

/// Has a command run, and says what came of it.
fn running(request: &Request) -> Reply {
    match request.tool_result() {
        Some(result) => Reply::text(format!("It said: {}", result.lines().next().unwrap_or_default())),
        None => Reply::tool_call("bash", json!({"command": "echo done", "description": "say so"})),
    }
}

#[tokio::test]
async fn an_ask_is_answered_through_every_server() {
    let cluster = Cluster::start(2, running).await;
    let mut clients = cluster.clients().await;
    let request = CreateSessionRequest {
        session_id: "s".into(),
        available_tools: vec!["builtin:bash".into()],
        permission_policy: on_everything(PermissionEffect::Ask),
        ..Default::default()
    };
    create_with(&mut clients[0], request).await.unwrap();
    let watch = WatchSessionRequest { session_id: "s".into(), ..Default::default() };
    let mut events = clients[1].watch_session(watch).await.unwrap().into_inner();
    for _ in 0..TIMES {
        let mut first = clients[0].clone();
        let running = tokio::spawn(async move { send(&mut first, "s", "run").await });
        let ask_id = soon("an ask", async {
            loop {
                let message = events.next().await.unwrap().unwrap();
                if let Some(watch_session_response::Payload::Event(event)) = message.payload
                    && let Some(Payload::PermissionAsked(asked)) = event.payload
                {
                    return asked.ask_id;
                }
            }
        })
        .await;
        assert_eq!(get(&mut clients[1], "s").await.unwrap().state(), SessionState::Waiting);
        let decision = PermissionAnswer { decision: PermissionDecision::Allow.into(), ..Default::default() };
        let answer = Some(AskAnswer { answer: Some(Answer::Permission(decision)) });
        let request = RespondRequest { session_id: "s".into(), ask_id, answer };
        clients[1].respond(request).await.unwrap();
        assert_eq!(running.await.unwrap().unwrap().content, "It said: done");
    }
}

#[tokio::test]
async fn every_server_lists_what_each_session_does() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    for (n, id) in ["a", "b"].into_iter().enumerate() {
        create(&mut clients[n], id).await;
        let mut client = clients[n].clone();
        tokio::spawn(async move { send(&mut client, id, "hang").await });
        in_state(&mut clients[n], id, SessionState::Running).await;
    }
    create(&mut clients[0], "idle").await;
    for client in &mut clients {
        let all = client.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
        let states: Vec<_> = all.sessions.iter().map(|it| (it.session_id.as_str(), it.state())).collect();
        let expected =
            [("idle", SessionState::Idle), ("b", SessionState::Running), ("a", SessionState::Running)];
        assert_eq!(states, expected);
        let request =
            ListSessionsRequest { states: vec![SessionState::Running.into()], ..Default::default() };
        let running = client.list_sessions(request).await.unwrap().into_inner().sessions;
        let ids: Vec<_> = running.iter().map(|session| session.session_id.as_str()).collect();
        assert_eq!(ids, ["b", "a"]);
    }
}

#[tokio::test]
async fn prompts_sent_through_different_servers_run_one_after_the_other() {
    let cluster = Cluster::start(3, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let sent: Vec<_> = (0..12)
        .map(|n| {
            let mut client = clients[n % 3].clone();
            tokio::spawn(async move { send(&mut client, "s", &n.to_string()).await.unwrap().content })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.unwrap());
    }
    // Each sees those before it, and no two see the same.
    answers.sort_by_key(String::len);
    for pair in answers.windows(2) {
        assert!(pair[1].starts_with(&pair[0]), "{pair:?}");
    }
    assert_eq!(history(&mut clients[2], "s").await.unwrap().len(), 24);
}

#[tokio::test]
async fn deadlines_hold_through_another_server() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    for (id, client) in ["a", "b"].into_iter().zip(&mut clients) {
        create(client, id).await;
    }
    clients.reverse();
    // Long enough for the first event, also on a busy machine.
    let both = ["a", "b"].into_iter().zip(clients).map(async |(id, mut client)| {
        let prompt = Some(Prompt { text: "hang".into(), ..Default::default() });
        let mut call = Call::new(SendAndWaitRequest { session_id: id.into(), prompt });
        call.set_timeout(Duration::from_secs(8));
        client.send_and_wait(call).await.unwrap_err()
    });
    for status in futures_util::future::join_all(both).await {
        check(&status, Code::DeadlineExceeded, ErrorReason::TurnTimeout);
        let failure = failure_of(&status);
        assert!(!failure.last_event_type.is_empty(), "{failure:?}");
    }
}

#[tokio::test]
async fn a_request_id_is_one_turn_whichever_servers_it_is_sent_to() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let both = clients
        .clone()
        .into_iter()
        .map(|mut client| async move { send_named(&mut client, "s", "r", "slow").await.unwrap() });
    let answers = futures_util::future::join_all(both).await;
    assert_eq!(answers[0], answers[1]);
    let again = send_named(&mut clients[1], "s", "r", "slow").await.unwrap();
    assert_eq!(again, answers[0]);
    assert_eq!(cluster.model.calls().len(), 1);
    let status = send_named(&mut clients[1], "s", "r", "other").await.unwrap_err();
    assert_eq!(fields_of(&status), ["prompt.request_id"]);
    // So is one that makes a session.
    let request = CreateSessionRequest { request_id: "c".into(), ..Default::default() };
    let one = create_with(&mut clients[0], request.clone()).await.unwrap();
    let two = create_with(&mut clients[1], request).await.unwrap();
    assert_eq!(one.session_id, two.session_id);
}

#[tokio::test]
async fn errors_and_their_details_are_the_same_from_every_server() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let mut seen = Vec::new();
    for client in &mut clients {
        let unknown = UpdateSessionRequest { session: None, update_mask: None };
        let watch =
            WatchSessionRequest { session_id: "s".into(), cursor: "nonsense".into(), ..Default::default() };
        let response = RespondRequest {
            session_id: "s".into(),
            ask_id: "none".into(),
            answer: Some(AskAnswer { answer: Some(Answer::Permission(PermissionAnswer::default())) }),
        };
        let mut statuses = vec![
            client.update_session(unknown).await.unwrap_err(),
            client.watch_session(watch).await.unwrap_err(),
            client.respond(response).await.unwrap_err(),
            get(client, "nobody").await.unwrap_err(),
            send(client, "s", "").await.unwrap_err(),
        ];
        for status in &mut statuses {
            let metadata = status.metadata();
            assert!(!metadata.keys().any(|key| format!("{key:?}").contains("copilot-grpc-")), "{status:?}");
        }
        seen.push(
            statuses
                .into_iter()
                .map(|it| (it.code(), it.message().to_owned(), it.details().to_vec()))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_stream_through_another_server_is_read_as_it_comes_and_ends_the_turn_when_it_is_dropped() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let prompt = |text: &str| Some(Prompt { text: text.into(), ..Default::default() });
    let request =
        SendAndStreamRequest { session_id: "s".into(), prompt: prompt("slow"), ..Default::default() };
    let mut stream = clients[1].send_and_stream(request).await.unwrap().into_inner();
    let (mut text, mut pieces, mut content) = (String::new(), 0, String::new());
    while let Some(message) = stream.next().await {
        match message.unwrap().payload {
            Some(send_and_stream_response::Payload::Event(event)) => {
                if let Some(Payload::AssistantMessageDelta(delta)) = event.payload {
                    text.push_str(&delta.text);
                    pieces += 1;
                }
            }
            Some(send_and_stream_response::Payload::Result(result)) => content = result.content,
            _ => {}
        }
    }
    assert_eq!((text.as_str(), content.as_str()), ("prompts: slow", "prompts: slow"));
    assert!(pieces > 1, "it came at once");
    // One that nobody reads any more, whether it could be asked for again or not.
    for request_id in ["", "r"] {
        let prompt = Prompt { text: "hang".into(), request_id: request_id.into(), ..Default::default() };
        let request =
            SendAndStreamRequest { session_id: "s".into(), prompt: Some(prompt), ..Default::default() };
        let stream = clients[1].send_and_stream(request).await.unwrap();
        in_state(&mut clients[0], "s", SessionState::Running).await;
        drop(stream);
        in_state(&mut clients[0], "s", SessionState::Idle).await;
    }
}

#[tokio::test]
async fn a_turn_with_a_request_id_goes_on_when_the_server_dies_that_forwards_it() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "waits").await;
    create(&mut clients[0], "streams").await;
    let prompt = Prompt { text: "hang".into(), request_id: "r".into(), ..Default::default() };
    let request =
        SendAndStreamRequest { session_id: "streams".into(), prompt: Some(prompt), ..Default::default() };
    let _stream = clients[1].send_and_stream(request).await.unwrap();
    let mut through = clients[1].clone();
    let waits = tokio::spawn(async move { send_named(&mut through, "waits", "r", "hang").await });
    until("both are with the model", || cluster.model.calls().len() == 2).await;
    cluster.stop(1, Signal::KILL).await;
    soon("the end of a call", waits).await.unwrap().unwrap_err();
    for id in ["waits", "streams"] {
        let mut owner = clients[0].clone();
        let again = tokio::spawn(async move { send_named(&mut owner, id, "r", "hang").await });
        let request =
            AbortTurnRequest { session_id: id.into(), request_id: "r".into(), ..Default::default() };
        assert!(
            clients[0].abort_turn(request).await.unwrap().into_inner().message_id.is_some(),
            "{id} goes on"
        );
        let status = soon("the end of a turn", again).await.unwrap().unwrap_err();
        assert_eq!(reason_of(&status), "TURN_ABORTED", "{status:?}");
    }
    assert_eq!(cluster.model.calls().len(), 2, "no prompt was sent twice");
}

#[tokio::test]
async fn heartbeats_come_through_another_server() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let request = WatchSessionRequest {
        session_id: "s".into(),
        heartbeat_interval: Some(Duration::from_secs(1).try_into().unwrap()),
        ..Default::default()
    };
    let mut events = clients[1].watch_session(request).await.unwrap().into_inner();
    soon("a heartbeat", async {
        while !matches!(
            events.next().await.unwrap().unwrap().payload,
            Some(watch_session_response::Payload::Heartbeat(_))
        ) {}
    })
    .await;
}

#[tokio::test]
async fn a_conversation_through_another_server_goes_both_ways() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let (said, heard) = tokio::sync::mpsc::channel(8);
    let say = async |payload| said.send(ConverseRequest { payload: Some(payload) }).await.unwrap();
    let open = ConverseOpen { session_id: "s".into(), ..Default::default() };
    say(converse_request::Payload::Open(open)).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(heard);
    let mut answers = clients[1].converse(stream).await.unwrap().into_inner();
    for n in ["one", "two"] {
        let prompt = Some(Prompt { text: n.into(), ..Default::default() });
        say(converse_request::Payload::Prompt(ConversePrompt { prompt_id: n.into(), prompt })).await;
        let result = soon("a result", async {
            loop {
                let message = answers.next().await.unwrap().unwrap();
                if let Some(converse_response::Payload::Result(result)) = message.payload {
                    return result;
                }
            }
        })
        .await;
        assert_eq!(result.prompt_id, n);
    }
    assert_eq!(history(&mut clients[0], "s").await.unwrap().len(), 4);
    drop(said);
    let rest = timeout(Duration::from_secs(20), async { while answers.next().await.is_some() {} }).await;
    rest.expect("the stream ends when its caller has finished");
    sleep(Duration::ZERO).await;
}
