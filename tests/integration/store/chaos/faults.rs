//! What befalls the server: its CLIs, itself, its store and its disk.

use std::{collections::BTreeMap, time::Duration};

use rustix::process::{Signal, kill_process};
use scripted_model::ModelServer;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::script::Asked;
use crate::{
    store::installation::{CLIS, Engine, Installation},
    support::{dice::Dice, server::Server},
};

/// How long it is between two faults.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// The longest that PostgreSQL is away.
const AWAY: Duration = Duration::from_secs(3);

/// A server to which things happen.
pub(super) struct Subject {
    installation: Installation,
    asked: Asked,
    /// Anew with each server, since it remembers all that it is asked.
    model: ModelServer,
    server: Server,
    urls: watch::Sender<Vec<String>>,
    dice: Dice,
    pub(super) happened: BTreeMap<&'static str, usize>,
}

impl Subject {
    pub(super) async fn start(installation: Installation, asked: Asked, seed: u64) -> Self {
        let model = model(&asked).await;
        let server = installation.start_before(&model).await;
        let urls = watch::Sender::new(vec![server.url.clone()]);
        Self { installation, asked, model, server, urls, dice: Dice::new(seed), happened: BTreeMap::new() }
    }

    /// Where the server is, which changes.
    pub(super) fn urls(&self) -> watch::Receiver<Vec<String>> {
        self.urls.subscribe()
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Faults at random, for so long.
    pub(super) async fn suffer(mut self, time: Duration) -> Self {
        let end = Instant::now() + time;
        loop {
            let next = Instant::now() + self.dice.between(PAUSES.0, PAUSES.1);
            sleep_until(next.min(end)).await;
            if next >= end {
                return self;
            }
            self = self.fault().await;
        }
    }

    async fn fault(mut self) -> Self {
        let has_postgres = self.installation.engine == Engine::Postgres;
        match self.dice.below(16) {
            0 | 1 if has_postgres => self.restarted("server killed, disk wiped", Signal::KILL, true).await,
            0..3 => self.restarted("server killed", Signal::KILL, false).await,
            3 => self.restarted("server ended", Signal::TERM, false).await,
            4 | 5 if has_postgres => {
                self.noted("PostgreSQL restarted");
                let pause = self.dice.between(Duration::ZERO, AWAY);
                self.installation.restart_store(pause).await;
                self
            }
            _ => {
                self.noted("CLI killed");
                let cli = format!("cli-{}", self.dice.below(CLIS));
                // It may be down already.
                let _ = kill_process(self.server.pid_of(&cli), Signal::KILL);
                self
            }
        }
    }

    /// Ends the server, and starts another on what it has left, and on what there is in the store if its disk is wiped.
    pub(super) async fn restarted(mut self, what: &'static str, signal: Signal, is_wiped: bool) -> Self {
        self.noted(what);
        if is_wiped {
            self.installation.lose_disk_of(self.server).await;
        } else {
            self.server.stop(signal).await;
        }
        self.model = model(&self.asked).await;
        self.server = self.installation.start_before(&self.model).await;
        self.urls.send_replace(vec![self.server.url.clone()]);
        self
    }

    fn noted(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }
}

async fn model(asked: &Asked) -> ModelServer {
    let asked = asked.clone();
    ModelServer::start(move |request| asked.answer(request)).await.unwrap()
}
