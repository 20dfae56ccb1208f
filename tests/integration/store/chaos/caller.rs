//! A caller, which repeats what may be repeated, and notes what it was told.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, DeleteSessionRequest, DeliveryState, ForkSessionRequest, Prompt,
    SendAndWaitRequest, copilot_service_client::CopilotServiceClient,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status, transport::Endpoint};

use super::{
    ledger::{Account, End, Life, Turn},
    script::seen_before,
};
use crate::{
    store::installation::Client,
    support::{dice::Dice, failure_of, reason_of},
};

/// How long a caller repeats a call: longer than any fault lasts, with a CLI that is started again after longer and longer pauses.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// How long a caller rests before it calls again, and between two turns.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
const RESTS: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(4));

/// The label of all sessions of a run.
pub(crate) const LABEL: (&str, &str) = ("run", "chaos");

pub(crate) struct Caller {
    number: usize,
    dice: Dice,
    /// Where the servers are now, which are called one after the other.
    urls: watch::Receiver<Vec<String>>,
    calls: usize,
    /// Whether it is to go on.
    goes_on: watch::Receiver<bool>,
    clients: HashMap<String, Client>,
    pub(crate) notes: Notes,
}

/// What a caller has been told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) accounts: Vec<Account>,
    pub(crate) problems: Vec<String>,
    /// How many calls were repeated, by the reason.
    pub(crate) repeated: BTreeMap<String, usize>,
    /// The longest that a call had to be repeated.
    pub(crate) longest: Duration,
}

/// Why a call has no good end.
enum Failure {
    /// The turn was cut.
    Cut(Status),
    /// The server says what it must not say.
    Wrong(Status),
    /// It was repeated for too long.
    OutOfReach(Status),
}

impl Caller {
    pub(crate) fn new(
        number: usize,
        seed: u64,
        urls: watch::Receiver<Vec<String>>,
        goes_on: watch::Receiver<bool>,
    ) -> Self {
        let dice = Dice::new(seed.wrapping_add(1 + number as u64));
        Self { number, dice, urls, calls: number, goes_on, clients: HashMap::new(), notes: Notes::default() }
    }

    /// Sessions one after the other, until it is not to go on.
    pub(crate) async fn run(mut self) -> Notes {
        for life in 0.. {
            let id = format!("c{}-{life}", self.number);
            self.live(id).await;
            if !*self.goes_on.borrow() {
                break;
            }
            sleep(self.dice.between(PAUSES.0, PAUSES.1)).await;
        }
        self.notes
    }

    /// A session from its creation on; a caller that has a problem leaves the session and begins another.
    async fn live(&mut self, id: String) {
        let Some(()) = self.create(&id).await else { return };
        let place = self.notes.accounts.len();
        self.notes.accounts.push(Account::new(id.clone()));
        // One in six never says anything.
        if self.dice.one_in(6) {
            return;
        }
        for n in 0.. {
            if !*self.goes_on.borrow() {
                return;
            }
            let Some(()) = self.turn(place, n).await else { return };
            if n > 0 && self.dice.one_in(25) {
                let Some(()) = self.fork(place).await else { return };
            }
            if n > 5 && self.dice.one_in(12) {
                self.delete(place).await;
                return;
            }
            let rest = self.dice.between(RESTS.0, RESTS.1);
            let _ = timeout(rest, self.goes_on.wait_for(|goes_on| !goes_on)).await;
        }
    }

    async fn create(&mut self, id: &str) -> Option<()> {
        let request = CreateSessionRequest {
            session_id: id.into(),
            request_id: format!("create-{id}"),
            labels: [(LABEL.0.into(), LABEL.1.into())].into(),
            ..Default::default()
        };
        let made = self
            .insist(async |client, _| {
                client.create_session(request.clone()).await.map(tonic::Response::into_inner)
            })
            .await;
        let (made, _) = self.note(&format!("CreateSession {id}"), made)?;
        (made.session?.session_id == id).then_some(())
    }

    /// A prompt, with an id that lets it be repeated.
    async fn turn(&mut self, place: usize, n: usize) -> Option<()> {
        let account = &self.notes.accounts[place];
        let (id, before) = (account.id.clone(), account.before());
        let pace = if self.dice.one_in(3) { "slow" } else { "quick" };
        let prompt = format!("prompt {n} of {id}, {pace}");
        let request = SendAndWaitRequest {
            session_id: id.clone(),
            prompt: Some(Prompt {
                text: prompt.clone(),
                request_id: format!("turn-{n}"),
                ..Default::default()
            }),
        };
        let send = async |client: &mut Client, _| {
            let response = client.send_and_wait(request.clone()).await?.into_inner();
            Ok(response.result.unwrap_or_default().content)
        };
        let sent = self.insist(send).await;
        if let Err(Failure::Cut(status)) = sent {
            self.notes.accounts[place].turns.push(Turn { prompt, end: End::Cut });
            if self.dice.one_in(4) {
                // That is the truth about it, also when it is asked for again.
                if let Ok((answer, _)) = self.insist(send).await {
                    let problem = format!("a cut turn ({status:?}), repeated, was answered: {answer}");
                    self.notes.problems.push(format!("{id}: {problem}"));
                }
            }
            return Some(());
        }
        let (answer, attempts) = self.note(&format!("SendAndWait {id} {n}"), sent).or_else(|| {
            self.notes.accounts[place].turns.push(Turn { prompt: prompt.clone(), end: End::Cut });
            None
        })?;
        if !seen_before(&answer, &prompt).is_some_and(|seen| before.contains(&seen)) {
            self.notes.problems.push(format!("{id}: {prompt:?} after {before:?} others got {answer:?}"));
        }
        self.notes.accounts[place].turns.push(Turn { prompt, end: End::Answered { answer, attempts } });
        Some(())
    }

