//! Six times as many callers as turns may run are served in turn, or refused at once; on the real CLI.
//!
//! The CLI is kept as busy as it may be, and the rush costs no memory to speak of. Nothing here is compared by the clock, on a machine
//! that may have other work: fairness is counted in turns of others.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, copilot_service_client::CopilotServiceClient,
};
use futures_util::future::join_all;
use scripted_model::Reply;
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};
use tonic_types::pb as rpc;

use crate::support::{check, detail, facade::wait, real_cli::LastingCli, service::Service};

/// Turns that may run, and turns that may wait.
const RUNNING: usize = 4;
const WAITING: usize = 12;

/// What callers saw.
#[derive(Default)]
struct Seen {
    /// For each turn that was answered, how many of others were answered meanwhile.
    others: Vec<usize>,
    /// How long each refusal took.
    refusals: Vec<Duration>,
}

/// One turn after the other in a session of its own; one that is refused is sent again when the server says.
async fn call(
    mut client: CopilotServiceClient<Channel>,
    session: String,
    until: Instant,
    answered: &Cell<usize>,
) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let (began, before) = (Instant::now(), answered.get());
        match client.send_and_wait(wait(&session, "hello")).await {
            Ok(_) => {
                seen.others.push(answered.get() - before);
                answered.set(answered.get() + 1);
            }
            Err(refused) => {
                seen.refusals.push(began.elapsed());
                check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
                let told: rpc::RetryInfo = detail(&refused, "google.rpc.RetryInfo").unwrap();
                let delay = Duration::try_from(told.retry_delay.unwrap()).unwrap();
                let push_back = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
                assert_eq!(push_back.to_str().unwrap(), delay.as_millis().to_string());
                sleep(delay).await;
            }
        }
    }
    seen
}

/// So many callers at once, for so long.
async fn rush(service: &Service, callers: usize, time: Duration) -> Seen {
    let mut client = service.connect().await.unwrap();
    let sessions: Vec<_> = (0..callers).map(|n| format!("{callers}-{n}")).collect();
    for session_id in sessions.clone() {
        client.create_session(CreateSessionRequest { session_id, ..Default::default() }).await.unwrap();
    }
    let (until, answered) = (Instant::now() + time, Cell::new(0));
    let calls = sessions.into_iter().map(|session| call(client.clone(), session, until, &answered));
    join_all(calls).await.into_iter().fold(Seen::default(), |mut all, seen| {
        all.others.extend(seen.others);
        all.refusals.extend(seen.refusals);
        all
    })
}

/// How many turns run, looked at again and again while some wait; fails if more run or wait than may.
async fn keep_watch(service: &Service, running: &RefCell<Vec<usize>>) {
    loop {
        let backend = service.backend().await.unwrap();
        let (runs, waits) = (backend.running_turns as usize, backend.waiting_turns as usize);
        assert!(runs <= RUNNING && runs + waits <= RUNNING + WAITING, "{runs} run, {waits} wait");
        if waits > 0 {
            running.borrow_mut().push(runs);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn far_more_callers_than_turns_that_may_run_are_served_in_turn_or_refused_at_once() {
    let cli = LastingCli::start(|_| Reply::chunks(["word "; 20]).every(Duration::from_millis(50))).await;
    let service = Service::start(&cli, &["--max-running-turns=4", "--max-waiting-turns=12"]).await;
    service.runs(0).await;
    let calm = rush(&service, RUNNING, Duration::from_secs(2)).await;
    assert!(calm.refusals.is_empty(), "{:?}", calm.refusals);
    let memory = service.memory();

    let running = RefCell::default();
    let seen = tokio::select! {
        seen = rush(&service, RUNNING * 6, Duration::from_secs(8)) => seen,
        () = keep_watch(&service, &running) => unreachable!("it never ends"),
    };
    let running = running.into_inner();
    let busy = running.iter().filter(|runs| **runs == RUNNING).count();
    // A turn that was just taken on counts as one that waits.
    assert!(busy * 10 >= running.len() * 9, "{running:?}");
    let most = *seen.others.iter().max().unwrap();
    assert!(most <= RUNNING + WAITING + RUNNING, "a turn waited for {most} others");
    let slowest = seen.refusals.iter().max().expect("there were too many");
    assert!(*slowest < Duration::from_secs(1), "a refusal took {slowest:?}");
    let more = memory.surpassed_by();
    assert!(more < 16 << 20, "it has taken {more} bytes more");
}
