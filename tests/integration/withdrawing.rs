//! What was reported as failed never runs afterwards; on the real CLI.
//!
//! Prompts, compactions, cancels, deadlines, aborts and closings come at random moments, and are judged by the log of the model.

use std::{collections::HashSet, sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, CloseSessionRequest, CompactSessionRequest, DeliveryState, SendAndWaitRequest,
};
use scripted_model::{Reply, Request};
use tokio::time::sleep;
use tonic::Status;

use crate::support::{
    dice::Dice,
    facade::{TestFacade, wait, within},
    failure_of,
    real_cli::{RealCli, asks_for_a_summary},
    soon,
};

const TRIES: usize = 50;

/// Every other compaction hangs, and answers take their time.
fn script(request: &Request) -> Reply {
    let prompt = request.prompt();
    if asks_for_a_summary(prompt) {
        return match request.messages.len() % 2 {
            0 => Reply::hang(),
            _ => Reply::text("a summary"),
        };
    }
    Reply::chunks(["You said: ", prompt]).every(Duration::from_millis(100))
}

/// How a prompt's caller does.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Waits,
    /// Its deadline is so long.
    Deadline(Duration),
    /// It goes away after so long.
    Leaves(Duration),
}

/// What became of a prompt, as its caller knows it.
struct Told {
    prompt: String,
    outcome: Option<Result<(), Status>>,
}

async fn send(facade: Arc<TestFacade>, prompt: String, fate: Fate) -> Told {
    let request: SendAndWaitRequest = wait("s", &prompt);
    let send = |request| async { facade.client().send_and_wait(request).await.map(|_| ()) };
    let outcome = match fate {
        Fate::Waits => Some(send(tonic::Request::new(request)).await),
        Fate::Deadline(deadline) => Some(send(within(deadline, request)).await),
        Fate::Leaves(after) => tokio::time::timeout(after, send(tonic::Request::new(request))).await.ok(),
    };
    Told { prompt, outcome }
}

/// Something happens in the session at the same time.
async fn disturb(facade: &TestFacade, dice: usize, moment: Duration) {
    sleep(moment).await;
    let session_id = || "s".to_owned();
    let mut client = facade.client();
    // Whatever comes of it: it is the prompts that are judged.
    match dice {
        0 => {
            let request =
                within(Duration::from_millis(600), CompactSessionRequest { session_id: session_id() });
            let _ = client.compact_session(request).await;
        }
        1 => {
            let compact = client.compact_session(CompactSessionRequest { session_id: session_id() });
            let _ = tokio::time::timeout(Duration::from_millis(400), compact).await;
        }
        2 => {
            let _ =
                client.abort_turn(AbortTurnRequest { session_id: session_id(), ..Default::default() }).await;
        }
        _ => {
            let _ = client.close_session(CloseSessionRequest { session_id: session_id() }).await;
        }
    }
}

fn asked(cli: &RealCli) -> Vec<String> {
    cli.model.calls().iter().map(|call| call.request.prompt().to_owned()).collect()
}

#[tokio::test]
async fn a_prompt_that_was_reported_as_failed_never_reaches_the_model_afterwards() {
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut dice = Dice::new(seed);
    let cli = RealCli::start(script).await;
    let facade = Arc::new(cli.facade().await);
    facade.create("s").await;
    soon("a turn", facade.send("s", "the first")).await.unwrap();
    let mut never_delivered = HashSet::new();
    let ms = Duration::from_millis;
    for n in 0..TRIES {
        let fates = [0, 1].map(|_| match dice.below(3) {
            0 => Fate::Waits,
            1 => Fate::Deadline(dice.between(ms(100), ms(1500))),
            _ => Fate::Leaves(dice.between(ms(1), ms(800))),
        });
        let (first, second) = (dice.below(4), dice.below(4));
        let moments = [0, 1].map(|_| dice.between(ms(0), ms(500)));
        let [a, b] = [0, 1].map(|at| send(facade.clone(), format!("prompt {n}.{at}"), fates[at]));
        let told = async {
            let (a, b, ..) =
                tokio::join!(a, b, disturb(&facade, first, moments[0]), disturb(&facade, second, moments[1]));
            [a, b]
        };
        let told = Box::pin(soon(&format!("try {n} of seed {seed}: {fates:?}"), told)).await;
        facade.at_rest().await;
        // All that runs from here on is what comes next.
        let before = asked(&cli);
        let next = format!("next {n}");
        let answer = soon("the next turn", facade.send("s", &next)).await.unwrap();
        assert_eq!(answer.content, format!("You said: {next}"), "seed {seed}");
        let since = asked(&cli).split_off(before.len());
        assert_eq!(since, [next], "try {n} of seed {seed}: {fates:?}");
        for Told { prompt, outcome } in told {
            let times = before.iter().filter(|asked| **asked == prompt).count();
            match outcome {
                Some(Ok(())) => assert_eq!(times, 1, "{prompt} of seed {seed}"),
                Some(Err(status)) if failure_of(&status).delivery() == DeliveryState::NotDelivered => {
                    never_delivered.insert(prompt);
                }
                // It may have run, or not, and that is what was told.
                Some(Err(_)) | None => assert!(times <= 1, "{prompt} of seed {seed}"),
            }
        }
    }
    let asked = asked(&cli);
    let ran: Vec<_> = asked.iter().filter(|prompt| never_delivered.contains(*prompt)).collect();
    assert!(ran.is_empty(), "{ran:?} of seed {seed}");
    assert!(!never_delivered.is_empty(), "nothing was withdrawn by seed {seed}");
}
