//! What callers in Python have repeated by their library, with the service configuration that is published in `examples`, behind a
//! proxy that cuts: what the agent may have got is not sent again, and what it surely has not got is.

use std::{path::Path, process::Stdio};

use scripted_model::{Reply, Request};
use tokio::process::{Child, Command};

use crate::{
    rolling::python,
    support::{
        facade::{TestFacade, abort},
        proxy::Proxy,
        real_cli::{LastingCli, RealCli},
        service::Service,
        soon, until,
    },
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A caller of the session `s`, through the proxy.
async fn caller(proxy: &Proxy, text: &str) -> Child {
    Command::new(python().await)
        .arg(root().join("tests/integration/retrying.py"))
        .arg(root().join("examples/service-config.json"))
        .args([&format!("127.0.0.1:{}", proxy.port), "s", text])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What came of its call.
async fn came(caller: Child) -> String {
    let output = soon("the caller's end", caller.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// How often the model was asked this.
fn asked(cli: &RealCli, text: &str) -> usize {
    cli.model.calls().iter().filter(|call| call.request.prompt() == text).count()
}

async fn start(flags: &[&str]) -> (RealCli, TestFacade, Proxy) {
    let script = |request: &Request| match request.prompt() {
        "hang" => Reply::hang(),
        prompt => Reply::text(format!("You said: {prompt}")),
    };
    let cli = RealCli::start(script).await;
    let facade = flags.iter().fold(cli.setup(), |setup, flag| setup.flag(*flag)).start().await;
    facade.create("s").await;
    let proxy = Proxy::start(facade.facade.address().port()).await;
    (cli, facade, proxy)
}

fn turns(facade: &TestFacade) -> usize {
    facade.facade.sessions().load().turns
}

#[tokio::test]
async fn a_turn_that_was_delivered_is_not_sent_again_when_a_proxy_cuts_it() {
    let (cli, facade, proxy) = start(&[]).await;
    let caller = caller(&proxy, "hang").await;
    cli.model.wait_for(|calls| calls.len() == 1).await;
    proxy.cut();
    assert_eq!(came(caller).await, "UNAVAILABLE");
    facade.at_rest().await;
    assert_eq!(asked(&cli, "hang"), 1);
}

#[tokio::test]
async fn a_turn_that_waits_for_another_is_sent_again_when_a_proxy_cuts_it() {
    let (cli, facade, proxy) = start(&[]).await;
    let _running = facade.stream("s", "hang").await.unwrap();
    cli.model.wait_for(|calls| calls.len() == 1).await;
    let caller = caller(&proxy, "two").await;
    until("it waits", || turns(&facade) == 2).await;
    proxy.cut();
    until("it was withdrawn", || turns(&facade) == 1).await;
    until("it waits again", || turns(&facade) == 2).await;
    facade.client().abort_turn(abort("s")).await.unwrap();
    assert_eq!(came(caller).await, "You said: two");
    assert_eq!(asked(&cli, "two"), 1);
}

#[tokio::test]
async fn a_turn_for_which_there_is_no_room_is_sent_again_when_there_may_be_some() {
    let (cli, facade, proxy) = start(&["--max-queued-turns=1"]).await;
    let _running = facade.stream("s", "hang").await.unwrap();
    cli.model.wait_for(|calls| calls.len() == 1).await;
    let waiting = facade.stream("s", "two").await.unwrap();
    until("it waits", || turns(&facade) == 2).await;
    let caller = caller(&proxy, "three").await;
    until("it was refused, and comes again", || proxy.connections() > 0).await;
    drop(waiting);
    facade.client().abort_turn(abort("s")).await.unwrap();
    assert_eq!(came(caller).await, "You said: three");
    assert_eq!(asked(&cli, "three"), 1);
}

#[tokio::test]
async fn the_examples_in_python_run_as_they_are() {
    let python = python().await;
    let cli = LastingCli::start(scripted_model::demo).await;
    let server = Service::start(&cli, &[]);
    server.runs(0).await;
    let run = async |program: &str, prompt: &str| {
        let run = Command::new(python)
            .arg(root().join("examples/python").join(program))
            .args([&format!("127.0.0.1:{}", server.port), prompt])
            .output();
        let output = soon(program, run).await.unwrap();
        [output.stdout, output.stderr].concat()
    };
    for (program, prompt, expected) in [
        ("client.py", "hello", "You said: hello"),
        ("client.py", "long", "reason: TURN_TIMEOUT"),
        ("tool.py", "tool: what time is it?", "was asked for"),
    ] {
        let said = String::from_utf8(run(program, prompt).await).unwrap();
        assert!(said.contains(expected), "{program} {prompt}: {said}");
    }
}