    /// A copy, with one more turn every other time.
    async fn fork(&mut self, place: usize) -> Option<()> {
        let account = self.notes.accounts[place].clone();
        let request = ForkSessionRequest { session_id: account.id.clone(), ..Default::default() };
        let made = self
            .insist(async |client, _| {
                client.fork_session(request.clone()).await.map(tonic::Response::into_inner)
            })
            .await;
        let (made, _) = self.note(&format!("ForkSession {}", account.id), made)?;
        let place = self.notes.accounts.len();
        self.notes.accounts.push(Account { id: made.session?.session_id, ..account });
        if self.dice.one_in(2) { self.turn(place, 0).await } else { Some(()) }
    }

    async fn delete(&mut self, place: usize) {
        let id = self.notes.accounts[place].id.clone();
        let request = DeleteSessionRequest { session_id: id.clone(), allow_missing: true };
        let deleted = self.insist(async |client, _| client.delete_session(request.clone()).await).await;
        if self.note(&format!("DeleteSession {id}"), deleted).is_some() {
            self.notes.accounts[place].life = Life::Deleted;
        }
    }

    /// Calls until there is an answer or an error that may not be repeated, and says how many calls that took.
    async fn insist<T>(
        &mut self,
        mut call: impl AsyncFnMut(&mut Client, usize) -> Result<T, Status>,
    ) -> Result<(T, usize), Failure> {
        let began = Instant::now();
        for attempt in 1.. {
            let ended = match self.client().await {
                Ok(mut client) => match timeout(ATTEMPT, call(&mut client, attempt)).await {
                    Ok(ended) => ended,
                    Err(_) => Err(Status::unavailable("the caller has waited for long enough")),
                },
                Err(error) => Err(Status::unavailable(error.to_string())),
            };
            let status = match ended {
                Ok(value) => {
                    self.notes.longest =
                        self.notes.longest.max(if attempt > 1 { began.elapsed() } else { Duration::ZERO });
                    return Ok((value, attempt));
                }
                Err(status) => status,
            };
            match fate(&status) {
                Fate::Repeat(reason) => *self.notes.repeated.entry(reason).or_default() += 1,
                Fate::Cut => return Err(Failure::Cut(status)),
                Fate::Wrong => return Err(Failure::Wrong(status)),
            }
            if began.elapsed() > PATIENCE {
                return Err(Failure::OutOfReach(status));
            }
            sleep(self.dice.between(PAUSES.0, PAUSES.1)).await;
        }
        unreachable!("it goes on for ever")
    }

    /// A client of the next server, as they are now.
    async fn client(&mut self) -> Result<Client, tonic::transport::Error> {
        let urls = self.urls.borrow().clone();
        self.clients.retain(|known, _| urls.contains(known));
        self.calls += 1;
        let url = urls[self.calls % urls.len()].clone();
        if let Some(client) = self.clients.get(&url) {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(url.clone())?.connect_timeout(Duration::from_secs(1));
        let client = CopilotServiceClient::new(endpoint.connect().await?);
        self.clients.insert(url, client.clone());
        Ok(client)
    }

    fn note<T>(&mut self, what: &str, ended: Result<T, Failure>) -> Option<T> {
        let problem = match ended {
            Ok(value) => return Some(value),
            Err(Failure::Cut(status)) => format!("was cut, which is for turns: {status:?}"),
            Err(Failure::Wrong(status)) => format!("{status:?}"),
            Err(Failure::OutOfReach(status)) => format!("out of reach for {PATIENCE:?}: {status:?}"),
        };
        self.notes.problems.push(format!("{what}: {problem}"));
        None
    }
}

/// What a caller makes of an error.
enum Fate {
    /// It calls again, for this reason.
    Repeat(String),
    Cut,
    Wrong,
}

fn fate(status: &Status) -> Fate {
    let reason = reason_of(status);
    match (status.code(), reason.as_str()) {
        (Code::Unavailable, "TURN_INTERRUPTED") => match failure_of(status).delivery() {
            DeliveryState::NotDelivered => Fate::Repeat(reason),
            _ => Fate::Cut,
        },
        (Code::Unavailable, "BACKEND_UNAVAILABLE" | "STORE_UNAVAILABLE" | "DRAINING") => Fate::Repeat(reason),
        (Code::ResourceExhausted, "OVERLOADED") => Fate::Repeat(reason),
        // What the server says has a reason: this is the connection's end.
        (_, "") => Fate::Repeat("connection lost".into()),
        _ => Fate::Wrong,
    }
}
