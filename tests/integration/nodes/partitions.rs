//! Servers that do not reach each other, or the store.

use std::time::Duration;

use copilot_grpc::grpc::pb::{CreateSessionRequest, ErrorReason, GetServerInfoRequest, Store};
use tokio::time::sleep;
use tonic::Code;

use super::cluster::{Cluster, LEASE, nodes_of};
use crate::{
    store::installation::{Client, create, create_with, history, listed, script, send, send_named},
    support::{check, proxy::Proxy, soon},
};

/// The port in an address.
fn port(address: &str) -> u16 {
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// What a server says of the store.
async fn store_of(client: &mut Client) -> Store {
    client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner().store.unwrap()
}

/// Two servers, of which the second reaches the store through the proxy.
async fn behind_a_proxy(lease: Duration) -> (Cluster, Proxy) {
    last_behind_a_proxy(2, lease).await
}

/// So many servers, of which the last reaches the store through the proxy.
async fn last_behind_a_proxy(count: usize, lease: Duration) -> (Cluster, Proxy) {
    let mut cluster = Cluster::new(count, script).await.flag(format!("--lease={}s", lease.as_secs()));
    let url = cluster.store_url().to_owned();
    let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
    let host = authority.rsplit('@').next().unwrap().to_owned();
    let proxy = Proxy::start(port(&host)).await;
    cluster.flag_of(
        count - 1,
        format!("--store-url={}", url.replace(&host, &format!("127.0.0.1:{}", proxy.port))),
    );
    cluster.start_all().await;
    (cluster, proxy)
}

#[tokio::test]
async fn a_server_that_loses_the_store_for_longer_than_its_lease_stops_and_another_goes_on() {
    let (cluster, proxy) = behind_a_proxy(LEASE).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[1], "s").await;
    send(&mut clients[1], "s", "one").await.unwrap();
    let mut second = clients[1].clone();
    let running = tokio::spawn(async move { send(&mut second, "s", "hang").await });
    crate::support::until("the prompt is with the model", || cluster.model.calls().len() == 2).await;
    proxy.shut();
    // The first one serves it, and the turn that was cut is told of.
    let answer = send_named(&mut clients[0], "s", "r", "two").await.unwrap().content;
    assert!(answer.ends_with("two"), "{answer}");
    let status = soon("the end of the turn", running).await.unwrap().unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::TurnInterrupted);
    // What the second one does not know it cannot tell, and says so.
    let status = send(&mut clients[1], "s", "lost").await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::StoreUnavailable);
    proxy.reopen();
    let served = soon("the second server is back", async {
        loop {
            match send(&mut clients[1], "s", "three").await {
                Ok(result) => return result.content,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    assert!(served.ends_with("two, three"), "{served}");
    let told = history(&mut clients[0], "s").await.unwrap();
    assert!(!told.iter().any(|line| line.ends_with("lost")), "{told:?}");
}

#[tokio::test]
async fn a_store_that_is_away_for_less_than_a_lease_costs_no_turn_that_runs() {
    let (cluster, proxy) = behind_a_proxy(20 * LEASE).await;
    let mut clients = cluster.clients().await;
    create(&mut clients[1], "s").await;
    let mut second = clients[1].clone();
    let running = tokio::spawn(async move { send(&mut second, "s", "slow").await });
    crate::support::until("the prompt is with the model", || cluster.model.calls().len() == 1).await;
    proxy.shut();
    soon("the store is missed", async {
        while store_of(&mut clients[1]).await.available {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    proxy.reopen();
    assert_eq!(running.await.unwrap().unwrap().content, "prompts: slow");
    assert_eq!(nodes_of(&mut clients[0]).await.len(), 2);
}

#[tokio::test]
async fn a_session_is_created_once_also_if_the_store_could_not_say_that_it_has_it() {
    let (cluster, proxy) = last_behind_a_proxy(1, 20 * LEASE).await;
    let mut client = cluster.clients().await.remove(0);
    let request = |session_id: &str, request_id: &str| CreateSessionRequest {
        session_id: session_id.into(),
        request_id: request_id.into(),
        owner: format!("the owner of {request_id}"),
        ..Default::default()
    };
    for (session_id, request_id) in [("chosen", "r-1"), ("", "r-2")] {
        let request = request(session_id, request_id);
        proxy.cut_the_answer_to(&request.owner);
        let lost = create_with(&mut client, request.clone()).await.unwrap_err();
        check(&lost, Code::Unavailable, ErrorReason::StoreUnavailable);
        let made = soon("the store is back", async {
            loop {
                match Box::pin(create_with(&mut client, request.clone())).await {
                    Ok(session) => return session.session_id,
                    Err(status) => check(&status, Code::Unavailable, ErrorReason::StoreUnavailable),
                }
            }
        })
        .await;
        assert!(session_id.is_empty() || made == session_id);
        assert_eq!(create_with(&mut client, request).await.unwrap().session_id, made);
        assert_eq!(send(&mut client, &made, "one").await.unwrap().content, "prompts: one");
    }
    assert_eq!(listed(&mut client).await.len(), 2);
    let taken = create_with(&mut client, request("chosen", "r-3")).await.unwrap_err();
    check(&taken, Code::AlreadyExists, ErrorReason::SessionExists);
}

#[tokio::test]
async fn a_server_that_others_do_not_reach_keeps_its_sessions_and_its_callers_are_served() {
    let mut cluster = Cluster::new(2, script).await;
    // What the first one advertises leads through a proxy.
    let proxy = Proxy::start(0).await;
    cluster.flag_of(0, format!("--advertise=127.0.0.1:{}", proxy.port));
    cluster.start_all().await;
    proxy.lead_to(port(cluster.server(0).address()));
    let mut clients = cluster.clients().await;
    create(&mut clients[0], "s").await;
    assert_eq!(send(&mut clients[1], "s", "one").await.unwrap().content, "prompts: one");
    proxy.shut();
    let status = soon("a refusal", send(&mut clients[1], "s", "two")).await.unwrap_err();
    check(&status, Code::Unavailable, ErrorReason::BackendUnavailable);
    assert_eq!(send(&mut clients[0], "s", "two").await.unwrap().content, "prompts: one, two");
    assert_eq!(cluster.owner_of("s").await, 0);
    proxy.reopen();
    assert_eq!(send(&mut clients[1], "s", "three").await.unwrap().content, "prompts: one, two, three");
}
