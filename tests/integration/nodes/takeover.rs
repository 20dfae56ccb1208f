//! A server dies, freezes, or ends in good order: its sessions go on with another, and nothing that was answered is lost.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    ConverseOpen, ConversePrompt, ConverseRequest, CreateSessionRequest, ErrorReason, Node, NodeState,
    Prompt, SessionState, WatchSessionRequest, WatchSessionResponse, converse_request, converse_response,
    session_event::Payload, watch_session_response,
};
use rustix::process::{Signal, kill_process};
use scripted_model::{Reply, Request};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::cluster::{Cluster, LEASE, in_state, nodes_of};
use crate::{
    store::installation::{create, create_with, get, history, listed, script, send, send_named},
    support::{failure_of, reason_of, soon, until},
};

/// How much longer than its server's lease a session may be out of reach.
const TAKEOVER: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_session_answers_elsewhere_when_its_server_is_killed_with_all_that_was_said() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    create(&mut clients[0], "silent").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    cluster.stop(0, Signal::KILL).await;
    let began = Instant::now();
    let answer = send(&mut clients[1], "s", "two").await.unwrap().content;
    assert!(began.elapsed() < LEASE + TAKEOVER, "{:?}", began.elapsed());
    assert_eq!(answer, "prompts: one, two");
    assert_eq!(send(&mut clients[1], "silent", "first").await.unwrap().content, "prompts: first");
    // The first one comes back, and has an older folder of it.
    cluster.start_one(0).await;
    let mut first = cluster.client(0).await;
    assert_eq!(send(&mut first, "s", "three").await.unwrap().content, "prompts: one, two, three");
    assert_eq!(cluster.owner_of("s").await, 1);
    assert_eq!(history(&mut first, "s").await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_session_answers_elsewhere_when_its_server_is_killed_and_the_folder_is_gone_that_it_worked_in() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    cluster.stop(0, Signal::KILL).await;
    cluster.wipe(0).await;
    assert_eq!(send(&mut clients[1], "s", "two").await.unwrap().content, "prompts: one, two");
    let folder = get(&mut clients[1], "s").await.unwrap().working_directory;
    assert!(std::path::Path::new(&folder).is_dir(), "{folder}");
}

#[tokio::test]
async fn a_session_in_whose_creation_its_server_is_killed_is_created_elsewhere_and_once() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    for cli in cluster.server(0).clis() {
        kill_process(cli, Signal::STOP).unwrap();
    }
    let request = CreateSessionRequest { request_id: "r".into(), ..Default::default() };
    let (mut first, cut) = (clients[0].clone(), request.clone());
    let cut = tokio::spawn(async move { create_with(&mut first, cut).await });
    soon("the session's record", async {
        while listed(&mut clients[1]).await.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    cluster.stop(0, Signal::KILL).await;
    cut.await.unwrap().unwrap_err();
    let made = create_with(&mut clients[1], request).await.unwrap().session_id;
    assert_eq!(listed(&mut clients[1]).await, [made.as_str()]);
    assert_eq!(cluster.owner_of(&made).await, 1);
    assert_eq!(send(&mut clients[1], &made, "one").await.unwrap().content, "prompts: one");
}

#[tokio::test]
async fn a_session_is_had_at_once_from_a_server_that_has_started_anew() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    cluster.stop(0, Signal::KILL).await;
    cluster.start_one(0).await;
    let mut first = cluster.client(0).await;
    assert_eq!(send(&mut first, "s", "two").await.unwrap().content, "prompts: one, two");
    assert_eq!(send(&mut clients[1], "s", "three").await.unwrap().content, "prompts: one, two, three");
}

#[tokio::test]
async fn a_turn_that_was_delivered_is_cut_when_its_server_is_killed_and_one_with_an_id_is_told_truly() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "plain").await;
    create(&mut clients[0], "named").await;
    let (mut one, mut two) = (clients[1].clone(), clients[1].clone());
    let plain = tokio::spawn(async move { send(&mut one, "plain", "hang").await });
    let named = tokio::spawn(async move { send_named(&mut two, "named", "r", "hang").await });
    until("both are with the model", || cluster.model.calls().len() == 2).await;
    cluster.stop(0, Signal::KILL).await;
    for turn in [plain, named] {
        let status = soon("the end of a turn", turn).await.unwrap().unwrap_err();
        assert_eq!(reason_of(&status), "TURN_INTERRUPTED", "{status:?}");
        assert_ne!(failure_of(&status).delivery(), copilot_grpc::grpc::pb::DeliveryState::NotDelivered);
    }
    assert!(send(&mut clients[1], "named", "next").await.unwrap().content.ends_with("next"));
}

/// The texts of messages that a watcher is told, up to this one.
async fn told_up_to(events: &mut Streaming<WatchSessionResponse>, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    soon("the events of a session", async {
        while told.last().is_none_or(|text| text != last) {
            let message = events.next().await.unwrap().unwrap();
            let Some(watch_session_response::Payload::Event(event)) = message.payload else { continue };
            match event.payload {
                Some(Payload::UserMessage(message)) => told.push(format!("> {}", message.content)),
                Some(Payload::AssistantMessage(message)) => told.push(message.content),
                _ => {}
            }
        }
    })
    .await;
    told
}

