//! What faults happen to: a facade in front of a CLI that others use, too, its sessions and their callers.

use std::{sync::Arc, time::Duration};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, DeleteSessionRequest, DeliveryState, copilot_service_client::CopilotServiceClient,
};
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use super::{
    fault::{Fault, Kind},
    script::{Fate, check_delivery, judge},
};
use crate::support::{
    dice::Dice,
    facade::{Setup, Streamed, stream},
    leaks::Counted,
    proxy::Proxy,
    real_cli::LastingCli,
};

/// Its sessions, each of which has a turn when a fault comes.
pub(super) const SESSIONS: usize = 2;

/// A turn that has not ended by then hangs: a link that is silent is given up after seven seconds, a handshake after ten.
const LIMIT: Duration = Duration::from_secs(45);

/// A facade with some sessions, and the wire between it and the CLI.
pub(super) struct Subject {
    name: String,
    seed: u64,
    dice: Dice,
    counted: Counted,
    proxy: Proxy,
    /// Never two of the same name.
    sessions: Vec<String>,
    made: usize,
    answered: usize,
}

impl Subject {
    pub(super) async fn start(number: usize, seed: u64, cli: &LastingCli) -> Self {
        let name = format!("subject{number}");
        let proxy = Proxy::start(cli.port).await;
        // Every third one has no second link to fall back on.
        let setup = cli.setup(proxy.port).flag(format!("--keeper-link={}", number % 3 != 2));
        // Its sessions are its own.
        let setup = Setup { state: Arc::default(), ..setup };
        let counted = Counted::start(setup, proxy.port).await;
        let dice = Dice::new(seed ^ (number as u64) << 32);
        let mut subject =
            Self { name, seed, dice, counted, proxy, sessions: Vec::new(), made: 0, answered: 0 };
        for _ in 0..SESSIONS {
            let session = subject.create().await;
            subject.works(&session, "first", false).await.unwrap();
            subject.sessions.push(session);
        }
        subject
    }

    /// So many faults, one after the other. Returns how many of the turns were answered that they met.
    pub(super) async fn suffer(mut self, kind: Kind, rounds: usize, cli: &LastingCli) -> usize {
        // The second link is attached in the background.
        sleep(Duration::from_secs(1)).await;
        let before = self.counted.counts();
        for round in 0..rounds {
            let fault = Fault::draw(kind, &mut self.dice);
            if let Err(problem) = self.round(round, &fault, cli).await {
                panic!("FAULT_SEED={}, {} round {round}: {fault}: {problem}", self.seed, self.name);
            }
            // For the second link there is time, or there is not.
            let pause = self.dice.between(Duration::ZERO, Duration::from_secs(1));
            sleep(pause).await;
        }
        let nothing_is_left = async {
            while self.counted.counts() != before {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(LIMIT, nothing_is_left).await.is_err() {
            let now = self.counted.counts();
            panic!("FAULT_SEED={}, {}: {before:?} have become {now:?}", self.seed, self.name);
        }
        self.answered
    }

    async fn create(&mut self) -> String {
        self.made += 1;
        let session_id = format!("{}-{}", self.name, self.made);
        let request = CreateSessionRequest { session_id: session_id.clone(), ..Default::default() };
        self.counted.facade.client().create_session(request).await.unwrap();
        session_id
    }

    /// Another session in the place of one: its next turn is its first.
    async fn replace(&mut self, number: usize) {
        let fresh = self.create().await;
        let session_id = std::mem::replace(&mut self.sessions[number], fresh);
        let request = DeleteSessionRequest { session_id, ..Default::default() };
        self.counted.facade.client().delete_session(request).await.unwrap();
    }

    /// One fault in the midst of a turn of each session.
    async fn round(&mut self, round: usize, fault: &Fault, cli: &LastingCli) -> Result<(), String> {
        let is_slow = fault.kind == Kind::SlowReader;
        for number in 0..SESSIONS {
            if is_slow || self.dice.one_in(4) {
                self.replace(number).await;
            }
        }
        let shape = if is_slow { "150 5 2000" } else { "40 20" };
        let prompt = |session: &str| format!("{session}r{round} {shape}");
        let prompts: Vec<_> = self.sessions.iter().map(|session| prompt(session)).collect();
        let slowly = is_slow.then_some(fault);
        let turns =
            self.sessions.iter().zip(&prompts).map(|(session, prompt)| self.told(session, prompt, slowly));
        let (told, ()) = join(join_all(turns), fault.happen(cli, &self.proxy)).await;
        for ((session, prompt), streamed) in self.sessions.iter().zip(&prompts).zip(told) {
            let problem = |problem| format!("{problem}, in the turn {prompt:?}");
            let streamed = streamed.map_err(problem)?;
            let fate = judge(&streamed, prompt).map_err(problem)?;
            let is_answered = fate == Fate::Answered;
            self.answered += usize::from(is_answered);
            if !is_answered && !fault.may_cost_a_turn() {
                return Err(problem(format!("{:?}", streamed.end)));
            }
            let next = format!("{session}q{round}");
            let mut sent = self.works(session, &next, is_answered).await.map_err(problem)?;
            sent.push((prompt.clone(), fate));
            check_delivery(&cli.model, &sent, fault.kind).map_err(problem)?;
        }
        Ok(())
    }

    /// A streamed turn, as its caller sees it.
    async fn told(&self, session: &str, prompt: &str, slowly: Option<&Fault>) -> Result<Streamed, String> {
        // With a connection of its own, on which little is on its way that was not read.
        let url = format!("http://{}", self.counted.facade.facade.address());
        let endpoint = Channel::from_shared(url).unwrap().initial_stream_window_size(65_535);
        let mut client = CopilotServiceClient::new(endpoint.connect().await.unwrap());
        let mut slowly = slowly.map(|fault| (Instant::now() + fault.after, fault.lasts));
        let told = async {
            let stream = match client.send_and_stream(stream(session, prompt)).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => return Streamed { events: Vec::new(), end: Err(status) },
            };
            Streamed::read_pausing(stream, async || {
                if let Some((_, pause)) = slowly.take_if(|(from, _)| *from <= Instant::now()) {
                    sleep(pause).await;
                }
            })
            .await
        };
        timeout(LIMIT, told).await.map_err(|_| "a turn hangs".to_owned())
    }

    /// The session is usable by the next call, which its caller makes again if it surely was not delivered. Where the turn
    /// before was answered, the fault may have come too late for it, and hit this one: then it is the call after that.
    /// Returns all prompts that may have been delivered.
    async fn works(
        &self,
        session: &str,
        marker: &str,
        mut may_be_hit: bool,
    ) -> Result<Vec<(String, Fate)>, String> {
        let mut prompts = Vec::new();
        let tried = async {
            loop {
                let prompt = format!("{marker}.{} 5", prompts.len());
                let streamed = self.told(session, &prompt, None).await?;
                let fate = judge(&streamed, &prompt).map_err(|problem| format!("next: {problem}"))?;
                if fate == Fate::Failed(DeliveryState::NotDelivered) {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
                prompts.push((prompt, fate));
                match streamed.end {
                    Ok(_) => return Ok(prompts),
                    Err(_) if may_be_hit => may_be_hit = false,
                    Err(status) => return Err(format!("the next turn fails: {status:?}")),
                }
            }
        };
        timeout(LIMIT, tried).await.unwrap_or_else(|_| Err("the next turn hangs".into()))
    }
}
