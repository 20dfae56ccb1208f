//! Far more callers than turns that may run, on the real CLI: no fewer turns are answered than without the rush, nobody who is
//! let in waits much longer than the others, and who is not hears so at once.

use std::time::Duration;

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, copilot_service_client::CopilotServiceClient,
};
use futures_util::future::{join_all, select};
use scripted_model::Reply;
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};
use tonic_types::pb as rpc;

use crate::support::{check, detail, facade::wait, real_cli::LastingCli, service::Service};

/// Turns that may run, and turns that may wait.
const RUNNING: usize = 4;
const WAITING: usize = 12;

/// How long callers call.
const TIME: Duration = Duration::from_secs(6);

/// How long calls took, and all together.
#[derive(Default)]
struct Times {
    answered: Vec<Duration>,
    refused: Vec<Duration>,
    all: Duration,
}

impl Times {
    /// Answers a second.
    fn goodput(&self) -> f64 {
        self.answered.len() as f64 / self.all.as_secs_f64()
    }
}

/// One turn after the other in a session of its own; one that is refused is sent again when the server says.
async fn call(mut client: CopilotServiceClient<Channel>, session: String, until: Instant) -> Times {
    let mut times = Times::default();
    while Instant::now() < until {
        let began = Instant::now();
        match client.send_and_wait(wait(&session, "hello")).await {
            Ok(_) => times.answered.push(began.elapsed()),
            Err(refused) => {
                times.refused.push(began.elapsed());
                check(&refused, Code::ResourceExhausted, ErrorReason::Overloaded);
                let told: rpc::RetryInfo = detail(&refused, "google.rpc.RetryInfo").unwrap();
                let delay = Duration::try_from(told.retry_delay.unwrap()).unwrap();
                let push_back = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
                assert_eq!(push_back.to_str().unwrap(), delay.as_millis().to_string());
                sleep(delay).await;
            }
        }
    }
    times
}

/// So many callers at once.
async fn rush(service: &Service, callers: usize) -> Times {
    let mut client = service.connect().await.unwrap();
    let sessions: Vec<_> = (0..callers).map(|n| format!("{callers}-{n}")).collect();
    for session_id in sessions.clone() {
        client.create_session(CreateSessionRequest { session_id, ..Default::default() }).await.unwrap();
    }
    let began = Instant::now();
    let calls = sessions.into_iter().map(|session| call(client.clone(), session, began + TIME));
    let mut all = join_all(calls).await.into_iter().fold(Times::default(), |mut all, times| {
        all.answered.extend(times.answered);
        all.refused.extend(times.refused);
        all
    });
    all.all = began.elapsed();
    all
}

/// Ends never; fails if more run or wait than may.
async fn keep_watch(service: &Service) -> Times {
    loop {
        let backend = service.backend().await.unwrap();
        let (running, waiting) = (backend.running_turns as usize, backend.waiting_turns as usize);
        assert!(
            running <= RUNNING && running + waiting <= RUNNING + WAITING,
            "{running} run, {waiting} wait"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn six_times_as_many_callers_as_turns_that_may_run_get_no_fewer_answers_in_all() {
    let cli = LastingCli::start(|_| Reply::chunks(["word "; 20]).every(Duration::from_millis(50))).await;
    let service = Service::start(&cli, &["--max-running-turns=4", "--max-waiting-turns=12"]);
    service.runs(0).await;

    let calm = rush(&service, RUNNING).await;
    assert_eq!(calm.refused.len(), 0);
    let memory = service.peak_memory();
    let rushing = Box::pin(rush(&service, RUNNING * 6));
    let mut rush = select(rushing, Box::pin(keep_watch(&service))).await.factor_first().0;

    let (before, after) = (calm.goodput(), rush.goodput());
    assert!(after > before * 0.8, "{before} turns a second without the rush, {after} in it");
    rush.answered.sort();
    let (usual, longest) = (rush.answered[rush.answered.len() / 2], *rush.answered.last().unwrap());
    assert!(longest < usual * 2, "half of the turns took up to {usual:?}, and one took {longest:?}");
    let slowest = rush.refused.iter().max().expect("there were too many");
    assert!(*slowest < Duration::from_millis(500), "a refusal took {slowest:?}");
    let more = service.peak_memory() - memory;
    assert!(more < 16 << 20, "it has taken {more} bytes more");
}
