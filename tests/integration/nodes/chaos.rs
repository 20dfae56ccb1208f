//! Three servers, two CLIs each, one PostgreSQL, and callers that go round: nodes and CLIs are killed, nodes freeze, PostgreSQL
//! restarts. What was answered is there, once and in order, and what failed was told truly.

#![allow(
    clippy::print_stdout,
    reason = "the seed, and what was seen: the run can be had again, and make chaos shows it"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use copilot_grpc::grpc::pb::ListSessionsRequest;
use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::cluster::Cluster;
use crate::{
    store::{
        chaos::{
            caller::{Caller, Notes},
            runs::{doubly_asked, missing, of_env},
            script::Asked,
        },
        installation::Client,
    },
    support::{dice::Dice, soon},
};

const NODES: usize = 3;
const CLIS: usize = 2;

/// How many sessions there are at once.
const SESSIONS: usize = 60;

/// How long a run is, unless `CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 60;

/// How long it is between two faults.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The longest that a node is down, and that PostgreSQL is away.
const DOWN: Duration = Duration::from_secs(4);

/// How long a node is frozen.
const FROZEN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_or_freezes_what_was_answered_is_there_once_and_in_order() {
    let time = Duration::from_secs(of_env("CHAOS_SECONDS").unwrap_or(SECONDS));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = of_env("CHAOS_SEED").unwrap_or_else(now);
    println!("{NODES} nodes: CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let asked = Asked::default();
    let answers = asked.clone();
    let cluster = Cluster::with_own_store(NODES, move |request| answers.answer(request)).await;
    let mut cluster = cluster.flag(format!("--embedded-clis={CLIS}")).flag("--grace-period=5s");
    cluster.start_all().await;
    let subject = Subject {
        urls: watch::Sender::new(cluster.urls()),
        cluster,
        dice: Dice::new(seed),
        frozen: BTreeMap::new(),
        happened: BTreeMap::new(),
    };
    let goes_on = watch::Sender::new(true);
    let callers =
        (0..SESSIONS).map(|n| Caller::new(n, seed, subject.urls.subscribe(), goes_on.subscribe()).run());
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
    for (node, mut client) in subject.cluster.clients().await.into_iter().enumerate() {
        has_the_store(&mut client).await;
        let found = missing(&mut client, &notes.accounts).await;
        problems.extend(found.into_iter().map(|problem| format!("by node {node}: {problem}")));
    }
    assert!(problems.is_empty(), "seed {seed}: {} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Waits until a server has the store again, which may have been away while it was frozen.
async fn has_the_store(client: &mut Client) {
    soon("the store", async {
        while client.list_sessions(ListSessionsRequest::default()).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Servers to which things happen.
struct Subject {
    cluster: Cluster,
    urls: watch::Sender<Vec<String>>,
    dice: Dice,
    /// Until when which nodes are frozen.
    frozen: BTreeMap<usize, Instant>,
    happened: BTreeMap<&'static str, usize>,
}

impl Subject {
    /// Faults at random, for so long.
    async fn suffer(mut self, time: Duration) -> Self {
        let end = Instant::now() + time;
        loop {
            let next = Instant::now() + self.dice.between(PAUSES.0, PAUSES.1);
            sleep_until(next.min(end)).await;
            let is_end = next >= end;
            self.thaw(is_end);
            if is_end {
                return self;
            }
            self.fault().await;
        }
    }

    async fn fault(&mut self) {
        let node = self.dice.below(NODES);
        match self.dice.below(16) {
            0..3 => self.restarted(node, "node killed", Signal::KILL, false).await,
            3 => self.restarted(node, "node killed, disk wiped", Signal::KILL, true).await,
            4 | 5 if !self.frozen.contains_key(&node) => {
                self.restarted(node, "node ended", Signal::TERM, false).await;
            }
            6 => {
                self.noted("PostgreSQL restarted");
                let pause = self.dice.between(Duration::ZERO, DOWN);
                self.cluster.restart_store(pause).await;
            }
            7 | 8 if self.frozen.is_empty() => {
                self.noted("node frozen");
                self.cluster.server(node).signal(Signal::STOP);
                self.frozen.insert(node, Instant::now() + FROZEN);
            }
            _ => {
                self.noted("CLI killed");
                let cli = format!("cli-{}", self.dice.below(CLIS));
                // It may be down already.
                let _ = kill_process(self.cluster.server(node).pid_of(&cli), Signal::KILL);
            }
        }
    }

    async fn restarted(&mut self, node: usize, what: &'static str, signal: Signal, is_wiped: bool) {
        self.noted(what);
        self.frozen.remove(&node);
        self.cluster.stop(node, signal).await;
        self.urls.send_replace(self.cluster.urls());
        if is_wiped {
            self.cluster.wipe(node).await;
        }
        sleep(self.dice.between(Duration::ZERO, DOWN)).await;
        self.cluster.start_one(node).await;
        self.urls.send_replace(self.cluster.urls());
    }

    /// Wakes those that have been frozen for long enough, or all.
    fn thaw(&mut self, all: bool) {
        let now = Instant::now();
        for (node, _) in self.frozen.extract_if(.., |_, until| all || *until <= now) {
            self.cluster.server(node).signal(Signal::CONT);
        }
    }

    fn noted(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }
}
