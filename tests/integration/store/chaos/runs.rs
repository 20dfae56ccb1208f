//! The runs, one on each engine.

#![allow(
    clippy::print_stdout,
    reason = "the seed, and what was seen: the run can be had again, and make chaos shows it"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use copilot_grpc::grpc::pb::ErrorReason;
use futures_util::{StreamExt as _, future::join_all, stream};
use rustix::process::Signal;
use tokio::sync::watch;
use tonic::Code;

use super::{
    caller::{Caller, Notes},
    faults::Subject,
    ledger::{Account, End, Life},
    script::Asked,
};
use crate::{
    store::installation::{Client, Engine, Installation, get, history, listed},
    support::check,
};

/// How many sessions there are at once.
const SESSIONS: usize = 60;

/// How long a run is, unless `CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_once_and_in_order_whatever_is_killed_with_sqlite() {
    run(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_once_and_in_order_whatever_is_killed_or_wiped_with_postgres() {
    run(Engine::Postgres).await;
}

async fn run(engine: Engine) {
    let time = Duration::from_secs(of_env("CHAOS_SECONDS").unwrap_or(SECONDS));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = of_env("CHAOS_SEED").unwrap_or_else(now);
    println!("{engine:?}: CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let asked = Asked::default();
    let installation =
        Installation::with_own_store(engine, |_| unreachable!("each server has a model of its own")).await;
    // One that is told to end is waited for, and has much to do.
    let installation = installation.flag("--grace-period=5s");
    let installation = installation.with_plain_clis();
    let subject = Subject::start(installation, asked.clone(), seed).await;
    let goes_on = watch::Sender::new(true);
    let callers = (0..SESSIONS).map(|n| Caller::new(n, seed, subject.urls(), goes_on.subscribe()).run());
    let (callers, suffering) = (join_all(callers), async {
        let subject = subject.suffer(time).await;
        goes_on.send_replace(false);
        subject
    });
    let (notes, subject) = tokio::join!(callers, suffering);
    let notes = Notes::all(notes);
    notes.print(&subject.happened);

    let mut problems = notes.problems.clone();
    problems.extend(doubly_asked(&notes.accounts, &asked));
    let mut client = subject.server().client().await;
    problems.extend(missing(&mut client, &notes.accounts).await);
    // What is only in the memory of the server, or only on its disk, is not there any more.
    let subject = subject.restarted("at the end", Signal::KILL, engine == Engine::Postgres).await;
    let mut client = subject.server().client().await;
    let after = missing(&mut client, &notes.accounts).await;
    problems.extend(after.into_iter().map(|problem| format!("after the last restart: {problem}")));
    assert!(
        problems.is_empty(),
        "{engine:?}, seed {seed}: {} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

/// What is not as the callers were told.
pub(crate) async fn missing(client: &mut Client, accounts: &[Account]) -> Vec<String> {
    let mut problems = Vec::new();
    let listed = listed(client).await;
    let ids: BTreeSet<_> = listed.iter().map(String::as_str).collect();
    if ids.len() < listed.len() {
        problems.push(format!("{} sessions are listed more than once", listed.len() - ids.len()));
    }
    let looked_at = stream::iter(accounts).map(|account| {
        let (mut client, is_listed) = (client.clone(), ids.contains(account.id.as_str()));
        async move {
            let (id, session) = (&account.id, get(&mut client, &account.id).await);
            match (account.life, session, is_listed) {
                (Life::Living, Ok(_), true) => match history(&mut client, id).await {
                    Ok(history) => account.problems(&history),
                    Err(status) => vec![format!("{id}: ListEvents: {status:?}")],
                },
                (Life::Deleted, Err(status), false) => {
                    check(&status, Code::NotFound, ErrorReason::SessionNotFound);
                    Vec::new()
                }
                (life, session, is_listed) => {
                    vec![format!("{id}: {life:?}, listed: {is_listed}, GetSession: {session:?}")]
                }
            }
        }
    });
    let found: Vec<_> = looked_at.buffered(4).collect().await;
    problems.extend(found.into_iter().flatten());
    problems
}

/// What the model was asked another number of times than it should have been.
pub(crate) fn doubly_asked(accounts: &[Account], asked: &Asked) -> Vec<String> {
    let turns = accounts.iter().flat_map(|account| &account.turns);
    let wrong = turns.filter_map(|turn| {
        let times = asked.times(&turn.prompt);
        let is_right = match turn.end {
            End::Answered { .. } => times == 1,
            End::Cut => times <= 1,
        };
        (!is_right).then(|| format!("the model was asked {times} times: {turn:?}"))
    });
    wrong.collect()
}

impl Notes {
    pub(crate) fn all(notes: Vec<Self>) -> Self {
        notes.into_iter().fold(Self::default(), |mut all, one| {
            all.accounts.extend(one.accounts);
            all.problems.extend(one.problems);
            for (reason, times) in one.repeated {
                *all.repeated.entry(reason).or_default() += times;
            }
            all.longest = all.longest.max(one.longest);
            all
        })
    }

    pub(crate) fn print(&self, happened: &BTreeMap<&str, usize>) {
        let turns = || self.accounts.iter().flat_map(|account| &account.turns);
        let answered = turns().filter(|turn| turn.end != End::Cut).count();
        let repeated = turns().filter(|turn| matches!(turn.end, End::Answered { attempts: 2.., .. })).count();
        let deleted = self.accounts.iter().filter(|account| account.life == Life::Deleted).count();
        let silent = self.accounts.iter().filter(|account| account.turns.is_empty()).count();
        println!("faults: {happened:?}");
        println!(
            "sessions: {}, of them deleted: {deleted}, without a message: {silent}; turns answered: {answered}, of them repeated: \
             {repeated}, cut: {}; repeated calls: {:?}; longest out of reach: {:?}",
            self.accounts.len(),
            turns().count() - answered,
            self.repeated,
            self.longest
        );
    }
}

pub(crate) fn of_env(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}