#[tokio::test]
async fn a_watcher_goes_on_when_the_server_of_its_session_dies_with_nothing_left_out_and_nothing_twice() {
    let mut cluster = Cluster::start(3, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let watch = WatchSessionRequest { session_id: "s".into(), ..Default::default() };
    let mut events = clients[2].watch_session(watch).await.unwrap().into_inner();
    send(&mut clients[0], "s", "one").await.unwrap();
    assert_eq!(told_up_to(&mut events, "prompts: one").await, ["> one", "prompts: one"]);
    cluster.stop(0, Signal::KILL).await;
    send(&mut clients[1], "s", "two").await.unwrap();
    assert_eq!(told_up_to(&mut events, "prompts: one, two").await, ["> two", "prompts: one, two"]);
}

#[tokio::test]
async fn a_conversation_goes_on_when_the_server_of_its_session_dies() {
    let mut cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    let (said, heard) = tokio::sync::mpsc::channel(8);
    let say = async |payload| said.send(ConverseRequest { payload: Some(payload) }).await.unwrap();
    let prompt = |id: &str, text: &str, request_id: &str| {
        let prompt = Some(Prompt { text: text.into(), request_id: request_id.into(), ..Default::default() });
        converse_request::Payload::Prompt(ConversePrompt { prompt_id: id.into(), prompt })
    };
    say(converse_request::Payload::Open(ConverseOpen { session_id: "s".into(), ..Default::default() })).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(heard);
    let mut answers = clients[1].converse(stream).await.unwrap().into_inner();
    let mut ends = Vec::new();
    say(prompt("first", "one", "")).await;
    let mut next_end = async || {
        soon("the end of a turn", async {
            loop {
                match answers.next().await.unwrap().unwrap().payload {
                    Some(converse_response::Payload::Result(result)) => {
                        return (result.prompt_id, Ok(result.result.unwrap().content));
                    }
                    Some(converse_response::Payload::Failure(failure)) => {
                        return (failure.prompt_id.clone(), Err(failure.reason()));
                    }
                    _ => {}
                }
            }
        })
        .await
    };
    ends.push(next_end().await);
    say(prompt("cut", "hang", "")).await;
    until("the prompt is with the model", || cluster.model.calls().len() == 2).await;
    // It waits behind the other, and is known by its id.
    say(prompt("kept", "kept", "r")).await;
    in_state(&mut clients[0], "s", SessionState::Running).await;
    cluster.stop(0, Signal::KILL).await;
    ends.push(next_end().await);
    ends.push(next_end().await);
    assert_eq!(ends[0], ("first".into(), Ok("prompts: one".into())));
    assert_eq!(ends[1], ("cut".into(), Err(ErrorReason::TurnInterrupted)));
    assert_eq!(ends[2].0, "kept");
    assert!(ends[2].1.as_ref().is_ok_and(|content| content.ends_with("kept")), "{ends:?}");
    say(prompt("last", "last", "")).await;
    let (id, content) = next_end().await;
    assert_eq!((id.as_str(), content.unwrap().ends_with("kept, last")), ("last", true));
}

#[tokio::test]
async fn a_server_that_was_frozen_for_longer_than_its_lease_writes_nothing_and_serves_again() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    let mut first = clients[0].clone();
    let running = tokio::spawn(async move { send(&mut first, "s", "slow").await });
    in_state(&mut clients[1], "s", SessionState::Running).await;
    cluster.server(0).signal(Signal::STOP);
    // It is not known whether the frozen one has the prompt, but by its id it is one turn wherever it runs.
    let answer = send_named(&mut clients[1], "s", "r", "two").await.unwrap().content;
    assert!(answer.ends_with("two"), "{answer}");
    cluster.server(0).signal(Signal::CONT);
    // Its caller is told that the turn was cut, if it had not ended before.
    if let Err(status) = soon("the end of a turn", running).await.unwrap() {
        assert_eq!(reason_of(&status), "TURN_INTERRUPTED", "{status:?}");
    }
    let answer = send(&mut clients[0], "s", "three").await.unwrap().content;
    assert!(answer.ends_with("two, three"), "{answer}");
    assert_eq!(cluster.owner_of("s").await, 1);
    let told = history(&mut clients[0], "s").await.unwrap();
    let prompts = |text: &str| told.iter().filter(|line| **line == format!("> {text}")).count();
    assert_eq!((prompts("one"), prompts("two"), prompts("three")), (1, 1, 1), "{told:?}");
}

