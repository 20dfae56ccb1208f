//! Names of the DNS lead to CLIs: looked up when their answers hold no longer, and believed only when there is an answer.

use std::{path::Path, time::Duration};

use copilot_grpc::{
    app::look_up,
    backend::pool::addresses::{self, Addresses},
    grpc::pb::{BackendStanding, BackendState},
};
use futures_util::StreamExt as _;
use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use tokio::time::Instant;

use crate::{
    pool::{Clis, backends, create, states_become},
    support::{dns::NameServer, facade::Setup, soon},
};

const SERVICE: &str = "_copilot._tcp.cli.test";

/// The next set of CLIs.
async fn next(found: &mut Addresses) -> Vec<String> {
    let found = soon("an answer", found.next()).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

/// The next set of CLIs that is another one.
async fn next_but(found: &mut Addresses, known: &[&str]) -> Vec<String> {
    loop {
        let next = next(found).await;
        if next != known {
            return next;
        }
    }
}

#[tokio::test]
async fn each_target_of_the_records_is_a_cli_with_a_name_of_its_own() {
    let server = NameServer::start().await;
    // The last two say that there is no service.
    let targets = [("CLI-1.Cli.test.", 2), ("cli-0.cli.test.", 1), ("cli-2.cli.test.", 0), (".", 3)];
    server.leads_to(SERVICE, 0, &targets);
    let mut found = addresses::look_up_targets(server.names(), SERVICE.into());
    let before = ["cli-0.cli.test:1", "cli-1.cli.test:2"];
    assert_eq!(next(&mut found).await, before);
    server.leads_to(SERVICE, 0, &[("cli-1.cli.test.", 2), ("cli-3.cli.test.", 1)]);
    assert_eq!(next_but(&mut found, &before).await, ["cli-1.cli.test:2", "cli-3.cli.test:1"]);
}

#[tokio::test]
async fn a_name_is_left_alone_while_its_answer_holds() {
    let server = NameServer::start().await;
    server.leads_to(SERVICE, 1, &[("cli-0.cli.test.", 1)]);
    let mut found = addresses::look_up_targets(server.names(), SERVICE.into());
    let began = Instant::now();
    assert_eq!(next(&mut found).await, ["cli-0.cli.test:1"]);
    assert_eq!(next(&mut found).await, ["cli-0.cli.test:1"]);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_name_server_that_fails_or_knows_nothing_changes_nothing() {
    let server = NameServer::start().await;
    server.leads_to(SERVICE, 0, &[("cli-0.cli.test.", 1)]);
    let mut found = addresses::look_up_targets(server.names(), SERVICE.into());
    assert_eq!(next(&mut found).await, ["cli-0.cli.test:1"]);
    for error in [ResponseCode::ServFail, ResponseCode::NXDomain, ResponseCode::Refused] {
        server.fail(RecordType::SRV, Some(error));
        let (asked, server) = (server.asked(), &server);
        // Nothing is told while it is asked again and again.
        let (known, again) = (next_but(&mut found, &["cli-0.cli.test:1"]), async {
            while server.asked() < asked + 5 {
                tokio::task::yield_now().await;
            }
        });
        tokio::select! {
            told = known => panic!("{error}: {told:?}"),
            () = soon("it is asked again", again) => {}
        }
        server.fail(RecordType::SRV, None);
    }
    server.leads_to(SERVICE, 0, &[("cli-1.cli.test.", 1)]);
    assert_eq!(next_but(&mut found, &["cli-0.cli.test:1"]).await, ["cli-1.cli.test:1"]);
}

#[tokio::test]
async fn a_cli_with_two_addresses_is_one_cli() {
    let server = NameServer::start().await;
    let check = async |addresses: &[&str], expected: &[&str]| {
        server.has("cli.test", addresses);
        let mut found = addresses::look_up(server.names(), "cli.test".into(), 7);
        assert_eq!(next(&mut found).await, expected);
    };
    check(&["10.0.0.1", "fd00::1", "10.0.0.2"], &["10.0.0.1:7", "10.0.0.2:7"]).await;
    check(&["fd00::1", "fd00::2"], &["[fd00::1]:7", "[fd00::2]:7"]).await;
}

/// Otherwise all CLIs would leave, and come back under other addresses.
#[tokio::test]
async fn the_ipv6_addresses_do_not_stand_in_for_ipv4_ones_that_cannot_be_looked_up() {
    let server = NameServer::start().await;
    server.has("cli.test", &["10.0.0.1", "fd00::1"]);
    let mut found = addresses::look_up(server.names(), "cli.test".into(), 7);
    assert_eq!(next(&mut found).await, ["10.0.0.1:7"]);
    server.fail(RecordType::A, Some(ResponseCode::ServFail));
    let asked = server.asked();
    let again = async {
        while server.asked() < asked + 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        told = next_but(&mut found, &["10.0.0.1:7"]) => panic!("{told:?}"),
        () = soon("it is asked again", again) => {}
    }
}

#[tokio::test]
async fn a_cli_whose_address_changes_keeps_its_name_its_home_and_its_sessions() {
    let (server, clis) = (NameServer::start().await, Clis::start(2).await);
    let ports: Vec<u16> =
        clis.addresses().iter().map(|it| it.rsplit_once(':').unwrap().1.parse().unwrap()).collect();
    server.leads_to(SERVICE, 0, &[("cli-0.cli.test.", ports[0]), ("cli-1.cli.test.", ports[1])]);
    server.has("cli-0.cli.test", &["127.0.0.1"]);
    server.has("cli-1.cli.test", &["127.0.0.1"]);
    let setup = Setup { cli_url: format!("srv:///{SERVICE}"), ..Setup::default() };
    let setup = setup.flag("--keeper-link=false").flag("--cli-home=/homes/{name}");
    let names = server.names();
    let facade = setup.start_where(move |address| look_up(&names, address)).await;
    states_become(&facade, &[BackendState::Ready; 2]).await;
    let expected: Vec<_> =
        ports.iter().enumerate().map(|(cli, port)| format!("cli-{cli}.cli.test:{port}")).collect();
    let seen = async || {
        let seen = backends(&facade).await.into_iter();
        seen.map(|it| (it.name.clone(), it.address.clone(), it.standing())).collect::<Vec<_>>()
    };
    let open = expected.iter().map(|it| (it.clone(), it.clone(), BackendStanding::Open)).collect::<Vec<_>>();
    assert_eq!(seen().await, open);
    let homes = facade.facade.sessions().pool().all();
    let homes: Vec<_> = homes.iter().map(|backend| backend.home().unwrap().to_owned()).collect();
    assert_eq!(homes, [Path::new("/homes/cli-0"), Path::new("/homes/cli-1")]);
    // A session of the first one.
    let id = (0..).map(|n| format!("session-{n}"));
    let placement = crate::pool::placement(&expected);
    let id = id.into_iter().find(|id| placement.order(id)[0] == 0).unwrap();
    create(&facade, &id).await.unwrap();
    assert_eq!(clis.created(&id), [0]);
    // It goes away; where it comes back nobody is yet.
    server.has("cli-0.cli.test", &["127.0.0.9"]);
    clis.0[0].disconnect().await;
    states_become(&facade, &[BackendState::Down, BackendState::Ready]).await;
    assert_eq!(seen().await, open, "it has not left");
    server.has("cli-0.cli.test", &["127.0.0.1"]);
    states_become(&facade, &[BackendState::Ready; 2]).await;
    assert_eq!(facade.get(&id).await.unwrap().session_id, id);
    assert_eq!(seen().await, open);
}
