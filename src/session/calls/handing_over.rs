//! How sessions leave this server: all of them when it drains, some when it has too many, and all at once when it has lost its
//! lease. And what goes on beside the calls where several servers share a store.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::{
    session::{
        blueprint::Credentials,
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        live::Session,
        sessions::Sessions,
    },
    store::{self, Uid},
};

/// How long a stopped agent may take to stop when the server goes.
const LAST_GRACE: Duration = Duration::from_secs(3);

/// How often it is looked which sessions have come to rest, while the server drains.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many sessions leave at once: each is a call to the CLI and two to the store.
const AT_ONCE: usize = 8;

/// How often the other servers are told what this one has to do.
const TELL: Duration = Duration::from_secs(1);

/// How often it is looked what there is to do for others.
const UPKEEP: Duration = Duration::from_secs(5);

/// In how many rounds of that folders are looked for that are to be removed.
const COPIES: u32 = 12;

/// For how many leases nothing has happened in a session that is given away.
const IDLE: u32 = 2;

/// How many sessions a server gives away at once.
const GIVEN_AWAY: usize = 16;

/// How many sessions are looked at, at once, that have been left, and how many folders are removed.
const PAGE: usize = 100;

impl Sessions {
    /// Takes no new sessions, and lets those go that it has, as they come to rest; calls are served further.
    pub fn leave(&self) {
        if self.inner.leaving.is_cancelled() {
            return;
        }
        self.inner.leaving.cancel();
        if !self.store().is_shared() {
            return;
        }
        self.store().announce(self.own_load());
        let this = self.clone();
        self.inner.means.tasks.spawn(async move {
            while !this.hand_all_over().await {
                sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// Whether it is to have no sessions any more, or none as long as its name is in the drain file.
    pub(super) fn is_leaving(&self) -> bool {
        self.inner.leaving.is_cancelled() || self.is_in_drain_file()
    }

    fn is_in_drain_file(&self) -> bool {
        self.store().is_shared() && self.pool().is_listed(&self.store().incarnation().node)
    }

    /// Takes nothing new on, and waits at most `grace` for what runs. What then still runs is stopped.
    pub async fn drain(&self, grace: Duration) {
        self.leave();
        self.inner.draining.cancel();
        self.inner.means.tasks.close();
        if timeout(grace, self.inner.means.tasks.wait()).await.is_err() {
            warn!(
                turns = self.load().turns,
                "the grace period is over: the turns that still run are stopped"
            );
            self.inner.shutdown.cancel();
            // To stop an agent takes milliseconds; a CLI that does not answer is ended anyway.
            let _ = timeout(LAST_GRACE, self.inner.means.tasks.wait()).await;
        }
        self.inner.ended.cancel();
    }

    /// Lets all sessions go that are at rest. True: there are none left. As long as calls are served, only if there is a server that
    /// takes them.
    async fn hand_all_over(&self) -> bool {
        if self.another().is_none() && !self.inner.draining.is_cancelled() {
            return false;
        }
        let mut sessions = self.inner.registry.all();
        sessions.retain(|session| self.may_leave(session));
        let sessions = stream::iter(sessions);
        let all = sessions.map(async |session| match self.hand_over(&session, true).await {
            Ok(has_left) => has_left,
            // Its files stay on this disk, and its record: whoever takes it over has what is archived.
            Err(error) => {
                debug!(session = %session.id(), %error, "a session is not handed over");
                !matches!(error, Error::Store(_))
            }
        });
        let all = all.buffer_unordered(AT_ONCE).fold(true, async |all, has_left| all && has_left);
        all.await || self.inner.shutdown.is_cancelled()
    }

    /// Lets a session go, if it is at rest, and servers share the store. See [`Session::hand_over`].
    pub(super) async fn hand_over(&self, session: &Arc<Session>, also_read: bool) -> Result<bool, Error> {
        if !self.store().is_shared() || !self.may_leave(session) {
            return Ok(false);
        }
        let has_left = session.hand_over(also_read).await?;
        if has_left {
            self.inner.registry.remove(session);
        }
        Ok(has_left)
    }

    /// Whether another server would get all of a session.
    fn may_leave(&self, session: &Session) -> bool {
        session.is_archived() && session.ownership().is_some()
    }

    /// Starts what goes on beside the calls, until all has ended.
    pub fn keep_up(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            let until_draining = this.inner.draining.run_until_cancelled(Box::pin(this.look_after_others()));
            let beside = async {
                tokio::join!(this.watch_lease(), this.tell_others(), until_draining);
            };
            this.inner.ended.run_until_cancelled(Box::pin(beside)).await;
        });
    }

    /// Gives all sessions up that were taken before the lease was lost: they may be others' by now.
    async fn watch_lease(&self) {
        let mut lease = self.store().lease();
        while lease.changed().await.is_ok() {
            let lost = self.inner.registry.all().into_iter().filter(|session| {
                session.ownership().is_some_and(|ownership| !self.store().holds(ownership))
            });
            let lost: Vec<_> = lost.collect();
            if !lost.is_empty() || lease.borrow().is_none() {
                warn!(sessions = lost.len(), "this server has lost its lease: what it runs is stopped");
            }
            // Nobody finds them from here on. Who takes one up here again waits, so that it is not his turn that is stopped.
            let lost: Vec<_> = lost
                .into_iter()
                .map(|session| {
                    session.has_gone_elsewhere();
                    let held = self.inner.registry.give_up(&session);
                    (session, held)
                })
                .collect();
            stream::iter(lost)
                .for_each_concurrent(AT_ONCE, |(session, held)| async move {
                    session.give_up_to_another().await;
                    drop(held);
                })
                .await;
        }
    }

    async fn tell_others(&self) {
        loop {
            if self.store().is_shared() {
                self.store().announce(self.own_load());
            }
            if self.is_in_drain_file() {
                self.hand_all_over().await;
            }
            sleep(TELL).await;
        }
    }

    async fn look_after_others(&self) {
        let mut rounds = 0_u32;
        loop {
            if rounds.is_multiple_of(COPIES) {
                self.remove_copies().await;
            }
            rounds = rounds.wrapping_add(1);
            if self.is_elected() {
                self.look_for_left_turns().await;
            }
            self.give_away().await;
            sleep(UPKEEP).await;
        }
    }

    /// Closes, or runs, the turns that dead servers have left.
    async fn look_for_left_turns(&self) {
        let mut after = Uid(0);
        loop {
            let left = match self.store().left_sessions(after, PAGE).await {
                Ok(left) => left,
                Err(error) => return debug!(%error, "it is not known which turns are left"),
            };
            let Some((last, ..)) = left.last() else { return };
            after = *last;
            for (_, tenant, id) in left {
                self.take_what_was_left(&tenant, &id).await;
            }
        }
    }

    async fn take_what_was_left(&self, tenant: &str, id: &str) {
        let Ok(id) = SessionId::parse(id) else { return };
        let key = SessionKey::new(Tenant::named(tenant), id);
        if let Err(error) = self.known(&key, Credentials::default()).await {
            debug!(session = %key.id(), %error, "a session with turns that were left is not taken");
        }
    }

    /// Lets some sessions go in which nothing happens, if this server has more than its share.
    async fn give_away(&self) {
        let excess = usize::try_from(self.excess(self.own_load().sessions)).unwrap_or_default();
        if excess == 0 {
            return;
        }
        let mut idle: Vec<_> = self.inner.registry.all().into_iter().map(|it| (it.rest(), it)).collect();
        idle.retain(|(rest, _)| !rest.busy && rest.silent >= IDLE * self.store().lease_term());
        idle.sort_by_key(|(rest, _)| std::cmp::Reverse(rest.silent));
        let mut given = 0;
        for (_, session) in idle.into_iter().take(excess.min(GIVEN_AWAY)) {
            given += usize::from(matches!(self.hand_over(&session, false).await, Ok(true)));
        }
        if given > 0 {
            info!(given, excess, "this server had more than its share of the sessions");
        }
    }

    /// Removes the folders on this disk of sessions that have gone to another, or are deleted.
    async fn remove_copies(&self) {
        let copies = match self.store().copies(&self.inner.means.disk, PAGE).await {
            Ok(copies) => copies,
            Err(error) => return debug!(%error, "it is not known which folders are to be removed"),
        };
        for copy in copies {
            if let Err(error) = self.remove_copy(&copy).await {
                warn!(home = copy.home, %error, "the folder of a session that has gone could not be removed");
            }
        }
    }

    async fn remove_copy(&self, copy: &store::Copy) -> Result<(), Error> {
        let record = self.store().find_by_cli_id(&copy.cli_id).await?;
        let key = record.and_then(|record| SessionKey::of_record(&record));
        let _one = match &key {
            Some(key) => Some(self.inner.takes.pass(key).await),
            None => None,
        };
        let is_used = self.inner.registry.has_cli_id(&copy.cli_id);
        let facts = self.store().find_by_cli_id(&copy.cli_id).await?.map(|record| record.facts);
        let is_here = facts.is_some_and(|it| it.home_disk == copy.disk && it.home == copy.home);
        if is_used && !is_here {
            // It may be on its way back.
            return Ok(());
        }
        if !is_here {
            self.inner.means.remove_folder_of(copy).await?;
        }
        Ok(self.store().forget_copy(copy).await?)
    }
}