#[tokio::test]
async fn a_server_that_ends_hands_its_sessions_over_and_no_call_fails() {
    let mut cluster = Cluster::new(2, script).await.flag("--drain-delay=1s").flag("--grace-period=20s");
    cluster.start_all().await;
    let mut clients = cluster.clients().await;
    for id in ["idle", "busy"] {
        create(&mut clients[0], id).await;
        send(&mut clients[0], id, "one").await.unwrap();
    }
    let mut first = clients[0].clone();
    let running = tokio::spawn(async move { send(&mut first, "busy", "slow").await });
    in_state(&mut clients[1], "busy", SessionState::Running).await;
    cluster.server(0).signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(send(&mut clients[1], "idle", "two").await.unwrap().content, "prompts: one, two");
    assert!(began.elapsed() < LEASE, "it was not handed over: {:?}", began.elapsed());
    // Also through the one that ends, as long as it takes calls.
    assert_eq!(get(&mut clients[0], "idle").await.unwrap().session_id, "idle");
    // One that runs is waited for.
    let next = send(&mut clients[1], "busy", "two").await.unwrap().content;
    assert_eq!(next, "prompts: one, slow, two");
    assert_eq!(running.await.unwrap().unwrap().content, "prompts: one, slow");
    cluster.stop(0, Signal::TERM).await;
    let nodes = nodes_of(&mut clients[1]).await;
    assert_eq!(nodes[0].state(), NodeState::Gone);
}

#[tokio::test]
async fn a_server_that_ends_waits_for_the_turns_that_it_forwards() {
    // Longer than the last answers may take when all turns have ended.
    let long =
        |_: &Request| Reply::chunks((0..25).map(|n| format!("{n} "))).every(Duration::from_millis(200));
    let mut cluster = Cluster::start(2, long).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[1], "s").await;
    let mut first = clients[0].clone();
    let running = tokio::spawn(async move { send(&mut first, "s", "hello").await });
    until("the prompt is with the model", || cluster.model.calls().len() == 1).await;
    cluster.stop(0, Signal::TERM).await;
    assert!(running.await.unwrap().unwrap().content.ends_with("23 24 "));
}

#[tokio::test]
async fn a_server_in_the_drain_file_gives_its_sessions_away_until_it_is_taken_off() {
    let mut cluster = Cluster::new(2, script).await;
    let list = cluster.file_of(0, "drain", "");
    let cluster_of_both = format!("--drain-file={}", list.display());
    for node in [0, 1] {
        cluster.flag_of(node, &cluster_of_both);
    }
    cluster.start_all().await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    send(&mut clients[0], "s", "one").await.unwrap();
    std::fs::write(&list, "node-0 # its disk is to be changed\n").unwrap();
    let mut said = vec!["one".to_owned()];
    soon("the session is given away", async {
        while cluster.owner_name("s").await == "node-0" {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Through either, and a new one, it is the other's.
    for (n, client) in clients.iter_mut().enumerate() {
        said.push(format!("more {n}"));
        let answer = send(client, "s", said.last().unwrap()).await.unwrap().content;
        assert_eq!(answer, format!("prompts: {}", said.join(", ")));
    }
    assert_eq!(cluster.owner_of("s").await, 1);
    create(&mut clients[0], "new").await;
    assert_eq!(cluster.owner_of("new").await, 1);
    assert_eq!(nodes_of(&mut clients[1]).await[0].state(), NodeState::Draining);
    std::fs::write(&list, "").unwrap();
    soon("the server serves again", async {
        while nodes_of(&mut clients[1]).await[0].state() != NodeState::Serving {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    create(&mut clients[0], "again").await;
    assert_eq!(cluster.owner_of("again").await, 0);
}

#[tokio::test]
async fn a_server_that_comes_gets_its_share_of_the_sessions_in_which_nothing_happens() {
    let mut cluster = Cluster::new(2, script).await;
    cluster.start_one(0).await;
    let mut first = cluster.client(0).await;
    const SESSIONS: u32 = 30;
    for n in 0..SESSIONS {
        create(&mut first, &format!("s{n}")).await;
    }
    cluster.start_one(1).await;
    soon("the first server has no more than a little beyond its share", async {
        loop {
            let nodes = nodes_of(&mut first).await;
            let own = nodes.iter().find(|node| node.is_this).unwrap().sessions;
            if nodes.len() == 2 && own <= 15 + 15 / 8 + 8 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // All are there, wherever they are.
    let mut second = cluster.client(1).await;
    for n in 0..SESSIONS {
        assert_eq!(send(&mut second, &format!("s{n}"), "hello").await.unwrap().content, "prompts: hello");
    }
}

#[tokio::test]
async fn each_server_tells_of_all() {
    let cluster = Cluster::start(2, script).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    for (n, client) in clients.iter_mut().enumerate() {
        soon("the load of a server", async {
            let is_told = |node: &Node| node.room > 0 && (node.sessions > 0 || node.name == "node-1");
            while !nodes_of(client).await.iter().all(is_told) {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let nodes = nodes_of(client).await;
        let seen: Vec<_> =
            nodes.iter().map(|node| (node.name.as_str(), node.is_this, node.sessions)).collect();
        assert_eq!(seen, [("node-0", n == 0, 1), ("node-1", n == 1, 0)]);
        for (node, server) in nodes.iter().zip([cluster.server(0), cluster.server(1)]) {
            assert_eq!(node.address, server.address());
            assert_eq!((node.incarnation, node.state()), (1, NodeState::Serving));
            assert_eq!(node.version, env!("CARGO_PKG_VERSION"));
            assert!(node.room > 0 && node.lease.as_ref().unwrap().seconds <= 3);
        }
    }
}
